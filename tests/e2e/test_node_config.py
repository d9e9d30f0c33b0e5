"""A node's configuration as a custom resource: kubectl changes it, the cluster follows; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from typing import Any

import pytest

from contiv.demo import probe
from contiv.demo.api import Object
from contiv.linux import links
from contiv.linux.netlink import Conversation
from contiv.model import keys
from tests.e2e.conftest import Build
from tests.e2e.test_nics import status_follows, tunnels_follow, uplinks
from tests.e2e.world import AGENT, World, address, eventually

pytestmark = pytest.mark.root

MOVED = "192.168.16.77/24"
PERIOD_S = 0.05
EXTRA = "extra"
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
            await says(world, 2, "Success", "applied")
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
            await apply(world, resource(2, mainVPPInterface={"ip": before["node-1"]}))
            await says(world, 2, "Failure", "the address of node-1 too", "stays in force")
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

            try:
                await restarted(world, 2, former)
                status = await world.rest_when_back(2, "status")
                assert status["node"]["uplink"] == MOVED
                await world.settled()
            finally:
                os.kill(world.etcd_pid(), signal.SIGCONT)
            assert (await uplinks(world))["node-2"] == MOVED
        await world.assert_mesh(pods)


async def problem(world: World, node: int) -> str:
    """What the agent says of its configuration; empty when nothing is wrong."""
    told = (await world.rest_when_back(node, "status"))["problems"]
    return str(told.get("nodeConfig", ""))


async def complains(world: World, node: int, words: str) -> None:
    """Wait until the agent's status says so; "" for no complaint."""

    async def said() -> bool:
        told = await problem(world, node)
        return words in told if words else not told

    await eventually(said, f"the agent of node-{node} says {words!r}")


async def test_other_nics_come_and_go_with_a_new_agent(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        await world.first_reply(*pods)
        await world.settled()
        await world.cluster.workers.inside(world.node(2).netns, add_nic)

        async with world.steady_pings([(pods[0], [pods[1]])], period_s=PERIOD_S) as finish:
            missing = {"interfaceName": "nowhere", "ip": "192.0.2.1/24"}
            await apply(world, resource(2, otherVPPInterfaces=[missing]))
            await complains(world, 2, "there is no such link")
            await says(world, 2, "Failure", "not applied", "nowhere", "name a kernel link", "stays in force")
            former = world.agent_pid(2)
            await apply(world, resource(2, otherVPPInterfaces=[missing | {"interfaceName": EXTRA}]))
            await restarted(world, 2, former)
            await eventually(lambda: holds(world, 2, "contiv:nic1"), "VPP holds the other NIC")
            await complains(world, 2, "")
            await says(world, 2, "Success", "applied")
            former = world.agent_pid(2)
            await world.kubectl("delete", "nodeconfig", "node-2")
            await restarted(world, 2, former)
            await eventually(lambda: lacks(world, 2, "contiv:nic1"), "VPP has given the other NIC up")
            await world.settled()
            steady = await finish()
        assert sum(steady.lost.values()) == 0, steady
        await world.assert_mesh(pods)


def add_nic() -> None:
    """One more NIC in the node's namespace, its far end left open."""
    with Conversation() as conversation:
        conversation.run([links.create_veth(EXTRA, "far", mtu=1500)])


async def restarted(world: World, node: int, former: int) -> None:
    """Wait until another agent runs than ``former``."""

    async def another() -> bool:
        return any(AGENT in command and pid != former for pid, command in world.children_of(node).items())

    await eventually(another, f"another agent of node-{node} runs")


async def holds(world: World, node: int, interface: str) -> bool:
    return interface in (await world.held(node)).interfaces


async def lacks(world: World, node: int, interface: str) -> bool:
    return not await holds(world, node, interface)


async def test_a_stolen_nic_stays_stolen_and_what_else_changes_is_applied(build: Build) -> None:
    async with build(1, nics="one") as world:
        pod = await world.create_pod("pod-1", node=1)
        outside = world.cluster.outside
        assert outside is not None
        await world.cluster.route_outside()
        await world.settled()
        node = str(world.node(1).nic.address)
        await sees(world, pod, node)
        await apply(world, resource(1, natExternalTraffic=False))
        await sees(world, pod, address(pod))
        await world.cluster.workers.inside(world.node(1).netns, add_nic)
        await apply(world, resource(1, mainVPPInterface={"interfaceName": EXTRA}))
        await complains(world, 1, "next start of contiv init")
        await says(world, 1, "Failure", "not applied", "next start of contiv init")
        former = world.agent_pid(1)
        os.kill(former, signal.SIGKILL)
        await restarted(world, 1, former)
        await complains(world, 1, "next start of contiv init")
        await sees(world, pod, address(pod))
        reply = await probe.first_reply(world.cluster.workers, outside.netns, node, timeout_s=10)
        assert reply is not None, "the node has its NIC"
        await world.kubectl("delete", "nodeconfig", "node-1")
        await sees(world, pod, node)
        await complains(world, 1, "")


async def sees(world: World, pod: Object, client: str) -> None:
    """Wait until the world sees the pod call from this address."""
    outside = world.cluster.outside
    assert outside is not None

    def listen() -> socket.socket:
        listener = socket.create_server((outside.address, 7200))
        listener.settimeout(1.0)
        return listener

    listener = await world.cluster.workers.inside(outside.netns, listen)

    def call() -> str:
        try:
            with socket.create_connection((outside.address, 7200), timeout=1.0):
                accepted, (seen, _) = listener.accept()
                accepted.close()
                return str(seen)
        except OSError:
            return ""

    async def called() -> bool:
        return await world.cluster.workers.inside(world.cluster.sandbox_netns(pod), call) == client

    with listener:
        await eventually(called, f"the world sees {client}")
