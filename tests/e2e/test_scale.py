"""A node full of pods, and a runtime in a hurry. Minutes long: ``make test-slow``."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.conftest import Build
from tests.e2e.runtime import Node, names
from tests.e2e.world import World, pod

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

PODS = 110
"""kubelet's own default of maxPods."""
PERIOD_S = 5.0
"""Every pod pings every other once in this time: 2,398 pings a second."""
MINUTE_S = 60.0
ANSWER_S = 2.0
BURST, BURSTS = 50, 20


async def test_110_pods_on_a_node_answer_each_other_for_a_minute(build: Build) -> None:
    async with build(1) as world:
        began = time.monotonic()
        running = await world.create_pods([pod(f"pod-{number}", node=1) for number in range(PODS)])
        took_s = time.monotonic() - began
        pods = list(running.values())
        assert len({thing["status"]["podIP"] for thing in pods}) == PODS
        pairs = [(source, [target for target in pods if target is not source]) for source in pods]
        async with world.steady_pings(pairs, period_s=PERIOD_S) as finish:
            slowest = await answers_for(world, MINUTE_S)
            pings = await finish()
        print(
            f"{PODS} pods ran after {took_s:.1f} s; {pings.sent} pings, {sum(pings.lost.values())} lost, "
            f"sender late by {pings.late_s:.3f} s at most; slowest answers: {slowest}"
        )
        assert pings.sent > PODS * (PODS - 1) * MINUTE_S / PERIOD_S * 0.5, "the machine was too slow for the test"
        assert pings.lost == {}
        assert (await world.rest(1, "diff"))["operations"] == []


async def answers_for(world: World, seconds: float) -> dict[str, float]:
    """Ask agent and VPP once a second; the slowest answer of each, none slower than ``ANSWER_S``."""
    slowest = {"agent": 0.0, "VPP": 0.0}
    deadline = time.monotonic() + seconds
    async with world.vpp(1) as api:
        while (begun := time.monotonic()) < deadline:
            async with asyncio.timeout(ANSWER_S):
                await world.rest(1, "status")
                asked = time.monotonic()
                await api.call("show_version")
            slowest["agent"] = max(slowest["agent"], asked - begun)
            slowest["VPP"] = max(slowest["VPP"], time.monotonic() - asked)
            await asyncio.sleep(max(0.0, begun + 1.0 - time.monotonic()))
    return slowest


async def test_a_thousand_adds_and_dels_in_bursts_leave_no_trace(build: Build) -> None:
    async with build(1) as world:
        node = Node(world)
        await node.attached("stays")
        before = names(await node.state())
        places = [node.make(f"place{number}") for number in range(BURST)]
        times: dict[str, list[float]] = {"ADD": [], "DEL": []}
        for burst in range(BURSTS):
            for command, into in times.items():
                began = time.monotonic()
                outcomes = await asyncio.gather(
                    *(node.call(command, f"c{burst}x{number}", CNI_NETNS=place) for number, place in enumerate(places))
                )
                into.append(time.monotonic() - began)
                failed = [outcome.stdout for outcome in outcomes if outcome.status != 0]
                assert failed == [], f"{command} of burst {burst}"
                if command == "ADD":
                    addresses = {outcome.result["ips"][0]["address"] for outcome in outcomes}
                    assert len(addresses) == BURST
        print({command: f"bursts of {BURST}: {min(t):.2f} to {max(t):.2f} s" for command, t in times.items()})
        assert names(await node.state()) == before
