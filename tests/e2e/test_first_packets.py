"""What a pod sends before its start is done: nothing of it passes a default deny, directly or by a service.

Real ADDs, and senders that are there before: they enter each namespace before it has an interface, set that up
themselves, and send frames made by hand beside what the kernel sends. The same senders are heard without the policy.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from contiv.demo.api import Object
from tests.e2e.conftest import Build
from tests.e2e.services import apply
from tests.e2e.world import World, address, eventually, pod

pytestmark = pytest.mark.root

LOCKED = "locked"
AT_ONCE = 10
VIP_PORT = "9/17"
DENY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny", "namespace": LOCKED},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}

Way = tuple[str, str]
"""How something was sent, and to which address."""


class Heard(msgspec.Struct):
    """What was sent and what arrived: pod's namespace, way, target, and how often."""

    sent: list[tuple[str, str, str, int]]
    arrived: list[tuple[str, str, str, int]]

    def ways(self, name: str) -> set[Way]:
        """How the pod called so has been heard."""
        return {(way, target) for netns, way, target, _ in self.arrived if f".{name}" in netns}

    def tried(self, name: str) -> set[Way]:
        """How it has sent."""
        return {(way, target) for netns, way, target, _ in self.sent if f".{name}" in netns}


@asynccontextmanager
async def eager(world: World, targets: list[Object], vip: str) -> AsyncIterator[Callable[[], Awaitable[Heard]]]:
    """Senders in every pod whose name has ``eager`` in it; the function given says what was heard so far."""
    ends = [f"{world.cluster.sandbox_netns(target)}={address(target)}" for target in targets]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(Path(__file__).with_name("eager.py")), "eager-", *ends, f"via={vip}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    into, out = child.stdin, child.stdout

    async def heard() -> Heard:
        into.write(b"\n")
        return msgspec.json.decode(await out.readline(), type=Heard)

    try:
        assert await out.readline() == b"ready\n"
        yield heard
    finally:
        child.kill()
        await child.wait()


@pytest.mark.parametrize("starts", [10, pytest.param(100, marks=pytest.mark.slow)])
async def test_a_pod_that_sends_at_once_gets_nothing_past_a_default_deny(build: Build, starts: int) -> None:
    async with build(2) as world:
        targets = [await world.create_pod(f"target-{number}", node=number) for number in (1, 2)]
        await world.kubectl("create", "namespace", LOCKED)
        await apply(world, DENY, *service(targets))
        vip = (await world.cluster.api.request("GET", "/api/v1/namespaces/default/services/targets"))["spec"]
        await eventually(lambda: in_force(world, vip["clusterIP"], policies=1), "policy and service are in force")
        wanted = {("datagram", address(target)) for target in targets} | {("datagram", vip["clusterIP"])}
        wanted |= {("frame", address(target)) for target in targets}

        async with eager(world, targets, vip["clusterIP"]) as heard:
            for first in range(0, starts, AT_ONCE):
                names = await start(world, first)
                await eventually(lambda n=names: tried(heard, n, wanted), "every pod has sent in every way")  # type: ignore[misc]
                assert not (await heard()).arrived
                if first + AT_ONCE < starts:
                    await world.kubectl("delete", "pod", "-n", LOCKED, "--wait=true", *names)
            await world.kubectl("delete", "networkpolicy", "-n", LOCKED, DENY["metadata"]["name"])
            await eventually(lambda: through(heard, names, wanted), "without the policy the same senders are heard")
            await world.kubectl("delete", "pod", "-n", LOCKED, "--wait=true", *names)
            names = await start(world, starts)
            await eventually(lambda: through(heard, names, wanted), "and others from their start on")


async def start(world: World, first: int) -> list[str]:
    """Start pods on both nodes; their names."""
    names = [f"eager-{number:03}" for number in range(first, first + AT_ONCE)]
    await world.create_pods([pod(name, node=1 + place % 2, namespace=LOCKED) for place, name in enumerate(names)])
    return names


async def tried(heard: Callable[[], Awaitable[Heard]], names: list[str], wanted: set[Way]) -> bool:
    """Whether all have sent in all ways."""
    now = await heard()
    return all(now.tried(name) == wanted for name in names)


async def through(heard: Callable[[], Awaitable[Heard]], names: list[str], wanted: set[Way]) -> bool:
    """Whether all have been heard in all ways."""
    now = await heard()
    return all(now.ways(name) == wanted for name in names)


async def in_force(world: World, vip: str, *, policies: int) -> bool:
    """Whether both agents know the policies, and both data planes the service."""
    known = [(await world.rest(node.number, "policies"))["policies"] for node in world.cluster.nodes]
    mapped = [(await world.held(node.number)).mappings for node in world.cluster.nodes]
    return set(known) == {policies} and all(f"{vip}:{VIP_PORT}" in each for each in mapped)


def service(targets: list[Object]) -> list[Object]:
    """One in front of the targets, whose endpoints are written down."""
    port = {"name": "discard", "protocol": "UDP", "port": 9}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "targets", "namespace": "default", "labels": {"kubernetes.io/service-name": "targets"}},
        "addressType": "IPv4",
        "ports": [port],
        "endpoints": [{"addresses": [address(target)], "conditions": {"ready": True}} for target in targets],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "targets", "namespace": "default"},
            "spec": {"ports": [{**port, "targetPort": 9}]},
        },
        slice_,
    ]
