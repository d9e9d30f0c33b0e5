"""An etcd for the whole session, and a prefix in it of its own for each test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import pytest
import pytest_asyncio

from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedEtcd]:
    """An etcd that tests may fill but not stop, compact or wipe."""
    async with EmbeddedEtcd(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
async def etcd(shared_etcd: EmbeddedEtcd) -> AsyncIterator[Etcd]:
    """A client of the session's etcd, for the tests that leave it well."""
    async with await Etcd.connect([shared_etcd.endpoint]) as client:
        yield client


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix that no other test uses."""
    return f"/{request.node.nodeid}/"


@pytest.fixture
def tasks_settle() -> Callable[[set[asyncio.Task[Any]]], Awaitable[None]]:
    """Wait until only the given tasks are left; grpc.aio's own need some turns of the loop to end."""

    async def settle(expected: set[asyncio.Task[Any]]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while asyncio.all_tasks() - expected:
                    await asyncio.wait(asyncio.all_tasks() - expected, timeout=0.05)
        assert asyncio.all_tasks() - expected == set()

    return settle


class Wire:
    """A TCP connection to etcd that can be cut and mended: ``endpoint`` stands in for etcd's."""

    def __init__(self, server: EmbeddedEtcd) -> None:
        self.endpoint = ""
        self.connections = 0
        self.mute = asyncio.Event()
        """Set: what etcd answers is withheld, so that a cut leaves the caller in doubt."""
        self._server = server
        self._listener: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Accept connections."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._listener.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"

    async def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        except OSError:
            writer.transport.abort()
            self._pumps.discard(task)
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, to_writer))
                group.create_task(_pump(to_reader, writer, self.mute))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # a broken wire is what this is for; nobody awaits this task
        finally:
            writer.transport.abort()
            to_writer.transport.abort()
            self._pumps.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event | None = None) -> None:
    while data := await reader.read(65536):
        if mute is not None and mute.is_set():
            continue
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError("the other side has closed")


@pytest.fixture
async def wire(server: EmbeddedEtcd) -> AsyncIterator[Wire]:
    """A wire to the test's own etcd."""
    async with Wire(server) as made:
        yield made
