"""Longest prefix match against brute force, sources of one prefix, recursion."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from plane import Plane, ip

from contiv.emulator.vpp.fib import Contribution, EntryFlag, Path, PathType
from contiv.emulator.vpp.sources import ADJACENCY, API, CLI, DEFAULT_ROUTE, INTERFACE, SPECIAL

PREFIXES = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: (pair[0] >> (32 - pair[1]) << (32 - pair[1]), pair[1])
)


@settings(max_examples=80, deadline=None)
@given(st.lists(PREFIXES, max_size=40, unique=True), st.data())
def test_longest_prefix_wins(prefixes: list[tuple[int, int]], data: st.DataObject) -> None:
    plane = Plane()
    port = plane.port("p", b"\x02\0\0\0\0\1")
    fib = plane.machine.fib(4, 0)
    removed = set(data.draw(st.lists(st.sampled_from(prefixes), max_size=10))) if prefixes else set()
    for value, length in prefixes:
        contribution = Contribution((Path(port.index, (value | 1) & 0xFFFFFFFF),))
        fib.put(value, length, source=API, contribution=contribution)
    for value, length in removed:
        assert fib.drop_source(value, length, source=API)
    left = set(fib.entries)
    near = [value for value, _ in prefixes] + [value + (1 << 32 - length) - 1 for value, length in prefixes]
    for address in [*near, data.draw(st.integers(0, 2**32 - 1))]:
        expected = max((key for key in left if address >> (32 - key[1]) == key[0] >> (32 - key[1])), key=lambda k: k[1])
        found = fib.match(address)
        assert (found.value, found.length) == expected
        fib.lookup(address)
        assert fib.lookup(address) is plane.graph.family4.resolver.forwarding(found)


def test_best_source_forwards_and_the_next_takes_over() -> None:
    plane = Plane()
    fib = plane.machine.fib(4, 0)
    number = plane.machine.add_source("contiv", 0x7F)
    ours = plane.machine.source(number)
    order = [SPECIAL, INTERFACE, ours, API, CLI, ADJACENCY, DEFAULT_ROUTE]
    assert sorted(order) == order
    hops = {source: position + 1 for position, source in enumerate(order)}
    for source in reversed(order):
        entry = fib.put(ip("10.0.0.0"), 8, source=source, contribution=Contribution((Path(1, hops[source]),)))
        assert entry.best == source
    for source in order[:-1]:
        fib.drop_source(ip("10.0.0.0"), 8, source=source)
        assert entry.contribution.paths[0].next_hop == hops[order[order.index(source) + 1]]


def test_recursive_next_hop_follows_its_route() -> None:
    plane = Plane()
    port = plane.port("p", b"\x02\0\0\0\0\1", address="10.1.1.1/24")
    plane.neighbour(port, "10.1.1.9", b"\x02\0\0\0\0\x09")
    plane.route("10.50.0.0/16", Path(next_hop=ip("10.1.1.9")))
    plane.route("10.60.0.0/16", Path(next_hop=ip("10.50.1.1")))
    adjacency = plane.machine.fib(4, 0).lookup(ip("10.60.7.7"))
    assert (adjacency.kind, adjacency.next_hop) == ("rewrite", ip("10.1.1.9"))


def test_recursion_in_a_circle_drops() -> None:
    plane = Plane()
    plane.route("10.50.0.0/16", Path(next_hop=ip("10.60.1.1")))
    plane.route("10.60.0.0/16", Path(next_hop=ip("10.50.1.1")))
    assert plane.machine.fib(4, 0).lookup(ip("10.60.7.7")).kind == "drop"


def test_route_over_an_interface_that_is_down_drops() -> None:
    plane = Plane()
    port = plane.port("p", b"\x02\0\0\0\0\1", address="10.1.1.1/24")
    plane.route("10.50.0.0/16", Path(port.index, ip("10.1.1.9")))
    fib = plane.machine.fib(4, 0)
    assert fib.lookup(ip("10.50.1.1")).kind == "arp"
    plane.machine.set_admin(port, up=False)
    assert fib.lookup(ip("10.50.1.1")).kind == "drop"
    plane.machine.set_admin(port, up=True)
    assert fib.lookup(ip("10.50.1.1")).kind == "arp"


def test_flows_spread_over_equal_paths_and_stay_on_theirs() -> None:
    plane = Plane()
    port = plane.port("p", b"\x02\0\0\0\0\1", address="10.1.1.1/24")
    paths = (Path(port.index, ip("10.1.1.8"), weight=1), Path(port.index, ip("10.1.1.9"), weight=3))
    plane.route("10.50.0.0/16", *paths)
    buckets = plane.machine.fib(4, 0).lookup(ip("10.50.1.1")).buckets
    assert sorted(bucket.next_hop for bucket in buckets) == [ip("10.1.1.8")] + [ip("10.1.1.9")] * 3


def test_unnumbered_interface_installs_its_neighbours() -> None:
    plane = Plane()
    lender = plane.port("lender", b"\x02\0\0\0\0\1", address="10.1.1.1/24")
    borrower = plane.port("borrower", b"\x02\0\0\0\0\2")
    plane.machine.set_unnumbered(borrower, lender)
    plane.neighbour(borrower, "10.1.1.9", b"\x02\0\0\0\0\x09")
    adjacency = plane.machine.fib(4, 0).lookup(ip("10.1.1.9"))
    assert adjacency.interface is borrower


def test_tables_begin_with_drops() -> None:
    plane = Plane()
    plane.machine.add_table(4, 7, name="x")
    entries = plane.machine.fib(4, 7).entries
    assert {(value, length) for value, length in entries} == {
        (0, 0), (0, 32), (0xE0000000, 4), (0xF0000000, 4), (0xFFFFFFFF, 32)
    }  # fmt: skip
    assert all(entry.contribution.flags & EntryFlag.DROP for entry in entries.values())
    assert all(entry.contribution.paths[0].type is PathType.DROP for entry in entries.values())
