"""What a stolen NIC costs its host, and what the overlay costs pods; each beside the kernel, in one run.

::

    python bench/nic.py outage                  how long the host is cut off by steal, loss of VPP, release; its own
                                                TCP and UDP through VPP and through the kernel, in turns
    python bench/nic.py transport               TCP and ping between pods of two nodes: VXLAN, no overlay, kernel VXLAN;
                                                with --drivers af_packet af_xdp by either link driver

Both take ``--dataplane`` and ``--rounds``. The host is asked over UDP every 5 ms by the host outside; the longest time
without an answer is the outage. Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from dataplane import ACROSS, SAME, Bench, Kernel, Samples, contiv_paths, settled

from contiv.demo import probe
from contiv.demo.cluster import DemoCluster
from contiv.demo.node import Node
from contiv.linux import netns
from contiv.stn.client import StnClient
from contiv.stn.errors import StnError

PORT: Final = 7300
EVERY_S: Final = 0.005
POLL_S: Final = 0.02
WAIT_S: Final = 60.0
QUIET_S: Final = 1.0
MEASURE_S: Final = 2.0


def serve(address: str) -> None:
    """Echo UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, PORT))
        print("listening", flush=True)
        while True:
            data, peer = listener.recvfrom(64)
            with suppress(OSError):  # no route while the NIC changes hands
                listener.sendto(data, peer)


def ask(address: str) -> None:
    """Ask every few milliseconds until killed: a line for each answer, when it came and how long it took."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((address, PORT))
        asking.settimeout(EVERY_S)
        while True:
            sent = time.monotonic()
            try:
                asking.send(str(sent).encode())
                told = float(asking.recv(64))
                now = time.monotonic()
                print(f"{now:.6f} {now - told:.6f}", flush=True)
            except OSError:  # no answer, or an ICMP error
                pass
            time.sleep(max(0.0, sent + EVERY_S - time.monotonic()))


class Asker:
    """Answers by time: (when, round-trip time)."""

    def __init__(self, source: str, address: str) -> None:
        self._source = source
        self._address = address
        self.answers: list[tuple[float, float]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Asker]:
        argv = [sys.executable, __file__, "ask", self._address]
        child = await asyncio.create_subprocess_exec(
            *netns.command_in(self._source, argv, die_with_parent=True), stdout=subprocess.PIPE
        )
        reading = asyncio.create_task(self._read(child))
        try:
            yield self
        finally:
            child.kill()
            await child.wait()
            reading.cancel()

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            when, took = line.split()
            self.answers.append((float(when), float(took)))

    async def answered(self) -> None:
        """Wait for an answer to a question of now."""
        since = time.monotonic()
        async with asyncio.timeout(WAIT_S):
            while not self.answers or self.answers[-1][0] < since:
                await asyncio.sleep(POLL_S)

    def gap(self, since: float) -> float:
        """The longest time between two answers, from ``since`` on."""
        times = [since, *(when for when, _ in self.answers if when > since)]
        return max(after - before for before, after in itertools.pairwise(times))


class Host:
    """The one node, and what is done to it."""

    def __init__(self, cluster: DemoCluster) -> None:
        assert cluster.outside is not None
        self._cluster = cluster
        self.node: Node = cluster.nodes[0]
        self.address = str(self.node.nic.address)
        self.outside = cluster.outside.netns
        self._client = StnClient(str(self.node.directory / "run" / "stn.sock"))
        for task in cluster._tasks:
            if task.get_name() == f"guard {self.node.name}":
                task.cancel()

    def vpp(self) -> int:
        """VPP's process, as the record has it; 0 while none is confirmed."""
        place = self.node.directory / "state" / "stn"
        if not place.exists():
            return 0
        confirmed = json.loads(place.read_bytes().partition(b"\n")[2]).get("confirmed")
        return int(confirmed["pid"]) if confirmed else 0

    async def confirmed(self, *, other_than: int = 0) -> None:
        """Wait until a VPP carries the node."""
        async with asyncio.timeout(WAIT_S):
            while self.vpp() in (0, other_than):
                await asyncio.sleep(POLL_S)

    async def steal(self) -> None:
        """Start data plane and agent."""
        await self.node.start_init()
        await self.confirmed()

    async def lose_vpp(self) -> None:
        """SIGKILL; init starts another."""
        pid = self.vpp()
        os.kill(pid, signal.SIGKILL)
        await self.confirmed(other_than=pid)

    async def give_back(self) -> None:
        """Stop data plane and agent, and release, as an uninstallation does."""
        await self.node.init.stop()
        await self._client.release()
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    if not (await self._client.info("")).stolen:
                        return
                except StnError as error:
                    print(f"waiting: {error}", file=sys.stderr)
                await asyncio.sleep(POLL_S)


