"""What init, agent and operators ask of the STN daemon. Each call opens the socket anew: the daemon may be replaced."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import grpc
import grpc.aio

from contiv.stn import contiv_stn_pb2 as pb
from contiv.stn import convert
from contiv.stn.errors import StnUnreachable
from contiv.stn.model import NicInfo
from contiv.stn.server import SERVICE

TIMEOUT_S: Final = 15.0
"""A PCI device takes up to ten seconds to come back."""


class StnClient:
    """Calls on the daemon behind ``socket``; StnUnreachable when it does not answer, StnError when it cannot
    do what is asked."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def info(self, interface: str) -> NicInfo:
        """The NIC as it is, or was before it was stolen; empty: the stolen one, else that of the default route."""
        return convert.nic_info(await self._call("Info", pb.InfoRequest(interface=interface)))

    async def steal(self, interface: str, *, vpp_socket: str, vpp_driver: str = "") -> NicInfo:
        """Steal the NIC; it must be confirmed within the daemon's grace time. StnRefusal: try again later."""
        request = pb.StealRequest(interface=interface, vpp_socket=vpp_socket, vpp_driver=vpp_driver)
        return convert.nic_info(await self._call("Steal", request))

    async def confirm(self) -> NicInfo:
        """The VPP behind the socket given to ``steal`` carries the node now."""
        return convert.nic_info(await self._call("Confirm", pb.ConfirmRequest()))

    async def release(self) -> None:
        """Give the NIC back; a VPP that still holds it is ended."""
        convert.nic_info(await self._call("Release", pb.ReleaseRequest()))

    async def _call(self, method: str, request: Any) -> pb.Reply:
        async with grpc.aio.insecure_channel(f"unix:{quote(self._socket)}") as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=pb.Reply.FromString,
            )
            try:
                reply: pb.Reply = await call(request, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise StnUnreachable(
                    f"stnSocketFile = {self._socket!r}: no STN daemon answers ({error.details()}); start 'contiv stn'"
                ) from error
        return reply
