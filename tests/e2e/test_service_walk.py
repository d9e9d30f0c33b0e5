"""What a user does to services with kubectl, step by step, and what he is told of those that cannot be."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

import pytest

from contiv.demo.api import Object
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.services import apply, get, outside, refuses, route_outside, server, serves, service
from tests.e2e.test_drift import netctl
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

WEB = ("web-1", "web-2", "web-3")
EXTERNAL = "203.0.113.7"


async def test_a_service_through_its_life_with_kubectl(build: Build) -> None:
    async with build(2) as world:
        pods = [server(name, node=number % 2 + 1) for number, name in enumerate(WEB)]
        await world.create_pods(pods)
        client = world.cluster.sandbox_netns(await world.create_pod("client", node=1))
        stranger = await outside(world)
        uplinks = [(await world.rest(number, "status"))["node"]["uplink"].partition("/")[0] for number in (1, 2)]
        await apply(world, service("web"))
        vip = await field(world, "web", "{.spec.clusterIP}")
        await answer(world, client, vip, 80)

        await world.kubectl("delete", "pod", *WEB, "--wait=true")
        await refuses(world, client, vip, 80)
        await refuses(world, world.node(2).netns, vip, 80)
        await world.create_pods(pods)
        await answer(world, client, vip, 80)

        await world.kubectl("patch", "service", "web", "-p", json.dumps({"spec": {"type": "NodePort"}}))
        node_port = int(await field(world, "web", "{.spec.ports[0].nodePort}"))
        for uplink in uplinks:
            await answer(world, stranger, uplink, node_port)
        # the hosts have no route to each other's uplinks here: by the addresses of their interconnects
        hosts = [(await get(world, world.node(number).netns, vip, 80)).client for number in (1, 2)]
        await answer(world, world.node(2).netns, hosts[0], node_port)
        await answer(world, world.node(1).netns, hosts[1], node_port)

        await world.kubectl("patch", "service", "web", "-p", json.dumps({"spec": {"type": "ClusterIP"}}))
        await unserved(world, stranger, uplinks[0], node_port)
        await answer(world, client, vip, 80)
        await world.kubectl("delete", "service", "web")
        await unserved(world, client, vip, 80)
        for number in (1, 2):
            async with world.vpp(number) as api:
                mappings = await api.dump("nat44_lb_static_mapping")
            assert [entry.tag for entry in mappings if "default/web" in entry.tag] == []


async def test_what_cannot_be_is_told_and_the_rest_serves(build: Build) -> None:
    async with build(2) as world:
        made = await world.create_pods([server("web-1", node=1)])
        pod = address(made["default/web-1"])
        stranger = await outside(world)
        uplink = (await world.rest(1, "status"))["node"]["uplink"].partition("/")[0]
        await route_outside(world, stranger, f"{EXTERNAL}/32", gateway=uplink)
        await apply(
            world,
            service("a-first", externalIPs=[EXTERNAL]),
            service("b-second", externalIPs=[EXTERNAL, pod]),
            service("c-third", app="nobody"),
        )
        await world.cluster.api.create(stray_slice("c-third"))
        second = await field(world, "b-second", "{.spec.clusterIP}")
        assert (await serves(world, stranger, EXTERNAL, 80)).server == "web-1"
        assert (await serves(world, world.node(2).netns, second, 80)).server == "web-1"

        async def told() -> bool:
            faults = {(each["object"].rpartition("/")[2], each["reason"]) for each in await every_fault(world)}
            return (
                any(name == "b-second" and "serves default/a-first" in reason for name, reason in faults)
                and any(name == "b-second" and pod in reason and "belongs to pods" in reason for name, reason in faults)
                and any(name == "c-third-x" and "outside of the pod subnet" in reason for name, reason in faults)
            )

        await eventually(told, "conflict, a pod's address and a stray endpoint are reported")
        await world.kubectl("delete", "service", "a-first")
        assert (await serves(world, stranger, EXTERNAL, 80)).server == "web-1"

        async def second_has_it() -> bool:
            reasons = [each["reason"] for each in await every_fault(world)]
            return not any("serves default/a-first" in reason for reason in reasons)

        await eventually(second_has_it, "what was the first one's is the second one's")
        assert (await world.rest(1, "diff"))["operations"] == []


async def test_connections_go_on_while_the_agent_dies_and_come_back_when_vpp_does(build: Build) -> None:
    async with build(2) as world:
        await world.create_pods([server(name, node=number % 2 + 1) for number, name in enumerate(WEB)])
        client = world.cluster.sandbox_netns(await world.create_pod("client", node=1))
        stranger = await outside(world)
        uplink = (await world.rest(1, "status"))["node"]["uplink"].partition("/")[0]
        await apply(world, service("web", type="NodePort"))
        vip = await field(world, "web", "{.spec.clusterIP}")
        node_port = int(await field(world, "web", "{.spec.ports[0].nodePort}"))
        frontends = ((client, vip, 80), (world.node(1).netns, vip, 80), (stranger, uplink, node_port))
        for frontend in frontends:
            await serves(world, *frontend)
        await world.settled()

        failed: list[services.Reply] = []
        over = asyncio.Event()

        async def connecting(namespace: str, to: str, port: int) -> None:
            while not over.is_set():
                reply = await get(world, namespace, to, port)
                if not reply.server:
                    failed.append(reply)

        async with asyncio.TaskGroup() as tasks:
            for frontend in frontends:
                tasks.create_task(connecting(*frontend))
            killed = world.agent_pid(1)
            os.kill(killed, signal.SIGKILL)

            async def replaced() -> bool:
                return killed not in world.children_of(1) and world.has_agent(1)

            await eventually(replaced, "init starts another agent")
            await world.rest_when_back(1, "transactions")
            over.set()
        assert failed == []

        await world.settled()
        dead = world.dataplane_pid(1)
        began = time.monotonic()
        os.kill(dead, signal.SIGKILL)

        async def another() -> bool:
            return dead not in world.children_of(1) and world.has_dataplane(1)

        await eventually(another, "init starts another data plane")
        for frontend in frontends:
            await serves(world, *frontend, timeout_s=60)
            print(f"{frontend[1]}:{frontend[2]} served again {time.monotonic() - began:.2f} s after SIGKILL")
        for frontend in frontends:
            await answer(world, *frontend)


async def answer(world: World, namespace: str, to: str, port: int) -> None:
    """Wait until connections there are answered by all of ``WEB`` and nobody else."""
    seen: set[str] = set()

    async def all_of_them() -> bool:
        seen.add((await get(world, namespace, to, port)).server)
        return seen >= set(WEB)

    await eventually(all_of_them, f"{to}:{port} is answered by all pods", timeout_s=30)
    assert seen <= {*WEB, ""}


async def unserved(world: World, namespace: str, to: str, port: int) -> None:
    """Wait until nobody answers there."""

    async def nobody() -> bool:
        return not (await get(world, namespace, to, port)).server

    await eventually(nobody, f"{to}:{port} is not served", timeout_s=30)


async def field(world: World, name: str, path: str) -> str:
    """A field of a service, by kubectl."""
    return await world.kubectl("get", "service", name, "-o", f"jsonpath={path}")


async def every_fault(world: World) -> list[dict[str, Any]]:
    """What ``netctl`` tells of node 1."""
    _, output = await netctl(world, "-o", "json", "services", "--faults", "node-1")
    found: list[dict[str, Any]] = json.loads(output)
    return found


def stray_slice(of: str) -> Object:
    """An endpoint that is said to be a pod's and has an address of the world outside."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": f"{of}-x", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "tcp", "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {
                "addresses": ["198.51.100.9"],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "stray"},
            }
        ],
    }
