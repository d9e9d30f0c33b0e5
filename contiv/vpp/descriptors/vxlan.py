"""VXLAN tunnels into bridge domains (VPP: src/plugins/vxlan; RFC 7348)."""

from __future__ import annotations

from typing import Any, Final

from contiv.model.vpp import VxlanTunnel
from contiv.vpp.descriptors.base import NO_INDEX, Api, from_ip, remove

PORT: Final = 4789
"""The port that IANA gave VXLAN (RFC 7348 section 5)."""
DECAP_L2: Final = NO_INDEX
"""Decapsulated frames go to l2-input (vxlan.c)."""


def claims(value: VxlanTunnel) -> tuple[str, ...]:
    """One tunnel between two addresses for a VNI in a table."""
    return (f"vxlan:{value.source}:{value.destination}:{value.vni}:{value.vrf}",)


async def create(api: Api, value: VxlanTunnel) -> int:
    """Make the tunnel; returns its ``sw_if_index``."""
    reply = await api.call("vxlan_add_del_tunnel_v3", is_add=True, **_fields(value))
    return int(reply.sw_if_index)


async def delete(api: Api, value: VxlanTunnel, index: int) -> None:
    """Remove the tunnel."""
    await remove(api, "vxlan_add_del_tunnel_v3", is_add=False, **_fields(value))


async def dump(api: Api) -> dict[int, VxlanTunnel]:
    """All tunnels by ``sw_if_index``."""
    return {
        entry.sw_if_index: VxlanTunnel(
            name="",
            instance=entry.instance,
            vni=entry.vni,
            source=from_ip(entry.src_address),
            destination=from_ip(entry.dst_address),
            vrf=entry.encap_vrf_id,
        )
        for entry in await api.dump("vxlan_tunnel_v2", sw_if_index=NO_INDEX)
    }


def _fields(value: VxlanTunnel) -> dict[str, Any]:
    return {
        "instance": value.instance,
        "src_address": str(value.source),
        "dst_address": str(value.destination),
        "src_port": PORT,
        "dst_port": PORT,
        "mcast_sw_if_index": NO_INDEX,
        "encap_vrf_id": value.vrf,
        "decap_next_index": DECAP_L2,
        "vni": value.vni,
        "is_l3": False,
    }
