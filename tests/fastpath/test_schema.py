"""Loading API definitions: sources, kinds of messages, what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from contiv.fastpath import Schema, SchemaError
from contiv.vpp import api

HEADER = [["u16", "_vl_msg_id"], ["u32", "client_index"], ["u32", "context"]]


def definition(*fields: Any, name: str = "probe", **more: Any) -> dict[str, Any]:
    """API definitions of one message with these fields behind the header."""
    return {"messages": [[name, *HEADER, *fields, {"crc": "0x00000001"}]], **more}


def test_sources_give_equal_messages(tmp_path: Path) -> None:
    record = api.read_record()
    text = json.dumps(record)
    file = tmp_path / "all.api.json"
    file.write_text(text)
    schemas = [Schema.load(source) for source in (tmp_path, file, str(file), text, f"[{text}]", [record])]
    for schema in schemas:
        assert list(schema.messages) == list(schemas[0].messages)
        assert schema.messages["ip_route_add_del"] == schemas[0].messages["ip_route_add_del"]


def test_equal_content_is_loaded_once() -> None:
    text = json.dumps(definition())
    assert Schema.load(text) is Schema.load(text)


def test_builtin_record_loads_quickly() -> None:
    api.builtin_schema.cache_clear()
    started = time.perf_counter()
    schema = api.builtin_schema()
    assert time.perf_counter() - started < 0.5  # measured: 4 ms
    assert len(schema.messages) > 600


def test_every_message_compiles(full: Schema) -> None:
    for name in full.messages:
        assert full.program(name).names == [field.name for field in full.messages[name].fields]


@pytest.mark.parametrize(
    ("name", "kind", "context_offset"),
    [
        ("ip_route_add_del", "request", 6),
        ("ip_route_add_del_reply", "reply", 2),
        ("ip_route_dump", "dump", 6),
        ("ip_route_details", "details", 2),
        ("nat44_ed_output_interface_get", "get", 6),
        ("nat44_ed_output_interface_get_reply", "reply", 2),
        ("sw_interface_event", "event", None),
        ("sockclnt_create", "request", 2),
        ("sockclnt_create_reply", "reply", 6),
    ],
)
def test_kind_and_place_of_the_context(builtin: Schema, name: str, kind: str, context_offset: int | None) -> None:
    message = builtin.messages[name]
    assert (message.kind, message.context_offset) == (kind, context_offset)


def test_check_names_what_is_lacking_and_what_differs(builtin: Schema) -> None:
    crc = builtin.messages["control_ping"].crc
    lacks = builtin.check({"control_ping": crc, "acl_del": "0x00000000", "af_packet_create_v9": None})
    assert [str(lack) for lack in lacks] == [
        f"has acl_del with CRC {builtin.messages['acl_del'].crc} instead of 0x00000000",
        "lacks af_packet_create_v9",
    ]


@pytest.mark.parametrize("default", ["true", True, "True"])
def test_defaults_are_normalised(default: Any) -> None:
    schema = Schema([definition(["bool", "on", {"default": default}])])
    assert schema.messages["probe"].fields[-1].default is True
    assert schema.encode("probe")[-1] == 1


@pytest.mark.parametrize(
    ("definitions", "problem"),
    [
        ([definition(["vl_api_none_t", "x"])], "unknown type vl_api_none_t"),
        ([definition(["u32", "n"], ["u8", "x", 0, "n"], ["u8", "y"])], "not the last field"),
        ([definition(["u8", "x", 0, "n"], ["u32", "n"])], "counted by 'n'"),
        ([definition(["f64", "n"], ["u8", "x", 0, "n"])], "counted by 'n'"),
        ([definition(["u8", "x"], ["u8", "x"])], "occurs twice"),
        ([definition(["u8"])], "is no field"),
        ([definition(["u8", "x", -1])], "is no field"),
        ([definition(["u64", "x", 1 << 22])], "more than 16 MB"),
        ([definition(["u64", "x", 1 << 40])], "size of 1099511627776"),
        ([definition(["bool", "x", {"default": [1]}], ["u8", "y", {"default": 300}])], "default 300"),
        ([definition(["vl_api_a_t", "x"], types=[["a", ["vl_api_a_t", "x"]]])], "contains itself"),
        ([definition(["u32", "n"], ["vl_api_a_t", "x", 0, "n"], types=[["a"]])], "empty elements"),
        (
            [definition(["vl_api_a_t", "x"], unions=[["a", ["string", "s", 0]]])],
            "variable length in a union",
        ),
        ([definition(["vl_api_a_t", "x"], enums=[["a", ["A", 1], {"enumtype": "u128"}]])], "no base type"),
    ],
)
def test_definitions_that_cannot_be_laid_out_are_refused(definitions: list[Any], problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        Schema(definitions).program("probe")


@pytest.mark.parametrize(
    "source", ["[1]", "{", '{"messages": [3]}', '{"services": {"a": 1}}', '{"messages": [["a"]]}x']
)
def test_malformed_definitions_are_refused(source: str) -> None:
    with pytest.raises(SchemaError):
        Schema.load(source)


def test_two_definitions_of_one_message_are_refused() -> None:
    other = definition(["u8", "x"])
    other["messages"][0][-1] = {"crc": "0x00000002"}
    with pytest.raises(SchemaError, match="probe is defined with CRC 00000001 and 00000002"):
        Schema([definition(), other])


def test_variable_elements_in_a_variable_array() -> None:
    types = [["item", ["u8", "n"], ["u16", "v", 0, "n"]]]
    schema = Schema([definition(["u32", "count"], ["vl_api_item_t", "items", 0, "count"], types=types)])
    data = schema.encode("probe", items=[{"v": [1, 2]}, {"v": []}, {"v": [3]}])
    assert [item.v for item in schema.decode("probe", data).items] == [[1, 2], [], [3]]


def test_alias_of_an_array_of_numbers() -> None:
    schema = Schema([definition(["vl_api_pair_t", "x"], aliases={"pair": {"type": "u16", "length": 2}})])
    data = schema.encode("probe", x=[1, 2])
    assert (data[-4:], schema.decode("probe", data).x) == (b"\0\1\0\2", [1, 2])


def test_folder_without_definitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"holds no \.api\.json"):
        Schema.load(tmp_path)
    with pytest.raises(SchemaError, match="No such file"):
        Schema.load(tmp_path / "none.api.json")
