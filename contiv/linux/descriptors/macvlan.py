"""Macvlans in pods for the scheduler: key ``linux/macvlan/<parent>``, metadata the link's index in its namespace.

Made in one request, already inside the pod: a link that exists takes the kernel some 15 ms to move between namespaces
(it waits for RCU), a birth there under one. One whose namespace is gone is gone with it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterable, Mapping

import msgspec

from contiv.linux import links, netns
from contiv.linux.errors import KernelRefusal, LinkMissing, NamespaceMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import OWN, Workers
from contiv.model.linux import MACVLAN_PREFIX, Macvlan
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor


class MacvlanDescriptor(Descriptor[Macvlan, int]):
    """Makes and removes macvlans; see ``contiv.scheduler.descriptor.Descriptor`` for the contract."""

    name = "linux/macvlan"
    prefix = MACVLAN_PREFIX

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def dependencies(self, key: str, value: Macvlan) -> Iterable[Dependency]:
        """What the renderer says must be there first: the parent."""
        return tuple(Dependency("parent", required) for required in value.requires)

    def claims(self, key: str, value: Macvlan) -> Iterable[str]:
        """The name in the namespace, and the parent."""
        return (f"link {value.name} in {value.netns}", f"parent {value.parent}")

    def retriable(self, key: str, error: BaseException) -> bool:
        """A pod's namespace that has gone does not come back."""
        return not isinstance(error, NamespaceMissing)

    def equivalent(self, key: str, old: Macvlan, new: Macvlan) -> bool:
        """Dependencies order the work; they are no property of the link."""
        return msgspec.structs.replace(old, requires=()) == msgspec.structs.replace(new, requires=())

    async def create(self, key: str, value: Macvlan) -> int:
        """Make the link in the pod and mark it as ours; a link of that name there already is refused."""
        birth = (OWN, lambda: _create(value)), (value.netns, lambda: _mark(key, value))
        try:
            return await self._workers.in_turn(*birth)
        except KernelRefusal as refusal:
            if refusal.code != errno.EEXIST or not await self._workers.inside(value.netns, lambda: _cleared(value)):
                raise
        return await self._workers.in_turn(*birth)

    async def delete(self, key: str, value: Macvlan, metadata: int) -> None:
        """Remove the link; it, or its namespace, gone already is fine."""
        try:
            await self._workers.inside(value.netns, lambda: _remove(key, value))
        except NamespaceMissing:
            return

    async def retrieve(self, wanted: Mapping[str, Macvlan]) -> Iterable[Actual[Macvlan, int]]:
        """The wanted ones that stand in their pods. Others end with their pods."""
        found = await asyncio.gather(*(self._read(key, value) for key, value in wanted.items()))
        return [actual for actual in found if actual is not None]

    async def _read(self, key: str, value: Macvlan) -> Actual[Macvlan, int] | None:
        parent = await self._workers.inside(OWN, lambda: _find(value.parent))
        try:
            link = await self._workers.inside(value.netns, lambda: _find(value.name))
        except NamespaceMissing:
            return None
        if link is None or parent is None or not link.owned_by(key):
            return None
        name = value.parent if link.parent == parent.index else ""
        return Actual(key, msgspec.structs.replace(value, parent=name, mtu=link.mtu), link.index)


def _find(name: str) -> links.Link | None:
    with Conversation() as conversation:
        return links.find(conversation, name)


def _mark(key: str, value: Macvlan) -> int:
    """In the pod: name the owner in the alias, which a birth does not take; the link's index."""
    index = _index(value.name, value.netns)
    with Conversation() as conversation:
        conversation.run([links.set_alias(index, links.with_owner("", key), name=value.name)])
    return index


def _index(name: str, netns: str) -> int:
    """By one system call: an ADD waits for it."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise LinkMissing(name, netns) from None


def _create(value: Macvlan) -> None:
    target = netns.open_namespace(value.netns)
    try:
        parent = _index(value.parent, OWN)
        with Conversation() as conversation:
            conversation.run([links.create_macvlan(value.name, parent, netns=target, mtu=value.mtu)])
    except KernelRefusal as refusal:
        raise KernelRefusal(
            f"macvlan {value.name} in {value.netns} on {value.parent}", "creation", refusal.code
        ) from refusal
    finally:
        os.close(target)


def _cleared(value: Macvlan) -> bool:
    """In the pod: whether a link of that name was ours and never marked, so that nobody misses it. It is gone then."""
    with Conversation() as conversation:
        link = links.find(conversation, value.name)
        if link is None or not link.unfinished:
            return False
        conversation.run([links.remove(link.index, name=value.name)])
    return True


def _remove(key: str, value: Macvlan) -> None:
    with Conversation() as conversation:
        link = links.find(conversation, value.name)
        if link is not None and link.owned_by(key):
            conversation.run([links.remove(link.index, name=value.name)])
