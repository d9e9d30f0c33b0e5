"""etcd away, emptied, or a node's disk lost: pods run on, come and go, and afterwards nobody shares an address."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from typing import Any

import pytest

from contiv.demo import probe
from contiv.demo.api import Object, key_of
from contiv.model import keys
from tests.e2e.conftest import Build
from tests.e2e.world import AGENT, World, address, eventually

pytestmark = pytest.mark.root

KSR_BACK_S = 30.0
"""A KSR whose etcd is empty leads anew when its lease would have ended, and lists."""
MIRROR = "state/mirror.db"


async def ids(world: World) -> dict[str, int]:
    """The node IDs as the agents run with them."""
    status = [await world.rest_when_back(node.number, "status") for node in world.cluster.nodes]
    return {each["node"]["name"]: each["node"]["id"] for each in status}


async def agree(world: World, pods: list[Object]) -> bool:
    """Whether etcd has exactly these pods' attachments, and no address twice."""
    stored = {key: value for key, value in (await world.etcd(keys.VSWITCH)).items() if "/pods/" in key}
    found = [thing for thing in pods for value in stored.values() if f'"{address(thing)}"'.encode() in value]
    return len(found) == len(pods) == len(stored)


async def restart_agent(world: World, number: int) -> Any:
    """SIGKILL; the status of the next one, which init starts."""
    before = world.agent_pid(number)
    os.kill(before, signal.SIGKILL)

    async def another() -> bool:
        commands = world.children_of(number).items()
        return any(AGENT in command and pid != before for pid, command in commands)

    await eventually(another, "init starts another agent")
    return await world.rest_when_back(number, "status")


GUARDED = """
apiVersion: v1
kind: Namespace
metadata: {name: guarded}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some-pods, namespace: guarded}
spec:
  podSelector: {matchLabels: {app: nobody}}
  policyTypes: [Ingress, Egress]
"""
"""A namespace with a policy, which selects none of the test's pods; but only their objects tell."""


