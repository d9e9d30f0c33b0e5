"""Adjacencies: what the FIB's lookup ends in. Each names the node that handles the packet next.

A neighbour's adjacency is one object for (interface, next hop) that routes share. It is incomplete (node
``ip4-arp``) until a neighbour entry gives it a rewrite (node ``ip4-rewrite``), so that learning a MAC address touches
no route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node

REWRITE: Final = "rewrite"
INCOMPLETE: Final = "arp"
GLEAN: Final = "glean"
RECEIVE: Final = "receive"
LOOKUP: Final = "lookup"
DROP: Final = "drop"
UNREACHABLE: Final = "unreachable"
PROHIBITED: Final = "prohibited"
LOAD_BALANCE: Final = "load-balance"


class Adjacency:
    """Where a packet goes after its lookup; ``node`` and, by kind, the fields that this node needs."""

    __slots__ = ("buckets", "fib", "interface", "kind", "next_hop", "node", "rewrite", "source")

    def __init__(self, kind: str, node: Node, *, interface: Interface | None = None, next_hop: int = 0) -> None:
        self.kind = kind
        self.node = node
        self.interface = interface
        self.next_hop = next_hop
        self.rewrite: bytes = b""
        self.source: int | None = None
        self.fib: Fib | None = None
        self.buckets: tuple[Adjacency, ...] = ()

    def complete(self, rewrite: bytes, node: Node) -> None:
        """The next hop's link address is known: frames get ``rewrite`` in front."""
        self.rewrite = rewrite
        self.kind = REWRITE
        self.node = node

    def forget(self, node: Node) -> None:
        """The next hop's link address is no longer known."""
        self.rewrite = b""
        self.kind = INCOMPLETE
        self.node = node
