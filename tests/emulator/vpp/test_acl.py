"""Access lists on the graph: their place on the arcs, what an interface leaves behind, requests cut short."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plane import Plane, frame, ip4, udp4

from contiv.emulator.vpp.acl import NEW
from contiv.emulator.vpp.acl_rules import Rule
from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.handlers import WireMessage
from contiv.emulator.vpp.handlers.acl import AclHandlers
from contiv.emulator.vpp.interface import Interface
from contiv.emulator.vpp.serve.cli import Cli
from contiv.vpp.api import builtin_schema
from contiv.vpp.errors import RETVALS

NEAR, FAR, HOST = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", b"\2\0\0\0\0\3"
DENY_ALL = Rule(0, 4, 0, 0, 0, 0, 0, 0, 65535, 0, 65535, 0, 0)
REFLECT_ALL = DENY_ALL._replace(action=2)


@pytest.fixture
def plane() -> Plane:
    return Plane()


def _routed(plane: Plane) -> tuple[Interface, Interface]:
    near = plane.port("near", NEAR, address="10.0.0.1/24")
    far = plane.port("far", FAR, address="10.1.0.1/24")
    plane.neighbour(far, "10.1.0.2", HOST)
    plane.neighbour(near, "10.0.0.2", HOST)
    return near, far


def _put(plane: Plane, *rules: Rule) -> int:
    return plane.graph.acl.put(NEW, tag=b"t", rules=rules)


def test_lists_stand_before_nat_on_input_and_behind_it_on_output(plane: Plane) -> None:
    near, _ = _routed(plane)
    both = _put(plane, DENY_ALL)
    for is_input in (True, False):
        plane.graph.acl.set_lists(near, [both], is_input=is_input)
    for arc, feature in (
        ("ip4-unicast", "nat-pre-in2out"),
        ("ip4-unicast", "nat-pre-out2in"),
        ("ip4-output", "nat-pre-in2out-output"),
    ):
        plane.graph.features.enable(near, arc, feature=feature, node=lambda packet: CONTINUE)
    enabled = plane.graph.features.enabled
    assert enabled(near, "ip4-unicast") == ("acl-plugin-in-ip4-fa", "nat-pre-in2out", "nat-pre-out2in")
    assert enabled(near, "ip4-output") == ("nat-pre-in2out-output", "acl-plugin-out-ip4-fa")
    assert "acl-plugin-in-ip6-fa" in enabled(near, "ip6-unicast")
    for is_input in (True, False):
        plane.graph.acl.set_lists(near, [], is_input=is_input)
    assert not [
        name for arc in ("ip4-unicast", "ip4-output", "ip6-output") for name in enabled(near, arc) if "acl" in name
    ]


def test_drops_and_sessions_are_counted(plane: Plane) -> None:
    near, far = _routed(plane)
    plane.graph.acl.set_lists(near, [_put(plane, REFLECT_ALL)], is_input=True)
    plane.graph.acl.set_lists(far, [_put(plane, DENY_ALL)], is_input=False)
    packet = frame(NEAR, HOST, udp4("10.0.0.2", "10.1.0.2", b"x" * 10))
    for _ in range(3):
        assert plane.receive(near, packet) == []
    counts = plane.graph.errors.by_reason
    assert counts["acl-plugin-in-ip4-fa", "new sessions added"] == 1
    assert counts["acl-plugin-in-ip4-fa", "existing session packets"] == 2
    assert counts["acl-plugin-in-ip4-fa", "checked packets"] == 3
    assert counts["acl-plugin-out-ip4-fa", "ACL deny packets"] == 3


@given(data=st.binary(max_size=120), ethertype=st.sampled_from((0x0800, 0x86DD)), version=st.sampled_from((0, 4, 6)))
def test_nothing_passes_a_gate_that_is_shut(data: bytes, ethertype: int, version: int) -> None:
    """Whatever the bytes, with a header made plausible or as they come."""
    plane = Plane()
    near, _ = _routed(plane)
    shut = _put(plane, DENY_ALL, DENY_ALL._replace(version=6))
    for is_input in (True, False):
        plane.graph.acl.set_lists(near, [shut], is_input=is_input)
    if version == 4:
        data = ip4("10.0.0.2", "10.1.0.2", data)
    elif version == 6:
        data = struct.pack(">IHBB", 6 << 28, len(data), 44, 64) + bytes(32) + data
    assert plane.receive(near, frame(NEAR, HOST, data, ethertype=ethertype)) == []


def test_the_next_interface_with_the_index_has_no_lists(plane: Plane) -> None:
    near, far = _routed(plane)
    made = _put(plane, DENY_ALL)
    plane.graph.acl.set_lists(near, [made], is_input=True)
    plane.machine.remove_interface(near)
    plane.graph.acl.delete(made)
    again = plane.port("near", NEAR, address="10.0.0.1/24")
    assert again.index == near.index
    assert plane.graph.acl.applied(again.index, is_input=True) == ()
    packet = frame(NEAR, HOST, udp4("10.0.0.2", "10.1.0.2", b"x" * 10))
    assert [name for name, _ in plane.receive(again, packet)] == [far.name]


@pytest.mark.parametrize(("count", "sent", "tag", "refusal"), [
    (2, 1, b"t", "INVALID_VALUE"),
    (0xFFFFFFFF, 0, b"t", "INVALID_VALUE"),
    (1, 1, b"x" * 64, "INVALID_VALUE"),
    (0, 0, b"x" * 63, ""),
])  # fmt: skip
def test_requests_cut_short(plane: Plane, count: int, sent: int, tag: bytes, refusal: str) -> None:
    data = struct.pack(">HIII64sI", 1, 2, 3, NEW, tag, count) + DENY_ALL.packed() * sent
    answer = AclHandlers(plane.machine).acl_add_replace(WireMessage(3, data))
    if refusal:
        assert answer == {"retval": RETVALS[refusal], "acl_index": NEW}
        assert plane.graph.acl.lists == {}
    else:
        assert answer == {"acl_index": 0}


def test_the_wire_is_the_schemas(plane: Plane) -> None:
    """What the handler reads by hand is what the codec writes."""
    rules = [{"is_permit": 2, "src_prefix": "10.0.0.0/8", "dst_prefix": "0.0.0.0/0", "proto": 6}]
    fields = {"acl_index": NEW, "tag": "t", "r": rules}
    data = builtin_schema().program("acl_add_replace").encode(1, 2, 3, fields)
    AclHandlers(plane.machine).acl_add_replace(WireMessage(3, data))
    (rule,) = plane.graph.acl.lists[0].rules
    assert rule == Rule(2, 4, 10 << 24, 8, 0, 0, 6, 0, 0, 0, 0, 0, 0)


def test_cli_sets_and_shows(plane: Plane) -> None:
    near, _ = _routed(plane)
    cli = Cli(plane.machine)
    plane.graph.acl.set_lists(near, [_put(plane, REFLECT_ALL)], is_input=True)
    plane.receive(near, frame(NEAR, HOST, udp4("10.0.0.2", "10.1.0.2", b"x" * 10)))
    assert "Sessions active: add 1 - deact 0 = 1" in cli.answer("show acl-plugin sessions")[0]
    assert f"sw_if_index {near.index}: add 1 - del 0 = 1; epoch chg: 0" in cli.answer("sh acl-plugin sess")[0]
    assert cli.answer("clear acl-plugin sessions") == ("", True)
    plane.now = 1.0
    assert "Sessions active: add 1 - deact 1 = 0" in cli.answer("show acl-plugin sessions")[0]
    assert cli.answer("set acl-plugin session timeout udp idle 5") == ("", True)
    assert "seconds" in cli.answer("set acl-plugin session timeout udp idle x")[0]
    assert "seconds" in cli.answer("set acl-plugin session timeout")[0]
    assert "expecting" in cli.answer("set acl-plugin session table max-entries x")[0]
