"""The one event loop: API, CLI and packets on one epoll, with everybody's turn bounded.

Whatever has a descriptor registers a callback. Sockets of the control side come first in every turn, then each device
for a limited number of frames, so that 110 busy interfaces delay an answer by milliseconds and never for good.
Timers are few and coarse (ageing). ``stop`` may be called from a signal handler.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS_MAX: Final = 512
TICK_S: Final = 1.0


class Source(Protocol):
    """Something with a descriptor."""

    def fileno(self) -> int: ...


class Loop:
    """Callbacks by descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._control: dict[int, Callable[[int], None]] = {}
        self._devices: dict[int, Callable[[], None]] = {}
        self._running = True
        self.ticks: list[Callable[[], None]] = []
        self.after_control: Callable[[], None] = lambda: None
        """Called after each turn: what the API changed may have consequences."""

    def watch_control(self, source: Source, callback: Callable[[int], None]) -> None:
        """Call ``callback`` with the event mask when ``source`` can be read (or written, see ``want_write``)."""
        self._control[source.fileno()] = callback
        self._epoll.register(source, select.EPOLLIN)

    def want_write(self, source: Source, wanted: bool) -> None:
        """Whether the callback is also due when ``source`` can be written."""
        self._epoll.modify(source, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def watch_device(self, source: Source, receive: Callable[[], None]) -> None:
        """Call ``receive`` when frames wait at ``source``; it takes a bounded number of them."""
        self._devices[source.fileno()] = receive
        self._epoll.register(source, select.EPOLLIN)

    def forget(self, source: Source) -> None:
        """No more callbacks for ``source``, before it is closed."""
        number = source.fileno()
        self._epoll.unregister(number)
        self._control.pop(number, None)
        self._devices.pop(number, None)

    def stop(self) -> None:
        """Let ``run`` return after this turn."""
        self._running = False

    def run(self) -> None:
        """Serve until ``stop``."""
        next_tick = time.monotonic() + TICK_S
        poll, control, devices = self._epoll.poll, self._control, self._devices
        while self._running:
            try:
                ready = poll(TICK_S, EVENTS_MAX)
            except InterruptedError:
                continue
            waiting = []
            for number, mask in ready:
                receive = devices.get(number)
                if receive is not None:
                    waiting.append((number, receive))
                    continue
                callback = control.get(number)
                if callback is not None:
                    callback(mask)
            self.after_control()
            for number, receive in waiting:
                if devices.get(number) is receive:  # an API call of this turn may have deleted it
                    receive()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                for tick in self.ticks:
                    tick()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
