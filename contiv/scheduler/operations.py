"""The edges between operations: which of them waits for which, and one deterministic order of all. Pure.

In come the planner's decisions (what is removed, updated, created); out go ``Operation`` values in an order
in which everything comes after what it waits for. ``wave`` is the length of the longest chain before an
operation: it is for reading, execution goes by ``after`` alone. ``reverse`` turns what was executed into its
undoing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final

from msgspec import Struct

from contiv.scheduler.descriptor import Dependency, Value
from contiv.scheduler.graph import Graph
from contiv.scheduler.registry import Registry


class Verb(StrEnum):
    """What is done to one key. A recreate is a delete and a create of the same key."""

    DELETE = "delete"
    UPDATE = "update"
    CREATE = "create"


# Members of an enumeration take Python 3.11 several times as long as names do.
_DELETE: Final = Verb.DELETE
_UPDATE: Final = Verb.UPDATE
_CREATE: Final = Verb.CREATE


class Operation(Struct, frozen=True, gc=False):
    """One call of a descriptor. ``after`` are positions in the plan; ``old`` is None for create, ``new`` for
    delete. ``needs``: the dependencies of ``new``. ``despite``: dependents that a delete does not wait for, as they are
    in a circle with the key."""

    key: str
    verb: Verb
    old: Value | None
    new: Value | None
    needs: tuple[Dependency, ...] = ()
    after: tuple[int, ...] = ()
    wave: int = 0
    reason: str = ""
    despite: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.verb} {self.key}"


class Decisions(Struct):
    """What the planner decided. ``rank`` holds the keys to create or update in a possible order."""

    registry: Registry
    desired: Graph
    actual: Graph
    removed: Mapping[str, str]
    returning: Collection[str]
    updates: Collection[str]
    rank: Mapping[str, int]


# A key leaves at most once and arrives at most once in a plan: its arrival (create or update) goes by the key itself,
# its removal by the key with a mark in front. Strings cost the garbage collector nothing.
_GONE = "\0"
_Waits = defaultdict[str, list[str]]


def order(decisions: Decisions) -> tuple[tuple[Operation, ...], tuple[str, ...]]:
    """All operations in order, and the keys of those that wait for one another in a circle (left out)."""
    waits: _Waits = defaultdict(list)
    late = _order_removals(decisions, waits)
    _order_arrivals(decisions, waits)
    _order_claims(decisions, waits, late)
    waves, stuck = _waves(waits)
    despite = _break_circles(decisions, waits, stuck) if stuck else {}
    if despite:
        waves, stuck = _waves(waits)
    groups: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for key in decisions.removed:
        groups[waves.get(_GONE + key, 0), 0].append(_GONE + key)
    for key in decisions.rank:
        groups[waves.get(key, 0), 1 if key in decisions.updates else 2].append(key)
    nodes = [node for place in sorted(groups) for node in sorted(groups[place]) if node not in stuck]
    position = {node: index for index, node in enumerate(nodes)} if waits else {}
    operations = tuple(
        [
            _operation(decisions, node, waits, position, wave=waves.get(node, 0), despite=despite.get(node, ()))
            for node in nodes
        ]
    )
    return operations, tuple(sorted({_key(node) for node in stuck}))


def _operation(
    decisions: Decisions,
    node: str,
    waits: _Waits,
    position: Mapping[str, int],
    *,
    wave: int,
    despite: tuple[str, ...],
) -> Operation:
    before = waits.get(node)
    after = _positions(before, position) if before else ()
    if node not in decisions.rank:
        key = node.removeprefix(_GONE)
        old, reason = decisions.actual.values[key], decisions.removed[key]
        return Operation(key, _DELETE, old, None, (), after, wave, reason, despite)
    desired, needs = decisions.desired.values[node], decisions.desired.needs(node)
    reason = decisions.removed.get(node, "")
    if node in decisions.updates:
        return Operation(node, _UPDATE, decisions.actual.values[node], desired, needs, after, wave, reason)
    return Operation(node, _CREATE, None, desired, needs, after, wave, reason)


def _positions(nodes: Sequence[str], position: Mapping[str, int]) -> tuple[int, ...]:
    """In order, each once."""
    return (position[nodes[0]],) if len(nodes) == 1 else tuple(sorted({position[node] for node in nodes}))


def _order_removals(decisions: Decisions, waits: _Waits) -> set[str]:
    """Dependents first. Returns the removed keys that wait, directly or not, for an update that moves off
    them."""
    late: list[str] = []
    for key in decisions.updates:
        for target in decisions.actual.targets(key):
            if target in decisions.removed and target not in decisions.returning:
                waits[_GONE + target].append(key)
                late.append(target)
    delayed = set(late)
    while late:
        for target in decisions.actual.targets(late.pop()):
            if target in decisions.removed and target not in delayed:
                delayed.add(target)
                late.append(target)
    depth = _Depth(decisions)
    for key in decisions.removed:
        for need in decisions.actual.needs(key):
            gone = [k for k in need.keys if k in decisions.removed]
            if len(gone) == len([k for k in need.keys if k in decisions.actual]) > 0:
                waits[_GONE + depth.lowest(gone)].append(_GONE + key)
            for target in need.keys:
                if target in decisions.updates and key not in delayed:
                    waits[target].append(_GONE + key)
    return delayed


class _Depth:
    """Which of several removed alternatives goes last: the one nearest to the ground.

    Waiting for all of them could run in a circle, since one alternative may itself rest on another dependent.
    """

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._order: dict[str, int] = {}

    def lowest(self, keys: Sequence[str]) -> str:
        if len(keys) == 1:
            return keys[0]
        if not self._order:
            self._measure()
        return min(keys, key=lambda key: (self._order.get(key, len(self._order)), key))

    def _measure(self) -> None:
        actual, removed = self._decisions.actual, self._decisions.removed
        work = sorted(removed, reverse=True)
        while work:
            key = work.pop()
            if key not in self._order and all(self._grounded(need) for need in actual.needs(key)):
                self._order[key] = len(self._order)
                work += sorted((k for k in actual.dependents(key) if k in removed), reverse=True)

    def _grounded(self, need: Dependency) -> bool:
        there = [key for key in need.keys if key in self._decisions.actual]
        return not there or any(key in self._order or key not in self._decisions.removed for key in there)


def _order_arrivals(decisions: Decisions, waits: _Waits) -> None:
    """Dependencies first; a key that is recreated goes before it comes."""
    needs_of = decisions.desired.needs
    known: tuple[Dependency, ...] = ()
    awaited: list[str] = []
    for key, rank in decisions.rank.items():
        needs = needs_of(key)
        if needs is not known:  # thousands in a row need the same
            known, awaited = needs, [target for need in needs for target in _awaited(decisions, need, rank)]
        if awaited:
            waits[key] += awaited
        if key in decisions.removed:
            waits[key].append(_GONE + key)


def _awaited(decisions: Decisions, need: Dependency, rank: int) -> list[str]:
    """The keys that an arrival of this rank waits for; none if one is there and is not touched: one is enough.

    Alternatives that were ranked later may themselves wait for this one.
    """
    awaited = []
    for target in (need.key,) if need.key else need.any_of:
        at = decisions.rank.get(target)
        if at is None:
            if target in decisions.actual.values and target not in decisions.removed:
                return []
        elif at < rank:
            awaited.append(target)
    return awaited


def _order_claims(decisions: Decisions, waits: _Waits, late: Collection[str]) -> None:
    """Exclusive resources are freed before they are taken. Deletes that wait for updates are left out: a
    circle."""
    freed: dict[str, list[str]] = {}
    for key in decisions.removed:
        if key not in late:
            descriptor = decisions.registry.find(key)
            for claim in descriptor.claims(key, decisions.actual.values[key]):
                freed.setdefault(claim, []).append(key)
    if not freed:
        return
    for key in decisions.rank:
        for claim in decisions.registry.find(key).claims(key, decisions.desired.values[key]):
            for holder in freed.get(claim, ()):
                waits[key].append(_GONE + holder)


def _waves(waits: _Waits) -> tuple[dict[str, int], set[str]]:
    """The length of the longest chain before each node that waits, and the nodes that wait in a circle."""
    followers: dict[str, list[str]] = {}
    missing = {}
    for node, before in waits.items():
        missing[node] = len(before)
        for earlier in before:
            followers.setdefault(earlier, []).append(node)
    ready = [node for node in followers if node not in missing]
    waves: dict[str, int] = {}
    wave = 0
    while ready:  # a node's longest chain comes from the last one that it waits for
        waves.update(dict.fromkeys(ready, wave))
        wave += 1
        following = []
        for node in ready:
            for follower in followers.get(node, ()):
                missing[follower] -= 1
                if not missing[follower]:
                    following.append(follower)
        ready = following
    return waves, missing.keys() - waves.keys()


def _break_circles(decisions: Decisions, waits: _Waits, stuck: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Let removed values go that rest on one another in a circle; for each removal the dependents it no longer awaits.

    Nothing desired is like that. But where some updates of a transaction fail and others do not, or where the data
    plane lost what carried them all, the values left can hold one another up.
    """
    despite: defaultdict[str, set[str]] = defaultdict(set)
    while circle := _circle_of_removals(waits, stuck):
        edges = [(_key(before), _key(node)) for node, before in zip(circle, circle[1:] + circle[:1], strict=True)]
        dependent, target = min(edges, key=lambda edge: (_is_firm(decisions.actual, *edge), edge))
        for need in decisions.actual.needs(dependent):
            for key in need.keys if target in need.keys else ():
                if key in decisions.removed:
                    despite[_GONE + key].add(dependent)
                    _stop_waiting(waits, _GONE + key, _GONE + dependent)
    return {node: tuple(sorted(dependents)) for node, dependents in despite.items()}