@pytest.mark.parametrize("away_s", [0, pytest.param(120, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
async def test_pods_come_and_go_while_etcd_is_away(build: Build, away_s: int) -> None:
    """Without etcd nobody can say which labels a new pod has: where its namespace has no policy it talks at once, where
    it has one the pod is isolated until it is known."""
    async with build(2) as world:
        stays = [await world.create_pod(f"stays-{number}", node=number) for number in (1, 2)]
        await world.create_pod("goes", node=1)
        await world.kubectl("apply", "-f", "-", stdin=GUARDED)
        await eventually(lambda: knows_policies(world, 1), "the agents know the policy")
        server = world.cluster.etcd_server
        await server.kill()
        comes = [await world.create_pod(f"comes-{number}", node=number) for number in (1, 2)]
        for new in comes:  # the agents take etcd for gone after a second
            await world.first_reply(new, stays[0] if new is comes[1] else stays[1])
        await world.kubectl("delete", "pod", "goes", "--wait=true")
        await world.assert_mesh([*stays, *comes])
        shut = await world.create_pod("shut", node=1, namespace="guarded")
        await isolated(world, shut, stays)
        status = await world.rest(1, "status")
        assert "not written yet" in status["problems"]["etcd"]
        assert "open, its object not known and no policy in its namespace: default/comes-1" in told(status)
        assert "isolated, its object not known yet: guarded/shut" in told(status)

        end = time.monotonic() + away_s
        while time.monotonic() < end:
            flits = await world.create_pod("flits", node=2)
            await world.first_reply(flits, stays[0])
            await world.kubectl("delete", "pod", "flits", "--wait=true")

        await restart_agent(world, 1)  # it knows its ID and its pods from the mirror
        await world.assert_mesh([*stays, *comes])
        comes.append(await world.create_pod("later", node=1))
        await world.first_reply(comes[-1], stays[1])
        await world.assert_mesh([*stays, *comes])
        await isolated(world, shut, stays)

        pods = [*stays, *comes]
        async with world.steady_pings([(comes[0], [stays[1]]), (comes[1], [stays[0]])], period_s=0.02) as finish:
            await server.start()
            everyone = [*pods, shut]
            await eventually(lambda: agree(world, everyone), "etcd has the attachments", timeout_s=KSR_BACK_S)
            await eventually(world.mirrors_kubernetes, "etcd equals the API server", timeout_s=KSR_BACK_S)
            await world.first_reply(shut, stays[1])
            steady = await finish()
        assert sum(steady.lost.values()) == 0, steady
        await eventually(lambda: quiet(world), "the agents have no problem left")
        await world.assert_mesh(everyone)


def told(status: Any) -> str:
    """What an agent says of policies."""
    return str(status["problems"].get("policies", ""))


async def quiet(world: World) -> bool:
    """Whether no agent has anything to complain of."""
    return not any([(await world.rest(node.number, "status"))["problems"] for node in world.cluster.nodes])


async def knows_policies(world: World, count: int) -> bool:
    """Whether every agent knows so many."""
    return all([(await world.rest(node.number, "policies"))["policies"] == count for node in world.cluster.nodes])


async def isolated(world: World, pod: Object, others: list[Object]) -> None:
    """No ping gets through, in either direction, and the pod's own node does reach it."""
    pairs = [*((pod, other) for other in others), *((other, pod) for other in others)]
    answers = await asyncio.gather(*(world.ping(source, target, count=2) for source, target in pairs))
    for (source, target), pings in zip(pairs, answers, strict=True):
        assert not pings.times_s, f"{key_of(source)} to {key_of(target)}"
    node = world.node(int(pod["spec"]["nodeName"].removeprefix("node-")))
    reply = await probe.first_reply(world.cluster.workers, node.netns, address(pod), timeout_s=10.0)
    assert reply is not None, f"{key_of(pod)}: its own node always reaches it"


async def test_an_emptied_etcd_costs_no_packet_and_no_two_nodes_share_a_subnet(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}-{node}", node=node) for node in (1, 2) for number in (1, 2)]
        before = await ids(world)
        pairs = [(pods[0], [pods[1], pods[2]]), (pods[3], [pods[1], pods[2]])]
        async with world.steady_pings(pairs, period_s=0.02) as finish:
            await world.cluster.etcd_server.wipe()
            await eventually(world.mirrors_kubernetes, "KSR has filled etcd again", timeout_s=KSR_BACK_S)
            await eventually(lambda: agree(world, pods), "etcd has the attachments", timeout_s=KSR_BACK_S)

            async def claimed() -> bool:
                return len(await world.etcd(keys.NODE_IDS)) == len(before)

            await eventually(claimed, "the nodes have claimed their IDs", timeout_s=KSR_BACK_S)
            steady = await finish()
        assert sum(steady.lost.values()) == 0, steady
        assert await ids(world) == before
        later = [await world.create_pod(f"later-{node}", node=node) for node in (1, 2)]
        assert len({address(thing) for thing in [*pods, *later]}) == len(pods) + len(later)
        await world.assert_mesh([*pods, *later])


async def test_a_node_whose_disk_is_lost_comes_up_from_etcd(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        before = await ids(world)
        await asyncio.to_thread(shutil.rmtree, world.node(1).directory / "state")
        await restart_agent(world, 1)
        assert await ids(world) == before
        await world.assert_mesh(pods)
        pods.append(await world.create_pod("later", node=1))
        await world.assert_mesh(pods)
        assert (world.node(1).directory / MIRROR).exists()


async def test_an_unreadable_mirror_is_set_aside_and_said(build: Build) -> None:
    async with build(1) as world:
        pods = [await world.create_pod(f"pod-{number}", node=1) for number in (1, 2)]
        mirror = world.node(1).directory / MIRROR
        os.kill(world.agent_pid(1), signal.SIGSTOP)
        for part in mirror.parent.glob(f"{mirror.name}*"):  # with its write-ahead log
            part.write_bytes(b"rubbish" * 1000)
        status = await restart_agent(world, 1)
        assert "unreadable" in status["problems"]["former mirror"]
        assert list(mirror.parent.glob("mirror.db.unreadable-*"))
        await world.assert_mesh(pods)
