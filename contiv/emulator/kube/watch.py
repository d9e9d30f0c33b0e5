"""One watch: events of a table after a version, as bytes, until its time is over or the history is lost.

Comes in: a parsed query. Goes out: batches of encoded events (``frames``), bookmarks among them. Every watch reads the
table's history at its own position; there is no queue per watch that could grow. A watch that falls behind what the
history keeps ends with an ERROR event (410), as does one that starts before it. ``server`` writes what comes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from contiv.emulator.kube.errors import Json, bad_request, expired
from contiv.emulator.kube.kinds import Kind
from contiv.emulator.kube.selectors import Selector
from contiv.emulator.kube.store import Compacted, Event, Record, Store, Table, make_record
from contiv.emulator.kube.views import View

BATCH_EVENTS_MAX = 500
"""Events that are written at once, so that one watch does not hold up all others."""

TIMEOUT_DEFAULT_S = 1800
"""How long a watch without ``timeoutSeconds`` lasts; the real server picks 30 to 60 minutes."""


class WatchQuery(msgspec.Struct, frozen=True):
    """What a client asked of a watch."""

    namespace: str = ""
    selector: Selector = Selector()
    version: str = ""
    bookmarks: bool = False
    initial_events: bool | None = None
    timeout_s: float = TIMEOUT_DEFAULT_S


class Watch:
    """One client's watch over one table."""

    def __init__(self, store: Store, kind: Kind, *, query: WatchQuery, view: View, bookmark_interval_s: float) -> None:
        if query.version and not query.version.isdecimal():
            raise bad_request(f"Invalid value: {query.version!r}: resourceVersion must be a number")
        self._store = store
        self._table: Table = store.table(kind.table)
        self._kind = kind
        self._query = query
        self._view = view
        self._bookmark_interval_s = bookmark_interval_s
        self._first = True
        self._floor = int(query.version or 0)

    async def frames(self) -> AsyncIterator[list[bytes]]:
        """Batches of encoded events; ends by time-out or after an ERROR event."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._query.timeout_s
        try:
            position, initial = self._begin()
            yield initial
            bookmark_at = clock() + self._bookmark_interval_s
            while (now := clock()) < deadline and not self._table.closed:
                events = self._table.events_from(position, limit=BATCH_EVENTS_MAX)
                position += len(events)
                batch = [frame for event in events if (frame := self._frame(event)) is not None]
                if not events and now >= bookmark_at:
                    bookmark_at = now + self._bookmark_interval_s
                    if self._query.bookmarks:
                        batch.append(self._bookmark())
                if batch:
                    yield batch
                if not events:
                    await self._wait(position, until_s=min(deadline, bookmark_at) - now)
            # As the real server does, so that the next watch starts from here even when nothing happened.
            if self._query.bookmarks:
                yield [self._bookmark()]
        except Compacted:
            yield [self._error()]

    def _begin(self) -> tuple[int, list[bytes]]:
        """The position to read from and the events to start with."""
        query = self._query
        if query.initial_events or (query.initial_events is None and self._floor == 0):
            records = self._table.scan(namespace=query.namespace)
            frames = [self._encode("ADDED", record) for record in records if query.selector.matches(record.content)]
            self._floor = self._store.revision
            if query.initial_events and query.bookmarks:
                frames.append(self._bookmark(initial_events_end=True))
            return self._table.position_after(self._floor), frames
        return self._table.position_after(self._floor or self._store.revision), []

    async def _wait(self, position: int, *, until_s: float) -> None:
        try:
            async with asyncio.timeout(max(until_s, 0)):
                await self._table.changed(position)
        except TimeoutError:
            return

    def _frame(self, event: Event) -> bytes | None:
        """The event as this watch sees it: what enters its selection is ADDED, what leaves it is DELETED."""
        record, namespace = event.record, self._query.namespace
        if event.revision <= self._floor or (namespace and record.name[0] != namespace):
            return None
        selector = self._query.selector
        if not selector:
            return self._encode(event.type, record)
        was = event.previous is not None and selector.matches(event.previous.content)
        if event.type != "DELETED" and selector.matches(record.content):
            return self._encode("MODIFIED" if was else "ADDED", record)
        if event.previous is None or not was:
            return None
        left = make_record(record.name, event.revision, content=event.previous.content)
        return self._encode("DELETED", left)

    def _encode(self, event_type: str, record: Record) -> bytes:
        first, self._first = self._first, False
        return self._view.frame(event_type, self._kind, record, first=first)

    def _bookmark(self, *, initial_events_end: bool = False) -> bytes:
        revision = self._store.revision
        return self._view.bookmark(self._kind, revision, initial_events_end=initial_events_end)

    def _error(self) -> bytes:
        message = f"too old resource version: {self._floor} ({self._store.revision})"
        event: Json = {"type": "ERROR", "object": expired(message).status()}
        return msgspec.json.encode(event) + b"\n"
