"""ICMPv4: errors about packets that could not go on (ip4-icmp-error) and echo replies for our own addresses."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp import gso
from contiv.emulator.vpp.checksum import checksum, update
from contiv.emulator.vpp.packet import IPPROTO_ICMP, make

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.packet import Node, Packet

_HEADER: Final = struct.Struct(">BBHHHBBHII")
_ICMP: Final = struct.Struct(">BBHI")
_U16: Final = struct.Struct(">H")
ERROR_LENGTH_MAX: Final = 576
"""What a host must accept at least (RFC 1122); icmp4.c cuts its errors there."""
ECHO_REPLY: Final = 0
ECHO_REQUEST: Final = 8
_ERROR_NAMES: Final = {
    3: "destination unreachable response sent",
    11: "hop limit exceeded response sent",
    12: "parameter problem response sent",
}


class Icmp4Nodes:
    """The nodes ip4-icmp-input, ip4-icmp-echo-request and ip4-icmp-error."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._errors = graph.errors
        self._family = graph.family4

    def error(self, packet: Packet) -> Node | None:
        """Tell the sender of ``packet`` what its ``icmp_type``, ``icmp_code`` and ``icmp_data`` say.

        The source is the receiving interface's address; without one nothing is sent. ICMP errors and anything that
        came to a broadcast or from nobody get no error back (RFC 1122, section 3.2.2).
        """
        start = packet.start
        source = _HEADER.unpack_from(packet.buf, start)[8]
        ours = packet.rx.source_address(4, source)
        if ours is None or not source or source >> 28 >= 0xE or _is_icmp_error(packet):
            self._errors.count("ip4-icmp-error", "error message dropped")
            return None
        if packet.csum_start:
            gso.complete_checksum(packet)
        quoted = packet.view[start : min(packet.end, start + ERROR_LENGTH_MAX - 28)]
        body = bytearray(_ICMP.pack(packet.icmp_type, packet.icmp_code, 0, packet.icmp_data))
        body += quoted
        _U16.pack_into(body, 2, checksum(body))
        answer = make(ip4_header(len(body), ours, source, ttl=255, protocol=IPPROTO_ICMP) + body, rx=packet.rx)
        answer.fib = packet.fib or packet.rx.fib4
        answer.local = True
        self._errors.count("ip4-icmp-error", _ERROR_NAMES.get(packet.icmp_type, "valid packets"))
        self._graph.run(self._graph.ip4.lookup, answer)
        return None

    def input(self, packet: Packet) -> Node | None:
        """ip4-icmp-input: ICMP for one of our addresses."""
        start = packet.start
        icmp = start + (packet.buf[start] & 0xF) * 4
        if packet.end - icmp < 8:
            return self._drop(packet, "ip4-icmp-input", "payload length too small for type")
        if packet.buf[icmp] == ECHO_REQUEST:
            return self._echo(packet, icmp)
        if self._graph.punt.redirects:  # a reply to the host, or an error about what it sent
            return self._graph.punt.punt
        return self._drop(packet, "ip4-icmp-input", "unknown type")

    def _echo(self, packet: Packet, icmp: int) -> Node | None:
        """Turn an echo request into its reply, in place."""
        buf = packet.buf
        start = packet.start
        if packet.csum_start:
            gso.complete_checksum(packet)
        buf[icmp] = ECHO_REPLY
        was = _U16.unpack_from(buf, icmp + 2)[0]
        _U16.pack_into(buf, icmp + 2, update(was, ECHO_REQUEST << 8, ECHO_REPLY << 8))
        buf[start + 12 : start + 20] = buf[start + 16 : start + 20] + buf[start + 12 : start + 16]
        before = buf[start + 8] << 8 | buf[start + 9]
        buf[start + 8] = 64
        header_sum = _U16.unpack_from(buf, start + 10)[0]
        _U16.pack_into(buf, start + 10, update(header_sum, before, 64 << 8 | buf[start + 9]))
        packet.local = True
        packet.flow_hash = 0
        packet.fib = packet.fib or packet.rx.fib4
        self._errors.count("ip4-icmp-echo-request", "echo replies sent")
        return self._graph.ip4.lookup

    def _drop(self, packet: Packet, node: str, reason: str) -> Node | None:
        self._errors.drop(packet, node, reason)
        return None


def ip4_header(length: int, source: int, destination: int, *, ttl: int, protocol: int) -> bytes:
    """An IPv4 header without options for ``length`` bytes of payload, checksum included."""
    head = bytearray(_HEADER.pack(0x45, 0, 20 + length, 0, 0, ttl, protocol, 0, source, destination))
    _U16.pack_into(head, 10, checksum(head))
    return bytes(head)


def _is_icmp_error(packet: Packet) -> bool:
    start = packet.start
    if packet.buf[start + 9] != IPPROTO_ICMP:
        return False
    icmp = start + (packet.buf[start] & 0xF) * 4
    return icmp < packet.end and packet.buf[icmp] not in {ECHO_REQUEST, ECHO_REPLY}
