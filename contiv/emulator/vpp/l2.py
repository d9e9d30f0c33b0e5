"""Bridging: l2-input, l2-learn, l2-fwd, l2-flood, l2-output, and the way up to and down from a BVI.

Follows vnet/l2: a frame does not leave where it came in, nor to a port of its own split-horizon group; the BVI is
a port like any other whose far side is the router.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contiv.emulator.vpp.bridge import PortType

if TYPE_CHECKING:
    from contiv.emulator.vpp.bridge import Bridge
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet


class L2Nodes:
    """The nodes of a bridge domain."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._errors = graph.errors
        self._clock = graph.clock
        self._interface_output = graph.output.interface_output

    def input(self, packet: Packet) -> Node | None:
        """l2-input with l2-learn and the choice between forwarding and flooding."""
        port = packet.rx.l2
        if port is None:
            return self._drop(packet, "l2-input", "L2 input drops")
        bridge = port.bridge
        packet.shg = port.shg
        start = packet.start
        buf = packet.buf
        if bridge.learn and port.type is not PortType.BVI and not buf[start + 6] & 1:
            source = bytes(buf[start + 6 : start + 12])
            entry = bridge.macs.get(source)
            if entry is None or entry.interface is not packet.rx or bridge.mac_age:
                problem = bridge.learn_mac(source, packet.rx, self._clock())
                if problem:
                    return self._drop(packet, "l2-learn", problem)
        if buf[start] & 1:
            if not bridge.flood:
                return self._drop(packet, "l2-flood", "L2 feature forwarding disabled")
            return self._flood(packet, bridge)
        return self._forward(packet, bridge)

    def bvi_output(self, packet: Packet) -> Node | None:
        """What the router sends out of a BVI enters the bridge domain there (bvi-tx).

        A loopback without a bridge domain receives what it sends (simulated_ethernet_interface_tx).
        """
        packet.rx = packet.tx
        packet.fib = None
        packet.local = False
        packet.loops += 1
        if packet.rx.l2 is not None:
            return self.input
        if packet.rx.kind == "loopback":
            return self._graph.ethernet.input
        return self._drop(packet, "bvi-tx", "bvi has no bridge domain")

    def _forward(self, packet: Packet, bridge: Bridge) -> Node | None:
        """l2-fwd: a known unicast address, else l2-uu-flood."""
        if not bridge.forward:
            return self._drop(packet, "l2-fwd", "L2 feature forwarding disabled")
        entry = bridge.macs.get(bytes(packet.buf[packet.start : packet.start + 6]))
        if entry is None:
            if bridge.uu_fwd is not None:
                return self._send(packet, bridge.uu_fwd, bridge.uu_fwd.l2.shg if bridge.uu_fwd.l2 else 0)
            if not bridge.uu_flood:
                return self._drop(packet, "l2-fwd", "L2 forward misses")
            return self._flood(packet, bridge)
        out = entry.interface
        if entry.filter or out is None:
            return self._drop(packet, "l2-fwd", "Filter Mac Drop")
        if out is packet.rx:
            return self._drop(packet, "l2-fwd", "Reflection Drop")
        port = out.l2
        if port is None or port.bridge is not bridge:
            return self._drop(packet, "l2-fwd", "Stale entry Drop")
        return self._send(packet, out, port.shg)

    def _send(self, packet: Packet, out: Interface, shg: int) -> Node | None:
        """l2-output on one port, or up through the BVI."""
        if shg and shg == packet.shg:
            return self._drop(packet, "l2-output", "L2 split horizon drops")
        port = out.l2
        if port is not None and port.type is PortType.BVI:
            return self._to_bvi(packet, out)
        packet.tx = out
        return self._interface_output

    def _to_bvi(self, packet: Packet, bvi: Interface) -> Node | None:
        if not bvi.admin_up:
            return self._drop(packet, "l2-fwd", "interface is down")
        packet.rx = bvi
        bvi.rx_packets += 1
        bvi.rx_bytes += packet.end - packet.start
        packet.fib = None
        packet.flow_hash = 0
        return self._graph.ethernet.to_layer3

    def _flood(self, packet: Packet, bridge: Bridge) -> Node | None:
        """l2-flood: every other port outside of the frame's split-horizon group, the last one with the original."""
        received = packet.rx
        ports = [
            port
            for port in reversed(bridge.ports)
            if port.interface is not received and not (packet.shg and port.shg == packet.shg)
        ]
        if not ports:
            return self._drop(packet, "l2-flood", "L2 replication complete")
        for port in ports[:-1]:
            copy = packet.clone()
            self._graph.run(self._send(copy, port.interface, port.shg), copy)
        last = ports[-1]
        return self._send(packet, last.interface, last.shg)

    def _drop(self, packet: Packet, node: str, reason: str) -> Node | None:
        self._errors.drop(packet, node, reason)
        return None
