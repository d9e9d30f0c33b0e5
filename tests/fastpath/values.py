"""Random values for any message: Python values as callers give them, in the form that vpp_papi takes too.

``message_values(schema, name, rng)`` fills every field but the header; arrays get lengths that fit their counter.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from contiv.fastpath import Field, Schema

HEADER = {"_vl_msg_id", "client_index", "context"}
BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "i8": -8, "i16": -16, "i32": -32, "i64": -64}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_./"


def _ip4(rng: random.Random) -> Any:
    address = IPv4Address(rng.getrandbits(32))
    return rng.choice([address, str(address)])


def _ip6(rng: random.Random) -> Any:
    address = IPv6Address(rng.choice([rng.getrandbits(128), rng.getrandbits(16), rng.getrandbits(64) << 64]))
    return rng.choice([address, str(address)])


def _prefix(rng: random.Random) -> Any:
    if rng.random() < 0.5:
        network: Any = IPv4Network((rng.getrandbits(32), rng.randint(0, 32)), False)
    else:
        network = IPv6Network((rng.getrandbits(128), rng.randint(0, 128)), False)
    return rng.choice([network, str(network)])


def _mac(rng: random.Random) -> str:
    return rng.getrandbits(48).to_bytes(6, "big").hex(":")


CONVERTED = {
    "vl_api_ip4_address_t": _ip4,
    "vl_api_ip6_address_t": _ip6,
    "vl_api_address_t": lambda rng: rng.choice([_ip4, _ip6])(rng),
    "vl_api_prefix_t": _prefix,
    "vl_api_address_with_prefix_t": lambda rng: f"{IPv4Address(rng.getrandbits(32))}/{rng.randint(0, 32)}",
    "vl_api_ip4_prefix_t": lambda rng: IPv4Network((rng.getrandbits(32), rng.randint(0, 32)), False),
    "vl_api_ip6_prefix_t": lambda rng: IPv6Network((rng.getrandbits(128), rng.randint(0, 128)), False),
    "vl_api_ip4_address_with_prefix_t": lambda rng: f"{IPv4Address(rng.getrandbits(32))}/{rng.randint(0, 32)}",
    "vl_api_ip6_address_with_prefix_t": lambda rng: f"{IPv6Address(rng.getrandbits(128))}/{rng.randint(0, 128)}",
    "vl_api_mac_address_t": _mac,
    "vl_api_timestamp_t": lambda rng: float(rng.randint(0, 2**31)) + 0.25,
    "vl_api_timedelta_t": lambda rng: float(rng.randint(-(2**20), 2**20)) + 0.5,
}


def text(rng: random.Random, most: int) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(0, most)))


def number(rng: random.Random, kind: str) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "f64":
        return rng.uniform(-1e12, 1e12)
    bits = BITS[kind]
    if bits > 0:
        return rng.choice([rng.getrandbits(bits), 0, (1 << bits) - 1])
    return rng.choice([rng.getrandbits(-bits - 1), -1, -(1 << (-bits - 1))])


def type_value(schema: Schema, kind: str, rng: random.Random) -> Any:
    """A value of a named type."""
    if kind in CONVERTED:
        return CONVERTED[kind](rng)
    if kind in BITS or kind in {"bool", "f64"}:
        return number(rng, kind)
    family, body = schema.type_definition(kind)
    if family in {"enums", "enumflags"}:
        return rng.choice([int(member) for member in schema.enum(kind).__members__.values()])
    if family == "aliases":
        if "length" not in body:
            return type_value(schema, body["type"], rng)
        return field_value(schema, Field("value", body["type"], body["length"]), rng)
    if family == "unions":
        arm = rng.choice(schema.type_fields(kind))
        return {arm.name: field_value(schema, arm, rng)}
    return struct_value(schema, schema.type_fields(kind), rng)


def field_value(schema: Schema, field: Field, rng: random.Random, *, count: int = 0) -> Any:
    """A value of one field; ``count`` is the length of a variable array."""
    if field.type == "string":
        return text(rng, (field.array or 40) - 1 if isinstance(field.array, int) else 40)
    if field.array is None:
        return type_value(schema, field.type, rng)
    length = field.array if isinstance(field.array, int) else count
    if field.type == "u8":
        return rng.randbytes(length)
    return [type_value(schema, field.type, rng) for _ in range(length)]


def struct_value(schema: Schema, fields: tuple[Field, ...], rng: random.Random) -> dict[str, Any]:
    """Values of all fields, counters of variable arrays included (vpp_papi does not infer them)."""
    counts = {field.array: rng.randint(0, 4) for field in fields if isinstance(field.array, str)}
    result: dict[str, Any] = {}
    for field in fields:
        if field.name in HEADER:
            continue
        if field.name in counts:
            result[field.name] = counts[field.name]
        else:
            count = counts[field.array] if isinstance(field.array, str) else 0
            result[field.name] = field_value(schema, field, rng, count=count)
    return result


def message_values(schema: Schema, name: str, rng: random.Random) -> dict[str, Any]:
    """Values of all fields of a message but its header."""
    return struct_value(schema, schema.messages[name].fields, rng)
