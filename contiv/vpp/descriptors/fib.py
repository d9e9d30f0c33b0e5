"""Tables, routes and neighbours (VPP: src/vnet/ip/ip.api, src/vnet/ip-neighbor, src/vnet/fib).

Our routes carry a FIB source of their own, ``contiv``: VPP keeps routes of different sources apart, so what others
added by API or CLI is neither seen nor touched, and ours win over theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from contiv.errors import VppError
from contiv.model import vpp as model
from contiv.model.ip import Address, Network
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, OWNER, Api, Interfaces, from_interface, from_ip, remove
from contiv.vpp.descriptors.layer3 import INTERFACE_DESCRIPTOR, on_interface

FIB_SOURCE_NAME: Final = "contiv"
FIB_SOURCE_PRIORITY: Final = 0x7F
"""Just before the API's own source (0x80) and the CLI's (0x81), after interfaces (src/vnet/fib/fib_source.h)."""
CNAT_SOURCE: Final = "cnat"
"""Of the plugin's clients and services (plugins/cnat/cnat_client.c). It comes before ours."""
ASKED_MAX: Final = 256
"""How many routes the CLI is asked about in one resync."""
MAIN_TABLE: Final = 0
PATH_NORMAL: Final = 0
"""Without next hop and interface: the path's table is looked up."""
PATH_DROP: Final = 2
PATH_UNREACHABLE: Final = 5
"""FIB_API_PATH_TYPE_ICMP_UNREACH (src/vnet/fib/fib_types.api): VPP answers with ICMP, at a limited rate."""
NEIGHBOUR_STATIC: Final = 1
FAMILIES: Final = (4, 6)


class VrfDescriptor(Descriptor[model.Vrf, None]):
    """``vpp/vrf/<table>/ip<version>``."""

    name = "vpp/vrf"
    prefix = model.VRF

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(self, key: str, value: model.Vrf) -> None:
        await self._api.call("ip_table_add_del_v2", is_add=True, table=_table(value))

    async def delete(self, key: str, value: model.Vrf, metadata: None) -> None:
        await remove(self._api, "ip_table_add_del_v2", is_add=False, table=_table(value))

    async def retrieve(self, wanted: Mapping[str, model.Vrf]) -> Iterable[Actual[model.Vrf, None]]:
        values = [
            model.Vrf(
                table_id=entry.table.table_id,
                version=6 if entry.table.is_ip6 else 4,
                label=entry.table.name[len(OWNER) :],
            )
            for entry in await self._api.dump("ip_table")
            if entry.table.name.startswith(OWNER)
        ]
        return [Actual(key=model.key_of(value), value=value, metadata=None) for value in values]


def _table(value: model.Vrf) -> dict[str, Any]:
    return {"table_id": value.table_id, "is_ip6": value.version == 6, "name": OWNER + value.label}


class FibSource:
    """The number that this VPP gave our FIB source; asked for once a VPP's life."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._number: int | None = None
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        """VPP was restarted: the number means nothing any more."""
        self._number = None

    async def number(self) -> int:
        """The number, found among VPP's sources or added to them."""
        async with self._lock:
            if self._number is None:
                self._number = await self._find() or await self._add()
            return self._number

    async def other(self, name: str) -> int | None:
        """The number of another source; None where VPP has none of the name."""
        for entry in await self._api.dump("fib_source"):
            if entry.src.name == name:
                return int(entry.src.id)
        return None

    async def holds(self, destination: Network) -> bool:
        """Whether we have a route to exactly this destination, be it another source's that counts."""
        told = (await self._api.call("cli_inband", cmd=f"show ip{_six(destination)} fib {destination}")).reply
        return f"\n{destination} " in told and f"\n  {FIB_SOURCE_NAME} refs:" in told

    async def _find(self) -> int | None:
        return await self.other(FIB_SOURCE_NAME)

    async def _add(self) -> int:
        source = {"priority": FIB_SOURCE_PRIORITY, "id": 0, "name": FIB_SOURCE_NAME}
        reply = await self._api.call("fib_source_add", src=source)
        return int(reply.id)


