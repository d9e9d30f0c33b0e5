"""ethernet-input: the link header decides between bridge, ARP and IP, and refuses what is not for this interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.packet import ETHERNET_LENGTH

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.packet import Node, Packet

_IP4: Final = b"\x08\x00"
_ARP: Final = b"\x08\x06"
_IP6: Final = b"\x86\xdd"


class EthernetNodes:
    """The node ethernet-input."""

    def __init__(self, graph: Graph) -> None:
        self._errors = graph.errors
        self._ip4_input = graph.ip4.input
        self._ip6_input = graph.ip6.input
        self._arp_input = graph.arp.input
        self._l2_input = graph.l2.input

    def input(self, packet: Packet) -> Node | None:
        """A frame from a device: to the bridge of its interface, or up to layer 3 when it is addressed to it."""
        interface = packet.rx
        start = packet.start
        length = packet.end - start
        interface.rx_packets += 1
        interface.rx_bytes += length
        if length < ETHERNET_LENGTH:
            self._errors.drop(packet, "ethernet-input", "llc length > packet length")
            return None
        if not interface.admin_up:
            self._errors.drop(packet, "ethernet-input", "interface is down")
            return None
        if interface.l2 is not None:
            return self._l2_input
        return self.to_layer3(packet)

    def to_layer3(self, packet: Packet) -> Node | None:
        """A frame that has arrived at a routed interface or a BVI: strip the link header and hand it up."""
        buf = packet.buf
        start = packet.start
        if buf[start : start + 6] != packet.rx.mac and not buf[start] & 1:
            self._errors.drop(packet, "ethernet-input", "l3 mac mismatch")
            return None
        packet.start = start + ETHERNET_LENGTH
        ethertype = buf[start + 12 : start + 14]
        if ethertype == _IP4:
            return self._ip4_input
        if ethertype == _ARP:
            return self._arp_input
        if ethertype == _IP6:
            return self._ip6_input
        self._errors.drop(packet, "ethernet-input", "unknown ethernet type")
        return None
