"""Endpoints and services change while clients connect without pause: what each connection met, what VPP holds at last.

Every other service has a port of its own on the pods, the others share one. A shared endpoint that leaves one of them
serves the rest, so that none of its connections ends. A connection to a service with its own port may fail that was
under way when an endpoint of its service left: it may have been to that one, and nobody can tell. VPP is asked several
times a second what it holds, for "after the change is programmed" means VPP's own word here and no time.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from functools import partial
from typing import Any

import msgspec
import pytest

from contiv.demo.api import Object
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.services import apply, server, serves, still_answers, stored
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

RATE = 20
"""Changes a second."""
SAMPLE_S = 0.2
GRACE_S = 2.0
"""An endpoint that leaves and comes back at once looks unchanged before the agent has seen either."""
SHARED_PORT = 8080
FIRST_SOURCE_PORT = 2000
SOURCE_PORTS = 63_000
FIRST_PORT = 9000
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SERVICES = "/api/v1/namespaces/default/services"
PODS = 8
ENDPOINTS = 5
"""Of each service at the start."""
STEADY = "pod-0"
"""Endpoint of every service throughout."""
READY = {"ready": True, "serving": True, "terminating": False}
DRAINING = {"ready": False, "serving": True, "terminating": True}


class Met(msgspec.Struct, frozen=True):
    """One connection: when, to which service, who answered or how it failed."""

    began: float
    ended: float
    service: int
    answer: str


class Churn:
    """Services without selectors whose slices this test writes; remembers who was an endpoint when."""

    def __init__(self, world: World, pods: dict[str, Object], count: int, seed: int) -> None:
        self.world = world
        self.pods = {name.partition("/")[2]: thing for name, thing in pods.items()}
        self.names = {address(thing): name for name, thing in self.pods.items()}
        self.random = random.Random(seed)
        others = [name for name in self.pods if name != STEADY]
        self.members = [
            {STEADY: READY} | dict.fromkeys(self.random.sample(others, ENDPOINTS - 1), READY) for _ in range(count)
        ]
        self.kinds = ["ClusterIP"] * count
        self.vips: dict[str, int] = {}
        self.leaving: dict[tuple[int, str], float] = {}
        """Since when an endpoint gets no new connections, and VPP has not said so yet."""
        self.left: dict[tuple[int, str], float] = {}
        """When VPP said so of an endpoint that has not come back."""
        self.unseen: set[tuple[int, str]] = set()
        """Endpoints that came and that VPP has not been seen to hold: of these nobody knows when they are gone."""
        self.losses: list[list[tuple[float, float]]] = [[] for _ in range(count)]
        """By service, from when until when it lost an endpoint's connections."""
        self.stale: list[str] = []
        self.changes = 0

    async def create(self) -> list[str]:
        """The services and their slices; their cluster IPs."""
        await apply(self.world, *(self.object(number) for number in range(len(self.members))))
        await asyncio.gather(
            *(self.world.cluster.api.create(self.slice(number)) for number in range(len(self.members)))
        )
        found = [(await stored(self.world, f"s{number}"))["spec"]["clusterIP"] for number in range(len(self.members))]
        self.vips = {vip: number for number, vip in enumerate(found)}
        return found

    async def change(self) -> None:
        """One endpoint more or less, or one that drains, or another type, in one service."""
        self.changes += 1
        number = self.random.randrange(len(self.members))
        if self.random.random() < 0.2:
            self.kinds[number] = "NodePort" if self.kinds[number] == "ClusterIP" else "ClusterIP"
            await self.world.cluster.api.patch(f"{SERVICES}/s{number}", {"spec": {"type": self.kinds[number]}})
            return
        members = self.members[number]
        name = self.random.choice([each for each in self.pods if each != STEADY])
        began = time.monotonic()
        if name not in members:
            members[name] = READY
            self.left.pop((number, name), None)
            self.leaving.pop((number, name), None)
            self.unseen.add((number, name))
        elif members[name] is READY and self.random.random() < 0.5:
            members[name] = DRAINING
            self.leaving[number, name] = began
        else:
            if members.pop(name) is READY:
                self.leaving[number, name] = began
            self.losses[number].append((began, float("inf")))
        await self.world.cluster.api.patch(f"{SLICES}/s{number}", {"endpoints": self.slice(number)["endpoints"]})

    def look(self, held: dict[int, set[str]]) -> None:
        """Note what VPP said that it holds."""
        now = time.monotonic()
        self.unseen = {each for each in self.unseen if each[1] not in held[each[0]]}
        for number, name in [each for each in self.leaving if each[1] not in held[each[0]] and each not in self.unseen]:
            self.left[number, name] = now
            del self.leaving[number, name]

    def gone(self, everybody: dict[int, set[str]]) -> None:
        """End what was going on of services that VPP holds as they are, those that drain included."""
        now = time.monotonic()
        for number, members in enumerate(self.members):
            if everybody[number] == set(members):
                self.losses[number] = [(since, min(until, now + GRACE_S)) for since, until in self.losses[number]]

    def judge(self, met: Met) -> None:
        """Note an answer of an endpoint that VPP had given up before the connection began."""
        left = self.left.get((met.service, met.answer))
        if left is not None and met.began > left:
            self.stale.append(f"s{met.service} answered by {met.answer}, {met.began - left:.2f} s after it left")

    def excused(self, met: Met) -> bool:
        """Whether a connection may have been to an endpoint that left meanwhile."""
        return met.service % 2 == 0 and any(
            since < met.ended and met.began < until for since, until in self.losses[met.service]
        )

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
            "ports": [{"name": name, "protocol": name.upper(), "port": self.port(number)} for name in ("tcp", "udp")],
            "endpoints": [
                {
                    "addresses": [address(self.pods[name])],
                    "conditions": self.members[number][name],
                    "nodeName": self.pods[name]["spec"]["nodeName"],
                }
                for name in sorted(self.members[number])
            ],
        }

    def port(self, number: int) -> int:
        """Where a service's endpoints listen."""
        return SHARED_PORT if number % 2 else FIRST_PORT + number


