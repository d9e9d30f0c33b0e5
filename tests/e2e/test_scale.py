"""A node full of pods, and a runtime in a hurry. Minutes long: ``make test-slow``."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from contiv.demo.api import Object
from contiv.errors import VppError
from tests.e2e.conftest import Build
from tests.e2e.runtime import Node, names
from tests.e2e.world import World, eventually, pod

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

PODS = 110
"""kubelet's own default of maxPods."""
PERIOD_S = 5.0
"""Every pod pings every other once in this time: 2,398 pings a second."""
MINUTE_S = 60.0
ANSWER_S = 2.0
BURST, BURSTS = 50, 20
FULL, CLOSED, APPS = 100, 20, 10
SERVICES, POLICIES = 200, 50


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


async def test_a_killed_data_plane_comes_back_with_a_full_node_and_its_policies_hold_at_once(build: Build) -> None:
    async with build(1) as world:
        things = [pod(f"pod-{number}", node=1) for number in range(FULL)]
        for number, thing in enumerate(things):
            thing["metadata"]["labels"] = {"app": f"app-{number % APPS}", "closed": str(number < CLOSED).lower()}
        running = await world.create_pods(things)
        pods = [running[f"default/pod-{number}"] for number in range(FULL)]
        await asyncio.gather(*(world.cluster.create(service(number)) for number in range(SERVICES)))
        await asyncio.gather(*(world.cluster.create(policy(number)) for number in range(POLICIES)))
        await asyncio.gather(*(world.cluster.create(slice_of(number, pods)) for number in range(SERVICES)))
        closed, opened = pods[:CLOSED], pods[CLOSED:]
        await eventually(lambda: programmed(world), "policies and services are in VPP", timeout_s=60)
        await world.settled()
        forbidden = [(opened[0], closed)]
        async with world.steady_pings(forbidden, period_s=0.5) as finish:
            killed = world.dataplane_pid(1)
            os.kill(killed, signal.SIGKILL)
            began = time.monotonic()

            async def back() -> bool:
                if killed in world.children_of(1) or not world.has_dataplane(1):
                    return False
                try:
                    async with asyncio.timeout(1), world.vpp(1) as api:
                        await api.call("show_version")
                except (VppError, OSError, TimeoutError):
                    return False
                return True

            await eventually(back, "another data plane answers")
            up = time.monotonic()
            for target in opened[1:]:
                await world.first_reply(opened[0], target, timeout_s=60)
            served = time.monotonic()
            await world.settled()
            pings = await finish()
        print(
            f"{FULL} pods, {SERVICES} services, {POLICIES} policies: data plane back after {up - began:.2f} s, "
            f"every pod answers {served - up:.2f} s later; {pings.sent} forbidden pings, "
            f"{pings.sent - sum(pings.lost.values())} answered"
        )
        assert sum(pings.lost.values()) == pings.sent, "a forbidden ping was answered"
        assert (await world.rest(1, "diff"))["operations"] == []


async def programmed(world: World) -> bool:
    """Whether VPP holds a mapping for each service, and lists on each closed pod."""
    async with world.vpp(1) as api:
        mappings = {int(each.external_port) for each in await api.dump("nat44_lb_static_mapping")}
        mappings |= {int(each.external_port) for each in await api.dump("nat44_static_mapping")}
        lists = [each for each in await api.dump("acl_interface_list", sw_if_index=0xFFFFFFFF) if each.count]
    return len(mappings & set(range(1000, 1000 + SERVICES))) == SERVICES and len(lists) >= CLOSED


def service(number: int) -> Object:
    """A service without selector on a port of its own."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"service-{number}", "namespace": "default"},
        "spec": {"ports": [{"name": "main", "port": 1000 + number, "targetPort": 80}]},
    }


def slice_of(number: int, pods: list[Object]) -> Object:
    """Five of the pods behind it."""
    chosen = [pods[(number * 5 + place) % len(pods)] for place in range(5)]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"service-{number}-a",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"service-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "main", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [thing["status"]["podIP"]], "nodeName": "node-1"} for thing in chosen],
    }


def policy(number: int) -> Object:
    """Closed pods let in one app each; nobody's pings, since it names a port."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"closed": "true"}},
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": {"app": f"app-{number % APPS}"}}}],
                    "ports": [{"protocol": "TCP", "port": 8000 + number}],
                }
            ],
        },
    }
