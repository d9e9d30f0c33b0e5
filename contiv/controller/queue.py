"""Events that wait, and which of them go into the next transaction.

Two lanes, each bounded: follow-ups go before ordinary events. A resync is a batch of its own; updates up to
the next resync share one. Until the controller has had its first full resync, nothing but a full resync is
let through: the updates wait in their places. Next in the flow: ``loop.py`` takes batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from contiv.controller.event import ControllerStoppedError, Event, Kind, QueueFullError

RESYNCS_RESERVED: Final = 16
"""Places in each lane that updates cannot take."""


class Entry(Struct, eq=False):
    """A queued event. ``reply`` is there if somebody waits; ``cause`` is the number of the event it follows
    up."""

    event: Event
    queued: float
    reply: asyncio.Future[object] | None = None
    cause: int | None = None

    @property
    def abandoned(self) -> bool:
        """Whether somebody waited and went away."""
        return self.reply is not None and self.reply.cancelled()

    def succeed(self, result: object) -> None:
        """Answer who waits, if anybody still does."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Answer who waits with an error, if anybody still does."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class EventQueue:
    """Both lanes. ``on_depth`` hears every change of the number of waiting events."""

    def __init__(self, *, queued_max: int, follow_ups_max: int, on_depth: Callable[[int], None]) -> None:
        self._events: deque[Entry] = deque()
        self._follow_ups: deque[Entry] = deque()
        self._queued_max = queued_max
        self._follow_ups_max = follow_ups_max
        self._on_depth = on_depth
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._events) + len(self._follow_ups)

    def put(self, entry: Entry) -> None:
        """Append an ordinary event; raises ``QueueFullError`` or ``ControllerStoppedError``."""
        self._put(entry, self._events, self._queued_max)

    async def put_patiently(self, entry: Entry) -> None:
        """Append an ordinary event once the lane is less than half full: the other half is for who cannot
        wait.

        Raises ``ControllerStoppedError``.
        """
        limit = max(1, self._queued_max // 2)
        while not self._closed and len(self._events) >= limit and entry.event.kind is Kind.UPDATE:
            self._room.clear()
            await self._room.wait()
        self.put(entry)

    def put_follow_up(self, entry: Entry) -> None:
        """Append to the lane that goes first; raises like ``put``."""
        self._put(entry, self._follow_ups, self._follow_ups_max)

    def _put(self, entry: Entry, lane: deque[Entry], limit: int) -> None:
        if self._closed:
            raise ControllerStoppedError(entry.event.name)
        # Only a resync sets free what waits for the first one, so it always finds a place.
        if len(lane) >= (limit if entry.event.kind is Kind.UPDATE else limit + RESYNCS_RESERVED):
            raise QueueFullError(entry.event.name, limit)
        lane.append(entry)
        self._changed.set()
        self._on_depth(len(self))

    def holds(self, kind: type[Event]) -> bool:
        """Whether an event of the class waits."""
        return any(isinstance(entry.event, kind) for lane in (self._follow_ups, self._events) for entry in lane)

    async def take(self, batch_max: int, *, synced: bool) -> list[Entry]:
        """The next batch, waiting for one; empty when the queue is closed."""
        while not self._closed:
            batch = self._batch(batch_max) if synced else self._first_resync()
            if batch:
                self._room.set()
                self._on_depth(len(self))
                return batch
            self._changed.clear()
            await self._changed.wait()
        return []

    def _first_resync(self) -> list[Entry]:
        for lane in (self._follow_ups, self._events):
            for entry in lane:
                if entry.event.kind is Kind.FULL_RESYNC:
                    lane.remove(entry)
                    return [entry]
        return []

    def _batch(self, batch_max: int) -> list[Entry]:
        batch: list[Entry] = []
        while len(batch) < batch_max and (lane := self._follow_ups or self._events):
            if lane[0].event.kind is not Kind.UPDATE:
                return batch or [lane.popleft()]
            batch.append(lane.popleft())
        return batch

    def close(self) -> list[Entry]:
        """Refuse more; returns what had not been taken."""
        self._closed = True
        left = [*self._follow_ups, *self._events]
        self._follow_ups.clear()
        self._events.clear()
        self._changed.set()
        self._room.set()
        return left
