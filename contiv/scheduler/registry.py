"""Which descriptor owns a key: the one with the longest prefix. Pure lookup, fixed at construction.

Refuses prefixes that do not end in a slash, two descriptors with one prefix or name, and ``retrieve_after``
that names nobody or runs in a circle. Next in the flow: ``diff.py`` and ``plan.py`` ask it for every key they
touch.
"""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError as OrderCycle
from graphlib import TopologicalSorter

from contiv.errors import SchedulerError
from contiv.scheduler.descriptor import AnyDescriptor, Dependency, Value
from contiv.scheduler.errors import UnknownKeyError


class Registry:
    """Descriptors by prefix."""

    def __init__(self, descriptors: Iterable[AnyDescriptor]) -> None:
        self._by_prefix: dict[str, AnyDescriptor] = {}
        self._by_name: dict[str, AnyDescriptor] = {}
        for descriptor in descriptors:
            if not descriptor.prefix.endswith("/"):
                raise SchedulerError(f"prefix {descriptor.prefix!r} of {descriptor.name} must end in '/'")
            if descriptor.prefix in self._by_prefix or descriptor.name in self._by_name:
                raise SchedulerError(f"descriptor {descriptor.name} ({descriptor.prefix}) is registered twice")
            self._by_prefix[descriptor.prefix] = descriptor
            self._by_name[descriptor.name] = descriptor
        self._recent: tuple[str, AnyDescriptor | None] = ("/", None)
        # Prefixes that start others: whether a key is theirs takes a look at the others.
        self._parents = {p for p in self._by_prefix for other in self._by_prefix if other != p and other.startswith(p)}
        self._depth = max((prefix.count("/") for prefix in self._by_prefix), default=0)
        self._check_retrieve_order()

    def _check_retrieve_order(self) -> None:
        for descriptor in self._by_name.values():
            for name in descriptor.retrieve_after:
                if name not in self._by_name:
                    raise SchedulerError(f"{descriptor.name} retrieves after {name!r}, which is not registered")
        try:
            TopologicalSorter({d.name: d.retrieve_after for d in self._by_name.values()}).prepare()
        except OrderCycle as error:
            raise SchedulerError(f"retrieve_after runs in a circle: {' -> '.join(error.args[1])}") from error

    @property
    def descriptors(self) -> tuple[AnyDescriptor, ...]:
        """All descriptors in the order of registration."""
        return tuple(self._by_name.values())

    def find(self, key: str) -> AnyDescriptor:
        """The key's descriptor; raises ``UnknownKeyError``."""
        prefix, recent = self._recent  # thousands of keys in a row are of one kind
        if recent is not None and key.startswith(prefix):
            return recent
        found = None
        end = -1
        for _ in range(self._depth):  # no prefix has more slashes, however many the key has
            end = key.find("/", end + 1)
            if end < 0:
                break
            found = self._by_prefix.get(key[: end + 1], found)
        if found is None:
            raise UnknownKeyError(key)
        if found.prefix not in self._parents:
            self._recent = found.prefix, found
        return found

    def needs(self, key: str, value: Value) -> tuple[Dependency, ...]:
        """The dependencies that the key's descriptor declares for the value."""
        return tuple(self.find(key).dependencies(key, value))
