"""The pod interfaces that a node keeps ready: which exist ahead of need, which pod has which. Pure.

With veth and af_packet the kernel makes VPP wait some 40 ms for an interface (RCU), standing still meanwhile. So the
interfaces of a node's pods are made ahead, as *slots*: VPP holds the near end of a veth pair, the far end waits in the
node's own namespace, and a pod gets a macvlan on it, which costs under a millisecond. Slots
``0 … prepared-1`` always exist; beyond them they are made on demand and removed after use. ``prepared`` grows to
``target`` step by step, so that no pod waits while a node's interfaces are made.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from contiv.errors import NetworkError
from contiv.network.naming import POD_NAME_PREFIX

_NAME: Final = re.compile(rf"{POD_NAME_PREFIX}(\d+)")


class InterfaceSlots:
    """Slots by number; an owner is an attachment's (``state.owner_of``)."""

    def __init__(self, target: int, *, prepared: int = 0) -> None:
        self.target = target
        self.prepared = 0
        self.ahead: frozenset[str] = frozenset()
        """The names of the slots that exist whether or not a pod has them."""
        self._owner_of: dict[int, str] = {}
        self._slot_of: dict[str, int] = {}
        self._free: deque[int] = deque()
        self.grow(prepared)

    def grow(self, step: int) -> None:
        """Keep ``step`` slots more ahead, up to the target."""
        reached = min(self.prepared + step, self.target)
        self._free.extend(range(self.prepared, reached))
        self.ahead |= {self.name(number) for number in range(self.prepared, reached)}
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
        """The slot of ``owner``: the one it has, else the one that has been free for longest.

        So a slot that cannot serve, since an unknown pod still sits on it, does not meet every pod that comes.
        """
        if owner in self._slot_of:
            return self.name(self._slot_of[owner])
        while self._free and self._free[0] in self._owner_of:
            self._free.popleft()
        number = self._free.popleft() if self._free else self._beyond()
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
            self._free.append(number)
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
