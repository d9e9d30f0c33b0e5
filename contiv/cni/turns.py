"""Who may work on an attachment when: one call at a time for each, and GC alone.

A runtime may send DEL while an ADD that it gave up on still runs, or the same ADD twice; the second waits
for its turn, in order of arrival. GC decides by a list of what is valid, so nothing may come or go while it
works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contiv.cni.model import Attachment


class Turns:
    """Locks by attachment, which vanish when nobody holds or awaits them, beneath one gate for GC."""

    def __init__(self) -> None:
        self._locks: dict[Attachment, tuple[asyncio.Lock, int]] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = asyncio.Event()
        self._open.set()
        self._exclusive = asyncio.Lock()

    @asynccontextmanager
    async def of(self, attachment: Attachment) -> AsyncIterator[None]:
        """Wait until nobody else works on ``attachment`` and no GC runs."""
        while not self._open.is_set():
            await self._open.wait()
        lock, users = self._locks.get(attachment) or (asyncio.Lock(), 0)
        self._locks[attachment] = (lock, users + 1)
        self._active += 1
        self._idle.clear()
        try:
            async with lock:
                yield
        finally:
            self._leave(attachment)

    def _leave(self, attachment: Attachment) -> None:
        lock, users = self._locks.pop(attachment)
        if users > 1:
            self._locks[attachment] = (lock, users - 1)
        self._active -= 1
        if self._active == 0:
            self._idle.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until every attachment is at rest; those that arrive meanwhile wait in turn."""
        async with self._exclusive:
            self._open.clear()
            try:
                await self._idle.wait()
                yield
            finally:
                self._open.set()
