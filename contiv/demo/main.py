"""``contiv demo``: build the cluster, create the pods, measure, show, and leave nothing behind.

In: the options of the command. Out: exit code 0 when every path works, 1 when one does not or the cluster
could not be built, 130 after Ctrl-C. The composition root of this package.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from contiv.demo import manifest, paths, probe, table
from contiv.demo.api import Object, key_of
from contiv.demo.cluster import DemoCluster
from contiv.demo.paths import Endpoint, Outcome
from contiv.demo.table import Arrival
from contiv.errors import ContivError, DemoError

FIRST_REPLY_S: Final = 20.0
INTERRUPTED: Final = 130
DATAPLANES: Final = ("auto", "vpp", "emulator")


def demo(
    nodes: int = 2,
    *,
    dataplane: str = "auto",
    manifests: Path | None = None,
    keep: bool = False,
    kubeconfig: str | None = None,
    directory: Path | None = None,
    nics: str = "two",
    transport: str = "vxlan",
    outside: bool = True,
    console: Console | None = None,
) -> int:
    """Run the demo cluster and return the exit code; see the module. ``outside``: a host beside it takes part."""
    console = console or Console(stderr=False)
    try:
        _refuse(dataplane)
        things = manifest.load(manifests, nodes=nodes)
        run = Demo(
            DemoCluster(
                nodes,
                dataplane=dataplane,
                kubeconfig=kubeconfig,
                directory=directory,
                nics=nics,
                with_outside=outside,
                config={"nodeToNodeTransport": transport},
            ),
            things,
            console,
            keep=keep,
        )
        if sys.version_info < (3, 12):  # its default watcher keeps a thread for every child; later ones use pidfds
            asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
        return asyncio.run(run.interruptible())
    except ContivError as error:
        _show(console, error)
    except BaseExceptionGroup as group:
        for leaf in leaves(group):
            _show(console, leaf)
    return 1


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The errors in a group of groups, each text once."""
    seen = set()
    for error in group.exceptions:
        for leaf in leaves(error) if isinstance(error, BaseExceptionGroup) else (error,):
            if str(leaf) not in seen:
                seen.add(str(leaf))
                yield leaf


