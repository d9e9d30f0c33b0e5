"""TAP interfaces with the host side in a pod's namespace (VPP: src/plugins/tap). They need /dev/vhost-net.

VPP opens the namespace by its path in its own mount namespace, so the agent and VPP share /var/run/netns.
"""

from __future__ import annotations

from typing import Final

from contiv.model.vpp import Tap
from contiv.vpp.descriptors.base import NO_INDEX, Api, remove

FLAG_GSO: Final = 1
FLAG_CHECKSUM: Final = 2
RING_SIZE: Final = 256
NAMESPACE_MAX: Final = 63
"""``host_namespace`` is a string of 64 bytes with its NUL."""


def claims(value: Tap) -> tuple[str, ...]:
    """One host interface of a name in a namespace."""
    return (f"tap:{value.netns}:{value.host_if}:{value.host_mac}",)


async def create(api: Api, value: Tap) -> int:
    """Make the TAP and put its host side into the namespace; returns its ``sw_if_index``."""
    reply = await api.call(
        "tap_create_v3",
        id=NO_INDEX,
        use_random_mac=False,
        mac_address=value.mac,
        num_rx_queues=1,
        num_tx_queues=1,
        rx_ring_sz=RING_SIZE,
        tx_ring_sz=RING_SIZE,
        host_mtu_set=True,
        host_mtu_size=value.mtu,
        host_mac_addr_set=True,
        host_mac_addr=value.host_mac,
        tap_flags=(FLAG_GSO if value.gso else 0) | FLAG_CHECKSUM,
        host_namespace_set=bool(value.netns),
        host_namespace=value.netns,
        host_if_name_set=True,
        host_if_name=value.host_if,
        tag="",
    )
    return int(reply.sw_if_index)


async def delete(api: Api, value: Tap, index: int) -> None:
    """Remove the TAP; its host side goes with it."""
    await remove(api, "tap_delete_v2", sw_if_index=index)


async def dump(api: Api) -> dict[int, Tap]:
    """All TAPs by ``sw_if_index``; MAC and MTU of VPP's side come from the common dump."""
    return {
        entry.sw_if_index: Tap(
            name="",
            host_if=entry.host_if_name,
            netns=entry.host_namespace,
            mac="",
            host_mac=str(entry.host_mac_addr),
            mtu=entry.host_mtu_size,
            gso=bool(int(entry.tap_flags) & FLAG_GSO),
        )
        for entry in await api.dump("sw_interface_tap_v2", sw_if_index=NO_INDEX)
    }
