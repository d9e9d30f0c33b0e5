"""What happened to the agent, for people: a history of events, bounded by number and age.

In come records of events that are done; out go JSON and text. The transactions themselves are in the
scheduler's history; ``transaction`` is their number there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
from msgspec import Struct


class HandlerRecord(Struct, frozen=True, omit_defaults=True):
    """What one handler did with an event: how many keys it changed, or how it failed."""

    handler: str
    changes: int = 0
    reverted: bool = False
    error: str = ""


class EventRecord(Struct, frozen=True, omit_defaults=True):
    """One event. Times in seconds since the epoch; ``follow_up_to`` is the number of the event that caused
    it."""

    number: int
    name: str
    description: str
    kind: str
    started: float
    ended: float
    waited_s: float = 0.0
    blocking: bool = False
    follow_up_to: int | None = None
    handlers: tuple[HandlerRecord, ...] = ()
    batch: int = 0
    transaction: int | None = None
    summary: str = ""
    reverted: bool = False
    error: str = ""


class EventHistory:
    """The last events, oldest first."""

    def __init__(self, *, events_max: int, age_max_s: float, wall_clock: Callable[[], float]) -> None:
        self._records: deque[EventRecord] = deque(maxlen=events_max)
        self._age_max_s = age_max_s
        self._wall_clock = wall_clock

    def __iter__(self) -> Iterator[EventRecord]:
        self._trim()
        return iter(tuple(self._records))

    def __len__(self) -> int:
        self._trim()
        return len(self._records)

    def add(self, record: EventRecord) -> None:
        """Append; what is too old or too much goes."""
        self._records.append(record)
        self._trim()

    def _trim(self) -> None:
        oldest = self._wall_clock() - self._age_max_s
        while self._records and self._records[0].ended < oldest:
            self._records.popleft()

    def select(self, *, since: float = 0.0, last: int | None = None) -> tuple[EventRecord, ...]:
        """Records that ended after ``since`` (seconds since the epoch), at most the ``last`` ones of them."""
        records = tuple(record for record in self if record.ended >= since)
        return records if last is None else records[max(0, len(records) - last) :]

    def to_json(self, *, since: float = 0.0, last: int | None = None) -> bytes:
        """Records as a JSON array."""
        return msgspec.json.encode(self.select(since=since, last=last))

    def to_text(self, *, since: float = 0.0, last: int | None = None) -> str:
        """One line an event."""
        return "\n".join(event_text(record) for record in self.select(since=since, last=last))


def event_text(record: EventRecord) -> str:
    """One event as a line of text."""
    when = datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    verdict = f"{'reverted' if record.reverted else 'failed'}: {record.error}" if record.error else "ok"
    handlers = ", ".join(_handler_text(handler) for handler in record.handlers)
    cause = f" (follows #{record.follow_up_to})" if record.follow_up_to is not None else ""
    took = f"{(record.ended - record.started) * 1e3:.1f} ms"
    detail = " · ".join(part for part in (handlers, record.summary) if part)
    return f"#{record.number} {when}Z {took} {record.name} {record.description}{cause}: {verdict} [{detail}]"


def _handler_text(record: HandlerRecord) -> str:
    what = record.error or ("reverted" if record.reverted else f"{record.changes} keys")
    return f"{record.handler}: {what}"
