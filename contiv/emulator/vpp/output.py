"""interface-output: a frame leaves by an interface, finished in software where the interface cannot do it itself.

A checksum that the sender left open is computed, a super frame is cut into segments, unless the interface's far side
takes them as they are (a veth or TAP with offloads does; a VXLAN tunnel does not: see ``gso.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contiv.emulator.vpp import gso

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.packet import Node, Packet


class OutputNodes:
    """The node interface-output."""

    def __init__(self, graph: Graph) -> None:
        self._errors = graph.errors
        self._run = graph.run

    def interface_output(self, packet: Packet) -> Node | None:
        """Send ``packet``, which starts at its link header, out of ``packet.tx``."""
        interface = packet.tx
        if not interface.admin_up:
            self._errors.drop(packet, "interface-output", "interface is down")
            return None
        if packet.gso_size and not interface.can_gso:
            return self._segment(packet)
        if packet.csum_start and not interface.can_csum:
            gso.complete_checksum(packet)
        interface.tx_packets += 1
        interface.tx_bytes += packet.end - packet.start
        return interface.transmit

    def _segment(self, packet: Packet) -> Node | None:
        interface = packet.tx
        for segment in gso.segments(packet):
            segment.tx = interface
            interface.tx_packets += 1
            interface.tx_bytes += segment.end - segment.start
            self._run(interface.transmit, segment)
        return None
