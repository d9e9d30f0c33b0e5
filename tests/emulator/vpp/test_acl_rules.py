"""Which rule decides: the emulator's lists against VPP's code in plain words, and against the compiled tables."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plane import Plane, ip4

from contiv.emulator.vpp.acl_flow import NONFIRST, SLOW, TCP, VALID, Flow, flow4, flow6
from contiv.emulator.vpp.acl_rules import PAIRS_MAX, AccessList, Chain, Rule, Verdict, read_rules
from contiv.emulator.vpp.packet import Packet, make
from contiv.emulator.vpp.refusal import Refusal
from contiv.fastpath import acl as compiled

BITS = {4: 32, 6: 128}
KINDS = (VALID, VALID | TCP, VALID | SLOW, NONFIRST, 0)
NOTHING = Verdict(0, -1, -1)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Rules over few addresses and ports, so that many fit and hide each other."""
    version = draw(st.sampled_from((4, 6)))
    bits = BITS[version]
    prefixes = []
    for _ in range(2):
        length = draw(st.sampled_from((0, bits - 2, bits - 1, bits)))
        prefixes += [draw(st.integers(0, 3)) >> bits - length << bits - length, length]
    ports = [sorted(draw(st.tuples(*[st.sampled_from((0, 1, 2, 3, 65535))] * 2))) for _ in range(2)]
    protocol = draw(st.sampled_from((0, 1, 6, 17, 58, 132)))
    mask = draw(st.sampled_from((0, 2, 18)))
    value = draw(st.sampled_from((0, 2, 16)))
    return Rule(draw(st.integers(0, 2)), version, *prefixes, protocol, *ports[0], *ports[1], mask, value)


@st.composite
def flows(draw: st.DrawFn) -> tuple[int, Flow]:
    version = draw(st.sampled_from((4, 6)))
    source, destination = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    addresses = (
        source << 32 | destination if version == 4 else source.to_bytes(16, "big") + destination.to_bytes(16, "big")
    )
    icmp = 1 if version == 4 else 58
    kind = draw(st.sampled_from(KINDS))
    protocol = 6
    if not kind & TCP:
        protocol = draw(st.sampled_from((17,) if kind == VALID else (icmp, 132) if kind & SLOW else (icmp, 6, 17, 132)))
    has_ports = kind & VALID and (not kind & SLOW or protocol == icmp)
    ports = draw(st.integers(0, 3)) << 16 | draw(st.integers(0, 3)) if has_ports else 0
    return version, (addresses, ports, protocol, draw(st.sampled_from((0, 2, 16, 18))) if kind & TCP else 0, kind)


lists = st.lists(st.lists(rules(), max_size=8), min_size=1, max_size=3)


def by_the_book(tables: list[list[Rule]], version: int, flow: Flow) -> Verdict:
    """single_acl_match_5tuple, one sentence at a time."""
    addresses, ports, protocol, tcp_flags, kind = flow
    packed = addresses.to_bytes(8, "big") if isinstance(addresses, int) else addresses
    half = len(packed) // 2
    source, destination = (int.from_bytes(part, "big") for part in (packed[:half], packed[half:]))
    for acl_index, table in enumerate(tables):
        for number, rule in enumerate(table):
            room = BITS[rule.version]
            if rule.version != version:
                continue
            if destination >> room - rule.destination_length != rule.destination >> room - rule.destination_length:
                continue
            if source >> room - rule.source_length != rule.source >> room - rule.source_length:
                continue
            if rule.protocol:
                if rule.protocol != protocol:
                    continue
                if not kind & NONFIRST:
                    if not kind & VALID:
                        continue
                    if ports >> 16 not in range(rule.source_first, rule.source_last + 1):
                        continue
                    if ports & 0xFFFF not in range(rule.destination_first, rule.destination_last + 1):
                        continue
                    if kind & TCP and tcp_flags & rule.tcp_mask != rule.tcp_value:
                        continue
            return Verdict(rule.action, acl_index, number)
    return NOTHING


@given(lists, st.lists(flows(), min_size=1, max_size=8))
def test_the_first_rule_that_fits(tables: list[list[Rule]], packets: list[tuple[int, Flow]]) -> None:
    chain = Chain(AccessList(index, b"", tuple(table)) for index, table in enumerate(tables))
    for version, flow in packets * 2:
        assert chain.judge(version, flow) == by_the_book(tables, version, flow)


