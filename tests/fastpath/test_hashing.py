"""Consistent hashing against slow readings of the same algorithms, and against the bounds of the Maglev paper."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contiv.fastpath import hashing
from contiv.model import kube

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
names = st.sets(st.binary(min_size=1, max_size=12), min_size=1, max_size=40).map(sorted)
primes = st.sampled_from([53, 101, 251, 509, 1021, 2039])


def mix(value: int) -> int:
    """SplitMix64's finalizer."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def paper(backends: list[int], size: int, weights: list[int]) -> list[int]:
    """The pseudo code of the Maglev paper, with turns in proportion to the weights."""
    order = [i for i in sorted(range(len(backends)), key=lambda i: (backends[i], i)) if weights[i]]
    credit = dict.fromkeys(order, 0)
    place = dict.fromkeys(order, 0)
    heaviest = max(weights)
    table = [-1] * size
    left = size
    while True:
        for i in order:
            credit[i] += weights[i]
            if credit[i] < heaviest:
                continue
            credit[i] -= heaviest
            offset, skip = mix(backends[i]) % size, mix(backends[i] ^ GOLDEN) % (size - 1) + 1
            while table[(offset + place[i] * skip) % size] >= 0:
                place[i] += 1
            table[(offset + place[i] * skip) % size] = i
            left -= 1
            if not left:
                return table


@settings(max_examples=60, deadline=None)
@given(names, primes, st.data())
def test_table_is_the_papers(backends: list[bytes], size: int, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(0, 5), min_size=len(backends), max_size=len(backends)).filter(any))
    prints = hashing.fingerprints(backends)
    table = hashing.maglev(prints, size, weights)
    assert table.tolist() == paper([int(each) for each in prints], size, weights)


@settings(max_examples=40, deadline=None)
@given(names, primes, st.randoms())
def test_table_does_not_depend_on_the_order(backends: list[bytes], size: int, random: object) -> None:
    shuffled = list(backends)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = hashing.maglev(hashing.fingerprints(backends), size)
    other = hashing.maglev(hashing.fingerprints(shuffled), size)
    assert [backends[i] for i in one] == [shuffled[i] for i in other]


@pytest.mark.parametrize("count", [2, 10, 250, 1000])
def test_load_is_even(count: int) -> None:
    """Section 5.3: at 65,537 entries the most loaded backend has little more than its share; ours differ by one."""
    table = hashing.maglev(hashing.fingerprints([b"%d" % i for i in range(count)]), hashing.TABLE_SIZE)
    shares = np.bincount(table, minlength=count)
    assert shares.max() - shares.min() <= 1
    assert shares.sum() == hashing.TABLE_SIZE


def test_load_follows_the_weights() -> None:
    weights = [1, 2, 4, 8, 0]
    table = hashing.maglev(hashing.fingerprints([b"a", b"b", b"c", b"d", b"e"]), hashing.TABLE_SIZE, weights)
    shares = np.bincount(table, minlength=5)
    assert shares[4] == 0
    np.testing.assert_allclose(shares[:4] / shares.sum(), np.array(weights[:4]) / 15, rtol=0.001)


def test_one_backend_less_moves_little_else() -> None:
    """Section 5.3, figure 12: of 1,000 backends one fails; at 65,537 entries few others change place."""
    backends = [b"10.1.%d.%d" % divmod(i, 256) for i in range(250)]
    before = hashing.maglev(hashing.fingerprints(backends), hashing.TABLE_SIZE)
    after = hashing.maglev(hashing.fingerprints(backends[:100] + backends[101:]), hashing.TABLE_SIZE)
    gone = before == 100
    renumbered = np.where(after >= 100, after + 1, after)
    moved = (renumbered != before) & ~gone
    assert gone.sum() == pytest.approx(hashing.TABLE_SIZE / 250, abs=1)
    assert moved.mean() < 0.02, f"{moved.mean():.2%} of the entries moved from one living backend to another"


def test_table_is_small_where_it_can_be() -> None:
    assert hashing.maglev(hashing.fingerprints([b"a", b"b"]), 251).dtype == np.uint16
    assert hashing.maglev(np.arange(65_537, dtype=np.uint64), 131_071).dtype == np.uint32


