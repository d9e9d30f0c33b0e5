"""Bulk through shared memory: when it can be used, and why not when it cannot.

VPP answers 3 to 4 times as many requests through shared memory as on its socket. The client library of the VPP that
runs does it (``csrc/shm.h``); it allows one connection a process. Used only after everything has been checked: the
library's version against the VPP on the socket, the segment in /dev/shm, the number of a message and the process ID
that a ping reports. In: ``Vpp``'s bulk requests. Out: rows of replies, or ``ShmError`` with the reason, upon which
``contiv.vpp.client`` goes on with the socket. A VPP that dies ends it for the life of this process.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from contiv._fastpath import shm
from contiv._fastpath.shm import Exchange, ShmError
from contiv.errors import VppError

if TYPE_CHECKING:
    from contiv.vpp.client import Vpp

LIBRARY: Final = "libvppapiclient.so"
SEGMENTS: Final = Path("/dev/shm")
# replies that VPP may leave in our queue, and how many requests are in flight at most: room stays for keep-alives
QUEUE_LENGTH: Final = 1024
WINDOW: Final = 512
CONNECT_TIMEOUT_S: Final = 5.0
DISCONNECT_TIMEOUT_S: Final = 3.0


class ShmUnusable(VppError):
    """Shared memory cannot be used; the text says why."""


def find_library(prefix: Path, version: str) -> Path:
    """The client library under VPP's ``prefix`` whose version is that of the running VPP. ShmUnusable."""
    release = version.partition("-")[0].partition("~")[0]
    found = sorted(prefix.glob(f"lib*/**/{LIBRARY}.*"))
    for library in found:
        if library.name.removeprefix(f"{LIBRARY}.") == release:
            return library
    versions = ", ".join(library.name.removeprefix(f"{LIBRARY}.") for library in found) or "none"
    raise ShmUnusable(f"{prefix} has {LIBRARY} of version {versions}, VPP is {version}")


class SharedMemory:
    """A checked connection through shared memory. Make it with ``open``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Exchange | None = None
        self._gone = False

    @classmethod
    async def open(cls, vpp: Vpp, *, segment: str, prefix: Path | None, name: str) -> SharedMemory:
        """Connect to the VPP that ``vpp`` talks to, whose api-segment has the prefix ``segment``. ShmUnusable."""
        if prefix is None:
            raise ShmUnusable("no VPP is installed here, so that its client library is missing")
        library = find_library(prefix, vpp.version)
        file = SEGMENTS / (f"{segment}-vpe-api" if segment else "vpe-api")
        if not file.exists():
            raise ShmUnusable(f"{file} is not there: VPP's api-segment has another prefix or /dev/shm is not shared")
        self = cls()
        try:
            await asyncio.to_thread(shm.connect, str(library), name, segment, QUEUE_LENGTH, CONNECT_TIMEOUT_S)
            await self._verify(vpp)
        except ShmError as error:
            raise ShmUnusable(str(error)) from error
        return self

    async def _verify(self, vpp: Vpp) -> None:
        schema = vpp.schema
        ping, reply = schema.messages["control_ping"].key, schema.messages["control_ping_reply"].key
        numbers = shm.message_index(ping), shm.message_index(reply)
        wanted = vpp.table[ping], vpp.table[reply]
        pid = (await vpp.call("control_ping")).vpe_pid
        layout = schema.layout("control_ping_reply")
        rows = np.zeros((1, layout.dtype.itemsize), np.uint8)
        request = np.frombuffer(schema.encode("control_ping", msg_id=wanted[0], context=1), np.uint8).reshape(1, -1)
        if numbers == wanted:
            await self.exchange(request, rows, skip=0, reply=(wanted[1], 2), timeout_s=CONNECT_TIMEOUT_S)
        if numbers != wanted or int(rows.view(layout.dtype)["vpe_pid"][0, 0]) != pid:
            await self.close()
            raise ShmUnusable("the segment is that of another VPP than the one on the socket")

    async def exchange(
        self,
        requests: NDArray[np.uint8],
        rows: NDArray[np.uint8],
        *,
        skip: int,
        reply: tuple[int, int],
        timeout_s: float,
    ) -> None:
        """Send ``requests`` (one a row, ``skip`` bytes in front of each, contexts 1 and up); their replies, of number
        ``reply[0]`` with the context at ``reply[1]``, go to ``rows``. ShmError."""
        one = Exchange(
            requests,
            rows,
            skip=skip,
            base=1,
            reply_id=reply[0],
            context_offset=reply[1],
            window=WINDOW,
            timeout_s=timeout_s,
        )
        await asyncio.to_thread(self._run, one)

    def _run(self, one: Exchange) -> None:
        with self._lock:
            if self._gone:
                raise ShmError(-4)
            self._running = one
            try:
                one.run()
            finally:
                self._running = None

    def gone(self) -> None:
        """VPP is gone: whatever runs is given up, nothing else is tried."""
        self._gone = True
        running: Any = self._running
        if running is not None:
            running.stop()

    async def close(self) -> None:
        """Leave VPP, unless it is gone."""
        if not self._gone:
            self._gone = True
            await asyncio.to_thread(shm.disconnect, DISCONNECT_TIMEOUT_S)
