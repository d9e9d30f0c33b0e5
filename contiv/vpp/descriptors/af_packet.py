"""af_packet interfaces: VPP on a kernel link, usually one end of a veth pair (VPP: src/plugins/af_packet).

Version 2 rings of 16 frames: about 2 MB an interface instead of 135, and no throughput lost between pods. Creating
one waits for the kernel's RCU some 40 ms, during which VPP's main thread stands still; hence the prepared
interfaces of ``contiv.network``.
"""

from __future__ import annotations

from typing import Final

from contiv.model.vpp import AfPacket
from contiv.vpp.descriptors.base import Api, remove

MODE_ETHERNET: Final = 1
FLAG_QDISC_BYPASS: Final = 1
FLAG_CKSUM_GSO: Final = 2
FLAG_VERSION_2: Final = 8
FRAMES_PER_BLOCK: Final = 16


def claims(value: AfPacket) -> tuple[str, ...]:
    """The kernel link can be opened once."""
    return (f"af_packet:{value.host_if}",)


async def create(api: Api, value: AfPacket) -> int:
    """Open the link; returns its ``sw_if_index``."""
    reply = await api.call(
        "af_packet_create_v3",
        mode=MODE_ETHERNET,
        hw_addr=value.mac,
        use_random_hw_addr=False,
        host_if_name=value.host_if,
        rx_frames_per_block=FRAMES_PER_BLOCK,
        tx_frames_per_block=FRAMES_PER_BLOCK,
        flags=FLAG_QDISC_BYPASS | FLAG_VERSION_2 | (FLAG_CKSUM_GSO if value.gso else 0),
        num_rx_queues=1,
        num_tx_queues=1,
    )
    return int(reply.sw_if_index)


async def delete(api: Api, value: AfPacket, index: int) -> None:
    """Close the link."""
    await remove(api, "af_packet_delete", host_if_name=value.host_if)


async def dump(api: Api) -> dict[int, AfPacket]:
    """All af_packet interfaces by ``sw_if_index``, ours and others'; MAC and MTU come from the common dump."""
    return {
        entry.sw_if_index: AfPacket(name="", host_if=entry.host_if_name, mac="", mtu=0)
        for entry in await api.dump("af_packet")
    }
