"""ip4-punt: what is addressed to us and nothing here takes. Dropped, unless a redirect hands it to the host.

VPP keeps a redirect for each receiving interface and one, in the place of local0, for all others
(vnet/ip/ip_punt_drop.c). UDP to a port without a listener is punted only after ``set_punt`` has said so for all ports
(vnet/ip/punt.c); until then the sender is told "port unreachable".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Path
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.packet import Node, Packet

ANY_RECEIVER: Final = 0
"""The index of local0, under which the redirect for every other interface is kept."""


class PuntNodes:
    """The node ip4-punt with its feature ip4-punt-redirect."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.redirects: dict[int, Path] = {}
        self.unknown_udp = False
        """Whether UDP without a listener is punted."""

    def punt(self, packet: Packet) -> Node | None:
        """ip4-punt-redirect, else ip4-drop."""
        path = self.redirects.get(packet.rx.index) or self.redirects.get(ANY_RECEIVER)
        if path is None:
            self._graph.errors.drop(packet, "ip4-local", "unknown ip protocol")
            return None
        interface = self._graph.interfaces.get(path.sw_if_index)
        if interface is None or not interface.usable:
            self._graph.errors.drop(packet, "ip4-punt-redirect", "ip4 drop")
            return None
        packet.adjacency = self._graph.family4.resolver.neighbour(path.sw_if_index, path.next_hop)
        return packet.adjacency.node
