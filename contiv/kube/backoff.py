"""How long to wait before the next attempt: doubling, capped, with full jitter, so that clients spread out.

No clock in here: callers sleep. A streak of failures ends with ``reset``.
"""

from __future__ import annotations

import random
from typing import Final

FIRST_S: Final = 0.1
"""Short, because most failures are a restart that is already over."""
LAST_S: Final = 10.0
"""An API server that comes back is found within this time."""


class Backoff:
    """Delays of one streak of failures, each at most ``last_s`` and drawn from [half, full] of its step."""

    def __init__(self, *, first_s: float = FIRST_S, last_s: float = LAST_S, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._rng = rng or random.Random()
        self.failures = 0

    def reset(self) -> None:
        """The streak is over."""
        self.failures = 0

    def next_s(self, *, at_least_s: float = 0.0) -> float:
        """Seconds to wait now; counts a failure. ``at_least_s`` is the peer's wish, capped as well."""
        step = min(self._last_s, self._first_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        # Half of the step is fixed: jitter down to zero could hammer a server that is starting.
        jittered = step * (0.5 + self._rng.random() / 2)
        return max(jittered, min(at_least_s, self._last_s))
