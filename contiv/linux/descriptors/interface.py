"""Configured links for the scheduler: key ``linux/interface/<logical>``, metadata the link's index.

Next: ``contiv.linux.interfaces``. A namespace that is gone took its links along: removal succeeds, retrieval
finds nothing. In the own namespace links that carry our mark but are no longer wanted are found as well; in a
pod's namespace they end with the pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from contiv.linux import interfaces, links
from contiv.linux.errors import NamespaceMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import OWN, Workers
from contiv.model.linux import INTERFACE_PREFIX, Interface
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor


class InterfaceDescriptor(Descriptor[Interface, int]):
    """Configures links; see ``contiv.scheduler.descriptor.Descriptor`` for the contract."""

    name = "linux/interface"
    prefix = INTERFACE_PREFIX

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def dependencies(self, key: str, value: Interface) -> Iterable[Dependency]:
        """What the renderer says must be there first: the veth, VPP's interface."""
        return (
            *(Dependency(required, required) for required in value.requires),
            *(Dependency(earlier, earlier, lasting=False) for earlier in value.after),
        )

    def claims(self, key: str, value: Interface) -> Iterable[str]:
        """The link's configuration: one owner at a time."""
        return (f"configuration of link {value.name} in {value.netns}",)

    def retriable(self, key: str, error: BaseException) -> bool:
        """A pod's namespace that has gone does not come back."""
        return not isinstance(error, NamespaceMissing)

    def must_recreate(self, key: str, old: Interface, new: Interface) -> bool:
        """Another link or another namespace is another object."""
        return (old.name, old.netns) != (new.name, new.netns)

    def equivalent(self, key: str, old: Interface, new: Interface) -> bool:
        """Dependencies order the work; they are no property of the link."""
        return _without_order(old) == _without_order(new)

    async def create(self, key: str, value: Interface) -> int:
        """Configure the link; ``LinkMissing``, ``NamespaceMissing`` or ``KernelRefusal`` if it cannot be."""
        return await self._workers.inside(value.netns, lambda: interfaces.configure(key, value))

    async def update(self, key: str, old: Interface, new: Interface, metadata: int) -> int:
        """Apply the difference."""
        return await self._workers.inside(new.netns, lambda: interfaces.reconfigure(key, new, old=old))

    async def delete(self, key: str, value: Interface, metadata: int) -> None:
        """Remove what was configured; a link or namespace that is gone is fine.

        A link that goes as well is left as it is: to set it down takes 15 ms of waiting for RCU, and its removal again.
        """
        if value.ends_with_link:
            return
        try:
            await self._workers.inside(value.netns, lambda: interfaces.unconfigure(key, value))
        except NamespaceMissing:
            return

    async def retrieve(self, wanted: Mapping[str, Interface]) -> Iterable[Actual[Interface, int]]:
        """The wanted ones as the kernel holds them, and ours in the own namespace that nobody wants."""
        known = await asyncio.gather(*(self._read(key, value) for key, value in wanted.items()))
        strays = await self._workers.inside(OWN, lambda: _strays(wanted))
        return [actual for actual in [*known, *strays] if actual is not None]

    async def _read(self, key: str, value: Interface) -> Actual[Interface, int] | None:
        try:
            found = await self._workers.inside(value.netns, lambda: interfaces.read(key, value))
        except NamespaceMissing:
            return None
        return None if found is None else Actual(key, *found)


def _strays(wanted: Mapping[str, Interface]) -> list[Actual[Interface, int]]:
    with Conversation() as conversation:
        found = links.every(conversation)
    strays = []
    for link in found:
        for key in link.owners:
            if key.startswith(INTERFACE_PREFIX) and key not in wanted:
                bare = Interface(key.removeprefix(INTERFACE_PREFIX), link.name)
                known = interfaces.read(key, bare)
                if known is not None:
                    strays.append(Actual(key, *known))
    return strays


def _without_order(value: Interface) -> Interface:
    return msgspec.structs.replace(value, requires=(), after=())
