"""TAP interfaces with the host side in a pod's namespace (VPP: src/plugins/tap). They need /dev/vhost-net.

VPP opens the namespace by its path in its own mount namespace, so the agent and VPP share /var/run/netns. A second TAP
of a name in a namespace is no error to VPP: it becomes another queue of the first one's link and takes its MAC address
away (the link is opened with IFF_MULTI_QUEUE). Hence ``claims``: the scheduler never makes it before the first is gone.
"""

from __future__ import annotations

from typing import Final

from contiv.errors import VppError
from contiv.model.vpp import Tap
from contiv.vpp.descriptors.base import NO_INDEX, Api, remove
from contiv.vpp.errors import VppApiError

FLAG_GSO: Final = 1
FLAG_CHECKSUM: Final = 2
TX_RING_SIZE: Final = 256
RX_RING_SIZE: Final = 64
"""VPP fills it with packet buffers for good: with its own 256, 40 pods emptied a pool of 8,192 and all traffic ended.
Two segments of 64 KiB fit, and between two pods it was not seen to be slower."""
PROBLEMS: Final = {
    "SYSCALL_ERROR_1": "VPP cannot open /dev/vhost-net; load the kernel module vhost_net or set podInterface to veth",
    "SYSCALL_ERROR_2": "VPP cannot open the namespace or /dev/net/tun; both must exist where VPP runs",
    "SYSCALL_ERROR_3": "the kernel refused it; the name may be taken there by a link that is no TAP",
}
"""What VPP's answers to ``tap_create_v3`` mean (src/plugins/tap/tap.c, tap_create_if)."""


def claims(value: Tap) -> tuple[str, ...]:
    """One host interface of a name in a namespace."""
    return (f"tap:{value.netns}:{value.host_if}",)


def signature(value: Tap) -> tuple[str, ...]:
    """By its MAC address too is a TAP without a tag known to be ours."""
    return (*claims(value), value.host_mac)


async def create(api: Api, value: Tap) -> int:
    """Make the TAP and put its host side into the namespace; returns its ``sw_if_index``."""
    try:
        return await _create(api, value)
    except VppApiError as error:
        problem = PROBLEMS.get(error.name, "VPP refused it")
        where = f"namespace {value.netns}" if value.netns else "VPP's own namespace"
        raise VppError(f"tap {value.name} as {value.host_if} in {where}: {problem} ({error})") from error


async def _create(api: Api, value: Tap) -> int:
    reply = await api.call(
        "tap_create_v3",
        id=NO_INDEX,
        use_random_mac=False,
        mac_address=value.mac,
        num_rx_queues=1,
        num_tx_queues=1,
        rx_ring_sz=RX_RING_SIZE,
        tx_ring_sz=TX_RING_SIZE,
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
