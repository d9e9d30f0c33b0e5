"""The codec against vpp_papi, which packs and unpacks the same definitions; and against bytes that are no message."""

from __future__ import annotations

import datetime
import json
import logging
import random
import sys
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import values

from contiv.fastpath import DecodeError, EncodeError, MACAddress, Schema
from contiv.model.ip import Address, Network
from contiv.vpp import api

HEADER = {"_vl_msg_id": 7, "client_index": 11, "context": 13}
# vpp_papi 2.4.2 reads all arms of a union and fails when the bytes of one make no prefix as another
UNREADABLE_BY_PAPI = {"npol_ipset_add_del_members"}


@pytest.fixture(scope="module")
def papi() -> dict[str, Any]:
    """vpp_papi's packers of the same messages."""
    from vpp_papi.vpp_papi import VPPApiJSONFiles

    logging.getLogger("vpp_papi").setLevel(logging.CRITICAL)
    prefix = api.find_prefix()
    if prefix is not None:
        return dict(VPPApiJSONFiles.load_api(apidir=str(prefix / api.API_DIR))[1])
    record = api.read_record()
    return dict(VPPApiJSONFiles.process_json_str(json.dumps(record))[0])


@pytest.mark.parametrize("seed", range(4))
def test_every_message_equals_vpp_papi(full: Schema, papi: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    compared = 0
    for name in full.messages:
        fields = values.message_values(full, name, rng)
        expected = bytes(papi[name].pack({**fields, **HEADER}))
        data = full.encode(name, msg_id=7, client_index=11, context=13, **fields)
        assert data == expected, name
        record = full.decode(name, data)
        if name not in UNREADABLE_BY_PAPI:
            theirs, _ = papi[name].unpack(expected)
            assert record == theirs, name
            assert record._fields == theirs._fields
        compared += 1
    assert compared == len(full.messages)
    print(f"{compared} messages equal vpp_papi's bytes and values")


def test_record_encodes_to_the_bytes_it_came_from(full: Schema) -> None:
    rng = random.Random(9)
    for name in full.messages:
        data = full.encode(name, **values.message_values(full, name, rng))
        record = full.decode(name, data, raw=True)
        fields = dict(zip(full.program(name).names, record, strict=True))
        for header in ("_vl_msg_id", "client_index", "context"):
            fields.pop(header, None)
        assert full.encode(name, **fields) == data, name


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), index=st.integers(0, 10_000))
def test_arbitrary_bytes_decode_or_raise(data: bytes, index: int) -> None:
    schema = api.builtin_schema()
    names = list(schema.messages)
    name = names[index % len(names)]
    try:
        record, refused = schema.decode(name, data), None
    except DecodeError as error:
        record, refused = None, error
    if refused is None:
        assert record is not None
        assert schema.program(name).measure(data) <= len(data)
    else:
        assert refused.message == name
        assert 0 <= refused.offset <= len(data)


