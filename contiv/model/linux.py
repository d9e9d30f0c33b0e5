"""What the agent wants of the Linux kernel: veth pairs and configured interfaces, as frozen values with keys.

In: renderers build them. Out: ``contiv.linux.descriptors`` makes the kernel agree. Pure nouns; equality is
what the scheduler's diff uses, so a renderer always gives a tuple's elements in the same order. A namespace is named by
its path (``/var/run/netns/x``, ``/proc/PID/ns/net``);
``""`` is the agent's own.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from contiv.model.ip import Address, Network

VETH_PREFIX: Final = "linux/veth/"
MACVLAN_PREFIX: Final = "linux/macvlan/"
INTERFACE_PREFIX: Final = "linux/interface/"

Offloads = tuple[tuple[str, bool], ...]
"""Offload name (``tx-checksum``, ``tso``, ``gso``, ``gro``, ``rx-checksum``, ``sg``) and whether it is on."""


class Route(msgspec.Struct, frozen=True, order=True, gc=False):
    """A unicast route of the main table. ``scope`` "auto" is "link" without a gateway, else "global".

    ``metric`` 0 is the kernel's default; ``mtu`` locks nothing, it
    caps.
    """

    destination: Network
    gateway: Address | None = None
    source: Address | None = None
    scope: Literal["auto", "global", "link"] = "auto"
    metric: int = 0
    mtu: int | None = None
    onlink: bool = False


class Neighbour(msgspec.Struct, frozen=True, order=True, gc=False):
    """A permanent ARP or ND entry; ``mac`` in lower case with colons."""

    address: Address
    mac: str


class Veth(msgspec.Struct, frozen=True):
    """A veth pair: ``name`` in the agent's own namespace, down and without IPv6; ``peer`` where the pod
    lives.

    ``mac`` and ``peer_mac`` None leave the choice to the kernel. ``offloads`` are those of ``name``.
    """

    name: str
    peer: str
    peer_netns: str = ""
    peer_mac: str | None = None
    mac: str | None = None
    mtu: int = 1500
    offloads: Offloads = ()
    requires: tuple[str, ...] = ()


class Macvlan(msgspec.Struct, frozen=True):
    """A link in the pod's namespace on top of ``parent``, a link in the agent's own: it sends and receives all of the
    parent's frames and has its MAC (macvlan in passthru mode). A parent carries one at most."""

    parent: str
    name: str
    netns: str
    mtu: int
    requires: tuple[str, ...] = ()


class Interface(msgspec.Struct, frozen=True):
    """The configuration of a link that exists, or that something in ``requires`` makes.

    ``after`` has to be there before it is configured, and may go while the configuration stays.
    ``addresses`` carry their prefix length and host bits. ``ipv6`` off switches IPv6 off on the link. ``mac``
    and ``mtu`` None leave what the link has. In a namespace that is not the agent's own, ``lo`` is brought up
    too. ``ends_with_link``: the link goes together with this configuration, so nothing is taken off it before.
    ``merge_within_ns`` is how long, in nanoseconds, a received TCP segment may wait for its successors to be
    merged with them (the link's gro_flush_timeout); None leaves what the link has. ``deaf``: what the link receives
    is not for the host's own IPv4 stack, which neither answers nor forwards it; off leaves what the link has.
    """

    logical: str
    name: str
    netns: str = ""
    up: bool = True
    mac: str | None = None
    mtu: int | None = None
    addresses: tuple[Network, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    offloads: Offloads = ()
    ipv6: bool = False
    merge_within_ns: int | None = None
    deaf: bool = False
    ends_with_link: bool = False
    requires: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def veth_key(name: str) -> str:
    """Key of the veth pair whose end in the agent's own namespace is ``name``."""
    return f"{VETH_PREFIX}{name}"


def macvlan_key(parent: str) -> str:
    """Key of the macvlan on top of ``parent``."""
    return f"{MACVLAN_PREFIX}{parent}"


def interface_key(logical: str) -> str:
    """Key of the configured interface ``logical``."""
    return f"{INTERFACE_PREFIX}{logical}"
