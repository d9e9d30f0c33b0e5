"""Tables: the bytes, what they mean to VPP, and that the one follows from the other."""

from __future__ import annotations

import json
import logging
import pickle
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contiv._fastpath.acl import (
    DENY,
    FRAGMENT,
    ICMP,
    ICMP6,
    PACKET_DTYPE,
    PERMIT,
    REFLECT,
    RULE_DTYPE,
    RULE_SIZE,
    SCTP,
    TCP,
    TRUNCATED,
    UDP,
    Allowed,
    Block,
    Peers,
    Ports,
    Table,
    deny,
    evaluate_lists,
    evaluate_lists_many,
    packets,
    permit,
)
from contiv._fastpath.acl_types import Rule, Verdict
from contiv.fastpath import DecodeError, EncodeError, Schema
from contiv.model.ip import Address, Network
from contiv.vpp import api
from tests.fastpath import acl_oracle as oracle
from tests.fastpath import acl_values as values

Held = tuple[Block, oracle.OracleBlock]
HTTP = Ports.of([(TCP, 80, 80)])


def networks_of(rules: tuple[Rule, ...] | Table) -> list[str]:
    return [str(rule.source) for rule in rules]


def verdict(table: Table, packet: oracle.Packet) -> Verdict:
    """The kernel's word on a packet of the oracle."""
    return table.evaluate(
        Address(oracle.as_any(packet.version), packet.source),
        Address(oracle.as_any(packet.version), packet.destination),
        packet.protocol,
        packet.source_port,
        packet.destination_port,
        tcp_flags=packet.tcp_flags,
        fragment=packet.fragment,
        truncated=packet.truncated,
    )


def as_array(found: list[oracle.Packet]) -> Any:
    """Packets of the oracle as the kernel takes many."""
    out = np.zeros(len(found), PACKET_DTYPE)
    for row, p in zip(out, found, strict=True):
        size = oracle.BITS[p.version] // 8
        row["version"], row["protocol"], row["tcp_flags"] = p.version, p.protocol, p.tcp_flags
        row["flags"] = FRAGMENT * p.fragment + TRUNCATED * p.truncated
        row["source_port"], row["destination_port"] = p.source_port, p.destination_port
        row["source"][:size] = list(p.source.to_bytes(size, "big"))
        row["destination"][:size] = list(p.destination.to_bytes(size, "big"))
    return out


# ---- what is built ----


@settings(max_examples=80, deadline=None)
@given(st.lists(values.blocks(), max_size=4), st.lists(values.packets(), min_size=12, max_size=12))
def test_a_table_is_the_oracles_bytes_and_means_its_blocks(held: list[Held], asked: list[oracle.Packet]) -> None:
    table = Table.build(block for block, _ in held)
    plain = [block for _, block in held]
    assert table.wire == oracle.render(plain)
    assert table.name == oracle.name(table.wire)
    for packet in asked:
        action, line = oracle.decide(table.wire, packet)
        assert verdict(table, packet) == Verdict(action, line)
        if not packet.fragment and not packet.truncated:
            assert (action,) == oracle.meant(plain, packet)
    actions, lines = table.evaluate_many(as_array(asked))
    wanted = [oracle.decide(table.wire, packet) for packet in asked]
    assert list(zip(actions.tolist(), lines.tolist(), strict=True)) == [(a, -1 if n is None else n) for a, n in wanted]


@settings(max_examples=50, deadline=None)
@given(values.allowed(6), values.peers(2), st.booleans(), st.randoms(use_true_random=False))
def test_a_table_does_not_depend_on_how_its_facts_were_given(
    held: tuple[Allowed, values.Boxes], own: tuple[Peers, Any], destination: bool, rng: random.Random
) -> None:
    allowed, _ = held
    side = "destination" if destination else "source"
    whole = Table.build([permit(allowed, side=side, own=own[0]), deny()])
    pieces = [(Peers.of(network), ports) for peers, ports in allowed.boxes() for network in peers]
    rng.shuffle(pieces)
    blocks = [permit(Allowed.of([piece]), side=side, own=own[0]) for piece in pieces]
    again = Table.build([*blocks, deny(own=Peers.NONE), deny()])
    assert again == whole
    assert hash(again) == hash(whole)
    assert again.name == whole.name


