"""The ACL plugin's API: lists and who checks them, as they were made, and refusals with VPP's own numbers."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from topology import NO_INDEX, loopback
from wires import DENY, NEW, PERMIT, REFLECT, SYN, TCP, UDP, rule

import contiv.vpp
from contiv.vpp.api import builtin_schema
from contiv.vpp.errors import retval_name

pytestmark = pytest.mark.root

RECORD = struct.Struct(">BB16sBB16sBBHHHHBB")
NOWHERE = bytes(16)
EVERY_FIELD = (
    rule(REFLECT, "10.0.0.0/8", "10.2.3.4/32", proto=TCP, sport=(1, 2), dport=(80, 8080), flags=(18, SYN)),
    rule(DENY),
    rule(PERMIT, "2001:db8::/32", "2001:db8:1::/48", proto=UDP, dport=(53, 53)),
    rule(PERMIT, "::/0"),
)


async def put(vpp: contiv.vpp.Vpp, *rules: dict[str, Any], index: int = NEW, tag: str = "contiv:t") -> int:
    reply = await vpp.call("acl_add_replace", acl_index=index, tag=tag, count=len(rules), r=list(rules))
    return int(reply.acl_index)


async def put_records(vpp: contiv.vpp.Vpp, *records: bytes, index: int = NEW) -> tuple[str, int]:
    """VPP's name of the retval, and the index that it answers."""
    rules = np.frombuffer(b"".join(records), builtin_schema().dtype("acl_rule"))
    reply = await vpp.call("acl_add_replace", check=False, acl_index=index, tag="", count=len(rules), r=rules)
    return retval_name(reply.retval), int(reply.acl_index)


async def apply(vpp: contiv.vpp.Vpp, index: int, inputs: list[int], outputs: list[int]) -> int:
    """The retval: this message answers 1 where others name a reason."""
    reply = await vpp.call(
        "acl_interface_set_acl_list",
        check=False,
        sw_if_index=index,
        count=len(inputs) + len(outputs),
        n_input=len(inputs),
        acls=inputs + outputs,
    )
    return int(reply.retval)


async def move(vpp: contiv.vpp.Vpp, index: int, acl: int, *, add: bool = True, is_input: bool = True) -> str:
    reply = await vpp.call(
        "acl_interface_add_del", check=False, is_add=add, is_input=is_input, sw_if_index=index, acl_index=acl
    )
    return retval_name(reply.retval)


async def applied(vpp: contiv.vpp.Vpp, index: int = NO_INDEX) -> dict[int, tuple[list[int], list[int]]]:
    """Input and output lists by interface."""
    details = await vpp.dump("acl_interface_list", sw_if_index=index)
    return {e.sw_if_index: (list(e.acls[: e.n_input]), list(e.acls[e.n_input :])) for e in details}


async def lists(vpp: contiv.vpp.Vpp, index: int = NEW) -> dict[int, tuple[str, list[Any]]]:
    return {e.acl_index: (e.tag, e.r) for e in await vpp.dump("acl", acl_index=index)}


def record(
    source: tuple[int, bytes, int] = (0, NOWHERE, 0), destination: tuple[int, bytes, int] = (0, NOWHERE, 0),
    ports: tuple[int, int, int, int] = (0, 65535, 0, 65535), action: int = PERMIT,
) -> bytes:  # fmt: skip
    return RECORD.pack(action, *source, *destination, TCP, *ports, 0, 0)


def v4(text: str, length: int, *, rest: bytes = bytes(12)) -> tuple[int, bytes, int]:
    return 0, bytes(int(part) for part in text.split(".")) + rest, length


async def test_version_and_room(vpp: contiv.vpp.Vpp) -> None:
    version = await vpp.call("acl_plugin_get_version")
    assert (version.major, version.minor) == (1, 4)
    assert (await vpp.call("acl_plugin_get_conn_table_max_entries")).conn_table_max_entries == 500_000


async def test_what_was_made_is_listed(vpp: contiv.vpp.Vpp) -> None:
    index = await put(vpp, *EVERY_FIELD)
    empty = await put(vpp, tag="")
    found = await lists(vpp)
    assert set(found) == {index, empty}
    assert found[empty] == ("", [])
    tag, rules = found[index]
    assert tag == "contiv:t"
    for wanted, got in zip(EVERY_FIELD, rules, strict=True):
        assert {name: getattr(got, name) for name in wanted} == {
            name: type(getattr(got, name))(value) for name, value in wanted.items()
        }
    assert await lists(vpp, index) == {index: found[index]}
    assert await lists(vpp, 999) == {}


async def test_what_is_left_of_an_address_is_not_kept(vpp: contiv.vpp.Vpp) -> None:
    name, index = await put_records(vpp, record(v4("10.0.0.0", 8, rest=b"x" * 12)))
    assert name == "OK"
    raw = await _raw_details(vpp)
    assert raw[index] == record(v4("10.0.0.0", 8))


