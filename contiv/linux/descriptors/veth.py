"""Veth pairs for the scheduler: key ``linux/veth/<name>``, metadata the index of the near end.

Next: ``contiv.linux.veths``. What cannot be changed in place (names, namespace, MACs) makes the pair anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from contiv.linux import links, veths
from contiv.linux.errors import NamespaceMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import OWN, Workers
from contiv.model.linux import VETH_PREFIX, Veth
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor


class VethDescriptor(Descriptor[Veth, int]):
    """Makes and removes veth pairs; see ``contiv.scheduler.descriptor.Descriptor`` for the contract."""

    name = "linux/veth"
    prefix = VETH_PREFIX

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def dependencies(self, key: str, value: Veth) -> Iterable[Dependency]:
        """What the renderer says must be there first."""
        return tuple(Dependency(required, required) for required in value.requires)

    def claims(self, key: str, value: Veth) -> Iterable[str]:
        """Both names, each in its namespace: a pair waits until another that holds one of them has gone."""
        return (f"link {value.name}", f"link {value.peer} in {value.peer_netns}")

    def retriable(self, key: str, error: BaseException) -> bool:
        """A pod's namespace that has gone does not come back."""
        return not isinstance(error, NamespaceMissing)

    def must_recreate(self, key: str, old: Veth, new: Veth) -> bool:
        """All but MTU and offloads is fixed at birth."""
        return _at_birth(old) != _at_birth(new)

    def equivalent(self, key: str, old: Veth, new: Veth) -> bool:
        """Dependencies order the work; they are no property of the pair."""
        return msgspec.structs.replace(old, requires=()) == msgspec.structs.replace(new, requires=())

    async def create(self, key: str, value: Veth) -> int:
        """Make the pair; ``KernelRefusal`` or ``NamespaceMissing`` when it cannot be."""
        return await self._workers.inside(OWN, lambda: veths.create(key, value))

    async def update(self, key: str, old: Veth, new: Veth, metadata: int) -> int:
        """Change MTU and offloads, MTU of the far end included."""
        await self._workers.inside(OWN, lambda: veths.change(new, metadata, old=old))
        if new.mtu != old.mtu:
            await self._workers.inside(new.peer_netns, lambda: veths.change_far_end(new))
        return metadata

    async def delete(self, key: str, value: Veth, metadata: int) -> None:
        """Remove the pair; gone already is fine."""
        await self._workers.inside(OWN, lambda: veths.remove(key, value))

    async def retrieve(self, wanted: Mapping[str, Veth]) -> Iterable[Actual[Veth, int]]:
        """Every pair of ours in the own namespace. One whose far end is not as wanted is given with none."""
        near = await self._workers.inside(OWN, lambda: _near_ends(wanted))
        return await asyncio.gather(*(self._with_far_end(*end, wanted) for end in near))

    async def _with_far_end(self, key: str, actual: Veth, index: int, wanted: Mapping[str, Veth]) -> Actual[Veth, int]:
        if key in wanted and actual.peer and not await self._fits(wanted[key], index):
            actual = msgspec.structs.replace(actual, peer="")
        return Actual(key, actual, index)

    async def _fits(self, veth: Veth, index: int) -> bool:
        try:
            return await self._workers.inside(veth.peer_netns, lambda: veths.far_end_fits(veth, index))
        except NamespaceMissing:
            return False


def _near_ends(wanted: Mapping[str, Veth]) -> list[tuple[str, Veth, int]]:
    with Conversation() as conversation:
        found = links.every(conversation)
    return [
        (key, veths.read(link, wanted.get(key)), link.index)
        for link in found
        for key in link.owners
        if key.startswith(VETH_PREFIX)
    ]


def _at_birth(veth: Veth) -> Veth:
    return msgspec.structs.replace(veth, mtu=0, offloads=(), requires=())
