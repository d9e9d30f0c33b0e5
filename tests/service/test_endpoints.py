"""Slices to packed endpoints, and who serves: kube-proxy's table of cases, clause by clause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.model.ip import Address
from contiv.service.endpoints import (
    DRAINING,
    LOCAL,
    NODE,
    NODE_HINTED,
    READY,
    SAME_ZONE,
    ZONE,
    ZONE_HINTED,
    choose,
    parse,
    ready_here,
)
from tests.service.builders import NODE as VIEW
from tests.service.builders import endpoint, slice_

HERE = "node-1"


def flags_of(**fields: object) -> int:
    """The flags of one endpoint, seen from node-1."""
    parsed = parse(slice_(endpoint("10.1.2.5", **fields)), VIEW.place)
    assert parsed is not None
    return parsed.flags[0]


def chosen(*kinds: int, local: bool = False, publish: bool = False, wish: str = "") -> list[int]:
    """Which of the endpoints serve."""
    choice = choose(kinds, local=local, publish_not_ready=publish, distribution=wish)
    return [] if choice is None else [number for number, kind in enumerate(kinds) if kind & choice[0] == choice[1]]


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, READY),
        ({"ready": False}, 0),
        ({"ready": False, "serving": True, "terminating": True}, DRAINING),
        ({"ready": False, "serving": False, "terminating": True}, 0),
        ({"ready": True, "serving": True, "terminating": True}, READY),
        ({"node": HERE}, READY | LOCAL),
        ({"node": "node-2"}, READY),
        ({"nodes": (HERE, "node-2")}, READY | NODE_HINTED | NODE),
        ({"nodes": ("node-2",)}, READY | NODE_HINTED),
        ({"zones": ("a",)}, READY | ZONE_HINTED),
    ],
)
def test_conditions_and_places_become_flags(fields: dict[str, object], flags: int) -> None:
    assert flags_of(**fields) == flags


def test_an_endpoint_without_a_node_is_local_by_its_address() -> None:
    parsed = parse(slice_(endpoint("10.1.1.7"), endpoint("192.168.16.1"), endpoint("10.1.2.7")), VIEW.place)
    assert parsed is not None
    assert list(parsed.flags) == [READY | LOCAL, READY | LOCAL, READY]
    assert ready_here([parsed]) == 2


@pytest.mark.parametrize(
    "address",
    [
        "",
        "10.1.1",
        "10.1.1.256",
        "10.1.1.05",
        "10.1.1.1.1",
        "pod",
        " 10.1.1.1",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "10.96.0.1",
        "fd00::1",
    ],
)
def test_impossible_addresses_are_reported_and_the_others_serve(address: str) -> None:
    parsed = parse(slice_(endpoint(address), endpoint("10.1.2.5")), VIEW.place)
    assert parsed is not None
    assert parsed.addresses == bytes((10, 1, 2, 5))
    assert len(parsed.flags) == 1
    (fault,) = parsed.faults
    assert (fault.object, fault.field) == ("EndpointSlice default/web-1", "endpoints[0].addresses[0]")


@given(st.integers(1 << 24, (127 << 24) - 1))
def test_every_written_address_is_read_as_it_is(value: int) -> None:
    address = Address(4, value)
    parsed = parse(slice_(endpoint(str(address))), VIEW.place)
    assert parsed is not None
    if address not in VIEW.services:
        assert parsed.addresses == address.packed


def test_ipv6_slices_are_read_and_names_are_not() -> None:
    parsed = parse(slice_(endpoint("fd00::5"), endpoint("10.1.1.1"), address_type="IPv6"), VIEW.place)
    assert parsed is not None
    assert parsed.addresses == Address.parse("fd00::5").packed
    assert len(parsed.faults) == 1
    assert parse(slice_(endpoint("example.org"), address_type="FQDN"), VIEW.place) is None


@pytest.mark.parametrize(
    ("kinds", "options", "expected"),
    [
        # semantics 2: ready ones; without any, those that drain; publishNotReadyAddresses makes all ready
        ((READY, 0, DRAINING), {}, [0]),
        ((0, DRAINING, DRAINING), {}, [1, 2]),
        ((0, 0), {}, []),
        ((), {}, []),
        ((0, READY, DRAINING), {"publish": True}, [0, 1, 2]),
        # semantics 5 and 6: Local means this node's, ready or draining, and nobody else's
        ((READY, READY | LOCAL), {"local": True}, [1]),
        ((READY, DRAINING | LOCAL), {"local": True}, [1]),
        ((READY, 0 | LOCAL), {"local": True}, []),
        ((READY | LOCAL | ZONE_HINTED, READY | ZONE_HINTED | ZONE), {"local": True}, [0]),
        # semantics 9: hints count when every ready endpoint has some and one fits
        ((READY | ZONE_HINTED | ZONE, READY | ZONE_HINTED), {}, [0]),
        ((READY | ZONE_HINTED | ZONE, READY), {}, [0, 1]),
        ((READY | ZONE_HINTED, READY | ZONE_HINTED), {}, [0, 1]),
        ((READY | ZONE_HINTED | ZONE, READY | ZONE_HINTED, 0), {}, [0]),
        ((READY | NODE_HINTED | NODE | ZONE_HINTED | ZONE, READY | NODE_HINTED | ZONE_HINTED | ZONE), {}, [0]),
        ((READY | NODE_HINTED | ZONE_HINTED | ZONE, READY | NODE_HINTED | ZONE_HINTED), {}, [0]),
        # without hints the service's wish, as far as somebody fits
        ((READY | LOCAL, READY | SAME_ZONE, READY), {"wish": "PreferSameNode"}, [0]),
        ((READY, READY | SAME_ZONE, READY), {"wish": "PreferSameNode"}, [1]),
        ((READY | LOCAL, READY | SAME_ZONE), {"wish": "PreferSameZone"}, [1]),
        ((READY, READY | SAME_ZONE), {"wish": "PreferClose"}, [1]),
        ((READY, READY), {"wish": "PreferSameZone"}, [0, 1]),
        ((READY | SAME_ZONE, READY), {"wish": "something new"}, [0, 1]),
    ],
)
def test_who_serves(kinds: tuple[int, ...], options: dict[str, object], expected: list[int]) -> None:
    assert chosen(*kinds, **options) == expected  # type: ignore[arg-type]


@given(
    st.lists(st.integers(0, 255), max_size=12), st.booleans(), st.booleans(), st.sampled_from(["", "PreferSameNode"])
)
def test_somebody_serves_whenever_somebody_could(kinds: list[int], local: bool, publish: bool, wish: str) -> None:
    found = chosen(*kinds, local=local, publish=publish, wish=wish)
    in_scope = [kind for kind in kinds if not local or kind & LOCAL]
    could = [kind for kind in in_scope if publish or kind & (READY | DRAINING)]
    assert bool(found) == bool(could)
    assert all(kinds[number] in could for number in found)
    if any(kind & READY for kind in could) and not publish:
        assert all(kinds[number] & READY for number in found)
