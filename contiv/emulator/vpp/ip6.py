"""IPv6 forwarding: input checks, lookup and rewrite; what needs neighbour discovery is in ``icmp6.py``."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp import gso
from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.icmp6 import Icmp6Nodes
from contiv.emulator.vpp.ip4 import LOOKUPS_MAX, mix
from contiv.emulator.vpp.packet import ETHERNET_LENGTH, IPPROTO_ICMP6, IPPROTO_TCP, IPPROTO_UDP
from contiv.emulator.vpp.resolve import ForwardingNodes

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.packet import Node, Packet

_PORTS: Final = struct.Struct(">HH")
HEADER_LENGTH: Final = 40

TIME_EXCEEDED: Final = 3
UNREACHABLE: Final = 1
PACKET_TOO_BIG: Final = 2


class Ip6Nodes:
    """The nodes from ip6-input to ip6-rewrite and ip6-local."""

    def __init__(self, graph: Graph) -> None:
        self._errors = graph.errors
        self._rejects = graph.rejects
        self._interface_output = graph.output.interface_output
        self.icmp = Icmp6Nodes(graph)

    def forwarding_nodes(self) -> ForwardingNodes:
        """The nodes that IPv6 adjacencies lead to."""
        return ForwardingNodes(
            rewrite=self.rewrite,
            arp=self.discover,
            glean=self.glean,
            local=self.local,
            drop=self.drop,
            unreachable=self.unreachable,
            prohibited=self.prohibited,
            lookup=self.lookup_again,
            load_balance=self.load_balance,
        )

    def input(self, packet: Packet) -> Node | None:
        """ip6-input: refuse what is malformed, then the features of the receiving interface, then the lookup."""
        start = packet.start
        buf = packet.buf
        room = packet.end - start
        if room < HEADER_LENGTH:
            return self._drop(packet, "ip6-input", "ip6 length < 40 bytes")
        if buf[start] >> 4 != 6:
            return self._drop(packet, "ip6-input", "ip6 version != 6")
        length = HEADER_LENGTH + (buf[start + 4] << 8 | buf[start + 5])
        if length > room:
            return self._drop(packet, "ip6-input", "ip6 length > l2 length")
        packet.end = start + length
        interface = packet.rx
        packet.fib = interface.fib6
        if not buf[start + 7]:
            return self._error(packet, "ip6-input", "ip6 ttl <= 1", kind=TIME_EXCEEDED)
        if buf[start + 24] == 0xFF:  # another arc, ip6-multicast: access lists do not see it
            return self._multicast
        for feature in interface.input_arc6:
            following = feature(packet)
            if following is not CONTINUE:
                return following
        if buf[start + 24] == 0xFE and buf[start + 25] & 0xC0 == 0x80:
            return self.icmp.link_local
        return self.lookup

    def _multicast(self, packet: Packet) -> Node | None:
        """The arc ip6-multicast: groups are joined where IPv6 is on for itself, not where an address is borrowed."""
        interface = packet.rx
        if not interface.ip6_enabled:
            return self.not_enabled
        if not interface.ip6_locks:
            return self._drop(packet, "ip6-input", "Multicast RPF check failed")
        return self.icmp.multicast

    def not_enabled(self, packet: Packet) -> Node | None:
        """ip6-not-enabled: the feature of interfaces without any IPv6 configuration."""
        return self._drop(packet, "ip6-not-enabled", "ip6 drop")

    def lookup(self, packet: Packet) -> Node | None:
        """ip6-lookup in ``packet.fib``."""
        fib = packet.fib
        assert fib is not None
        start = packet.start
        adjacency = fib.lookup(int.from_bytes(packet.buf[start + 24 : start + 40], "big"))
        packet.adjacency = adjacency
        return adjacency.node

    def lookup_again(self, packet: Packet) -> Node | None:
        """A route that sends packets to another table's lookup."""
        packet.loops += 1
        if packet.loops > LOOKUPS_MAX:
            return self._drop(packet, "lookup-ip6-dst", "ip6 drop")
        packet.fib = packet.adjacency.fib
        return self.lookup

    def load_balance(self, packet: Packet) -> Node | None:
        """ip6-load-balance: the same way for every packet of a flow."""
        buckets = packet.adjacency.buckets
        if not packet.flow_hash:
            packet.flow_hash = flow_hash6(packet)
        packet.adjacency = buckets[packet.flow_hash % len(buckets)]
        return packet.adjacency.node

    def rewrite(self, packet: Packet) -> Node | None:
        """ip6-rewrite: one hop less, the output features, the next hop's link header."""
        buf = packet.buf
        start = packet.start
        if not packet.local:
            hops = buf[start + 7]
            if hops <= 1:
                return self._error(packet, "ip6-rewrite", "ip6 ttl <= 1", kind=TIME_EXCEEDED)
            buf[start + 7] = hops - 1
        adjacency = packet.adjacency
        interface = adjacency.interface
        assert interface is not None
        size = packet.end - start
        if size > interface.mtu6 and gso.layer3_size(packet) > interface.mtu6:
            reason = "ip6 MTU exceeded"
            return self._error(packet, "ip6-rewrite", reason, kind=PACKET_TOO_BIG, data=interface.mtu6)
        packet.tx = interface
        for feature in interface.output_arc6:
            following = feature(packet)
            if following is not CONTINUE:
                return following
        start = packet.start - ETHERNET_LENGTH
        buf[start : start + ETHERNET_LENGTH] = adjacency.rewrite
        packet.start = start
        return self._interface_output

    def discover(self, packet: Packet) -> Node | None:
        """ip6-discover-neighbor: solicit the next hop, drop the packet."""
        adjacency = packet.adjacency
        assert adjacency.interface is not None
        reason = self.icmp.solicit(adjacency.interface, adjacency.next_hop)
        return self._drop(packet, "ip6-discover-neighbor", reason)

    def glean(self, packet: Packet) -> Node | None:
        """ip6-glean: solicit an address of a connected subnet, drop the packet."""
        adjacency = packet.adjacency
        assert adjacency.interface is not None
        start = packet.start
        destination = int.from_bytes(packet.buf[start + 24 : start + 40], "big")
        reason = self.icmp.solicit(adjacency.interface, destination)
        return self._drop(packet, "ip6-glean", reason)

    def local(self, packet: Packet) -> Node | None:
        """ip6-local: a packet for one of our own addresses."""
        if packet.buf[packet.start + 6] == IPPROTO_ICMP6:
            return self.icmp.input
        return self._drop(packet, "ip6-local", "unknown ip protocol")

    def drop(self, packet: Packet) -> Node | None:
        """ip6-drop: the table says so."""
        return self._drop(packet, "ip6-drop", "ip6 drop")

    def unreachable(self, packet: Packet) -> Node | None:
        """A route of type unreachable: tell the sender."""
        return self._reject(packet, 3)

    def prohibited(self, packet: Packet) -> Node | None:
        """A route of type prohibited: tell the sender."""
        return self._reject(packet, 1)

    def _reject(self, packet: Packet, code: int) -> Node | None:
        """ip6-null: an ICMP error, not too many of them."""
        addresses = packet.view[packet.start + 8 : packet.start + 40]
        source, destination = int.from_bytes(addresses[:16], "big"), int.from_bytes(addresses[16:], "big")
        if not self._rejects.allows(source, destination):
            return self._drop(packet, "ip6-drop", "ip6 drop")
        return self._error(packet, "ip6-lookup", "ip6 drop", kind=UNREACHABLE, code=code)

    def _error(self, packet: Packet, node: str, reason: str, *, kind: int, code: int = 0, data: int = 0) -> Node | None:
        self._errors.drop(packet, node, reason)
        packet.icmp_type = kind
        packet.icmp_code = code
        packet.icmp_data = data
        return self.icmp.error

    def _drop(self, packet: Packet, node: str, reason: str) -> Node | None:
        self._errors.drop(packet, node, reason)
        return None


def flow_hash6(packet: Packet) -> int:
    """A number that is the same for all packets of one flow."""
    start = packet.start
    buf = packet.buf
    protocol = buf[start + 6]
    ports = (0, 0)
    if protocol in {IPPROTO_TCP, IPPROTO_UDP} and packet.end - start >= HEADER_LENGTH + 4:
        ports = _PORTS.unpack_from(buf, start + HEADER_LENGTH)
    words = [int.from_bytes(buf[at : at + 8], "big") for at in range(start + 8, start + 40, 8)]
    return mix(*words, protocol << 32 | ports[0] << 16 | ports[1]) or 1
