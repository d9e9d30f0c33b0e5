"""Services with real packets on two nodes: who answers whom, what a backend sees, refusal, and the way back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.services import apply, get, outside, refuses, route_outside, server, serves, service, stored
from tests.e2e.world import address, eventually

pytestmark = pytest.mark.root

WEB = ("web-1", "web-2")


async def test_a_service_answers_pods_hosts_and_the_outside(build: Build) -> None:
    async with build(2) as world:
        pods = await world.create_pods([server("web-1", node=1), server("web-2", node=2)])
        near, far = pods["default/web-1"], pods["default/web-2"]
        client = await world.create_pod("client", node=1)
        pod = world.cluster.sandbox_netns(client)
        hosts = [world.node(number).netns for number in (1, 2)]
        uplinks = [(await world.rest(number, "status"))["node"]["uplink"].partition("/")[0] for number in (1, 2)]
        stranger = await outside(world)
        await route_outside(world, stranger, "203.0.113.7/32", gateway=uplinks[0])
        await apply(world, service("web", type="NodePort", externalIPs=["203.0.113.7"]))
        created = await stored(world, "web")
        vip = created["spec"]["clusterIP"]
        node_port = next(port["nodePort"] for port in created["spec"]["ports"] if port["protocol"] == "TCP")

        # a cluster IP, from a pod and from both hosts; the backend sees the pod itself
        await serves(world, pod, vip, 80)
        answers = await services.gather(world, pod, vip, 80, count=60)
        assert set(answers) == set(WEB)
        assert min(answers.values()) >= 12, answers  # 30 expected, deviation below 4: five of them
        assert (await get(world, pod, vip, 80)).client == address(client)
        assert await services.echo(world, pod, vip, 80) == "ping"
        for host in hosts:
            assert set(await services.gather(world, host, vip, 80, count=20)) == set(WEB)

        # a pod reaches itself through its own service
        own = world.cluster.sandbox_netns(near)
        assert set(await services.gather(world, own, vip, 80, count=20)) == set(WEB)

        # node ports of both nodes, from outside, pod and host; either backend on either node
        for where in (stranger, pod, world.cluster.sandbox_netns(far)):
            for uplink in uplinks:
                assert set(await services.gather(world, where, uplink, node_port, count=20)) == set(WEB)
        assert set(await services.gather(world, stranger, "203.0.113.7", 80, count=20)) == set(WEB)

        # what VPP translates is told, and nothing is left to do
        told = await world.rest(1, "services?sessions=1")
        assert f"{vip}:80" in {session["frontend"] for session in told["sessions"]}
        assert (await world.rest(1, "diff"))["operations"] == []


async def test_local_traffic_policy_keeps_the_clients_address(build: Build) -> None:
    async with build(2) as world:
        await world.create_pods([server("web-1", node=1)])
        uplinks = [(await world.rest(number, "status"))["node"]["uplink"].partition("/")[0] for number in (1, 2)]
        stranger = await outside(world)
        await apply(world, service("web", type="NodePort", externalTrafficPolicy="Local"))
        node_port = (await stored(world, "web"))["spec"]["ports"][0]["nodePort"]
        reply = await serves(world, stranger, uplinks[0], node_port)
        assert reply.client == str(services.OUTSIDE.address)
        assert (await get(world, stranger, uplinks[1], node_port)).error == "timeout"
        vip = (await stored(world, "web"))["spec"]["clusterIP"]
        assert (await serves(world, world.node(2).netns, vip, 80)).server == "web-1"


async def test_scaled_to_nothing_it_refuses_and_comes_back(build: Build) -> None:
    async with build(2) as world:
        await world.create_pods([server("web-1", node=1), server("web-2", node=2)])
        client = world.cluster.sandbox_netns(await world.create_pod("client", node=1))
        stranger = await outside(world)
        uplink = (await world.rest(1, "status"))["node"]["uplink"].partition("/")[0]
        await apply(world, service("web"))
        vip = (await stored(world, "web"))["spec"]["clusterIP"]
        await serves(world, client, vip, 80)

        await world.kubectl("delete", "pod", "web-1", "web-2", "--wait=true")
        await refuses(world, client, vip, 80)
        await refuses(world, world.node(2).netns, vip, 80)
        await apply(world, service("web", type="NodePort"))
        node_port = (await stored(world, "web"))["spec"]["ports"][0]["nodePort"]
        await refuses(world, stranger, uplink, node_port)

        await world.create_pods([server("web-3", node=2)])
        assert (await serves(world, client, vip, 80)).server == "web-3"
        assert (await serves(world, stranger, uplink, node_port)).server == "web-3"

        await world.kubectl("delete", "service", "web")

        async def nothing_left() -> bool:
            found = await asyncio.gather(*(world.rest(number, "services") for number in (1, 2)))
            return all(each["service"] != "default/web" for told in found for each in told["frontends"])

        await eventually(nothing_left, "the service is gone")
        for number in (1, 2):
            async with world.vpp(number) as api:
                mappings = await api.dump("nat44_lb_static_mapping")
            assert all("default/web" not in entry.tag for entry in mappings)


async def test_host_ports_and_health_checks_are_answered_on_the_nodes_addresses(build: Build) -> None:
    async with build(2) as world:
        pod = server("web-1", node=1)
        pod["spec"]["containers"][0]["ports"][0]["hostPort"] = 8888
        await world.create_pods([pod])
        uplinks = [(await world.rest(number, "status"))["node"]["uplink"].partition("/")[0] for number in (1, 2)]
        stranger = await outside(world)
        reply = await serves(world, stranger, uplinks[0], 8888)
        assert (reply.server, reply.client) == ("web-1", str(services.OUTSIDE.address))
        far = world.cluster.sandbox_netns(await world.create_pod("client", node=2))
        assert (await get(world, far, uplinks[0], 8888)).server == "web-1"

        await apply(world, service("web", type="LoadBalancer", externalTrafficPolicy="Local"))
        port = (await stored(world, "web"))["spec"]["healthCheckNodePort"]

        async def told(uplink: str) -> int:
            return await world.cluster.workers.inside(stranger, lambda: services.http_status(uplink, port))

        async def healthy() -> bool:
            return await told(uplinks[0]) == 200

        async def unhealthy(uplink: str) -> bool:
            return await told(uplink) == 503

        await eventually(healthy, "the node with the endpoint is healthy")
        await eventually(lambda: unhealthy(uplinks[1]), "the node without endpoints is not")
        await world.kubectl("delete", "pod", "web-1", "--wait=true")
        await eventually(lambda: unhealthy(uplinks[0]), "the node that lost its endpoint is not either")


async def test_a_killed_agent_changes_nothing_and_a_killed_data_plane_serves_again(build: Build) -> None:
    async with build(2) as world:
        await world.create_pods([server("web-1", node=1), server("web-2", node=2)])
        client = world.cluster.sandbox_netns(await world.create_pod("client", node=1))
        await apply(world, service("web", type="NodePort", externalIPs=["203.0.113.7"]), service("empty", app="none"))
        vip = (await stored(world, "web"))["spec"]["clusterIP"]
        await serves(world, client, vip, 80)
        await world.settled()

        def connect() -> socket.socket:
            return socket.create_connection((vip, 80), timeout=5)

        connection = await world.cluster.workers.inside(client, connect)
        with connection:
            killed = world.agent_pid(1)
            os.kill(killed, signal.SIGKILL)
            assert set(await services.gather(world, client, vip, 80, count=40)) == set(WEB), "no agent, but VPP"

            async def replaced() -> bool:
                return killed not in world.children_of(1) and world.has_agent(1)

            await eventually(replaced, "init starts another agent")
            first = (await world.rest_when_back(1, "transactions"))[0]
            assert (first["resync"], first.get("operations", [])) == ("full", [])
            connection.sendall(b"still there?")
            assert connection.recv(64) == b"still there?"

        killed = world.dataplane_pid(1)
        os.kill(killed, signal.SIGKILL)

        async def another() -> bool:
            return killed not in world.children_of(1) and world.has_dataplane(1)

        await eventually(another, "init starts another data plane")
        await serves(world, client, vip, 80, timeout_s=30)
        await world.settled()
        assert set(await services.gather(world, client, vip, 80, count=20)) == set(WEB)
        assert (await world.rest(1, "diff"))["operations"] == []
