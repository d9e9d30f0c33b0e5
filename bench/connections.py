"""New TCP connections a second through a service: VPP's NAT44-ED beside the kernel's nftables, each beside direct ones.

On one side a node of the demo with a client pod and ``BACKENDS`` pods behind a ClusterIP; on the other network
namespaces on a Linux bridge, whose node translates a virtual address with ``dnat to numgen random`` and its connection
tracking, as kube-proxy's nftables mode does. Each round opens as many connections by each of the four ways, one way
after the other, so that what else the machine does hits all alike. A connection counts when a byte of its backend has
come; the client then resets it. Every one has a source port that none before it had, so that no session of an earlier
one is met again. Late ones, whose first SYN or its answer was lost, are counted, and so are those that no answer came
to: with any of them the exit code is 1. Both ends are a C helper (``connections_ends.c``), with ``--at-once``
connections under way. Needs root and Debian's packages iproute2, procps and nftables.

::

    python bench/connections.py                      VPP where it is found, or its emulator
    python bench/connections.py --dataplane vpp --rounds 7 --connections 7000 --at-once 4 --json results.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dataplane import settled

from contiv.demo.cluster import DemoCluster
from contiv.linux import netns
from contiv.processes import send_signal

BACKENDS: Final = 4
PORT, TARGET_PORT = 80, 7400
FIRST_PORT, LAST_PORT = 10_000, 65_535
TRY_PORT: Final = 2_000
"""From here on up are the source ports that find out whether a service serves yet."""
TRIES, TRY_CONNECTIONS = 20, 64
TRY_S: Final = 0.5
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"[:BACKENDS]
POD_MTU: Final = 1450
NAMESPACE, SERVICE = "connections", "answer"
VIP: Final = "10.98.0.1"
BRIDGE: Final = "10.99.0.254"
CLIENT, TRANSLATED_CLIENT = "10.99.0.100", "10.99.1.100"
"""The namespace's address on the bridge, and another one, which its neighbours reach through the node: what a service
answers has to pass there."""
THROUGH, DIRECT = "through the service", "direct"
CONTIV, KERNEL = "contiv", "bridge and nftables"
ANY: Final = "0.0.0.0"

Object = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """From an address ("0.0.0.0" for the only one) in a namespace to an address and port."""

    side: str
    kind: str
    source: str
    address: str
    target: str
    port: int


@dataclass
class Samples:
    """Connections a second of each round; of all rounds those late, those failed, and each backend's."""

    rates: list[float] = field(default_factory=list)
    late: int = 0
    failed: int = 0
    answered: list[int] = field(default_factory=lambda: [0] * BACKENDS)

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Opened:
    """What became of a number of connections: seconds, failures, late answers, and answers by backend."""

    seconds: float
    failed: int
    late: int
    answered: tuple[int, ...]