class RouteDescriptor(Descriptor[model.Route, None]):
    """``vpp/route/<vrf>/<destination>``: one path."""

    name = "vpp/route"
    prefix = model.ROUTE
    retrieve_after = (*INTERFACE_DESCRIPTOR, "vpp/vrf")

    def __init__(self, api: Api, interfaces: Interfaces, source: FibSource) -> None:
        self._api = api
        self._interfaces = interfaces
        self._source = source

    def dependencies(self, key: str, value: model.Route) -> Iterable[Dependency]:
        if value.interface:
            yield on_interface(value.interface)
        if value.vrf:
            yield Dependency("vrf", model.vrf_key(value.vrf, value.destination.version))

    def must_recreate(self, key: str, old: model.Route, new: model.Route) -> bool:
        return False

    async def create(self, key: str, value: model.Route) -> None:
        await self._api.call("ip_route_add_del_v2", is_add=True, is_multipath=False, route=await self._route(value))

    async def update(self, key: str, old: model.Route, new: model.Route, metadata: None) -> None:
        await self.create(key, new)  # without is_multipath an addition replaces the paths

    async def delete(self, key: str, value: model.Route, metadata: None) -> None:
        await remove(
            self._api,
            "ip_route_add_del_v2",
            is_add=False,
            is_multipath=False,
            route=await self._route(value),
        )

    async def retrieve(self, wanted: Mapping[str, model.Route]) -> Iterable[Actual[model.Route, None]]:
        source = await self._source.number()
        tables = {(0, version) for version in FAMILIES}
        tables |= {
            (entry.table.table_id, 6 if entry.table.is_ip6 else 4)
            for entry in await self._api.dump("ip_table")
            if entry.table.name.startswith(OWNER)
        }
        found = []
        for table_id, version in sorted(tables):
            table = {"table_id": table_id, "is_ip6": version == 6, "name": ""}
            for entry in await self._api.dump("ip_route_v2", src=source, table=table):
                if entry.route.src == source:
                    value = self._decode(entry.route)
                    found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found + await self._behind_cnat(wanted)

    async def _behind_cnat(self, wanted: Mapping[str, model.Route]) -> list[Actual[model.Route, None]]:
        """Ours among the routes of addresses that CNAT translates. VPP lists such a one as CNAT's, with our path, or
        with that of the route that it lies in; whose it is only the debug CLI tells."""
        number = await self._source.other(CNAT_SOURCE)
        if number is None:
            return []
        rejected = [route.destination for route in wanted.values() if route.reject]
        found, asked = [], 0
        for version in FAMILIES:
            table = {"table_id": 0, "is_ip6": version == 6, "name": ""}
            for entry in await self._api.dump("ip_route_v2", src=number, table=table):
                value = self._decode(entry.route)
                key = model.key_of(value)
                around = (each for each in rejected if each != value.destination)
                inherited = value.reject and any(value.destination.address in each for each in around)
                if inherited and key not in wanted:
                    ours = False
                elif not inherited and key in wanted:
                    ours = wanted[key] == value
                else:
                    ours = asked < ASKED_MAX and await self._source.holds(value.destination)
                    asked += 1
                if ours:
                    found.append(Actual(key=key, value=value, metadata=None))
        return found

    async def _route(self, value: model.Route) -> dict[str, Any]:
        return {
            "table_id": value.vrf,
            "prefix": str(value.destination),
            "src": await self._source.number(),
            "n_paths": 1,
            "paths": [self._path(value)],
        }

    def _path(self, value: model.Route) -> dict[str, Any]:
        version = value.destination.version
        path: dict[str, Any] = {
            "sw_if_index": self._interfaces.index(value.interface) if value.interface else NO_INDEX,
            "table_id": MAIN_TABLE if value.main else value.vrf,
            "weight": 1,
            "proto": 0 if version == 4 else 1,
            "type": _path_type(value),
        }
        if value.gateway is not None:
            path["nh"] = {"address": {f"ip{version}": str(value.gateway)}}
        return path

    def _decode(self, route: Any) -> model.Route:
        """The route as a value; paths that we never make show as a route without interface, hence as drift."""
        destination = from_interface(route.prefix)
        path = route.paths[0] if route.paths else None
        if path is None or len(route.paths) > 1 or int(path.type) in (PATH_DROP, PATH_UNREACHABLE):
            rejects = path is not None and int(path.type) == PATH_UNREACHABLE
            return model.Route(vrf=route.table_id, destination=destination, reject=rejects)
        hop = from_ip(getattr(path.nh.address, f"ip{destination.version}"))
        if not hop.value and path.sw_if_index == NO_INDEX:
            return model.Route(vrf=route.table_id, destination=destination, main=path.table_id == MAIN_TABLE)
        return model.Route(
            vrf=route.table_id,
            destination=destination,
            gateway=hop if hop.value else None,
            interface=self._interfaces.name(path.sw_if_index) or "",
        )


def _six(destination: Network) -> str:
    return "6" if destination.version == 6 else ""


def _path_type(value: model.Route) -> int:
    if value.gateway or value.interface or value.main:
        return PATH_NORMAL
    return PATH_UNREACHABLE if value.reject else PATH_DROP


class NeighbourDescriptor(Descriptor[model.Neighbour, None]):
    """``vpp/neighbour/<interface>/<address>``: a static entry."""

    name = "vpp/neighbour"
    prefix = model.NEIGHBOUR
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.Neighbour) -> Iterable[Dependency]:
        return (on_interface(value.interface),)

    async def create(self, key: str, value: model.Neighbour) -> None:
        await self._api.call("ip_neighbor_add_del", is_add=True, neighbor=self._neighbour(value))

    async def delete(self, key: str, value: model.Neighbour, metadata: None) -> None:
        await remove(self._api, "ip_neighbor_add_del", is_add=False, neighbor=self._neighbour(value))

    async def retrieve(self, wanted: Mapping[str, model.Neighbour]) -> Iterable[Actual[model.Neighbour, None]]:
        found = []
        for family in (0, 1):
            for entry in await self._api.dump("ip_neighbor", sw_if_index=NO_INDEX, af=family):
                name = self._interfaces.name(entry.neighbor.sw_if_index)
                if name is None or not int(entry.neighbor.flags) & NEIGHBOUR_STATIC:
                    continue
                value = model.Neighbour(
                    interface=name,
                    address=_address(entry.neighbor.ip_address),
                    mac=str(entry.neighbor.mac_address),
                )
                found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found

    def _neighbour(self, value: model.Neighbour) -> dict[str, Any]:
        return {
            "sw_if_index": self._interfaces.index(value.interface),
            "flags": NEIGHBOUR_STATIC,
            "mac_address": value.mac,
            "ip_address": str(value.address),
        }


def _address(value: Any) -> Address:
    try:
        return from_ip(value)
    except AttributeError as error:
        raise VppError(f"VPP gave a neighbour without an address: {value!r}") from error
