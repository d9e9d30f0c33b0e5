"""Neighbours: which link address an IP address has on an interface, set by the API or learned from ARP and ND.

A neighbour completes the adjacency of its next hop and, unless told not to, puts a host route into the table of its
interface. What was set as static is never overwritten by what is learned.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp import sources
from contiv.emulator.vpp.fib import Contribution, EntryFlag, Path
from contiv.emulator.vpp.packet import ETHERTYPE_IP4, ETHERTYPE_IP6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contiv.emulator.vpp.fib import FibFamily
    from contiv.emulator.vpp.interface import Interface

NEIGHBOURS_MAX: Final = 50_000
"""Learned neighbours per family, VPP's default limit (ip_neighbor.c, IP_NEIGHBOR_DEFAULT_LIMIT)."""


class NeighbourFlag(IntFlag):
    """``ip_neighbor_flags`` of VPP's API."""

    NONE = 0
    STATIC = 1
    NO_FIB_ENTRY = 2


class Neighbour(msgspec.Struct, frozen=True):
    """One neighbour as it stands."""

    sw_if_index: int
    address: int
    mac: bytes
    flags: NeighbourFlag
    updated_s: float


class NeighbourTable:
    """The neighbours of one family."""

    def __init__(self, family: FibFamily, clock: Callable[[], float]) -> None:
        self._family = family
        self._clock = clock
        self._by_key: dict[tuple[int, int], Neighbour] = {}
        self._ethertype = (ETHERTYPE_IP4 if family.version == 4 else ETHERTYPE_IP6).to_bytes(2, "big")

    def __iter__(self) -> Iterator[Neighbour]:
        return iter([self._by_key[key] for key in sorted(self._by_key)])

    def get(self, sw_if_index: int, address: int) -> Neighbour | None:
        """The neighbour, when known."""
        return self._by_key.get((sw_if_index, address))

    def learn(self, interface: Interface, address: int, mac: bytes) -> None:
        """What a packet told; static neighbours and the limit stand."""
        known = self._by_key.get((interface.index, address))
        if known is not None and (known.flags & NeighbourFlag.STATIC or known.mac == mac):
            return
        if known is None and len(self._by_key) >= NEIGHBOURS_MAX:
            return
        self.add(interface, address, mac, flags=NeighbourFlag.NONE)

    def add(self, interface: Interface, address: int, mac: bytes, *, flags: NeighbourFlag) -> int:
        """Set a neighbour, replacing what was known; its host route's index, ``~0`` without one."""
        key = (interface.index, address)
        known = self._by_key.get(key)
        if known is not None and not known.flags & NeighbourFlag.STATIC and flags & NeighbourFlag.NO_FIB_ENTRY:
            flags &= ~NeighbourFlag.NO_FIB_ENTRY
        neighbour = Neighbour(interface.index, address, mac, flags, self._clock())
        self._by_key[key] = neighbour
        rewrite = mac + interface.mac + self._ethertype
        self._family.resolver.complete(interface.index, address, rewrite=rewrite)
        if flags & NeighbourFlag.NO_FIB_ENTRY:
            return 0xFFFFFFFF
        return self._install(interface, neighbour)

    def remove(self, interface: Interface, address: int) -> bool:
        """Forget a neighbour, False when it was not known."""
        known = self._by_key.pop((interface.index, address), None)
        if known is None:
            return False
        self._family.resolver.incomplete(interface.index, address)
        if not known.flags & NeighbourFlag.NO_FIB_ENTRY:
            self._uninstall(interface, address)
        return True

    def flush(self, interface: Interface, *, learned_only: bool = False) -> None:
        """Forget the neighbours on an interface."""
        for neighbour in [entry for entry in self._by_key.values() if entry.sw_if_index == interface.index]:
            if not (learned_only and neighbour.flags & NeighbourFlag.STATIC):
                self.remove(interface, neighbour.address)

    def rewrite_all(self, interface: Interface) -> None:
        """The interface's own link address changed: frames must carry the new one."""
        for neighbour in self._by_key.values():
            if neighbour.sw_if_index == interface.index:
                rewrite = neighbour.mac + interface.mac + self._ethertype
                self._family.resolver.complete(interface.index, neighbour.address, rewrite=rewrite)

    def reinstall(self, interface: Interface) -> None:
        """The interface moved to another table: put its neighbours' host routes there."""
        for neighbour in list(self._by_key.values()):
            if neighbour.sw_if_index == interface.index and not neighbour.flags & NeighbourFlag.NO_FIB_ENTRY:
                self._install(interface, neighbour)

    def uninstall(self, interface: Interface) -> None:
        """The interface is about to leave its table: take its neighbours' host routes out."""
        for neighbour in list(self._by_key.values()):
            if neighbour.sw_if_index == interface.index and not neighbour.flags & NeighbourFlag.NO_FIB_ENTRY:
                self._uninstall(interface, neighbour.address)

    def _install(self, interface: Interface, neighbour: Neighbour) -> int:
        fib = interface.fib(self._family.version)
        entry = fib.exact(neighbour.address, fib.bits)
        present: tuple[Path, ...] = ()
        if entry is not None and sources.ADJACENCY in entry.sources:
            present = entry.sources[sources.ADJACENCY].paths
        path = Path(interface.index, neighbour.address, self._family.version)
        if path not in present:
            contribution = Contribution((*present, path), EntryFlag.ATTACHED)
            entry = fib.put(neighbour.address, fib.bits, source=sources.ADJACENCY, contribution=contribution)
        assert entry is not None
        return entry.index

    def _uninstall(self, interface: Interface, address: int) -> None:
        fib = interface.fib(self._family.version)
        entry = fib.exact(address, fib.bits)
        if entry is None or sources.ADJACENCY not in entry.sources:
            return
        paths = tuple(p for p in entry.sources[sources.ADJACENCY].paths if p.sw_if_index != interface.index)
        if paths:
            contribution = Contribution(paths, EntryFlag.ATTACHED)
            fib.put(address, fib.bits, source=sources.ADJACENCY, contribution=contribution)
        else:
            fib.drop_source(address, fib.bits, source=sources.ADJACENCY)
