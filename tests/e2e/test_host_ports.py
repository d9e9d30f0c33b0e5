"""Host ports with real packets: who reaches them and what the pod sees, what they give way to, and what they spare."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from contiv.demo.api import Object
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.services import OUTSIDE, Reply, apply, get, outside, server, serves, service
from tests.e2e.test_drift import netctl
from tests.e2e.test_service_walk import every_fault, unserved
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

PORT = 8888
EPHEMERAL = 40000
"""Among those that Linux gives to connections (ip(7), ip_local_port_range)."""


@pytest.fixture(params=["nat44", "cnat"])
def renderer(request: pytest.FixtureRequest, dataplane: str) -> dict[str, Any]:
    """The configuration that chooses it."""
    if request.param == "cnat" and dataplane == "emulator":
        pytest.skip("the emulator has no CNAT")
    return {"serviceRenderer": request.param}


def published(name: str, *, node: int, port: int = PORT, **more: Any) -> Object:
    """A server with a host port, over TCP and UDP; ``more`` as ``server`` takes it."""
    pod = server(name, node=node, **more)
    for each in pod["spec"]["containers"][0]["ports"]:
        each["hostPort"] = port
    return pod


async def uplink(world: World, number: int) -> str:
    """The address that a node has to the outside."""
    text: str = (await world.rest(number, "status"))["node"]["uplink"]
    return text.partition("/")[0]


def host(world: World, number: int) -> str:
    """The address of a node's host: ``status.hostIP`` of its pods."""
    return world.cluster.kubelets[f"node-{number}"].host_ip


def netns_of(world: World, pod: Object) -> str:
    """Where a pod's clients run."""
    return world.cluster.sandbox_netns(pod)


async def translated(world: World, number: int, port: int = PORT) -> list[str]:
    """The addresses that a node's agent answers a port on."""
    return [each["address"] for each in (await world.rest(number, "services"))["frontends"] if each["port"] == port]


async def test_a_host_port_answers_everybody_and_shows_who_asks(build: Build, renderer: dict[str, Any]) -> None:
    async with build(2, renderer) as world:
        pods = await world.create_pods([published("web-1", node=1), server("near", node=1), server("far", node=2)])
        web, near, far = (pods[f"default/{name}"] for name in ("web-1", "near", "far"))
        stranger = await outside(world)
        first, second = await uplink(world, 1), await uplink(world, 2)
        assert (await serves(world, stranger, first, PORT)) == Reply("web-1", str(OUTSIDE.address))
        assert await services.echo(world, stranger, first, PORT) == "ping"

        for to in (first, host(world, 1)):
            assert await get(world, netns_of(world, near), to, PORT) == Reply("web-1", address(near))
            assert (await get(world, netns_of(world, web), to, PORT)).server == "web-1", "it reaches itself"
        # what a pod sends to another node's uplink leaves the cluster as its node
        assert await get(world, netns_of(world, far), first, PORT) == Reply("web-1", second)
        assert await get(world, netns_of(world, far), host(world, 1), PORT) == Reply("web-1", address(far))
        assert await get(world, world.node(2).netns, host(world, 1), PORT) == Reply("web-1", host(world, 2))
        interconnect = next(each for each in await translated(world, 1) if each not in (first, host(world, 1)))
        assert (await get(world, world.node(1).netns, interconnect, PORT)).server == "web-1"

        assert (await get(world, stranger, second, PORT)).server == "", "the other node knows nothing of it"
        assert await translated(world, 2) == []
        _, table = await netctl(world, "services", "node-1")
        assert "Pod default/web-1" in table
        assert f"{first}:{PORT}/TCP" in table
        assert (await world.rest(1, "diff"))["operations"] == []

        await world.kubectl("delete", "pod", "web-1", "--wait=true")
        await unserved(world, stranger, first, PORT)
        assert await translated(world, 1) == []
        assert (await world.rest(1, "diff"))["operations"] == []


async def test_a_pod_that_has_ended_or_named_another_address_is_not_asked(build: Build) -> None:
    async with build(1) as world:
        named, strange = published("named", node=1, port=PORT + 1), published("strange", node=1, port=PORT + 2)
        first = await uplink(world, 1)
        for each in named["spec"]["containers"][0]["ports"]:
            each["hostIP"] = first
        for each in strange["spec"]["containers"][0]["ports"]:
            each["hostIP"] = "192.0.2.9"
        await world.create_pods([published("web-1", node=1), named, strange])
        stranger = await outside(world)
        await serves(world, stranger, first, PORT)
        await serves(world, stranger, first, PORT + 1)
        assert await translated(world, 1, PORT + 1) == [first, first]
        assert await translated(world, 1, PORT + 2) == []
        faults = {each["object"]: each["reason"] for each in await every_fault(world)}
        assert list(faults) == ["Pod default/strange"]
        assert "192.0.2.9" in faults["Pod default/strange"]

        ended = json.dumps({"status": {"phase": "Succeeded"}})
        await world.kubectl("patch", "pod", "web-1", "--subresource=status", "-p", ended)
        await unserved(world, stranger, first, PORT)
        await serves(world, stranger, first, PORT + 1)


