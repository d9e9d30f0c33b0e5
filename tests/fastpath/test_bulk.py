"""Columns to messages and back, against the codec that does one message at a time."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import values

from contiv.fastpath import DecodeError, EncodeError, Ragged, Schema, SchemaError


def test_routes_from_columns_equal_routes_one_by_one(builtin: Schema) -> None:
    n = 500
    rng = np.random.default_rng(1)
    addresses = rng.integers(0, 2**32, n, dtype=np.uint32)
    lengths = rng.integers(0, 33, n, dtype=np.uint8)
    hops = rng.integers(0, 2**32, n, dtype=np.uint32)
    data = builtin.encode_many(
        "ip_route_add_del",
        {
            "route.table_id": 3,
            "route.prefix": (addresses, lengths),
            "route.paths.sw_if_index": np.arange(n),
            "route.paths.nh.address.ip4": hops,
        },
        msg_id=9,
        client_index=8,
        contexts=np.arange(n) + 1,
    )
    expected = b"".join(
        builtin.encode(
            "ip_route_add_del",
            msg_id=9,
            client_index=8,
            context=i + 1,
            route={
                "table_id": 3,
                "prefix": {"address": {"af": 0, "un": {"ip4": int(addresses[i])}}, "len": int(lengths[i])},
                "paths": [{"sw_if_index": i, "nh": {"address": {"ip4": int(hops[i])}}}],
            },
        )
        for i in range(n)
    )
    assert data.tobytes() == expected


@pytest.mark.parametrize("framed", [False, True])
def test_every_message_survives_the_way_through_columns(full: Schema, framed: bool) -> None:
    rng = random.Random(3)
    for name in full.messages:
        rows = [values.message_values(full, name, rng) for _ in range(3)]
        messages = [full.encode(name, msg_id=1, client_index=2, context=3, **row) for row in rows]
        columns = full.decode_many(name, messages)
        layout = full.layout(name)
        given: dict[str, Any] = {path: columns.fixed[path] for path in layout.dtype.names or ()}
        if layout.tail is not None:
            given[layout.tail] = Ragged(columns.elements, columns.counts)
        for header in ("_vl_msg_id", "client_index", "context"):
            given.pop(header, None)
        if layout.count is not None:
            # the counter is among the given columns already: it came from the wire
            assert (columns[layout.count] == columns.counts).all()
        again = full.encode_many(name, given, n=3, msg_id=1, client_index=2, contexts=3, framed=framed)
        expected = b"".join(_frame(message) if framed else message for message in messages)
        assert again.tobytes() == expected, name


def _frame(message: bytes) -> bytes:
    return bytes(8) + len(message).to_bytes(4, "big") + bytes(4) + message


def test_columns_of_details_equal_their_records(builtin: Schema) -> None:
    rng = random.Random(5)
    messages = [
        builtin.encode("ip_route_details", **values.message_values(builtin, "ip_route_details", rng))
        for _ in range(200)
    ]
    columns = builtin.decode_many("ip_route_details", messages)
    records = [builtin.decode("ip_route_details", message, raw=True) for message in messages]
    assert columns["route.prefix.len"].tolist() == [record.route.prefix.len for record in records]
    assert columns["route.stats_index"].tolist() == [record.route.stats_index for record in records]
    paths = [path for record in records for path in record.route.paths]
    assert columns["route.paths.sw_if_index"].tolist() == [path.sw_if_index for path in paths]
    assert columns["route.paths.label_stack.label"].tolist() == [[x.label for x in path.label_stack] for path in paths]
    assert columns.counts.tolist() == [len(record.route.paths) for record in records]
    assert columns.offsets[-1] == len(paths)
    assert columns["route.paths.sw_if_index"].dtype == np.uint32


def test_packed_records_for_a_variable_array(builtin: Schema) -> None:
    rules = builtin.array("acl_rule", 10)
    rules["is_permit"] = 2
    rules["dstport_or_icmpcode_first"] = np.arange(10)
    rules["src_prefix"]["len"] = 24
    dicts = [
        {
            "is_permit": 2,
            "dstport_or_icmpcode_first": i,
            "src_prefix": {"len": 24},
        }
        for i in range(10)
    ]
    assert builtin.encode("acl_add_replace", r=rules) == builtin.encode("acl_add_replace", r=dicts)


def test_foreign_structured_array_is_converted(builtin: Schema) -> None:
    rules = np.zeros(4, [("is_permit", "i8"), ("dstport_or_icmpcode_first", "i4")])
    rules["dstport_or_icmpcode_first"] = [1, 2, 3, 65535]
    data = builtin.decode("acl_add_replace", builtin.encode("acl_add_replace", r=rules))
    assert [rule.dstport_or_icmpcode_first for rule in data.r] == [1, 2, 3, 65535]
    rules["dstport_or_icmpcode_first"] = 65536
    with pytest.raises(EncodeError, match=r"acl_add_replace\.r.*65536 is not in 0\.\.65535"):
        builtin.encode("acl_add_replace", r=rules)


def test_arrays_of_numbers(builtin: Schema) -> None:
    by_array = builtin.encode("acl_interface_set_acl_list", acls=np.array([1, 2, 3]))
    assert by_array == builtin.encode("acl_interface_set_acl_list", acls=[1, 2, 3])


def test_addresses_by_text_and_by_array(builtin: Schema) -> None:
    texts = ["10.0.0.1", "2001:db8::1"]
    mixed = builtin.encode_many(
        "ip_neighbor_add_del",
        {"neighbor.ip_address": texts, "neighbor.mac_address": ["02:00:00:00:00:01", "020000000002"]},
    )
    columns = builtin.decode_many("ip_neighbor_add_del", [mixed.tobytes()[:39], mixed.tobytes()[39:]])
    assert columns["neighbor.ip_address.af"].tolist() == [0, 1]
    assert columns["neighbor.mac_address"][1].tolist() == [2, 0, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"route.table": np.zeros(2)}, "no field 'table'"),
        ({"route.table_id": np.array([1, -1])}, "-1 is not in"),
        ({"route.table_id": np.array([1, 2**32])}, "4294967296 is not in"),
        ({"route.table_id": np.array([0.5, 1.0])}, "integers expected"),
        ({"route.table_id": 1}, "give n"),
        ({"route.prefix": ["10.0.0.0/8", "x"]}, "no IP prefix"),
        ({"route.table_id": np.arange(3), "is_add": np.arange(2)}, "broadcast"),
    ],
)
def test_columns_that_do_not_fit_are_refused(builtin: Schema, columns: dict[str, Any], problem: str) -> None:
    with pytest.raises(EncodeError, match=rf"^ip_route_add_del.*{problem}"):
        builtin.encode_many("ip_route_add_del", columns)


def test_truncated_message_among_many_is_named(builtin: Schema) -> None:
    message = builtin.encode("ip_route_details", route={"paths": [{}, {}]})
    with pytest.raises(DecodeError, match="ip_route_details number 1"):
        builtin.decode_many("ip_route_details", [message, message[:-1]])


def test_texts_of_variable_length(builtin: Schema) -> None:
    data = builtin.encode_many("cli_inband", {"cmd": ["show int", "", "show version"]}, framed=True)
    expected = b"".join(_frame(builtin.encode("cli_inband", cmd=text)) for text in ("show int", "", "show version"))
    assert data.tobytes() == expected


def test_no_messages_give_empty_columns(builtin: Schema) -> None:
    columns = builtin.decode_many("ip_route_details", [])
    assert (columns.n, columns["route.prefix.len"].tolist()) == (0, [])


def test_variable_elements_have_no_columns() -> None:
    header = [["u16", "_vl_msg_id"], ["u32", "context"]]
    types = [["item", ["u8", "n"], ["u16", "v", 0, "n"]]]
    fields = [*header, ["u32", "count"], ["vl_api_item_t", "items", 0, "count"]]
    schema = Schema([{"types": types, "messages": [["probe", *fields, {"crc": "0x1"}]]}])
    with pytest.raises(SchemaError, match="columns cannot express"):
        schema.encode_many("probe", {}, n=1)