@pytest.mark.parametrize(
    ("backends", "size", "weights", "words"),
    [
        ([1, 2], 65_536, None, "no prime"),
        (range(300), 251, None, "do not fit"),
        ([], 251, None, "no backend has a weight"),
        ([1, 2], 251, [0, 0], "no backend has a weight"),
        ([1, 2], 251, [1], "give each its own"),
    ],
)
def test_impossible_tables_are_refused(backends: list[int], size: int, weights: list[int] | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hashing.maglev(np.array(backends, np.uint64), size, weights)


def test_primes() -> None:
    sieve = [n for n in range(2, 2000) if all(n % d for d in range(2, int(n**0.5) + 1))]
    assert [n for n in range(2000) if hashing.is_prime(n)] == sieve
    assert hashing.is_prime(hashing.TABLE_SIZE)
    assert not hashing.is_prime(65_537 * 65_521)


@given(st.lists(st.binary(max_size=40), unique=True, max_size=60))
def test_fingerprints_tell_names_apart(distinct: list[bytes]) -> None:
    prints = hashing.fingerprints(distinct)
    assert len(set(prints.tolist())) == len(distinct)
    assert prints.tolist() == [hashing.fingerprint(name) for name in distinct]


def test_fingerprint_bits_are_even() -> None:
    """Each input bit changes half of the output bits (avalanche)."""
    base = bytes(16)
    flips = [
        bin(
            hashing.fingerprint(base)
            ^ hashing.fingerprint(struct.pack("<QQ", *(1 << b if i == w else 0 for i in (0, 1))))
        ).count("1")
        for w in (0, 1)
        for b in range(64)
    ]
    assert 28 < np.mean(flips) < 36
    assert min(flips) > 12


@given(st.lists(st.binary(max_size=8), max_size=30), st.randoms())
def test_set_fingerprint_ignores_order_alone(members: list[bytes], random: object) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert hashing.set_fingerprint(shuffled) == hashing.set_fingerprint(members)
    assert hashing.set_fingerprint([*members, b"one more"]) != hashing.set_fingerprint(members)


# ---- selection


@given(st.lists(st.integers(0, MASK), unique=True, min_size=1, max_size=80), st.integers(0, MASK), st.integers(0, 90))
def test_selection_changes_by_one_when_one_leaves(elements: list[int], seed: int, keep: int) -> None:
    chosen = hashing.select(np.array(elements, np.uint64), seed, keep).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(keep, len(elements))
    for gone in chosen[:5]:
        rest = elements[:gone] + elements[gone + 1 :]
        again = {rest[i] for i in hashing.select(np.array(rest, np.uint64), seed, keep)}
        stayed = {elements[i] for i in chosen if i != gone}
        assert stayed <= again


def test_nodes_share_the_backends_evenly() -> None:
    elements = hashing.fingerprints([b"backend %d" % i for i in range(1000)])
    seen = np.zeros(1000, int)
    for node in range(400):
        seen[hashing.select(elements, node, 250)] += 1
    assert seen.sum() == 400 * 250
    assert seen.min() > 60  # 100 expected, standard deviation 8.7
    assert seen.max() < 145


# ---- packed backends

endpoint = st.tuples(st.integers(0, 300), st.integers(0, 255))
part = st.tuples(st.lists(endpoint, max_size=40), st.sampled_from([80, 443, 65_535]))


@settings(max_examples=200)
@given(st.lists(part, max_size=4), st.integers(0, 255), st.integers(0, 255), st.integers(1, 255))
def test_packed_backends_are_sorted_and_unique(
    parts: list[tuple[list[tuple[int, int]], int]], mask: int, heavy: int, weight: int
) -> None:
    want = mask & 0x55
    expected: dict[tuple[int, int], int] = {}
    for endpoints, port in parts:
        for address, flags in endpoints:
            if flags & mask == want:
                share = weight if flags & heavy else 1
                expected[address, port] = max(expected.get((address, port), 0), share)
    packed = hashing.pack_backends(
        [
            (b"".join(struct.pack(">I", a) for a, _ in endpoints), bytes(f for _, f in endpoints), port)
            for endpoints, port in parts
        ],
        mask,
        want,
        heavy=heavy,
        weight=weight,
    )
    assert [each[:3] for each in struct.iter_unpack(">IHBI", packed)] == [
        (address, port, share) for (address, port), share in sorted(expected.items())
    ]
    assert all(each[3] == 0 for each in struct.iter_unpack(">IHBI", packed))


def test_addresses_without_flags_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bytes are not 1 IPv4 addresses"):
        hashing.pack_backends([(bytes(8), bytes(1), 80)], 0, 0)


def records(weights: list[int]) -> bytes:
    return b"".join(struct.pack(">IHBI", i, 80, weight, 0) for i, weight in enumerate(weights))


@given(st.lists(st.sampled_from([1, 1, 1, 7]), max_size=400), st.integers(0, MASK))
def test_bounded_backends_are_a_share_in_order(weights: list[int], seed: int) -> None:
    packed = records(weights)
    bounded = hashing.bound_backends(packed, seed, 254)
    if sum(weights) <= 254:
        assert bounded == packed
        return
    kept = list(struct.iter_unpack(">IHBI", bounded))
    assert kept == sorted(set(kept))
    assert set(kept) <= set(struct.iter_unpack(">IHBI", packed))
    total = sum(each[2] for each in kept)
    assert 254 - 6 <= total <= 254
    if sum(w for w in weights if w == 7) <= 254:
        assert sum(each[2] == 7 for each in kept) == weights.count(7)


def test_bounded_backends_differ_by_node_and_stay_the_same() -> None:
    packed = records([1] * 1000)
    shares = [hashing.bound_backends(packed, seed, 254) for seed in range(20)]
    assert len(set(shares)) == 20
    assert shares[3] == hashing.bound_backends(packed, 3, 254)
    assert len(set().union(*(struct.iter_unpack(">IHBI", share) for share in shares))) > 990


def test_half_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="whole records"):
        hashing.bound_backends(bytes(12), 0, 1)


