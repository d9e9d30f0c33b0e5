"""Is a host reachable? One connection that lives on and speaks, or a new one every few milliseconds.

``Session`` is one TCP connection that says a number and hears it back: how long was it ever silent? Its sender waits
ever longer before it tries again, so the moment at which a host is back is ``Reachable``'s to see, by new connections
that are each given up soon. Both run this file as a program in their namespaces: ``session.py VERB ADDRESS PORT``; the
client prints the time of each answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

EVERY_S = 0.02
CALL_EVERY_S = 0.05
PATIENCE_S = 0.5
"""Less than the second after which a SYN is sent again (RFC 6298): late is as good as never."""
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


def accept(address: str, port: int) -> None:
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
        while (left_s := begun + CALL_EVERY_S - time.monotonic()) > 0:
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


class _Ends(ABC):
    """A server and a client, each in its namespace; an async context manager."""

    VERBS: ClassVar[tuple[str, str]]
    """What this program is told to do as the server and as the client."""
    PORT: ClassVar[int]

    def __init__(self, client: str, server: str, address: str, *, port: int = 0) -> None:
        self._client = client
        self._server = server
        self._target = (address, str(port or self.PORT))
        self._children: list[asyncio.subprocess.Process] = []
        self._times: list[float] = []
        self._heard = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        serve_, speak = self.VERBS
        server = await self._run(self._server, serve_)
        assert server.stdout is not None
        async with asyncio.timeout(START_S):
            assert await server.stdout.readline() == b"listening\n"
        self._reader = asyncio.create_task(self._read(await self._run(self._client, speak)))
        await self.started()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    @abstractmethod
    async def started(self) -> None:
        """Wait for the first answer."""

    async def _read(self, speaker: asyncio.subprocess.Process) -> None:
        assert speaker.stdout is not None
        while line := await speaker.stdout.readline():
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


class Session(_Ends):
    """One connection between two namespaces."""

    VERBS = ("serve", "talk")
    PORT = 7100

    async def started(self) -> None:
        await self.goes_on(timeout_s=START_S)

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


class Reachable(_Ends):
    """Whether the namespace ``client`` reaches ``address`` in the namespace ``server`` by new connections."""

    VERBS = ("accept", "call")
    PORT = 7300

    async def started(self) -> None:
        await self.again(timeout_s=START_S)

    async def again(self, *, timeout_s: float) -> None:
        """Wait until a connection succeeds after this moment."""
        asked = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while not self._times or self._times[-1] < asked:
                await asyncio.sleep(CALL_EVERY_S)

    def longest_silence_s(self, *, since: float) -> float:
        """The longest time without a connection from the moment ``since`` (``time.monotonic``) until now."""
        times = [since, *(each for each in self._times if each >= since), time.monotonic()]
        return max(after - before for before, after in itertools.pairwise(times))


if __name__ == "__main__":
    verbs = {"serve": serve, "talk": talk, "accept": accept, "call": call}
    verbs[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