class Ends:
    """The helper's two sides, in namespaces."""

    def __init__(self, folder: Path, at_once: int) -> None:
        self._at_once = at_once
        self._binary = str(folder / "ends")
        source = Path(__file__).with_name("connections_ends.c")
        subprocess.run(["cc", "-std=c11", "-O2", str(source), "-o", self._binary], check=True)

    @asynccontextmanager
    async def serving(self, namespaces: Sequence[str]) -> AsyncIterator[None]:
        """A server in each, while the context lasts."""
        started = []
        try:
            for namespace, letter in zip(namespaces, LETTERS, strict=True):
                server = await self._start(namespace, "serve", str(TARGET_PORT), letter)
                started.append(server)
                assert server.stdout is not None
                if await server.stdout.readline() != b"ready\n":
                    sys.exit(f"no server in {namespace}: is port {TARGET_PORT} taken?")
            yield
        finally:
            for server in started:
                send_signal(server, signal.SIGKILL)
                await server.wait()

    async def open(self, way: Way, first: int, count: int) -> Opened:
        """Open so many connections, from the port ``first`` on."""
        words = (way.address, way.target, str(way.port), str(first), str(count), str(self._at_once))
        client = await self._start(way.source, "open", *words)
        out, _ = await client.communicate()
        if client.returncode:
            sys.exit(f"{way.side}, {way.kind}: the client ended with {client.returncode}")
        seconds, failed, late, *answered = out.split()
        return Opened(float(seconds), int(failed), int(late), tuple(map(int, answered[:BACKENDS])))

    async def _start(self, namespace: str, *words: str) -> asyncio.subprocess.Process:
        argv = netns.command_in(namespace, [self._binary, *words], die_with_parent=True)
        return await asyncio.create_subprocess_exec(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


class Kernel:
    """A node made of what Linux has: a bridge, a client and backends on it, and nftables that translate."""

    def __init__(self) -> None:
        self._tag = f"connections-{os.getpid()}"
        self._backends = [f"10.99.0.{number + 1}" for number in range(BACKENDS)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Build it; gone with the context."""
        made = []
        try:
            for what in ("node", "client", *LETTERS):
                _run("ip", "netns", "add", self._name(what))
                made.append(self._name(what))
            self._build()
            yield
        finally:
            for name in made:
                _run("ip", "netns", "del", name)

    @property
    def namespaces(self) -> list[str]:
        """Those of the backends."""
        return [netns.path_of(self._name(letter)) for letter in LETTERS]

    @property
    def ways(self) -> list[Way]:
        """Through the service, and to one of its backends."""
        client = netns.path_of(self._name("client"))
        return [
            Way(KERNEL, THROUGH, client, TRANSLATED_CLIENT, VIP, PORT),
            Way(KERNEL, DIRECT, client, CLIENT, self._backends[0], TARGET_PORT),
        ]

    def _name(self, what: str) -> str:
        return f"{self._tag}-{what}"

    def _build(self) -> None:
        node = self._name("node")
        _run("ip", "-n", node, "link", "set", "lo", "up")
        # a bridge's own frames are none of nftables' business, and no neighbour shall hear of a shorter way
        settings = ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0"]
        settings += ["net.ipv4.conf.default.send_redirects=0", "net.bridge.bridge-nf-call-iptables=0"]
        _run("ip", "netns", "exec", node, "sysctl", "-qew", *settings)
        _run("ip", "-n", node, "link", "add", "br0", "up", "mtu", str(POD_MTU), "type", "bridge")
        _run("ip", "-n", node, "address", "add", f"{BRIDGE}/24", "dev", "br0")
        _run("ip", "-n", node, "route", "add", TRANSLATED_CLIENT, "dev", "br0")
        for what, address in (("client", CLIENT), *zip(LETTERS, self._backends, strict=True)):
            self._join(what, address)
        _run("ip", "-n", self._name("client"), "address", "add", f"{TRANSLATED_CLIENT}/32", "dev", "eth0")
        choices = ", ".join(f"{number} : {address}" for number, address in enumerate(self._backends))
        target = f"numgen random mod {BACKENDS} map {{ {choices} }} : {TARGET_PORT}"
        rule = f"ip daddr {VIP} tcp dport {PORT} dnat to {target}"
        chain = f"chain services {{ type nat hook prerouting priority dstnat; {rule}; }}"
        _run("ip", "netns", "exec", node, "nft", f"table ip connections {{ {chain}; }}")

    def _join(self, what: str, address: str) -> None:
        """A namespace on the bridge, behind the node for all that is not on it."""
        node, pod = self._name("node"), self._name(what)
        peer = ("peer", "name", "eth0", "netns", pod, "mtu", str(POD_MTU))
        _run("ip", "-n", node, "link", "add", f"pod-{what}", "mtu", str(POD_MTU), "type", "veth", *peer)
        _run("ip", "-n", node, "link", "set", f"pod-{what}", "master", "br0", "up")
        _run("ip", "-n", pod, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", pod, "link", "set", "eth0", "up")
        _run("ip", "-n", pod, "route", "add", "default", "via", BRIDGE)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


class Pods:
    """The demo's pods: a client, and backends behind a service."""

    def __init__(self, cluster: DemoCluster) -> None:
        self._cluster = cluster
        self._pods: dict[str, Object] = {}
        self._vip = ""

    async def create(self) -> None:
        """Make them and wait until they run."""
        await self._cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        spec = {"selector": {"app": SERVICE}, "ports": [{"port": PORT, "targetPort": TARGET_PORT}]}
        meta = {"name": SERVICE, "namespace": NAMESPACE}
        made = await self._cluster.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        self._vip = made["spec"]["clusterIP"]
        for name in ("client", *LETTERS):
            await self._cluster.create(pod(name))
        wanted = {f"{NAMESPACE}/{name}" for name in ("client", *LETTERS)}
        await self._cluster.running(wanted, seen=self._pods.__setitem__)

    @property
    def namespaces(self) -> list[str]:
        """Those of the backends."""
        return [self._cluster.sandbox_netns(self._pods[f"{NAMESPACE}/{letter}"]) for letter in LETTERS]

    @property
    def ways(self) -> list[Way]:
        """Through the service, and to one of its backends."""
        client = self._cluster.sandbox_netns(self._pods[f"{NAMESPACE}/client"])
        address = self._pods[f"{NAMESPACE}/{LETTERS[0]}"]["status"]["podIP"]
        return [
            Way(CONTIV, THROUGH, client, ANY, self._vip, PORT),
            Way(CONTIV, DIRECT, client, ANY, address, TARGET_PORT),
        ]


def pod(name: str) -> Object:
    """The client, or one of the service's pods."""
    meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name if name == "client" else SERVICE}}
    spec = {
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "containers": [{"name": "pause", "image": "pause"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


async def served(ends: Ends, way: Way) -> None:
    """Wait until connections are answered, by every backend if it is a service's."""
    for number in range(TRIES):
        opened = await ends.open(way, TRY_PORT + number * TRY_CONNECTIONS, TRY_CONNECTIONS)
        if not opened.failed and (way.kind == DIRECT or all(opened.answered)):
            return
        await asyncio.sleep(TRY_S)
    sys.exit(f"{way.side}, {way.kind}: {way.target} does not answer")


async def measure(ends: Ends, ways: Sequence[Way], *, rounds: int, connections: int) -> dict[Way, Samples]:
    """Every way once a round, with source ports of its own."""
    results = {way: Samples() for way in ways}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for way in ways:
            opened = await ends.open(way, FIRST_PORT + number * connections, connections)
            samples = results[way]
            samples.rates.append((connections - opened.failed) / opened.seconds)
            samples.late += opened.late
            samples.failed += opened.failed
            samples.answered = [old + new for old, new in zip(samples.answered, opened.answered, strict=True)]
    return results


async def run(options: argparse.Namespace) -> dict[Way, Samples]:
    """Build both sides and measure."""
    kernel = Kernel()
    with tempfile.TemporaryDirectory(prefix="contiv-bench-") as folder, kernel.running():
        ends = Ends(Path(folder), options.at_once)
        async with DemoCluster(1, dataplane=options.dataplane) as cluster:
            pods = Pods(cluster)
            await pods.create()
            await settled(cluster)
            ways = [*pods.ways, *kernel.ways]
            async with ends.serving(pods.namespaces), ends.serving(kernel.namespaces):
                for way in ways:
                    await served(ends, way)
                return await measure(ends, ways, rounds=options.rounds, connections=options.connections)


def table(results: dict[Way, Samples]) -> str:
    """One line a way, with its ratios to the kernel's way of its kind and to the direct one of its side."""
    rates = {(way.side, way.kind): samples.rate for way, samples in results.items()}
    heads = f"{'a second':>10}{'lowest':>9}{'highest':>9}{'to kernel':>11}{'to direct':>11}{'late':>7}{'failed':>8}"
    lines = [f"{'way':<42}{heads}  by backend"]
    for way, samples in results.items():
        to_kernel = samples.rate / rates[KERNEL, way.kind]
        to_direct = samples.rate / rates[way.side, DIRECT]
        lines.append(
            f"{f'{way.side}, {way.kind}':<42}{samples.rate:>10,.0f}{min(samples.rates):>9,.0f}"
            f"{max(samples.rates):>9,.0f}{to_kernel:>11.2f}{to_direct:>11.2f}{samples.late:>7}{samples.failed:>8}  "
            + " ".join(str(count) for count in samples.answered if count)
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print; 1 when a connection was not answered."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataplane", default="auto", choices=("auto", "vpp", "emulator"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=7_000, help="of each way in each round")
    parser.add_argument("--at-once", type=int, default=4, help="connections under way at a time")
    parser.add_argument("--json", type=Path, help="write the samples there")
    options = parser.parse_args()
    if FIRST_PORT + options.rounds * options.connections - 1 > LAST_PORT:
        parser.error(f"all rounds together have {LAST_PORT - FIRST_PORT + 1} source ports: fewer connections, please")
    if shutil.which("nft") is None or os.geteuid() != 0:
        sys.exit("nft is not installed (Debian package nftables), or this is not root")
    started = time.perf_counter()
    results = asyncio.run(run(options))
    print(table(results))
    print(f"{options.rounds} rounds of {options.connections:,} connections, {options.at_once} at once")
    print(f"{time.perf_counter() - started:.0f} s in all")
    if options.json:
        content = {f"{way.side}, {way.kind}": vars(samples) for way, samples in results.items()}
        options.json.write_text(json.dumps(content))
    return 1 if any(samples.failed for samples in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
