"""The packet graph: its nodes, the state that they share, and the loop that carries a packet from node to node.

::

  af-packet-input, virtio-input ─▶ ethernet-input ─┬─▶ arp-input ─▶ arp-reply ─▶ arp-proxy
                                                   ├─▶ l2-input ─▶ l2-learn ─▶ l2-fwd / l2-flood ─▶ l2-output / bvi
                                                   └─▶ ip4-input ═ip4-unicast arc═▶ ip4-lookup
  ip4-lookup ─┬─▶ ip4-rewrite ═ip4-output arc═▶ interface-output ─▶ device, bvi, vxlan4-encap
              ├─▶ ip4-arp, ip4-glean (an ARP request; the packet is dropped, as VPP does)
              ├─▶ ip4-local ─▶ icmp, udp ─▶ vxlan4-input
              └─▶ ip4-drop, ip4-icmp-error

``run`` is the only loop: a node returns the next one, so depth does not grow with the path and every hop can be
traced. Nothing here touches a socket or a clock; devices and ``clock`` are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.acl import AclPlugin
from contiv.emulator.vpp.arp import ArpNodes
from contiv.emulator.vpp.bridge import BridgeTable
from contiv.emulator.vpp.classify import Classifier
from contiv.emulator.vpp.counters import ErrorCounters
from contiv.emulator.vpp.ethernet import EthernetNodes
from contiv.emulator.vpp.features import FeatureArcs
from contiv.emulator.vpp.fib import FibFamily
from contiv.emulator.vpp.icmp4 import Icmp4Nodes
from contiv.emulator.vpp.interface import InterfaceTable
from contiv.emulator.vpp.ip4 import Ip4Nodes
from contiv.emulator.vpp.ip6 import Ip6Nodes
from contiv.emulator.vpp.l2 import L2Nodes
from contiv.emulator.vpp.nat44 import Nat44
from contiv.emulator.vpp.neighbor import NeighbourTable
from contiv.emulator.vpp.output import OutputNodes
from contiv.emulator.vpp.punt import PuntNodes
from contiv.emulator.vpp.reject import RejectLimit
from contiv.emulator.vpp.resolve import Resolver
from contiv.emulator.vpp.vxlan import VxlanNodes

if TYPE_CHECKING:
    from collections.abc import Callable

    from contiv.emulator.vpp.packet import Node, Packet

HOPS_MAX: Final = 256
"""Nodes that one packet may visit: a forwarding loop inside one VPP ends here instead of never."""


class Graph:
    """Everything that packets pass through and the tables that decide where to."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.errors = ErrorCounters()
        self.interfaces = InterfaceTable()
        self.features = FeatureArcs()
        self.acl = AclPlugin(self.features, self.errors, clock)
        self.classifier = Classifier(self.features)
        self.bridges = BridgeTable()
        self.family4 = FibFamily(4)
        self.family6 = FibFamily(6)
        self.neighbours4 = NeighbourTable(self.family4, clock)
        self.neighbours6 = NeighbourTable(self.family6, clock)
        self.rejects = RejectLimit(clock)
        self.output = OutputNodes(self)
        self.icmp4 = Icmp4Nodes(self)
        self.punt = PuntNodes(self)
        self.ip4 = Ip4Nodes(self)
        self.ip6 = Ip6Nodes(self)
        self.nat44 = Nat44(self)
        self.arp = ArpNodes(self)
        self.l2 = L2Nodes(self)
        self.vxlan = VxlanNodes(self)
        self.ethernet = EthernetNodes(self)
        Resolver(self.family4, self.interfaces, self.ip4.forwarding_nodes())
        Resolver(self.family6, self.interfaces, self.ip6.forwarding_nodes())

    def run(self, node: Node | None, packet: Packet) -> None:
        """Carry ``packet`` through the graph from ``node`` until no node follows."""
        hops = HOPS_MAX
        while node is not None:
            node = node(packet)
            hops -= 1
            if not hops:
                self.errors.drop(packet, "graph", "forwarding loop")
                return
