"""Numbers for objects, as VPP's pools give them: the one freed last comes first; dumps go in the order of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class Pool(Generic[T]):
    """Objects by number (vppinfra/pool.h)."""

    __slots__ = ("_free", "_items", "_top")

    def __init__(self) -> None:
        self._items: dict[int, T] = {}
        self._free: list[int] = []
        self._top = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        """In the order of numbers; the pool may change meanwhile."""
        return iter([self._items[index] for index in sorted(self._items)])

    def items(self) -> list[tuple[int, T]]:
        """Numbers and objects, in order."""
        return [(index, self._items[index]) for index in sorted(self._items)]

    def put(self, item: T) -> int:
        """Keep ``item``; its number."""
        if self._free:
            index = self._free.pop()
        else:
            index = self._top
            self._top += 1
        self._items[index] = item
        return index

    def get(self, index: int) -> T | None:
        """The object with a number."""
        return self._items.get(index)

    def remove(self, index: int) -> None:
        """Give a number back."""
        del self._items[index]
        self._free.append(index)

    def clear(self) -> None:
        """Nothing left, numbers from 0 again."""
        self._items.clear()
        self._free.clear()
        self._top = 0
