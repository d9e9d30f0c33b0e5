"""Segmentation and checksum offload done in software, for interfaces whose far side does neither.

``segments`` cuts a TCP or UDP super frame into frames of at most ``gso_size`` bytes of payload, with their own IP
lengths, identifications, sequence numbers, flags and checksums (what Linux's tcp_gso_segment does; FIN and PSH on the
last, CWR on the first: RFC 3168). The checksum of each segment is computed here in full: nothing is left open.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.checksum import checksum, ones_sum, pseudo_sum4, pseudo_sum6
from contiv.emulator.vpp.packet import (
    FRAME_MAX,
    GSO_TCP4,
    GSO_TCP6,
    GSO_UDP_L4,
    HEADROOM,
    IPPROTO_TCP,
    IPPROTO_UDP,
    Packet,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80


def complete_checksum(packet: Packet) -> None:
    """Compute the checksum that the sender left open.

    The field holds the pseudo header's sum already. A field outside of the frame is a sender's mistake: nothing to do.
    """
    start = packet.csum_start
    field = start + packet.csum_offset
    packet.csum_start = 0
    if field + 2 > packet.end or start < packet.start:
        return
    total = ~ones_sum(packet.view[start : packet.end]) & 0xFFFF
    _U16.pack_into(packet.buf, field, total or 0xFFFF)


def header_length(packet: Packet) -> int:
    """Bytes of headers that every segment repeats, from the link header to the end of TCP or UDP; 0 if malformed."""
    transport = packet.csum_start
    if not transport or transport <= packet.start:
        return 0
    if packet.gso_type & ~0x80 == GSO_UDP_L4:
        end = transport + 8
    else:
        if transport + 20 > packet.end:
            return 0
        end = transport + (packet.buf[transport + 12] >> 4) * 4
    return end - packet.start if end < packet.end and end >= transport + 8 else 0


def layer3_size(packet: Packet) -> int:
    """Length of the largest IP packet that ``packet``, which starts at its IP header, stands for."""
    if not packet.gso_size:
        return packet.end - packet.start
    return min(header_length(packet) + packet.gso_size, packet.end - packet.start)


_scratch = bytearray(HEADROOM + FRAME_MAX)
_scratch_view = memoryview(_scratch)


def segments(packet: Packet) -> Iterator[Packet]:
    """The frames that a super frame stands for, each valid until the next one is asked for.

    ``packet`` starts at its link header. Yields nothing for a super frame that is none (headers missing, unknown
    kind): such frames come from a broken or hostile sender.
    """
    headers = header_length(packet)
    kind = packet.gso_type & ~0x80
    if not headers or kind not in {GSO_TCP4, GSO_TCP6, GSO_UDP_L4}:
        return
    layer3 = packet.start + 14
    version = packet.buf[layer3] >> 4
    if version not in {4, 6} or packet.csum_start < layer3 + (20 if version == 4 else 40):
        return
    cutter = _Cutter(packet, headers, version=version, udp=kind == GSO_UDP_L4)
    position = packet.start + headers
    number = 0
    while position < packet.end:
        size = min(packet.gso_size, packet.end - position)
        yield cutter.cut(position, size, number)
        position += size
        number += 1


class _Cutter:
    """What stays the same from segment to segment."""

    def __init__(self, packet: Packet, headers: int, *, version: int, udp: bool) -> None:
        self._packet = packet
        self._headers = headers
        self._version = version
        self._udp = udp
        self._template = bytes(packet.view[packet.start : packet.start + headers])
        self._transport = packet.csum_start - packet.start
        view = packet.view
        layer3 = packet.start + 14
        if version == 4:
            self._source = _U32.unpack_from(view, layer3 + 12)[0]
            self._destination = _U32.unpack_from(view, layer3 + 16)[0]
            self._ident = _U16.unpack_from(view, layer3 + 4)[0]
        else:
            self._source = int.from_bytes(view[layer3 + 8 : layer3 + 24], "big")
            self._destination = int.from_bytes(view[layer3 + 24 : layer3 + 40], "big")
        self._sequence = 0 if udp else _U32.unpack_from(view, packet.csum_start + 4)[0]
        self._first = packet.start + headers
        pseudo = pseudo_sum4 if version == 4 else pseudo_sum6
        protocol = IPPROTO_UDP if udp else IPPROTO_TCP
        self._pseudo = pseudo(self._source, self._destination, protocol=protocol, length=0)

    def cut(self, position: int, size: int, number: int) -> Packet:
        """The segment with ``size`` bytes of payload from ``position``."""
        packet = self._packet
        headers = self._headers
        start = HEADROOM
        end = start + headers + size
        _scratch[start : start + headers] = self._template
        _scratch[start + headers : end] = packet.view[position : position + size]
        transport = start + self._transport
        self._fix_layer3(start + 14, end, number)
        length = end - transport
        if self._udp:
            _U16.pack_into(_scratch, transport + 4, length)
            field = transport + 6
        else:
            _U32.pack_into(_scratch, transport + 4, (self._sequence + position - self._first) & 0xFFFFFFFF)
            if position + size < packet.end:
                _scratch[transport + 13] &= ~_FIN_PSH & 0xFF
            if number:
                _scratch[transport + 13] &= ~_CWR & 0xFF
            field = transport + 16
        _U16.pack_into(_scratch, field, 0)
        total = checksum(_scratch_view[transport:end], initial=self._pseudo + length)
        _U16.pack_into(_scratch, field, total or 0xFFFF)
        made = Packet(_scratch, _scratch_view, start, end, rx=packet.rx)
        made.fib = packet.fib
        made.shg = packet.shg
        made.loops = packet.loops
        made.flow_hash = packet.flow_hash
        return made

    def _fix_layer3(self, layer3: int, end: int, number: int) -> None:
        if self._version == 6:
            _U16.pack_into(_scratch, layer3 + 4, end - layer3 - 40)
            return
        header = (_scratch[layer3] & 0xF) * 4
        _U16.pack_into(_scratch, layer3 + 2, end - layer3)
        _U16.pack_into(_scratch, layer3 + 4, (self._ident + number) & 0xFFFF)
        _U16.pack_into(_scratch, layer3 + 10, 0)
        _U16.pack_into(_scratch, layer3 + 10, checksum(_scratch_view[layer3 : layer3 + header]))