@given(lists, flows())
@example([[Rule(1, 4, 0, 0, 0, 0, 132, 0, 0, 0, 0, 0, 0)]], (4, (0, 0, 132, 0, VALID | SLOW)))
def test_the_compiled_tables_agree(tables: list[list[Rule]], packet: tuple[int, Flow]) -> None:
    version, flow = packet
    addresses, ports, protocol, tcp_flags, kind = flow
    chain = Chain(AccessList(index, b"", tuple(table)) for index, table in enumerate(tables))
    packed = addresses.to_bytes(8, "big") if isinstance(addresses, int) else addresses
    half = len(packed) // 2
    source, destination = (str(ipaddress.ip_address(part)) for part in (packed[:half], packed[half:]))
    found = compiled.evaluate_lists(
        [compiled.Table.from_wire(b"".join(rule.packed() for rule in table)) for table in tables], source, destination,
        protocol, ports >> 16, ports & 0xFFFF, tcp_flags=tcp_flags, fragment=bool(kind & NONFIRST),
        truncated=not kind & (VALID | NONFIRST),
    )  # fmt: skip
    action, acl_index, rule_index = chain.judge(version, flow)
    assert (found.action, found.line) == (action, None if rule_index < 0 else rule_index)
    if rule_index >= 0:
        assert found.table == acl_index


@given(st.lists(rules()))
def test_rules_survive_the_wire(table: list[Rule]) -> None:
    assert read_rules(b"".join(rule.packed() for rule in table)) == tuple(table)


@given(st.binary(min_size=48, max_size=48))
def test_any_record_is_a_rule_or_refused(record: bytes) -> None:
    name = ""
    try:
        (rule,) = read_rules(record)
        assert read_rules(rule.packed()) == (rule,)
    except Refusal as refusal:
        name = refusal.name
    assert name in {"", "INVALID_SRC_ADDRESS", "INVALID_DST_ADDRESS", "INVALID_VALUE_2"}


def test_what_a_chain_remembers_is_bounded() -> None:
    chain = Chain([AccessList(0, b"", (Rule(1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),))])
    for addresses in range(PAIRS_MAX + 10):
        assert chain.judge(4, (addresses, 0, 17, 0, VALID)).action == 1
    assert len(chain._known) <= PAIRS_MAX


def _packet(data: bytes) -> Packet:
    return make(data, rx=Plane().port("p", bytes(6)))


TUPLE4 = 0x0A000001_0A000002
SEGMENT = struct.pack(">HHIIBB6x", 5, 80, 0, 0, 80, 18)
FLOWS4 = {
    "TCP": (ip4("10.0.0.1", "10.0.0.2", SEGMENT, protocol=6), 6, 5, 80, 18, VALID | TCP),
    "UDP": (ip4("10.0.0.1", "10.0.0.2", struct.pack(">HHHH", 5, 53, 8, 0)), 17, 5, 53, 0, VALID),
    "7 bytes of UDP": (ip4("10.0.0.1", "10.0.0.2", bytes(7)), 17, 0, 0, 0, 0),
    "ICMP": (ip4("10.0.0.1", "10.0.0.2", bytes((8, 1)) + bytes(6), protocol=1), 1, 8, 1, 0, VALID | SLOW),
    "SCTP": (ip4("10.0.0.1", "10.0.0.2", bytes(range(12)), protocol=132), 132, 0, 0, 0, VALID | SLOW),
    "later fragment": (ip4("10.0.0.1", "10.0.0.2", bytes(range(8)), flags=1), 17, 0, 0, 0, NONFIRST),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOWS4)
def test_flow_of_ipv4(name: str) -> None:
    data, protocol, first, second, flags, kind = FLOWS4[name]
    assert flow4(_packet(data)) == (TUPLE4, first << 16 | second, protocol, flags, kind)


def test_flow_behind_ip_options() -> None:
    plain = ip4("10.0.0.1", "10.0.0.2", struct.pack(">HHHH", 5, 53, 8, 0))
    data = bytes((0x46,)) + plain[1:2] + struct.pack(">H", 32) + plain[4:20] + bytes(4) + plain[20:]
    assert flow4(_packet(data)) == (TUPLE4, 5 << 16 | 53, 17, 0, VALID)


@given(st.binary(min_size=20, max_size=80))
def test_no_bytes_confuse_the_reader(data: bytes) -> None:
    _, ports, protocol, flags, kind = flow4(_packet(data))
    assert 0 <= ports < 1 << 32
    assert protocol == data[9]
    assert kind in KINDS
    assert flags == 0 or kind & TCP


@given(st.binary(min_size=40, max_size=120))
def test_no_extension_headers_confuse_the_reader(data: bytes) -> None:
    addresses, ports, _, _, kind = flow6(_packet(data))
    assert addresses == data[8:40]
    assert kind in KINDS
    assert 0 <= ports < 1 << 32
