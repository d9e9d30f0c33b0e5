"""Error counters: how often a node met a reason, named as VPP names both, as ``show errors`` prints them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contiv.emulator.vpp.packet import Packet


class ErrorCounters:
    """Counts by (node, reason). ``drop`` also charges the receiving interface, as VPP's error-drop does."""

    __slots__ = ("by_reason",)

    def __init__(self) -> None:
        self.by_reason: Counter[tuple[str, str]] = Counter()

    def count(self, node: str, reason: str, *, number: int = 1) -> None:
        """Count ``number`` events."""
        self.by_reason[node, reason] += number

    def drop(self, packet: Packet, node: str, reason: str) -> None:
        """Count ``packet`` as dropped; it goes no further."""
        self.by_reason[node, reason] += 1
        packet.rx.drops += 1

    def clear(self) -> None:
        """Back to zero (``clear errors``)."""
        self.by_reason.clear()
