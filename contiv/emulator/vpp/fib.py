"""Forwarding tables: entries with sources, longest prefix match, and what an entry's best source resolves to.

Owns one family's tables (VRFs). Interface configuration, the API and neighbours each add their paths to an entry
under their own source; the best source present forwards (``sources.py`` gives the order). A change drops
the caches of the family, the next packet to a destination fills them again: lookups cost one dict access.
Who turns paths into adjacencies is ``resolve.py``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp import sources
from contiv.emulator.vpp.interface import NO_INTERFACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contiv.emulator.vpp.adjacency import Adjacency
    from contiv.emulator.vpp.resolve import Resolver
    from contiv.emulator.vpp.sources import Source

CACHE_MAX: Final = 65_536
"""Destinations remembered per table; a scan of addresses must not eat memory."""


class EntryFlag(IntFlag):
    """What a source says about its prefix (fib_entry_flag_t)."""

    NONE = 0
    CONNECTED = 1
    ATTACHED = 2
    DROP = 4
    LOCAL = 8


class PathType(IntEnum):
    """``fib_path_type`` of VPP's API, those that the emulator forwards."""

    NORMAL = 0
    LOCAL = 1
    DROP = 2
    ICMP_UNREACH = 5
    ICMP_PROHIBIT = 6


class Path(msgspec.Struct, frozen=True, order=True):
    """One way to reach a prefix. ``table_id`` matters when there is no interface: recursion or another lookup."""

    sw_if_index: int = NO_INTERFACE
    next_hop: int = 0
    next_hop_version: int = 4
    table_id: int = 0
    weight: int = 1
    preference: int = 0
    type: PathType = PathType.NORMAL
    flags: int = 0

    @property
    def identity(self) -> tuple[int, int, int, int, int, int]:
        """What makes two paths the same one, whatever their weight."""
        kind = (self.sw_if_index, self.next_hop, self.next_hop_version, self.table_id)
        return (*kind, self.preference, self.type)


class Contribution(msgspec.Struct, frozen=True):
    """What one source gives an entry."""

    paths: tuple[Path, ...]
    flags: EntryFlag = EntryFlag.NONE


class Entry:
    """A prefix in a table with the contributions of its sources."""

    __slots__ = ("fib", "forwarding", "generation", "index", "installed", "length", "sources", "value")

    def __init__(self, fib: Fib, value: int, length: int, index: int) -> None:
        self.fib = fib
        self.value = value
        self.length = length
        self.index = index
        self.sources: dict[Source, Contribution] = {}
        self.generation = -1
        self.forwarding: Adjacency | None = None
        self.installed = True

    @property
    def best(self) -> Source:
        """The source that forwards."""
        return min(self.sources)

    @property
    def contribution(self) -> Contribution:
        """The paths in force."""
        return self.sources[min(self.sources)]

    @property
    def flags(self) -> EntryFlag:
        """Flags of the source in force."""
        return self.contribution.flags

    def is_host(self) -> bool:
        """Whether the prefix is one address."""
        return self.length == self.fib.bits


