"""The asyncio client of VPP's binary API: many requests in flight, answers matched by context.

``connect(path)`` gives a ``Vpp``; inside ``async with`` it is connected. ``call`` sends one request and returns a
future of its reply; ``batch`` sends many at once and keeps their order; ``dump`` collects details; ``events``
subscribes. A negative retval raises ``VppApiError``; a lost connection fails everything that waits with
``VppDisconnected``; every wait has a limit (``VppTimeout``). With ``reconnect=True`` a lost connection is made anew,
with a fresh message table; what was in flight is not repeated: only the caller knows whether that is right.
Next: ``contiv.vpp.transport`` (bytes), ``contiv.vpp.api`` (definitions); descriptors are its users.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from contiv._fastpath import bulk
from contiv._fastpath.channel import Batch, Channel, Incoming, Request
from contiv._fastpath.shm import ShmError
from contiv.fastpath import Columns, Lack, Layout, Ragged, Record, Schema
from contiv.log import get_logger
from contiv.vpp import api
from contiv.vpp.errors import VppApiError, VppBusy, VppDisconnected, VppError, VppIncompatible, VppTimeout
from contiv.vpp.events import Events
from contiv.vpp.shm import SharedMemory, ShmUnusable
from contiv.vpp.transport import SocketProtocol

log = get_logger(__name__)

DEFAULT_PATH: Final = "/run/vpp/api.sock"
# message numbers that are the same in every VPP (vlibmemory/vl_memory_msg_enum.h)
SOCKCLNT_CREATE: Final = 15
SOCKCLNT_CREATE_REPLY: Final = 16
# retval of a ``_get`` that wants to be called again from its cursor (vnet/error.h, EAGAIN)
AGAIN: Final = -165
# a VPP that lists this many cursors for one ``_get`` does not come to an end
MAX_CURSORS: Final = 100_000
MAX_IN_FLIGHT: Final = 65_536
# requests of one batch that are in flight at once
BATCH_WINDOW: Final = 8_192
# how long a close waits for VPP to read what was sent before
CLOSE_TIMEOUT_S: Final = 1.0
RECONNECT_FIRST_S: Final = 0.05
RECONNECT_MOST_S: Final = 2.0


class Vpp:
    """A client of one VPP; make it with ``connect`` and use it as an async context manager."""

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_PATH,
        *,
        name: str = "contiv",
        schema: Schema | None = None,
        prefix: str | os.PathLike[str] | None = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 10.0,
        reconnect: bool = False,
        max_in_flight: int = MAX_IN_FLIGHT,
        shared_memory: str | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.name = name
        self.timeout_s = timeout_s
        self.connect_timeout_s = connect_timeout_s
        self.table: dict[str, int] = {}
        self.version = ""
        self.generation = 0
        self._given_schema = schema
        self._schema = schema
        self._prefix = prefix
        self._max_in_flight = max_in_flight
        self._segment = shared_memory
        self._shm: SharedMemory | None = None
        self.bulk_transport = "socket"
        self._keep = reconnect
        self._keeper: asyncio.Task[None] | None = None
        self._protocol: SocketProtocol | None = None
        self._channel: Channel | None = None
        self._requests: dict[str, Request] = {}
        self._calls: dict[str, Request] = {}
        self._numbers: dict[int, str] = {}
        self._subscriptions: weakref.WeakSet[Events] = weakref.WeakSet()
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._reason = "not connected yet"
        self._loop: asyncio.AbstractEventLoop

    # -- connection -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
        if self._keep:
            self._keeper = asyncio.create_task(self._keep_connected(), name=f"vpp reconnect {self.path}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether requests can be sent now."""
        return self._up.is_set()

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answers."""
        return len(self._channel.pending) if self._channel is not None else 0

    @property
    def schema(self) -> Schema:
        """Definitions of the messages of the VPP that is (or was) connected."""
        if self._schema is None:
            raise VppDisconnected("no schema: not connected yet")
        return self._schema

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Return when connected; VppDisconnected after ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise VppDisconnected(f"{self.path}: not connected within {timeout_s} s: {self._reason}") from None

    async def wait_disconnected(self) -> str:
        """Return the reason when the connection is lost or closed."""
        await self._down.wait()
        return self._reason

    async def open(self) -> None:
        """Connect: socket, handshake, message table, schema. VppDisconnected, VppTimeout, VppIncompatible."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                await self._open()
        except TimeoutError:
            self._abandon("connecting took too long")
            raise VppTimeout(f"connecting to {self.path}", self.connect_timeout_s) from None
        except BaseException:
            self._abandon("connecting failed")
            raise
        log.debug("vpp_connected", path=self.path, version=self.version, messages=len(self.table))

    async def close(self) -> None:
        """Say goodbye and close the socket; what waits fails with VppDisconnected."""
        protocol = self._protocol
        if protocol is None or self._channel is None:
            return
        if self._shm is not None:
            await self._shm.close()
            self._shm = None
        request = self._requests.get("sockclnt_delete")
        if request is not None:
            # VPP releases the client by this message; at end of file it does so only if errno allows (socket_api.c)
            self._channel.send(request, {"index": self._channel.client_index})
        protocol.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._down.wait()
        except TimeoutError:
            protocol.abort("connection closed")  # VPP does not read what is still to be written
            await self._down.wait()

    def _abandon(self, reason: str) -> None:
        if self._protocol is not None:
            self._protocol.abort(reason)
            self._protocol = self._channel = None

    async def _keep_connected(self) -> None:
        while True:
            await self._down.wait()
            delay = RECONNECT_FIRST_S
            while not self.connected:
                try:
                    await self.open()
                except VppError as error:
                    self._reason = str(error)
                    log.debug("vpp_unreachable", path=self.path, error=str(error), retry_s=delay)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RECONNECT_MOST_S)

    async def _open(self) -> None:
        protocol = SocketProtocol(lambda reason: self._lost(protocol, reason))
        handshake = api.builtin_schema()
        channel = protocol.channel = Channel(
            incoming=self._handshake_incoming, on_event=self._event, api_error=VppApiError
        )
        try:
            await self._loop.create_unix_connection(lambda: protocol, self.path)
        except OSError as error:
            raise VppDisconnected(f"{self.path}: {error.strerror or error}; does VPP run?") from error
        self._protocol = protocol
        self._down.clear()
        future = self._loop.create_future()
        create = Request("sockclnt_create", handshake.program("sockclnt_create"), SOCKCLNT_CREATE)
        channel.call(create, {"name": self.name}, future, 0.0, float("inf"), False)
        protocol.requested()
        reply: Record = await future
        if reply.response != 0:
            raise VppDisconnected(f"{self.path}: VPP refused the client: {reply.response}")
        self.table = {entry.name.rstrip("\0"): entry.index for entry in reply.message_table}
        await self._bind(protocol, reply.index)
        self._up.set()
        self.generation += 1
        if self._segment is not None:
            await self._open_shared_memory(self._segment)

    async def _open_shared_memory(self, segment: str) -> None:
        try:
            prefix = api.find_prefix(self._prefix)
            self._shm = await SharedMemory.open(self, segment=segment, prefix=prefix, name=self.name)
            self.bulk_transport = "shared memory"
        except ShmUnusable as error:
            self._shm = None
            self.bulk_transport = f"socket: {error}"
            log.info("vpp_without_shared_memory", path=self.path, reason=str(error))

    def _handshake_incoming(self, number: int) -> Incoming | bool:
        if number != SOCKCLNT_CREATE_REPLY:
            return False
        schema = api.builtin_schema()
        name = "sockclnt_create_reply"
        return Incoming(name, schema.program(name), schema.messages[name].context_offset)

    async def _bind(self, protocol: SocketProtocol, client_index: int) -> None:
        chosen = self._given_schema or api.choose_schema(self.table, prefix=self._prefix)
        self._use(protocol, chosen or api.builtin_schema(), client_index)
        if chosen is None:
            reply = await self.call("get_api_json")
            self._use(protocol, api.reported_schema(reply.json), client_index)
        self.version = ""
        if "show_version" in self._requests:
            self.version = (await self.call("show_version")).version

    def _use(self, protocol: SocketProtocol, schema: Schema, client_index: int) -> None:
        self._schema = schema
        messages = schema.messages
        self._numbers = {}
        for key, number in self.table.items():
            name = key.rpartition("_")[0]
            if name in messages and messages[name].key[:63] == key:  # VPP cuts names (socket_api.c)
                self._numbers[number] = name
        self._requests = {name: Request.late(name, schema, number) for number, name in self._numbers.items()}
        self._calls = {name: one for name, one in self._requests.items() if messages[name].stream is None}
        self._channel = protocol.channel = Channel(
            incoming=self._incoming,
            on_event=self._event,
            api_error=VppApiError,
            client_index=client_index,
            max_in_flight=self._max_in_flight,
        )

    def _incoming(self, number: int) -> Incoming | bool:
        name = self._numbers.get(number)
        if name is None:
            return False
        return Incoming(name, self.schema.program(name), self.schema.messages[name].context_offset)

    def _lost(self, protocol: SocketProtocol, reason: str) -> None:
        if self._protocol is not protocol and self._protocol is not None:
            return  # an older connection, whose end is told after the next one was made
        self._reason = reason
        self._up.clear()
        self._down.set()
        self._protocol = self._channel = None
        if self._shm is not None:
            self._shm.gone()
            self._shm = None
        for subscription in list(self._subscriptions):
            subscription.fail(VppDisconnected(reason))

    def _event(self, name: str, record: Record) -> None:
        for subscription in list(self._subscriptions):
            if name in subscription.names:
                subscription.put(record)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _ready(self) -> tuple[SocketProtocol, Channel]:
        protocol, channel = self._protocol, self._channel
        if protocol is None or channel is None:
            raise VppDisconnected(f"{self.path}: {self._reason}")
        return protocol, channel

    def _request(self, message: str) -> Request:
        request = self._requests.get(message)
        if request is None:
            raise VppIncompatible(message, self._lack(message))
        return request

    def _callable(self, message: str) -> Request:
        request = self._request(message)
        if self.schema.messages[message].stream is not None:
            raise VppIncompatible(message, "it has many answers: use dump")
        return request

    def _lack(self, message: str) -> str:
        found = [key for key in self.table if key.rpartition("_")[0] == message]
        if not found:
            return "the VPP that runs lacks it (is its plugin enabled?)"
        if message not in self.schema.messages:
            return "VPP has it, but its definition is not known; give its api files by prefix or schema"
        return f"VPP has {found[0]}, known is {self.schema.messages[message].key}"

    def check(self, required: Mapping[str, str | None] | Iterable[str]) -> list[Lack]:
        """What the VPP that runs lacks of ``required`` (names; as a mapping, with the CRC that is wanted)."""
        wanted = dict(required) if isinstance(required, Mapping) else dict.fromkeys(required)
        crcs = {name: crc for name, _, crc in (key.rpartition("_") for key in self.table)}
        lacks = []
        for name, crc in wanted.items():
            found = crcs.get(name)
            if found is None or (crc is not None and crc.removeprefix("0x") != found):
                lacks.append(Lack(name, crc, found))
        return lacks

    def _deadline(self, timeout_s: float | None) -> tuple[float, float]:
        seconds = self.timeout_s if timeout_s is None else timeout_s
        return seconds, self._loop.time() + seconds

    def _admit(self, protocol: SocketProtocol, channel: Channel) -> None:
        if channel.full:
            raise VppBusy(f"{self._max_in_flight} requests are in flight; await some of them first")
        if protocol.overloaded:
            raise VppBusy("VPP does not read what is sent to it; await what is in flight first")

    def call(
        self, message: str, /, *, timeout_s: float | None = None, check: bool = True, **fields: Any
    ) -> asyncio.Future[Record]:
        """Send one request; the future that comes back has its reply.

        Many can be sent before the first is awaited: they travel together. ``check=False`` returns replies with a
        retval other than 0 instead of raising. EncodeError and VppIncompatible are raised at once, VppApiError,
        VppTimeout and VppDisconnected by the future.
        """
        protocol, channel = self._protocol, self._channel
        if protocol is None or channel is None or channel.full or protocol.overloaded:
            self._admit(*self._ready())
        assert protocol is not None
        assert channel is not None
        request = self._calls.get(message) or self._callable(message)
        seconds = self.timeout_s if timeout_s is None else timeout_s
        loop = self._loop
        future: asyncio.Future[Record] = loop.create_future()
        channel.call(request, fields, future, seconds, loop.time() + seconds, check)
        protocol.requested()
        return future

    async def batch(
        self,
        requests: Sequence[tuple[str, Mapping[str, Any]]],
        /,
        *,
        return_errors: bool = False,
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send all ``requests`` (message, fields) without waiting in between; replies in the same order.

        With ``return_errors`` a request that failed has its error (VppError) in its place; else the first error is
        raised after all have ended. ``timeout_s`` counts for each request from when it is sent.
        """
        results: list[Any] = []
        for start in range(0, len(requests), BATCH_WINDOW):
            results += await self._window(requests[start : start + BATCH_WINDOW], timeout_s)
        if not return_errors:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return results

    async def _window(self, requests: Sequence[tuple[str, Mapping[str, Any]]], timeout_s: float | None) -> list[Any]:
        batch = Batch(len(requests), self._loop.create_future())
        for place, (message, fields) in enumerate(requests):
            try:
                protocol, channel = self._ready()
                self._admit(protocol, channel)
                channel.add(batch, place, self._callable(message), dict(fields), *self._deadline(timeout_s))
                protocol.requested()
            except VppError as error:
                batch.put(place, error)
        results: list[Any] = await batch.future
        return results

    async def call_many(
        self,
        message: str,
        columns: Mapping[str, Any],
        /,
        *,
        n: int | None = None,
        check: bool = True,
        timeout_s: float | None = None,
    ) -> Columns:
        """``n`` requests of one kind from columns (see ``contiv._fastpath.bulk``); their replies as columns.

        With ``check`` the first reply with a retval other than 0 raises VppApiError, after all have arrived; its
        ``reply`` is then the columns. ``timeout_s`` counts for all of them together.
        """
        layout = self.schema.layout(message)
        n = bulk.length_of(columns, n)
        if n == 0:
            return bulk.decode_many(self._reply_layout(message), [])
        _, channel = self._ready()
        request = self._request(message)
        replies = self._reply_layout(message)
        # messages of different sizes go by the socket
        shared = None if any(isinstance(column, Ragged) for column in columns.values()) else self._shm
        base = 1 if shared is not None else channel.reserve_contexts(n)
        data = bulk.encode_many(
            layout,
            columns,
            n=n,
            msg_id=request.msg_id,
            client_index=channel.client_index,
            contexts=np.arange(base, base + n, dtype=np.uint32),
            framed=True,
        )
        rows = np.zeros((n, replies.dtype.itemsize), np.uint8)
        if shared is not None:
            await self._exchange_many(shared, request, data.reshape(n, -1), rows, timeout_s=timeout_s)
        else:
            await self._send_many(request, base, memoryview(data.data), rows, timeout_s=timeout_s)
        return self._checked(request.name, replies, rows, check=check)

    def _reply_layout(self, message: str) -> Layout:
        reply = self.schema.messages[message].reply
        if self.schema.messages[message].kind != "request" or reply is None:
            raise VppIncompatible(message, "it has no single reply: use dump")
        layout = self.schema.layout(reply)
        if layout.tail is not None:
            raise VppIncompatible(message, "its reply is of variable size: use batch")
        return layout

    async def _send_many(
        self, request: Request, base: int, data: memoryview, rows: Any, *, timeout_s: float | None
    ) -> None:
        protocol, channel = self._ready()
        expected = channel.incoming_of(self._requests[self._reply_layout(request.name).name].msg_id)
        assert not isinstance(expected, bool)
        future: asyncio.Future[Any] = self._loop.create_future()
        channel.expect_many(request, expected, base, rows, future, *self._deadline(timeout_s))
        protocol.requested()
        try:
            await protocol.write_bulk(data)
            await future
        finally:
            channel.forget_many(base)
            future.cancel()

    async def _exchange_many(
        self, shared: SharedMemory, request: Request, data: Any, rows: Any, *, timeout_s: float | None
    ) -> None:
        reply = self._reply_layout(request.name).name
        offset = self.schema.messages[reply].context_offset
        assert offset is not None
        seconds = self.timeout_s if timeout_s is None else timeout_s
        number = self._requests[reply].msg_id
        try:
            await shared.exchange(data, rows, skip=bulk.FRAME, reply=(number, offset), timeout_s=seconds)
        except ShmError as error:
            self._shm = None
            self.bulk_transport = f"socket: {error}"
            if not self.connected:
                raise VppDisconnected(f"{request.name}: {self._reason}") from error
            raise VppTimeout(request.name, seconds) from error

    @staticmethod
    def _checked(message: str, layout: Layout, rows: Any, *, check: bool) -> Columns:
        columns = Columns(layout, rows, np.zeros(len(rows), np.uint32), np.empty(0, np.uint8))
        if check and "retval" in (layout.dtype.names or ()):
            failed = np.flatnonzero(columns["retval"])
            if len(failed):
                raise VppApiError(message, int(columns["retval"][failed[0]]), reply=columns)
        return columns

    async def dump(self, message: str, /, *, timeout_s: float | None = None, **fields: Any) -> list[Record]:
        """Everything that VPP lists: ``ip_route`` (or ``ip_route_dump``), or a ``_get`` followed to its end."""
        for name in (f"{message}_dump", f"{message}_get", message):
            if name in self._requests:
                break
        else:
            raise VppIncompatible(message, self._lack(f"{message}_dump"))
        if self.schema.messages[name].kind == "get":
            return await self._follow(name, fields, timeout_s)
        return (await self._details(name, fields, timeout_s))[1]

    async def dump_many(self, message: str, /, *, timeout_s: float | None = None, **fields: Any) -> Columns:
        """Everything that VPP lists of a ``_dump``, as columns: for lists of thousands (see ``dump`` for fewer)."""
        name = message if message in self._requests else f"{message}_dump"
        self._request(name)
        definition = self.schema.messages[name]
        if definition.kind != "dump" or definition.stream is None:
            raise VppIncompatible(name, "it is no plain dump: use dump or call")
        details = (await self._details(name, fields, timeout_s, raw=True))[1]
        return bulk.decode_many(self.schema.layout(definition.stream), details)

    async def _details(
        self, name: str, fields: Mapping[str, Any], timeout_s: float | None, *, raw: bool = False
    ) -> tuple[Record | None, list[Any]]:
        protocol, channel = self._ready()
        self._admit(protocol, channel)
        message = self.schema.messages[name]
        if message.stream is None:
            raise VppIncompatible(name, "it is no dump: use call")
        future: asyncio.Future[tuple[Record | None, list[Any]]] = self._loop.create_future()
        ping = None if message.kind == "get" else self._request("control_ping")
        request = self._request(name)
        channel.dump(request, dict(fields), message.stream, ping, future, *self._deadline(timeout_s), raw)
        protocol.requested()
        return await future

    async def _follow(self, name: str, fields: Mapping[str, Any], timeout_s: float | None) -> list[Record]:
        records: list[Record] = []
        cursor = 0
        for _ in range(MAX_CURSORS):
            reply, details = await self._details(name, {**fields, "cursor": cursor}, timeout_s)
            assert reply is not None
            records += details
            if reply.retval == 0:
                return records
            if reply.retval != AGAIN:
                raise VppApiError(name, reply.retval, reply=reply)
            cursor = reply.cursor
        raise VppApiError(name, AGAIN)

    def events(self, *names: str) -> Events:
        """Events of these names from now on; VPP sends them once asked by the matching ``want_`` message."""
        for name in names:
            if name not in self.schema.messages:
                raise VppIncompatible(name, self._lack(name))
        subscription = Events(frozenset(names))
        if not self.connected:
            raise VppDisconnected(f"{self.path}: {self._reason}")
        self._subscriptions.add(subscription)
        return subscription


def connect(
    path: str | os.PathLike[str] = DEFAULT_PATH,
    *,
    name: str = "contiv",
    schema: Schema | None = None,
    prefix: str | os.PathLike[str] | None = None,
    timeout_s: float = 10.0,
    connect_timeout_s: float = 10.0,
    reconnect: bool = False,
    max_in_flight: int = MAX_IN_FLIGHT,
    shared_memory: str | None = None,
) -> Vpp:
    """A client of the VPP that listens on the Unix socket ``path``: ``async with connect(path) as vpp``.

    ``schema`` or the api files under ``prefix`` say how its messages look; without them the definitions that fit the
    VPP that runs are found (installed files, this project's record, VPP itself). Times are in seconds.
    ``shared_memory`` is the prefix of VPP's api-segment ("" for its default): ``call_many`` then goes through shared
    memory where that works; ``bulk_transport`` says whether it does.
    """
    return Vpp(
        path,
        name=name,
        schema=schema,
        prefix=prefix,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        reconnect=reconnect,
        max_in_flight=max_in_flight,
        shared_memory=shared_memory,
    )
