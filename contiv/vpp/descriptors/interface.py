"""Interfaces of every kind under one kind of key, so that what stands on an interface need not know its kind.

The kinds (``af_packet``, ``af_xdp``, ``tap``, ``loopback``, ``vxlan``, ``dpdk``, ``virtio``) are beside this file: each
knows the messages that create, delete and dump it. Here is what they share: the tag that marks an interface as ours,
the MTU, the index of names.
An untagged interface that is exactly what is wanted was made by an agent that died before it could tag it: adopted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import msgspec

from contiv.errors import VppError
from contiv.model import vpp as model
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors import af_packet, af_xdp, dpdk, loopback, tap, virtio, vxlan
from contiv.vpp.descriptors.base import NO_INDEX, OWNER, Api, Interfaces, owned, use_interrupts

Metadata = int
"""An interface's metadata is its ``sw_if_index``."""

AT_ONCE_MAX: Final = 16
"""Interfaces made or deleted at once: VPP takes up to 100 ms for each, one by one, and requests in line time out."""

Hurry = Callable[[], AbstractContextManager[None]]
"""Around each wait for interfaces that are slow to make: whoever can make them quicker does so meanwhile."""

KINDS: Final[Mapping[type, Any]] = {
    model.AfPacket: af_packet,
    model.AfXdp: af_xdp,
    model.Tap: tap,
    model.Loopback: loopback,
    model.VxlanTunnel: vxlan,
    model.Dpdk: dpdk,
    model.VirtioPci: virtio,
}


class InterfaceDescriptor(Descriptor[model.Interface, Metadata]):
    """``vpp/interface/<name>``: create, tag, set the MTU."""

    name = "vpp/interface"
    prefix = model.INTERFACE

    def __init__(self, api: Api, interfaces: Interfaces, hurry: Hurry = nullcontext) -> None:
        self._api = api
        self._interfaces = interfaces
        self._hurry = hurry
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    def dependencies(self, key: str, value: model.Interface) -> Iterable[Dependency]:
        return tuple(Dependency("link", required) for required in value.requires)

    def claims(self, key: str, value: model.Interface) -> Iterable[str]:
        claims: tuple[str, ...] = KINDS[type(value)].claims(value)
        return claims

    def equivalent(self, key: str, old: model.Interface, new: model.Interface) -> bool:
        return _bare(old) == _bare(new)

    def must_recreate(self, key: str, old: model.Interface, new: model.Interface) -> bool:
        return type(old) is not type(new) or _bare(old, mtu=0) != _bare(new, mtu=0)

    async def create(self, key: str, value: model.Interface) -> Metadata:
        kind = KINDS[type(value)]
        async with self._room:
            with self._waiting(value):
                index: int = await kind.create(self._api, value)
        try:
            await asyncio.gather(self._set_mtu(index, value), self._make_ours(index, value))
        except VppError:
            await kind.delete(self._api, value, index)
            raise
        self._interfaces.put(value.name, index)
        return index

    async def update(self, key: str, old: model.Interface, new: model.Interface, metadata: Metadata) -> Metadata:
        await self._set_mtu(metadata, new)
        return metadata

    async def delete(self, key: str, value: model.Interface, metadata: Metadata) -> None:
        async with self._room:
            with self._waiting(value):
                await KINDS[type(value)].delete(self._api, value, metadata)
        self._interfaces.drop(value.name)

    async def retrieve(self, wanted: Mapping[str, model.Interface]) -> Iterable[Actual[model.Interface, Metadata]]:
        async with asyncio.TaskGroup() as group:
            common = group.create_task(
                self._api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
            )
            kinds = [group.create_task(kind.dump(self._api)) for kind in KINDS.values()]
        details = {entry.sw_if_index: entry for entry in common.result()}
        by_signature = {_signature(value): value for value in wanted.values()}
        found: dict[str, Actual[model.Interface, Metadata]] = {}
        adopted: list[tuple[int, model.Interface]] = []
        for index, bare in (pair for task in kinds for pair in task.result().items()):
            if index not in details:
                continue
            actual = _complete(bare, details[index], wanted)
            name = owned(details[index].tag)
            if name is None:
                twin = by_signature.get(_signature(actual))
                if twin is None:
                    continue
                name = twin.name
                adopted.append((index, twin))
            actual = _fill(actual, name, wanted.get(model.interface_key(name)))
            key = model.interface_key(name)
            found[key] = Actual(key=key, value=actual, metadata=index)
        for index, twin in adopted:
            await self._make_ours(index, twin)
        self._interfaces.replace({actual.value.name: actual.metadata for actual in found.values()})
        return found.values()

    def _waiting(self, value: model.Interface) -> AbstractContextManager[None]:
        """The kernel makes only the rings of af_packet slowly."""
        return self._hurry() if isinstance(value, model.AfPacket) else nullcontext()

    async def _make_ours(self, index: int, value: model.Interface) -> None:
        """Tag the interface. The tag is sent last: what has it lacks nothing that no dump would show."""
        settings = [use_interrupts(self._api, index)] if isinstance(value, model.Tap | model.AfXdp) else []
        tagged = self._api.call("sw_interface_tag_add_del", is_add=True, sw_if_index=index, tag=OWNER + value.name)
        await asyncio.gather(*settings, tagged)

    async def _set_mtu(self, index: int, value: model.Interface) -> None:
        if not isinstance(value, model.VxlanTunnel):
            await self._api.call("sw_interface_set_mtu", sw_if_index=index, mtu=[value.mtu, 0, 0, 0])


def _bare(value: model.Interface, **fixed: Any) -> model.Interface:
    """The value without what VPP does not hold, for comparison."""
    if isinstance(value, model.VxlanTunnel):
        fixed.pop("mtu", None)
    return msgspec.structs.replace(value, requires=(), **fixed)


def _complete(bare: model.Interface, details: Any, wanted: Mapping[str, model.Interface]) -> model.Interface:
    """Add what ``sw_interface_details`` tells of any kind: MAC and MTU."""
    if isinstance(bare, model.VxlanTunnel):
        return bare
    if isinstance(bare, model.Dpdk | model.VirtioPci):
        return msgspec.structs.replace(bare, mtu=details.mtu[0])
    return msgspec.structs.replace(bare, mac=str(details.l2_address), mtu=details.mtu[0])


def _fill(actual: model.Interface, name: str, twin: model.Interface | None) -> model.Interface:
    """Add the logical name, and from the wanted value what VPP's dumps do not tell."""
    actual = msgspec.structs.replace(actual, name=name)
    if twin is None or type(twin) is not type(actual):
        return actual
    actual = msgspec.structs.replace(actual, requires=twin.requires)
    if isinstance(twin, model.AfPacket) and isinstance(actual, model.AfPacket):
        return msgspec.structs.replace(actual, **{name: getattr(twin, name) for name in af_packet.NOT_DUMPED})
    return actual


def _signature(value: model.Interface) -> tuple[object, ...]:
    """What identifies an interface of a kind without its name: two of them cannot exist in one VPP."""
    if isinstance(value, model.Tap):
        return (model.Tap, *tap.signature(value))
    return (type(value), *KINDS[type(value)].claims(value))