def _circle_of_removals(waits: _Waits, stuck: Collection[str]) -> list[str]:
    """Removals each of which waits for the next, and the last for the first; empty if there are none."""
    inner: _Waits = defaultdict(list)
    for node in stuck:
        before = [earlier for earlier in waits.get(node, ()) if earlier.startswith(_GONE)]
        if node.startswith(_GONE) and before:
            inner[node] = before
    _, circular = _waves(inner)
    if not circular:
        return []
    path = [min(circular)]
    while True:  # each of them waits for another one of them
        following = min(node for node in inner[path[-1]] if node in circular)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _is_firm(actual: Graph, dependent: str, target: str) -> bool:
    """Whether the dependent needs the target without any alternative."""
    return any(need.keys == (target,) for need in actual.needs(dependent))


def _stop_waiting(waits: _Waits, node: str, earlier: str) -> None:
    left = [other for other in waits.pop(node, ()) if other != earlier]
    if left:
        waits[node] = left


def _key(node: str) -> str:
    return node.removeprefix(_GONE)


def reverse(
    registry: Registry, actual: Graph, operations: Sequence[Operation], executed: Sequence[int]
) -> tuple[Operation, ...]:
    """The undoing of the executed positions, given in the order in which they were done; ``actual`` as it is
    now.

    What was done later is undone earlier wherever two operations have to do with each other: because the plan
    said so, also through operations that were not executed, because one rests on the other's key, or because
    something rests on either of the two.
    """
    done_at = {index: place for place, index in enumerate(executed)}
    undone_after = _planned_ties(operations, done_at)
    by_key: dict[str, list[int]] = {}
    for index in executed:
        by_key.setdefault(operations[index].key, []).append(index)
    for keys in _tied_keys(registry, actual, [operations[index] for index in executed]):
        tied = sorted((index for key in keys for index in by_key.get(key, ())), key=done_at.__getitem__)
        for earlier, later in pairwise(tied):
            undone_after[earlier].add(later)
    position = {index: place for place, index in enumerate(reversed(executed))}
    result: list[Operation] = []
    for index in reversed(executed):
        done = operations[index]
        after = tuple(sorted(position[later] for later in undone_after[index]))
        wave = 1 + max((result[place].wave for place in after), default=-1)
        verb = {Verb.CREATE: Verb.DELETE, Verb.DELETE: Verb.CREATE, Verb.UPDATE: Verb.UPDATE}[done.verb]
        needs = () if done.old is None else registry.needs(done.key, done.old)
        result.append(Operation(done.key, verb, done.new, done.old, needs, after, wave, reason="revert"))
    return tuple(result)


def _tied_keys(registry: Registry, actual: Graph, executed: Sequence[Operation]) -> Iterator[set[str]]:
    """Keys whose operations must be undone in order: a value's and its dependency's, and alternatives'."""
    for operation in executed:
        for value in (operation.old, operation.new):
            for need in () if value is None else registry.needs(operation.key, value):
                yield from ({operation.key, key} for key in need.keys)
                yield set(need.keys)
        for dependent in sorted(actual.dependents(operation.key)):
            yield from (set(need.keys) for need in actual.needs(dependent) if operation.key in need.keys)


def _planned_ties(operations: Sequence[Operation], executed: Collection[int]) -> dict[int, set[int]]:
    """For each executed operation those that waited for it, looking through what was not executed."""
    behind: list[set[int]] = []
    ties: dict[int, set[int]] = {index: set() for index in executed}
    for index, operation in enumerate(operations):
        before: set[int] = set()
        for earlier in operation.after:
            before.update((earlier,) if earlier in executed else behind[earlier])
        behind.append(before)
        if index in executed:
            for earlier in before:
                ties[earlier].add(index)
    return ties
