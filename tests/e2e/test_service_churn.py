"""Endpoints come and go while clients connect without pause: what each connection met, what VPP holds in the end.

Each service has a port of its own on the pods, for VPP ends the connections to a backend whichever service they came
by (docs/decisions/nat44-services.md). A connection may fail that was under way when an endpoint of its service left: it
may have been to that one, and nobody can tell.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from typing import Any

import msgspec
import pytest

from contiv.demo.api import Object
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.services import apply, server, serves, stored
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

RATE = 20
"""Changes a second."""
PROGRAMMED_S = 1.0
"""From a change in the API server to VPP, with room for a machine that does much else."""
UNDER_WAY_S = 0.2
"""From the beginning of a connection to its answer, likewise."""
FIRST_PORT = 9000
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
STEADY = "pod-0"
"""Endpoint of every service throughout."""


class Met(msgspec.Struct, frozen=True):
    """One connection: when, to which service, who answered or how it failed."""

    began: float
    service: int
    answer: str


class Churn:
    """Services without selectors whose slices this test writes; remembers who was an endpoint when."""

    def __init__(self, world: World, pods: dict[str, Object], count: int, seed: int) -> None:
        self.world = world
        self.pods = {name.partition("/")[2]: thing for name, thing in pods.items()}
        self.random = random.Random(seed)
        self.members = [{STEADY} for _ in range(count)]
        self.left: dict[tuple[int, str], float] = {}
        """When an endpoint left a service that it has not come back to."""
        self.losses: list[list[float]] = [[] for _ in range(count)]
        """By service, when it lost an endpoint."""
        self.stale: list[str] = []

    async def create(self) -> list[str]:
        """The services and their slices; their cluster IPs."""
        await apply(self.world, *(self.object(number) for number in range(len(self.members))))
        await asyncio.gather(
            *(self.world.cluster.api.create(self.slice(number)) for number in range(len(self.members)))
        )
        stored_ = [await stored(self.world, f"s{number}") for number in range(len(self.members))]
        return [each["spec"]["clusterIP"] for each in stored_]

    async def change(self) -> None:
        """One endpoint more or less in one service."""
        number = self.random.randrange(len(self.members))
        name = self.random.choice([each for each in self.pods if each != STEADY])
        if name in self.members[number]:
            self.members[number].discard(name)
        else:
            self.members[number].add(name)
            self.left.pop((number, name), None)
        await self.world.cluster.api.patch(f"{SLICES}/s{number}", {"endpoints": self.slice(number)["endpoints"]})
        if name not in self.members[number]:
            self.left[number, name] = time.monotonic()
            self.losses[number].append(self.left[number, name])

    def judge(self, met: Met) -> None:
        """Note an answer of an endpoint that had left well before the connection began."""
        left = self.left.get((met.service, met.answer))
        if left is not None and met.began > left + PROGRAMMED_S:
            self.stale.append(f"s{met.service} answered by {met.answer}, {met.began - left:.2f} s after it left")

    def excused(self, met: Met) -> bool:
        """Whether a connection may have been to an endpoint that left meanwhile."""
        return any(met.began - PROGRAMMED_S < left < met.began + UNDER_WAY_S for left in self.losses[met.service])

    def object(self, number: int) -> Object:
        """A service without a selector."""
        made = services.service(f"s{number}")
        del made["spec"]["selector"]
        return made

    def slice(self, number: int) -> Object:
        """Its slice as the members are now."""
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default",
                "name": f"s{number}",
                "labels": {"kubernetes.io/service-name": f"s{number}"},
            },
            "addressType": "IPv4",
            "ports": [{"name": name, "protocol": name.upper(), "port": FIRST_PORT + number} for name in ("tcp", "udp")],
            "endpoints": [
                {
                    "addresses": [address(self.pods[name])],
                    "conditions": {"ready": True},
                    "nodeName": self.pods[name]["spec"]["nodeName"],
                }
                for name in sorted(self.members[number])
            ],
        }


@pytest.mark.parametrize(
    ("count", "seconds"), [(60, 10), pytest.param(200, 120, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
)
async def test_churn_disturbs_no_connection_that_has_an_endpoint(build: Build, count: int, seconds: int) -> None:
    async with build(2) as world:
        ports = tuple(range(FIRST_PORT, FIRST_PORT + count))
        pods = await world.create_pods(
            [server(f"pod-{number}", node=number % 2 + 1, ports=ports) for number in range(5)]
        )
        client = world.cluster.sandbox_netns(await world.create_pod("client", node=1))
        churn = Churn(world, pods, count, seed=count)
        vips = await churn.create()
        for vip in vips:
            await serves(world, client, vip, 80)
        held = [await world.cluster.workers.inside(client, lambda vip=vip: connect(vip)) for vip in vips[:5]]
        try:
            connections = await run(churn, client, vips, seconds)
            for connection in held:
                connection.sendall(b"still there?")
                assert connection.recv(64) == b"still there?", "a connection to an endpoint that stayed"
        finally:
            for connection in held:
                connection.close()
        failed = [met for met in connections if not met.answer.startswith("pod-")]
        assert [met for met in failed if not churn.excused(met)] == []
        assert len(failed) < len(connections) / 50, "only those under way just then"
        assert churn.stale == []
        assert len(connections) > 5 * seconds
        await assert_exact(churn, vips)


async def run(churn: Churn, client: str, vips: list[str], seconds: int) -> list[Met]:
    """Change and connect at the same time."""
    connections: list[Met] = []
    over = asyncio.Event()

    async def connecting() -> None:
        while not over.is_set():
            number = churn.random.randrange(len(vips))
            began = time.monotonic()
            reply = await services.get(churn.world, client, vips[number], 80)
            met = Met(began, number, reply.server or reply.error)
            connections.append(met)
            churn.judge(met)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connecting())
        begin = time.monotonic()
        for step in range(seconds * RATE):
            await churn.change()
            await asyncio.sleep(max(0.0, begin + (step + 1) / RATE - time.monotonic()))
        over.set()
    return connections


async def assert_exact(churn: Churn, vips: list[str]) -> None:
    """Every node's VPP holds the endpoints as they are, and nothing is left to do."""
    wanted = {
        vip: {f"{address(churn.pods[name])}:{FIRST_PORT + number}" for name in members}
        for number, (vip, members) in enumerate(zip(vips, churn.members, strict=True))
    }
    for number in (1, 2):

        async def equal(node: int = number) -> bool:
            async with churn.world.vpp(node) as api:
                mappings: list[Any] = await api.dump("nat44_lb_static_mapping")
            found = {
                str(entry.external_addr): {f"{each.addr}:{each.port}" for each in entry.locals if each.probability}
                for entry in mappings
                if entry.protocol == socket.IPPROTO_TCP and str(entry.external_addr) in wanted
            }
            return found == wanted

        await eventually(equal, f"VPP of node {number} holds the endpoints as they are", timeout_s=15)
        assert (await churn.world.rest(number, "diff"))["operations"] == []


def connect(vip: str) -> socket.socket:
    """A connection that stays; so far the steady pod alone answers."""
    return socket.create_connection((vip, 80), timeout=5)
