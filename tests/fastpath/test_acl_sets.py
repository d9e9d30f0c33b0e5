"""Sets of addresses and ports and what is allowed, against plain sets of Python."""

from __future__ import annotations

import copy
import ipaddress
import pickle
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contiv._fastpath.acl import SCTP, TCP, UDP, Allowed, Peers, Ports
from contiv.model.ip import Address, Network
from tests.fastpath import acl_oracle as oracle
from tests.fastpath import acl_values as values

Held = tuple[Peers, dict[int, oracle.Ranges]]


def members(peers: Peers) -> dict[int, set[int]]:
    """The addresses of the windows that are in the set, one by one."""
    return {v: {value for value in values.points(v) if Address(v, value) in peers} for v in (4, 6)}


def expected(ranges: dict[int, oracle.Ranges]) -> dict[int, set[int]]:
    return {v: {value for value in values.points(v) if oracle.within(ranges[v], value, value)} for v in (4, 6)}


def ends(peers: Peers) -> dict[int, oracle.Ranges]:
    """The ranges that the set's own networks make."""
    return values.ranges_of(peers.networks())


def cut(a: oracle.Ranges, b: oracle.Ranges, keep: Any) -> oracle.Ranges:
    """Set algebra over the stretches between all ends; ``keep`` says for each from whether it is in ``a`` and ``b``."""
    cuts = sorted({end for first, last in a + b for end in (first, last + 1)})
    return oracle.merged(
        (first, following - 1)
        for first, following in pairwise(cuts)
        if keep(oracle.within(a, first, first), oracle.within(b, first, first))
    )


@settings(max_examples=100, deadline=None)
@given(values.peers())
def test_a_set_holds_what_its_networks_hold(held: Held) -> None:
    peers, ranges = held
    assert members(peers) == expected(ranges)
    assert ends(peers) == ranges


@settings(max_examples=100, deadline=None)
@given(values.peers())
def test_networks_are_the_fewest(held: Held) -> None:
    peers, ranges = held
    found = peers.networks()
    least = [
        network
        for version, kind in ((4, ipaddress.IPv4Network), (6, ipaddress.IPv6Network))
        for network in ipaddress.collapse_addresses(
            kind(prefix) for ends_ in ranges[version] for prefix in oracle.cidrs(*ends_, oracle.BITS[version])
        )
    ]
    assert [(n.value, n.length) for n in found] == [(int(n.network_address), n.prefixlen) for n in least]
    assert len(peers) == len(found)
    assert peers.size == sum(n.num_addresses for n in least)


@settings(max_examples=150, deadline=None)
@given(values.peers(), values.peers())
def test_algebra_is_that_of_sets(one: Held, two: Held) -> None:
    (a, ra), (b, rb) = one, two
    operations = (
        (a.union(b), lambda x, y: x or y),
        (a.intersection(b), lambda x, y: x and y),
        (a.difference(b), lambda x, y: x and not y),
    )
    for result, keep in operations:
        wanted = {v: cut(ra[v], rb[v], keep) for v in (4, 6)}
        assert ends(result) == wanted
        assert result == Peers.of(result.networks())
        assert bool(result) == any(wanted.values())
    assert a.covers(b) == (b.difference(a) == Peers.NONE)
    assert a.isdisjoint(b) == (a.intersection(b) == Peers.NONE)
    assert (a == b) == (ra == rb)
    assert a != b or hash(a) == hash(b)


@settings(max_examples=100, deadline=None)
@given(st.lists(values.peers(4), max_size=12), st.randoms(use_true_random=False))
def test_union_of_many_does_not_depend_on_order(held: list[Held], rng: random.Random) -> None:
    sets = [peers for peers, _ in held]
    whole = Peers.union_of(sets)
    assert ends(whole) == {v: oracle.merged(e for _, ranges in held for e in ranges[v]) for v in (4, 6)}
    rng.shuffle(sets)
    assert Peers.of(sets) == Peers.NONE.union(*sets) == whole
    assert hash(Peers.of(sets)) == hash(whole)


