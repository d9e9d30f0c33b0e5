"""The objects, their versions and a bounded history: what etcd and the watch cache are to a real API server.

One ``Store`` holds one ``Table`` per kind and one counter of versions for all of them. Comes in: finished content
(``put``, ``remove``); it is frozen by convention: nobody changes what a ``Record`` holds, a change is a new record.
Each record carries its encoded bytes, made once, so that lists and watches only join them. Goes out: the current
records, a table as it was at an older version, events after a version. Refuses versions older than the history
(``Compacted``). Next: ``verbs`` decides what is written, ``lists`` and ``watch`` read.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from contiv.emulator.kube.errors import Json
from contiv.errors import KubeError

HISTORY_EVENTS_MAX = 20_000
"""Events that a table remembers for watches to resume and for pages of older snapshots."""

Name = tuple[str, str]
"""(namespace, name); the namespace of cluster-wide objects is empty. Lists are in this order, as etcd's keys are."""

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


class Compacted(KubeError):
    """The history does not reach back to the wanted version."""


class Record(msgspec.Struct, frozen=True):
    """One object at one version. ``content`` has no kind and apiVersion; ``body`` is its JSON without the brace."""

    name: Name
    revision: int
    content: Json
    body: bytes


class Event(msgspec.Struct, frozen=True):
    """One change. ``record`` of a deletion is the last state at the version of the deletion."""

    type: EventType
    revision: int
    record: Record
    previous: Record | None


class Table:
    """The records of one kind, in order of their names, with the events that led to them."""

    def __init__(self, *, history_max: int) -> None:
        self.records: dict[Name, Record] = {}
        self.names: list[Name] = []
        self.compacted_revision = 0
        self.observers: list[Callable[[Event], None]] = []
        self.closed = False
        self._history_max = history_max
        self._events: list[Event] = []
        self._dropped = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def apply(self, event: Event) -> None:
        """Make the event the newest one, wake whoever waits."""
        name = event.record.name
        if event.type == "DELETED":
            del self.records[name]
            del self.names[bisect_left(self.names, name)]
        else:
            if name not in self.records:
                insort(self.names, name)
            self.records[name] = event.record
        self._events.append(event)
        # Trimmed a tenth at a time: deleting from the front of a list costs its length.
        if len(self._events) > self._history_max * 11 // 10:
            self._forget(len(self._events) - self._history_max)
        for observe in self.observers:
            observe(event)
        self.wake()

    def wake(self) -> None:
        """Let every waiter of ``changed`` look again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _forget(self, count: int) -> None:
        if count > 0:
            self.compacted_revision = self._events[count - 1].revision
            del self._events[:count]
            self._dropped += count

    def compact(self, revision: int) -> None:
        """Forget all events up to ``revision``: whoever needs them is told 410."""
        self._forget(bisect_right(self._events, revision, key=lambda event: event.revision))
        self.compacted_revision = max(self.compacted_revision, revision)
        self.wake()

    def position_after(self, revision: int) -> int:
        """The place in the history from which ``events_from`` gives what happened after ``revision``."""
        if revision < self.compacted_revision:
            raise Compacted(f"version {revision} is older than {self.compacted_revision}")
        return self._dropped + bisect_right(self._events, revision, key=lambda event: event.revision)

    def events_from(self, position: int, *, limit: int) -> list[Event]:
        """At most ``limit`` events from a position on; the reader's next position is ``position + len(...)``."""
        if position < self._dropped:
            raise Compacted(f"history position {position} is gone")
        start = position - self._dropped
        return self._events[start : start + limit]

    async def changed(self, position: int) -> None:
        """Wait until there are events at ``position`` (or until ``wake`` was called for another reason)."""
        if self.closed or position < self._dropped + len(self._events):
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def scan(self, *, namespace: str, after: Name | None = None) -> Iterator[Record]:
        """Current records of a namespace (all when empty) in order, those behind ``after`` only."""
        first = (namespace, "")
        start = bisect_left(self.names, first) if after is None else bisect_right(self.names, max(after, first))
        for index in range(start, len(self.names)):
            name = self.names[index]
            if namespace and name[0] != namespace:
                return
            yield self.records[name]

    def scan_at(self, revision: int, *, namespace: str, after: Name | None = None) -> Iterator[Record]:
        """As ``scan``, at an older version: later events are undone."""
        undone: dict[Name, Record | None] = {}
        for event in self.events_from(self.position_after(revision), limit=len(self._events)):
            undone.setdefault(event.record.name, event.previous)
        if not undone:
            yield from self.scan(namespace=namespace, after=after)
            return
        names = [name for name in self.names if name not in undone]
        names += [name for name, record in undone.items() if record is not None]
        for name in sorted(names):
            if (after is None or name > after) and (not namespace or name[0] == namespace):
                record = undone.get(name) or self.records.get(name)
                if record is not None:
                    yield record


class Store:
    """All tables under one counter of versions."""

    def __init__(self, *, history_max: int = HISTORY_EVENTS_MAX) -> None:
        self.revision = 1
        self.tables: dict[tuple[str, str], Table] = {}
        self.journal: Callable[[tuple[str, str], Event], None] | None = None
        self._history_max = history_max
        self._compacted_revision = 0

    def table(self, key: tuple[str, str]) -> Table:
        table = self.tables.get(key)
        if table is None:
            table = self.tables[key] = Table(history_max=self._history_max)
            table.compact(self._compacted_revision)
        return table

    def put(self, key: tuple[str, str], name: Name, *, content: Json) -> Record:
        """Store content under a new version; writes the version into its metadata."""
        table = self.table(key)
        self.revision += 1
        record = make_record(name, self.revision, content=content)
        previous = table.records.get(name)
        kind: EventType = "MODIFIED" if previous is not None else "ADDED"
        self._apply(key, Event(kind, self.revision, record, previous))
        return record

    def remove(self, key: tuple[str, str], name: Name) -> Record:
        """Take an object away; returns its last state at the version of the deletion."""
        previous = self.table(key).records[name]
        self.revision += 1
        last = make_record(name, self.revision, content=previous.content)
        self._apply(key, Event("DELETED", self.revision, last, previous))
        return last

    def replay(self, key: tuple[str, str], event: Event) -> None:
        """Repeat an event that a journal kept."""
        self.revision = max(self.revision, event.revision)
        self.table(key).apply(event)

    def _apply(self, key: tuple[str, str], event: Event) -> None:
        if self.journal is not None:
            self.journal(key, event)
        self.table(key).apply(event)

    def compact(self) -> None:
        """Forget every event: watches and pages that started earlier get 410."""
        self._compacted_revision = self.revision
        for table in self.tables.values():
            table.compact(self.revision)

    def drop_table(self, key: tuple[str, str]) -> None:
        table = self.tables.pop(key, None)
        if table is not None:
            table.closed = True
            table.wake()


_encode = msgspec.json.Encoder().encode


def make_record(name: Name, revision: int, *, content: Json) -> Record:
    """Content with its version, metadata first, and its bytes."""
    metadata = dict(content["metadata"])
    metadata["resourceVersion"] = str(revision)
    stored: Json = {"metadata": metadata}
    for field, value in content.items():
        if field != "metadata":
            stored[field] = value
    return Record(name, revision, stored, _encode(stored)[1:])
