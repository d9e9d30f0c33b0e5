"""A node's configuration as a custom resource: kubectl changes it, the cluster follows; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from contiv.demo import probe
from contiv.demo.api import Object
from contiv.model import keys
from tests.e2e.conftest import Build
from tests.e2e.test_nics import status_follows, tunnels_follow, uplinks
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

MOVED = "192.168.16.77/24"
PERIOD_S = 0.05
GAP_MAX = 20
"""Replies that may be lost while an address moves: one second."""


def resource(node: int, **spec: Any) -> Object:
    """A NodeConfig for a node."""
    return {
        "apiVersion": "nodeconfig.contiv.vpp/v1",
        "kind": "NodeConfig",
        "metadata": {"name": f"node-{node}"},
        "spec": spec,
    }


async def apply(world: World, thing: Object) -> None:
    await world.kubectl("apply", "-f", "-", stdin=json.dumps(thing))


async def says(world: World, node: int, state: str, *words: str) -> None:
    """Wait until the resource's status says so."""

    async def said() -> bool:
        found = json.loads(await world.kubectl("get", "nodeconfig", f"node-{node}", "-o", "json"))
        status = found.get("status") or {}
        return status.get("state") == state and all(word in status["message"] for word in words)

    await eventually(said, f"node-{node} is {state}: {words}")


async def has(world: World, node: int, uplink: str) -> None:
    """Wait until the node's claim shows the address, the tunnels lead there and its status tells it."""

    async def claimed() -> bool:
        return (await uplinks(world))[f"node-{node}"] == uplink

    await eventually(claimed, f"node-{node} is at {uplink}")
    await eventually(lambda: tunnels_follow(world), "the tunnels end at the claimed addresses")
    await eventually(lambda: status_follows(world), "the nodes' status shows the claimed addresses")


async def test_the_address_of_a_running_node_follows_its_resource(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        await world.first_reply(*pods)
        await world.settled()
        agent, before = world.agent_pid(2), await uplinks(world)
        async with world.steady_pings([(pods[0], [pods[1]])], period_s=PERIOD_S) as finish:
            await apply(world, resource(2, mainVPPInterface={"ip": MOVED}))
            await says(world, 2, "Success")
            await has(world, 2, MOVED)
            await world.first_reply(*pods)
            await asyncio.sleep(1)
            moved = await finish()
        assert sum(moved.lost.values()) <= GAP_MAX, moved
        await world.assert_mesh(pods)
        await assert_hosts(world, pods)

        wrong = {"ip": "10.1.7.7/24"}
        async with world.steady_pings([(pods[0], [pods[1]])], period_s=PERIOD_S) as finish:
            await apply(world, resource(2, mainVPPInterface=wrong))
            await says(world, 2, "Failure", "spec.mainVPPInterface.ip", "podSubnetCIDR", "stays in force")
            await apply(world, resource(1, mainVPPInterface={"ip": MOVED}))
            await says(world, 1, "Failure", "the address of node-2 too")
            await asyncio.sleep(1)
            kept = await finish()
        assert sum(kept.lost.values()) == 0, kept
        assert (await uplinks(world))["node-2"] == MOVED
        assert set(await world.etcd(keys.NODE_CONFIGS)) == {keys.node_config("node-2")}

        await world.kubectl("delete", "nodeconfig", "node-1", "node-2")
        await has(world, 2, before["node-2"])
        await world.first_reply(*pods)
        await world.assert_mesh(pods)
        assert await uplinks(world) == before
        assert world.agent_pid(2) == agent, "no agent was restarted for any of it"
        assert not (await world.rest(2, "status"))["problems"].get("nodeConfig")


async def assert_hosts(world: World, pods: list[Object]) -> None:
    """Each host reaches all pods."""
    for node in world.cluster.nodes:
        for pod in pods:
            reply = await probe.first_reply(world.cluster.workers, node.netns, address(pod), timeout_s=10)
            assert reply is not None, f"{node.name} to {address(pod)}"


async def test_an_agent_starts_with_its_resource_with_etcd_and_without(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        await world.first_reply(*pods)
        await world.settled()
        await apply(world, resource(2, mainVPPInterface={"ip": MOVED}))
        await has(world, 2, MOVED)
        for stop_etcd in (False, True):
            if stop_etcd:
                os.kill(world.etcd_pid(), signal.SIGSTOP)
            former = world.agent_pid(2)
            os.kill(former, signal.SIGKILL)

            async def another(former: int = former) -> bool:
                return world.has_agent(2) and world.agent_pid(2) != former

            try:
                await eventually(another, "another agent runs")
                status = await world.rest_when_back(2, "status")
                assert status["node"]["uplink"] == MOVED
                await world.settled()
            finally:
                os.kill(world.etcd_pid(), signal.SIGCONT)
            assert (await uplinks(world))["node-2"] == MOVED
        await world.assert_mesh(pods)
