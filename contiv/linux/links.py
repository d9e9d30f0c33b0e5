"""Links: veth pairs, bridges, their names, states and owners. Requests for ``netlink.Conversation`` and
decoding.

A link of ours says so in its alias: ``contiv:<key>``, one word for each owner, so that a resync finds what an
earlier process made. Words of others in the alias stay. The kernel takes no alias at a birth, but a group: a link of
our group that names no owner was made by a process that ended before it could say so.
"""

from __future__ import annotations

import errno
from typing import Any, Final

import msgspec
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from contiv.linux.netlink import CREATE, EXCL, Conversation, Request, gone

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19  # linux/rtnetlink.h
IFF_UP: Final = 1
OWNER: Final = "contiv:"
GROUP: Final = int.from_bytes(b"cont", "big")
"""The group that links of ours are born in (ip-link(8)); it means nothing to the kernel."""
LOOPBACK: Final = 1
"""The index of ``lo`` in every namespace (net/core/dev.c gives it the first)."""


class Link(msgspec.Struct, frozen=True):
    """A link as the kernel has it. ``peer`` is the index of a veth's other end, ``parent`` that of what a macvlan
    stands on, 0 for other kinds; both count in the namespace where that link is."""

    index: int
    name: str
    up: bool
    mtu: int
    mac: str = ""
    kind: str = ""
    alias: str = ""
    peer: int = 0
    parent: int = 0
    master: int = 0
    group: int = 0

    def owned_by(self, key: str) -> bool:
        """Whether the alias names ``key``."""
        return OWNER + key in self.alias.split()

    @property
    def unfinished(self) -> bool:
        """Whether it is ours, and whoever made it never came to naming the owner."""
        return self.group == GROUP and not self.owners

    @property
    def owners(self) -> tuple[str, ...]:
        """The keys that the alias names."""
        return tuple(word.removeprefix(OWNER) for word in self.alias.split() if word.startswith(OWNER))


def find(conversation: Conversation, name: str) -> Link | None:
    """The link called ``name``, or None."""
    message = _message(("IFLA_IFNAME", name))
    request = Request(RTM_GETLINK, 0, message, f"link {name}", "name", frozenset({errno.ENODEV}))
    answer = conversation.get(request)
    return None if answer is None else _link(answer)


def every(conversation: Conversation) -> list[Link]:
    """All links of the namespace."""
    return [_link(answer) for answer in conversation.dump(Request(RTM_GETLINK, 0, ifinfmsg(), "links", "dump"))]


def create_veth(
    name: str,
    peer: str,
    *,
    peer_netns: int | None = None,
    mac: str | None = None,
    peer_mac: str | None = None,
    mtu: int,
) -> Request:
    """A veth pair in one request; the peer is born in the namespace of the descriptor ``peer_netns``."""
    other: list[tuple[str, Any]] = [("IFLA_IFNAME", peer), ("IFLA_MTU", mtu)]
    if peer_mac is not None:
        other.append(("IFLA_ADDRESS", peer_mac))
    if peer_netns is not None:
        other.append(("IFLA_NET_NS_FD", peer_netns))
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": other})]}
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_GROUP", GROUP)]
    if mac is not None:
        attributes.append(("IFLA_ADDRESS", mac))
    attributes.append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}))
    return Request(RTM_NEWLINK, CREATE | EXCL, _message(*attributes), f"veth {name} to {peer}", "creation")


def create_macvlan(name: str, parent: int, *, netns: int, mtu: int) -> Request:
    """A macvlan in passthru mode, born in the namespace of the descriptor ``netns``; it has the MAC of its parent.

    A parent carries one of them at most: the kernel refuses a second (drivers/net/macvlan.c).
    """
    data = {"attrs": [("IFLA_MACVLAN_MODE", "passthru")]}
    message = _message(
        ("IFLA_IFNAME", name),
        ("IFLA_LINK", parent),
        ("IFLA_NET_NS_FD", netns),
        ("IFLA_MTU", mtu),
        ("IFLA_GROUP", GROUP),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "macvlan"), ("IFLA_INFO_DATA", data)]}),
    )
    return Request(RTM_NEWLINK, CREATE | EXCL, message, f"macvlan {name}", "creation")


