"""A VPP of a few lines: handshake and scripted answers on a Unix socket, for faults that a real VPP does not make.

Not an emulator: it answers what a test tells it to. ``answers[name]`` is a function ``(record) -> [(name, fields)]``;
a message without one gets its service's reply with retval 0, or nothing when its name is in ``silent``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contiv.fastpath import Record, Schema

Answer = Callable[[Record], list[tuple[str, dict[str, Any]]]]
FIRST_ID = 100


class Peer:
    """One listening socket; every connection is served alike."""

    def __init__(
        self, path: Path, schema: Schema, *, without: set[str] = frozenset(), crcs: dict[str, str] | None = None
    ):
        self.path = path
        self.schema = schema
        self.answers: dict[str, Answer] = {}
        self.silent: set[str] = set()
        self.seen: list[tuple[str, Record]] = []
        self.writers: list[asyncio.StreamWriter] = []
        names = [name for name in schema.messages if name not in without]
        self.ids = {name: FIRST_ID + i for i, name in enumerate(names)}
        self.ids |= {"sockclnt_create": 15, "sockclnt_create_reply": 16}
        self.crcs = crcs or {}
        self._names = {number: name for name, number in self.ids.items()}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the socket and all connections, as a VPP that dies does."""
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()
        self.path.unlink(missing_ok=True)

    def table(self) -> list[dict[str, Any]]:
        """The message table of the handshake."""
        return [
            {"index": number, "name": f"{name}_{self.crcs.get(name, self.schema.messages[name].crc)}"[:63]}
            for name, number in self.ids.items()
        ]

    def frame(self, name: str, *, context: int = 0, **fields: Any) -> bytes:
        """``name`` as bytes on the socket."""
        data = self.schema.encode(name, msg_id=self.ids[name], context=context, **fields)
        return bytes(8) + len(data).to_bytes(4, "big") + bytes(4) + data

    def pause(self) -> None:
        """Read nothing more from the newest client."""
        transport = self.writers[-1].transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    def send(self, data: bytes) -> None:
        """Bytes to the newest client."""
        self.writers[-1].write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                header = await reader.readexactly(16)
                data = await reader.readexactly(int.from_bytes(header[8:12], "big"))
                writer.write(self._answer(data))

    def _answer(self, data: bytes) -> bytes:
        name = self._names[int.from_bytes(data[:2], "big")]
        record = self.schema.decode(name, data)
        self.seen.append((name, record))
        if name == "sockclnt_create":
            return self.frame("sockclnt_create_reply", context=record.context, index=7, message_table=self.table())
        if name in self.silent:
            return b""
        if name in self.answers:
            answers = self.answers[name](record)
        else:
            reply = self.schema.messages[name].reply
            answers = [(reply, {})] if reply is not None and reply in self.ids else []
        return b"".join(self.frame(reply, **{"context": record.context, **fields}) for reply, fields in answers)
