"""What follows a failure: one resync after a delay, and a bad conscience if that fails as well.

In come verdicts on batches; out go resync events, pushed through a callback, and the words for a health
check. Only failed operations: the data plane is compared with what is desired. A handler or the state failed:
everything is recomputed. Until the first full resync has succeeded, it is repeated without end; later a
failed healing waits for the next failure or the periodic resync, while the scheduler keeps retrying single
keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from contiv.controller.event import DownstreamResync, Event, FullResync


class Healing:
    """At most one healing resync is scheduled at any time."""

    def __init__(self, *, delay_s: float, push: Callable[[Event], None]) -> None:
        self._delay_s = delay_s
        self._push = push
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self._reason = ""
        self._running: Event | None = None
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong although healing was tried; None if nothing is."""
        return self._problem

    def failed(self, events: list[Event], reason: str, *, full: bool, insist: bool) -> None:
        """A batch failed. ``insist`` asks for another healing even if this was one."""
        if self._running is not None and any(event is self._running for event in events):
            self._running = None
            self._problem = f"healing failed: {reason}"
            if not insist:
                return
        self._full = self._full or full
        if self._timer is None and self._running is None:
            self._reason = reason
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._fire)

    def succeeded(self, events: list[Event], *, resync: bool) -> None:
        """A batch succeeded; a resync among its events shows that all is well."""
        if self._running is not None and any(event is self._running for event in events):
            self._running = None
        if resync:
            self._problem = None

    def recovered(self) -> None:
        """The scheduler has no failed keys left."""
        self._problem = None

    def cancel(self) -> None:
        """Forget what was scheduled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        reason = f"healing after: {self._reason}"
        self._running = FullResync(reason) if self._full else DownstreamResync(reason)
        self._timer, self._full = None, False
        self._push(self._running)
