"""What stands on one interface at layer 3: admin state, addresses, a loan of addresses, the table it belongs to.

Messages of VPP's ``vnet/interface.api`` and ``vnet/ip/ip.api``. Each descriptor reads back only our interfaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from contiv.model import vpp as model
from contiv.model.ip import Network
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, Api, Interfaces, from_interface, remove
from contiv.vpp.descriptors.lease import Lease, leases

ADMIN_UP_FLAG: Final = 1


INTERFACE_DESCRIPTOR: Final = ("vpp/interface",)


def on_interface(name: str) -> Dependency:
    """The dependency of whatever stands on an interface."""
    return Dependency("interface", model.interface_key(name))


class AdminUpDescriptor(Descriptor[model.AdminUp, None]):
    """``vpp/admin-up/<interface>``: the interface is up while the key exists."""

    name = "vpp/admin-up"
    prefix = model.ADMIN_UP
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.AdminUp) -> Iterable[Dependency]:
        return (on_interface(value.interface), *(Dependency("ready", key) for key in value.requires))

    def equivalent(self, key: str, old: model.AdminUp, new: model.AdminUp) -> bool:
        return True

    async def create(self, key: str, value: model.AdminUp) -> None:
        await self._api.call(
            "sw_interface_set_flags", sw_if_index=self._interfaces.index(value.interface), flags=ADMIN_UP_FLAG
        )

    async def update(self, key: str, old: model.AdminUp, new: model.AdminUp, metadata: None) -> None:
        """It waits for something else from now on, and is up."""

    async def delete(self, key: str, value: model.AdminUp, metadata: None) -> None:
        await remove(self._api, "sw_interface_set_flags", sw_if_index=self._interfaces.index(value.interface), flags=0)

    async def retrieve(self, wanted: Mapping[str, model.AdminUp]) -> Iterable[Actual[model.AdminUp, None]]:
        details = await self._api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
        up = (self._interfaces.name(entry.sw_if_index) for entry in details if int(entry.flags) & ADMIN_UP_FLAG)
        keys = {model.admin_up_key(name): name for name in up if name is not None}
        return [
            Actual(key=key, value=wanted.get(key, model.AdminUp(interface=name)), metadata=None)
            for key, name in keys.items()
        ]


class AddressDescriptor(Descriptor[model.InterfaceAddress, None]):
    """``vpp/address/<interface>/<address>``."""

    name = "vpp/address"
    prefix = model.ADDRESS
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.InterfaceAddress) -> Iterable[Dependency]:
        return (on_interface(value.interface),)

    def claims(self, key: str, value: model.InterfaceAddress) -> Iterable[str]:
        return (f"address:{value.address.address}",)

    async def create(self, key: str, value: model.InterfaceAddress) -> None:
        await self._api.call(
            "sw_interface_add_del_address",
            sw_if_index=self._interfaces.index(value.interface),
            is_add=True,
            del_all=False,
            prefix=str(value.address),
        )

    async def delete(self, key: str, value: model.InterfaceAddress, metadata: None) -> None:
        await remove(
            self._api,
            "sw_interface_add_del_address",
            sw_if_index=self._interfaces.index(value.interface),
            is_add=False,
            del_all=False,
            prefix=str(value.address),
        )

    async def retrieve(
        self, wanted: Mapping[str, model.InterfaceAddress]
    ) -> Iterable[Actual[model.InterfaceAddress, None]]:
        ours = self._interfaces.items()
        async with asyncio.TaskGroup() as group:
            dumps = [
                (name, group.create_task(self._api.dump("ip_address", sw_if_index=index, is_ipv6=is_ipv6)))
                for name, index in ours
                for is_ipv6 in (False, True)
            ]
        leased = await leases(self._api)
        values = [
            model.InterfaceAddress(interface=name, address=address)
            for name, task in dumps
            for entry in task.result()
            if not _is_leased(leased.get(self._interfaces.index(name)), address := from_interface(entry.prefix))
        ]
        return [Actual(key=model.key_of(value), value=value, metadata=None) for value in values]


def _is_leased(lease: Lease | None, address: Network) -> bool:
    """Whether the interface's DHCP client put the address there, and will take it away."""
    return lease is not None and lease.address == address


class UnnumberedDescriptor(Descriptor[model.Unnumbered, None]):
    """``vpp/unnumbered/<interface>``: the interface borrows the lender's addresses."""

    name = "vpp/unnumbered"
    prefix = model.UNNUMBERED
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.Unnumbered) -> Iterable[Dependency]:
        return (on_interface(value.interface), Dependency("lender", model.interface_key(value.lender)))

    async def create(self, key: str, value: model.Unnumbered) -> None:
        await self._api.call("sw_interface_set_unnumbered", is_add=True, **self._fields(value))

    async def delete(self, key: str, value: model.Unnumbered, metadata: None) -> None:
        await remove(self._api, "sw_interface_set_unnumbered", is_add=False, **self._fields(value))

    async def retrieve(self, wanted: Mapping[str, model.Unnumbered]) -> Iterable[Actual[model.Unnumbered, None]]:
        found = []
        for entry in await self._api.dump("ip_unnumbered", sw_if_index=NO_INDEX):
            name = self._interfaces.name(entry.sw_if_index)
            if name is not None:
                lender = self._interfaces.name(entry.ip_sw_if_index) or ""
                value = model.Unnumbered(interface=name, lender=lender)
                found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found

    def _fields(self, value: model.Unnumbered) -> dict[str, int]:
        return {
            "sw_if_index": self._interfaces.index(value.lender),
            "unnumbered_sw_if_index": self._interfaces.index(value.interface),
        }


class InterfaceVrfDescriptor(Descriptor[model.InterfaceVrf, None]):
    """``vpp/interface-vrf/<interface>/ip<version>``: the table of an interface, other than the main one."""

    name = "vpp/interface-vrf"
    prefix = model.INTERFACE_VRF
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.InterfaceVrf) -> Iterable[Dependency]:
        return (
            on_interface(value.interface),
            Dependency("vrf", model.vrf_key(value.table_id, value.version)),
        )

    async def create(self, key: str, value: model.InterfaceVrf) -> None:
        await self._set(value, value.table_id)

    async def delete(self, key: str, value: model.InterfaceVrf, metadata: None) -> None:
        await self._set(value, 0)

    async def retrieve(self, wanted: Mapping[str, model.InterfaceVrf]) -> Iterable[Actual[model.InterfaceVrf, None]]:
        found = []
        for name, index in self._interfaces.items():
            for version in (4, 6):
                reply = await self._api.call("sw_interface_get_table", sw_if_index=index, is_ipv6=version == 6)
                if reply.vrf_id != 0:
                    value = model.InterfaceVrf(interface=name, table_id=reply.vrf_id, version=version)
                    found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found

    async def _set(self, value: model.InterfaceVrf, table_id: int) -> None:
        await self._api.call(
            "sw_interface_set_table",
            sw_if_index=self._interfaces.index(value.interface),
            is_ipv6=value.version == 6,
            vrf_id=table_id,
        )
