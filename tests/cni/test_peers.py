"""What must not crash or hang the plugin: peers on the agent's socket that are absent, silent or no agent."""

from __future__ import annotations

import asyncio
import socket as sockets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contiv.cni import model

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4
OK = b"\x88"  # HPACK: ":status 200"
GRPC = b"\x0f\x10\x10application/grpc"  # content-type, name by index 31


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: str, value: str) -> bytes:
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def script(*frames: bytes) -> Any:
    """A peer that waits for the request's start, says ``frames`` and hangs up when the plugin has."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        writer.write(frame(SETTINGS) + b"".join(frames))
        await writer.drain()
        await reader.read()

    return talk


def answer(message: bytes, *, prefix: bytes | None = None, trailers: bytes = header("grpc-status", "0")) -> list[bytes]:
    prefix = b"\0" + len(message).to_bytes(4, "big") if prefix is None else prefix
    body = prefix + message
    chunks = [frame(DATA, body[at : at + 16384], stream=1) for at in range(0, len(body), 16384)]
    return [
        frame(HEADERS, OK + GRPC, flags=END_HEADERS, stream=1),
        *chunks,
        frame(HEADERS, trailers, flags=END_HEADERS | END_STREAM, stream=1),
    ]


EMPTY_RESULT = b"\x0a\x00"


async def test_the_scripted_peer_can_answer(runtime: Any, peer: Any) -> None:
    """Else the refusals below would prove nothing."""
    async with peer(script(*answer(EMPTY_RESULT))):
        assert (await runtime.call("ADD")).result["ips"] == []


async def test_pings_and_settings_between_do_not_matter(runtime: Any, peer: Any) -> None:
    parts = answer(EMPTY_RESULT)
    noise = [frame(PING, bytes(8)), frame(SETTINGS, b"\0\4\0\0\0\1"), frame(0xFA, b"unknown kind")]
    async with peer(script(*noise, parts[0], *noise, *parts[1:], frame(RST_STREAM, bytes(4), stream=1))):
        assert (await runtime.call("ADD")).result["ips"] == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(1, 11), (2, 999), (3, 7), (4, 11), (8, 11), (10, 11), (12, 100), (13, 999), (14, 11), (16, 999)],
)
async def test_grpc_statuses_become_cni_codes(runtime: Any, peer: Any, status: int, code: int) -> None:
    trailers_only = OK + GRPC + header("grpc-status", str(status)) + header("grpc-message", "bad%20%C3%A9%zz")
    async with peer(script(frame(HEADERS, trailers_only, flags=END_HEADERS | END_STREAM, stream=1))):
        error = (await runtime.call("ADD")).error
    assert error["code"] == code
    assert error["msg"].endswith("bad é%zz")
    assert error["details"] == f"grpc-status {status}"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(GOAWAY, bytes(8))], 11),
        ([frame(RST_STREAM, (7).to_bytes(4, "big"), stream=1)], 11),
        ([frame(RST_STREAM, (2).to_bytes(4, "big"), stream=1)], 100),
        ([frame(HEADERS, b"\x8d", flags=END_HEADERS | END_STREAM, stream=1)], 100),
        ([frame(HEADERS, OK + GRPC, flags=END_HEADERS | END_STREAM, stream=1)], 100),
        ([frame(HEADERS, b"\xff\xff\xff\xff\xff", flags=END_HEADERS, stream=1)], 100),
        ([frame(DATA, b"before headers", stream=1)], 100),
        ([frame(DATA, b"x" * 16385, stream=1)], 100),
        (answer(EMPTY_RESULT, prefix=b"\1\0\0\0\2"), 100),
        (answer(EMPTY_RESULT, prefix=b"\0\xff\xff\xff\xff"), 100),
        (answer(EMPTY_RESULT, prefix=b""), 100),
        (answer(b""), 100),
        (answer(b"\xff" * 100), 100),
        (answer(EMPTY_RESULT, trailers=header("grpc-status", "x")), 100),
        (answer(b"\x12\x00"), 999),
    ],
)
async def test_broken_answers_get_a_clear_error(runtime: Any, peer: Any, frames: list[bytes], code: int) -> None:
    async with peer(script(*frames)):
        error = (await runtime.call("ADD", runtime.config(timeoutSeconds=5))).error
    assert error["code"] == code


async def test_a_graceful_goaway_lets_the_call_finish(runtime: Any, peer: Any) -> None:
    goaway = frame(GOAWAY, (1).to_bytes(4, "big") + bytes(4))
    async with peer(script(goaway, *answer(EMPTY_RESULT))):
        assert (await runtime.call("ADD")).result["ips"] == []


async def test_an_oversized_answer_is_cut_off(runtime: Any) -> None:
    class Oversized(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _details: Any) -> Any:
            async def method(_request: bytes, _context: Any) -> bytes:
                return bytes((4 << 20) + 1)

            return grpc.unary_unary_rpc_method_handler(method)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Oversized(),))
    server.add_insecure_port(f"unix:{runtime.socket}")
    await server.start()
    error = (await runtime.call("ADD", runtime.config(timeoutSeconds=10))).error
    await server.stop(None)
    assert error["code"] == 100
    assert "too large" in error["msg"]


async def test_a_silent_peer_costs_the_timeout_only(runtime: Any, peer: Any) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    async with peer(silent):
        start = time.monotonic()
        error = (await runtime.call("ADD", runtime.config(timeoutSeconds=1))).error
        assert error["code"] == model.TRY_AGAIN_LATER
        assert 0.9 < time.monotonic() - start < 3
        assert (await runtime.call("STATUS", runtime.config(timeoutSeconds=1))).error["code"] == 50


@pytest.mark.parametrize("before", [b"", frame(SETTINGS), frame(SETTINGS)[:5], frame(SETTINGS) + answer(b"")[0]])
async def test_a_peer_that_hangs_up_midway_is_code_11(runtime: Any, peer: Any, before: bytes) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(before)
        await writer.drain()

    async with peer(leave):
        for command in ("ADD", "DEL"):
            assert (await runtime.call(command)).error["code"] == model.TRY_AGAIN_LATER
        assert (await runtime.call("STATUS")).error["code"] == 50


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=1, max_size=200), polite=st.booleans())
async def test_any_peer_gets_an_error_out_of_the_plugin(sanitized: Any, peer: Any, noise: bytes, polite: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write((frame(SETTINGS) if polite else b"") + noise)
        await writer.drain()

    async with peer(talk, sanitized.socket):
        assert (await sanitized.call("ADD")).error["code"] in (11, 100, 999, 7)


@contextmanager
def no_agent(kind: str, path: Path) -> Iterator[None]:
    listening = sockets.socket(sockets.AF_UNIX)
    waiting: list[sockets.socket] = []
    if kind == "stale":
        listening.bind(str(path))
    elif kind == "full":
        listening.bind(str(path))
        listening.listen(0)
        try:
            while len(waiting) < 100:
                waiting.append(sockets.socket(sockets.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(str(path))
        except BlockingIOError:
            pass
    try:
        yield
    finally:
        for one in (*waiting, listening):
            one.close()
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["absent", "stale", "full"])
@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("STATUS", 50), ("GC", 11)])
async def test_without_an_agent_the_runtime_is_told_within_a_second(
    runtime: Any, kind: str, command: str, code: int
) -> None:
    keys: dict[str, Any] = {"GC": {"cni.dev/valid-attachments": []}, "CHECK": {"prevResult": {}}}.get(command, {})
    with no_agent(kind, runtime.socket):
        start = time.monotonic()
        error = (await runtime.call(command, runtime.config(**keys))).error
    assert error["code"] == code
    assert time.monotonic() - start < 1


async def test_a_socket_that_is_none_is_an_io_failure_or_absent(runtime: Any) -> None:
    runtime.socket.mkdir()
    assert (await runtime.call("ADD")).error["code"] in (model.IO_FAILURE, model.TRY_AGAIN_LATER)
