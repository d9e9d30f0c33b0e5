"""KSR and etcd die and come back: pods are wired meanwhile where they can be, and afterwards everything agrees."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import address, eventually

pytestmark = pytest.mark.root

LEASE_AND_LIST_S = 20.0
"""A killed KSR's leadership ends with its lease; then the next one lists."""


async def test_pods_come_and_go_without_ksr_and_new_ones_are_isolated_until_it_is_back(build: Build) -> None:
    """Nobody knows which policies select a pod that is not reflected, so only its node may reach it."""
    async with build(2) as world:
        stays = await world.create_pod("stays", node=1)
        await world.create_pod("goes", node=2)
        await eventually(world.mirrors_kubernetes, "etcd equals the API server", timeout_s=5)
        await world.stop_ksr()
        comes = await world.create_pod("comes", node=2)
        await world.kubectl("delete", "pod", "goes", "--wait=true")
        await world.kubectl("label", "node", "node-1", "colour=green")
        for source, target in ((stays, comes), (comes, stays)):
            pings = await world.ping(source, target)
            assert pings.lost == pings.sent, "an unknown pod must not speak"
        assert not await world.mirrors_kubernetes(), "nobody reflects"
        await world.start_ksr()
        await eventually(world.mirrors_kubernetes, "etcd equals the API server", timeout_s=LEASE_AND_LIST_S)
        await world.first_reply(comes, stays)
        await world.assert_mesh([stays, comes, await world.create_pod("later", node=1)])


async def test_a_killed_etcd_stops_nothing_and_nothing_is_lost(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        before = [await world.held(number) for number in (1, 2)]
        agents = [world.agent_pid(number) for number in (1, 2)]
        server = world.cluster.etcd_server
        await server.kill()
        await world.assert_mesh(pods)
        await server.start()

        later = [await world.create_pod(f"later-{number}", node=number) for number in (1, 2)]
        await eventually(world.mirrors_kubernetes, "etcd equals the API server", timeout_s=LEASE_AND_LIST_S)
        for each in later:  # isolated until their agents have heard of them too
            await world.first_reply(pods[0], each)
        await world.first_reply(*later)
        await world.assert_mesh([*pods, *later])
        for thing in later:
            await world.kubectl("delete", "pod", thing["metadata"]["name"], "--wait=true")
        assert [world.agent_pid(number) for number in (1, 2)] == agents, "an agent was restarted"
        await world.settled()
        for number in (1, 2):
            held = await world.held(number)
            assert held.mentions(address(later[number - 1])) == []
            assert held.routes == before[number - 1].routes
        await world.assert_mesh(pods)
