"""What VPP's DHCP clients have been leased (VPP: src/plugins/dhcp/dhcp.api). Reads only."""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.model.ip import Address, Network
from contiv.vpp.descriptors.base import Api, from_ip

BOUND: Final = 2
"""DHCP_CLIENT_STATE_API_BOUND."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a DHCP server has given an interface: address with prefix length, router (None: it named none)."""

    address: Network
    router: Address | None = None


async def leases(api: Api) -> dict[int, Lease | None]:
    """Each interface with a DHCP client by ``sw_if_index``, and its lease; None while it has none."""
    found: dict[int, Lease | None] = {}
    for entry in await api.dump("dhcp_client"):
        lease = entry.lease
        address = from_ip(lease.host_address)
        bound = int(lease.state) == BOUND and address.value != 0
        router = from_ip(lease.router_address)
        found[entry.client.sw_if_index] = (
            Lease(address=Network(4, address.value, lease.mask_width), router=router if router.value else None)
            if bound
            else None
        )
    return found
