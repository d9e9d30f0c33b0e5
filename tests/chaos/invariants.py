"""What must hold once the faults have ended: everybody agrees, packets go where policies let them, nothing has leaked.

In: a ``World`` and its ``Workload``. Out: nothing, or AssertionError with what does not hold. The oracle of policies is
the tests' own; connectivity is seen with packets.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from contiv.demo.api import Object
from contiv.model import keys, kube
from contiv.model.kubewire import reduce
from contiv.model.node import Attachment
from contiv.store.client import Etcd
from tests.chaos.workload import Workload
from tests.e2e.world import Held, World, children, eventually
from tests.policy import oracle
from tests.policy.oracle import Traffic

PROBER: Final = Path(__file__).parent.parent / "truth" / "prober.py"
PROBE_S: Final = 60.0
RECOVERY_S: Final = 90.0
"""For agents that start anew, a KSR whose lease must expire first, kubelets in their backoff."""
TRAFFIC: Final[tuple[Traffic, ...]] = (("TCP", 80), ("TCP", 81), ("UDP", 80), ("ICMP", None))
LINE_MAX: Final = 1 << 22
EVENTS: Final = 50


class Footprint(msgspec.Struct, frozen=True):
    """Of one node: what VPP and Linux hold, what its processes have open."""

    held: Held
    descriptors: dict[str, int]
    resident_kib: dict[str, int]


async def footprint(world: World, number: int) -> Footprint:
    """Of one node, now."""
    named = {_role(command): pid for pid, command in world.children_of(number).items()}
    return Footprint(
        held=await world.held(number),
        descriptors={role: len(os.listdir(f"/proc/{pid}/fd")) for role, pid in named.items()},
        resident_kib={role: _resident_kib(pid) for role, pid in named.items()},
    )


async def assert_recovered(world: World, workload: Workload) -> None:
    """Wait until everybody is back and agrees."""
    numbers = [node.number for node in world.cluster.nodes]

    async def running() -> bool:
        pods = await world.pods()
        up = {key for key, thing in pods.items() if thing["status"].get("podIP") and _alive(thing)}
        return up == set(workload.pods) == set(pods)

    await eventually(running, "every pod runs, and no other", timeout_s=RECOVERY_S)
    await eventually(lambda: _mirrored(world), "etcd equals the API server", timeout_s=RECOVERY_S)
    await eventually(lambda: _attached(world), "etcd has exactly the pods' attachments", timeout_s=RECOVERY_S)
    await _all_has_been_heard(world)
    await world.settled()
    for number in numbers:
        await eventually(
            lambda number=number: _in_sync(world, number), f"node {number} is in sync", timeout_s=RECOVERY_S
        )


async def _mirrored(world: World) -> bool:
    """Whether etcd holds every object of every kind as the API server has it, and no others."""
    stored = {key: kube.parse(key, value) for key, value in (await world.etcd(keys.K8S)).items()}
    wanted: dict[str, kube.KubeObject] = {}
    for kind in kube.KINDS:
        items = (await world.cluster.api.request("GET", kind.collection_path))["items"]
        values = [reduce(kind, msgspec.json.encode(item)) for item in items]
        wanted |= {kind.key_of(value): value for value in values}  # type: ignore[arg-type]
    return stored == wanted


async def _all_has_been_heard(world: World) -> None:
    """Wait until every agent has done with an event that came behind all others: a namespace that etcd alone has."""
    place = keys.k8s_object("namespaces", f"barrier-{time.monotonic_ns()}")
    barrier = kube.NAMESPACES.encode(kube.Namespace(name=place.rpartition("/")[2]))
    async with await Etcd.connect([world.cluster.etcd]) as etcd:

        async def heard() -> bool:
            await etcd.put(place, barrier)  # again: an etcd that is emptied meanwhile forgets it
            said = [await world.rest_when_back(node.number, f"events?last={EVENTS}") for node in world.cluster.nodes]
            return all(any(place in event["description"] for event in events) for events in said)

        await eventually(heard, "every agent has heard of everything", timeout_s=RECOVERY_S)
        await etcd.delete(place)


async def _attached(world: World) -> bool:
    stored = {key: value for key, value in (await world.etcd(keys.VSWITCH)).items() if "/pods/" in key}
    attachments = [msgspec.json.decode(value, type=Attachment) for value in stored.values()]
    addresses = [each.address for each in attachments]
    assert len(set(addresses)) == len(addresses), f"an address was given twice: {sorted(addresses)}"
    pods = await world.pods()
    return sorted(addresses) == sorted(thing["status"].get("podIP", "") for thing in pods.values())


async def _in_sync(world: World, number: int) -> bool:
    status = await world.rest_when_back(number, "status")
    if not status["synced"] or status["problems"] or status["unsettled"]:
        return False
    told = await world.rest(number, "diff")
    return not told["operations"] and not told["pending"]


# ---- packets -----------------------------------------------------------------------------------------------


async def assert_connectivity(world: World) -> int:
    """Every pair of pods, several protocols: packets pass exactly where policies allow; how many were asked."""
    pods = await world.pods()
    cluster = await _cluster(world)
    ends = {
        key: {"netns": world.cluster.sandbox_netns(thing), "address": thing["status"]["podIP"]}
        for key, thing in pods.items()
    }
    probes = [
        (source, destination, *traffic)
        for traffic in TRAFFIC
        for source in sorted(pods)
        for destination in sorted(pods)
        if source != destination
    ]
    expected = [oracle.allowed(cluster, *probe) for probe in probes]
    prober = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(PROBER)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_MAX,
    )
    try:
        await _ask(prober, {"ends": ends})
        wanted = [index for index, each in enumerate(expected) if each]
        seen = await _ask(prober, {"probes": probes, "wanted": wanted})
    finally:
        prober.kill()
        await prober.wait()
    arrived, answered = set(seen["arrived"]), set(seen["answered"])
    wrong = [
        f"{source} to {destination} {protocol}/{port}: {'allowed' if each else 'denied'},"
        f" arrived {index in arrived}, answered {index in answered}"
        for index, ((source, destination, protocol, port), each) in enumerate(zip(probes, expected, strict=True))
        if (index in answered) != each or (index in arrived) != each
    ]
    assert not wrong, "\n".join(wrong)
    return len(probes)


async def _cluster(world: World) -> oracle.Cluster:
    """What the API server holds, as KSR reduces it: read from etcd, which equals it."""
    stored = await world.etcd(keys.K8S)
    return oracle.Cluster.of(kube.parse(key, value) for key, value in stored.items())


async def _ask(prober: asyncio.subprocess.Process, command: Object) -> Any:
    assert prober.stdin is not None
    assert prober.stdout is not None
    prober.stdin.write(json.dumps(command).encode() + b"\n")
    async with asyncio.timeout(PROBE_S):
        line = await prober.stdout.readline()
    assert line, "the prober ended; its standard error says why"
    return json.loads(line)


# ---- nothing leaks -----------------------------------------------------------------------------------------


async def assert_nothing_leaked(world: World, before: dict[int, Footprint]) -> None:
    """After everything was removed: each node holds what it held at the start, and no process has grown."""
    for number, was in before.items():

        async def as_before(number: int = number, was: Footprint = was) -> bool:
            held = await world.held(number)
            return _essence(held) == _essence(was.held)

        await eventually(as_before, f"node {number} holds what it held", timeout_s=RECOVERY_S)
        now = await footprint(world, number)
        assert now.descriptors.keys() == was.descriptors.keys(), "a process too many or too few"
        for role, count in now.descriptors.items():
            assert count <= was.descriptors[role] + 8, f"{role} of node {number}: {count} files are open"
        for role, kib in now.resident_kib.items():
            assert kib <= was.resident_kib[role] * 1.5 + 32_768, f"{role} of node {number}: {kib} KiB resident"
    left = [key for key in await world.etcd(keys.VSWITCH) if "/pods/" in key]
    assert not left, f"attachments without a pod: {left}"
    claims = await world.etcd(keys.NODE_IDS)
    assert len(claims) == len(world.cluster.nodes), sorted(claims)
    assert len([1 for command in children(os.getpid()).values() if " ksr " in command]) == 1


def _essence(held: Held) -> tuple[object, ...]:
    """Without VPP's indexes, which a restart of VPP gives anew."""
    return (frozenset(held.interfaces), held.up, held.routes, held.links, held.host_routes)


def _alive(thing: Object) -> bool:
    return not thing["metadata"].get("deletionTimestamp")


def _role(command: str) -> str:
    return "agent" if " agent " in command else "data plane"


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no memory")
