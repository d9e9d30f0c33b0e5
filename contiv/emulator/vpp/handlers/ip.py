"""Tables, routes, neighbours and FIB sources (vnet/ip/ip.api, ip_neighbor.api, fib.api)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from contiv.emulator.vpp import sources
from contiv.emulator.vpp.fib import Contribution, EntryFlag, Path, PathType
from contiv.emulator.vpp.handlers.convert import address, entry_prefix, mac_bytes, prefix_parts
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.neighbor import NeighbourFlag
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.fib import Entry, Fib
    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.machine import Machine
    from contiv.emulator.vpp.sources import Source

NO_INDEX: Final = 0xFFFFFFFF
PROTO_IP6: Final = 1
FLAGS: Final = {
    PathType.LOCAL: EntryFlag.LOCAL,
    PathType.DROP: EntryFlag.DROP,
    PathType.ICMP_UNREACH: EntryFlag.DROP,
    PathType.ICMP_PROHIBIT: EntryFlag.DROP,
}


class IpHandlers:
    """Handlers about layer 3."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    # -- tables -----------------------------------------------------------------------------------------------------

    def ip_table_add_del_v2(self, message: Any) -> None:
        version = 6 if message.table.is_ip6 else 4
        if message.is_add:
            self._machine.add_table(version, message.table.table_id, name=message.table.name)
        else:
            self._machine.remove_table(version, message.table.table_id)

    ip_table_add_del = ip_table_add_del_v2

    def ip_table_dump(self, message: Any) -> Iterable[Fields]:
        for version in (4, 6):
            for fib in list(self._machine.family(version).tables.values()):
                yield {"table": {"table_id": fib.table_id, "is_ip6": version == 6, "name": fib.name}}

    def ip_table_flush(self, message: Any) -> None:
        fib = self._machine.fib(6 if message.table.is_ip6 else 4, message.table.table_id)
        source = self._machine.source(0)
        for entry in [entry for entry in fib.entries.values() if source in entry.sources]:
            fib.drop_source(entry.value, entry.length, source=source)

    # -- sources ----------------------------------------------------------------------------------------------------

    def fib_source_add(self, message: Any) -> Fields:
        return {"id": self._machine.add_source(message.src.name, message.src.priority)}

    def fib_source_dump(self, message: Any) -> Iterable[Fields]:
        for source in self._machine.sources.all():
            yield {"src": {"priority": source.priority, "id": source.id, "name": source.name}}

    # -- routes -----------------------------------------------------------------------------------------------------

    def ip_route_add_del(self, message: Any) -> Fields:
        return self._change(message, self._machine.source(0))

    def ip_route_add_del_v2(self, message: Any) -> Fields:
        return self._change(message, self._machine.source(message.route.src))

    def _change(self, message: Any, source: Source) -> Fields:
        route = message.route
        version, value, length = prefix_parts(route.prefix)
        fib = self._machine.fib(version, route.table_id)
        if not route.paths and (message.is_add or message.is_multipath):
            raise Refusal("NO_PATHS_IN_ROUTE")
        given = tuple(dict.fromkeys(self._decode(path) for path in route.paths))
        paths = tuple(_fixed_up(path, value, host=length == fib.bits) for path in given)
        entry = fib.exact(value, length)
        present: tuple[Path, ...] = ()
        if message.is_multipath and entry is not None and source in entry.sources:
            present = entry.sources[source].paths
        changed = {path.identity for path in paths}
        kept = tuple(path for path in present if path.identity not in changed)
        wanted = (*kept, *paths) if message.is_add else kept
        if wanted:
            fib.put(value, length, source=source, contribution=Contribution(wanted, _flags(wanted, value)))
        else:
            fib.drop_source(value, length, source=source)
        for path in given if message.is_add else ():
            self._machine.probe(version, path.sw_if_index, path.next_hop)
        entry = fib.exact(value, length)
        return {"stats_index": NO_INDEX if entry is None else entry.index}

    def _decode(self, path: Any) -> Path:
        """A path of the API's as the table has it; Refusal as fib_api_path_decode has them."""
        version = 6 if int(path.proto) == PROTO_IP6 else 4
        try:
            kind = PathType(int(path.type))
        except ValueError:
            raise Refusal("UNIMPLEMENTED") from None
        hop = int(path.nh.address.ip6 if version == 6 else path.nh.address.ip4)
        if path.sw_if_index != NO_INTERFACE and self._machine.interfaces.get(path.sw_if_index) is None:
            raise Refusal("NO_MATCHING_INTERFACE")
        if kind is PathType.NORMAL and path.sw_if_index == NO_INTERFACE:
            self._machine.fib(version, path.table_id)
        return Path(
            sw_if_index=path.sw_if_index, next_hop=hop, next_hop_version=version,
            table_id=path.table_id if path.sw_if_index == NO_INTERFACE else 0,
            weight=max(1, path.weight), preference=path.preference, type=kind, flags=int(path.flags),
        )  # fmt: skip

    def ip_route_dump(self, message: Any) -> Iterable[Fields]:
        return [{"route": _route(entry)} for entry in self._entries(message.table)]

    def ip_route_v2_dump(self, message: Any) -> Iterable[Fields]:
        for entry in self._entries(message.table):
            number = entry.best.id
            if message.src in {0, number}:
                yield {"route": {**_route(entry), "src": number}}

    def _entries(self, table: Any) -> Iterable[Entry]:
        fib: Fib | None = self._machine.family(6 if table.is_ip6 else 4).tables.get(table.table_id)
        return () if fib is None else fib.sorted_entries()

    def ip_route_lookup(self, message: Any) -> Fields:
        return {"route": _route(self._lookup(message))}

    def ip_route_lookup_v2(self, message: Any) -> Fields:
        entry = self._lookup(message)
        return {"route": {**_route(entry), "src": entry.best.id}}

    def _lookup(self, message: Any) -> Entry:
        version, value, length = prefix_parts(message.prefix)
        fib = self._machine.fib(version, message.table_id)
        entry = fib.exact(value, length) if message.exact else fib.match(value, length_max=length)
        if entry is None:
            raise Refusal("NO_SUCH_ENTRY")
        return entry

    # -- neighbours -------------------------------------------------------------------------------------------------

    def ip_neighbor_add_del(self, message: Any) -> Fields | None:
        wanted = message.neighbor
        interface = self._machine.interface(wanted.sw_if_index)
        version, value = wanted.ip_address.version, int(wanted.ip_address)
        table = self._machine.neighbours(version)
        if message.is_add:
            flags = NeighbourFlag(int(wanted.flags) & 3)
            return {"stats_index": table.add(interface, value, mac_bytes(wanted.mac_address), flags=flags)}
        if not table.remove(interface, value):
            raise Refusal("NO_SUCH_ENTRY")
        return None

    def ip_neighbor_dump(self, message: Any) -> Iterable[Fields]:
        version = 6 if int(message.af) else 4
        now = self._machine.clock()
        for neighbour in self._machine.neighbours(version):
            if message.sw_if_index in {NO_INTERFACE, neighbour.sw_if_index}:
                yield {
                    "age": now - neighbour.updated_s,
                    "neighbor": {
                        "sw_if_index": neighbour.sw_if_index, "flags": int(neighbour.flags),
                        "mac_address": neighbour.mac, "ip_address": address(version, neighbour.address),
                    },
                }  # fmt: skip

    def ip_neighbor_flush(self, message: Any) -> None:
        version = 6 if int(message.af) else 4
        for interface in self._machine.interfaces:
            if message.sw_if_index in {NO_INTERFACE, interface.index}:
                self._machine.neighbours(version).flush(interface)


