"""Values and who rests on whom, indexed both ways. Pure; desired and actual configuration are one such graph
each.

A change of one key costs the number of its dependencies; finding the dependents of a key costs their number.
Next in the flow: ``plan.py`` compares the two graphs around the keys that a transaction touches.
"""

from __future__ import annotations

from collections.abc import Container, Sequence, Set

from contiv.scheduler.descriptor import Dependency, Value, lasting

_NOBODY: frozenset[str] = frozenset()


class Graph:
    """Values by key with their dependencies; a dependency may name a key that is absent.

    ``standing``: of values that are there already, so that dependencies which only their creation has do not count.
    """

    __slots__ = ("_dependents", "_needs", "_standing", "values")

    def __init__(self, *, standing: bool = False) -> None:
        self._standing = standing
        self.values: dict[str, Value] = {}
        self._needs: dict[str, tuple[Dependency, ...]] = {}
        self._dependents: dict[str, set[str]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def put(self, key: str, value: Value, needs: tuple[Dependency, ...]) -> None:
        """Set the value of a key and what it depends on."""
        self.values[key] = value
        if self._standing:
            needs = lasting(needs)
        known = self._needs.get(key, ())
        if known is needs or known == needs:
            return
        if known:
            self._forget_needs(key)
        if needs:
            self._needs[key] = needs
        for target in _targets(needs):
            dependents = self._dependents.get(target)
            if dependents is None:
                self._dependents[target] = {key}
            else:
                dependents.add(key)

    def remove(self, key: str) -> None:
        """Take the key out; absent is fine. Those that depend on it stay and remember it."""
        self.values.pop(key, None)
        self._forget_needs(key)

    def _forget_needs(self, key: str) -> None:
        for target in _targets(self._needs.pop(key, ())):
            dependents = self._dependents.get(target)
            if dependents is not None:
                dependents.discard(key)
                if not dependents:
                    del self._dependents[target]

    def needs(self, key: str) -> tuple[Dependency, ...]:
        """The dependencies of a present key."""
        return self._needs.get(key, ())

    def targets(self, key: str) -> Sequence[str]:
        """All keys that the key's dependencies name."""
        return _targets(self._needs.get(key, ()))

    def dependents(self, key: str) -> frozenset[str] | set[str]:
        """Present keys with a dependency that names ``key``, whether or not that is present. Not a copy."""
        return self._dependents.get(key, _NOBODY)

    def met(self, need: Dependency, *, without: Container[str] = ()) -> bool:
        """Whether the dependency is satisfied by present keys other than those of ``without``."""
        if need.key:
            return need.key in self.values and need.key not in without
        return any(key in self.values and key not in without for key in need.any_of)

    def unmet(self, needs: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
        """Those of the dependencies that no present key satisfies."""
        return tuple(need for need in needs if not self.met(need))

    def resting_on(self, key: str, *, without: Set[str] = _NOBODY, despite: Container[str] = _NOBODY) -> str | None:
        """The first present key, none of ``despite``, that could not exist without ``key`` and ``without``; None if
        ``key`` may go."""
        gone = without | {key}
        for dependent in sorted(self.dependents(key)):
            if dependent not in despite and any(
                key in need.keys and not self.met(need, without=gone) for need in self._needs[dependent]
            ):
                return dependent
        return None


def _targets(needs: tuple[Dependency, ...]) -> Sequence[str]:
    if len(needs) == 1 and needs[0].key:
        return (needs[0].key,)
    return [target for need in needs for target in need.keys]
