"""Who reaches whom: packets from every source to every destination, through the lists that stand on their way.

In: ``ClusterTables``, ends and kinds of traffic. Out: a ``Reach``. Packets are arrays and every list is evaluated once
for all that it sees, so 500 pods by 500 pods take a second. Between ends with addresses of both families the packet is
of the source's first family that the destination has too, unless one family is asked for.

An end outside of the cluster is a block of addresses. Lists may tell its addresses apart, so one packet is sent for
each part that they could treat differently: the block is *allowed* when all of its parts are, *partly* when some are.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from contiv.analysis.cluster import End
from contiv.analysis.tables import UPLINK, ClusterTables, Hop
from contiv.analysis.traffic import Traffic
from contiv.fastpath import acl
from contiv.model.ip import BITS, Address
from contiv.network.render_node import BVI

PACKETS_AT_ONCE: Final = 1 << 20
"""Packets that are in memory at a time: 40 bytes each."""
NO_NODE: Final = -1
SYN: Final = 2

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int32]


class Connection(msgspec.Struct, frozen=True, order=True):
    """Somebody may open connections of one kind to somebody."""

    source: str
    destination: str
    traffic: Traffic


class Reach(msgspec.Struct, frozen=True):
    """The answer for all pairs: arrays by source, destination and traffic."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    traffic: tuple[Traffic, ...]
    every: Flags
    """All of the source may reach all of the destination."""
    some: Flags
    """Some of the source may reach some of the destination."""

    def allowed(self) -> Iterator[Connection]:
        """What is allowed, in the order of sources, destinations and traffic."""
        return self._where(self.every)

    def partly(self) -> Iterator[Connection]:
        """What is allowed for a part of a block."""
        return self._where(self.some & ~self.every)

    def _where(self, flags: Flags) -> Iterator[Connection]:
        for source, destination, traffic in np.argwhere(flags):
            yield Connection(self.sources[source], self.destinations[destination], self.traffic[traffic])


def compute(
    tables: ClusterTables,
    sources: Sequence[End],
    destinations: Sequence[End],
    traffic: Sequence[Traffic],
    *,
    family: int | None = None,
) -> Reach:
    """Who of ``sources`` reaches whom of ``destinations``, over one IP family or each pair's own."""
    shape = (len(sources), len(destinations), len(traffic))
    every, some = np.zeros(shape, bool), np.zeros(shape, bool)
    for version in (4, 6):
        pairs = _pairs(sources, destinations, version)
        if family is None and version == 6:
            pairs &= ~_preferred(sources, destinations)
        elif family is None:
            pairs &= _preferred(sources, destinations)
        elif family != version:
            continue
        if pairs.any():
            of_all, of_some = _Round(tables, sources, destinations, traffic, version).play()
            every |= of_all & pairs[:, :, None]
            some |= of_some & pairs[:, :, None]
    names = [tuple(end.name for end in ends) for ends in (sources, destinations)]
    return Reach(names[0], names[1], tuple(traffic), every, some)


def _pairs(sources: Sequence[End], destinations: Sequence[End], version: int) -> Flags:
    """Which pairs have addresses of a family; two blocks outside are no pair, what is between them is not ours."""
    mine, theirs = (
        np.array([end.address(version) is not None for end in ends], bool) for ends in (sources, destinations)
    )
    outside, beyond = (np.array([end.network is not None for end in ends], bool) for ends in (sources, destinations))
    both: Flags = (mine[:, None] & theirs[None, :]) & ~(outside[:, None] & beyond[None, :])
    return both


def _preferred(sources: Sequence[End], destinations: Sequence[End]) -> Flags:
    """Which pairs talk IPv4: the source has it first, or the two have no IPv6 in common."""
    first = np.array([bool(end.addresses) and end.addresses[0].version == 4 for end in sources], bool)
    return _pairs(sources, destinations, 4) & (first[:, None] | ~_pairs(sources, destinations, 6))