def test_flags_of_endpoints_are_those_of_this_node_and_zone() -> None:
    seen = [
        kube.Endpoint(address="10.1.1.2"),
        kube.Endpoint(address="10.1.1.3", node_name="here", zone="a", zones=("a", "b"), nodes=("there",)),
        kube.Endpoint(address="10.1.1.4", node_name="there", ready=False, terminating=True, zones=("b",)),
    ]
    flags = hashing.endpoint_flags(seen, bytes((1, 0, 1)), "here", "a")
    hinted = hashing.ZONE_HINTED | hashing.NODE_HINTED
    assert flags[0] == hashing.READY | hashing.LOCAL
    assert flags[1] == hashing.READY | hashing.LOCAL | hashing.SAME_ZONE | hinted | hashing.ZONE
    assert flags[2] == hashing.DRAINING | hashing.ZONE_HINTED
    assert hashing.endpoint_flags([], b"", "here", "") == b""
    with pytest.raises(ValueError, match="one each"):
        hashing.endpoint_flags(seen, bytes(2), "here", "a")


def test_addresses_of_endpoints_are_packed_with_the_network_around_them() -> None:
    texts = ["10.1.1.2", "", "10.2.0.1", "010.1.1.2"]
    networks = [(0x0A010000, 0xFFFF0000)]
    seen = [kube.Endpoint(address=text) for text in texts]
    packed = bytes((10, 1, 1, 2)) + bytes(4) + bytes((10, 2, 0, 1)) + bytes(4)
    within = bytes((0, hashing.UNREADABLE, 1, hashing.UNREADABLE))
    assert hashing.read_endpoints(seen, networks) == (packed, within)
    assert [hashing.ipv4(text) for text in texts] == [0x0A010102, None, 0x0A020001, None]


@given(st.binary())
def test_distinct_bytes_are_sorted(data: bytes) -> None:
    assert hashing.distinct(data) == bytes(sorted(set(data)))


@given(st.lists(st.integers(0, 127), max_size=12), st.integers(0, 255))
def test_weights_are_doubled_as_far_as_the_limit_goes(weights: list[int], limit: int) -> None:
    records = b"".join(bytes(6) + bytes((weight,)) + bytes(4) for weight in weights)
    doubled = hashing.double_weights(records, limit)
    fits = 2 * sum(weights) <= limit
    assert list(doubled[6 :: hashing.RECORD_SIZE]) == [weight * (2 if fits else 1) for weight in weights]
    assert len(doubled) == len(records)