@settings(max_examples=50, deadline=None)
@given(values.allowed(6))
def test_a_block_is_no_longer_than_its_boxes(held: tuple[Allowed, values.Boxes]) -> None:
    allowed, _ = held
    assert len(Table.build([permit(allowed)])) <= sum(len(peers) * len(ports) for peers, ports in allowed.boxes())


def test_a_wide_network_stays_whole_where_single_pods_are_allowed_more() -> None:
    pods = Peers.of([f"10.1.{i}.7" for i in range(200)])
    allowed = Allowed.of(
        [(Peers.of("10.1.0.0/16"), HTTP), (pods, Ports.of([(TCP, 443, 443)])), (pods, Ports.of([UDP]))]
    )
    table = Table.build([permit(allowed)])
    assert len(table) == 1 + 200 + 200
    assert [str(rule) for rule in table if rule.destination_ports == (80, 80)] == [
        "permit+reflect tcp 10.1.0.0/16 -> 0.0.0.0/0 port 80"
    ]


def test_addresses_and_ports_merge_where_nothing_else_is_said() -> None:
    neighbours = Allowed.of(
        [(Peers.of(f"10.0.0.{i}"), Ports.of([(TCP, port, port)])) for i in range(4) for port in (80, 81, 82)]
    )
    table = Table.build([permit(neighbours, reflect=False), permit(Peers.of("10.0.0.2"), reflect=False)])
    assert [str(rule) for rule in table] == [
        "permit any 10.0.0.2/32 -> 0.0.0.0/0",
        "permit tcp 10.0.0.0/30 -> 0.0.0.0/0 ports 80-82",
    ]


def test_what_cannot_decide_is_left_out() -> None:
    one = Peers.of("10.0.0.1")
    table = Table.build(
        [permit(one), deny(one), permit(one, reflect=False), deny(), permit(Peers.of("10.0.0.2")), deny()]
    )
    assert [str(rule) for rule in table] == [
        "permit+reflect any 10.0.0.1/32 -> 0.0.0.0/0",
        "deny any 0.0.0.0/0 -> 0.0.0.0/0",
        "deny any ::/0 -> ::/0",
    ]
    four = Table.build([deny(Peers.of("0.0.0.0/0")), permit()])
    assert [rule.action for rule in four] == [DENY, REFLECT]
    assert Table.build([permit(Allowed.NONE), permit(own=Peers.NONE), deny(Peers.NONE)]) == Table.EMPTY


def test_own_addresses_stand_on_the_other_side_and_keep_to_their_family() -> None:
    own = Peers.of(["10.0.0.8", "10.0.0.10/31", "fd00::8"])
    allowed = Allowed.of([(Peers.of(["192.0.2.0/24", "2001:db8::/32"]), HTTP)])
    to_own = Table.build([permit(allowed, own=own, reflect=False)])
    assert [str(rule) for rule in to_own] == [
        "permit tcp 192.0.2.0/24 -> 10.0.0.8/32 port 80",
        "permit tcp 192.0.2.0/24 -> 10.0.0.10/31 port 80",
        "permit tcp 2001:db8::/32 -> fd00::8/128 port 80",
    ]
    from_own = Table.build([permit(allowed, side="destination", own="10.0.0.8", reflect=False)])
    assert [str(rule) for rule in from_own] == ["permit tcp 10.0.0.8/32 -> 192.0.2.0/24 port 80"]


