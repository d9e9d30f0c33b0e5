"""Is a host reachable? A new TCP connection every few milliseconds, each given up soon: for how long did none succeed?

Unlike a connection that lives on (``session``), whose sender waits ever longer before it tries again, this sees the
moment at which the host is back. As a program: ``reachable.py serve ADDRESS PORT`` or ``reachable.py call ADDRESS
PORT``; the latter prints the time of each connection. ``Reachable`` runs both in their namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
import sys
import time
from pathlib import Path

EVERY_S = 0.05
PATIENCE_S = 0.5
"""Less than the second after which a SYN is sent again (RFC 6298): late is as good as never."""
START_S = 15.0


def serve(address: str, port: int) -> None:
    listener = socket.create_server((address, port), backlog=1024)
    print("listening", flush=True)
    while True:
        listener.accept()[0].close()


def call(address: str, port: int) -> None:
    waiting: dict[socket.socket, float] = {}
    while True:
        begun = time.monotonic()
        calling = socket.socket()
        calling.setblocking(False)
        with contextlib.suppress(BlockingIOError, OSError):
            calling.connect((address, port))
        waiting[calling] = begun + PATIENCE_S
        while (left_s := begun + EVERY_S - time.monotonic()) > 0:
            _, connected, _ = select.select([], list(waiting), [], left_s)
            for each in connected:
                if each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    print(f"{time.monotonic():.4f}", flush=True)
                give_up(waiting, each)
        for each in [each for each, deadline in waiting.items() if deadline < time.monotonic()]:
            give_up(waiting, each)


def give_up(waiting: dict[socket.socket, float], calling: socket.socket) -> None:
    del waiting[calling]
    calling.close()


class Reachable:
    """Whether the namespace ``client`` reaches ``address`` in the namespace ``server``; an async context manager."""

    def __init__(self, client: str, server: str, address: str, *, port: int = 7300) -> None:
        self._client = client
        self._server = server
        self._target = (address, str(port))
        self._children: list[asyncio.subprocess.Process] = []
        self._times: list[float] = []
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reachable:
        server = await self._run(self._server, "serve")
        assert server.stdout is not None
        async with asyncio.timeout(START_S):
            assert await server.stdout.readline() == b"listening\n"
        self._reader = asyncio.create_task(self._read(await self._run(self._client, "call")))
        await self.again(timeout_s=START_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def again(self, *, timeout_s: float) -> None:
        """Wait until a connection succeeds after this moment."""
        asked = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while not self._times or self._times[-1] < asked:
                await asyncio.sleep(EVERY_S)

    def longest_silence_s(self, *, since: float) -> float:
        """The longest time without a connection from the moment ``since`` (``time.monotonic``) until now."""
        times = [since, *(each for each in self._times if each >= since), time.monotonic()]
        return max(after - before for before, after in itertools.pairwise(times))

    async def _read(self, caller: asyncio.subprocess.Process) -> None:
        assert caller.stdout is not None
        while line := await caller.stdout.readline():
            self._times.append(float(line))

    async def _run(self, namespace: str, verb: str) -> asyncio.subprocess.Process:
        from contiv.linux import netns

        argv = [sys.executable, str(Path(__file__)), verb, *self._target]
        child = await asyncio.create_subprocess_exec(
            *netns.command_in(namespace, argv, die_with_parent=True), stdout=asyncio.subprocess.PIPE
        )
        self._children.append(child)
        return child


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
