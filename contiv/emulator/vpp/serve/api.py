"""The binary API's Unix socket: framing, handshake, message table, dispatch, events.

Clients are served in order of their messages, a bounded number of bytes per turn. A message that cannot be decoded,
or whose number nobody has, gets no answer, as on VPP. A request for which there is no handler is answered with
UNIMPLEMENTED, a dump with nothing. A client that leaves its answers unread is dropped at ``OUTGOING_MAX``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Any, Final

from contiv.emulator.vpp.handlers import WireMessage
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.refusal import Refusal
from contiv.fastpath import CodecError
from contiv.log import get_logger
from contiv.vpp.api import builtin_schema
from contiv.vpp.errors import RETVALS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from contiv.emulator.vpp.handlers import Fields, Handler
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.serve.loop import Loop

log = get_logger(__name__)

FRAME: Final = struct.Struct(">QII")
READ_BYTES: Final = 64 * 1024
"""Bytes of one client that are read and answered in one turn: about 300 route additions."""
OUTGOING_MAX: Final = 64 << 20
MESSAGE_MAX: Final = 16 << 20
CLIENTS_MAX: Final = 1024
FIXED_IDS: Final = (
    "sockclnt_create", "sockclnt_create_reply", "sockclnt_delete", "sockclnt_delete_reply", "sock_init_shm",
    "sock_init_shm_reply", "memclnt_keepalive", "memclnt_keepalive_reply", "control_ping", "control_ping_reply",
    "memclnt_create_v2", "memclnt_create_v2_reply", "get_api_json", "get_api_json_reply",
)  # fmt: skip
"""Messages whose numbers are the same in every VPP, from 15 on (vlibmemory/vl_memory_msg_enum.h)."""
FIRST_FIXED: Final = 15
FIRST_FREE: Final = 100
NO_CURSOR: Final = 0xFFFFFFFF
"""A ``_get`` that is answered at once has nothing to come back for."""
NAME_MAX: Final = 63
"""VPP cuts names in its table so that they fit with their NUL (socket_api.c)."""


class ApiServer:
    """The listening socket and its clients."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._schema = builtin_schema()
        self._handlers: dict[str, Handler] = {}
        self._clients: dict[int, Client] = {}
        self._listener: socket.socket | None = None
        self._path = Path()
        self.subscribers: dict[int, int] = {}
        """Who wants sw_interface_event: pid by client handle."""
        self.ids = _number(list(self._schema.messages))
        self.names = {number: name for name, number in self.ids.items()}

    def serve_handlers(self, handlers: Mapping[str, Handler]) -> None:
        """Who answers which message."""
        self._handlers = dict(handlers)

    def serve(self, path: str) -> None:
        """Listen at ``path``: from now on the socket exists and answers."""
        self._path = Path(path)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        temporary = f"{path}.new"
        Path(temporary).unlink(missing_ok=True)
        listener.bind(temporary)
        Path(temporary).chmod(0o660)
        listener.listen(CLIENTS_MAX)
        self._listener = listener
        self._loop.watch_control(listener, self._accept)
        Path(temporary).rename(path)

    def close(self) -> None:
        """Stop listening, drop the clients, remove the socket."""
        for client in list(self._clients.values()):
            self.drop(client)
        if self._listener is not None:
            self._loop.forget(self._listener)
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def interface_event(self, interface: Interface, deleted: bool) -> None:
        """Tell who wants to know that an interface changed or is gone."""
        for handle, pid in list(self.subscribers.items()):
            client = self._clients.get(handle)
            if client is not None:
                fields = {"pid": pid, "sw_if_index": interface.index, "flags": int(interface.flags), "deleted": deleted}
                client.put(self.encode("sw_interface_event", fields, client_index=handle))

    def encode(self, name: str, fields: Fields, *, context: int = 0, client_index: int = 0) -> bytes:
        """A framed message."""
        program = self._schema.program(name)
        return program.encode(self.ids[name], client_index, context, dict(fields), framed=True)

    def drop(self, client: Client) -> None:
        """Forget a client and close its socket."""
        if self._clients.pop(client.handle, None) is not None:
            self.subscribers.pop(client.handle, None)
            self._loop.forget(client.socket)
            client.socket.close()

    def _accept(self, mask: int) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            connection, _ = self._listener.accept()
            if len(self._clients) >= CLIENTS_MAX:
                connection.close()
                return
            connection.setblocking(False)
            number = next(n for n in range(len(self._clients) + 1) if n | 1 << 31 not in self._clients)
            client = Client(self, self._loop, connection, number | 1 << 31)
            self._clients[client.handle] = client
            self._loop.watch_control(connection, client.ready)

    def dispatch(self, client: Client, data: memoryview) -> None:
        """One message: decode, handle, answer."""
        name = self.names.get(int.from_bytes(data[:2], "big"), "")
        message = self._schema.messages[name] if name else None
        if message is None:
            log.warning("unknown_message", number=int.from_bytes(data[:2], "big"))
            return
        if message.context_offset is None or (message.stream is None and message.reply is None):
            return  # a reply, details or an event: nothing that a client sends
        try:
            record = self._record(name, data)
            self._handle(client, name, record)
        except CodecError as error:
            log.warning("message_dropped", message=name, error=str(error))

    def _record(self, name: str, data: memoryview) -> Any:
        """The message as its handler wants it: decoded, or as it came."""
        if not getattr(self._handlers.get(name), "from_wire", False):
            return self._schema.program(name).decode(data)
        at = self._schema.messages[name].context_offset
        if at is None or len(data) < self._schema.program(name).size:
            raise CodecError(f"{name}: {len(data)} bytes are no whole message")
        return WireMessage(int.from_bytes(data[at : at + 4], "big"), bytes(data))

    def _handle(self, client: Client, name: str, record: Any) -> None:
        if name == "sockclnt_create":
            self._introduce(client, record)
        elif name == "sockclnt_delete":
            client.put(self.encode("sockclnt_delete_reply", {"response": 0}, context=record.context))
            client.flush()
            self.drop(client)
        elif name == "want_interface_events":
            fields = {"retval": self._subscribe(client, record)}
            client.put(self.encode("want_interface_events_reply", fields, context=record.context))
        else:
            self._serve(client, name, record)

    def _serve(self, client: Client, name: str, record: Any) -> None:
        message = self._schema.messages[name]
        handler = self._handlers.get(name)
        context = record.context
        if message.stream is not None and message.reply is None:
            for fields in self._details(name, handler, record):
                client.put(self.encode(message.stream, fields, context=context))
        elif message.stream is not None and message.reply is not None and handler is not None:
            for fields in self._details(name, handler, record):
                client.put(self.encode(message.stream, fields, context=context))
            client.put(self.encode(message.reply, {"retval": 0, "cursor": NO_CURSOR}, context=context))
        elif message.reply is not None:
            answer = self._answer(message.reply, handler, record)
            client.put(self.encode(message.reply, answer, context=context, client_index=client.handle))

    def _details(self, name: str, handler: Handler | None, record: Any) -> Iterator[Fields]:
        """The fields of a dump's details; what is wrong with the dump ends it early."""
        if handler is None:
            return
        try:
            found: Any = handler(record)
            yield from found or ()
        except Exception:  # one request that meets a bug of ours must not end the data plane of a node
            log.exception("handler_failed", message=name)

    def _answer(self, reply: str, handler: Handler | None, record: Any) -> Fields:
        """The fields of a request's reply."""
        if handler is None:
            return {"retval": RETVALS["UNIMPLEMENTED"]}
        try:
            answer: Any = handler(record)
        except Refusal as refusal:
            refused = {"retval": refusal.retval}
            if "sw_if_index" in self._schema.program(reply).index:
                refused["sw_if_index"] = NO_INTERFACE
            return refused
        except Exception:  # one request that meets a bug of ours must not end the data plane of a node
            log.exception("handler_failed", message=reply)
            return {"retval": RETVALS["BUG"]}
        return answer or {}

    def _introduce(self, client: Client, record: Any) -> None:
        messages = self._schema.messages
        table = [
            {"index": number, "name": messages[name].key[:NAME_MAX]} for number, name in sorted(self.names.items())
        ]
        fields = {"response": 0, "index": client.handle, "count": len(table), "message_table": table}
        name = "sockclnt_create_reply"
        client.put(self.encode(name, fields, context=record.context, client_index=client.handle))
        log.debug("client_connected", name=record.name, handle=client.handle & 0xFFFF)

    def _subscribe(self, client: Client, record: Any) -> int:
        wanted, present = bool(record.enable_disable), client.handle in self.subscribers
        if wanted == present:
            return RETVALS["INVALID_REGISTRATION"]
        if wanted:
            self.subscribers[client.handle] = record.pid
        else:
            del self.subscribers[client.handle]
        return 0