class Fib:
    """One table (VRF) of one family."""

    __slots__ = ("_cache", "_lengths", "api_owned", "bits", "bound", "entries", "family", "name", "table_id")

    def __init__(self, family: FibFamily, table_id: int, name: str) -> None:
        self.family = family
        self.table_id = table_id
        self.name = name
        self.bits = family.bits
        self.api_owned = False
        self.bound = 0
        self.entries: dict[tuple[int, int], Entry] = {}
        self._lengths: list[tuple[int, int, dict[int, Entry]]] = []
        self._cache: dict[int, Adjacency] = {}

    def lookup(self, address: int) -> Adjacency:
        """The adjacency for packets to ``address``."""
        found = self._cache.get(address)
        if found is None:
            found = self.family.resolver.forwarding(self.match(address))
            self._remember(address, found)
        return found

    def match(self, address: int, *, length_max: int = 128, installed: bool = True) -> Entry:
        """The entry with the longest prefix of at most ``length_max`` that holds ``address``.

        ``installed`` passes over neighbours' entries that their cover does not let forward. There always is one: each
        table is made with a default route, which cannot be removed, only overridden.
        """
        for length, shift, by_value in self._lengths:
            if length <= length_max:
                entry = by_value.get(address >> shift)
                if entry is not None and (not installed or self.family.resolver.is_installed(entry)):
                    return entry
        raise AssertionError(f"table {self.table_id} has lost its default route")

    def exact(self, value: int, length: int) -> Entry | None:
        """The entry of exactly this prefix."""
        return self.entries.get((self._masked(value, length), length))

    def put(self, value: int, length: int, *, source: Source, contribution: Contribution) -> Entry:
        """Set what ``source`` gives the prefix, making the entry when it is new."""
        value = self._masked(value, length)
        entry = self.entries.get((value, length))
        if entry is None:
            entry = Entry(self, value, length, self.family.take_index())
            self.entries[value, length] = entry
            self._level(length)[value >> (self.bits - length)] = entry
        entry.sources[source] = contribution
        self.family.invalidate()
        return entry

    def drop_source(self, value: int, length: int, *, source: Source) -> bool:
        """Take back what ``source`` gave; the entry goes with its last source. False when it gave nothing."""
        value = self._masked(value, length)
        entry = self.entries.get((value, length))
        if entry is None or source not in entry.sources:
            return False
        del entry.sources[source]
        if not entry.sources:
            del self.entries[value, length]
            del self._level(length)[value >> (self.bits - length)]
            self.family.free_index(entry.index)
        self.family.invalidate()
        return True

    def forget(self) -> None:
        """Drop what is cached; for the family."""
        self._cache.clear()

    def flush(self) -> None:
        """Release every entry, before the table itself goes."""
        for entry in self.entries.values():
            self.family.free_index(entry.index)
        self.entries.clear()
        self._lengths.clear()
        self._cache.clear()

    def sorted_entries(self) -> Iterator[Entry]:
        """Entries by address and length, as VPP's dumps and ``show ip fib`` list them."""
        return iter([self.entries[key] for key in sorted(self.entries)])

    def _remember(self, address: int, found: Adjacency) -> None:
        if not self._cache:
            self.family.cached.append(self)
        elif len(self._cache) >= CACHE_MAX:
            self._cache.clear()
        self._cache[address] = found

    def _masked(self, value: int, length: int) -> int:
        shift = self.bits - length
        return value >> shift << shift

    def _level(self, length: int) -> dict[int, Entry]:
        for known, _, by_value in self._lengths:
            if known == length:
                return by_value
        made: dict[int, Entry] = {}
        self._lengths.append((length, self.bits - length, made))
        self._lengths.sort(reverse=True, key=lambda level: level[0])
        return made


class FibFamily:
    """The tables of IPv4 or of IPv6."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.bits = 32 if version == 4 else 128
        self.tables: dict[int, Fib] = {}
        self.resolver: Resolver
        self._free: list[int] = []
        self._next = 0
        self.generation = 0
        self.cached: list[Fib] = []

    def make(self, table_id: int, *, name: str = "") -> Fib:
        """A table with VPP's default entries (fib_table.c, ip4_fib.c): drops that routes may override."""
        fib = Fib(self, table_id, name or f"ipv{self.version}-VRF:{table_id}")
        self.tables[table_id] = fib
        for value, length, source, path_type in SPECIAL4 if self.version == 4 else SPECIAL6:
            flags = EntryFlag.DROP if path_type is PathType.DROP else EntryFlag.LOCAL
            path = Path(next_hop_version=self.version, type=path_type)
            fib.put(value, length, source=source, contribution=Contribution((path,), flags))
        return fib

    def remove(self, fib: Fib) -> None:
        """Delete a table that nobody holds any more."""
        del self.tables[fib.table_id]
        self.invalidate()
        fib.flush()

    def invalidate(self) -> None:
        """Something that forwarding depends on changed: what was resolved before is void.

        Costs one addition and the clearing of caches that are filled, so that adding routes in bulk stays linear.
        """
        self.generation += 1
        for fib in self.cached:
            fib.forget()
        self.cached.clear()

    def take_index(self) -> int:
        """A number for an entry (its ``stats_index``); the one freed last comes first."""
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def free_index(self, index: int) -> None:
        """Give an entry's number back."""
        self._free.append(index)


SPECIAL4: Final = (
    (0x00000000, 0, sources.DEFAULT_ROUTE, PathType.DROP),
    (0x00000000, 32, sources.DEFAULT_ROUTE, PathType.DROP),
    (0xF0000000, 4, sources.SPECIAL, PathType.DROP),
    (0xE0000000, 4, sources.SPECIAL, PathType.DROP),
    (0xFFFFFFFF, 32, sources.DEFAULT_ROUTE, PathType.DROP),
)
"""Prefixes that every IPv4 table has (vnet/fib/ip4_fib.c, ip4_specials)."""

SPECIAL6: Final = (
    (0, 0, sources.DEFAULT_ROUTE, PathType.DROP),
    (0xFE80 << 112, 10, sources.SPECIAL, PathType.NORMAL),
)
"""Prefixes of every IPv6 table: link-local goes to the link-local tables (vnet/fib/ip6_fib.c)."""
