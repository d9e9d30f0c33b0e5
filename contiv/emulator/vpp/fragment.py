"""IPv4 fragmentation of packets without DF (RFC 791), as ip4-frag does it: full sized pieces, 8-byte boundaries."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.checksum import checksum
from contiv.emulator.vpp.packet import make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contiv.emulator.vpp.packet import Packet

_U16: Final = struct.Struct(">H")
_MF: Final = 0x2000
_COPIED: Final = 0x80
"""Options with this bit go into every fragment (RFC 791, section 3.1)."""


def fragments4(packet: Packet, mtu: int) -> Iterator[Packet]:
    """The fragments of an IPv4 packet, each of at most ``mtu`` bytes, in order. ``packet`` starts at its IP header.

    Nothing comes out when ``mtu`` has no room for 8 bytes of payload.
    """
    view = packet.view
    start = packet.start
    header = (packet.buf[start] & 0xF) * 4
    room = (mtu - header) & ~7
    if room < 8:
        return
    flags = _U16.unpack_from(packet.buf, start + 6)[0]
    position = start + header
    offset = flags & 0x1FFF
    first = True
    while position < packet.end:
        size = min(room, packet.end - position)
        last = position + size == packet.end
        head = bytearray(view[start : start + header])
        if not first:
            _drop_uncopied_options(head)
        more = 0 if last else _MF
        _U16.pack_into(head, 2, header + size)
        _U16.pack_into(head, 6, (flags & ~0x1FFF) | more | offset)
        _U16.pack_into(head, 10, 0)
        _U16.pack_into(head, 10, checksum(head))
        piece = make(bytes(head) + bytes(view[position : position + size]), rx=packet.rx)
        piece.fib = packet.fib
        piece.flow_hash = packet.flow_hash
        yield piece
        first = False
        position += size
        offset += size >> 3


def _drop_uncopied_options(head: bytearray) -> None:
    """Overwrite options that belong to the first fragment alone with no-operation (type 1)."""
    position = 20
    while position < len(head):
        kind = head[position]
        if kind == 0:
            return
        length = 1 if kind == 1 or position + 1 >= len(head) else max(2, head[position + 1])
        if not kind & _COPIED:
            end = min(len(head), position + length)
            head[position:end] = b"\x01" * (end - position)
        position += length
