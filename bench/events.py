"""From a pod's change in the API to its data plane, under a steady rate of changes.

A node of the demo (API server, KSR, etcd, agent, VPP), pods bound to it, created and deleted in turn. The clock starts
before the request to the API server goes out; it stops when VPP itself, asked through a connection of this program's
own, has the pod's route over an interface that is up, or has it no more. Between lie API server, kubelet stand-in,
namespace, CNI plugin, agent and VPP. Needs root.

::

    python bench/events.py [--dataplane vpp] [--rate 20] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import one_node

import contiv.vpp
from contiv.demo.api import key_of
from contiv.demo.cluster import DemoCluster

BUCKETS_MS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)
ALIVE: Final = 40
"""Pods that exist at a time; past them the oldest goes for each new one."""
POLL_S: Final = 0.001
SETTLE_S: Final = 5.0
UP: Final = 1


class Witness:
    """When VPP first had, and when it no more had, a route of one address over an interface that is up."""

    def __init__(self, vpp: contiv.vpp.Vpp) -> None:
        self._vpp = vpp
        self.appeared: dict[str, list[float]] = {}
        self.vanished: dict[str, list[float]] = {}

    async def watch(self) -> None:
        """Look again and again until cancelled."""
        present: set[str] = set()
        while True:
            seen = await self._routes()
            now = time.perf_counter()
            for address in seen - present:
                self.appeared.setdefault(address, []).append(now)
            for address in present - seen:
                self.vanished.setdefault(address, []).append(now)
            present = seen
            await asyncio.sleep(POLL_S)

    async def _routes(self) -> set[str]:
        table = {"table_id": 0, "is_ip6": False, "name": ""}
        interfaces = await self._vpp.dump(
            "sw_interface", sw_if_index=0xFFFFFFFF, name_filter_valid=False, name_filter=""
        )
        up = {each.sw_if_index for each in interfaces if int(each.flags) & UP and each.tag.startswith("contiv:pod")}
        return {
            str(each.route.prefix.network_address)
            for each in await self._vpp.dump("ip_route_v2", src=0, table=table)
            if each.route.prefix.prefixlen == 32 and each.route.paths and each.route.paths[0].sw_if_index in up
        }


def pod(number: int, node: str) -> dict[str, Any]:
    """A pod that is bound already and whose deletion waits for nothing."""
    spec = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "containers": [{"name": "pause", "image": "pause"}],
    }
    meta = {"name": f"pod-{number}", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


async def drive(
    cluster: DemoCluster, rate: float, seconds: float
) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Create and delete at ``rate``; when each was asked for, by pod, and the pods' addresses."""
    created: dict[str, float] = {}
    deleted: dict[str, float] = {}
    addresses: dict[str, str] = {}
    alive: deque[str] = deque()

    async def learn() -> None:
        async with contextlib.aclosing(cluster.api.watch("/api/v1/pods")) as watched:
            async for known in watched:
                for thing in known.values():
                    address = thing.get("status", {}).get("podIP")
                    if address:
                        addresses[key_of(thing)] = address

    learner = asyncio.create_task(learn())
    begin = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for change in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + change / rate - asyncio.get_running_loop().time()))
            if len(alive) >= ALIVE and change % 2:
                name = alive.popleft()
                deleted[f"default/{name}"] = time.perf_counter()
                group.create_task(cluster.api.delete(f"/api/v1/namespaces/default/pods/{name}", grace_s=0))
            else:
                thing = pod(change, cluster.nodes[0].name)
                alive.append(thing["metadata"]["name"])
                created[f"default/{thing['metadata']['name']}"] = time.perf_counter()
                group.create_task(cluster.api.create(thing))
    await asyncio.sleep(SETTLE_S)
    learner.cancel()
    return created, deleted, addresses


async def measure(dataplane: str, rate: float, seconds: float) -> None:
    """Run and print."""
    config = {"preparedInterfaces": one_node.PREPARED}
    async with DemoCluster(1, dataplane=dataplane, config=config) as cluster:
        await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
        await one_node.prepared(cluster.nodes[0], one_node.PREPARED)
        socket = cluster.nodes[0].directory / "vpp" / "api.sock"
        async with contiv.vpp.connect(socket, name="bench") as vpp:
            witness = Witness(vpp)
            watching = asyncio.create_task(witness.watch())
            created, deleted, addresses = await drive(cluster, rate, seconds)
            watching.cancel()
    report("created -> programmed", created, witness.appeared, addresses)
    report("deleted -> removed", deleted, witness.vanished, addresses)


def report(title: str, asked: dict[str, float], done: dict[str, list[float]], addresses: dict[str, str]) -> None:
    """Median, 99th percentile and histogram of one kind of change."""
    # an address is used again by later pods: what counts is the first change of it after the request
    firsts = {
        name: next((when for when in done.get(addresses.get(name, ""), ()) if when >= start), None)
        for name, start in asked.items()
    }
    times = [(when - asked[name]) * 1e3 for name, when in firsts.items() if when is not None]
    missing = len(asked) - len(times)
    times.sort()
    print(
        f"{title:24s} n={len(times):5d} missing {missing:3d}  median {statistics.median(times):7.2f} ms"
        f"  p99 {times[int(len(times) * 0.99)]:7.2f} ms  max {times[-1]:7.2f} ms"
    )
    print("   " + "  ".join(f"<={edge}:{count}" for edge, count in histogram(times) if count))


def histogram(times: Sequence[float]) -> list[tuple[int, int]]:
    """How many of ``times`` (ms) fall into each bucket, by its upper edge."""
    edges = (0, *BUCKETS_MS)
    return [(high, sum(low < each <= high for each in times)) for low, high in zip(edges, BUCKETS_MS, strict=False)]


def main() -> None:
    """Measure what the command line asks for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataplane", default="auto", choices=("auto", "vpp", "emulator"))
    parser.add_argument("--rate", type=float, default=20.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    asyncio.run(measure(options.dataplane, options.rate, options.seconds))


if __name__ == "__main__":
    main()
