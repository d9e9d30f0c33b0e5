"""From the difference of two graphs to ordered operations. Pure: same graphs and keys, same plan, byte for
byte.

In come the desired and the actual graph and the keys that a transaction touches; out goes a ``Plan``:
deletes, updates and creates, each with the operations that it waits for. The work is proportional to the
touched keys and their dependents, never to all keys. Rules, in the order in which the code applies them:

1. What is unwanted or must be recreated is removed, and so is whatever actually rests on it; a value that an
   update moves off a removed key is updated first instead, unless the removed key comes back (that would be a
   circle).
2. A value is created once all its dependencies are there or will be; if not, it is pending. Pending values
   whose dependency appears join the plan. Values in a dependency circle never apply; the circle is named.
3. Dependents go before what they rest on and come after it; where removed keys rest on one another in a circle, one of
   them goes first all the same. A create that claims an exclusive resource waits for the delete that frees it.

Next in the flow: ``operations.py`` draws the edges between operations, ``execute.py`` carries them out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Set

from msgspec import Struct

from contiv.scheduler.descriptor import Dependency, lasting
from contiv.scheduler.diff import Change, diff
from contiv.scheduler.graph import Graph
from contiv.scheduler.operations import Decisions, Operation, order
from contiv.scheduler.registry import Registry


class Plan(Struct, frozen=True):
    """What a transaction will do. ``adopted`` keys differ from the desired value only in ways that do not
    matter."""

    operations: tuple[Operation, ...] = ()
    pending: dict[str, tuple[Dependency, ...]] = {}
    cycles: tuple[tuple[str, ...], ...] = ()
    adopted: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the data plane needs no change."""
        return not self.operations


def make_plan(
    registry: Registry,
    *,
    desired: Graph,
    actual: Graph,
    touched: Iterable[str],
    unsettled: Container[str] = (),
) -> Plan:
    """Plan the way from ``actual`` to ``desired`` for the touched keys and all that they affect.

    ``unsettled`` are keys that earlier transactions left pending or failed; they are reconsidered when a
    dependency of theirs appears, or becomes wanted before it could be deleted.
    """
    return _Planner(registry, desired, actual, unsettled).plan(set(touched))