async def test_in_place(vpp: contiv.vpp.Vpp) -> None:
    index = await put(vpp, *EVERY_FIELD)
    assert await put(vpp, rule(DENY), index=index, tag="other") == index
    tag, rules = (await lists(vpp))[index]
    assert (tag, len(rules)) == ("other", 1)
    assert await put_records(vpp, record(), index=index + 7) == ("NO_SUCH_ENTRY", index + 7)


async def test_index_freed_last_is_given_first(vpp: contiv.vpp.Vpp) -> None:
    made = [await put(vpp) for _ in range(4)]
    assert len(set(made)) == 4
    for index in (made[2], made[0]):
        await vpp.call("acl_del", acl_index=index)
    assert [await put(vpp), await put(vpp)] == [made[0], made[2]]


REFUSED = {
    "host bits in the source": (record(v4("10.0.0.1", 8)), "INVALID_SRC_ADDRESS"),
    "host bits in the destination": (record(destination=v4("10.0.0.1", 8)), "INVALID_DST_ADDRESS"),
    "an address with length 0": (record(v4("10.0.0.0", 0)), "INVALID_SRC_ADDRESS"),
    "a length of 33": (record(v4("10.0.0.1", 33)), "INVALID_SRC_ADDRESS"),
    "a length of 129": (record((1, bytes(15) + b"\1", 129), (1, NOWHERE, 0)), "INVALID_SRC_ADDRESS"),
    "host bits of IPv6": (record((1, NOWHERE, 0), (1, bytes(15) + b"\1", 127)), "INVALID_DST_ADDRESS"),
    "no family": (record((7, NOWHERE, 0)), "INVALID_SRC_ADDRESS"),
    "no family of the destination": (record(destination=(7, NOWHERE, 0)), "INVALID_DST_ADDRESS"),
    "two families": (record((0, NOWHERE, 0), (1, NOWHERE, 0)), "INVALID_SRC_ADDRESS"),
    "source ports backwards": (record(ports=(2, 1, 0, 0)), "INVALID_VALUE_2"),
    "destination ports backwards": (record(ports=(0, 0, 2, 1)), "INVALID_VALUE_2"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_refused_rules(vpp: contiv.vpp.Vpp, what: str) -> None:
    wrong, name = REFUSED[what]
    assert await put_records(vpp, record(), wrong) == (name, NEW)
    index = await put(vpp, *EVERY_FIELD)
    before = await lists(vpp)
    assert await put_records(vpp, wrong, index=index) == (name, index)
    assert await lists(vpp) == before


async def test_actions_beyond_the_known_are_kept(vpp: contiv.vpp.Vpp) -> None:
    name, index = await put_records(vpp, record(action=7))
    assert name == "OK"
    assert (await _raw_details(vpp))[index] == record(action=7)


async def test_the_longest_tag(vpp: contiv.vpp.Vpp) -> None:
    index = await put(vpp, tag="x" * 63)
    assert (await lists(vpp))[index][0] == "x" * 63


async def test_lists_of_interfaces(vpp: contiv.vpp.Vpp) -> None:
    first, second, third = await put(vpp), await put(vpp), await put(vpp)
    loop = await loopback(vpp, 1, "02:00:00:00:00:01", "")
    assert await applied(vpp) == {0: ([], []), loop: ([], [])}
    assert await apply(vpp, loop, [second, first], [third, second]) == 0
    assert await applied(vpp) == {0: ([], []), loop: ([second, first], [third, second])}
    assert await applied(vpp, loop) == {loop: ([second, first], [third, second])}
    assert await applied(vpp, 999) == {}
    assert await apply(vpp, loop, [], [first]) == 0
    assert await applied(vpp, loop) == {loop: ([], [first])}
    assert await apply(vpp, loop, [], []) == 0
    assert await applied(vpp, loop) == {loop: ([], [])}


async def test_more_inputs_than_lists(vpp: contiv.vpp.Vpp) -> None:
    first = await put(vpp)
    await vpp.call("acl_interface_set_acl_list", sw_if_index=0, count=1, n_input=9, acls=[first])
    assert await applied(vpp, 0) == {0: ([first], [])}


async def test_refused_lists_of_interfaces(vpp: contiv.vpp.Vpp) -> None:
    """Twice the same on one side is answered with 1; the output side has then been set when the input is wrong."""
    first, second = await put(vpp), await put(vpp)
    assert retval_name(await apply(vpp, 999, [first], [])) == "INVALID_SW_IF_INDEX"
    assert retval_name(await apply(vpp, 0, [first, 99], [])) == "NO_SUCH_ENTRY"
    assert await applied(vpp, 0) == {0: ([], [])}
    assert await apply(vpp, 0, [first], [second, second]) == 1
    assert await applied(vpp, 0) == {0: ([], [])}
    assert await apply(vpp, 0, [first, first], [second]) == 1
    assert await applied(vpp, 0) == {0: ([], [second])}


async def test_one_list_more_or_less(vpp: contiv.vpp.Vpp) -> None:
    made = [await put(vpp) for _ in range(4)]
    for index in made:
        assert await move(vpp, 0, index) == "OK"
    assert await applied(vpp, 0) == {0: (made, [])}
    assert await move(vpp, 0, made[0]) == "ACL_IN_USE_INBOUND"
    assert await move(vpp, 0, made[1], add=False) == "OK"
    assert await applied(vpp, 0) == {0: ([made[0], made[3], made[2]], [])}, "the last one takes the free place"
    assert await move(vpp, 0, made[2], add=False) == "OK"
    assert await applied(vpp, 0) == {0: ([made[0], made[3]], [])}
    assert await move(vpp, 0, made[1], add=False) == "NO_SUCH_ENTRY"
    assert await move(vpp, 0, made[1], is_input=False) == "OK"
    assert await move(vpp, 0, made[1], is_input=False) == "ACL_IN_USE_OUTBOUND"
    assert await move(vpp, 0, 99) == "NO_SUCH_ENTRY"
    assert await move(vpp, 999, made[0]) == "INVALID_SW_IF_INDEX"
    assert await applied(vpp, 0) == {0: ([made[0], made[3]], [made[1]])}


async def test_a_list_in_use_stays(vpp: contiv.vpp.Vpp) -> None:
    first, second = await put(vpp), await put(vpp)
    assert await apply(vpp, 0, [first], [second, first]) == 0
    for index, name in ((first, "ACL_IN_USE_INBOUND"), (second, "ACL_IN_USE_OUTBOUND"), (99, "NO_SUCH_ENTRY")):
        reply = await vpp.call("acl_del", check=False, acl_index=index)
        assert retval_name(reply.retval) == name
    assert set(await lists(vpp)) == {first, second}
    assert await apply(vpp, 0, [], []) == 0
    for index in (first, second):
        await vpp.call("acl_del", acl_index=index)
    assert await lists(vpp) == {}


async def test_an_interface_that_goes_frees_its_lists(vpp: contiv.vpp.Vpp) -> None:
    made = await put(vpp)
    loop = await loopback(vpp, 1, "02:00:00:00:00:01", "")
    assert await apply(vpp, loop, [made], [made]) == 0
    await vpp.call("delete_loopback", sw_if_index=loop)
    await vpp.call("acl_del", acl_index=made)
    again = await loopback(vpp, 2, "02:00:00:00:00:02", "")
    assert again == loop
    assert await applied(vpp, loop) == {loop: ([], [])}


async def test_cli_shows_lists(vpp: contiv.vpp.Vpp) -> None:
    made = await put(vpp, *EVERY_FIELD)
    other = await put(vpp, tag="other")
    assert await apply(vpp, 0, [made, other], [made]) == 0
    text = (await vpp.call("cli_inband", cmd=f"show acl-plugin acl index {made}")).reply
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == f"acl-index {made} count 4 tag {{contiv:t}}"
    assert lines[1] == (
        "          0: ipv4 permit+reflect src 10.0.0.0/8 dst 10.2.3.4/32 proto 6 sport 1-2 dport 80-8080"
        " tcpflags 2 mask 18"
    )
    assert lines[2] == "          1: ipv4 deny src 0.0.0.0/0 dst 0.0.0.0/0 proto 0 sport 0-65535 dport 0-65535"
    assert lines[3] == (
        "          2: ipv6 permit src 2001:db8::/32 dst 2001:db8:1::/48 proto 17 sport 0-65535 dport 53"
    )
    assert "  applied inbound on sw_if_index: 0" in lines
    assert "  applied outbound on sw_if_index: 0" in lines
    shown = (await vpp.call("cli_inband", cmd="show acl-plugin interface sw_if_index 0")).reply
    assert f"  input acl(s): {made}, {other}" in shown
    assert f"  output acl(s): {made}" in shown
    assert "sw_if_index 0:" in shown


async def test_counters_can_be_switched(vpp: contiv.vpp.Vpp) -> None:
    """VPP answers with the number of acl_del_reply (acl.c, REPLY_MACRO); what matters is that it answers."""
    for enable in (True, False):
        assert (await vpp.call("acl_stats_intf_counters_enable", check=False, enable=enable)).retval == 0
        shown = (await vpp.call("cli_inband", cmd="show acl-plugin tables")).reply
        assert shown.startswith(f"Stats counters enabled for interface ACLs: {int(enable)}\n")


async def _raw_details(vpp: contiv.vpp.Vpp) -> dict[int, bytes]:
    """The first record of each list as it came."""
    columns = await vpp.dump_many("acl", acl_index=NEW)
    assert columns.elements is not None
    starts = np.cumsum(columns.counts) - columns.counts
    return {
        int(index): bytes(columns.elements[start].tobytes())
        for index, start, count in zip(columns["acl_index"], starts, columns.counts, strict=True)
        if count
    }
