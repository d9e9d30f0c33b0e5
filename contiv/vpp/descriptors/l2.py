"""Bridge domains, their members and their static forwarding entries (VPP: src/vnet/l2/l2.api)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from contiv.model import vpp as model
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, OWNER, Api, Interfaces, remove
from contiv.vpp.descriptors.layer3 import INTERFACE_DESCRIPTOR, on_interface
from contiv.vpp.errors import VppApiError

PORT_NORMAL: Final = 0
PORT_BVI: Final = 1
ALREADY_THERE: Final = "BD_ALREADY_EXISTS"


class BridgeDomainDescriptor(Descriptor[model.BridgeDomain, None]):
    """``vpp/bridge-domain/<bd_id>``; the tag says that it is ours."""

    name = "vpp/bridge-domain"
    prefix = model.BRIDGE_DOMAIN

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    async def create(self, key: str, value: model.BridgeDomain) -> None:
        try:
            await self._api.call("bridge_domain_add_del_v2", is_add=True, **_domain(value))
        except VppApiError as error:
            if error.name != ALREADY_THERE or not await self._remove_implied(value):
                raise
            await self._api.call("bridge_domain_add_del_v2", is_add=True, **_domain(value))

    async def _remove_implied(self, value: model.BridgeDomain) -> bool:
        """Remove a domain of this number that VPP made by itself, without a tag, when an interface of ours was put
        into it: that call was meant for a VPP that had the domain, and met the next one. False: it is another's."""
        found = await self._api.dump("bridge_domain", bd_id=value.bd_id, sw_if_index=NO_INDEX)
        members = [member.sw_if_index for entry in found for member in entry.sw_if_details]
        if any(entry.bd_tag for entry in found) or any(self._interfaces.name(index) is None for index in members):
            return False
        for index in members:
            fields = {"rx_sw_if_index": index, "bd_id": value.bd_id, "port_type": PORT_NORMAL, "shg": 0}
            await remove(self._api, "sw_interface_set_l2_bridge", enable=False, **fields)
        await remove(self._api, "bridge_domain_add_del_v2", is_add=False, **_domain(value))
        return True

    async def delete(self, key: str, value: model.BridgeDomain, metadata: None) -> None:
        await remove(self._api, "bridge_domain_add_del_v2", is_add=False, **_domain(value))

    async def retrieve(self, wanted: Mapping[str, model.BridgeDomain]) -> Iterable[Actual[model.BridgeDomain, None]]:
        values = [
            model.BridgeDomain(
                bd_id=entry.bd_id,
                label=entry.bd_tag,
                flood=bool(entry.flood),
                unknown_unicast_flood=bool(entry.uu_flood),
                forward=bool(entry.forward),
                learn=bool(entry.learn),
                arp_term=bool(entry.arp_term),
            )
            for entry in await bridge_domains(self._api)
        ]
        return [Actual(key=model.key_of(value), value=value, metadata=None) for value in values]


async def bridge_domains(api: Api) -> list[Any]:
    """The details of our bridge domains."""
    details = await api.dump("bridge_domain", bd_id=NO_INDEX, sw_if_index=NO_INDEX)
    return [entry for entry in details if entry.bd_tag.startswith(OWNER)]


def _domain(value: model.BridgeDomain) -> dict[str, Any]:
    return {
        "bd_id": value.bd_id,
        "flood": value.flood,
        "uu_flood": value.unknown_unicast_flood,
        "forward": value.forward,
        "learn": value.learn,
        "arp_term": value.arp_term,
        "arp_ufwd": False,
        "mac_age": 0,
        "bd_tag": value.label,
    }


class BridgeMemberDescriptor(Descriptor[model.BridgeMember, None]):
    """``vpp/bridge-member/<interface>``."""

    name = "vpp/bridge-member"
    prefix = model.BRIDGE_MEMBER
    retrieve_after = (*INTERFACE_DESCRIPTOR, "vpp/bridge-domain")

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.BridgeMember) -> Iterable[Dependency]:
        return (
            on_interface(value.interface),
            Dependency("bridge domain", model.bridge_domain_key(value.bd_id)),
        )

    async def create(self, key: str, value: model.BridgeMember) -> None:
        await self._api.call("sw_interface_set_l2_bridge", enable=True, **self._fields(value))

    async def delete(self, key: str, value: model.BridgeMember, metadata: None) -> None:
        await remove(self._api, "sw_interface_set_l2_bridge", enable=False, **self._fields(value))

    async def retrieve(self, wanted: Mapping[str, model.BridgeMember]) -> Iterable[Actual[model.BridgeMember, None]]:
        found = []
        for domain in await bridge_domains(self._api):
            for member in domain.sw_if_details:
                name = self._interfaces.name(member.sw_if_index)
                if name is not None:
                    value = model.BridgeMember(
                        bd_id=domain.bd_id,
                        interface=name,
                        bvi=member.sw_if_index == domain.bvi_sw_if_index,
                        shg=member.shg,
                    )
                    found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found

    def _fields(self, value: model.BridgeMember) -> dict[str, Any]:
        return {
            "rx_sw_if_index": self._interfaces.index(value.interface),
            "bd_id": value.bd_id,
            "port_type": PORT_BVI if value.bvi else PORT_NORMAL,
            "shg": value.shg,
        }


class L2FibDescriptor(Descriptor[model.L2FibEntry, None]):
    """``vpp/l2fib/<bd_id>/<mac>``: a static entry."""

    name = "vpp/l2fib"
    prefix = model.L2FIB
    retrieve_after = (*INTERFACE_DESCRIPTOR, "vpp/bridge-domain")

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.L2FibEntry) -> Iterable[Dependency]:
        return (Dependency("bridge member", model.bridge_member_key(value.interface)),)

    async def create(self, key: str, value: model.L2FibEntry) -> None:
        await self._api.call("l2fib_add_del", is_add=True, **self._fields(value))

    async def delete(self, key: str, value: model.L2FibEntry, metadata: None) -> None:
        await remove(self._api, "l2fib_add_del", is_add=False, **self._fields(value))

    async def retrieve(self, wanted: Mapping[str, model.L2FibEntry]) -> Iterable[Actual[model.L2FibEntry, None]]:
        found = []
        for domain in await bridge_domains(self._api):
            for entry in await self._api.dump("l2_fib_table", bd_id=domain.bd_id):
                name = self._interfaces.name(entry.sw_if_index)
                if name is not None and entry.static_mac and not entry.bvi_mac:
                    value = model.L2FibEntry(bd_id=entry.bd_id, mac=str(entry.mac), interface=name)
                    found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found

    def _fields(self, value: model.L2FibEntry) -> dict[str, Any]:
        return {
            "mac": value.mac,
            "bd_id": value.bd_id,
            "sw_if_index": self._interfaces.index(value.interface),
            "static_mac": True,
            "filter_mac": False,
            "bvi_mac": False,
        }
