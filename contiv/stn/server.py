"""The daemon's door: gRPC on a Unix socket, mode 0600. In: requests. Out: the keeper's answers, errors as words."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import grpc
import grpc.aio
import structlog

from contiv.errors import ContivError
from contiv.stn import contiv_stn_pb2 as pb
from contiv.stn import convert
from contiv.stn.errors import StnError
from contiv.stn.keeper import Keeper

log = structlog.get_logger(__name__)

SERVICE: Final = "contiv.stn.v1.Stn"
STOP_GRACE_S: Final = 2.0

_Work = Callable[[Any], Awaitable[pb.Reply]]


@asynccontextmanager
async def serve(keeper: Keeper, *, socket: Path) -> AsyncIterator[None]:
    """Serve the keeper while the context lasts; StnError when another daemon does already."""
    _claim(socket)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, _methods(keeper)),))
    umask = os.umask(0o177)  # mode 0600 from the first moment on
    try:
        server.add_insecure_port(f"unix:{quote(str(socket))}")
    except RuntimeError as error:
        raise StnError(f"stnSocketFile = {str(socket)!r}: cannot listen on it; {error}") from error
    finally:
        os.umask(umask)
    await server.start()
    log.info("STN listens", socket=str(socket))
    try:
        yield
    finally:
        await server.stop(STOP_GRACE_S)


def _methods(keeper: Keeper) -> dict[str, Any]:
    async def steal(request: pb.StealRequest) -> pb.Reply:
        nic = await keeper.steal(request.interface, vpp_socket=request.vpp_socket, vpp_driver=request.vpp_driver)
        return convert.nic_reply(nic)

    async def confirm(_: pb.ConfirmRequest) -> pb.Reply:
        return convert.nic_reply(await keeper.confirm())

    async def release(_: pb.ReleaseRequest) -> pb.Reply:
        await keeper.release()
        return pb.Reply(nic=pb.Nic())

    async def info(request: pb.InfoRequest) -> pb.Reply:
        return convert.nic_reply(await keeper.info(request.interface))

    table: dict[str, tuple[Any, _Work]] = {
        "Steal": (pb.StealRequest, steal),
        "Confirm": (pb.ConfirmRequest, confirm),
        "Release": (pb.ReleaseRequest, release),
        "Info": (pb.InfoRequest, info),
    }
    return {
        name: grpc.unary_unary_rpc_method_handler(
            _answered(name, work),
            request_deserializer=kind.FromString,
            response_serializer=pb.Reply.SerializeToString,
        )
        for name, (kind, work) in table.items()
    }


def _answered(name: str, work: _Work) -> Callable[[Any, Any], Awaitable[pb.Reply]]:
    """What the world does wrong becomes an answer; a bug of ours stays a gRPC error with a traceback in the log.

    What was begun is finished although its caller is gone, killed or out of patience: gRPC cancels the method then, and
    a NIC would be stolen without a clock, or a return left to nobody.
    """
    begun: set[asyncio.Task[pb.Reply]] = set()  # the loop itself holds tasks weakly

    async def finish(request: Any) -> pb.Reply:
        try:
            return await work(request)
        except (ContivError, OSError) as error:
            log.warning("refused", call=name, error=str(error))
            return convert.error_reply(error)

    async def method(request: Any, _: Any) -> pb.Reply:
        task = asyncio.create_task(finish(request), name=f"stn {name}")
        begun.add(task)
        task.add_done_callback(begun.discard)
        return await asyncio.shield(task)

    return method


def _claim(path: Path) -> None:
    """Make way for the socket, unless somebody listens on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # left behind by a daemon that was killed
            return
    raise StnError(f"stnSocketFile = {str(path)!r}: another daemon serves it; stop that one first")
