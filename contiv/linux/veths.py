"""A veth pair as a whole: made, changed, removed, read back. Synchronous, on a worker thread in the own
namespace.

In: a ``Veth`` and its key. Out: the index of its near end. The pair is made in one request with its far end
already in the pod's namespace; the near end is down and without IPv6 before anybody can bring it up, since
router solicitations during the creation of many af_packet interfaces are what VPP was seen to hang on.
"""

from __future__ import annotations

import errno
import os

import msgspec

from contiv.linux import ipv6, links, netns, offloads
from contiv.linux.errors import KernelRefusal
from contiv.linux.netlink import Conversation
from contiv.model.linux import Veth


def create(key: str, veth: Veth) -> int:
    """Make the pair and mark it as ours. Ours of that name is made anew; a foreign link is refused."""
    with Conversation() as conversation:
        link = _made(conversation, key, veth)
        ipv6.set_enabled(veth.name, False)
        offloads.apply(veth.name, veth.offloads)
    return link.index


def change(veth: Veth, index: int, *, old: Veth) -> None:
    """Bring MTU and offloads of the near end from ``old`` to ``veth``."""
    with Conversation() as conversation:
        if veth.mtu != old.mtu:
            conversation.run([links.set_mtu(index, veth.mtu, name=veth.name)])
    offloads.apply(veth.name, veth.offloads)


def remove(key: str, veth: Veth) -> None:
    """Remove the pair; one that is gone, or whose name belongs to a foreign link by now, is fine."""
    with Conversation() as conversation:
        link = links.find(conversation, veth.name)
        if link is not None and link.owned_by(key):
            conversation.run([links.remove(link.index, name=veth.name)])


def change_far_end(veth: Veth) -> None:
    """In the far end's namespace: bring its MTU to ``veth``'s; a far end that is gone is fine."""
    with Conversation() as conversation:
        peer = links.find(conversation, veth.peer)
        if peer is not None:
            conversation.run([links.set_mtu(peer.index, veth.mtu, name=veth.peer)])


def read(link: links.Link, wanted: Veth | None) -> Veth:
    """What the kernel holds of our pair with the near end ``link``, apart from its far end.

    Fields that ``wanted`` leaves to the kernel are left out here as well, so that equality means "nothing to
    do".
    """
    like = wanted or Veth(link.name, "")
    actual = msgspec.structs.replace(
        like,
        name=link.name,
        mac=link.mac if like.mac is not None else None,
        mtu=link.mtu,
        offloads=offloads.read(link.name, [name for name, _ in like.offloads]),
    )
    # IPv6 is no field, for it is never wanted: a pair that got it since differs by having no far end, and is
    # made anew
    return msgspec.structs.replace(actual, peer="") if ipv6.enabled(link.name) else actual


def far_end_fits(veth: Veth, index: int) -> bool:
    """In the far end's namespace: whether that veth is the other end of ``index`` and has the MAC."""
    with Conversation() as conversation:
        peer = links.find(conversation, veth.peer)
    return peer is not None and peer.peer == index and veth.peer_mac in {None, peer.mac}


def _made(conversation: Conversation, key: str, veth: Veth) -> links.Link:
    descriptor = netns.open_namespace(veth.peer_netns) if veth.peer_netns else None
    try:
        request = links.create_veth(
            veth.name,
            veth.peer,
            peer_netns=descriptor,
            mac=veth.mac,
            peer_mac=veth.peer_mac,
            mtu=veth.mtu,
        )
        (refusal,) = conversation.attempt([request])
        if refusal is not None and refusal.code == errno.EEXIST:
            _clear(conversation, key, veth)
            conversation.run([request])
        elif refusal is not None:
            raise refusal
    finally:
        if descriptor is not None:
            os.close(descriptor)
    link = links.find(conversation, veth.name)
    if link is None:
        raise KernelRefusal(f"veth {veth.name}", "name", errno.ENODEV, detail="gone right after its creation")
    conversation.run([links.set_alias(link.index, links.with_owner("", key), name=veth.name)])
    return link


def _clear(conversation: Conversation, key: str, veth: Veth) -> None:
    """Make room for the pair: remove ours of that name, marked or not; refuse when the name is another's."""
    link = links.find(conversation, veth.name)
    if link is None:
        where = veth.peer_netns or "the own namespace"
        raise KernelRefusal(f"veth {veth.name}", f"peer {veth.peer} in {where}", errno.EEXIST)
    if not link.owned_by(key) and not link.unfinished:
        raise KernelRefusal(f"veth {veth.name}", "name", errno.EEXIST, detail="the link is not this agent's")
    conversation.run([links.remove(link.index, name=veth.name)])
