"""IPv4 forwarding: input checks, lookup, rewrite, delivery to ourselves, and what happens when there is no way on.

The nodes of vnet/ip/ip4_input.c and ip4_forward.c. Packets start at their IP header from ip4-input to ip4-rewrite,
which puts the link header back in front. Header checks cost one ``struct`` call and one division; a lookup costs one
dict access (``fib.py``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp import gso
from contiv.emulator.vpp.adjacency import RECEIVE
from contiv.emulator.vpp.checksum import ones_sum, pseudo_sum4
from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.fragment import fragments4
from contiv.emulator.vpp.packet import (
    ETHERNET_LENGTH,
    GSO_UDP_L4,
    IPPROTO_ICMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
)
from contiv.emulator.vpp.reassembly import Reassembly4
from contiv.emulator.vpp.resolve import ForwardingNodes

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.packet import Node, Packet

_HEADER: Final = struct.Struct(">BBHHHBBHII")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_PORTS: Final = struct.Struct(">HH")
DF: Final = 0x4000
MF: Final = 0x2000
OFFSET: Final = 0x1FFF
LOOKUPS_MAX: Final = 4
"""Tables that one packet may be looked up in one after the other (dpo/lookup_dpo.c, MAX_LUKPS_PER_PACKET)."""

UNREACHABLE: Final = 3
TIME_EXCEEDED: Final = 11
NET_UNREACHABLE: Final = 0
HOST_UNREACHABLE: Final = 1
PROTOCOL_UNREACHABLE: Final = 2
PORT_UNREACHABLE: Final = 3
FRAGMENTATION_NEEDED: Final = 4
ADMIN_PROHIBITED: Final = 13


class Ip4Nodes:
    """The nodes from ip4-input to ip4-rewrite and ip4-local."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._errors = graph.errors
        self._family = graph.family4
        self._interface_output = graph.output.interface_output
        self._icmp_error = graph.icmp4.error
        self.reassembly = Reassembly4(graph.clock)
        self.udp_ports: dict[int, Node] = {}
        """Who takes UDP for ourselves, by destination port (udp_register_dst_port)."""
        self.protocols: dict[int, Node] = {
            IPPROTO_ICMP: graph.icmp4.input,
            IPPROTO_UDP: self._udp_lookup,
        }
        """Who takes packets for ourselves, by IP protocol (ip4_register_protocol)."""

    def forwarding_nodes(self) -> ForwardingNodes:
        """The nodes that IPv4 adjacencies lead to."""
        return ForwardingNodes(
            rewrite=self.rewrite,
            arp=self.arp,
            glean=self.glean,
            local=self.local,
            drop=self.drop,
            unreachable=self.unreachable,
            prohibited=self.prohibited,
            lookup=self.lookup_again,
            load_balance=self.load_balance,
        )

    def input(self, packet: Packet) -> Node | None:
        """ip4-input: refuse what is malformed, then the features of the receiving interface, then the lookup."""
        start = packet.start
        buf = packet.buf
        room = packet.end - start
        if room < 20:
            return self._drop(packet, "ip4-input", "ip4 length < 20 bytes")
        first, _, length, _, fragment, ttl, _, _, _, destination = _HEADER.unpack_from(buf, start)
        header = 20
        if first != 0x45:
            header = (first & 0xF) * 4
            problem = _bad_header(first, header, room)
            if problem:
                return self._drop(packet, "ip4-input", problem)
        if length > room or length < header:
            return self._drop(packet, "ip4-input", "ip4 length > l2 length")
        if length < room:
            packet.end = start + length
        if int.from_bytes(buf[start : start + header], "big") % 0xFFFF:
            return self._drop(packet, "ip4-input", "bad ip4 checksum")
        if first != 0x45:  # ip4-options punts them, and nobody takes them
            return self._drop(packet, "ip4-input", "ip4 options present")
        if fragment & OFFSET == 1:
            return self._drop(packet, "ip4-input", "ip4 fragment offset == 1")
        if not ttl:
            return self._error(packet, "ip4-input", "ip4 ttl <= 1", kind=TIME_EXCEEDED)
        interface = packet.rx
        packet.fib = interface.fib4
        if destination >> 28 == 0xE:
            return self._drop(packet, "ip4-input", "ip4 destination lookup miss")
        return self.input_features if interface.input_arc4 else self.lookup

    def input_features(self, packet: Packet) -> Node | None:
        """The ip4-unicast arc of the receiving interface."""
        for feature in packet.rx.input_arc4:
            following = feature(packet)
            if following is not CONTINUE:
                return following
        return self.lookup

    def not_enabled(self, packet: Packet) -> Node | None:
        """ip4-not-enabled: the feature of interfaces without any IPv4 configuration."""
        return self._drop(packet, "ip4-not-enabled", "ip4 drop")

    def lookup(self, packet: Packet) -> Node | None:
        """ip4-lookup in ``packet.fib``."""
        fib = packet.fib
        assert fib is not None
        adjacency = fib.lookup(_U32.unpack_from(packet.buf, packet.start + 16)[0])
        packet.adjacency = adjacency
        return adjacency.node

    def lookup_again(self, packet: Packet) -> Node | None:
        """A route that sends packets to another table's lookup."""
        packet.loops += 1
        if packet.loops > LOOKUPS_MAX:
            return self._drop(packet, "lookup-ip4-dst", "ip4 drop")
        packet.fib = packet.adjacency.fib
        return self.lookup

    def load_balance(self, packet: Packet) -> Node | None:
        """ip4-load-balance: one of several equal ways, the same for every packet of a flow."""
        buckets = packet.adjacency.buckets
        if not packet.flow_hash:
            packet.flow_hash = flow_hash4(packet)
        packet.adjacency = buckets[packet.flow_hash % len(buckets)]
        return packet.adjacency.node

    def rewrite(self, packet: Packet) -> Node | None:
        """ip4-rewrite: one hop less to live, the output features, the next hop's link header."""
        buf = packet.buf
        start = packet.start
        if not packet.local:
            ttl = buf[start + 8]
            if ttl <= 1:
                return self._error(packet, "ip4-rewrite", "ip4 ttl <= 1", kind=TIME_EXCEEDED)
            buf[start + 8] = ttl - 1
            total = (buf[start + 10] << 8 | buf[start + 11]) + 0x100
            total += total >= 0xFFFF
            buf[start + 10] = total >> 8 & 0xFF
            buf[start + 11] = total & 0xFF
        adjacency = packet.adjacency
        interface = adjacency.interface
        assert interface is not None
        size = packet.end - start
        if size > interface.mtu4 and gso.layer3_size(packet) > interface.mtu4:
            return self._too_big(packet, interface.mtu4)
        packet.tx = interface
        if interface.output_arc4:
            return self.output_features
        start -= ETHERNET_LENGTH
        buf[start : start + ETHERNET_LENGTH] = adjacency.rewrite
        packet.start = start
        return self._interface_output

    def output_features(self, packet: Packet) -> Node | None:
        """The ip4-output arc of the sending interface, then its link header."""
        for feature in packet.tx.output_arc4:
            following = feature(packet)
            if following is not CONTINUE:
                return following
        start = packet.start - ETHERNET_LENGTH
        packet.buf[start : packet.start] = packet.adjacency.rewrite
        packet.start = start
        return self._interface_output

    def arp(self, packet: Packet) -> Node | None:
        """ip4-arp: the next hop's link address is not known; ask, and drop the packet (as VPP does)."""
        adjacency = packet.adjacency
        interface = adjacency.interface
        assert interface is not None
        source = interface.source_address(4, adjacency.next_hop)
        reason = self._graph.arp.request(interface, adjacency.next_hop, source)
        return self._drop(packet, "ip4-arp", reason)

    def glean(self, packet: Packet) -> Node | None:
        """ip4-glean: an address of a connected subnet that nobody is known to have; ask for it, drop the packet."""
        adjacency = packet.adjacency
        interface = adjacency.interface
        assert interface is not None
        destination = _U32.unpack_from(packet.buf, packet.start + 16)[0]
        source = adjacency.source
        if source is None:
            source = interface.source_address(4, destination)
        reason = self._graph.arp.request(interface, destination, source)
        return self._drop(packet, "ip4-glean", reason)

    def drop(self, packet: Packet) -> Node | None:
        """ip4-drop: the table says so."""
        return self._drop(packet, "ip4-drop", "ip4 drop")

    def unreachable(self, packet: Packet) -> Node | None:
        """A route of type unreachable: tell the sender."""
        return self._reject(packet, HOST_UNREACHABLE)

    def prohibited(self, packet: Packet) -> Node | None:
        """A route of type prohibited: tell the sender."""
        return self._reject(packet, ADMIN_PROHIBITED)

    def _reject(self, packet: Packet, code: int) -> Node | None:
        """ip4-null: an ICMP error, not too many of them."""
        source, destination = _HEADER.unpack_from(packet.buf, packet.start)[8:10]
        if not self._graph.rejects.allows(source, destination):
            return self._drop(packet, "ip4-drop", "ip4 drop")
        return self._error(packet, "ip4-lookup", "ip4 drop", kind=UNREACHABLE, code=code)

    def local(self, packet: Packet) -> Node | None:
        """ip4-local: a packet for one of our own addresses."""
        start = packet.start
        buf = packet.buf
        fields = _HEADER.unpack_from(buf, start)
        fragment, protocol, source, destination = fields[4], fields[6], fields[8], fields[9]
        if fragment & (MF | OFFSET):
            whole = self.reassembly.add(packet)
            if whole is None:
                return None
            return self.local(whole)
        header = (buf[start] & 0xF) * 4
        if protocol in {IPPROTO_TCP, IPPROTO_UDP} and not self._l4_checksum_holds(packet, header, protocol):
            reason = "bad tcp checksum" if protocol == IPPROTO_TCP else "bad udp checksum"
            return self._drop(packet, "ip4-local", reason)
        fib = packet.fib or packet.rx.fib4
        back = fib.lookup(source)
        if back.kind == RECEIVE:
            return self._drop(packet, "ip4-local", "ip4 spoofed local-address packet drops")
        if destination != 0xFFFFFFFF and not self._family.resolver.leads_out(back):
            return self._drop(packet, "ip4-local", "ip4 source lookup miss")
        handler = self.protocols.get(protocol)
        return self._graph.punt.punt if handler is None else handler

    def _l4_checksum_holds(self, packet: Packet, header: int, protocol: int) -> bool:
        if packet.csum_start or packet.gso_type == GSO_UDP_L4:
            return True
        start = packet.start
        view = packet.view
        segment = view[start + header : packet.end]
        if protocol == IPPROTO_UDP and len(segment) >= 8 and not (segment[6] or segment[7]):
            return True
        source, destination = _HEADER.unpack_from(packet.buf, start)[8:10]
        pseudo = pseudo_sum4(source, destination, protocol=protocol, length=len(segment))
        return (ones_sum(segment) + pseudo) % 0xFFFF == 0

    def _udp_lookup(self, packet: Packet) -> Node | None:
        """ip4-udp-lookup: who listens on the port; nobody: port unreachable."""
        transport = packet.start + (packet.buf[packet.start] & 0xF) * 4
        if packet.end - transport < 8:
            return self._drop(packet, "ip4-udp-lookup", "inconsistent udp/ip lengths")
        handler = self.udp_ports.get(_U16.unpack_from(packet.buf, transport + 2)[0])
        if handler is not None:
            return handler
        if self._graph.punt.unknown_udp:
            return self._graph.punt.punt
        code = PORT_UNREACHABLE
        return self._error(packet, "ip4-udp-lookup", "no listener for udp port", kind=UNREACHABLE, code=code)

    def _too_big(self, packet: Packet, mtu: int) -> Node | None:
        start = packet.start
        if _U16.unpack_from(packet.buf, start + 6)[0] & DF:
            return self._error(
                packet, "ip4-rewrite", "ip4 MTU exceeded and DF set", kind=UNREACHABLE, code=FRAGMENTATION_NEEDED,
                data=mtu,
            )  # fmt: skip
        if packet.csum_start:
            gso.complete_checksum(packet)
        number = 0
        adjacency = packet.adjacency
        for fragment in fragments4(packet, mtu):
            fragment.adjacency = adjacency
            fragment.local = True
            number += 1
            self._graph.run(self.rewrite, fragment)
        self._errors.count("ip4-frag", "number of sent fragments", number=number)
        return None

    def _error(self, packet: Packet, node: str, reason: str, *, kind: int, code: int = 0, data: int = 0) -> Node | None:
        self._errors.drop(packet, node, reason)
        packet.icmp_type = kind
        packet.icmp_code = code
        packet.icmp_data = data
        return self._icmp_error

    def _drop(self, packet: Packet, node: str, reason: str) -> Node | None:
        self._errors.drop(packet, node, reason)
        return None


def _bad_header(first: int, header: int, room: int) -> str:
    if first >> 4 != 4:
        return "ip4 version != 4"
    if header < 20:
        return "ip4 IHL < 5"
    return "ip4 length > l2 length" if header > room else ""


def flow_hash4(packet: Packet) -> int:
    """A number that is the same for all packets of one flow: addresses, protocol and, where they are, ports."""
    start = packet.start
    fields = _HEADER.unpack_from(packet.buf, start)
    first, fragment, protocol, source, destination = fields[0], fields[4], fields[6], fields[8], fields[9]
    ports = (0, 0)
    transport = start + (first & 0xF) * 4
    if protocol in {IPPROTO_TCP, IPPROTO_UDP} and not fragment & (MF | OFFSET) and transport + 4 <= packet.end:
        ports = _PORTS.unpack_from(packet.buf, transport)
    return mix(source, destination, (protocol << 32) | ports[0] << 16 | ports[1]) or 1


def mix(*words: int) -> int:
    """A 32-bit hash of some integers, stable over runs and machines (multiplication by odd constants: Knuth)."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = (state ^ word) * 0xFF51AFD7ED558CCD & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 33
    return state >> 16 & 0xFFFFFFFF
