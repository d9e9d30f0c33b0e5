"""NAT44-ED's requests and dumps on both data planes: what is refused and by which name, and what is told afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from nat_wires import (
    ADDRESS_ONLY,
    INSIDE,
    OUT2IN_ONLY,
    OUTSIDE,
    SCTP,
    SELF_TWICE_NAT,
    TCP,
    TWICE_NAT,
    UDP,
    local,
)
from topology import NO_INDEX, clean, loopback

import contiv.vpp
from contiv.vpp.errors import retval_name

pytestmark = pytest.mark.root

VIP = "10.96.0.1"
NOWHERE = "0.0.0.0"


@pytest.fixture
async def nat(vpp: contiv.vpp.Vpp) -> AsyncIterator[contiv.vpp.Vpp]:
    """NAT44-ED enabled with defaults; off afterwards, whatever a test did."""
    await vpp.call("nat44_ed_plugin_enable_disable", enable=True)
    yield vpp
    await vpp.call("nat44_ed_plugin_enable_disable", check=False, enable=False)
    await clean(vpp)


def balanced(*backends: str, add: bool = True, flags: int = OUT2IN_ONLY, port: int = 80, **more: Any) -> dict[str, Any]:
    """Fields of nat44_add_del_lb_static_mapping."""
    locals_ = [local(address, 8080, 1) for address in backends]
    return {
        "is_add": add, "flags": flags, "external_addr": VIP, "external_port": port, "protocol": TCP, "affinity": 0,
        "tag": "t", "local_num": len(locals_), "locals": locals_, **more,
    }  # fmt: skip


def member(address: str, *, add: bool, port: int = 80, **more: Any) -> dict[str, Any]:
    """Fields of nat44_lb_static_mapping_add_del_local."""
    return {
        "is_add": add, "external_addr": VIP, "external_port": port, "protocol": TCP,
        "local": local(address, 8080, 1), **more,
    }  # fmt: skip


def static(
    *, add: bool = True, flags: int = 0, to: str = "10.1.1.2", port: int = 80, protocol: int = TCP
) -> dict[str, Any]:
    """Fields of nat44_add_del_static_mapping_v2."""
    return {
        "is_add": add, "match_pool": False, "flags": flags, "pool_ip_address": NOWHERE, "local_ip_address": to,
        "external_ip_address": VIP, "protocol": protocol, "local_port": 8080, "external_port": port,
        "external_sw_if_index": NO_INDEX, "vrf_id": 0, "tag": "s",
    }  # fmt: skip


def identity(address: str, *, add: bool = True, flags: int = 0, vrf_id: int = 0) -> dict[str, Any]:
    """Fields of nat44_add_del_identity_mapping."""
    return {
        "is_add": add, "flags": flags, "ip_address": address, "protocol": UDP, "port": 4789, "sw_if_index": NO_INDEX,
        "vrf_id": vrf_id, "tag": "i",
    }  # fmt: skip


def span(first: str, last: str = "", *, add: bool = True, flags: int = 0) -> dict[str, Any]:
    """Fields of nat44_add_del_address_range."""
    last = last or first
    return {"first_ip_address": first, "last_ip_address": last, "vrf_id": NO_INDEX, "is_add": add, "flags": flags}


LB, MEMBER = "nat44_add_del_lb_static_mapping", "nat44_lb_static_mapping_add_del_local"
STATIC, IDENTITY, RANGE = (
    "nat44_add_del_static_mapping_v2", "nat44_add_del_identity_mapping", "nat44_add_del_address_range",
)  # fmt: skip
A, B, C = "10.1.1.2", "10.1.1.3", "10.1.1.4"
SESSION = {"address": A, "protocol": TCP, "port": 1, "vrf_id": 0, "flags": 0, "ext_host_address": B, "ext_host_port": 2}

DIALOGUES: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "twice on": [("nat44_ed_plugin_enable_disable", {"enable": True}, "FEATURE_ALREADY_ENABLED")],
    "modes of old": [
        ("nat44_ed_plugin_enable_disable", {"enable": False}, ""),
        ("nat44_ed_plugin_enable_disable", {"enable": False}, "FEATURE_ALREADY_DISABLED"),
        ("nat44_ed_plugin_enable_disable", {"enable": True, "flags": 2}, "UNSUPPORTED"),
        ("nat44_ed_plugin_enable_disable", {"enable": True, "flags": 4}, "UNSUPPORTED"),
        ("nat44_ed_plugin_enable_disable", {"enable": True}, ""),
    ],
    "off": [
        ("nat44_ed_plugin_enable_disable", {"enable": False}, ""),
        (LB, balanced(A, B), "UNSUPPORTED"),
        (MEMBER, member(A, add=True), "UNSUPPORTED"),
        (STATIC, static(), "UNSUPPORTED"),
        (IDENTITY, identity(A), "UNSUPPORTED"),
        (RANGE, span(A), "UNSUPPORTED"),
        (RANGE, span(A, add=False), "NO_SUCH_ENTRY"),
        ("nat44_del_session", SESSION, "UNSUPPORTED"),
        ("nat44_forwarding_enable_disable", {"enable": True}, ""),
    ],
    "addresses": [
        (RANGE, span("10.9.0.1", "10.9.0.3"), ""),
        (RANGE, span("10.9.0.2"), "VALUE_EXIST"),
        (RANGE, span("10.9.0.2", flags=TWICE_NAT), ""),
        (RANGE, span("10.9.0.2", flags=TWICE_NAT), "VALUE_EXIST"),
        (RANGE, span("10.9.0.2", add=False), ""),
        (RANGE, span("10.9.0.2", add=False), "NO_SUCH_ENTRY"),
        (RANGE, span("10.9.0.1", "10.9.0.3", add=False), "NO_SUCH_ENTRY"),
    ],
    "a balanced mapping": [
        (LB, balanced(A), "INVALID_VALUE"),
        (LB, balanced(), "INVALID_VALUE"),
        (LB, balanced(A, B), ""),
        (LB, balanced(A, B), "VALUE_EXIST"),
        (STATIC, static(), "VALUE_EXIST"),
        (MEMBER, member(A, add=True), "VALUE_EXIST"),
        (MEMBER, member(A, add=False), "UNSPECIFIED"),
        (MEMBER, member(C, add=False), "NO_SUCH_ENTRY"),
        (MEMBER, member(C, add=True), ""),
        (MEMBER, member(A, add=False), ""),
        (MEMBER, member(C, add=False), "UNSPECIFIED"),
        (LB, balanced(add=False), ""),
        (LB, balanced(add=False), "NO_SUCH_ENTRY"),
        (MEMBER, member(C, add=True), "NO_SUCH_ENTRY"),
    ],
    "a balanced mapping both ways needs a pool address": [
        (LB, balanced(A, B, flags=0), "NO_SUCH_ENTRY"),
        (RANGE, span(VIP), ""),
        (LB, balanced(A, B, flags=0), ""),
        (LB, balanced(flags=0, add=False), ""),
    ],
    "a static mapping": [
        (STATIC, static(), ""),
        (STATIC, static(to=B), "VALUE_EXIST"),
        (STATIC, static(port=81), "VALUE_EXIST"),
        (STATIC, static(port=81, flags=OUT2IN_ONLY), ""),
        (LB, balanced(add=False), "INVALID_VALUE"),
        (MEMBER, member(A, add=True), "INVALID_VALUE"),
        (STATIC, static(add=False), ""),
        (STATIC, static(add=False), "NO_SUCH_ENTRY"),
        (STATIC, static(flags=ADDRESS_ONLY | TWICE_NAT), "UNSUPPORTED"),
        (STATIC, static(flags=ADDRESS_ONLY | SELF_TWICE_NAT), "UNSUPPORTED"),
        (STATIC, static(flags=ADDRESS_ONLY), ""),
        (STATIC, static(flags=ADDRESS_ONLY, port=90), "VALUE_EXIST"),
    ],
    "an identity": [
        (IDENTITY, identity(A), ""),
        (IDENTITY, identity(A), "VALUE_EXIST"),
        (IDENTITY, identity(A, vrf_id=7), ""),
        (IDENTITY, identity(A, flags=ADDRESS_ONLY), ""),
        (IDENTITY, identity(A, add=False, vrf_id=8), "NO_SUCH_ENTRY"),
        (IDENTITY, identity(A, add=False), ""),
        (IDENTITY, identity(A, add=False), "NO_SUCH_ENTRY"),
        (IDENTITY, identity(A, add=False, vrf_id=7), ""),
        (IDENTITY, identity(A, add=False, vrf_id=7), "NO_SUCH_ENTRY"),
    ],
    "sessions": [
        ("nat44_del_session", SESSION, "NO_SUCH_ENTRY"),
        ("nat44_set_session_limit", {"session_limit": 5, "vrf_id": 0}, ""),
        ("nat44_set_session_limit", {"session_limit": 5, "vrf_id": 4242}, "UNSPECIFIED"),
        ("nat_set_workers", {"worker_mask": 1}, "FEATURE_DISABLED"),
        ("nat44_ed_set_fq_options", {"frame_queue_nelts": 32}, "FEATURE_ALREADY_ENABLED"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("subject", DIALOGUES)
async def test_answers(nat: contiv.vpp.Vpp, subject: str) -> None:
    for name, fields, wanted in DIALOGUES[subject]:
        retval = (await nat.call(name, check=False, **fields)).retval
        assert (retval_name(retval) if retval else "") == wanted, (name, fields)


async def test_interfaces_have_one_kind_of_feature(nat: contiv.vpp.Vpp) -> None:
    index = await loopback(nat, 1, "02:fe:00:00:00:01", "10.8.0.1/24")
    feature, output = "nat44_interface_add_del_feature", "nat44_ed_add_del_output_interface"
    for name, more, wanted in (
        (feature, {"is_add": True, "flags": INSIDE, "sw_if_index": 4242}, "INVALID_SW_IF_INDEX"),
        (output, {"is_add": True, "sw_if_index": 4242}, "INVALID_SW_IF_INDEX"),
        (feature, {"is_add": False, "flags": INSIDE}, "NO_SUCH_ENTRY"),
        (output, {"is_add": False}, "NO_SUCH_ENTRY"),
        (output, {"is_add": True}, ""),
        (output, {"is_add": True}, "VALUE_EXIST"),
        (feature, {"is_add": True, "flags": OUTSIDE}, "VALUE_EXIST"),
        (output, {"is_add": False}, ""),
        (feature, {"is_add": True, "flags": INSIDE}, ""),
        (feature, {"is_add": True, "flags": INSIDE}, ""),
        (output, {"is_add": True}, "VALUE_EXIST"),
        (feature, {"is_add": True, "flags": OUTSIDE}, ""),
    ):
        retval = (await nat.call(name, check=False, **{"sw_if_index": index, **more})).retval
        assert (retval_name(retval) if retval else "") == wanted, (name, more)
    assert await interfaces(nat) == {index: INSIDE | OUTSIDE}
    await nat.call(feature, is_add=False, flags=INSIDE, sw_if_index=index)
    assert await interfaces(nat) == {index: OUTSIDE}
    await nat.call("delete_loopback", sw_if_index=index)
    assert await interfaces(nat) == {}, "an interface that goes takes its features along"


async def interfaces(vpp: contiv.vpp.Vpp) -> dict[int, int]:
    """Flags of the interfaces that are inside or outside."""
    return {entry.sw_if_index: int(entry.flags) for entry in await vpp.dump("nat44_interface")}


async def test_output_interfaces_are_told_of_their_own(nat: contiv.vpp.Vpp) -> None:
    assert await nat.dump("nat44_ed_output_interface") == []
    indices = {await loopback(nat, n, f"02:fe:00:00:00:{n:02x}", f"10.8.{n}.1/24") for n in (1, 2, 3)}
    for index in indices:
        await nat.call("nat44_ed_add_del_output_interface", is_add=True, sw_if_index=index)
    assert {entry.sw_if_index for entry in await nat.dump("nat44_ed_output_interface")} == indices
    assert await interfaces(nat) == {}


async def test_addresses_are_told(nat: contiv.vpp.Vpp) -> None:
    await nat.call(RANGE, **span("10.9.0.1", "10.9.0.2"))
    await nat.call(RANGE, **span("10.9.0.9", flags=TWICE_NAT))
    await nat.call(RANGE, **{**span("10.9.0.5"), "vrf_id": 5})
    told = [(str(e.ip_address), int(e.flags), e.vrf_id) for e in await nat.dump("nat44_address")]
    assert told == [("10.9.0.1", 0, NO_INDEX), ("10.9.0.2", 0, NO_INDEX), ("10.9.0.5", 0, 5),
                    ("10.9.0.9", TWICE_NAT, NO_INDEX)]  # fmt: skip


async def test_mappings_are_told(nat: contiv.vpp.Vpp) -> None:
    await nat.call(LB, **balanced(A, B, flags=OUT2IN_ONLY | TWICE_NAT | SELF_TWICE_NAT, affinity=77, tag="x" * 63))
    await nat.call(MEMBER, **{**member(C, add=True), "local": local(C, 8080, 9)})
    await nat.call(STATIC, **static(port=81, protocol=SCTP, flags=OUT2IN_ONLY | SELF_TWICE_NAT))
    await nat.call(STATIC, **static(flags=ADDRESS_ONLY))
    await nat.call(IDENTITY, **identity(A))
    await nat.call(IDENTITY, **identity(A, vrf_id=7))
    await nat.call(IDENTITY, **identity(B, flags=ADDRESS_ONLY))
    (one,) = await nat.dump("nat44_lb_static_mapping")
    assert (str(one.external_addr), one.external_port, one.protocol, one.tag) == (VIP, 80, TCP, "x" * 63)
    assert int(one.flags) == OUT2IN_ONLY | TWICE_NAT, "twice-NAT wins"
    assert one.affinity == 0, "no dump tells it"
    told = [(str(e.addr), e.port, e.probability, e.vrf_id) for e in one.locals]
    assert told == [(A, 8080, 1, 0), (B, 8080, 1, 0), (C, 8080, 9, 0)]
    statics = {
        (e.external_port, e.protocol, e.local_port, str(e.local_ip_address), int(e.flags), e.tag)
        for e in await nat.dump("nat44_static_mapping")
    }
    assert statics == {
        (81, SCTP, 8080, A, OUT2IN_ONLY | SELF_TWICE_NAT, "s"), (0, 0, 0, A, ADDRESS_ONLY, "s")
    }  # fmt: skip
    identities = {
        (str(e.ip_address), e.protocol, e.port, e.vrf_id, int(e.flags), e.tag)
        for e in await nat.dump("nat44_identity_mapping")
    }
    assert identities == {(A, UDP, 4789, 0, 0, "i"), (A, UDP, 4789, 7, 0, "i"), (B, 0, 0, 0, ADDRESS_ONLY, "i")}


async def test_place_of_a_backend_that_left_goes_to_the_next(nat: contiv.vpp.Vpp) -> None:
    await nat.call(LB, **balanced(A, B, C))
    await nat.call(MEMBER, **member(B, add=False))
    await nat.call(MEMBER, **member("10.1.1.9", add=True))
    (one,) = await nat.dump("nat44_lb_static_mapping")
    assert [str(e.addr) for e in one.locals] == [A, "10.1.1.9", C]


async def test_configuration_is_told(nat: contiv.vpp.Vpp) -> None:
    running = await nat.call("nat44_show_running_config")
    assert (running.sessions, running.translation_buckets) == (63 * 1024, 32768)
    assert running.timeouts._asdict() == {"udp": 300, "tcp_established": 7440, "tcp_transitory": 240, "icmp": 60}
    assert not running.forwarding_enabled
    await nat.call("nat44_ed_plugin_enable_disable", enable=False)
    assert (await nat.call("nat44_show_running_config")).sessions == 0
    await nat.call("nat44_ed_plugin_enable_disable", enable=True, sessions=1000)
    await nat.call("nat44_forwarding_enable_disable", enable=True)
    await nat.call("nat_set_timeouts", udp=1, tcp_established=2, tcp_transitory=3, icmp=4)
    running = await nat.call("nat44_show_running_config")
    assert (running.sessions, running.translation_buckets, running.forwarding_enabled) == (1000, 512, True)
    assert running.timeouts._asdict() == {"udp": 1, "tcp_established": 2, "tcp_transitory": 3, "icmp": 4}


async def test_switched_off_everything_is_gone(nat: contiv.vpp.Vpp) -> None:
    index = await loopback(nat, 1, "02:fe:00:00:00:01", "10.8.0.1/24")
    await nat.call("nat44_interface_add_del_feature", is_add=True, flags=OUTSIDE, sw_if_index=index)
    await nat.call(RANGE, **span("10.9.0.1"))
    await nat.call(LB, **balanced(A, B))
    await nat.call(IDENTITY, **identity(A))
    await nat.call("nat44_ed_plugin_enable_disable", enable=False)
    for name in ("nat44_interface", "nat44_address", "nat44_lb_static_mapping", "nat44_identity_mapping"):
        assert await nat.dump(name) == [], name
    await nat.call("nat44_ed_plugin_enable_disable", enable=True)
    await nat.call(LB, **balanced(A, B))


async def test_outside_interface_answers_for_the_mappings_that_it_finds(nat: contiv.vpp.Vpp) -> None:
    """A balanced mapping that comes later is not answered for; an interface that goes takes all answers along."""
    first, second = [await loopback(nat, n, f"02:fe:00:00:00:{n:02x}", f"10.8.{n}.1/24") for n in (1, 2)]
    feature = "nat44_interface_add_del_feature"
    await nat.call(feature, is_add=True, flags=OUTSIDE, sw_if_index=first)
    await nat.call(LB, **balanced(A, B))
    assert await answered(nat) == []
    await nat.call(feature, is_add=True, flags=OUTSIDE, sw_if_index=second)
    assert await answered(nat) == [(f"{VIP}/32", second, 1)]
    await nat.call(STATIC, **static(port=81, flags=OUT2IN_ONLY))
    await nat.call(feature, is_add=False, flags=OUTSIDE, sw_if_index=second)
    assert await answered(nat) == []


async def answered(vpp: contiv.vpp.Vpp) -> list[tuple[str, int, int]]:
    """Addresses that NAT answers for: prefix, interface and type of its path."""
    (low,) = [e.src.id for e in await vpp.dump("fib_source") if e.src.name == "nat-low"]
    table = {"table_id": 0, "is_ip6": False, "name": ""}
    entries = await vpp.dump("ip_route_v2", src=low, table=table)
    return [
        (str(e.route.prefix), path.sw_if_index, int(path.type)) for e in entries for path in e.route.paths
    ]  # fmt: skip
