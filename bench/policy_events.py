"""From a policy's change in the API to VPP, in a cluster of 3,000 pods and 3,000 policies with 110 pods on the node.

A node of the demo (API server, KSR, etcd, agent, VPP). Policies that select pods of the node get another port, one
after another; the clock starts before the request to the API server goes out, and stops when VPP, asked through a
connection of this program's own, has other access lists on an interface of such a pod. What VPP itself took is read
from the agent's record of the transaction: from its first operation's start to its last one's end. Needs root.

::

    python bench/policy_events.py [--dataplane vpp] [--changes 200] [--every 0.25]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, Final

import aiohttp
import one_node

import contiv.vpp
from contiv.demo.api import pod_path
from contiv.demo.cluster import DemoCluster

PODS: Final = 3_000
LOCAL: Final = 110
POLICIES: Final = 3_000
NAMESPACES: Final = 60
APPS: Final = 5
POLL_S: Final = 0.001
ENFORCED_WITHIN_S: Final = 10.0
AT_ONCE: Final = 40
"""Requests to the API server while the cluster is made."""
LIST: Final = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies/{}"
MEDIAN_WANTED_MS: Final = 20.0
P99_WANTED_MS: Final = 100.0
Object = dict[str, Any]


def pod(number: int, node: str) -> Object:
    """One of an app's pods; the first ``LOCAL`` are the node's."""
    labels = {"app": f"app-{number // NAMESPACES % APPS}"}
    spec = {
        "nodeName": node if number < LOCAL else "elsewhere",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "containers": [{"name": "pause", "image": "pause", "ports": [{"name": "http", "containerPort": 8080}]}],
    }
    meta = {"name": f"pod-{number}", "namespace": f"ns-{number % NAMESPACES}", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def policy(number: int) -> Object:
    """Ingress for one app from others, by pods, namespaces and blocks; every sixth isolates egress too."""
    app, turn = f"app-{number // NAMESPACES % APPS}", number // NAMESPACES
    peers: list[Object] = [
        {"podSelector": {"matchLabels": {"app": f"app-{turn % APPS}"}}},
        {"namespaceSelector": {"matchLabels": {"team": f"team-{number % NAMESPACES // 4}"}}},
        {"ipBlock": {"cidr": "172.16.0.0/12", "except": [f"172.20.{turn}.0/24"]}},
    ]
    rules = [{"from": [peers[turn % 3], peers[2]], "ports": [{"protocol": "TCP", "port": 8000 + turn}]}]
    spec: Object = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": rules}
    if number % 6 == 0:
        spec |= {"policyTypes": ["Ingress", "Egress"], "egress": [{"to": [peers[0]]}, {"ports": [{"port": "http"}]}]}
    meta = {"name": f"policy-{number}", "namespace": f"ns-{number % NAMESPACES}"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


async def at_once(works: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run all of them, ``AT_ONCE`` at a time."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(work: Coroutine[Any, Any, object]) -> None:
        async with turns:
            await work

    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(in_turn(work))


async def fill(cluster: DemoCluster) -> None:
    """Namespaces, policies, pods elsewhere with their addresses, and the node's own."""
    for number in range(NAMESPACES):
        labels = {"team": f"team-{number // 4}"}
        meta = {"name": f"ns-{number}", "labels": labels}
        await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})

    async def elsewhere(number: int) -> None:
        made = await cluster.api.create(pod(number, "elsewhere"))
        address = f"10.1.{100 + number // 250}.{number % 250 + 2}"
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        await cluster.api.patch(pod_path(made, "status"), {"status": status})

    await at_once(cluster.api.create(policy(number)) for number in range(POLICIES))
    await at_once(elsewhere(number) for number in range(LOCAL, PODS))
    here = [pod(number, cluster.nodes[0].name) for number in range(LOCAL)]
    await at_once(cluster.api.create(each) for each in here)
    names = {f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in here}
    await cluster.running(names, seen=lambda name, thing: None)


