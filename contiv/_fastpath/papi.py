"""``PapiClient``: vpp_papi's ``VPPApiClient`` over this codec, so that an existing script changes one import.

Constructor, ``connect``, ``api.<message>(...)``, lists of ``_dump``, pairs of ``_get``, event callbacks, ``VppEnum``
and ``disconnect`` are as there: synchronous, a retval is returned and never raised, the errors have vpp_papi's names.
One thread reads the socket; events reach the callback from another, as there. What differs: messages of two VPP
releases do not get mixed up in one process, counts of variable arrays may be omitted, and an omitted field has its own
default alone (vpp_papi lets the default of one interface index leak to others, depending on the order of files).
New programs use ``contiv.vpp.connect``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import msgspec

from contiv._fastpath.channel import split_frames
from contiv._fastpath.errors import CodecError, EncodeError
from contiv._fastpath.schema import Message, Record, Schema

SOCKCLNT_CREATE: Final = 15
SOCKCLNT_CREATE_REPLY: Final = 16
# retval of a ``_get`` that wants to be called again from its cursor (vnet/error.h, EAGAIN)
AGAIN: Final = -165
RECEIVE: Final = 1 << 18


class VPPApiError(Exception):
    """The client is not used as it can be."""


class VPPIOError(IOError):
    """The connection failed, or no answer came in time."""


class VPPRuntimeError(RuntimeError):
    """No API definitions were found."""


class VPPValueError(ValueError):
    """An argument that the message does not have or its field cannot hold."""


class VPPNotImplementedError(NotImplementedError):
    """A definition that cannot be used."""


# schemas of the clients that live, newest last: VppEnum looks into them
_SCHEMAS: weakref.WeakValueDictionary[int, Schema] = weakref.WeakValueDictionary()
_order = itertools.count()


class _EnumLookup(type):
    def __getattr__(cls, name: str) -> Any:
        for key in sorted(_SCHEMAS, reverse=True):
            schema = _SCHEMAS.get(key)
            if schema is not None and name in schema.enum_names:
                return schema.enum(name)
        raise AttributeError(f"no enum {name} in the definitions of any client")


class VppEnum(metaclass=_EnumLookup):
    """``VppEnum.vl_api_x_t`` is the enum of that name, of the client made last."""


def find_api_dir() -> Path:
    """The folder of API definitions: VPP_API_DIR, else that of the installed VPP. VPPRuntimeError."""
    from contiv.vpp import api

    named = os.environ.get("VPP_API_DIR")
    prefix = api.find_prefix()
    if named:
        return Path(named)
    if prefix is None:
        raise VPPRuntimeError("api_dir cannot be located")
    return prefix / api.API_DIR


def _load(apifiles: Iterable[str] | None, apidir: str | list[str] | None) -> Schema:
    if apifiles:
        return Schema(msgspec.json.decode(Path(file).read_bytes()) for file in apifiles)
    if isinstance(apidir, list):
        files = [file for folder in apidir for file in sorted(Path(folder).rglob("*.api.json"))]
        return Schema(msgspec.json.decode(file.read_bytes()) for file in files)
    return Schema.load(Path(apidir) if apidir is not None else find_api_dir())


class PapiClient:
    """A synchronous client of one VPP, shaped like ``vpp_papi.VPPApiClient``."""

    VPPApiError: ClassVar = VPPApiError
    VPPRuntimeError: ClassVar = VPPRuntimeError
    VPPValueError: ClassVar = VPPValueError
    VPPNotImplementedError: ClassVar = VPPNotImplementedError
    VPPIOError: ClassVar = VPPIOError
    apidir: str | list[str] | None = None

    def __init__(
        self,
        *,
        apifiles: Iterable[str] | None = None,
        apidir: str | list[str] | None = None,
        testmode: bool = False,
        async_thread: bool = True,
        logger: logging.Logger | None = None,
        loglevel: int | str | None = None,
        read_timeout: float = 5,
        use_socket: bool = True,
        server_address: str = "/run/vpp/api.sock",
        bootstrapapi: bool = False,
    ) -> None:
        from contiv.vpp import api

        self.logger = logger or logging.getLogger(f"{__name__}.{type(self).__name__}")
        if loglevel is not None and logger is None:
            self.logger.setLevel(loglevel)
        self.testmode, self.async_thread, self.bootstrapapi = testmode, async_thread, bootstrapapi
        self.read_timeout, self.server_address, self.use_socket = read_timeout, server_address, use_socket
        self.message_queue: queue.Queue[Any] = queue.Queue()
        self.message_table: dict[str, int] = {}
        self.event_callback: Callable[[str, Any], None] | None = None
        self._bootstrap = api.builtin_schema()
        try:
            self._set_schema(self._bootstrap if bootstrapapi else _load(apifiles, apidir or type(self).apidir))
        except (VPPRuntimeError, OSError, CodecError) as error:
            if not testmode:
                raise VPPRuntimeError(str(error)) from error
            self._set_schema(Schema([]))
        self._socket: socket.socket | None = None
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._names: dict[int, str] = {}
        self._contexts = itertools.count(1)
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._client_index = 0
        self._api: SimpleNamespace | None = None
        self._async = False

    def _set_schema(self, schema: Schema) -> None:
        self.schema = schema
        self.messages: Mapping[str, Message] = schema.messages
        _SCHEMAS[next(_order)] = schema

    # -- connection -------------------------------------------------------------------------------------------------

    def connect(self, name: str, chroot_prefix: str | None = None, do_async: bool = False, rx_qlen: int = 32) -> int:
        """Connect as ``name``; 0. VPPIOError. ``chroot_prefix`` and ``rx_qlen`` belong to shared memory."""
        from contiv.vpp import api

        if self._socket is not None:
            raise VPPIOError(1, "connected already: disconnect first")
        self._async = do_async
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self.read_timeout)
        self._replies = queue.SimpleQueue()
        try:
            self._socket.connect(self.server_address)
            self._handshake(name)
        except BaseException:
            self._socket.close()
            self._socket = None
            raise
        self._socket.settimeout(None)
        self._start("papi reader", self._read_forever, self._socket)
        if self.bootstrapapi:
            self._async = False
            self._bind()
            self._set_schema(api.reported_schema(self.api.get_api_json().json))
            self._async = do_async
        self._bind()
        if self.async_thread:
            self._start("papi events", self._deliver_forever)
        return 0

    def connect_sync(self, name: str, chroot_prefix: str | None = None, rx_qlen: int = 32) -> int:
        """``connect`` with replies returned by the calls."""
        return self.connect(name, chroot_prefix, rx_qlen=rx_qlen)

    def _start(self, name: str, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _handshake(self, name: str) -> None:
        assert self._socket is not None
        program = self._bootstrap.program("sockclnt_create")
        self._socket.sendall(program.encode(SOCKCLNT_CREATE, 0, 124, {"name": name}, framed=True))
        header = self._exactly(16)
        data = self._exactly(int.from_bytes(header[8:12], "big"))
        if int.from_bytes(data[:2], "big") != SOCKCLNT_CREATE_REPLY:
            raise VPPIOError(2, "invalid reply to sockclnt_create")
        reply = self._bootstrap.decode("sockclnt_create_reply", data)
        self._client_index = reply.index
        self.message_table = {entry.name: entry.index for entry in reply.message_table}

    def _exactly(self, n: int) -> bytes:
        assert self._socket is not None
        data = b""
        while len(data) < n:
            piece = self._socket.recv(n - len(data))
            if not piece:
                raise VPPIOError(2, "VPP closed the connection")
            data += piece
        return data

    def _bind(self) -> None:
        api = SimpleNamespace()
        self._names = {}
        for key, number in self.message_table.items():
            name = key.rpartition("_")[0]
            message = self.messages.get(name)
            if message is None or message.key[:63] != key:
                continue
            self._names[number] = name
            if message.reply is not None or message.stream is not None:
                setattr(api, name, self._function(name, number))
                setattr(api, f"{name}_pack", partial(self._pack, name, number))
        self._api = api

    def _function(self, name: str, number: int) -> Callable[..., Any]:
        function: Any = partial(self._call, name, number)
        function.__name__ = name
        function.__doc__ = ", ".join(f"{field.type} {field.name}" for field in self.messages[name].fields)
        return function  # type: ignore[no-any-return]

    def disconnect(self) -> int:
        """Say goodbye and close; 0."""
        if self._socket is None:
            return 0
        try:
            if not self._async and self._api is not None:
                self._api.sockclnt_delete(index=self._client_index)
        except (OSError, VPPIOError) as error:
            self.logger.debug("goodbye was not answered: %s", error)
        sock, self._socket = self._socket, None
        with contextlib.suppress(OSError):  # the other side may have gone first
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        self.message_queue.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(self.read_timeout)
        self._threads = []
        self.message_table = {}
        return 0

    @property
    def api(self) -> Any:
        """The messages of the connected VPP as functions. VPPApiError before ``connect``."""
        if self._api is None:
            raise VPPApiError("Not connected, api definitions not available")
        return self._api

    # -- threads ----------------------------------------------------------------------------------------------------

    def _read_forever(self, sock: socket.socket) -> None:
        buffer, n = bytearray(RECEIVE), 0
        try:
            while True:
                got = sock.recv_into(memoryview(buffer)[n:])
                if got == 0:
                    break
                messages, used = split_frames(buffer, n + got)
                n += got - used
                buffer[:n] = buffer[used : used + n]
                if n == len(buffer):
                    buffer.extend(bytes(len(buffer)))
                for message in messages:
                    self._take(message)
        except (OSError, CodecError) as error:
            self.logger.debug("reading ended: %s", error)
        self._replies.put(None)

    def _take(self, data: bytes) -> None:
        name = self._names.get(int.from_bytes(data[:2], "big"))
        if name is None:
            return
        event = self.messages[name].context_offset is None
        if self._async:
            if self.event_callback is not None:
                self.event_callback(name, self.schema.decode(name, data))
        elif event:
            self.message_queue.put_nowait(self.schema.decode(name, data))
        else:
            self._replies.put(data)

    def _deliver_forever(self) -> None:
        while True:
            record = self.message_queue.get()
            if record is None:
                return
            if self.event_callback is not None:
                self.event_callback(type(record).__name__, record)

    # -- calls ------------------------------------------------------------------------------------------------------

    def _encode(self, name: str, number: int, client_index: int, context: int, fields: dict[str, Any]) -> bytes:
        try:
            return self.schema.program(name).encode(number, client_index, context, fields, framed=True)
        except EncodeError as error:
            raise VPPValueError(str(error)) from error

    def _pack(self, name: str, number: int, **fields: Any) -> bytes:
        return self._encode(name, number, 0, 0, fields)[16:]

    def _call(self, name: str, number: int, **fields: Any) -> Any:
        raw = fields.pop("_no_type_conversion", False)
        timeout = fields.pop("_timeout", None)
        context = fields.pop("context", None) or next(self._contexts) & 0xFFFFFFFF
        message = self.messages[name]
        data = self._encode(name, number, self._client_index, context, fields)
        if self._async:
            self._write(data)
            return context
        ends = message.reply
        if message.kind == "dump":
            ends = "control_ping_reply"
            ping = self.message_table[self.messages["control_ping"].key]
            data += self._encode("control_ping", ping, self._client_index, context, {})
        with self._lock:
            self._write(data)
            reply, details = self._await(context, ends, message.stream, timeout, raw=raw)
        if message.kind == "dump":
            return details
        return (reply, details) if message.kind == "get" else reply

    def _write(self, data: bytes) -> None:
        if self._socket is None:
            raise VPPIOError(1, "Not connected")
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise VPPIOError(1, f"Sendall error: {error!r}") from error

    def _await(
        self, context: int, ends: str | None, stream: str | None, timeout: float | None, *, raw: bool
    ) -> tuple[Record, list[Record]]:
        details: list[Record] = []
        while True:
            try:
                data = self._replies.get(timeout=self.read_timeout if timeout is None else timeout)
            except queue.Empty:
                raise VPPIOError(2, "VPP API client: read failed") from None
            if data is None:
                self._replies.put(None)  # for whoever asks next
                raise VPPIOError(2, "VPP API client: read failed")
            name = self._names[int.from_bytes(data[:2], "big")]
            record: Any = self.schema.decode(name, data, raw=raw)
            if record.context != context:
                continue  # the late answer of a call that timed out
            if name == stream:
                details.append(record)
            elif name == ends:
                return record, details

    # -- the rest of vpp_papi's face --------------------------------------------------------------------------------

    def register_event_callback(self, callback: Callable[[str, Any], None] | None) -> None:
        """``callback(name, record)`` for every event, from a thread of its own; None for none."""
        self.event_callback = callback

    def get_function(self, name: str) -> Callable[..., Any]:
        """The function of a message."""
        function: Callable[..., Any] = getattr(self.api, name)
        return function

    def get_type(self, name: str) -> Any:
        """An enum class, or the program of a struct or union; None for what is not known."""
        for find in (self.schema.enum, self.schema.type_program):
            with contextlib.suppress(KeyError):
                return find(name)
        return None

    def validate_message_table(self, namecrctable: Iterable[str]) -> list[str]:
        """Which of these messages (``name_crc``) the VPP lacks."""
        return [key for key in namecrctable if key not in self.message_table]

    def dump_message_table(self) -> dict[str, int]:
        """All messages of the VPP, ``name_crc`` to number."""
        return self.message_table

    def details_iter(self, function: Callable[..., Any], **fields: Any) -> Iterator[Record]:
        """Details of a ``_get`` from cursor to cursor."""
        cursor = 0
        while True:
            reply, details = function(**{**fields, "cursor": cursor})
            yield from details
            if reply.retval != AGAIN:
                return
            cursor = reply.cursor