class Demo:
    """One run."""

    def __init__(self, cluster: DemoCluster, things: list[Object], console: Console, *, keep: bool) -> None:
        self._console = console
        self._things = things
        self._keep = keep
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            console=console,
            transient=True,
        )
        self._cluster = cluster
        cluster.say = self._say
        self._started = time.perf_counter()
        self._interrupted = False

    async def interruptible(self) -> int:
        """Run; the first SIGINT or SIGTERM ends it in order, more of them change nothing."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if not self._interrupted:
                self._interrupted = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        try:
            return await self._run()
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            self._console.print("interrupted; everything is gone again")
            return INTERRUPTED

    async def _run(self) -> int:
        async with self._cluster:
            arrivals, endpoints = await self._bring_pods()
            await self._cluster.route_outside()
            outcomes = await self._check(endpoints)
            good = self._show(arrivals, outcomes)
            if self._keep:
                self._explain(endpoints)
                await asyncio.Event().wait()
        return 0 if good else 1

    # ---- steps -------------------------------------------------------------------------------------------

    async def _bring_pods(self) -> tuple[list[Arrival], list[Endpoint]]:
        """Create everything; pods with the clock running."""
        pods: dict[str, tuple[Object, float]] = {}
        for thing in self._things:
            if thing["kind"] != "Pod":
                await self._cluster.create(thing)
        wanted = [thing for thing in self._things if thing["kind"] == "Pod"]
        self._say(f"creating {len(wanted)} pods")

        async def create(pod: Object) -> None:
            created = await self._cluster.create(pod)
            pods[key_of(created)] = (created, time.perf_counter())

        async with asyncio.TaskGroup() as group:
            for pod in wanted:
                group.create_task(create(pod))
        replies: dict[str, asyncio.Task[float | None]] = {}
        running: dict[str, Object] = {}

        async with asyncio.TaskGroup() as group:

            def seen(key: str, pod: Object) -> None:
                running[key] = pod
                replies[key] = group.create_task(self._first_reply(pod))

            await self._cluster.running(set(pods), seen=seen)
        arrivals = []
        for key in sorted(running):
            replied = replies[key].result()
            pod = running[key]
            elapsed = None if replied is None else replied - pods[key][1]
            arrivals.append(Arrival(key, pod["spec"]["nodeName"], pod["status"]["podIP"], elapsed))
        return arrivals, self._endpoints(running)

    async def _first_reply(self, pod: Object) -> float | None:
        """From the pod's own node to the pod."""
        node = next(node for node in self._cluster.nodes if node.name == pod["spec"]["nodeName"])
        address = pod["status"]["podIP"]
        return await probe.first_reply(self._cluster.workers, node.netns, address, timeout_s=FIRST_REPLY_S)

    def _endpoints(self, running: dict[str, Object]) -> list[Endpoint]:
        hosts = [
            Endpoint("host", node.name, node.name, node.netns, self._cluster.kubelets[node.name].host_ip)
            for node in self._cluster.nodes
        ]
        pods = [
            Endpoint(
                "pod",
                key,
                pod["spec"]["nodeName"],
                self._cluster.sandbox_netns(pod),
                pod["status"]["podIP"],
            )
            for key, pod in sorted(running.items())
            if not pod["spec"].get("hostNetwork")
        ]
        return hosts + pods + self._world()

    def _world(self) -> list[Endpoint]:
        """The host outside, and with one NIC the addresses that the hosts share with VPP."""
        outside = self._cluster.outside
        found = [] if outside is None else [Endpoint("outside", "outside", "", outside.netns, outside.address)]
        if self._cluster.nics == "one":
            nodes = self._cluster.nodes
            found += [Endpoint("nic", node.name, node.name, node.netns, str(node.nic.address)) for node in nodes]
        return found

    async def _check(self, endpoints: list[Endpoint]) -> list[Outcome]:
        chosen = paths.between(endpoints)
        self._say(f"checking {len(chosen)} paths")
        with self._progress as progress:
            bar = progress.add_task("ping and TCP", total=paths.steps(chosen))
            return await paths.check(self._cluster.workers, chosen, advance=lambda: progress.advance(bar))

    # ---- words -------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        elapsed = time.perf_counter() - self._started
        self._console.print(f"[dim]{elapsed:6.2f} s[/dim]  {text}", highlight=False)

    def _show(self, arrivals: list[Arrival], outcomes: list[Outcome]) -> bool:
        self._console.print()
        self._console.print(table.pods_table(arrivals))
        self._console.print(table.paths_table(outcomes))
        for line in table.failures(outcomes):
            self._console.print(line, style="red", markup=False, highlight=False)
        good = table.verdict(outcomes, arrivals)
        self._console.print("every path works" if good else "not every path works", style="bold")
        return good

    def _explain(self, endpoints: list[Endpoint]) -> None:
        """How to use what is kept running."""
        node = self._cluster.nodes[0]
        pod = next((end for end in endpoints if end.kind == "pod"), None)
        lines = [
            f"kubectl    export KUBECONFIG={self._cluster.kubeconfig}; kubectl get pods -A -o wide",
            f"netctl     netctl --etcd {self._cluster.etcd} nodes",
            f"vppctl     vppctl -s {node.directory / 'vpp' / 'cli.sock'} show interface",
            f"node       nsenter --net={node.netns} bash",
        ]
        if pod is not None:
            lines.append(f"pod        nsenter --net={pod.netns} bash")
        lines.append(f"logs       {self._cluster.rundir.path}")
        self._console.print("\nThe cluster stays until Ctrl-C.", style="bold")
        for line in lines:
            self._console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _refuse(dataplane: str) -> None:
    if dataplane not in DATAPLANES:
        raise DemoError(f"dataplane = {dataplane!r}: unknown; choose one of {', '.join(DATAPLANES)}")
    if os.geteuid() != 0:
        raise DemoError("the demo needs root: it makes network namespaces, veth pairs and raw sockets; use sudo")


def _show(console: Console, error: BaseException) -> None:
    text = str(error) if isinstance(error, ContivError) else f"{type(error).__name__}: {error}"
    console.print(f"demo: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
