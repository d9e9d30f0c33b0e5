"""af_packet interfaces: VPP on a kernel link, usually one end of a veth pair (VPP: src/plugins/af_packet).

Rings are of version 2 and shorter than VPP's own (1,024 frames of 66 KiB each way, 135 MB an interface); the wanted
value says how long. Creating an interface waits for the kernel's RCU some 40 ms, during which VPP's main thread
stands still, whatever the length; hence the prepared interfaces of ``contiv.network``.
"""

from __future__ import annotations

from typing import Final

from contiv.model.vpp import AfPacket
from contiv.vpp.descriptors.base import Api, remove

MODE_ETHERNET: Final = 1
FLAG_QDISC_BYPASS: Final = 1
FLAG_CKSUM_GSO: Final = 2
FLAG_VERSION_2: Final = 8
LARGE_FRAME_BYTES: Final = 2048 * 33
"""VPP's own default: a segment of 64 KiB with its headers (plugins/af_packet/af_packet.c)."""
FRAME_STEP: Final = 2048
"""A ring's block, frames times their size, must be a multiple of the page size (packet(7))."""
FRAME_OVERHEAD: Final = 128
"""tpacket2_hdr, sockaddr_ll, virtio_net_hdr, Ethernet and a VLAN tag, with the kernel's alignment: less than this."""
NOT_DUMPED: Final = ("gso", "large", "qdisc_bypass", "rx_frames", "tx_frames")
"""The fields of ``AfPacket`` that VPP never tells."""


def claims(value: AfPacket) -> tuple[str, ...]:
    """The kernel link can be opened once."""
    return (f"af_packet:{value.host_if}",)


async def create(api: Api, value: AfPacket) -> int:
    """Open the link; returns its ``sw_if_index``."""
    flags = FLAG_VERSION_2
    flags |= FLAG_QDISC_BYPASS if value.qdisc_bypass else 0
    flags |= FLAG_CKSUM_GSO if value.gso else 0
    small = _mtu_frame_bytes(value.mtu)
    reply = await api.call(
        "af_packet_create_v3",
        mode=MODE_ETHERNET,
        hw_addr=value.mac,
        use_random_hw_addr=False,
        host_if_name=value.host_if,
        rx_frame_size=LARGE_FRAME_BYTES if value.gso and value.large else small,
        # large wherever VPP may hold large segments: it copies whatever it is to send and looks at no length (device.c)
        tx_frame_size=LARGE_FRAME_BYTES if value.large else small,
        rx_frames_per_block=value.rx_frames,
        tx_frames_per_block=value.tx_frames,
        flags=flags,
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


def _mtu_frame_bytes(mtu: int) -> int:
    return -(-(mtu + FRAME_OVERHEAD) // FRAME_STEP) * FRAME_STEP
