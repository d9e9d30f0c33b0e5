"""The DHCP client's messages (plugins/dhcp/dhcp.api); its events go only to those who ask, here nobody does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contiv.emulator.vpp.handlers.convert import address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.dhcp import DhcpClients
    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.machine import Machine


class DhcpHandlers:
    """Handlers about DHCP clients."""

    def __init__(self, machine: Machine, clients: DhcpClients) -> None:
        self._machine = machine
        self._clients = clients

    def dhcp_client_config(self, message: Any) -> None:
        client = message.client
        interface = self._machine.interface(client.sw_if_index)
        if message.is_add:
            self._clients.add(
                interface,
                hostname=client.hostname,
                broadcast=bool(client.set_broadcast_flag),
                pid=client.pid,
                wants_event=bool(client.want_dhcp_event),
            )
        else:
            self._clients.remove(interface)

    def dhcp_client_dump(self, message: Any) -> Iterable[Fields]:
        for client in self._clients.all():
            terms = client.installed
            yield {
                "client": {
                    "sw_if_index": client.interface.index,
                    "hostname": client.hostname,
                    "want_dhcp_event": client.wants_event,
                    "set_broadcast_flag": client.broadcast,
                    "pid": client.pid,
                },
                "lease": {
                    "sw_if_index": client.interface.index,
                    "state": int(client.state),
                    "is_ipv6": False,
                    "hostname": client.hostname,
                    "mask_width": terms.length,
                    "host_address": address(4, terms.address),
                    "router_address": address(4, terms.router),
                    "host_mac": client.interface.mac,
                    "count": len(terms.dns),
                    "domain_server": [{"address": address(4, each)} for each in terms.dns],
                },
            }
