"""The agent's side of a stolen NIC: take it when all else is ready, vouch for VPP once the node works by it.

The NIC is stolen as late as possible, when the node's ID and the cluster's state are known: on a node with one NIC
etcd is reached by that very NIC. From then on the STN daemon waits for ``confirm``, which means: VPP and Linux hold
all that the host needs to be reachable. Each VPP that comes is vouched for anew.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from contiv.config import Config
from contiv.errors import ContivError, NetworkError
from contiv.network.state import NetworkState
from contiv.scheduler import Scheduler
from contiv.stn.client import StnClient
from contiv.stn.errors import StnRefusal
from contiv.stn.model import NicInfo
from contiv.vpp import Vpp
from contiv.vpp.lifecycle import Sockets

log = structlog.get_logger(__name__)

RETRY_S: Final = 1.0
"""Between attempts to steal a NIC that STN holds back for a while."""
CHECK_S: Final = 0.1
"""Between looks whether the node works: each is time in which the daemon's clock runs."""


class Custody:
    """One node's stolen NIC, ``info`` as it was found."""

    def __init__(self, config: Config, info: NicInfo, vpp: Vpp, scheduler: Scheduler, network: NetworkState) -> None:
        self._client = StnClient(config.stn_socket_file)
        self._driver = config.vpp.nic_driver
        self._socket = Sockets(run_dir=config.vpp.run_dir).api
        self._info = info
        self._vpp = vpp
        self._scheduler = scheduler
        self._network = network

    async def steal(self) -> None:
        """Have the NIC stolen, waiting while STN holds it back. NetworkError when it is not as it was any more: this
        agent renders from what it was, the next one from what it is."""
        while True:
            try:
                found = await self._client.steal(self._info.interface, vpp_socket=self._socket, vpp_driver=self._driver)
                break
            except StnRefusal as error:
                log.warning("NIC not stolen yet", reason=str(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
        if (found.addresses, found.routes, found.mac) != (self._info.addresses, self._info.routes, self._info.mac):
            raise NetworkError(f"NIC {found.interface}: addresses or routes changed while Linux had it; start anew")

    async def keep(self) -> None:
        """Vouch for each VPP that carries the node, until cancelled."""
        while True:
            generation = self._vpp.generation
            try:
                if not await self._works():
                    await asyncio.sleep(CHECK_S)
                    continue
                await self._client.confirm()
            except ContivError as error:
                log.warning("vswitch not confirmed", error=str(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
                continue
            log.info("vswitch confirmed", interface=self._info.interface)
            if self._vpp.generation == generation:
                await self._vpp.wait_disconnected()
            await self._vpp.wait_connected()

    async def _works(self) -> bool:
        """Whether VPP and Linux hold now what the host's own traffic needs."""
        if not self._vpp.connected:
            return False
        wanted = self._network.host_keys()
        if not wanted <= self._scheduler.actual.keys():
            return False
        plan = await self._scheduler.inspect()
        return not any(operation.key in wanted for operation in plan.operations)