async def outage(options: argparse.Namespace) -> None:
    """Rounds of: kernel, steal, VPP, loss, release."""
    gaps: dict[str, list[float]] = {}
    speeds: dict[str, list[float]] = {}
    trips: dict[str, list[float]] = {}
    async with DemoCluster(1, dataplane=options.dataplane, nics="one") as cluster:
        host = Host(cluster)
        await host.confirmed()
        argv = netns.command_in(
            host.node.netns, [sys.executable, __file__, "serve", host.address], die_with_parent=True
        )
        server = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        assert server.stdout is not None
        await server.stdout.readline()
        await host.give_back()

        async def gap(what: str, deed: Callable[[], Awaitable[None]]) -> None:
            async with Asker(host.outside, host.address).running() as asker:
                await asker.answered()
                since = time.monotonic()
                await deed()
                await asker.answered()
                await asyncio.sleep(QUIET_S)
                gaps.setdefault(what, []).append(asker.gap(since))

        async def speed(side: str) -> None:
            async with Asker(host.outside, host.address).running() as asker:
                await asker.answered()
                await asyncio.sleep(MEASURE_S)
                trips.setdefault(side, []).extend(took for _, took in asker.answers)
            rate = await probe.throughput(host.outside, host.node.netns, host.address, seconds=MEASURE_S)
            speeds.setdefault(side, []).append(rate)

        try:
            for number in range(options.rounds):
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
                await speed("kernel")
                await gap("steal", host.steal)
                await speed("VPP")
                await gap("loss of VPP", host.lose_vpp)
                await gap("release", host.give_back)
        finally:
            server.kill()
            await server.wait()
    for what, found in gaps.items():
        print(f"{what:<12} no answer for {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})")
    for side, rates in speeds.items():
        took = sorted(trips[side])
        p99 = took[int(len(took) * 0.99)]
        print(
            f"{side:<12} TCP {statistics.median(rates) / 1e9:.2f} Gbit/s, "
            f"UDP {statistics.median(took) * 1e3:.3f} ms, p99 {p99 * 1e3:.2f} ms"
        )


async def transport(options: argparse.Namespace) -> None:
    """Clusters that differ in link driver and transport, and the kernel's, in turns."""
    kernel = Kernel()
    sides: dict[str, list[Samples]] = {}
    with kernel.running():
        for name, driver in itertools.product(("vxlan", "nooverlay"), options.drivers):
            config = {"nodeToNodeTransport": name, "linkDriver": driver}
            async with DemoCluster(2, dataplane=options.dataplane, config=config) as cluster:
                paths = await contiv_paths(cluster)
                await settled(cluster)
                bench = Bench(cluster.workers, rounds=options.rounds, seconds=MEASURE_S, pings=100)
                results = await bench.run(kernel, paths)
            sides[f"contiv, {name}, {driver}"] = [results["contiv"][ACROSS]]
            sides.setdefault(f"contiv, same node, {driver}", []).append(results["contiv"][SAME])
            for side in ("kernel", "kernel, cut before the wire"):
                sides.setdefault(side, []).append(results[side][ACROSS])
            sides.setdefault("kernel bridge, same node", []).append(results["kernel"][SAME])
    for side, samples in sides.items():
        rates = [rate for each in samples for rate in each.tcp]
        pings = sorted(took for each in samples for took in each.ping)
        print(
            f"{side:<32} TCP {statistics.median(rates) / 1e9:.2f} Gbit/s ({min(rates) / 1e9:.2f} to "
            f"{max(rates) / 1e9:.2f}), ping {statistics.median(pings) * 1e3:.3f} ms, "
            f"p99 {pings[int(len(pings) * 0.99)] * 1e3:.2f} ms, lost {sum(each.lost for each in samples)}"
        )


def main() -> int:
    """Run what is asked for."""
    if len(sys.argv) == 3 and sys.argv[1] in ("serve", "ask"):
        {"serve": serve, "ask": ask}[sys.argv[1]](sys.argv[2])
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("outage", "transport"))
    parser.add_argument("--dataplane", default="auto", choices=("auto", "vpp", "emulator"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drivers", nargs="+", default=["af_packet"], choices=("af_packet", "af_xdp"))
    options = parser.parse_args()
    asyncio.run({"outage": outage, "transport": transport}[options.what](options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
