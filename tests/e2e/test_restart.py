"""Agent and data plane die and come back: the first without anybody noticing, the second with everything restored."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

import pytest

from contiv.demo.api import Object
from tests.e2e.conftest import Build
from tests.e2e.world import Steady, World, address, eventually

pytestmark = pytest.mark.root

INTERVAL_S = 0.01
AFTERWARDS_S = 1.0
STREAM_S = 0.1


async def test_a_killed_agent_comes_back_without_a_lost_packet_and_changes_nothing(build: Build) -> None:
    async with build(2) as world:
        near = [await world.create_pod(f"near-{number}", node=1) for number in (1, 2)]
        far = await world.create_pod("far", node=2)
        await world.settled()
        before = await world.held(1)
        data_plane = world.dataplane_pid(1)

        pairs = [(near[0], [near[1], far]), (far, [near[1]])]
        first, pings = await first_transaction_of_the_next_agent(world, pairs, signal.SIGKILL)
        assert pings.lost == {}
        assert pings.sent > 3 * 2 * AFTERWARDS_S / INTERVAL_S

        assert first["resync"] == "full"
        assert first.get("operations", []) == [], "the plan of the first resync is not empty"
        assert world.dataplane_pid(1) == data_plane
        await world.settled()
        assert await world.held(1) == before, "not the same interfaces, indexes, routes, neighbours"

        third = await world.create_pod("near-3", node=1)
        assert address(third) not in {address(pod) for pod in near}
        await world.assert_mesh([*near, far, third])


async def test_an_agent_told_to_end_leaves_the_data_plane_as_it_is(build: Build) -> None:
    async with build(1) as world:
        pods = [await world.create_pod(f"pod-{number}", node=1) for number in (1, 2)]
        await world.settled()
        before = await world.held(1)
        first, pings = await first_transaction_of_the_next_agent(world, [(pods[0], [pods[1]])], signal.SIGTERM)
        assert pings.lost == {}
        assert first.get("operations", []) == []
        await world.settled()
        assert await world.held(1) == before
        assert "stopping" in (world.node(1).directory / "run" / "log" / "agent.log").read_text()


async def test_a_killed_data_plane_comes_back_with_all_that_it_had(build: Build) -> None:
    async with build(2) as world:
        near = [await world.create_pod(f"near-{number}", node=1) for number in (1, 2)]
        far = await world.create_pod("far", node=2)
        await world.settled()
        before = await world.held(1)
        links = [await link_of(world, pod) for pod in near]
        killed = world.dataplane_pid(1)
        async with world.steady_streams([(near[0], near[1]), (far, near[0])], period_s=STREAM_S) as finish:
            os.kill(killed, signal.SIGKILL)

            async def replaced() -> bool:
                return killed not in world.children_of(1) and world.has_dataplane(1)

            await eventually(replaced, "init starts another data plane")
            for source, target in ((near[0], near[1]), (far, near[0]), (near[1], far)):
                await world.first_reply(source, target)
            await world.settled()
            streams = await finish()
        assert (streams.broken, streams.unanswered) == ({}, {}), "TCP connections go on"
        assert [await link_of(world, pod) for pod in near] == links, "the pods' own interfaces are others"
        await world.assert_mesh([*near, far])
        after = await world.held(1)
        assert after.interfaces.keys() == before.interfaces.keys()
        assert (after.routes, after.up) == (before.routes, before.up)
        assert (await world.rest(1, "diff"))["operations"] == []

        third = await world.create_pod("near-3", node=1)
        await world.assert_mesh([*near, third])
        await world.kubectl("delete", "pod", "near-1", "--wait=true")
        assert (await world.held(1)).mentions(address(near[0])) == []


async def link_of(world: World, pod: Object) -> int:
    """The index of the pod's interface; another one is another interface to whoever has sockets on it."""
    return await world.cluster.workers.inside(world.cluster.sandbox_netns(pod), lambda: socket.if_nametoindex("eth0"))


async def first_transaction_of_the_next_agent(
    world: World, pairs: list[tuple[Object, list[Object]]], number: signal.Signals
) -> tuple[dict[str, Any], Steady]:
    """End node 1's agent while pings run; what its successor did first, and what came of the pings."""
    async with world.steady_pings(pairs, period_s=INTERVAL_S) as finish:
        await asyncio.sleep(AFTERWARDS_S)  # some pings before, some after
        killed = world.agent_pid(1)
        os.kill(killed, number)

        async def replaced() -> bool:
            return killed not in world.children_of(1) and world.has_agent(1)

        await eventually(replaced, "init starts another agent")
        transactions = await world.rest_when_back(1, "transactions")
        await asyncio.sleep(AFTERWARDS_S)
        return transactions[0], await finish()