class Client:
    """One connection."""

    def __init__(self, server: ApiServer, loop: Loop, connection: socket.socket, handle: int) -> None:
        self.socket = connection
        self.handle = handle
        self._server = server
        self._loop = loop
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._waits_for_room = False

    def put(self, data: bytes) -> None:
        """Queue an answer; it leaves at the end of the turn, or when an event has made it wait too long."""
        self._outgoing += data
        if len(self._outgoing) > READ_BYTES:
            self.flush()

    def take(self) -> bytes:
        """What waits to be sent, taken out of the queue."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def ready(self, mask: int) -> None:
        """The socket can be read or written, or is gone."""
        if mask & EPOLLOUT:
            self.flush()
        if mask & EPOLLIN:
            self._read()
        elif mask & (EPOLLHUP | EPOLLERR):
            self._server.drop(self)

    def flush(self) -> None:
        """Hand what waits to the kernel as far as it takes it."""
        try:
            while self._outgoing:
                sent = self.socket.send(memoryview(self._outgoing)[: 1 << 20])
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()
            return
        if len(self._outgoing) > OUTGOING_MAX:
            log.warning("client_dropped", handle=self.handle & 0xFFFF, unread=len(self._outgoing))
            self._server.drop(self)
            return
        if bool(self._outgoing) != self._waits_for_room and self.socket.fileno() >= 0:
            self._waits_for_room = bool(self._outgoing)
            self._loop.want_write(self.socket, self._waits_for_room)

    def _read(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._server.drop(self)
            return
        self._incoming += data
        self._consume()
        if self.socket.fileno() >= 0:
            self.flush()

    def _consume(self) -> None:
        buffer = bytes(self._incoming)
        view = memoryview(buffer)
        position = 0
        while len(buffer) - position > FRAME.size:
            length = FRAME.unpack_from(buffer, position)[1]
            if length > MESSAGE_MAX:
                log.warning("client_dropped", handle=self.handle & 0xFFFF, length=length)
                self._server.drop(self)
                return
            end = position + FRAME.size + length
            if end > len(buffer):
                break
            if length >= 2:
                self._server.dispatch(self, view[position + FRAME.size : end])
            position = end
            if self.socket.fileno() < 0:
                return
        del self._incoming[:position]


def _number(names: list[str]) -> dict[str, int]:
    """Every message's number: VPP's fixed ones, the others in order from ``FIRST_FREE``."""
    fixed = {name: FIRST_FIXED + place for place, name in enumerate(FIXED_IDS) if name in names}
    others = [name for name in names if name not in fixed]
    return fixed | {name: FIRST_FREE + place for place, name in enumerate(others)}
