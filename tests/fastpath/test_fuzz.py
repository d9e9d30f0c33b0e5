"""Mutated messages, streams and schemas through the Python face of the kernels; run under the sanitizers by
``make fuzz`` and ``make sanitize``. FUZZ_SECONDS says how long each test goes on (default: half a second)."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import values

from contiv._fastpath.channel import Channel, Incoming, Request, split_frames
from contiv.fastpath import CodecError, DecodeError, EncodeError, Schema, SchemaError
from contiv.vpp import api
from contiv.vpp.errors import VppApiError

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.5"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


def rounds() -> Iterator[random.Random]:
    """A generator of randomness for each round until the time is over."""
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        yield random.Random(SEED * 1_000_003 + number)
        number += 1


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut, or set to all ones."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        match rng.randint(0, 3):
            case 0 if out:
                out[rng.randrange(len(out))] = rng.getrandbits(8)
            case 1:
                del out[rng.randint(0, len(out)) :]
            case 2:
                at = rng.randint(0, len(out))
                out[at : at + 4] = b"\xff\xff\xff\xff"
            case _:
                out += rng.randbytes(rng.randint(0, 40))
    return bytes(out)


def test_mutated_messages_decode_or_are_refused(full: Schema) -> None:
    names = list(full.messages)
    for rng in rounds():
        name = rng.choice(names)
        data = mutate(full.encode(name, **values.message_values(full, name, rng)), rng)
        for _ in range(5):
            try:
                record = full.decode(name, data, raw=rng.random() < 0.5)
            except DecodeError as refused:
                record, offset = None, refused.offset
                assert 0 <= offset <= len(data)
            assert record is None or record._fields
            data = mutate(data, rng)


def test_mutated_messages_among_many_give_columns_or_are_refused(full: Schema) -> None:
    names = list(full.messages)
    for rng in rounds():
        name = rng.choice(names)
        messages = [mutate(full.encode(name, **values.message_values(full, name, rng)), rng) for _ in range(4)]
        try:
            n = full.decode_many(name, messages).n
        except DecodeError:
            n = 4
        assert n == 4


def test_mutated_values_are_encoded_or_refused(full: Schema) -> None:
    names = list(full.messages)
    odd: list[Any] = [None, -1, 2**70, 1.5, "x", "::/0", b"", b"\0" * 300, [], [1] * 3, {}, {"x": 1}, object(), ("a",)]
    for rng in rounds():
        name = rng.choice(names)
        fields = values.message_values(full, name, rng)
        for field in rng.sample(list(fields), min(len(fields), 2)):
            fields[field] = rng.choice(odd)
        try:
            data = full.encode(name, **fields)
        except EncodeError as error:
            refused = error.message
        else:
            refused = name
            full.program(name).measure(data)
        assert refused == name


def test_mutated_schemas_compile_or_are_refused() -> None:
    record = api.read_record()
    for rng in rounds():
        part: dict[str, Any] = {"types": rng.sample(record["types"], 12), "messages": rng.sample(record["messages"], 6)}
        part = {
            **copy.deepcopy(part),
            "aliases": record["aliases"],
            "enums": record["enums"],
            "unions": record["unions"],
        }
        for _ in range(rng.randint(1, 4)):
            entry = rng.choice(rng.choice([part["types"], part["messages"]]))
            field = rng.choice(entry)
            if isinstance(field, list):
                position = rng.randrange(len(field))
                field[position] = rng.choice([0, 3, -1, 1 << 40, "count", "u8", "string", "vl_api_prefix_t", None, []])
            elif rng.random() < 0.5:
                entry.insert(rng.randint(1, len(entry)), ["string", "tail", 0])
        try:
            schema = Schema([part])
            names = list(schema.messages)
        except SchemaError:
            continue
        for name in names:
            try:
                program = schema.program(name)
            except SchemaError:
                continue
            data = mutate(schema.encode(name), rng)
            with contextlib.suppress(DecodeError):
                schema.decode(name, data)
            assert program.size < 1 << 24


def test_mutated_streams_end_in_answers_or_in_an_error(builtin: Schema) -> None:
    loop = asyncio.new_event_loop()
    names = ["control_ping_reply", "sw_interface_details", "sw_interface_event", "show_threads_reply"]
    incoming = {i: Incoming(n, builtin.program(n), builtin.messages[n].context_offset) for i, n in enumerate(names)}
    for rng in rounds():
        channel = Channel(
            incoming=lambda number: incoming.get(number, False),
            on_event=lambda *_: None,
            api_error=VppApiError,
            room=64,
        )
        request = Request("control_ping", builtin.program("control_ping"), 9)
        futures = [loop.create_future() for _ in range(4)]
        for future in futures:
            channel.call(request, {}, future, 1.0, 1.0)
        stream = b""
        for _ in range(6):
            number = rng.randrange(4)
            name = names[number]
            fields = values.message_values(builtin, name, rng)
            data = builtin.encode(name, msg_id=number, context=rng.randint(1, 5), **fields)
            stream += bytes(8) + len(data).to_bytes(4, "big") + bytes(4) + data
        stream = mutate(stream, rng)
        try:
            while stream:
                room = channel.get_buffer()
                n = min(len(room), len(stream), rng.randint(1, 200))
                room[:n] = stream[:n]
                stream = stream[n:]
                channel.received_bytes(n)
        except CodecError:
            stream = b""
        channel.fail_all(lambda name: VppApiError(name, -1))
        assert all(future.done() for future in futures)
        for future in futures:
            future.exception()
    loop.close()


def test_mutated_streams_are_split_or_refused() -> None:
    for rng in rounds():
        stream = b"".join(
            bytes(8) + n.to_bytes(4, "big") + bytes(4) + rng.randbytes(n) for n in rng.choices(range(50), k=5)
        )
        buffer = bytearray(mutate(stream, rng))
        try:
            messages, used = split_frames(buffer, len(buffer), 10_000)
        except DecodeError:
            continue
        assert used == sum(len(message) + 16 for message in messages) <= len(buffer)


@pytest.mark.parametrize("n", [-1, 5])
def test_split_of_more_than_there_is_is_refused(n: int) -> None:
    with pytest.raises(IndexError):
        split_frames(bytearray(4), n)
