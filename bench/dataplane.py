"""TCP and ping between pods on one node and across nodes, beside a Linux bridge and kernel VXLAN, in one run.

The demo's cluster of two nodes stands on one side; on the other two network namespaces with a Linux bridge each, joined
by kernel VXLAN over a wire of the same kind and the same MTUs. All ends are network namespaces with a veth or macvlan.
Each round measures all of them one after the other, so that what else the machine does hits all alike. The third
column makes the kernel cut its segments before the wire, as a NIC that cannot segment inside VXLAN would make it: a
veth carries segments of 64 KiB whole, which no real wire does. Needs root and iproute2.

::

    python bench/dataplane.py                        VPP where it is found, or its emulator
    python bench/dataplane.py --dataplane vpp --rounds 5 --seconds 3 --json results.json

With ``--dataplane vpp`` the exit code is 1 when the throughput on one node is below ``SAME_NODE_MIN`` of the bridge's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from contiv.demo import manifest, probe
from contiv.demo.api import Object, key_of
from contiv.demo.cluster import DemoCluster
from contiv.demo.commands import PREPARED_INTERFACES
from contiv.linux import netns, offloads
from contiv.linux.netns import Workers
from contiv.model.linux import Offloads

SAME_NODE_MIN: Final = 0.6
POD_MTU: Final = 1450
WIRE_MTU: Final = 1500
SAME, ACROSS = "same node", "across nodes"
CUT: Final[Offloads] = (("tx-checksum", False), ("tso", False))
WHOLE: Final[Offloads] = (("tx-checksum", True), ("tso", True))
SETTLED_S: Final = 60.0
POLL_S: Final = 0.2


@dataclass(frozen=True)
class Way:
    """From one namespace to an address in another."""

    kind: str
    source: str
    target: str
    address: str


@dataclass
class Samples:
    """Bits per second, and the round-trip times of pings in seconds."""

    tcp: list[float] = field(default_factory=list)
    ping: list[float] = field(default_factory=list)
    lost: int = 0

    @property
    def rate(self) -> float:
        """The median throughput."""
        return statistics.median(self.tcp)


class Kernel:
    """Two nodes made of what Linux has: a bridge, kernel VXLAN in it, two pods on the first and one on the second."""

    def __init__(self) -> None:
        self._tag = f"dataplane-{os.getpid()}"

    def _name(self, what: str) -> str:
        return f"{self._tag}-{what}"

    @contextmanager
    def running(self) -> Iterator[list[Way]]:
        """Build it; the paths to measure."""
        names = [self._name(what) for what in ("wire", "n1", "n2", "p1", "p2", "p3")]
        made: list[str] = []
        try:
            for name in names:
                _ip("netns", "add", name)
                made.append(name)
            self._build()
            yield self.paths()
        finally:
            for name in made:
                _ip("netns", "del", name)

    def paths(self) -> list[Way]:
        """Pod 1 to its neighbour, and to the other node."""
        at = {what: netns.path_of(self._name(what)) for what in ("p1", "p2", "p3")}
        return [
            Way(SAME, at["p1"], at["p2"], "10.99.0.2"),
            Way(ACROSS, at["p1"], at["p3"], "10.99.0.3"),
        ]

    @property
    def nodes(self) -> list[str]:
        """The paths of the nodes' namespaces."""
        return [netns.path_of(self._name(node)) for node in ("n1", "n2")]

    def _build(self) -> None:
        wire = self._name("wire")
        _ip("-n", wire, "link", "add", "switch", "up", "mtu", str(WIRE_MTU), "type", "bridge")
        for number in (1, 2):
            node = self._name(f"n{number}")
            peer = ("peer", "name", "uplink", "netns", node, "mtu", str(WIRE_MTU))
            _ip("-n", wire, "link", "add", f"port{number}", "mtu", str(WIRE_MTU), "type", "veth", *peer)
            _ip("-n", wire, "link", "set", f"port{number}", "master", "switch", "up")
            _ip("-n", node, "address", "add", f"192.0.2.{number}/24", "dev", "uplink")
            _ip("-n", node, "link", "set", "uplink", "up")
            _ip("-n", node, "link", "add", "br0", "up", "mtu", str(POD_MTU), "type", "bridge")
            vxlan = ("id", "10", "dstport", "4789", "local", f"192.0.2.{number}", "remote", f"192.0.2.{3 - number}")
            _ip("-n", node, "link", "add", "vxlan10", "mtu", str(POD_MTU), "type", "vxlan", *vxlan, "dev", "uplink")
            _ip("-n", node, "link", "set", "vxlan10", "master", "br0", "up")
        for number, on in ((1, 1), (2, 1), (3, 2)):
            node, pod = self._name(f"n{on}"), self._name(f"p{number}")
            peer = ("peer", "name", "eth0", "netns", pod, "mtu", str(POD_MTU))
            _ip("-n", node, "link", "add", f"pod{number}", "mtu", str(POD_MTU), "type", "veth", *peer)
            _ip("-n", node, "link", "set", f"pod{number}", "master", "br0", "up")
            _ip("-n", pod, "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
            _ip("-n", pod, "link", "set", "eth0", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


async def contiv_paths(cluster: DemoCluster) -> list[Way]:
    """The demo's own pods on two nodes, and the same two kinds of paths between them."""
    pods: dict[str, Object] = {}
    for thing in manifest.load(None, nodes=2):
        created = await cluster.create(thing)
        if thing["kind"] == "Pod":
            pods[key_of(created)] = created
    running: dict[str, Object] = {}
    await cluster.running(set(pods), seen=running.__setitem__)
    first, *others = (running[key] for key in sorted(running))
    paths = []
    for kind in (SAME, ACROSS):
        same = kind == SAME
        target = next(pod for pod in others if (pod["spec"]["nodeName"] == first["spec"]["nodeName"]) == same)
        ends = (cluster.sandbox_netns(first), cluster.sandbox_netns(target))
        paths.append(Way(kind, *ends, target["status"]["podIP"]))
    return paths


class Bench:
    """What is measured, and how long."""

    def __init__(self, workers: Workers, *, rounds: int, seconds: float, pings: int) -> None:
        self._workers = workers
        self._rounds = rounds
        self._seconds = seconds
        self._pings = pings

    async def run(self, kernel: Kernel, contiv: Sequence[Way]) -> dict[str, dict[str, Samples]]:
        """Samples by side and kind."""
        both = kernel.paths()
        results: dict[str, dict[str, Samples]] = {}
        for number in range(self._rounds):
            print(f"round {number + 1} of {self._rounds}", file=sys.stderr)
            for side, paths, wire in (
                ("contiv", contiv, None),
                ("kernel", both, WHOLE),
                ("kernel, cut before the wire", both[1:], CUT),
            ):
                if wire is not None:
                    await self._set_wire(kernel, wire)
                for path in paths:
                    samples = results.setdefault(side, {}).setdefault(path.kind, Samples())
                    await self._measure(path, samples)
        return results

    async def _measure(self, path: Way, samples: Samples) -> None:
        pings = await probe.ping(self._workers, path.source, path.address, count=self._pings)
        samples.ping += pings.times_s
        samples.lost += pings.lost
        samples.tcp.append(await probe.throughput(path.source, path.target, path.address, seconds=self._seconds))

    async def _set_wire(self, kernel: Kernel, wire: Offloads) -> None:
        for node in kernel.nodes:
            await self._workers.inside(node, lambda: offloads.apply("uplink", wire))


async def settled(cluster: DemoCluster) -> None:
    """Wait until the nodes have made the interfaces that they keep ready: VPP stands still while it makes one."""
    async with asyncio.timeout(SETTLED_S):
        for node in cluster.nodes:
            connector = aiohttp.UnixConnector(path=str(node.directory / "run" / "rest.sock"))
            async with aiohttp.ClientSession(connector=connector) as rest:
                while await _prepared(rest) < PREPARED_INTERFACES:
                    await asyncio.sleep(POLL_S)


async def _prepared(rest: aiohttp.ClientSession) -> int:
    async with rest.get("http://agent/contiv/v1/status") as answer:
        return int((await answer.json())["preparedInterfaces"])


def table(results: dict[str, dict[str, Samples]]) -> str:
    """One line a path and side, with its ratio to the kernel's."""
    lines = [
        f"{'path':<14}{'side':<30}{'TCP, Gbit/s':>12}{'lowest':>9}{'highest':>9}{'ratio':>8}{'ping, ms':>10}{'p99':>8}"
    ]
    for kind in (SAME, ACROSS):
        reference = results["kernel"][kind].rate
        for side, by_kind in results.items():
            if kind not in by_kind:
                continue
            each = by_kind[kind]
            pings = sorted(each.ping) or [float("nan")]
            p99 = pings[min(len(pings) - 1, int(len(pings) * 0.99))]
            lines.append(
                f"{kind:<14}{side:<30}{each.rate / 1e9:>12.2f}{min(each.tcp) / 1e9:>9.2f}{max(each.tcp) / 1e9:>9.2f}"
                f"{each.rate / reference:>8.2f}{statistics.median(pings) * 1e3:>10.3f}{p99 * 1e3:>8.2f}"
                + (f"  {each.lost} lost" if each.lost else "")
            )
    return "\n".join(lines)


async def measure(options: argparse.Namespace) -> dict[str, dict[str, Samples]]:
    """Build both sides and measure."""
    kernel = Kernel()
    with kernel.running():
        async with DemoCluster(2, dataplane=options.dataplane) as cluster:
            paths = await contiv_paths(cluster)
            await settled(cluster)
            bench = Bench(cluster.workers, rounds=options.rounds, seconds=options.seconds, pings=options.pings)
            return await bench.run(kernel, paths)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataplane", default="auto", choices=("auto", "vpp", "emulator"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each TCP measurement")
    parser.add_argument("--pings", type=int, default=200, help="in each round")
    parser.add_argument("--json", type=Path, help="write the samples there")
    options = parser.parse_args()
    results = asyncio.run(measure(options))
    print(table(results))
    if options.json:
        content = {side: {kind: vars(each) for kind, each in kinds.items()} for side, kinds in results.items()}
        options.json.write_text(json.dumps(content))
    ratio = results["contiv"][SAME].rate / results["kernel"][SAME].rate
    print(f"on one node {ratio:.0%} of the bridge's throughput (wanted: {SAME_NODE_MIN:.0%} or more)")
    return 1 if options.dataplane == "vpp" and ratio < SAME_NODE_MIN else 0


if __name__ == "__main__":
    sys.exit(main())
