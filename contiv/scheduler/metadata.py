"""What operations yielded, readable by other descriptors: the ``sw_if_index`` of an interface key and the
like.

The composition root makes one ``Metadata`` and gives it to the descriptors and to the scheduler. The
scheduler alone writes: right after a create or update, before anything that depends on the key starts; and on
retrieval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from contiv.errors import SchedulerError

T = TypeVar("T")


class Metadata(Mapping[str, object]):
    """Metadata by key; keys that are not applied are absent, and so are those whose metadata is None."""

    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    def __getitem__(self, key: str) -> object:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def require(self, key: str, kind: type[T]) -> T:
        """The metadata of a key, checked to be of a type; raises ``SchedulerError`` when absent or of
        another."""
        value = self._values.get(key)
        if not isinstance(value, kind):
            raise SchedulerError(f"metadata of {key}: wanted {kind.__name__}, found {value!r}; declare it a dependency")
        return value

    def under(self, prefix: str) -> dict[str, object]:
        """All metadata of keys with the prefix. Walks over everything: for retrieval, not for single
        operations."""
        return {key: value for key, value in self._values.items() if key.startswith(prefix)}

    def put(self, key: str, value: object) -> None:
        """Set by the scheduler. None is nothing: most keys have no metadata, and retrievals walk over all of it."""
        if value is None:
            self.remove(key)
        else:
            self._values[key] = value

    def remove(self, key: str) -> None:
        """Removed by the scheduler; absent is fine."""
        self._values.pop(key, None)

    def replace(self, prefix: str, values: Mapping[str, object]) -> None:
        """Exchange everything under a prefix: what a retrieval found."""
        for key in self.under(prefix):
            del self._values[key]
        self._values.update((key, value) for key, value in values.items() if value is not None)

    def snapshot(self) -> dict[str, object]:
        """A copy, for ``restore``."""
        return dict(self._values)

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """Go back to a copy."""
        self._values = dict(snapshot)
