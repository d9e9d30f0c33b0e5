"""Static mappings of NAT44-ED: one to one, balanced over several locals, identities; and the affinity of clients.

Mappings are found by their external side (address, port, protocol) and, unless they are out2in-only, by their local
side too. A balanced mapping picks its local as VPP does: a linear congruential generator's next number modulo the sum
of the weights, then the first local whose running sum reaches it. That sum has 8 bits on VPP, where one that wraps to
0 ends the process; here such a mapping drops its packets.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final, NamedTuple

from contiv.emulator.vpp.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from contiv.emulator.vpp.fib import Fib

External = tuple[int, int, int]
"""Address, port, protocol."""
Local = tuple[int, int, int, int]
"""Address, port, table, protocol."""
LOCALS_MIN: Final = 2
"""Fewer make no balanced mapping."""
LOCALS_MAX: Final = 255
"""VPP counts the locals of a message in 8 bits (unformat_nat44_lb_addr_port); with more it never returns."""


class MappingFlag(IntFlag):
    """NAT_SM_FLAG_*."""

    NONE = 0
    SELF_TWICE_NAT = 2
    TWICE_NAT = 4
    IDENTITY = 8
    ADDRESS_ONLY = 16
    EXACT_ADDRESS = 32
    OUT2IN_ONLY = 64
    BALANCED = 128


class Backend:
    """One local of a mapping; of an identity only the table counts."""

    __slots__ = ("address", "fib", "port", "prefix", "weight")

    def __init__(self, address: int, port: int, fib: Fib, *, weight: int = 0) -> None:
        self.address = address
        self.port = port
        self.fib = fib
        self.weight = weight
        self.prefix = 0


class Mapping:
    """One static mapping."""

    __slots__ = (
        "affinity_s", "clients", "external", "fib", "flags", "index", "local_address", "local_port", "locals",
        "pool_address", "tag",
    )  # fmt: skip

    def __init__(self, external: External, *, flags: MappingFlag, tag: str) -> None:
        self.external = external
        self.flags = flags
        self.tag = tag
        self.index = -1
        self.local_address = 0
        self.local_port = 0
        self.fib: Fib | None = None
        self.pool_address = 0
        self.affinity_s = 0
        self.clients: set[tuple[int, External]] = set()
        self.locals: Pool[Backend] = Pool()

    @property
    def address_only(self) -> bool:
        return bool(self.flags & MappingFlag.ADDRESS_ONLY)

    @property
    def is_identity(self) -> bool:
        return bool(self.flags & MappingFlag.IDENTITY)

    @property
    def is_balanced(self) -> bool:
        return bool(self.flags & MappingFlag.BALANCED)

    def weigh(self) -> None:
        """Sum the weights up, in 8 bits."""
        total = 0
        for backend in self.locals:
            total = total + backend.weight & 0xFF
            backend.prefix = total


class Match(NamedTuple):
    """What a mapping makes of an address and port."""

    address: int
    port: int
    fib: Fib
    mapping: Mapping


class Random:
    """VPP's generator (vppinfra/random.h); its low bits repeat soon, which shows in how it balances."""

    def __init__(self) -> None:
        self._seed = 0

    def next(self) -> int:
        """32 bits."""
        self._seed = (1664525 * self._seed + 1013904223) & 0xFFFFFFFF
        return self._seed

    def port(self, low: int, high: int) -> int:
        """A number from ``low`` to ``high`` (snat_random_port)."""
        wide = self.next()
        short = wide & 0xFFFF
        if low <= short <= high:
            return short
        return low + wide % (high - low + 1)


class _Affinity:
    __slots__ = ("backend", "expires_s", "sticky_s", "users")

    def __init__(self, backend: int, sticky_s: int) -> None:
        self.backend = backend
        self.sticky_s = sticky_s
        self.users = 1
        self.expires_s = 0.0


