"""VPP's DHCP client on an interface (VPP: src/plugins/dhcp/client.c).

The client puts the leased address on the interface, and a default route by the server's router, all by itself; both
change and go with the lease. What address it is tells ``dhcp_client_dump``, ``lease.leases``; ``AddressDescriptor``
leaves it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from contiv.model import vpp as model
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import Api, Interfaces, remove
from contiv.vpp.descriptors.layer3 import INTERFACE_DESCRIPTOR, on_interface

HOSTNAME: Final = "contiv"
ID_BYTES: Final = 64


class DhcpClientDescriptor(Descriptor[model.DhcpClient, None]):
    """``vpp/dhcp-client/<interface>``."""

    name = "vpp/dhcp-client"
    prefix = model.DHCP_CLIENT
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.DhcpClient) -> Iterable[Dependency]:
        # the client drops what it would send while its interface is down, and waits longer each time
        return (on_interface(value.interface), Dependency("up", model.admin_up_key(value.interface)))

    async def create(self, key: str, value: model.DhcpClient) -> None:
        await self._api.call("dhcp_client_config", is_add=True, client=self._client(value))

    async def delete(self, key: str, value: model.DhcpClient, metadata: None) -> None:
        await remove(self._api, "dhcp_client_config", is_add=False, client=self._client(value))

    async def retrieve(self, wanted: Mapping[str, model.DhcpClient]) -> Iterable[Actual[model.DhcpClient, None]]:
        names = [self._interfaces.name(entry.client.sw_if_index) for entry in await self._api.dump("dhcp_client")]
        values = [model.DhcpClient(interface=name) for name in names if name is not None]
        return [Actual(key=model.key_of(value), value=value, metadata=None) for value in values]

    def _client(self, value: model.DhcpClient) -> dict[str, Any]:
        # VPP takes any longer than its own address as the client's identifier; empty means the MAC address
        return {
            "sw_if_index": self._interfaces.index(value.interface),
            "hostname": HOSTNAME,
            "id": bytes(ID_BYTES),
            "want_dhcp_event": False,
            "set_broadcast_flag": True,
            "dscp": 0,
            "pid": 0,
        }