def _fixed_up(path: Path, value: int, *, host: bool) -> Path:
    """A path out of an interface without a next hop leads to one address itself (fib_table_route_path_fixup)."""
    if host and path.type is PathType.NORMAL and not path.next_hop and path.sw_if_index != NO_INTERFACE:
        return msgspec.structs.replace(path, next_hop=value)
    return path


def _flags(paths: tuple[Path, ...], value: int) -> EntryFlag:
    """What paths make of their entry: attached when one leads out without another next hop than the entry itself."""
    flags = EntryFlag.NONE
    for path in paths:
        flags |= FLAGS.get(path.type, EntryFlag.NONE)
        if path.type is PathType.NORMAL and path.next_hop in {0, value} and path.sw_if_index != NO_INTERFACE:
            flags |= EntryFlag.ATTACHED
    return flags


def _route(entry: Entry) -> dict[str, Any]:
    paths = [_path(path) for path in _paths(entry)]
    return {
        "table_id": entry.fib.table_id, "stats_index": entry.index, "prefix": entry_prefix(entry),
        "n_paths": len(paths), "paths": paths,
    }  # fmt: skip


def _paths(entry: Entry) -> tuple[Path, ...]:
    """The paths of an entry; one that only tunnels follow shows its cover's (fib_entry_src_rr.c)."""
    if entry.best != sources.RECURSION:
        return entry.contribution.paths
    cover = entry.fib.match(entry.value, length_max=entry.length - 1)
    return tuple(_fixed_up(path, entry.value, host=entry.is_host()) for path in cover.contribution.paths)


def _path(path: Path) -> dict[str, Any]:
    version = path.next_hop_version
    hop = address(version, path.next_hop)
    return {
        "sw_if_index": path.sw_if_index, "table_id": path.table_id, "weight": path.weight,
        "preference": path.preference, "type": int(path.type), "flags": path.flags,
        "proto": PROTO_IP6 if version == 6 else 0, "nh": {"address": {f"ip{version}": hop}},
    }  # fmt: skip