class Agent:
    """The node's REST interface."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, path: str) -> Any:
        """One view."""
        async with self._session.get(f"http://agent/contiv/v1/{path}") as reply:
            return await reply.json()

    async def settled(self) -> list[Object]:
        """The pods of the policies' report, once all are known and nothing is under way."""
        before = None
        async with asyncio.timeout(60):
            while True:
                told = await self.ask("policies")
                known = told["complete"] and all(each["known"] for each in told["pods"])
                if known and len(told["pods"]) == LOCAL and told["policies"] == POLICIES and told == before:
                    return list(told["pods"])
                before = told
                await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def agent_of(cluster: DemoCluster) -> AsyncIterator[Agent]:
    """Speak to the node's agent."""
    connector = aiohttp.UnixConnector(str(cluster.nodes[0].directory / "run" / "rest.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Agent(session)


async def lists_of(vpp: contiv.vpp.Vpp, index: int) -> tuple[int, ...]:
    """The access lists of an interface."""
    (entry,) = await vpp.dump("acl_interface_list", sw_if_index=index)
    return tuple(entry.acls)


async def drive(
    cluster: DemoCluster, vpp: contiv.vpp.Vpp, pods: list[Object], changes: int, every_s: float
) -> list[float]:
    """Change policies in turn; seconds until VPP had each."""
    interfaces = await vpp.dump("sw_interface", sw_if_index=0xFFFFFFFF, name_filter_valid=False, name_filter="")
    index_of = {each.tag.removeprefix("contiv:"): each.sw_if_index for each in interfaces}
    selecting = [(name, pod["interface"]) for pod in pods for name in pod["policies"]]
    times = []
    for number, (name, interface) in zip(range(changes), itertools.cycle(selecting[:: len(selecting) // LOCAL])):
        index = index_of[interface]
        before = await lists_of(vpp, index)
        rules = [{"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 20_000 + number}]}]
        started = time.perf_counter()
        patch = asyncio.create_task(cluster.api.patch(LIST.format(*name.split("/")), {"spec": {"ingress": rules}}))
        async with asyncio.timeout(ENFORCED_WITHIN_S):
            while await lists_of(vpp, index) == before:
                await asyncio.sleep(POLL_S)
        times.append(time.perf_counter() - started)
        await patch
        await asyncio.sleep(every_s)
    return times


async def measure(dataplane: str, changes: int, every_s: float) -> bool:
    """Run and print; whether the targets are met."""
    async with DemoCluster(1, dataplane=dataplane, config={"preparedInterfaces": one_node.PREPARED}) as cluster:
        await one_node.prepared(cluster.nodes[0], one_node.PREPARED)
        await fill(cluster)
        socket = cluster.nodes[0].directory / "vpp" / "api.sock"
        async with agent_of(cluster) as agent, contiv.vpp.connect(socket, name="bench") as vpp:
            pods = await agent.settled()
            times = sorted(await drive(cluster, vpp, pods, changes, every_s))
            records = [each for each in await agent.ask("transactions") if not each.get("resync")][-changes:]
            lists = (await agent.ask("policies"))["lists"]
    spans = sorted(span(each["operations"]) for each in records if each.get("operations"))
    median, p99 = statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
    print(f"{len(lists)} access lists with {sum(lists.values())} rules on {LOCAL} pods")
    print(f"API to VPP:     n={len(times)} median {median:.1f} ms  p99 {p99:.1f} ms  max {times[-1] * 1e3:.1f} ms")
    print(
        f"VPP's share:    n={len(spans)} median {statistics.median(spans) * 1e3:.1f} ms  max {spans[-1] * 1e3:.1f} ms"
    )
    return median <= MEDIAN_WANTED_MS and p99 <= P99_WANTED_MS


def span(operations: list[Object]) -> float:
    """Seconds from the first start to the last end."""
    starts = [each.get("start_s", 0.0) for each in operations]
    ends = [each.get("start_s", 0.0) + each.get("duration_s", 0.0) for each in operations]
    return float(max(ends) - min(starts))


def main() -> int:
    """Measure what the command line asks for and print it; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataplane", default="auto", choices=("auto", "vpp", "emulator"))
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--every", type=float, default=0.25, help="seconds between changes")
    options = parser.parse_args()
    return 0 if asyncio.run(measure(options.dataplane, options.changes, options.every)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
