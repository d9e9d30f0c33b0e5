"""The agent killed again and again under churn: nothing is lost, nothing is given twice. ``make test-slow``."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from contiv.demo.api import Object
from tests.e2e.conftest import Build
from tests.e2e.world import AGENT, World, eventually, pod

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(2400)]

KILLS = int(os.environ.get("CONTIV_KILLS", "200"))
AT_MOST_S = 2.5
"""A kill comes this long after the agent before was seen, at most: before, while and after it gets ready."""
PERIOD_S = 0.01
CHURNING = 6
PAUSE_S = 0.2
ROLE, STREAMS = "role", "streams"


async def test_an_agent_killed_again_and_again_cuts_no_connection_and_leaves_the_state_exact(build: Build) -> None:
    async with build(2) as world:
        near = [await world.create_pod(f"near-{number}", node=1) for number in (1, 2)]
        far = await world.create_pod("far", node=2)
        await world.kubectl("label", "pod", "near-1", "near-2", "far", f"{ROLE}={STREAMS}")
        await world.settled()
        before = await world.held(1)
        stop = asyncio.Event()
        pairs = [(near[0], near[1]), (near[0], far), (far, near[1])]
        async with world.steady_streams(pairs, period_s=PERIOD_S) as finish, asyncio.TaskGroup() as group:
            churning = group.create_task(churn(world, stop))
            await kill(world, random.Random(7))
            stop.set()
            made = await churning
            streams = await finish()
        print(f"{KILLS} kills, {made} pods came and went; {streams}")
        assert streams.broken == {}
        assert streams.unanswered == {}
        await world.settled()
        assert (await world.rest_when_back(1, "diff"))["operations"] == []
        after = await world.held(1)
        assert (after.interfaces, after.routes, after.neighbours) == (
            before.interfaces,
            before.routes,
            before.neighbours,
        )
        await world.assert_mesh([*near, far])


async def kill(world: World, dice: random.Random) -> None:
    """SIGKILL for each agent that init starts, at a random moment of its life."""
    for _ in range(KILLS):
        await eventually(lambda: _has_agent(world), "init starts another agent")
        await asyncio.sleep(dice.uniform(0.0, AT_MOST_S))
        for pid, command in world.children_of(1).items():
            if AGENT in command:
                os.kill(pid, signal.SIGKILL)


async def _has_agent(world: World) -> bool:
    return world.has_agent(1)


async def churn(world: World, stop: asyncio.Event) -> int:
    """Pods and policies come and go meanwhile, no two pods with one address; how many pods. Nobody waits for them."""
    made, round_ = 0, 0
    present: list[str] = []
    while not stop.is_set():
        round_ += 1
        await world.cluster.create(policy(round_))
        await world.kubectl("delete", "networkpolicy", f"policy-{round_ - 1}", "--ignore-not-found", "--wait=false")
        if len(present) < CHURNING:
            made += 1
            present.append(f"churn-{made}")
            await world.cluster.create(pod(present[-1], node=1))
        else:
            await world.kubectl("delete", "pod", present.pop(0), "--wait=false")
        known = (await world.pods()).values()
        addresses = [thing["status"]["podIP"] for thing in known if thing["status"].get("podIP")]
        assert len(set(addresses)) == len(addresses), addresses
        await asyncio.sleep(PAUSE_S)
    await world.running({f"default/{name}" for name in present})
    await world.kubectl("delete", "pod", *present, "--wait=true")
    await world.kubectl("delete", "networkpolicy", "--all")
    return made


def policy(number: int) -> Object:
    """Even ones let the streams pass and nothing else, odd ones close the pods that come and go."""
    peers = [{"podSelector": {"matchLabels": {ROLE: STREAMS}}}]
    selector: Object = {"matchLabels": {ROLE: STREAMS}}
    if number % 2:
        selector = {"matchExpressions": [{"key": ROLE, "operator": "DoesNotExist"}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": "default"},
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers}],
            "egress": [{"to": peers}],
        },
    }
