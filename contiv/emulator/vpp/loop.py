"""The event loop: API and packets in one thread, and the API is answered however many packets there are.

Two epoll sets, one for control (API, timers' wake-ups), one for devices. Each turn serves control first, then at most
``DEVICES_A_TURN`` devices, each of which reads a bounded batch. Level-triggered epoll rotates devices that are still
readable to the end of its list, so that none starves.
"""

from __future__ import annotations

import heapq
import select
import time
from typing import TYPE_CHECKING, Final

from contiv.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

log = get_logger(__name__)

DEVICES_A_TURN: Final = 16
CONTROL_A_TURN: Final = 32
IDLE_WAIT_S: Final = 1.0


class EventLoop:
    """Calls back when descriptors are ready or times have come."""

    def __init__(self) -> None:
        self._control = select.epoll()
        self._devices = select.epoll()
        self._both = select.epoll()
        self._both.register(self._control.fileno(), select.EPOLLIN)
        self._both.register(self._devices.fileno(), select.EPOLLIN)
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._running = False
        self.clock = time.monotonic

    def add_control(self, descriptor: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` when the descriptor is readable."""
        self._control.register(descriptor, select.EPOLLIN)
        self._callbacks[descriptor] = callback

    def want_write(self, descriptor: int, wanted: bool, *, read: bool = True) -> None:
        """Also, or no longer, call back when a control descriptor is writable (and readable, unless told not to)."""
        events = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if wanted else 0)
        self._control.modify(descriptor, events)

    def add_device(self, descriptor: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` when a device has packets."""
        self._devices.register(descriptor, select.EPOLLIN)
        self._callbacks[descriptor] = callback

    def remove(self, descriptor: int) -> None:
        """Forget a descriptor, before it is closed."""
        if self._callbacks.pop(descriptor, None) is None:
            return
        for epoll in (self._control, self._devices):
            try:
                epoll.unregister(descriptor)
            except FileNotFoundError:
                continue

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back once, ``delay_s`` from now."""
        self._sequence += 1
        heapq.heappush(self._timers, (self.clock() + delay_s, self._sequence, callback))

    def every(self, interval_s: float, callback: Callable[[], None]) -> None:
        """Call back again and again."""

        def again() -> None:
            callback()
            self.call_later(interval_s, again)

        self.call_later(interval_s, again)

    def run(self) -> None:
        """Serve until ``stop``."""
        self._running = True
        while self._running:
            self._turn()

    def stop(self) -> None:
        """Make ``run`` return after the present turn."""
        self._running = False

    def close(self) -> None:
        """Give the epoll descriptors back."""
        for epoll in (self._both, self._control, self._devices):
            epoll.close()

    def _turn(self) -> None:
        callbacks = self._callbacks
        for descriptor, events in self._control.poll(0, CONTROL_A_TURN):
            callback = callbacks.get(descriptor)
            if callback is not None:
                callback(events)
        ready = self._devices.poll(0, DEVICES_A_TURN)
        for descriptor, events in ready:
            callback = callbacks.get(descriptor)
            if callback is not None:
                callback(events)
        wait_s = self._due()
        if not ready and wait_s > 0:
            self._both.poll(wait_s)

    def _due(self) -> float:
        """Run the timers that are due; seconds until the next one."""
        while self._timers:
            wait_s = self._timers[0][0] - self.clock()
            if wait_s > 0:
                return min(wait_s, IDLE_WAIT_S)
            _, _, callback = heapq.heappop(self._timers)
            callback()
        return IDLE_WAIT_S
