"""DHCP leases of VPP's clients as events: another address, or none any more.

VPP tells only the connection that configured a client of its leases (``dhcp_compl_event``), which after a restart of
the agent is gone; so the agent looks, once a second, while any NIC is configured by DHCP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from contiv.controller import Event
from contiv.controller.event import ControllerError
from contiv.errors import VppError
from contiv.model.ip import Address, Network
from contiv.network.events import AddressChange
from contiv.network.state import NetworkState
from contiv.vpp.descriptors import Api, Interfaces
from contiv.vpp.descriptors.lease import leases

log = structlog.get_logger(__name__)

POLL_S: Final = 1.0


class Leases:
    """Follows the leases of one node's NICs."""

    def __init__(self, api: Api, interfaces: Interfaces, network: NetworkState) -> None:
        self._api = api
        self._interfaces = interfaces
        self._network = network
        nics = (*((network.uplink,) if network.uplink is not None else ()), *network.nics)
        self._known: dict[str, tuple[Network | None, Address | None]] = {
            nic.name: (nic.address, network.uplink.gateway if nic is network.uplink and network.uplink else None)
            for nic in nics
            if nic.dhcp
        }

    async def follow(self, push: Callable[[Event], None]) -> None:
        """Push an ``AddressChange`` for each change, until cancelled; nothing to do without DHCP."""
        while self._known:
            try:
                await self._look(push)
            except VppError as error:  # gone or going; when it is back it has leases of its own
                log.debug("leases not read", error=str(error))
            except ControllerError as error:
                log.info("lease change put off", reason=str(error))
            await asyncio.sleep(POLL_S)

    async def _look(self, push: Callable[[Event], None]) -> None:
        for index, lease in (await leases(self._api)).items():
            name = self._interfaces.name(index)
            if name not in self._known:
                continue
            now = (None, None) if lease is None else (lease.address, lease.router)
            if now != self._known[name]:
                log.info("lease", interface=name, address=str(now[0] or ""), router=str(now[1] or ""))
                push(AddressChange(interface=name, address=now[0], gateway=now[1]))
                self._known[name] = now
