"""How often senders are told that a route of type unreachable or prohibited ended their way (vnet/dpo/ip_null_dpo.c).

VPP hashes source and destination into four slots (its bit map has 256 bits, of which it uses four) and answers one
packet of each in 100 ms; the others are dropped in silence. IPv4 and IPv6 share them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_S: Final = 0.1
SLOTS: Final = 4
_ODD: Final = 0x9E3779B97F4A7C15


class RejectLimit:
    """The slots of one machine."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = float("-inf")
        self._seed = 0
        self._taken = 0

    def allows(self, source: int, destination: int) -> bool:
        """Whether the sender of this packet is told."""
        now = self._clock()
        if now - self._began_s > PERIOD_S:
            self._began_s = now
            self._seed += _ODD
            self._taken = 0
        mixed = (source ^ destination * _ODD ^ self._seed) * _ODD & 0xFFFFFFFFFFFFFFFF
        slot = 1 << (mixed >> 32) % SLOTS
        told = self._taken & slot
        self._taken |= slot
        return not told