def create_bridge(name: str, *, mtu: int) -> Request:
    """A Linux bridge; it forwards as soon as it and its ports are up (no spanning tree)."""
    message = _message(
        ("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]})
    )
    return Request(RTM_NEWLINK, CREATE | EXCL, message, f"bridge {name}", "creation", frozenset({errno.EEXIST}))


def set_up(index: int, up: bool, *, name: str) -> Request:
    """The administrative state."""
    message = _message(index=index)
    message["flags"] = IFF_UP if up else 0
    message["change"] = IFF_UP
    return Request(RTM_SETLINK, 0, message, f"link {name}", "state up" if up else "state down")


def set_mtu(index: int, mtu: int, *, name: str) -> Request:
    """The MTU in bytes, without the Ethernet header."""
    return Request(RTM_SETLINK, 0, _message(("IFLA_MTU", mtu), index=index), f"link {name}", f"mtu {mtu}")


def set_mac(index: int, mac: str, *, name: str) -> Request:
    """The Ethernet address."""
    return Request(RTM_SETLINK, 0, _message(("IFLA_ADDRESS", mac), index=index), f"link {name}", f"mac {mac}")


def set_alias(index: int, alias: str, *, name: str) -> Request:
    """The alias; at most 255 bytes (linux/if.h, IFALIASZ)."""
    return Request(RTM_SETLINK, 0, _message(("IFLA_IFALIAS", alias), index=index), f"link {name}", "alias")


def set_master(index: int, master: int, *, name: str) -> Request:
    """Make the link a port of the bridge with index ``master``."""
    return Request(RTM_SETLINK, 0, _message(("IFLA_MASTER", master), index=index), f"link {name}", "master")


def move(index: int, target: int, *, name: str, new_name: str = "") -> Request:
    """Move the link into the namespace of the descriptor ``target``; it arrives down and bare.

    ``new_name`` renames it on the way, so that a name taken here or there is never in between.
    """
    message = _message(("IFLA_NET_NS_FD", target), ("IFLA_IFNAME", new_name or name), index=index)
    return Request(RTM_SETLINK, 0, message, f"link {name}", "namespace")


def remove(index: int, *, name: str) -> Request:
    """Remove the link, and with a veth its other end; one that is gone is fine."""
    return Request(RTM_DELLINK, 0, _message(index=index), f"link {name}", "removal", gone())


def with_owner(alias: str, key: str) -> str:
    """``alias`` with the word for the owner ``key``."""
    words = alias.split()
    return " ".join([*words, OWNER + key] if OWNER + key not in words else words)


def without_owner(alias: str, key: str) -> str:
    """``alias`` without the word for the owner ``key``."""
    return " ".join(word for word in alias.split() if word != OWNER + key)


def _message(*attributes: tuple[str, Any], index: int = 0) -> Any:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = list(attributes)
    return message


def _link(answer: Any) -> Link:
    info = answer.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info is not None else None) or ""
    return Link(
        index=answer["index"],
        name=answer.get_attr("IFLA_IFNAME"),
        up=bool(answer["flags"] & IFF_UP),
        mtu=answer.get_attr("IFLA_MTU"),
        mac=answer.get_attr("IFLA_ADDRESS") or "",
        kind=kind,
        alias=answer.get_attr("IFLA_IFALIAS") or "",
        peer=(answer.get_attr("IFLA_LINK") or 0) if kind == "veth" else 0,
        parent=(answer.get_attr("IFLA_LINK") or 0) if kind == "macvlan" else 0,
        master=answer.get_attr("IFLA_MASTER") or 0,
        group=answer.get_attr("IFLA_GROUP") or 0,
    )
