"""Health check ports over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from contiv.service.health import HealthServers
from contiv.service.state import HealthCheck


@pytest.fixture
async def servers() -> AsyncIterator[HealthServers]:
    """Servers on loopback, closed in the end."""
    made = HealthServers("127.0.0.1")
    yield made
    await made.close()


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(number: int) -> tuple[int, object]:
    """Status and body."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{number}/healthz") as answer:
        return answer.status, await answer.json()


async def test_a_node_with_endpoints_is_healthy_and_one_without_is_not(servers: HealthServers) -> None:
    number = free_port()
    await servers.apply({number: HealthCheck("shop/web", 2)})
    body = {"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": True}
    assert await ask(number) == (200, body)
    await servers.apply({number: HealthCheck("shop/web", 0)})
    assert await ask(number) == (503, body | {"localEndpoints": 0})


async def test_ports_open_and_close_with_their_services(servers: HealthServers) -> None:
    one, two = free_port(), free_port()
    await servers.apply({one: HealthCheck("a/a", 1)})
    await servers.apply({two: HealthCheck("b/b", 1)})
    assert servers.ports == {two}
    assert (await ask(two))[0] == 200
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(one)


async def test_a_port_in_use_fails_alone_and_is_tried_again(servers: HealthServers) -> None:
    other = free_port()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        checks = {taken: HealthCheck("a/a", 1), other: HealthCheck("b/b", 1)}
        await servers.apply(checks)
        assert servers.ports == {other}
        assert (await ask(other))[0] == 200
    await servers.apply(checks)
    assert (await ask(taken))[0] == 200