async def test_who_loses_a_port_is_told_and_takes_it_over_later(build: Build) -> None:
    async with build(1) as world:
        await world.create_pods([server("web-1", node=1), published("p-1", node=1, app="p", port=30080)])
        stranger = await outside(world)
        first = await uplink(world, 1)
        await serves(world, stranger, first, 30080)

        web = service("web", type="NodePort")
        web["spec"]["ports"] = [{"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080}]
        await apply(world, web)
        await answers(world, stranger, first, 30080, "web-1")
        assert await services.echo(world, stranger, first, 30080) == "ping", "UDP is the pod's still"
        assert await conflicts(world) == {("Pod default/p-1", "default/web")}

        await world.create_pods([published("p-2", node=1, app="p", port=30080)])

        async def both_told() -> bool:
            return {each for each, _ in await conflicts(world)} == {"Pod default/p-1", "Pod default/p-2"}

        await eventually(both_told, "both pods are told")
        await world.kubectl("delete", "service", "web")
        await answers(world, stranger, first, 30080, "p-1")
        assert await conflicts(world) == {("Pod default/p-2", "Pod default/p-1")}
        await world.kubectl("delete", "pod", "p-1", "--wait=true")
        await answers(world, stranger, first, 30080, "p-2")
        assert await conflicts(world) == set()
        assert (await world.rest(1, "diff"))["operations"] == []


async def test_policies_judge_clients_and_pods_behind_host_ports(build: Build, renderer: dict[str, Any]) -> None:
    async with build(2, renderer) as world:
        pods = await world.create_pods(
            [
                published("db", node=1, app="db"),
                published("other", node=1, app="other", port=PORT + 1),
                server("near", node=1, app="client"),
                server("far", node=2, app="client"),
                server("guest", node=2, app="guest"),
            ]
        )
        near, far, guest = (netns_of(world, pods[f"default/{name}"]) for name in ("near", "far", "guest"))
        stranger = await outside(world)
        first, inside = await uplink(world, 1), host(world, 1)
        await serves(world, stranger, first, PORT)
        await serves(world, near, first, PORT + 1)

        clients = [{"podSelector": {"matchLabels": {"app": "client"}}}]
        await apply(world, policy("into-db", "db", ingress=[{"from": clients}]))
        await unserved(world, stranger, first, PORT)
        assert (await get(world, far, inside, PORT)).server == "db"
        assert (await get(world, near, first, PORT)).server == "db"
        assert (await get(world, guest, inside, PORT)).server == ""
        own = netns_of(world, pods["default/db"])
        assert (await get(world, own, first, PORT)).server == "db", "it reaches itself"

        block = [{"ipBlock": {"cidr": f"{OUTSIDE.address}/32"}}]
        await apply(world, policy("into-db", "db", ingress=[{"from": block}]))
        await serves(world, stranger, first, PORT)
        assert (await get(world, far, inside, PORT)).server == ""
        await world.kubectl("delete", "networkpolicy", "into-db")

        to_db = [{"podSelector": {"matchLabels": {"app": "db"}}}]
        await apply(world, policy("out-of-client", "client", egress=[{"to": to_db}]))
        await unserved(world, near, first, PORT + 1)
        await serves(world, near, first, PORT)
        assert (await get(world, near, inside, PORT)).server == "db"
        assert (await get(world, near, inside, PORT + 1)).server == ""


@pytest.mark.parametrize("transport", ["vxlan", "nooverlay"])
async def test_a_host_port_spares_the_hosts_own_connections(build: Build, transport: str) -> None:
    async with build(1, {"nodeToNodeTransport": transport}, nics="one") as world:
        publish = [published(f"web-{number}", node=1, port=EPHEMERAL + number) for number in (1, 2)]
        pods = await world.create_pods([*publish, server("near", node=1)])
        assert world.cluster.outside is not None
        stranger, node = world.cluster.outside.netns, world.node(1)
        first, near = str(node.nic.address), address(pods["default/near"])

        async def told() -> bool:
            return any("ip_local_reserved_ports" in each["reason"] for each in await every_fault(world))

        await eventually(told, "the host's own address is left out")
        assert host(world, 1) not in await translated(world, 1, EPHEMERAL + 1)
        reply = await get(world, node.netns, near, 8080, source_port=EPHEMERAL + 1)
        assert reply.server == "near", f"a probe of the kubelet's: {reply}"
        assert await ask_outside(world, node.netns, stranger, source_port=EPHEMERAL + 2), "a connection to the world"
        if transport == "vxlan":
            assert (await serves(world, stranger, first, EPHEMERAL + 1)).server == "web-1"


async def ask_outside(world: World, source: str, stranger: str, *, source_port: int) -> bool:
    """Whether a host's connection to the world is accepted there."""
    assert world.cluster.outside is not None
    to = world.cluster.outside.address, PORT

    def connect() -> bool:
        try:
            socket.create_connection(to, timeout=services.TIMEOUT_S, source_address=("", source_port)).close()
        except TimeoutError:
            return False
        return True

    listener = await world.cluster.workers.inside(stranger, lambda: socket.create_server(("", PORT)))
    with listener:
        return await world.cluster.workers.inside(source, connect)


async def answers(world: World, namespace: str, to: str, port: int, name: str) -> None:
    """Wait until a certain pod answers there."""

    async def it_does() -> bool:
        return (await get(world, namespace, to, port)).server == name

    await eventually(it_does, f"{to}:{port} is answered by {name}")


async def conflicts(world: World) -> set[tuple[str, str]]:
    """Who wants a port that somebody else has, and who that is."""
    reasons = {(each["object"], each["reason"]) for each in await every_fault(world)}
    return {
        (loser, reason.partition(" serves ")[2].partition(";")[0]) for loser, reason in reasons if " serves " in reason
    }


def policy(name: str, app: str, **rules: Any) -> Object:
    """A policy for the pods of an app, in the directions that it has rules for."""
    types = [direction.capitalize() for direction in rules]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": types, **rules},
    }