@settings(max_examples=100, deadline=None)
@given(values.peers(), values.addresses())
def test_one_address_comes_and_goes(held: Held, address: Address) -> None:
    peers, _ = held
    more, less = peers.with_(address), peers.without(address)
    assert address in more
    assert address not in less
    assert more.without(address) == less
    assert less.with_([address]) == more
    assert (more is peers) == (address in peers)
    assert (less is peers) == (address not in peers)


def test_a_set_takes_every_way_of_writing_addresses() -> None:
    peers = Peers.of(
        ["10.0.0.1", "10.0.1.7/24", Address.parse("fd00::1"), Network.parse("fd01::/64"), Peers.of("1.2.3.4")]
    )
    assert [str(n) for n in peers] == ["1.2.3.4/32", "10.0.0.1/32", "10.0.1.0/24", "fd00::1/128", "fd01::/64"]
    assert Network.parse("10.0.1.128/25") in peers
    assert "10.0.0.0/23" not in peers
    assert [str(n) for n in peers.family(6)] == ["fd00::1/128", "fd01::/64"]
    assert peers.family(4).union(peers.family(6)) == peers
    assert Peers.of("10.0.0.5/8") == Peers.of(["10.0.0.0/9", "10.128.0.0/9"])


def test_addresses_come_from_arrays() -> None:
    four = np.array([0x0A000002, 0x0A000001, 0xFFFFFFFF, 0], np.uint32)
    six = np.frombuffer(Address.parse("fd00::2").packed + Address.parse("fd00::3").packed, np.uint8).reshape(2, 16)
    peers = Peers.from_arrays(v4=four, v6=six)
    assert peers == Peers.of(["0.0.0.0", "10.0.0.1", "10.0.0.2", "255.255.255.255", "fd00::2/127"])
    assert Peers.from_arrays(v4=four[::2]) == Peers.of(["10.0.0.2", "255.255.255.255"])
    assert Peers.from_arrays() == Peers.NONE


