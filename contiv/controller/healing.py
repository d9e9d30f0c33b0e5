"""What follows a failure: one resync after a delay, and a bad conscience if that fails as well.

In come verdicts on batches; out go resync events, pushed through a callback, and the words for a health
check. Only failed operations: the data plane is compared with what is desired. A handler or the state failed:
everything is recomputed. Until the first full resync has succeeded, it is repeated without end; later a
failed healing waits for the next failure or the periodic resync, while the scheduler keeps retrying single
keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from contiv.controller.event import DownstreamResync, Event, FullResync


class Healing:
    """At most one healing resync is scheduled or queued at any time. ``push`` says whether it took the
    event."""

    def __init__(self, *, delay_s: float, push: Callable[[Event], bool]) -> None:
        self._delay_s = delay_s
        self._push = push
        self._timer: asyncio.TimerHandle | None = None
        self._queued: Event | None = None
        self._wanted = ""  # why; empty when nothing is wanted
        self._full = False
        self._problem: str | None = None
        self._of_keys = True

    @property
    def problem(self) -> str | None:
        """What is wrong although healing was tried; None if nothing is."""
        return self._problem

    @property
    def curable_by_retries(self) -> bool:
        """Whether the problem is over as soon as the scheduler has no failed keys left."""
        return self._of_keys

    def failed(self, events: Sequence[Event], reason: str, *, full: bool, insist: bool) -> None:
        """A batch failed. ``insist`` asks for another healing even if this was one."""
        if self._finish(events):
            self._problem = f"healing failed: {reason}"
            self._of_keys = not full
            if not insist:
                self._schedule()
                return
        self._wanted = self._wanted or reason
        self._full = self._full or full
        self._schedule()

    def succeeded(self, events: Sequence[Event], *, resync: bool) -> None:
        """A batch succeeded; a resync among its events shows that all is well."""
        self._finish(events)
        if resync:
            self._problem = None
        self._schedule()

    def cancel(self) -> None:
        """Forget what was scheduled."""
        self._wanted = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self, events: Sequence[Event]) -> bool:
        was_healing = self._queued is not None and any(event is self._queued for event in events)
        if was_healing:
            self._queued = None
        return was_healing

    def _schedule(self) -> None:
        if self._wanted and self._timer is None and self._queued is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        reason = f"healing after: {self._wanted}"
        event: Event = FullResync(reason) if self._full else DownstreamResync(reason)
        if self._push(event):
            self._queued, self._wanted, self._full = event, "", False
        else:
            self._schedule()
