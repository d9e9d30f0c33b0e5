"""One TCP connection that says a number every few milliseconds and hears it back: how long was it ever silent?

As a program: ``session.py serve ADDRESS PORT`` or ``session.py talk ADDRESS PORT``; the latter prints a line for each
answer, with the time. ``Session`` runs both in their namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
import time
from pathlib import Path

EVERY_S = 0.02
START_S = 15.0


def serve(address: str, port: int) -> None:
    listener = socket.create_server((address, port))
    print("listening", flush=True)
    connection, _ = listener.accept()
    while data := connection.recv(4096):
        connection.sendall(data)


def talk(address: str, port: int) -> None:
    connection = socket.create_connection((address, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = connection.makefile("rb")
    number = 0
    while True:
        connection.sendall(b"%d\n" % number)
        if int(lines.readline()) != number:
            sys.exit("the answer is to another question")
        print(f"{time.monotonic():.4f}", flush=True)
        number += 1
        time.sleep(EVERY_S)


class Session:
    """Between two namespaces; an async context manager."""

    def __init__(self, client: str, server: str, address: str, *, port: int = 7100) -> None:
        self._client = client
        self._server = server
        self._target = (address, str(port))
        self._children: list[asyncio.subprocess.Process] = []
        self._times: list[float] = []
        self._heard = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Session:
        server = await self._run(self._server, "serve")
        assert server.stdout is not None
        async with asyncio.timeout(START_S):
            assert await server.stdout.readline() == b"listening\n"
        self._reader = asyncio.create_task(self._read(await self._run(self._client, "talk")))
        await self.goes_on(timeout_s=START_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def goes_on(self, *, timeout_s: float) -> None:
        """Wait for answers that come after this moment; AssertionError when the connection broke or none came."""
        asked = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while not self._times or self._times[-1] < asked + 2 * EVERY_S:
                assert self._reader is None or not self._reader.done(), "the connection broke"
                self._heard.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._heard.wait(), 0.2)

    def longest_silence_s(self, *, since: float = 0.0) -> float:
        """The longest time between two answers after the moment ``since`` (``time.monotonic``)."""
        times = [each for each in self._times if each >= since - 2 * EVERY_S]
        return max((after - before for before, after in itertools.pairwise(times)), default=float("inf"))

    async def _read(self, talker: asyncio.subprocess.Process) -> None:
        assert talker.stdout is not None
        while line := await talker.stdout.readline():
            self._times.append(float(line))
            self._heard.set()

    async def _run(self, namespace: str, verb: str) -> asyncio.subprocess.Process:
        from contiv.linux import netns

        argv = [sys.executable, str(Path(__file__)), verb, *self._target]
        child = await asyncio.create_subprocess_exec(
            *netns.command_in(namespace, argv, die_with_parent=True), stdout=asyncio.subprocess.PIPE
        )
        self._children.append(child)
        return child


if __name__ == "__main__":
    {"serve": serve, "talk": talk}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