def test_everything_and_nothing() -> None:
    assert Peers.of(["0.0.0.0/0", "::/0"]) == Peers.ANY
    assert Peers.ANY.allows_everything
    assert not Peers.of("0.0.0.0/0").allows_everything
    assert Peers.ANY.difference(Peers.ANY) == Peers.NONE == Peers.of([])
    assert not Peers.NONE
    assert Peers.ANY.size == 2**32 + 2**128
    assert Peers.ANY.difference(Peers.of("::1")).with_("::1").allows_everything


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("10.0.0.256", ValueError),
        ("10.0.0.0/33", ValueError),
        ("", ValueError),
        ("fd00::1/129", ValueError),
        (Address(4, 1 << 32), ValueError),
        (Address(4, -1), ValueError),
        (Address(6, 1 << 128), ValueError),
        (Address(6, -1), ValueError),
        (Address(oracle.as_any(5), 1), ValueError),
        (Network(4, 0, 33), ValueError),
        (Network(6, 0, -1), ValueError),
        (Network(4, 0, 2**40), ValueError),
        (Address(oracle.as_any("4"), 1), TypeError),
        (Address(4, oracle.as_any(None)), TypeError),
        (7, TypeError),
        (None, TypeError),
        (b"\1\2\3\4", TypeError),
        ("10.0.0.1\0", ValueError),
        ("1\ud800", ValueError),
    ],
)
def test_what_is_no_address_is_refused(item: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Peers.of([item])
    with pytest.raises(error):
        Peers.ANY.with_([item])
    with pytest.raises(error):
        _ = item in Peers.ANY


def test_arrays_of_other_types_are_refused() -> None:
    for wrong in (np.zeros(2, np.int64), np.zeros((2, 2), np.uint32)):
        with pytest.raises(ValueError, match="v4"):
            Peers.from_arrays(v4=oracle.as_any(wrong))
    for wrong in (np.zeros((2, 4), np.uint8), np.zeros(16, np.uint8), np.zeros((2, 16), np.uint16)):
        with pytest.raises(ValueError, match="v6"):
            Peers.from_arrays(v6=oracle.as_any(wrong))


def test_a_set_is_small() -> None:
    assert Peers.of([f"10.0.{i >> 8}.{i & 255}" for i in range(0, 4096, 2)]).nbytes == 8 * 2048
    assert Peers.of([f"10.0.{i >> 8}.{i & 255}" for i in range(4096)]).nbytes == 8


# ---- ports ----


def keys() -> list[tuple[int, int]]:
    return [(protocol, port) for protocol in (0, *values.PROTOCOLS, 255) for port in values.PORTS]


@settings(max_examples=150, deadline=None)
@given(values.ports(), values.ports())
def test_ports_are_sets(one: tuple[Ports, oracle.Ranges], two: tuple[Ports, oracle.Ranges]) -> None:
    (a, ra), (b, rb) = one, two
    union, both = a.union(b), a.intersection(b)
    for protocol, port in keys():
        key = protocol << 16 | port
        in_a, in_b = oracle.within(ra, key, key), oracle.within(rb, key, key)
        assert a.contains(protocol, port) == in_a
        assert union.contains(protocol, port) == (in_a or in_b)
        assert both.contains(protocol, port) == (in_a and in_b)
    assert a.covers(b) == (union == a)
    assert a.isdisjoint(b) == (not both)
    assert (a == b) == (ra == rb)
    assert a != b or hash(a) == hash(b)
    assert a == Ports.ANY or Ports.of(a.ranges()) == a
    assert len(a) == len(a.ranges())


def test_ports_merge_within_and_count_protocols_apart() -> None:
    assert Ports.of([(TCP, 80, 80), (TCP, 81, 90), (TCP, 85, 99)]).ranges() == [(TCP, 80, 99)]
    assert Ports.of([TCP, UDP, 7]).ranges() == [(6, 0, 65535), (7, 0, 65535), (17, 0, 65535)]
    assert Ports.of(range(1, 256)) != Ports.ANY
    assert Ports.of(range(1, 256)).union(Ports.ANY) == Ports.ANY
    assert Ports.ANY.ranges() == [(0, 0, 65535)]


def test_ports_that_vpp_cannot_tell_apart_are_named() -> None:
    ports = Ports.of([(TCP, 80, 80), (SCTP, 80, 90), (SCTP, 3868, 3868)])
    assert ports.blurred == [(SCTP, 80, 90), (SCTP, 3868, 3868)]
    for whole in ([SCTP], [(SCTP, 1, 65535)], [(TCP, 1, 2)], []):
        assert Ports.of(whole).blurred == []
    assert Ports.ANY.blurred == []


@pytest.mark.parametrize(
    "item", [(0, 1, 2), (256, 1, 2), (-1, 1, 2), (6, 2, 1), (6, 0, 65536), (6, -1, 5), 0, 256, (6, 1)]
)
def test_what_are_no_ports_are_refused(item: Any) -> None:
    with pytest.raises(ValueError, match=r"is not in 1\.\.255|no range within|expected"):
        Ports.of([item])


# ---- what is allowed ----


def says(boxes: values.Boxes, version: int, address: int, key: int) -> bool:
    return any(
        oracle.within(addresses[version], address, address) and oracle.within(ports, key, key)
        for addresses, ports in boxes
    )


@settings(max_examples=40, deadline=None)
@given(values.allowed(), st.lists(st.tuples(values.addresses(), st.sampled_from(keys())), min_size=20, max_size=20))
def test_allowed_is_the_union_of_its_boxes(
    held: tuple[Allowed, values.Boxes], asked: list[tuple[Address, tuple[int, int]]]
) -> None:
    allowed, boxes = held
    for address, (protocol, port) in asked:
        wanted = says(boxes, address.version, address.value, protocol << 16 | port)
        assert allowed.contains(address, protocol, port) == wanted
        assert allowed.toward(address).contains(protocol, port) == wanted
        assert (address in allowed.sources_of(protocol, port)) == wanted
        assert (str(address) in allowed.peers_with(Ports.of([(protocol, port, port)] if protocol else []))) == (
            wanted or not protocol
        )
    assert allowed.toward_all([a for a, _ in asked]) == [allowed.toward(a) for a, _ in asked]


@settings(max_examples=40, deadline=None)
@given(values.allowed(), values.allowed(), st.lists(values.addresses(), min_size=20, max_size=20))
def test_allowed_unites_and_intersects_address_by_address(
    one: tuple[Allowed, values.Boxes], two: tuple[Allowed, values.Boxes], asked: list[Address]
) -> None:
    (a, boxes_a), (b, boxes_b) = one, two
    union, both = a.union(b), a.intersection(b)
    for address in asked:
        assert union.toward(address) == a.toward(address).union(b.toward(address))
        assert both.toward(address) == a.toward(address).intersection(b.toward(address))
        for protocol, port in keys():
            key = protocol << 16 | port
            in_a = says(boxes_a, address.version, address.value, key)
            in_b = says(boxes_b, address.version, address.value, key)
            assert both.contains(address, protocol, port) == (in_a and in_b)
    assert a.covers(b) == (union == a)
    assert union.covers(a)
    assert a.covers(both)
    assert (a == b) == (a.covers(b) and b.covers(a))
    assert a != b or hash(a) == hash(b)


@settings(max_examples=40, deadline=None)
@given(values.allowed(6), st.randoms(use_true_random=False))
def test_allowed_is_the_same_however_it_was_made(held: tuple[Allowed, values.Boxes], rng: random.Random) -> None:
    allowed, _ = held
    boxes = allowed.boxes()
    assert Allowed.of(boxes) == allowed
    assert len(boxes) == len(allowed) == len({ports for _, ports in boxes})
    assert Peers.union_of(peers for peers, _ in boxes) == allowed.peers
    assert sum(peers.size for peers, _ in boxes) == allowed.peers.size
    single = [Allowed.of([(Peers.of(network), ports)]) for peers, ports in boxes for network in peers]
    rng.shuffle(single)
    again = Allowed.union_of(single)
    assert again == allowed
    assert hash(again) == hash(allowed)
    assert again.boxes() == boxes


def test_allowed_everything_and_nothing() -> None:
    assert Allowed.of([(Peers.ANY, Ports.ANY)]) == Allowed.ANY
    assert Allowed.ANY.covers_all
    assert Allowed.of([(Peers.of(n), Ports.ANY) for n in ("0.0.0.0/1", "128.0.0.0/1", "::/0")]).covers_all
    assert not Allowed.of([(Peers.of("0.0.0.0/0"), Ports.ANY)]).covers_all
    assert Allowed.of([(Peers.NONE, Ports.ANY), (Peers.ANY, Ports.NONE)]) == Allowed.NONE == Allowed.of([])
    assert not Allowed.NONE
    assert Allowed.ANY.intersection(Allowed.NONE) == Allowed.NONE
    assert Allowed.NONE.peers_with(Ports.NONE) == Peers.ANY
    assert Allowed.NONE.toward("10.0.0.1") == Ports.NONE


@pytest.mark.parametrize("held", [Peers.of(["10.0.0.0/8", "fd00::1"]), Peers.ANY, Ports.of([(TCP, 1, 9)]), Ports.ANY])
def test_values_survive_copying(held: Any) -> None:
    for again in (pickle.loads(pickle.dumps(held)), copy.deepcopy(held)):
        assert again == held
        assert hash(again) == hash(held)


def test_wrong_types_are_refused() -> None:
    peers, ports = oracle.as_any(Peers), oracle.as_any(Ports)
    allowed = oracle.as_any(Allowed)
    for call in (
        lambda: peers.ANY.union(ports.ANY),
        lambda: peers.ANY.intersection(None),
        lambda: peers.union_of([1]),
        lambda: ports.ANY.union(peers.ANY),
        lambda: ports.of([None]),
        lambda: allowed.of([(ports.ANY, peers.ANY)]),
        lambda: allowed.ANY.union(peers.ANY),
        lambda: allowed.ANY.covers(None),
        lambda: allowed.ANY.toward(17),
    ):
        with pytest.raises(TypeError):
            call()
    for refused in (lambda: Allowed.ANY.toward("10.0.0.0/8"), lambda: Allowed.ANY.contains("::", 6, 65536)):
        with pytest.raises(ValueError, match=r"address expected|no protocol and port"):
            refused()
    for other in (1, None, Ports.ANY):
        assert other not in (Peers.ANY, Allowed.ANY)
