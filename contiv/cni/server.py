"""The CNI plugin's door into the agent: a gRPC server on a Unix socket, mode 0600.

In: requests of ``contiv-cni``. Each is checked and becomes a call on the ``CniHandler``; calls for one
attachment take turns, GC runs alone. Out: a result, or an error with its CNI code. A call outlives its
client: an interface that is half attached when the runtime gives up is finished or rolled back by the
handler, and the runtime's DEL waits for that. Refused: more calls at once than ``Limits.calls_max``, a
socket on which somebody else listens.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import grpc
import grpc.aio
import msgspec
import structlog

from contiv.cni import contiv_cni_pb2 as pb
from contiv.cni import convert, model
from contiv.cni.turns import Turns
from contiv.errors import CniError

log = structlog.get_logger(__name__)

SERVICE: Final = "contiv.cni.v1.RemoteCNI"
DEFAULT_SOCKET: Final = Path("/run/contiv/cni.sock")
SOCKET_PATH_MAX: Final = 107  # sun_path without its terminator, unix(7)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server bounds."""

    calls_max: int = 1024  # at work or waiting for their turn; more are told to try again
    call_timeout_s: float = 120.0  # then the handler is cancelled; kubelet gives a runtime request two minutes
    stop_grace_s: float = 5.0  # for calls that run when the server stops


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call that ended, for metrics. ``code`` is 0 for success, ``waited_s`` the part before its turn."""

    command: str
    code: int
    duration_s: float
    waited_s: float
    abandoned: bool  # the client was gone before the end


CallObserver = Callable[[CallRecord], None]
_Work = Callable[[pb.Request, float | None], Awaitable[pb.Reply]]  # checks, then calls the handler


def _ignore(_record: CallRecord) -> None:
    """The observer of a server without metrics."""


class Call:
    """One call under way, with what its log line and record need."""

    def __init__(self, command: str, request: pb.Request, remaining_s: float | None) -> None:
        self.command = command
        self.request = request
        self.started = time.monotonic()
        self.deadline = None if remaining_s is None else self.started + remaining_s
        self.waited_s = 0.0
        self.abandoned = False

    def remaining_s(self) -> float | None:
        """Seconds until the plugin gives up; never negative."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class CniServer:
    """Serves one handler. ``serve()`` makes it and sees to it that no call outlives it."""

    def __init__(
        self,
        handler: model.CniHandler,
        *,
        limits: Limits,
        check_netns: convert.NetnsCheck,
        observe: CallObserver,
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._check_netns = check_netns
        self._observe = observe
        self._turns = Turns()
        # no TaskGroup: it would wrap the errors of serve()'s caller; shut_down() awaits them all the same
        self._tasks: dict[asyncio.Task[pb.Reply], Call] = {}

    @property
    def calls(self) -> int:
        """How many calls are at work or wait for their turn."""
        return len(self._tasks)

    @property
    def under_way(self) -> tuple[Call, ...]:
        """The calls at work or waiting, oldest first."""
        return tuple(self._tasks.values())

    async def shut_down(self) -> None:
        """Cancel what still runs and wait for its roll-back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _add(self, request: pb.Request, remaining_s: float | None) -> pb.Reply:
        checked = convert.add_request(request, self._check_netns, remaining_s)
        return convert.success_reply(await self._handler.add(checked))

    async def _delete(self, request: pb.Request, remaining_s: float | None) -> pb.Reply:
        await self._handler.delete(convert.del_request(request, remaining_s))
        return convert.success_reply()

    async def _check(self, request: pb.Request, remaining_s: float | None) -> pb.Reply:
        await self._handler.check(convert.check_request(request, self._check_netns, remaining_s))
        return convert.success_reply()

    async def _status(self, request: pb.Request, remaining_s: float | None) -> pb.Reply:
        await self._handler.status(convert.status_request(request, remaining_s))
        return convert.success_reply()

    async def _collect(self, request: pb.Request, remaining_s: float | None) -> pb.Reply:
        await self._handler.gc(convert.gc_request(request, remaining_s))
        return convert.success_reply()

    def methods(self) -> dict[str, Any]:
        """The gRPC method table."""
        table = {
            "Add": ("ADD", self._add),
            "Delete": ("DEL", self._delete),
            "Check": ("CHECK", self._check),
            "Status": ("STATUS", self._status),
            "GarbageCollect": ("GC", self._collect),
        }
        return {
            name: grpc.unary_unary_rpc_method_handler(
                self._method(command, work),
                request_deserializer=pb.Request.FromString,
                response_serializer=pb.Reply.SerializeToString,
            )
            for name, (command, work) in table.items()
        }

    def _method(self, command: str, work: _Work) -> Callable[[pb.Request, Any], Awaitable[pb.Reply]]:
        async def method(request: pb.Request, context: Any) -> pb.Reply:
            call = Call(command, request, context.time_remaining())
            if self.calls >= self._limits.calls_max:
                return self._finish(call, CniError(model.TRY_AGAIN_LATER, "too many CNI calls at once"))
            task = asyncio.create_task(self._run(call, work), name=f"cni {command} {request.container_id}")
            self._tasks[task] = call
            task.add_done_callback(self._tasks.pop)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                call.abandoned = True
                raise

        return method

    async def _run(self, call: Call, work: _Work) -> pb.Reply:
        """Never raises for what the world does: the reply tells it."""
        limit_s = self._limits.call_timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                reply = await self._in_turn(call, work)
        except CniError as error:
            return self._finish(call, error)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                text = f"{call.command} was not finished in {limit_s:g} s"
                return self._finish(call, CniError(model.TRY_AGAIN_LATER, text, details="call_timeout_s"))
            log.exception("CNI call failed", command=call.command, container=call.request.container_id)
            text = str(error) or type(error).__name__
            return self._finish(call, CniError(model.INTERNAL, text, details=type(error).__name__))
        return self._finish(call, None, reply=reply)

    def _turn(self, call: Call) -> AbstractAsyncContextManager[None]:
        if call.command == "STATUS":
            return nullcontext()
        if call.command == "GC":
            return self._turns.alone()
        return self._turns.of(model.Attachment(call.request.container_id, call.request.ifname))

    async def _in_turn(self, call: Call, work: _Work) -> pb.Reply:
        async with self._turn(call):
            call.waited_s = time.monotonic() - call.started
            if call.abandoned and call.command in ("ADD", "GC"):
                # nobody will learn of the result, and nothing has been done yet
                raise CniError(model.TRY_AGAIN_LATER, f"the runtime gave up before the {call.command} began")
            return await work(call.request, call.remaining_s())

    def _finish(self, call: Call, error: CniError | None, *, reply: pb.Reply | None = None) -> pb.Reply:
        duration_s = time.monotonic() - call.started
        code = 0 if error is None else error.code
        log.info(
            "CNI call",
            command=call.command,
            container=call.request.container_id,
            ifname=call.request.ifname,
            pod=f"{call.request.args.namespace}/{call.request.args.name}",
            code=code,
            error=None if error is None else error.msg,
            ms=round(duration_s * 1000, 2),
            abandoned=call.abandoned,
        )
        self._observe(
            CallRecord(
                command=call.command,
                code=code,
                duration_s=duration_s,
                waited_s=call.waited_s,
                abandoned=call.abandoned,
            )
        )
        if reply is None:
            assert error is not None
            return convert.error_reply(error)
        return reply


def _claim(path: Path) -> None:
    """Make way for the socket: its directory, and no socket there unless somebody listens on it."""
    if len(os.fsencode(path)) > SOCKET_PATH_MAX or not path.is_absolute():
        raise CniError(
            model.INVALID_CONFIG,
            f"agentSocket = {str(path)!r} cannot be a socket",
            details=f"an absolute path of at most {SOCKET_PATH_MAX} bytes is expected",
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CniError(model.IO_FAILURE, f"{path} exists and is no socket", details="remove it")
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # left behind by an agent that was killed
            return
        except BlockingIOError:
            pass  # its backlog is full, so it lives
    raise CniError(model.IO_FAILURE, f"another agent serves {path}", details="stop it first")


def _listen(server: grpc.aio.Server, path: Path) -> None:
    """Bind with mode 0600 from the first moment on: the mode that bind(2) gives follows the umask."""
    umask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{quote(str(path))}")
    except RuntimeError as error:
        raise CniError(model.IO_FAILURE, f"cannot listen on {path}", details=str(error)) from error
    finally:
        os.umask(umask)


@asynccontextmanager
async def serve(
    handler: model.CniHandler,
    *,
    socket: Path = DEFAULT_SOCKET,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    check_netns: convert.NetnsCheck = convert.require_netns,
    observe: CallObserver = _ignore,
) -> AsyncIterator[CniServer]:
    """Serve CNI on ``socket`` while the context lasts; calls under way get ``limits.stop_grace_s``.

    CniError 5 when somebody else listens there or it cannot be bound, 7 when the path cannot be a socket.
    """
    _claim(socket)
    cni = CniServer(handler, limits=limits, check_netns=check_netns, observe=observe)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, cni.methods()),))
    _listen(server, socket)
    await server.start()
    log.info("CNI server listens", socket=str(socket))
    try:
        yield cni
    finally:
        await server.stop(limits.stop_grace_s)
        await cni.shut_down()
        log.info("CNI server stopped", socket=str(socket))
