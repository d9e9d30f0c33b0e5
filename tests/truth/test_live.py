"""Policies while things happen: open connections under changes, the agent killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.e2e.world import NO_INDEX, eventually
from tests.truth.cases import CASES, Case
from tests.truth.player import Player

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

DATAPLANES = [("emulator", "nat44"), pytest.param("vpp", "nat44", marks=[pytest.mark.vpp, pytest.mark.slow])]
on_each = pytest.mark.parametrize(("dataplane", "services"), DATAPLANES, scope="module")

PORT = 7000
HEARD_S = 3.0
TRAFFIC = [("TCP", 80), ("UDP", 81), ("ICMP", None)]


def state(name: str, **policies: dict[str, Any]) -> Case:
    """A case that no oracle is asked about: policies by ``namespace_name``."""
    specs = {key.replace("_", "/", 1): spec for key, spec in policies.items()}
    return Case(name, name, 12, pins=(), policies=specs, relabel={}, pods={}, by="api", packets="")


def peer(**labels: str) -> dict[str, Any]:
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": labels}}


def isolated(peers: list[dict[str, Any]], ports: list[int]) -> dict[str, Any]:
    """A policy for all pods of a namespace, both ways alike."""
    allowed = [{"port": port} for port in ports]
    return {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers, "ports": allowed}],
        "egress": [{"to": peers, "ports": allowed}],
    }


# ---- open connections --------------------------------------------------------------------------------------


class Line:
    """An open TCP connection between two pods."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._ends = {"client": client, "server": server}

    async def says(self, speaker: str) -> bool:
        """Whether the other end hears it."""
        listener = self._ends["server" if speaker == "client" else "client"]
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._ends[speaker], b"hello")
        try:
            async with asyncio.timeout(HEARD_S):
                return await loop.sock_recv(listener, 64) == b"hello"
        except TimeoutError:
            return False


@asynccontextmanager
async def connected(player: Player, client: str, server: str) -> AsyncIterator[Line]:
    """A connection from pod to pod on ``PORT``."""
    workers = player.world.cluster.workers
    (here, _), (there, address) = player.place(client), player.place(server)
    listener = await workers.inside(there, lambda: socket.create_server((address, PORT)))
    with listener:
        near = await workers.inside(here, lambda: socket.create_connection((address, PORT), timeout=HEARD_S))
        far, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield Line(near, far)


@on_each
@pytest.mark.parametrize(("client", "server"), [("y/a", "x/a"), ("x/c", "x/a")], ids=["across nodes", "on one node"])
async def test_changes_that_still_allow_a_connection_do_not_cut_it(player: Player, client: str, server: str) -> None:
    first = {
        "x_guard": isolated([peer(tier="front"), peer(tier="back")], [PORT]),
        "y_guard": isolated([peer()], [PORT]),
    }
    await player.become(state("open", **first))
    changes = {
        "a policy of others": {**first, "z_deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}},
        "another port on both sides": {
            "x_guard": isolated([peer(tier="front"), peer(tier="back")], [PORT, 80]),
            "y_guard": isolated([peer()], [PORT, 81]),
        },
        "other peers, the same pods among them": {
            "x_guard": isolated([peer(app="web"), peer(app="cache")], [PORT]),
            "y_guard": isolated([peer(app="web")], [PORT]),
        },
    }
    async with connected(player, client, server) as line:
        assert await line.says("client")
        for name, policies in changes.items():
            await player.become(state(name, **policies))
            assert await line.says("server"), f"{name}: the server cannot answer"
            assert await line.says("client"), f"{name}: the client cannot go on"
    await player.become(state("closed", x_guard=isolated([peer(app="nobody")], [PORT])))
    with pytest.raises(TimeoutError):
        async with connected(player, client, server):
            pass


# ---- what is left ------------------------------------------------------------------------------------------


@on_each
async def test_without_policies_the_data_plane_holds_no_access_list(player: Player) -> None:
    await player.become(state("some", x_deny={"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))
    assert all([await access_lists(player, number) for number in (1, 2)])
    await player.become(state("none"))
    assert not any([await access_lists(player, number) for number in (1, 2)])


async def access_lists(player: Player, number: int) -> list[object]:
    """The access lists of a node's data plane, and the interfaces that have some."""
    async with player.world.vpp(number) as api:
        lists = await api.dump("acl", acl_index=NO_INDEX)
        bound = await api.dump("acl_interface_list", sw_if_index=NO_INDEX)
    return [*lists, *(each for each in bound if each.count)]


# ---- an agent that dies ------------------------------------------------------------------------------------


@on_each
async def test_policies_hold_while_an_agent_is_killed_and_comes_back(player: Player) -> None:
    case = next(case for case in CASES if case.name == "both sides allow each other by name")
    assert not await player.play(case, TRAFFIC)
    for number in (1, 2):
        before = player.world.agent_pid(number)
        os.kill(before, signal.SIGKILL)
        back = asyncio.create_task(eventually(lambda n=number: synced(player, n), "the agent is back"))  # type: ignore[misc]
        rounds = 0
        while not back.done():
            assert not await player.compare(case, TRAFFIC), f"round {rounds} without the agent of node {number}"
            rounds += 1
        await back
        assert rounds > 0
        assert player.world.agent_pid(number) != before
        assert not await player.compare(case, TRAFFIC)


async def synced(player: Player, number: int) -> bool:
    """Whether the node's agent answers and has nothing left to do."""
    if not player.world.has_agent(number):
        return False
    try:
        status = await player.world.rest(number, "status")
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
    return bool(status["synced"]) and not status["unsettled"]