@pytest.mark.parametrize(
    ("count", "seconds"), [(40, 8), pytest.param(200, 120, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_churn_disturbs_no_connection_that_has_an_endpoint(build: Build, count: int, seconds: int) -> None:
    async with build(2) as world:
        ports = (SHARED_PORT, *range(FIRST_PORT, FIRST_PORT + count, 2))
        pods = await world.create_pods(
            [server(f"pod-{number}", node=number % 2 + 1, ports=ports) for number in range(PODS)]
        )
        client, holder = [
            world.cluster.sandbox_netns(await world.create_pod(name, node=1)) for name in ("client", "holder")
        ]
        churn = Churn(world, pods, count, seed=count)
        vips = await churn.create()
        for vip in vips:
            await serves(world, holder, vip, 80, timeout_s=60)
        # to shared endpoints, whichever they are: they serve other services until the end
        held = [
            await world.cluster.workers.inside(holder, partial(connect, vip, FIRST_SOURCE_PORT + number))
            for number, vip in enumerate(vips[1:40:2])
        ]
        try:
            connections = await run(churn, client, vips, seconds)
            # to endpoints of other services
            assert [connection.getpeername() for connection in held if not still_answers(connection)] == []
        finally:
            for connection in held:
                connection.close()
        failed = [met for met in connections if not met.answer.startswith("pod-")]
        slowest_s = max(met.ended - met.began for met in connections)
        print(f"{churn.changes} changes, {len(connections)} connections, {len(failed)} failed, {len(churn.left)} left")
        print(f"the slowest took {slowest_s:.2f} s")
        unexcused = [met for met in failed if not churn.excused(met)]
        for met in unexcused[:5]:
            print(met, churn.losses[met.service])
        assert unexcused == []
        assert len(failed) < len(connections) / 20, "only those under way just then"
        assert churn.stale == []
        assert len(churn.left) > seconds, "VPP followed"
        assert len(connections) > seconds
        await assert_exact(churn)


async def run(churn: Churn, client: str, vips: list[str], seconds: int) -> list[Met]:
    """Change and connect at the same time."""
    connections: list[Met] = []
    over = asyncio.Event()
    share = SOURCE_PORTS // len(vips)
    used = [0] * len(vips)

    async def connecting() -> None:
        while not over.is_set():
            number = churn.random.randrange(len(vips))
            began = time.monotonic()
            if used[number] == share:  # enough is enough
                await asyncio.sleep(0.01)
                continue
            source_port = FIRST_SOURCE_PORT + number * share + used[number]
            used[number] += 1
            reply = await services.get(churn.world, client, vips[number], 80, source_port=source_port)
            met = Met(began, time.monotonic(), number, reply.server or reply.error)
            connections.append(met)
            churn.judge(met)

    async def watching() -> None:
        async with churn.world.vpp(1) as api:
            while not over.is_set():
                mappings = await api.dump("nat44_lb_static_mapping")
                churn.look(by_service(churn, mappings, idle=False))
                churn.gone(by_service(churn, mappings, idle=True))
                await asyncio.sleep(SAMPLE_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connecting())
        tasks.create_task(watching())
        begin = time.monotonic()
        for step in range(seconds * RATE):
            await churn.change()
            await asyncio.sleep(max(0.0, begin + (step + 1) / RATE - time.monotonic()))
        over.set()
    return connections


def by_service(churn: Churn, mappings: list[Any], *, idle: bool) -> dict[int, set[str]]:
    """The pods that VPP holds behind each service's cluster IP; with ``idle`` those of weight 0 too."""
    found: dict[int, set[str]] = {number: set() for number in churn.vips.values()}
    for entry in mappings:
        number = churn.vips.get(str(entry.external_addr))
        if number is not None and entry.protocol == socket.IPPROTO_TCP:
            found[number] |= {
                churn.names[str(each.addr)]
                for each in entry.locals
                if str(each.addr) in churn.names and each.port == churn.port(number) and (idle or each.probability)
            }
    return found


async def assert_exact(churn: Churn) -> None:
    """Every node's VPP holds the endpoints as they are, those that drain without weight, and nothing is left to do."""
    everybody = {number: set(members) for number, members in enumerate(churn.members)}
    ready = {
        number: {name for name, how in members.items() if how is READY} for number, members in enumerate(churn.members)
    }
    for number in (1, 2):

        async def equal(node: int = number) -> bool:
            async with churn.world.vpp(node) as api:
                mappings: list[Any] = await api.dump("nat44_lb_static_mapping")
            return (by_service(churn, mappings, idle=False), by_service(churn, mappings, idle=True)) == (
                ready,
                everybody,
            )

        await eventually(equal, f"VPP of node {number} holds the endpoints as they are", timeout_s=60)
        assert (await churn.world.rest(number, "diff"))["operations"] == []


def connect(vip: str, source_port: int) -> socket.socket:
    """A connection that stays. One port for two services that choose the same endpoint is one connection to NAT."""
    return socket.create_connection((vip, 80), timeout=5, source_address=("", source_port))
