"""What the loop tells about its load, as a tiny protocol: who wants Prometheus implements it elsewhere."""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    """Called from the loop; must be quick and must not raise. Times in seconds."""

    def queue_depth(self, depth: int) -> None:
        """Events waiting, follow-ups included, whenever that changes."""
        ...

    def event(self, name: str, *, waited_s: float, duration_s: float, failed: bool) -> None:
        """One event is done: time in the queue, time from the start of its batch to its answer."""
        ...

    def batch(self, *, events: int, keys: int, duration_s: float, failed: bool) -> None:
        """One transaction is done."""
        ...


class NoMetrics:
    """Tells nobody."""

    def queue_depth(self, depth: int) -> None:
        """Ignore."""

    def event(self, name: str, *, waited_s: float, duration_s: float, failed: bool) -> None:
        """Ignore."""

    def batch(self, *, events: int, keys: int, duration_s: float, failed: bool) -> None:
        """Ignore."""
