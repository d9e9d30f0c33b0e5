"""What must hold once the faults have ended: everybody agrees, packets go where policies let them, nothing has leaked.

In: a ``World`` and its ``Workload``. Out: nothing, or AssertionError with what does not hold. The oracle of policies is
the tests' own; connectivity is seen with packets.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from contiv.demo.api import Object
from contiv.demo.endpoints import slices_of
from contiv.model import keys, kube
from contiv.model.kubewire import reduce
from contiv.model.node import Attachment
from contiv.store.client import Etcd
from tests.chaos.workload import Workload
from tests.e2e.services import gather
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
CONNECTIONS: Final = 3
"""From each pod to each service; one that a policy forbids costs two seconds."""
CLIENTS_AT_ONCE: Final = 8
TARGET_PORT: Final = 8080


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
    await eventually(lambda: _sliced(world), "endpoint slices name the pods that serve", timeout_s=RECOVERY_S)
    await eventually(lambda: _mirrored(world), "etcd equals the API server", timeout_s=RECOVERY_S)
    await eventually(lambda: _attached(world), "etcd has exactly the pods' attachments", timeout_s=RECOVERY_S)
    await _all_has_been_heard(world)
    await world.settled()
    for number in numbers:
        await eventually(
            lambda number=number: _in_sync(world, number), f"node {number} is in sync", timeout_s=RECOVERY_S
        )


async def _sliced(world: World) -> bool:
    """Whether every service's slices are what its selector and the pods make them."""
    pods = await world.pods()
    services = (await world.cluster.api.request("GET", "/api/v1/services"))["items"]
    slices = (await world.cluster.api.request("GET", kube.ENDPOINT_SLICES.collection_path))["items"]
    wanted = [each for service in services for each in slices_of(service, pods)]
    managed = [each for each in slices if "endpointslice.kubernetes.io/managed-by" in each["metadata"]["labels"]]
    return sorted(map(_served, managed)) == sorted(map(_served, wanted))


def _served(slice_: Object) -> tuple[str, str, list[str]]:
    meta = slice_["metadata"]
    return meta["namespace"], meta["name"], sorted(each["addresses"][0] for each in slice_["endpoints"])


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
    """Wait until every agent has done with an event that came behind all others: a namespace that etcd alone has.

    A new one each time: an etcd that is emptied forgets it, an agent that starts finds it among all that it reads.
    """
    stem = keys.k8s_object("namespaces", f"barrier-{time.monotonic_ns()}-")
    numbers = itertools.count()
    async with await Etcd.connect([world.cluster.etcd]) as etcd:

        async def heard() -> bool:
            place = f"{stem}{next(numbers)}"
            await etcd.put(place, kube.NAMESPACES.encode(kube.Namespace(name=place.rpartition("/")[2])))
            said = [await world.rest_when_back(node.number, f"events?last={EVENTS}") for node in world.cluster.nodes]
            return all(any(stem in event["description"] for event in events) for events in said)

        await eventually(heard, "every agent has heard of everything", timeout_s=RECOVERY_S)
        await etcd.delete_prefix(stem)


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


async def assert_services(world: World) -> int:
    """From every pod to every service: whoever answers serves it and may; how many connections were made.

    A service all of whose pods may be reached answers each time, one without pods refuses.
    """
    pods, cluster = await world.pods(), await _cluster(world)
    services = (await world.cluster.api.request("GET", "/api/v1/services"))["items"]
    clients, refused = asyncio.Semaphore(CLIENTS_AT_ONCE), asyncio.Semaphore(1)  # VPP rations its refusals

    async def ask(client: str, service: Object) -> list[str]:
        serving = {
            key
            for key, thing in pods.items()
            if key.startswith(f"{service['metadata']['namespace']}/")
            and thing["metadata"]["labels"]["app"] == service["spec"]["selector"]["app"]
        }
        allowed = {key for key in serving if key == client or oracle.allowed(cluster, client, key, "TCP", TARGET_PORT)}
        address, port = service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"]
        async with clients if serving else refused:
            place = world.cluster.sandbox_netns(pods[client])
            answers = await gather(world, place, address, port, count=CONNECTIONS)
        good = {key.partition("/")[2] for key in allowed}
        if serving != allowed:
            good.add("timeout")
        if not serving:
            good = {"refused", "unreachable"}
            if _egress_isolated(cluster, client):  # its own list drops what nobody would judge later
                good.add("timeout")
        return [
            f"{client} to {service['metadata']['name']}: {answer}, not one of {sorted(good)}"
            for answer in answers
            if answer not in good
        ]

    ours = [each for each in services if (each["spec"].get("selector") or {}).get("app")]
    found = await asyncio.gather(*(ask(client, service) for client in sorted(pods) for service in ours))
    wrong = [line for lines in found for line in lines]
    assert not wrong, "\n".join(wrong)
    return len(found) * CONNECTIONS


def _egress_isolated(cluster: oracle.Cluster, name: str) -> bool:
    (pod,) = [each for each in cluster.pods if oracle.key(each) == name]
    return any("Egress" in oracle.directions(each) and oracle.selects(each, pod) for each in cluster.policies)


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
        last: dict[str, list[str]] = {}

        async def as_before(number: int = number, was: Footprint = was, last: dict[str, list[str]] = last) -> bool:
            found = _differences(was.held, await world.held(number))
            last.clear()
            last.update(found)
            return not last

        try:
            await eventually(as_before, f"node {number} holds what it held", timeout_s=RECOVERY_S)
        except AssertionError as failure:
            raise AssertionError(f"{failure}, but for {last}") from None
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


def _differences(was: Held, now: Held) -> dict[str, list[str]]:
    """What is too much and too little, but for VPP's indexes, which a restart of VPP gives anew."""
    parts = {
        name: frozenset(getattr(was, name)) ^ frozenset(getattr(now, name))
        for name in ("interfaces", "up", "routes", "links", "host_routes", "mappings", "lists")
    }
    return {name: sorted(part) for name, part in parts.items() if part}


def _alive(thing: Object) -> bool:
    return not thing["metadata"].get("deletionTimestamp")


def _role(command: str) -> str:
    return "agent" if " agent " in command else "data plane"


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no memory")