class _Points(msgspec.Struct, frozen=True):
    """The addresses that stand for ends: which end, the address in 16 bytes, the end's node by number."""

    ends: Sequence[End]
    owner: Numbers
    address: NDArray[np.uint8]
    node: Numbers
    host: Flags

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def single(self) -> bool:
        """Whether no end has more than one point."""
        return len(np.unique(self.owner)) == len(self.owner)


class _Standing(msgspec.Struct, frozen=True):
    """The numbers of the lists that stand somewhere: by node for the first four, by point for the others."""

    outside_in: Numbers
    outside_out: Numbers
    over_out: Numbers
    over_in: Numbers
    entry: Numbers
    leave: Numbers


class _Round:
    """All packets of one IP version."""

    def __init__(
        self,
        tables: ClusterTables,
        sources: Sequence[End],
        destinations: Sequence[End],
        traffic: Sequence[Traffic],
        version: int,
    ) -> None:
        self._tables = tables
        self._version = version
        self._traffic = traffic
        self._nodes = {name: number for number, name in enumerate(tables.cluster.nodes)}
        self._lists: dict[tuple[acl.Table, ...], int] = {(): 0}
        self._identity = {end.name: number for number, end in enumerate((*sources, *destinations))}
        self._edges = self._find_edges([*sources, *destinations])
        self._sources = self._points(sources)
        self._destinations = self._points(destinations)

    def play(self) -> tuple[Flags, Flags]:
        """For all pairs of ends: whether all packets pass, whether any does."""
        here, there = self._sources, self._destinations
        shape = (len(here.ends), len(there.ends), len(self._traffic))
        every, some = np.ones(shape, bool), np.zeros(shape, bool)
        standing = self._standing()
        columns = len(there) * len(self._traffic)
        step = max(1, PACKETS_AT_ONCE // max(1, columns))
        for first in range(0, len(here), step):
            rows = slice(first, first + step)
            passed = self._passed(rows, self._stages(rows, standing))
            # one row and column for each point, brought together by the ends that the points stand for
            place = np.ix_(here.owner[rows], there.owner, np.arange(len(self._traffic)))
            if here.single and there.single:
                every[place] = some[place] = passed
            else:
                np.logical_and.at(every, place, passed)
                np.logical_or.at(some, place, passed)
        return every & some, some

    # ---------------------------------------------------------------- points

    def _points(self, ends: Sequence[End]) -> _Points:
        owner: list[int] = []
        found: list[bytes] = []
        for number, end in enumerate(ends):
            for address in self._addresses(end):
                owner.append(number)
                found.append(address.packed.ljust(16, b"\0"))
        places = np.array(owner, np.int32)
        nodes = np.array([self._nodes.get(end.node, NO_NODE) for end in ends], np.int32)
        hosts = np.array([end.on_host for end in ends], bool)
        raw = np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)
        return _Points(ends, places, raw, nodes[places], hosts[places])

    def _addresses(self, end: End) -> Iterator[Address]:
        """The end's address, or one address of each part of its block."""
        if end.network is None:
            address = end.address(self._version)
            if address is not None:
                yield address
        elif end.network.version == self._version:
            first, last = end.network.value, end.network.value + end.network.size - 1
            for value in sorted({first, *(edge for edge in self._edges if first < edge <= last)}):
                yield Address(end.network.version, value)

    def _find_edges(self, ends: Sequence[End]) -> set[int]:
        """Where the lists' prefixes begin, and where what is behind them does."""
        if all(end.network is None for end in ends):
            return set()
        states = [self._tables.state(name) for name in dict.fromkeys(end.node for end in ends if end.node)]
        found = {table for state in states for each in state.lists.values() for table in (*each.input, *each.output)}
        edges: set[int] = set()
        for network in {n for table in found for rule in table.rules() for n in (rule.source, rule.destination)}:
            if network.version == self._version:
                edges |= {network.value, (network.value + network.size) % (1 << BITS[self._version])}
        return edges

    # ---------------------------------------------------------------- stages

    def _standing(self) -> _Standing:
        """The lists at every place that some packet passes."""
        tables = self._tables
        return _Standing(
            outside_in=self._by_node(lambda node: tables.hop(node, UPLINK, "input")),
            outside_out=self._by_node(lambda node: tables.hop(node, UPLINK, "output")),
            over_out=self._by_node(lambda node: tables.hop(node, BVI, "output")),
            over_in=self._by_node(lambda node: tables.hop(node, BVI, "input")),
            entry=self._by_end(self._sources, tables.entry),
            leave=self._by_end(self._destinations, tables.exit),
        )

    def _stages(self, rows: slice, lists: _Standing) -> list[Numbers]:
        """For each hop of a way, by pair of points, the number of the lists that stand there (0: open)."""
        here, there = self._sources.node[rows], self._destinations.node
        from_outside, to_outside = here[:, None] == NO_NODE, there[None, :] == NO_NODE
        far = (here[:, None] != there[None, :]) & ~from_outside & ~to_outside
        stages = [
            np.where(from_outside, lists.outside_in[there][None, :], lists.entry[rows, None]),
            np.where(far, lists.over_out[here][:, None], 0),
            np.where(far, lists.over_in[there][None, :], 0),
            np.where(to_outside, lists.outside_out[here][:, None], lists.leave[None, :]),
        ]
        kept = ~self._same(rows)
        return [stage * kept for stage in stages]

    def _same(self, rows: slice) -> Flags:
        """Pairs that never come to VPP: a pod with itself, hosts of one node, the outside with itself."""
        here, there = self._sources, self._destinations
        mine, theirs = (
            np.array([self._identity[end.name] for end in each.ends], np.int32)[each.owner] for each in (here, there)
        )
        same: Flags = mine[rows, None] == theirs[None, :]
        alike: Flags = here.node[rows, None] == there.node[None, :]
        hosts: Flags = here.host[rows, None] & there.host[None, :]
        outside: Flags = (here.node[rows, None] == NO_NODE) & alike
        return same | (alike & hosts) | outside

    def _by_node(self, find: Callable[[str], Hop]) -> Numbers:
        """By number of the node; the last place, which NO_NODE reads, is open."""
        involved = {end.node for points in (self._sources, self._destinations) for end in points.ends}
        found = [self._number(find(name)) if name in involved else 0 for name in self._nodes]
        return np.array([*found, 0], np.int32)

    def _by_end(self, points: _Points, find: Callable[[End], Hop]) -> Numbers:
        found = [0 if end.network is not None else self._number(find(end)) for end in points.ends]
        return np.array(found, np.int32)[points.owner]

    def _number(self, hop: Hop) -> int:
        return self._lists.setdefault(hop.lists, len(self._lists))

    # ---------------------------------------------------------------- packets

    def _passed(self, rows: slice, stages: Sequence[Numbers]) -> Flags:
        """Which packets of these sources pass all stages."""
        packets = self._packets(rows)
        passed = np.ones(packets.shape, bool)
        by_number = list(self._lists)
        for numbers in stages:
            for number in np.unique(numbers):
                if number:
                    where = numbers == number
                    seen = np.ascontiguousarray(packets[where]).reshape(-1)
                    actions, _, _ = acl.evaluate_lists_many(by_number[number], seen)
                    passed[where] &= (actions != acl.DENY).reshape(-1, len(self._traffic))
        return passed

    def _packets(self, rows: slice) -> NDArray[np.void]:
        source, destination = self._sources.address[rows], self._destinations.address
        packets = np.zeros((len(source), len(destination), len(self._traffic)), acl.PACKET_DTYPE)
        packets["version"] = self._version
        packets["source"] = source[:, None, None]
        packets["destination"] = destination[None, :, None]
        for number, traffic in enumerate(self._traffic):
            protocol, source_port, port = traffic.header(self._version)
            each = packets[:, :, number]
            each["protocol"], each["source_port"], each["destination_port"] = protocol, source_port, port
            each["tcp_flags"] = SYN if protocol == acl.TCP else 0
        return packets