def test_every_truncation_is_refused(full: Schema) -> None:
    rng = random.Random(4)
    for name in list(full.messages)[::7]:
        data = full.encode(name, **values.message_values(full, name, rng))
        for cut in range(0, len(data), max(1, len(data) // 20)):
            with pytest.raises(DecodeError, match=name):
                full.decode(name, data[:cut])


def test_count_of_elements_beyond_the_message_is_refused(builtin: Schema) -> None:
    data = bytearray(builtin.encode("acl_add_replace", r=[{}]))
    data[78:82] = b"\xff\xff\xff\xff"
    with pytest.raises(DecodeError) as caught:
        builtin.decode("acl_add_replace", data)
    assert caught.value.offset == len(data)


def test_prefix_length_beyond_the_family_is_refused(builtin: Schema) -> None:
    data = bytearray(builtin.encode("sw_interface_add_del_address", prefix="10.0.0.1/24"))
    data[-1] = 33
    with pytest.raises(DecodeError, match="prefix length 33"):
        builtin.decode("sw_interface_add_del_address", data)


def test_omitted_fields_take_their_defaults(builtin: Schema) -> None:
    record = builtin.decode("ip_table_add_del_v2", builtin.encode("ip_table_add_del_v2"))
    assert (record.is_add, record.create_mfib) == (True, True)
    assert builtin.decode("tap_create_v3", builtin.encode("tap_create_v3")).id == 0xFFFFFFFF


def test_count_of_a_variable_array_is_inferred(builtin: Schema) -> None:
    data = builtin.encode("ip_route_add_del", route={"prefix": "10.0.0.0/8", "paths": [{}, {}]})
    assert builtin.decode("ip_route_add_del", data).route.n_paths == 2


def test_announced_count_must_match(builtin: Schema) -> None:
    with pytest.raises(EncodeError, match=r"ip_route_add_del\.route\.paths: 1 elements given, but 2 announced"):
        builtin.encode("ip_route_add_del", route={"n_paths": 2, "paths": [{}]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.1.2.3/24", "10.1.2.0/24"),
        (IPv4Network("10.1.2.0/24"), "10.1.2.0/24"),
        (IPv4Interface("10.1.2.3/24"), "10.1.2.0/24"),
        (Network.parse("10.1.2.0/24"), "10.1.2.0/24"),
        ({"address": "10.1.2.0", "len": 24}, "10.1.2.0/24"),
        ({"address": {"af": 0, "un": {"ip4": IPv4Address("10.1.2.0")}}, "len": 24}, "10.1.2.0/24"),
        ("2001:db8::1/64", "2001:db8::/64"),
    ],
)
def test_forms_of_a_prefix(builtin: Schema, value: Any, expected: str) -> None:
    data = builtin.encode("ip_route_add_del", route={"prefix": value})
    assert str(builtin.decode("ip_route_add_del", data).route.prefix) == expected


@pytest.mark.parametrize("value", ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "", "x/8", 7, b"abc", "01.2.3.4/8"])
def test_what_is_no_prefix_is_refused_with_its_path(builtin: Schema, value: Any) -> None:
    with pytest.raises(EncodeError, match=r"^ip_route_add_del\.route\.prefix: "):
        builtin.encode("ip_route_add_del", route={"prefix": value})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"sw_if_index": -1}, "sw_if_index"),
        ({"sw_if_index": 2**32}, "sw_if_index"),
        ({"sw_if_index": "x"}, "sw_if_index"),
        ({"sw_if_index": 1.5}, "sw_if_index"),
        ({"prefix": {"len": 256}}, "prefix.len"),
        ({"nonsense": 1}, "no field 'nonsense'"),
        ({"prefix": {"nonsense": 1}}, "prefix"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(builtin: Schema, fields: dict[str, Any], path: str) -> None:
    with pytest.raises(EncodeError, match=path):
        builtin.encode("sw_interface_add_del_address", **fields)


def test_enums_by_name_member_and_number(builtin: Schema) -> None:
    flags = builtin.enum("if_status_flags")
    by_name = builtin.encode("sw_interface_set_flags", flags="IF_STATUS_API_FLAG_ADMIN_UP|IF_STATUS_API_FLAG_LINK_UP")
    by_number = builtin.encode("sw_interface_set_flags", flags=3)
    assert by_name == by_number == builtin.encode("sw_interface_set_flags", flags=flags(3))
    assert builtin.decode("sw_interface_set_flags", by_name).flags is flags(3)
    with pytest.raises(EncodeError, match="members are"):
        builtin.encode("sw_interface_set_flags", flags="UP")


def test_number_that_an_enum_does_not_name_is_kept(builtin: Schema) -> None:
    record = builtin.decode("ip_neighbor_dump", builtin.encode("ip_neighbor_dump", af=9))
    assert record.af == 9


def test_strings_must_fit_with_their_nul_and_be_ascii(builtin: Schema) -> None:
    builtin.encode("acl_add_replace", tag="x" * 63)
    with pytest.raises(EncodeError, match="64 characters, at most 63"):
        builtin.encode("acl_add_replace", tag="x" * 64)
    with pytest.raises(EncodeError, match="not ASCII"):
        builtin.encode("acl_add_replace", tag="é")


def test_encode_into_writes_in_place(builtin: Schema) -> None:
    data = builtin.encode("control_ping", msg_id=3, client_index=4, context=5)
    buffer = bytearray(b"\xee" * (len(data) + 4))
    end = builtin.encode_into(buffer, "control_ping", offset=2, msg_id=3, client_index=4, context=5)
    assert (end, bytes(buffer)) == (len(data) + 2, b"\xee\xee" + data + b"\xee\xee")
    with pytest.raises(EncodeError, match="do not fit"):
        builtin.encode_into(buffer, "control_ping", offset=8)
    with pytest.raises(EncodeError, match="do not fit"):
        builtin.encode_into(buffer, "control_ping", offset=-1)


def test_times_are_datetimes_and_timedeltas(full: Schema) -> None:
    name = "show_vpe_system_time_reply"
    now = datetime.datetime(2026, 6, 1, 12, 0, 0, 250_000)
    record = full.decode(name, full.encode(name, vpe_system_time=now))
    assert record.vpe_system_time == now
    bad = full.encode(name, vpe_system_time=float("nan"))
    with pytest.raises(DecodeError):
        full.decode(name, bad)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_ipv4_networks_equal_ipaddress(value: int, length: int) -> None:
    schema = api.builtin_schema()
    expected = IPv4Network((value, length), False)
    data = schema.encode("ip_route_add_del", route={"prefix": expected})
    prefix = schema.decode("ip_route_add_del", data).route.prefix
    assert (prefix, str(prefix), hash(prefix)) == (expected, str(expected), hash(expected))
    assert prefix.broadcast_address == expected.broadcast_address
    assert next(iter(prefix.hosts())) == next(iter(expected.hosts()))


@given(st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_ipv6_networks_equal_ipaddress(value: int, length: int) -> None:
    schema = api.builtin_schema()
    expected = IPv6Network((value, length), False)
    data = schema.encode("ip_route_add_del", route={"prefix": expected})
    prefix = schema.decode("ip_route_add_del", data).route.prefix
    assert (prefix, str(prefix), hash(prefix)) == (expected, str(expected), hash(expected))
    assert prefix.broadcast_address == expected.broadcast_address


def test_addresses_of_this_project_are_taken(builtin: Schema) -> None:
    text = builtin.encode("ip_neighbor_add_del", neighbor={"ip_address": "10.0.0.1"})
    assert builtin.encode("ip_neighbor_add_del", neighbor={"ip_address": Address.parse("10.0.0.1")}) == text


def test_mac_addresses_compare_with_all_their_forms() -> None:
    mac = MACAddress("de:ad:be:ef:00:01")
    assert mac == "DE-AD-BE-EF-00-01"
    assert mac == b"\xde\xad\xbe\xef\x00\x01"
    assert mac == MACAddress("deadbeef0001")
    assert mac != "de:ad:be:ef:00:02"
    assert mac != "no address"
    assert (str(mac), hash(mac)) == ("de:ad:be:ef:00:01", hash(MACAddress(mac.packed)))
    with pytest.raises(EncodeError):
        MACAddress("de:ad:be:ef:00")
