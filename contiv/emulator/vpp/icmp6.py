"""ICMPv6: neighbour discovery for our own addresses, echo replies, errors (RFC 4443, RFC 4861)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.checksum import checksum, ones_sum, pseudo_sum6
from contiv.emulator.vpp.packet import IPPROTO_ICMP6, make

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet

_IP6: Final = struct.Struct(">IHBB16s16s")
_U16: Final = struct.Struct(">H")
ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129
SOLICITATION: Final = 135
ADVERTISEMENT: Final = 136
ERROR_LENGTH_MAX: Final = 1_280
"""An ICMPv6 error must fit the minimum MTU (RFC 4443, section 2.4)."""
SOLICIT_INTERVAL_S: Final = 1e-3
SOLICIT_MAX: Final = 4_096
ALL_NODES: Final = (0xFF02 << 112) | 1


def link_local(mac: bytes) -> int:
    """The link-local address that an interface makes of its link address (RFC 4291, appendix A)."""
    identifier = bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:6]
    return (0xFE80 << 112) | int.from_bytes(identifier, "big")


class Icmp6Nodes:
    """The nodes ip6-icmp-input, icmp6-neighbor-solicitation and -advertisement, ip6-icmp-error."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._errors = graph.errors
        self._asked: dict[tuple[int, int], float] = {}

    def input(self, packet: Packet) -> Node | None:
        """ip6-icmp-input: ICMPv6 for us."""
        start = packet.start
        icmp = start + 40
        if packet.end - icmp < 8 or packet.buf[start + 6] != IPPROTO_ICMP6:
            return self._drop(packet, "payload length too small for type")
        if packet.csum_start:
            packet.csum_start = 0
        elif not _sum_holds(packet):
            return self._drop(packet, "bad icmp checksum")
        kind = packet.buf[icmp]
        if kind == SOLICITATION:
            return self._solicited(packet)
        if kind == ADVERTISEMENT:
            return self._advertised(packet)
        if kind == ECHO_REQUEST:
            return self._echo(packet)
        return self._drop(packet, "unknown type")

    def multicast(self, packet: Packet) -> Node | None:
        """A packet to a multicast group: neighbour discovery is for us, the rest is nobody's."""
        if packet.buf[packet.start + 6] == IPPROTO_ICMP6:
            return self.input
        return self._drop(packet, "ip6 destination lookup miss")

    def link_local(self, packet: Packet) -> Node | None:
        """A packet to a link-local address: ours, or nobody's, since it must not be forwarded."""
        start = packet.start
        if int.from_bytes(packet.buf[start + 24 : start + 40], "big") == link_local(packet.rx.mac):
            return self.input
        return self._drop(packet, "ip6 destination lookup miss")

    def solicit(self, interface: Interface, target: int) -> str:
        """Ask who has ``target``; the reason for which the packet that made us ask is counted."""
        source = interface.source_address(6, target)
        if source is None:
            return "no source address for ARP request"
        now = self._graph.clock()
        key = (interface.index, target)
        if now - self._asked.get(key, -1.0) < SOLICIT_INTERVAL_S:
            return "throttled"
        if len(self._asked) >= SOLICIT_MAX:
            self._asked.clear()
        self._asked[key] = now
        group = (0xFF02 << 112) | (0x1FF << 24) | target & 0xFFFFFF
        mac = b"\x33\x33" + (group & 0xFFFFFFFF).to_bytes(4, "big")
        body = bytes((SOLICITATION, 0, 0, 0, 0, 0, 0, 0)) + target.to_bytes(16, "big") + b"\x01\x01" + interface.mac
        self._send(interface, mac, body, source=source, destination=group)
        return "neighbor solicitations sent"

    def error(self, packet: Packet) -> Node | None:
        """Tell the sender what ``icmp_type``, ``icmp_code`` and ``icmp_data`` say."""
        start = packet.start
        buf = packet.buf
        source = int.from_bytes(buf[start + 8 : start + 24], "big")
        is_error = buf[start + 6] == IPPROTO_ICMP6 and packet.end > start + 40 and buf[start + 40] < 128
        ours = packet.rx.source_address(6, source)
        if ours is None or is_error or not source or source >> 120 == 0xFF:
            return None
        quoted = packet.view[start : min(packet.end, start + ERROR_LENGTH_MAX - 48)]
        body = bytes((packet.icmp_type, packet.icmp_code, 0, 0)) + packet.icmp_data.to_bytes(4, "big") + bytes(quoted)
        answer = make(_packet(body, source=ours, destination=source), rx=packet.rx)
        answer.fib = packet.fib or packet.rx.fib6
        answer.local = True
        self._graph.run(self._graph.ip6.lookup, answer)
        return None

    def _solicited(self, packet: Packet) -> Node | None:
        start = packet.start
        if packet.end - start < 64:
            return self._drop(packet, "payload length too small for type")
        interface = packet.rx
        target = int.from_bytes(packet.buf[start + 48 : start + 64], "big")
        source = int.from_bytes(packet.buf[start + 8 : start + 24], "big")
        adjacency = interface.fib6.lookup(target)
        if adjacency.kind != "receive" and target != link_local(interface.mac):
            return self._drop(packet, "neighbor solicitations for unknown targets")
        sender_mac = bytes(packet.view[start - 8 : start - 2])
        if source:
            self._graph.neighbours6.learn(interface, source, sender_mac)
        flags = 0xE0 if source else 0xA0
        body = bytes((ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0)) + target.to_bytes(16, "big")
        body += b"\x02\x01" + interface.mac
        destination = source or ALL_NODES
        mac = sender_mac if source else b"\x33\x33\x00\x00\x00\x01"
        self._errors.count("icmp6-neighbor-solicitation", "neighbor advertisements sent")
        self._send(interface, mac, body, source=target, destination=destination)
        return None

    def _advertised(self, packet: Packet) -> Node | None:
        start = packet.start
        if packet.end - start < 64:
            return self._drop(packet, "payload length too small for type")
        target = int.from_bytes(packet.buf[start + 48 : start + 64], "big")
        self._graph.neighbours6.learn(packet.rx, target, bytes(packet.view[start - 8 : start - 2]))
        return None

    def _echo(self, packet: Packet) -> Node | None:
        start = packet.start
        body = bytes((ECHO_REPLY, 0, 0, 0)) + bytes(packet.view[start + 44 : packet.end])
        source = int.from_bytes(packet.buf[start + 24 : start + 40], "big")
        destination = int.from_bytes(packet.buf[start + 8 : start + 24], "big")
        self._errors.count("ip6-icmp-echo-request", "echo replies sent")
        if destination >> 118 == 0xFE80 >> 6:
            self._send(
                packet.rx,
                bytes(packet.view[start - 8 : start - 2]),
                body,
                source=source,
                destination=destination,
            )
            return None
        answer = make(_packet(body, source=source, destination=destination), rx=packet.rx)
        answer.fib = packet.fib or packet.rx.fib6
        answer.local = True
        self._graph.run(self._graph.ip6.lookup, answer)
        return None

    def _send(self, interface: Interface, mac: bytes, body: bytes, *, source: int, destination: int) -> None:
        frame = mac + interface.mac + b"\x86\xdd" + _packet(body, source=source, destination=destination)
        packet = make(frame, rx=interface)
        packet.tx = interface
        self._graph.run(self._graph.output.interface_output, packet)

    def _drop(self, packet: Packet, reason: str) -> Node | None:
        self._errors.drop(packet, "ip6-icmp-input", reason)
        return None


def _packet(body: bytes, *, source: int, destination: int) -> bytes:
    """An ICMPv6 packet with hop limit 255 and its checksum."""
    pseudo = pseudo_sum6(source, destination, protocol=IPPROTO_ICMP6, length=len(body))
    filled = body[:2] + _U16.pack(checksum(body, initial=pseudo)) + body[4:]
    header = _IP6.pack(
        6 << 28, len(body), IPPROTO_ICMP6, 255, source.to_bytes(16, "big"), destination.to_bytes(16, "big")
    )
    return header + filled


def _sum_holds(packet: Packet) -> bool:
    start = packet.start
    body = packet.view[start + 40 : packet.end]
    source = int.from_bytes(packet.buf[start + 8 : start + 24], "big")
    destination = int.from_bytes(packet.buf[start + 24 : start + 40], "big")
    pseudo = pseudo_sum6(source, destination, protocol=IPPROTO_ICMP6, length=len(body))
    return (ones_sum(body) + pseudo) % 0xFFFF == 0