class MappingTable:
    """The mappings by both sides."""

    def __init__(self, random: Random, clock: Callable[[], float]) -> None:
        self.pool: Pool[Mapping] = Pool()
        self.by_external: dict[External, Mapping] = {}
        self.by_local: dict[Local, Mapping] = {}
        self._random = random
        self._clock = clock
        self._affinities: dict[tuple[int, External], _Affinity] = {}
        self._vacated: dict[tuple[Mapping, int], Backend] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.pool.clear()
        self.by_external.clear()
        self.by_local.clear()
        self._affinities.clear()
        self._vacated.clear()

    def add(self, mapping: Mapping) -> None:
        """Take a mapping up under its external side."""
        mapping.index = self.pool.put(mapping)
        self.by_external[mapping.external] = mapping

    def remove(self, mapping: Mapping) -> None:
        """Forget a mapping, and which client had which of its locals."""
        self.by_external.pop(mapping.external, None)
        self.pool.remove(mapping.index)
        for client in mapping.clients:
            self._affinities.pop(client, None)
        for vacated in [place for place in self._vacated if place[0] is mapping]:
            del self._vacated[vacated]

    def add_local(self, mapping: Mapping, backend: Backend) -> None:
        """One more local."""
        self._vacated.pop((mapping, mapping.locals.put(backend)), None)

    def remove_local(self, mapping: Mapping, index: int) -> None:
        """One local less. VPP's affinities name places: what was in this one is still found there."""
        backend = mapping.locals.get(index)
        assert backend is not None
        self._vacated[mapping, index] = backend
        mapping.locals.remove(index)

    # -- matching ---------------------------------------------------------------------------------------------------

    def find_external(self, address: int, port: int, protocol: int) -> Mapping | None:
        """The mapping that packets to an address match; one of the whole address comes second."""
        return self.by_external.get((address, port, protocol)) or self.by_external.get((address, 0, 0))

    def find_local(self, address: int, port: int, protocol: int, tables: tuple[int, ...]) -> Mapping | None:
        """The mapping that packets from an address match, in the first of ``tables`` that has one."""
        for table_id in dict.fromkeys(tables):
            for key in ((address, port, table_id, protocol), (address, 0, table_id, 0)):
                found = self.by_local.get(key)
                if found is not None:
                    return found
        return None

    def pick(self, mapping: Mapping, port: int, client: int) -> Match | None:
        """Where a mapping sends a new connection of ``client``; None when its weights add up to nothing."""
        if not mapping.is_balanced:
            assert mapping.fib is not None or mapping.is_identity
            fib = mapping.fib or next(iter(mapping.locals)).fib
            return Match(mapping.local_address, port if mapping.address_only else mapping.local_port, fib, mapping)
        key = (client, mapping.external)
        place = self._remembered(key) if mapping.affinity_s else None
        if place is None:
            place = self._draw(mapping)
            if place is None:
                return None
            if mapping.affinity_s and key not in self._affinities:
                self._affinities[key] = _Affinity(place, mapping.affinity_s)
                mapping.clients.add(key)
        backend = mapping.locals.get(place) or self._vacated[mapping, place]
        return Match(backend.address, backend.port, backend.fib, mapping)

    def release(self, client: int, external: External) -> None:
        """A session of a client has ended; the time until its affinity is void begins with the last one."""
        found = self._affinities.get((client, external))
        if found is not None:
            found.users -= 1
            if not found.users:
                found.expires_s = self._clock() + found.sticky_s

    def _remembered(self, key: tuple[int, External]) -> int | None:
        found = self._affinities.get(key)
        if found is None:
            return None
        if not found.users and found.expires_s < self._clock():
            del self._affinities[key]
            return None
        found.users += 1
        return found.backend

    def _draw(self, mapping: Mapping) -> int | None:
        """The place of a local by weight (snat_static_mapping_match)."""
        backends = mapping.locals.items()
        total = backends[-1][1].prefix
        if not total:
            return None
        wanted = 1 + self._random.next() % total
        low, high = 0, len(backends) - 1
        while low < high:
            middle = (high - low >> 1) + low
            if wanted > backends[middle][1].prefix:
                low = middle + 1
            else:
                high = middle
        return backends[low][0] if backends[low][1].prefix >= wanted else None
