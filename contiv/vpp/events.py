"""Subscriptions to VPP's events: a bounded queue between the connection and whoever iterates.

``contiv.vpp.client`` puts records in and ends the subscription when the connection is lost; its user iterates.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from contiv.fastpath import Record
from contiv.vpp.errors import VppBusy, VppError

# events of one subscription that may wait to be read
EVENT_QUEUE: Final = 4_096


class Events(AsyncIterator[Record]):
    """Events of some names, oldest first. Subscribed from the moment it is made until ``close`` or garbage.

    Iteration raises VppDisconnected when the connection is lost and VppBusy when events had to be dropped because
    nobody read them (``EVENT_QUEUE``): state learnt from events is to be read anew then.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self._queue: deque[Record] = deque()
        self._error: VppError | None = None
        self._arrived = asyncio.Event()
        self._closed = False

    def put(self, record: Record) -> None:
        """One event from VPP."""
        if self._error is None and not self._closed:
            if len(self._queue) >= EVENT_QUEUE:
                self._error = VppBusy(f"events {', '.join(sorted(self.names))} were lost: more than {EVENT_QUEUE}")
            else:
                self._queue.append(record)
        self._arrived.set()

    def fail(self, error: VppError) -> None:
        """No more events will come."""
        self._error = self._error or error
        self._arrived.set()

    def close(self) -> None:
        """End the subscription; a waiting iteration stops."""
        self._closed = True
        self._arrived.set()

    async def __anext__(self) -> Record:
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()
