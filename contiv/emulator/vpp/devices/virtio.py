"""The virtio-net header in front of every frame from and to the kernel: offloads left open (OASIS virtio 1.2, 5.1.6).

``read`` makes a packet of what a device put into the receive buffer; ``write`` puts the header in front of a packet
that leaves. The kernel speaks it with the machine's own byte order (PACKET_VNET_HDR, IFF_VNET_HDR).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.packet import FRAME_MAX, HEADROOM, TAILROOM, Packet

if TYPE_CHECKING:
    from contiv.emulator.vpp.interface import Interface

LENGTH: Final = 10
NEEDS_CSUM: Final = 1
ROOM: Final = HEADROOM - LENGTH
_HEADER: Final = struct.Struct("=BBHHHH")

_buffer = bytearray(HEADROOM + FRAME_MAX + TAILROOM)
_view = memoryview(_buffer)
_PLAIN: Final = bytes(LENGTH)

room = _view[ROOM : HEADROOM + FRAME_MAX]
"""Where devices read to, header first. One buffer for all: a packet is done before the next one is read."""


def read(length: int, interface: Interface) -> Packet | None:
    """The packet that stands in ``room`` with ``length`` bytes, header included; None for what is no frame."""
    if length <= LENGTH:
        return None
    packet = Packet(_buffer, _view, HEADROOM, ROOM + length, rx=interface)
    if _buffer[ROOM] | _buffer[ROOM + 1]:
        flags, gso_type, _, gso_size, csum_start, csum_offset = _HEADER.unpack_from(_buffer, ROOM)
        if flags & NEEDS_CSUM and csum_start + csum_offset + 2 <= length - LENGTH:
            packet.csum_start = HEADROOM + csum_start
            packet.csum_offset = csum_offset
            if gso_type and gso_size:
                packet.gso_type = gso_type
                packet.gso_size = gso_size
    return packet


def write(packet: Packet) -> memoryview:
    """Header and frame of a packet that leaves, without a copy; the packet has room in front."""
    start = packet.start
    if not packet.csum_start:
        packet.buf[start - LENGTH : start] = _PLAIN
    else:
        headers = 0
        gso_type = gso_size = 0
        if packet.gso_size:
            gso_type, gso_size = packet.gso_type, packet.gso_size
            headers = packet.csum_start - start + 20
        _HEADER.pack_into(
            packet.buf, start - LENGTH, NEEDS_CSUM, gso_type, headers, gso_size, packet.csum_start - start,
            packet.csum_offset,
        )  # fmt: skip
    return packet.view[start - LENGTH : packet.end]
