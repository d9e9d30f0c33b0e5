"""VXLAN (RFC 7348): tunnels as interfaces, vxlan4-encap and vxlan4-input.

As VPP does it (plugins/vxlan): outer TTL 254 before the hop through our own lookup, no DF, UDP checksum zero over
IPv4, source port from the hash of the inner flow. An inner frame reaches vxlan4-encap finished: ``interface-output``
has segmented and summed it, because a tunnel interface offers no offload.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp import sources
from contiv.emulator.vpp.adjacency import GLEAN, INCOMPLETE
from contiv.emulator.vpp.checksum import ones_sum
from contiv.emulator.vpp.fib import Contribution
from contiv.emulator.vpp.ip4 import flow_hash4, mix
from contiv.emulator.vpp.packet import ETHERNET_LENGTH, IPPROTO_UDP, Packet

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node

PORT: Final = 4789
HEADER_LENGTH: Final = 8
OUTER_LENGTH: Final = 20 + 8 + HEADER_LENGTH
TTL: Final = 254
FLAG_VNI: Final = 0x08
_OUTER: Final = struct.Struct(">BBHHHBBHII HHHH B3sI")
_HEADER: Final = struct.Struct(">BBHHHBBHII")
_PORTS: Final = struct.Struct(">HH")
_U32: Final = struct.Struct(">I")


class TunnelKey(msgspec.Struct, frozen=True):
    """What finds a tunnel for a packet that came in: table, both addresses, our port, network identifier."""

    table_id: int
    local: int
    remote: int
    port: int
    vni: int


class Tunnel(msgspec.Struct):
    """A point-to-point tunnel between ``source`` (ours) and ``destination``."""

    interface: Interface
    instance: int
    source: int
    destination: int
    source_port: int
    destination_port: int
    fib: Fib
    vni: int
    decap_next: int
    is_l3: bool
    mcast_sw_if_index: int = 0
    """As it was given; tunnels here are to one address."""
    outer_sum: int = 0
    remote_track: int = 0

    @property
    def key(self) -> TunnelKey:
        """Where packets of this tunnel are recognised."""
        return TunnelKey(self.fib.table_id, self.source, self.destination, self.source_port, self.vni)


class VxlanNodes:
    """The nodes vxlan4-encap and vxlan4-input, and the tunnels."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._errors = graph.errors
        self._ip4 = graph.ip4
        self._by_key: dict[TunnelKey, Tunnel] = {}
        self._by_interface: dict[int, Tunnel] = {}
        self._probed_generation = -1

    def tunnels(self) -> list[Tunnel]:
        """All tunnels in the order of their interfaces."""
        return [self._by_interface[index] for index in sorted(self._by_interface)]

    def find(self, key: TunnelKey) -> Tunnel | None:
        """The tunnel with this key."""
        return self._by_key.get(key)

    def on(self, sw_if_index: int) -> Tunnel | None:
        """The tunnel of an interface."""
        return self._by_interface.get(sw_if_index)

    def add(self, tunnel: Tunnel) -> None:
        """Put a tunnel in service."""
        fixed = struct.pack(">BBHHHBBHII", 0x45, 0, 0, 0, 0, TTL, IPPROTO_UDP, 0, tunnel.source, tunnel.destination)
        tunnel.outer_sum = ones_sum(fixed)
        self._by_key[tunnel.key] = tunnel
        self._by_interface[tunnel.interface.index] = tunnel
        tunnel.interface.transmit = self.encap
        self._ip4.udp_ports.setdefault(tunnel.source_port, self.input)
        fib = tunnel.fib
        fib.put(tunnel.destination, fib.bits, source=sources.RECURSION, contribution=Contribution(()))

    def remove(self, tunnel: Tunnel) -> None:
        """Take a tunnel out of service. The port stays ours, as on VPP."""
        del self._by_key[tunnel.key]
        del self._by_interface[tunnel.interface.index]
        if not any(t.fib is tunnel.fib and t.destination == tunnel.destination for t in self._by_key.values()):
            tunnel.fib.drop_source(tunnel.destination, tunnel.fib.bits, source=sources.RECURSION)

    def probe(self) -> None:
        """Ask for link addresses that tunnels need and nobody has told, once after each change of the tables.

        VPP tracks a tunnel's destination and sends one speculative ARP when its adjacency appears (ip4_neighbor.c).
        """
        generation = self._graph.family4.generation
        if generation == self._probed_generation:
            return
        self._probed_generation = generation
        for tunnel in self._by_interface.values():
            adjacency = tunnel.fib.lookup(tunnel.destination)
            if adjacency.kind in {GLEAN, INCOMPLETE} and adjacency.interface is not None:
                target = tunnel.destination if adjacency.kind == GLEAN else adjacency.next_hop
                source = adjacency.interface.source_address(4, target)
                self._graph.arp.request(adjacency.interface, target, source)

    def encap(self, packet: Packet) -> Node | None:
        """vxlan4-encap: outer headers in front of the frame, then a lookup in the tunnel's table."""
        tunnel = self._by_interface.get(packet.tx.index)
        if tunnel is None:
            self._errors.drop(packet, "vxlan4-encap", "no such tunnel packets")
            return None
        hash_value = inner_hash(packet)
        length = packet.end - packet.start + OUTER_LENGTH
        start = packet.start - OUTER_LENGTH
        total = tunnel.outer_sum + length
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        _OUTER.pack_into(
            packet.buf, start,
            0x45, 0, length, 0, 0, TTL, IPPROTO_UDP, total, tunnel.source, tunnel.destination,
            hash_value & 0xFFFF, tunnel.destination_port, length - 20, 0,
            FLAG_VNI, b"\0\0\0", tunnel.vni << 8,
        )  # fmt: skip
        packet.start = start
        packet.rx = packet.tx
        packet.fib = tunnel.fib
        packet.flow_hash = hash_value
        packet.loops += 1
        packet.local = False
        return self._ip4.lookup

    def input(self, packet: Packet) -> Node | None:
        """vxlan4-input: find the tunnel, take the outer headers off, carry on as if received there."""
        start = packet.start
        buf = packet.buf
        transport = start + (buf[start] & 0xF) * 4
        inner = transport + 8 + HEADER_LENGTH
        if packet.end < inner + ETHERNET_LENGTH:
            return self._drop(packet, "no such tunnel packets")
        if not buf[transport + 8] & FLAG_VNI:
            return self._drop(packet, "packets with bad flags field in vxlan header")
        source, destination = _HEADER.unpack_from(buf, start)[8:10]
        port = _PORTS.unpack_from(buf, transport)[1]
        vni = _U32.unpack_from(buf, transport + 12)[0] >> 8
        fib = packet.fib or packet.rx.fib4
        tunnel = self._by_key.get(TunnelKey(fib.table_id, destination, source, port, vni))
        if tunnel is None:
            return self._drop(packet, "no such tunnel packets")
        packet.start = inner
        packet.rx = tunnel.interface
        packet.fib = None
        packet.flow_hash = 0
        packet.clear_offload()
        self._errors.count("vxlan4-input", "good packets decapsulated")
        if tunnel.is_l3:
            packet.rx.rx_packets += 1
            packet.rx.rx_bytes += packet.end - inner
            return self._ip4.input
        return self._graph.ethernet.input

    def _drop(self, packet: Packet, reason: str) -> Node | None:
        self._errors.drop(packet, "vxlan4-input", reason)
        return None


def inner_hash(packet: Packet) -> int:
    """A hash of the inner flow: its IPv4 addresses and ports, else its link addresses (vnet_l2_compute_flow_hash)."""
    start = packet.start
    buf = packet.buf
    if packet.end - start >= 34 and buf[start + 12] == 8 and not buf[start + 13]:
        inner = Packet(buf, packet.view, start + ETHERNET_LENGTH, packet.end, rx=packet.rx)
        return flow_hash4(inner)
    return mix(int.from_bytes(buf[start : start + 12], "big"), int.from_bytes(buf[start + 12 : start + 14], "big"))