class _Planner:
    """One planning; the sets are the decisions so far."""

    def __init__(self, registry: Registry, desired: Graph, actual: Graph, unsettled: Container[str]) -> None:
        self._registry = registry
        self._desired = desired
        self._actual = actual
        self._unsettled = unsettled
        self._cyclic: set[str] = set()
        self._cycles: list[tuple[str, ...]] = []
        self._adopted: list[str] = []
        self._removed: dict[str, str] = {}  # key -> why
        self._returning: set[str] = set()  # removed keys that come back, and removed keys that rest on such
        self._updates: set[str] = set()
        self._kept: list[str] = []  # unsettled before and right now, like a failed delete's key that is desired again
        # To be created or updated; a dictionary for its order, as thousands of keys are sorted more than once.
        self._wanted: dict[str, None] = {}
        self._rank: dict[str, int] = {}  # those of _wanted whose dependencies will be met, in a possible order
        # Those of _wanted that wait, by a key that would help, in order.
        self._held: defaultdict[str, list[str]] = defaultdict(list)
        self._met: tuple[Dependency, ...] = ()  # the last dependencies found satisfied

    def plan(self, touched: set[str]) -> Plan:
        """Decide until nothing changes any more; each round settles at least one more key, so it ends."""
        broken: set[str] = set()
        while True:
            self._classify(touched, broken)
            self._spread_removal()
            late = self._resolve()
            new_cycle = self._find_cycle()
            newly_broken = {key for key in self._updates if key not in self._rank} - broken
            if not (late - touched or new_cycle or newly_broken):
                break
            touched |= late
            broken |= newly_broken
        operations, stuck = order(self._decisions())
        if stuck:
            self._cycles.append(stuck)
        pending = {
            key: self._unmet(key) for key in sorted(self._wanted.keys() - self._rank.keys()) if key not in self._cyclic
        }
        return Plan(operations, pending, tuple(self._cycles), tuple(self._adopted))

    def _classify(self, touched: set[str], broken: set[str]) -> None:
        """Judge each touched key alone."""
        self._removed, self._returning, self._updates = {}, set(), set()
        self._wanted, self._adopted, self._kept = {}, [], []
        desired_of, actual_of = self._desired.values.get, self._actual.values.get
        for key in sorted(touched):
            desired, actual = desired_of(key), actual_of(key)
            if actual is None:  # no descriptor has to be asked
                if desired is not None:
                    self._wanted[key] = None
                continue
            change = diff(self._registry.find(key), key, desired=desired, actual=actual)
            if change is Change.DELETE:
                self._removed[key] = "unwanted"
                continue
            if key in broken or key in self._cyclic:
                self._remove_returning(key, "its dependencies are absent")
            elif self._actual.unmet(self._actual.needs(key)):
                self._remove_returning(key, "what it rests on is gone")
            elif change is Change.RECREATE:
                self._remove_returning(key, "must be recreated")
            elif change is Change.UPDATE or lasting(self._desired.needs(key)) != self._actual.needs(key):
                self._updates.add(key)
            else:
                if desired != actual:
                    self._adopted.append(key)
                if key in self._unsettled:
                    self._kept.append(key)
        self._wanted |= dict.fromkeys(self._updates)

    def _remove_returning(self, key: str, reason: str) -> None:
        self._removed[key] = reason
        self._returning.add(key)
        self._wanted[key] = None

    def _spread_removal(self) -> None:
        """Remove what rests on removed keys; carry upwards that something below comes back."""
        work = sorted(self._removed, reverse=True)
        while work:
            gone = work.pop()
            for key in sorted(self._actual.dependents(gone), reverse=True):
                comes_back = gone in self._returning or key in self._desired
                if key in self._removed:
                    if gone in self._returning and key not in self._returning:
                        self._returning.add(key)
                        work.append(key)
                elif not self._stands(key):
                    self._removed[key] = f"rests on {gone}"
                    self._updates.discard(key)
                    if comes_back:
                        self._returning.add(key)
                    if key in self._desired:
                        self._wanted[key] = None
                    work.append(key)

    def _stands(self, key: str) -> bool:
        """Whether an actual value can stay in place although keys that it rests on are removed."""
        for need in self._actual.needs(key):
            if any(k in self._actual and k not in self._removed for k in need.keys):
                continue
            lost = [k for k in need.keys if k in self._removed]
            moves_off = key in self._updates and not any(k in self._desired.targets(key) for k in lost)
            if not moves_off or any(k in self._returning for k in lost):
                return False
        return True

    def _resolve(self) -> set[str]:
        """Rank what can be applied, from below. Returns unsettled keys that exist and have to be judged as
        well."""
        self._rank, self._met = {}, ()
        self._held.clear()
        rank = self._rank
        late: set[str] = set()
        work = sorted(self._wanted, reverse=True)
        for key in self._kept:
            if key not in self._removed:
                self._invite(self._desired.dependents(key), work, late)
        while work:
            key = work.pop()
            if key in rank or key in self._cyclic:
                continue
            lacking = self._lacking(key)
            if lacking is not None:
                for target in lacking.keys:
                    self._held[target].append(key)
                continue
            rank[key] = len(rank)
            dependents = self._desired.dependents(key)
            if dependents:
                work += reversed(self._held.pop(key, ()))
                self._invite(dependents, work, late)
        return late

    def _invite(self, dependents: Set[str], work: list[str], late: set[str]) -> None:
        """Those of a key's dependents that nobody has touched: absent ones join, others have to be judged."""
        for dependent in sorted([key for key in dependents if key not in self._wanted], reverse=True):
            if dependent not in self._actual and dependent in self._desired:
                self._wanted[dependent] = None
                work.append(dependent)
            elif dependent in self._unsettled:
                late.add(dependent)

    def _unmet(self, key: str) -> tuple[Dependency, ...]:
        return tuple([n for n in self._needs(key) if not self._any_available(n)])

    def _lacking(self, key: str) -> Dependency | None:
        """The first dependency that nothing ranked or there satisfies."""
        needs = self._needs(key)
        if needs is self._met:  # thousands in a row need the same, and what is ranked stays so
            return None
        for need in needs:
            if need.key in self._rank:
                continue
            if need.key in self._held or not self._any_available(need):
                return need
        self._met = needs
        return None

    def _needs(self, key: str) -> tuple[Dependency, ...]:
        """What the wanted value needs; one that is there already does not wait for what a creation waits for."""
        needs = self._desired.needs(key)
        return lasting(needs) if key in self._updates else needs

    def _any_available(self, need: Dependency) -> bool:
        return self._available(need.key) if need.key else any(self._available(key) for key in need.any_of)

    def _available(self, key: str) -> bool:
        if key in self._wanted:
            return key in self._rank
        # What is there but unwanted (a delete that failed before) will go: nothing new is built on it.
        return key in self._actual and key in self._desired and key not in self._removed

    def _find_cycle(self) -> bool:
        """Find circles through keys that could not be ranked and through keys that an update ties anew."""
        starts = sorted((self._wanted.keys() - self._rank.keys()) | self._updates)
        done: set[str] = set(self._cyclic)
        found = False
        for start in starts:
            cycle = self._walk(start, done)
            if cycle:
                self._cycles.append(cycle)
                self._cyclic.update(cycle)
                done.update(cycle)
                found = True
        return found

    def _walk(self, start: str, done: set[str]) -> tuple[str, ...]:
        """Depth first along dependencies that have no alternative; the first circle met, smallest key
        first."""
        if start in done:
            return ()
        path: dict[str, None] = {start: None}
        stack = [iter(self._firm(start))]
        while stack:
            target = next(stack[-1], None)
            if target is None:
                stack.pop()
                done.add(path.popitem()[0])
            elif target in path:
                keys = list(path)
                keys = keys[keys.index(target) :]
                first = keys.index(min(keys))
                return tuple(keys[first:] + keys[:first])
            elif target not in done:
                path[target] = None
                stack.append(iter(self._firm(target)))
        return ()

    def _firm(self, key: str) -> list[str]:
        return [n.keys[0] for n in self._needs(key) if len(n.keys) == 1 and n.keys[0] in self._desired]

    def _decisions(self) -> Decisions:
        return Decisions(
            registry=self._registry,
            desired=self._desired,
            actual=self._actual,
            removed=self._removed,
            returning=self._returning,
            updates={key for key in self._updates if key in self._rank},
            rank=self._rank,
        )
