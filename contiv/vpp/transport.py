"""The Unix socket of VPP's API under asyncio: bytes between the kernel and a ``Channel``, and the clock of its calls.

Requests of one turn of the event loop leave in one write (VPP reads 4 KB at a time and runs all whole messages that
it has at once); what VPP sends is read into one buffer and split in C. Reading never waits for writing: VPP blocks
for good on a client that does not read. One timer serves all deadlines.
In: bytes and time. Out: ``Channel`` completes futures; ``on_lost(reason)`` is called once when the socket is gone.
Next: ``contiv.vpp.client``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from contiv._fastpath.channel import Channel
from contiv._fastpath.errors import DecodeError
from contiv.vpp.errors import VppDisconnected, VppTimeout

# a burst of requests is handed to the kernel in pieces of this size instead of waiting for the end of the turn
EAGER_BYTES: Final = 1 << 16
# bytes that may wait for a VPP that does not read, before calls are refused
MAX_OUTGOING: Final = 1 << 26
# bytes that asyncio keeps for the kernel before it asks for a pause
HIGH_WATER: Final = 1 << 20
# pieces in which bulk is handed over
BULK_BYTES: Final = 1 << 18


class SocketProtocol(asyncio.BufferedProtocol):
    """One connection. ``channel`` is set by whoever makes calls; bytes before that are an error of the peer."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self.channel: Channel | None = None
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._reason = "VPP closed the connection"
        self._flush_planned = False
        self._paused = False
        self._resumed = asyncio.Event()
        self._bulk = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    # -- asyncio's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio reads to."""
        assert self.channel is not None
        return self.channel.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` more stand in the buffer."""
        assert self.channel is not None
        try:
            self.channel.received_bytes(nbytes)
        except DecodeError as error:
            self.abort(f"VPP sent what is no message: {error}")

    def eof_received(self) -> bool:
        """VPP closed its side: so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._reason = f"connection to VPP lost: {exc}"
        self._finish()

    def pause_writing(self) -> None:
        """asyncio: the kernel takes no more for now."""
        self._paused = True
        self._resumed.clear()

    def resume_writing(self) -> None:
        """asyncio: the kernel takes bytes again."""
        self._paused = False
        self._resumed.set()
        self.flush()

    # -- the caller's side ------------------------------------------------------------------------------------------

    @property
    def overloaded(self) -> bool:
        """Whether VPP has left so many bytes unread that no more may be queued."""
        return self.channel is not None and self.channel.outgoing >= MAX_OUTGOING

    def requested(self) -> None:
        """The channel has new requests: see that they leave, and that their deadlines are watched."""
        channel = self.channel
        assert channel is not None
        if channel.outgoing >= EAGER_BYTES:
            self.flush()
        elif not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush_turn)
        if channel.next_deadline < self._timer_at:
            self._arm(channel.next_deadline)

    def _flush_turn(self) -> None:
        self._flush_planned = False
        self.flush()

    def flush(self) -> None:
        """Hand what waits to the kernel, as far as it takes it."""
        if self.channel is None or self._transport is None or self._paused or self._bulk.locked():
            return
        if self.channel.outgoing:
            self._transport.write(self.channel.take())

    async def write_bulk(self, data: memoryview) -> None:
        """Write whole frames piece by piece as VPP reads them; requests made meanwhile follow behind."""
        self.flush()
        async with self._bulk:
            for start in range(0, len(data), BULK_BYTES):
                while self._paused and self._transport is not None:
                    await self._resumed.wait()
                if self._transport is None:
                    return  # whoever waits for the answers has been told
                self._transport.write(data[start : start + BULK_BYTES])
        self.flush()

    def abort(self, reason: str) -> None:
        """Give the connection up at once; ``on_lost`` follows with ``reason``."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Write what waits, then close."""
        self._reason = "connection closed"
        self.flush()
        if self._transport is not None:
            self._transport.close()

    # -- deadlines and the end --------------------------------------------------------------------------------------

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, when
        if when != float("inf"):
            self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        if self.channel is not None:
            self._arm(self.channel.expire(self._loop.time(), VppTimeout))

    def _finish(self) -> None:
        self._transport = None
        self._resumed.set()
        self._arm(float("inf"))
        if self.channel is not None:
            reason = self._reason
            self.channel.fail_all(lambda name: VppDisconnected(f"{name}: {reason}"))
        self._on_lost(self._reason)
