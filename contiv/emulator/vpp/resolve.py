"""From an entry's paths to the adjacency that forwards: the part of VPP's FIB that recursion and link state touch.

Pure over tables, interfaces and neighbours. Results hold for one generation of the family (``FibFamily.invalidate``).
A path that cannot be used (interface down, unknown table, recursion without end) is left out; an entry without
usable paths drops, as on VPP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp import adjacency as kinds
from contiv.emulator.vpp import sources
from contiv.emulator.vpp.adjacency import Adjacency
from contiv.emulator.vpp.fib import EntryFlag, PathType
from contiv.emulator.vpp.interface import NO_INTERFACE

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Entry, FibFamily, Path
    from contiv.emulator.vpp.interface import InterfaceTable
    from contiv.emulator.vpp.packet import Node

RECURSION_MAX: Final = 8
"""Levels of recursive next hops that are followed; more is a loop."""
BUCKETS_MAX: Final = 256
"""Weights are reduced so that a load balance has at most this many buckets."""


LEADS_OUT: Final = frozenset({kinds.REWRITE, kinds.INCOMPLETE, kinds.GLEAN, kinds.LOOKUP})


class ForwardingNodes(msgspec.Struct, frozen=True):
    """The nodes that adjacencies of one family name."""

    rewrite: Node
    arp: Node
    glean: Node
    local: Node
    drop: Node
    unreachable: Node
    prohibited: Node
    lookup: Node
    load_balance: Node


class Resolver:
    """Turns entries of one family into adjacencies, and keeps the neighbours' adjacencies."""

    def __init__(self, family: FibFamily, interfaces: InterfaceTable, nodes: ForwardingNodes) -> None:
        self._family = family
        self._interfaces = interfaces
        self._nodes = nodes
        self._neighbours: dict[tuple[int, int], Adjacency] = {}
        self._drop = Adjacency(kinds.DROP, nodes.drop)
        family.resolver = self

    def forwarding(self, entry: Entry) -> Adjacency:
        """The adjacency of ``entry``, computed once a generation."""
        return self._forwarding(entry, depth=0)

    def is_installed(self, entry: Entry) -> bool:
        """Whether ``entry`` forwards at all.

        What a neighbour adds does only while its cover is attached to the same interface, or to the one that the
        neighbour's interface borrows its address from (vnet/fib/fib_entry_src_adj.c).
        """
        if entry.best == sources.ADJACENCY:
            self._refresh(entry)
        return entry.installed or entry.best != sources.ADJACENCY

    def neighbour(self, sw_if_index: int, next_hop: int) -> Adjacency:
        """The adjacency of a next hop on an interface, complete or not; made on first use."""
        key = (sw_if_index, next_hop)
        found = self._neighbours.get(key)
        if found is None:
            interface = self._interfaces.get(sw_if_index)
            found = Adjacency(kinds.INCOMPLETE, self._nodes.arp, interface=interface, next_hop=next_hop)
            self._neighbours[key] = found
        return found

    def complete(self, sw_if_index: int, next_hop: int, *, rewrite: bytes) -> None:
        """A neighbour is known: every route over it forwards from now on."""
        self.neighbour(sw_if_index, next_hop).complete(rewrite, self._nodes.rewrite)

    def incomplete(self, sw_if_index: int, next_hop: int) -> None:
        """A neighbour is forgotten."""
        self.neighbour(sw_if_index, next_hop).forget(self._nodes.arp)

    def forget_interface(self, sw_if_index: int) -> None:
        """An interface is gone: so are the adjacencies on it, and whatever was resolved over them."""
        for key in [key for key in self._neighbours if key[0] == sw_if_index]:
            del self._neighbours[key]
        self._family.invalidate()

    def leads_out(self, adjacency: Adjacency) -> bool:
        """Whether an adjacency leads over an interface: the loose source check of ip4-local."""
        if adjacency.kind == kinds.LOAD_BALANCE:
            return any(self.leads_out(bucket) for bucket in adjacency.buckets)
        return adjacency.kind in LEADS_OUT

    def resolving_interface(self, entry: Entry) -> int:
        """The interface of the first path of ``entry``, ``~0`` without one."""
        found = next((p.sw_if_index for p in entry.contribution.paths if p.sw_if_index != NO_INTERFACE), None)
        if found is not None:
            return found
        adjacency = self._forwarding(entry, depth=0)
        return adjacency.interface.index if adjacency.interface is not None else NO_INTERFACE

    def _refresh(self, entry: Entry) -> None:
        if entry.generation == self._family.generation:
            return
        entry.generation = self._family.generation
        entry.forwarding = None
        entry.installed = entry.best != sources.ADJACENCY or self._refines_cover(entry)

    def _refines_cover(self, entry: Entry) -> bool:
        cover = entry.fib.match(entry.value, length_max=entry.length - 1)
        attached = cover.flags & EntryFlag.ATTACHED
        if sources.INTERFACE in cover.sources:
            attached |= cover.sources[sources.INTERFACE].flags & EntryFlag.ATTACHED
        if not attached:
            return False
        covered_by = self.resolving_interface(cover)
        for path in entry.contribution.paths:
            interface = self._interfaces.get(path.sw_if_index)
            if path.sw_if_index == covered_by:
                return True
            lender = interface.unnumbered if interface is not None else None
            if lender is not None and lender.index == covered_by:
                return True
        return False

    def _forwarding(self, entry: Entry, *, depth: int) -> Adjacency:
        self._refresh(entry)
        if entry.forwarding is None:
            entry.forwarding = self._resolve(entry, depth=depth)
        return entry.forwarding

    def _resolve(self, entry: Entry, *, depth: int) -> Adjacency:
        if depth > RECURSION_MAX:
            return self._drop
        if entry.best == sources.RECURSION:
            cover = entry.fib.match(entry.value, length_max=entry.length - 1)
            return self._forwarding(cover, depth=depth + 1)
        usable: list[tuple[Path, Adjacency]] = []
        for path in entry.contribution.paths:
            found = self._resolve_path(entry, path, depth=depth)
            if found is not None:
                usable.append((path, found))
        if not usable:
            return self._drop
        best = min(path.preference for path, _ in usable)
        chosen = [(path.weight, found) for path, found in usable if path.preference == best]
        if len(chosen) == 1:
            return chosen[0][1]
        return self._balance(chosen)

    def _balance(self, chosen: list[tuple[int, Adjacency]]) -> Adjacency:
        total = sum(weight for weight, _ in chosen)
        scale = max(1, -(-total // BUCKETS_MAX))
        buckets: list[Adjacency] = []
        for weight, found in chosen:
            buckets.extend([found] * max(1, weight // scale))
        made = Adjacency(kinds.LOAD_BALANCE, self._nodes.load_balance)
        made.buckets = tuple(buckets)
        return made

    def _resolve_path(self, entry: Entry, path: Path, *, depth: int) -> Adjacency | None:
        nodes = self._nodes
        if path.type is PathType.LOCAL:
            owner = self._interfaces.get(path.sw_if_index)
            return Adjacency(kinds.RECEIVE, nodes.local, interface=owner, next_hop=path.next_hop)
        if path.type is PathType.ICMP_UNREACH:
            return Adjacency(kinds.UNREACHABLE, nodes.unreachable)
        if path.type is PathType.ICMP_PROHIBIT:
            return Adjacency(kinds.PROHIBITED, nodes.prohibited)
        if path.type is PathType.DROP:
            return self._drop
        if path.sw_if_index == NO_INTERFACE:
            return self._resolve_recursive(entry, path, depth=depth)
        interface = self._interfaces.get(path.sw_if_index)
        if interface is None or not interface.usable:
            return None
        if path.next_hop or entry.is_host():
            return self.neighbour(path.sw_if_index, path.next_hop or entry.value)
        glean = Adjacency(kinds.GLEAN, nodes.glean, interface=interface)
        if entry.flags & EntryFlag.CONNECTED:
            glean.source = interface.source_address(self._family.version, entry.value)
        return glean

    def _resolve_recursive(self, entry: Entry, path: Path, *, depth: int) -> Adjacency | None:
        fib = self._family.tables.get(path.table_id)
        if fib is None:
            return None
        if not path.next_hop:
            again = Adjacency(kinds.LOOKUP, self._nodes.lookup)
            again.fib = fib
            return again
        via = fib.match(path.next_hop)
        if via is entry or depth >= RECURSION_MAX:
            return None
        found = self._forwarding(via, depth=depth + 1)
        if found.kind == kinds.GLEAN and found.interface is not None:
            return self.neighbour(found.interface.index, path.next_hop)
        return None if found.kind == kinds.DROP else found