def test_ports_that_vpp_does_not_read_are_rendered_on_the_safe_side() -> None:
    one_port = Allowed.of([(Peers.ANY, Ports.of([(SCTP, 80, 80)]))])
    all_ports = Allowed.of([(Peers.ANY, Ports.of([(SCTP, 1, 65535)]))])
    assert len(Table.build([permit(one_port)])) == 0
    for table in (Table.build([deny(one_port)]), Table.build([permit(all_ports)])):
        assert [(rule.protocol, rule.destination_ports) for rule in table] == [(SCTP, (0, 65535))] * 2
    codes = Allowed.of([(Peers.ANY, Ports.of([(ICMP, 0, 3), (ICMP6, 0, 3)]))])
    assert [(r.source.version, r.protocol) for r in Table.build([permit(codes)])] == [(4, ICMP), (6, ICMP6)]


# ---- bytes ----


def random_rule(rng: random.Random, version: int) -> Rule:
    def network() -> Network:
        length = rng.choice((0, 1, 8, oracle.BITS[version] - 1, oracle.BITS[version]))
        return Network(oracle.as_any(version), rng.getrandbits(oracle.BITS[version]), length).network

    def port_range() -> tuple[int, int]:
        first, last = sorted((rng.randrange(65536), rng.randrange(65536)))
        return first, last

    return Rule(
        rng.randrange(3),
        network(),
        network(),
        rng.choice((0, 1, 6, 17, 58, 132, 255)),
        port_range(),
        port_range(),
        rng.randrange(256),
        rng.randrange(256),
    )


