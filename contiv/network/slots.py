"""The pod interfaces that a node keeps ready: which exist ahead of need, which pod has which. Pure.

With veth and af_packet the kernel makes VPP wait some 40 ms for an interface (RCU), standing still meanwhile. So the
interfaces of a node's pods are made ahead, as *slots*: VPP already holds its end of each veth pair, the other end
waits in the node's own namespace and moves into the pod's when one comes, and home again when it goes. Slots
``0 … prepared-1`` always exist; beyond them they are made on demand and removed after use. ``prepared`` grows to
``target`` step by step, so that no pod waits while a node's interfaces are made.
"""

from __future__ import annotations

import heapq
import re
from typing import Final

from contiv.errors import NetworkError
from contiv.network.naming import POD_NAME_PREFIX

_NAME: Final = re.compile(rf"{POD_NAME_PREFIX}(\d+)")


class InterfaceSlots:
    """Slots by number; the owner of a slot is a container ID."""

    def __init__(self, target: int, *, prepared: int = 0) -> None:
        self.target = target
        self.prepared = 0
        self._owner_of: dict[int, str] = {}
        self._slot_of: dict[str, int] = {}
        self._free: list[int] = []
        self.grow(prepared)

    def grow(self, step: int) -> None:
        """Keep ``step`` slots more ahead, up to the target."""
        reached = min(self.prepared + step, self.target)
        for number in range(self.prepared, reached):
            heapq.heappush(self._free, number)
        self.prepared = max(self.prepared, reached)

    @staticmethod
    def name(number: int) -> str:
        """The interface name of a slot."""
        return f"{POD_NAME_PREFIX}{number}"

    def spare(self) -> list[str]:
        """The names of the slots that exist and belong to no pod."""
        return [self.name(number) for number in range(self.prepared) if number not in self._owner_of]

    def exists_ahead(self, name: str) -> bool:
        """Whether the slot is kept when no pod has it."""
        return _number(name) < self.prepared

    def allocate(self, owner: str) -> str:
        """The slot of ``owner``: the one it has, else the lowest free one."""
        if owner in self._slot_of:
            return self.name(self._slot_of[owner])
        while self._free and self._free[0] in self._owner_of:
            heapq.heappop(self._free)
        number = heapq.heappop(self._free) if self._free else self._beyond()
        self._take(number, owner)
        return self.name(number)

    def claim(self, name: str, owner: str) -> None:
        """Mark a slot as ``owner``'s, as a restart does; NetworkError when another has it or it is no slot."""
        number = _number(name)
        if self._owner_of.get(number, owner) != owner:
            raise NetworkError(f"interface {name} of {owner} belongs to {self._owner_of[number]}")
        self._take(number, owner)

    def release(self, owner: str) -> str | None:
        """Free the slot of ``owner``; None when it has none."""
        number = self._slot_of.pop(owner, None)
        if number is None:
            return None
        del self._owner_of[number]
        if number < self.prepared:
            heapq.heappush(self._free, number)
        return self.name(number)

    def _beyond(self) -> int:
        """The lowest number of a slot that does not exist."""
        number = self.prepared
        while number in self._owner_of:
            number += 1
        return number

    def _take(self, number: int, owner: str) -> None:
        self._owner_of[number] = owner
        self._slot_of[owner] = number


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise NetworkError(f"{name} is not the name of a pod interface slot")
    return int(match[1])