def fields_of(rule: Rule) -> dict[str, Any]:
    """A rule as callers of the binary API write it."""
    return {
        "is_permit": rule.action,
        "src_prefix": str(rule.source),
        "dst_prefix": str(rule.destination),
        "proto": rule.protocol,
        "srcport_or_icmptype_first": rule.source_ports[0],
        "srcport_or_icmptype_last": rule.source_ports[1],
        "dstport_or_icmpcode_first": rule.destination_ports[0],
        "dstport_or_icmpcode_last": rule.destination_ports[1],
        "tcp_flags_mask": rule.tcp_flags_mask,
        "tcp_flags_value": rule.tcp_flags_value,
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_wire_is_what_codec_and_vpp_papi_encode(builtin: Schema, seed: int) -> None:
    from vpp_papi.vpp_papi import VPPApiJSONFiles

    logging.getLogger("vpp_papi").setLevel(logging.CRITICAL)
    rng = random.Random(seed)
    rules = [random_rule(rng, rng.choice((4, 6))) for _ in range(40)]
    table = Table.from_rules(rules)
    given_fields = [fields_of(rule) for rule in rules]
    encoded = builtin.encode("acl_add_replace", acl_index=7, tag=table.name, r=given_fields)
    assert encoded == builtin.encode("acl_add_replace", acl_index=7, tag=table.name, r=table.wire)
    assert encoded == builtin.encode("acl_add_replace", acl_index=7, tag=table.name, r=table.to_numpy())
    papi = VPPApiJSONFiles.process_json_str(json.dumps(api.read_record()))[0]["acl_add_replace"]
    header = {"_vl_msg_id": 0, "client_index": 0, "context": 0}
    fields = {"acl_index": 7, "tag": table.name, "count": len(rules), "r": given_fields}
    assert bytes(papi.pack({**header, **fields})) == encoded


def test_records_go_to_numpy_and_back(builtin: Schema) -> None:
    rules = [random_rule(random.Random(1), version) for version in (4, 6)]
    table = Table.from_rules(rules)
    records = table.to_numpy()
    assert builtin.dtype("acl_rule") == RULE_DTYPE
    assert records["src_prefix"]["len"].tolist() == [rule.source.length for rule in rules]
    assert records["dstport_or_icmpcode_last"].tolist() == [rule.destination_ports[1] for rule in rules]
    assert not records.flags.writeable
    assert Table.from_numpy(records) == Table.from_wire(table.wire) == table
    assert Table.from_numpy(records[::-1]).rules() == tuple(reversed(rules))
    assert table.rules() == tuple(table) == tuple(rules) == (table[0], table[-1])
    assert Table.from_numpy(np.zeros(0, RULE_DTYPE)) == Table.EMPTY
    assert pickle.loads(pickle.dumps(table)) == table
    details = builtin.encode("acl_details", acl_index=1, tag="x", r=table.wire)
    assert Table.from_numpy(builtin.decode_many("acl_details", [details])["r"]) == table


def test_records_given_as_bytes_must_be_whole(builtin: Schema) -> None:
    with pytest.raises(EncodeError, match=r"acl_add_replace\.r: 49 bytes"):
        builtin.encode("acl_add_replace", r=bytes(49))
    assert builtin.encode("acl_add_replace", r=b"") == builtin.encode("acl_add_replace", r=[])
    with pytest.raises(EncodeError, match="1 announced"):
        builtin.encode("acl_add_replace", count=1, r=bytes(96))


def test_bytes_of_an_address_that_vpp_does_not_read_do_not_count() -> None:
    table = Table.build([permit(Peers.of("10.0.0.0/8"))])
    noisy = bytearray(table.wire)
    noisy[6:18] = b"\xff" * 12
    kept = bytes(noisy)
    assert Table.from_wire(kept) == table
    assert kept == bytes(noisy)


@pytest.mark.parametrize(
    ("at", "value", "text"),
    [
        (0, 3, "action"),
        (1, 2, "family"),
        (19, 1, "different families"),
        (18, 33, "longer"),
        (5, 1, "host bits"),
        (38, 255, "ports"),
        (42, 255, "ports"),
    ],
)
def test_what_vpp_refuses_is_refused_by_line(at: int, value: int, text: str) -> None:
    good = Table.from_rules([Rule(1, Network.parse("10.0.0.0/8"), Network.parse("10.1.2.3/32"), 6, (1, 2), (3, 4))] * 3)
    bad = bytearray(good.wire)
    bad[RULE_SIZE + at] = value
    with pytest.raises(ValueError, match=rf"rule 1: .*{text}"):
        Table.from_wire(bytes(bad))
    with pytest.raises(ValueError, match="rule 1"):
        Table.from_numpy(np.frombuffer(bytes(bad), RULE_DTYPE))


def test_what_is_no_table_is_refused(builtin: Schema) -> None:
    for size in (1, 47, 49):
        with pytest.raises(ValueError, match="whole number"):
            Table.from_wire(bytes(size))
    four, six = Network.parse("10.0.0.0/8"), Network.parse("fd00::/8")
    for rule in (Rule(1, four, six), Rule(3, four, four), Rule(1, four, four, 256), Rule(1, four, four, 6, (0, 65536))):
        with pytest.raises(ValueError, match=r"rule 0|256|too big"):
            Table.from_rules([rule])
    with pytest.raises(TypeError):
        Table.from_numpy(np.zeros(1, PACKET_DTYPE))
    with pytest.raises(TypeError):
        Table.build([oracle.as_any(Allowed.ANY)])
    with pytest.raises(ValueError, match="side"):
        permit(side=oracle.as_any("both"))
    with pytest.raises(TypeError):
        permit(oracle.as_any("10.0.0.0/8"))
    with pytest.raises(DecodeError):
        builtin.decode("acl_details", builtin.encode("acl_details", r=bytes(48))[:-1])


def valid(rule: bytes) -> bool:
    """What VPP takes (plugins/acl/acl.c, acl_add_list)."""
    if rule[0] > 2 or rule[1] > 1 or rule[1] != rule[19]:
        return False
    bits = 128 if rule[1] else 32
    for at in (2, 20):
        address, length = int.from_bytes(rule[at : at + bits // 8], "big"), rule[at + 16]
        if length > bits or address & ((1 << (bits - length)) - 1):
            return False
    return rule[38:40] <= rule[40:42] and rule[42:44] <= rule[44:46]


@st.composite
def nearly_rules(draw: st.DrawFn) -> bytes:
    """Rules with a few bytes changed: mostly one step from what VPP takes."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    data = bytearray(Table.from_rules([random_rule(rng, rng.choice((4, 6))) for _ in range(3)]).wire)
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=2)):
        data[at] = value
    return bytes(data)


@settings(max_examples=200, deadline=None)
@given(st.one_of(nearly_rules(), st.binary(max_size=RULE_SIZE * 3)), values.packets())
def test_any_bytes_are_a_table_or_refused(data: bytes, packet: oracle.Packet) -> None:
    data = data[: len(data) // RULE_SIZE * RULE_SIZE]
    if not all(valid(data[at : at + RULE_SIZE]) for at in range(0, len(data), RULE_SIZE)):
        with pytest.raises(ValueError, match="rule"):
            Table.from_wire(data)
        return
    table = Table.from_wire(data)
    assert Table.from_rules(table.rules()) == table
    assert verdict(table, packet) == Verdict(*oracle.decide(table.wire, packet))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32), values.versions), min_size=1, max_size=8), values.packets())
def test_rules_of_any_kind_match_as_in_vpp(seeds: list[tuple[int, int]], packet: oracle.Packet) -> None:
    table = Table.from_rules([near(random.Random(seed), version, packet) for seed, version in seeds])
    wanted = oracle.decide(table.wire, packet)
    assert verdict(table, packet) == Verdict(*wanted)
    actions, lines = table.evaluate_many(as_array([packet]))
    assert (actions[0], lines[0]) == (wanted[0], -1 if wanted[1] is None else wanted[1])


def near(rng: random.Random, version: int, packet: oracle.Packet) -> Rule:
    """A rule that the packet might just match."""
    rule = random_rule(rng, version)
    if version != packet.version:
        return rule
    bits = oracle.BITS[version]
    prefixes = [
        Network(
            oracle.as_any(version), (value ^ (rng.random() < 0.2)), rng.choice((bits, bits, bits - 1, 3, 0))
        ).network
        for value in (packet.source, packet.destination)
    ]
    pairs = [(max(port - rng.randrange(2), 0), min(port + rng.randrange(2), 65535)) for port in packet[4:6]]
    return Rule(
        rule.action,
        prefixes[0],
        prefixes[1],
        rng.choice((0, packet.protocol, packet.protocol, rule.protocol)),
        rng.choice((pairs[0], (0, 65535), (0, 0))),
        rng.choice((pairs[1], (0, 65535), rule.destination_ports)),
        rng.choice((0, 0x02, 0x12)),
        rng.choice((0, 0x02)),
    )


# ---- packets ----


def test_fragments_and_truncated_packets_are_judged_as_vpp_does() -> None:
    pod = "10.0.0.1"
    table = Table.build([permit(Allowed.of([(Peers.of(pod), HTTP)])), permit(Peers.of("10.0.0.2")), deny()])
    assert table.evaluate(pod, "10.9.9.9", TCP, 1, 80) == Verdict(REFLECT, 1)
    assert not table.evaluate(pod, "10.9.9.9", TCP, 1, 81).permitted
    assert table.evaluate(pod, "10.9.9.9", TCP, fragment=True).permitted
    assert not table.evaluate(pod, "10.9.9.9", UDP, fragment=True).permitted
    assert not table.evaluate(pod, "10.9.9.9", TCP, 1, 80, truncated=True).permitted
    assert table.evaluate("10.0.0.2", "10.9.9.9", TCP, 1, 80, truncated=True) == Verdict(REFLECT, 0)


def test_lists_are_asked_one_after_another() -> None:
    first = Table.build([permit(Peers.of("10.0.0.1"), reflect=False)])
    second = Table.build([permit(Peers.of("10.0.0.2")), deny(Peers.of("10.0.0.3"))])
    wanted = {"10.0.0.1": Verdict(PERMIT, 0, 0), "10.0.0.2": Verdict(REFLECT, 0, 1), "10.0.0.3": Verdict(DENY, 1, 1)}
    wanted |= {"10.0.0.4": Verdict(DENY, None, None)}
    for source, expected in wanted.items():
        assert evaluate_lists([first, second], source, "10.9.9.9", TCP, 1, 80) == expected
    many = packets(list(wanted), "10.9.9.9", protocol=TCP, destination_port=80)
    actions, tables, lines = evaluate_lists_many([first, second], many)
    assert actions.tolist() == [1, 2, 0, 0]
    assert tables.tolist() == [0, 1, 1, -1]
    assert lines.tolist() == [0, 0, 1, -1]
    assert evaluate_lists([], "::1", "::2", UDP) == Verdict(PERMIT, None, None)
    assert evaluate_lists_many([], many)[0].tolist() == [1] * 4
    assert not evaluate_lists([Table.EMPTY], "::1", "::2", UDP).permitted


def test_packets_are_made_from_columns() -> None:
    made = packets(
        "10.0.0.1", ["10.0.0.2", "10.0.0.3"], protocol=[6, 17], source_port=5, destination_port=np.array([1, 2])
    )
    assert made["destination"][:, :4].tolist() == [[10, 0, 0, 2], [10, 0, 0, 3]]
    assert made["protocol"].tolist() == [6, 17]
    assert made["version"].tolist() == [4, 4]
    assert len(packets([], "10.0.0.1")) == 0
    wrong: list[dict[str, Any]] = [
        {"sources": ["10.0.0.1"] * 3, "destinations": ["10.0.0.1"] * 2},
        {"sources": "10.0.0.1", "destinations": "::1"},
        {"sources": "10.0.0.1", "destinations": "10.0.0.1", "protocol": 256},
        {"sources": "10.0.0.1", "destinations": "10.0.0.1", "destination_port": [1, -1]},
    ]
    for columns in wrong:
        with pytest.raises(ValueError, match=r"different|not in 0"):
            packets(**columns)


def test_wrong_packets_are_refused() -> None:
    table = Table.build([deny()])
    refusal = "different families|address expected|not in 0|not both"
    bad: list[tuple[Any, ...]] = [
        ("10.0.0.1", "::1", 6),
        ("10.0.0.0/8", "10.0.0.1", 6),
        ("10.0.0.1", "10.0.0.1", 256),
        ("10.0.0.1", "10.0.0.1", 6, 65536),
        ("10.0.0.1", "10.0.0.1", 6, 0, -1),
    ]
    for arguments in bad:
        with pytest.raises(ValueError, match=refusal):
            table.evaluate(*arguments)
        with pytest.raises(ValueError, match=refusal):
            evaluate_lists([table], *arguments)
    with pytest.raises(TypeError):
        table.evaluate_many(np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="version"):
        table.evaluate_many(np.zeros(4, PACKET_DTYPE))


def test_tables_add_up_line_by_line() -> None:
    one, two = Table.build([permit(Peers.of("10.0.0.1"))]), Table.build([deny()])
    assert (one + two).rules() == one.rules() + two.rules()
    assert one + Table.EMPTY == one != two
    assert one != "table"
    with pytest.raises(IndexError):
        _ = one[1]


def test_names_differ_when_a_bit_does() -> None:
    table = Table.from_rules([random_rule(random.Random(seed), 4 + 2 * (seed % 2)) for seed in range(60)])
    names = {table.name}
    for at in range(46, len(table.wire), RULE_SIZE):  # flags: any value is a rule
        changed = bytearray(table.wire)
        changed[at] ^= 1
        names.add(Table.from_wire(bytes(changed)).name)
    assert len(names) == 61
    assert all(len(name) == 32 for name in names)
