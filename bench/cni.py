"""CNI as whole processes: Contiv's plugin beside Debian's ``bridge`` with ``host-local``, in one run.

A call is measured from posix_spawn to the child's end, as a runtime sees it. Pods are fresh network namespaces; the
bridge lives in a network namespace of its own, which this program enters before anything else. Needs root.

::

    python bench/cni.py                          the plugin against a handler that does nothing, and bridge
    python bench/cni.py --dataplane vpp          the plugin against an agent on VPP (or emulator), and bridge
    python bench/cni.py --socket /run/contiv/cni.sock    the plugin against an agent that runs, and bridge

For use by other programs: ``Plugin``, ``namespaces``, ``one_by_one``, ``at_once``, ``table``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import one_node

ROOT = Path(__file__).parents[1]
CONTIV = ROOT / "cni" / "contiv-cni"
DEBIAN_PLUGINS = Path("/usr/lib/cni")  # package containernetworking-plugins
CLONE_NEWNET = 0x40000000  # linux/sched.h


@dataclass(frozen=True)
class Plugin:
    """A plugin's binary and the configuration that it gets on standard input."""

    name: str
    binary: Path
    config: dict[str, Any]
    cni_path: Path = DEBIAN_PLUGINS


@dataclass
class Samples:
    """Milliseconds of each ADD and DEL; ``add_total_s`` and ``del_total_s`` from the first start to the last end."""

    add_ms: list[float] = field(default_factory=list)
    del_ms: list[float] = field(default_factory=list)
    add_total_s: float = 0.0
    del_total_s: float = 0.0


def contiv(socket: Path, *, name: str = "contiv", binary: Path = CONTIV) -> Plugin:
    """Contiv's plugin, talking to the agent on ``socket``."""
    config = {"cniVersion": "1.0.0", "name": "bench", "type": "contiv-cni", "agentSocket": str(socket)}
    return Plugin(name, binary, config)


def bridge(data_dir: Path) -> Plugin:
    """The usual reference: a Linux bridge as gateway, addresses from host-local."""
    config = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bridge",
        "bridge": "bench0",
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.77.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(data_dir),
        },
    }
    return Plugin("bridge + host-local", DEBIAN_PLUGINS / "bridge", config)


@contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """``count`` fresh network namespaces, gone afterwards."""
    names = [f"cni-bench-{os.getpid()}-{index}" for index in range(count)]
    made: list[str] = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        yield [f"/run/netns/{name}" for name in names]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


class Caller:
    """Starts a plugin's processes with as little of Python's own time as possible."""

    def __init__(self, plugin: Plugin, directory: Path) -> None:
        self.plugin = plugin
        self._input = directory / "config.json"
        self._input.write_text(json.dumps(plugin.config))
        self._directory = directory

    def start(self, command: str, netns: str, container: str) -> int:
        """The process ID of a call; its standard output goes to a file named after ``container``."""
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.plugin.cni_path),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={container}",
            "PATH": "/usr/sbin:/usr/bin",
        }
        create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        return os.posix_spawn(
            self.plugin.binary,
            [str(self.plugin.binary)],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, str(self._input), os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._output(container)), create, 0o600),
            ],
        )

    def _output(self, container: str) -> Path:
        return self._directory / container

    def judge(self, command: str, container: str, status: int) -> None:
        """RuntimeError with what the plugin printed when the call failed."""
        if os.waitstatus_to_exitcode(status) != 0:
            text = self._output(container).read_text()
            raise RuntimeError(f"{self.plugin.name}: {command} of {container} failed: {text}")


def one_by_one(plugin: Plugin, pods: Sequence[str], *, rounds: int = 1) -> Samples:
    """ADD and DEL for each namespace in turn, ``rounds`` times; the first call of all is not counted."""
    samples = Samples()
    with tempfile.TemporaryDirectory() as directory:
        caller = Caller(plugin, Path(directory))
        for number in range(rounds * len(pods) + 1):
            netns, container = pods[number % len(pods)], f"one-{number}"
            for command, into in (("ADD", samples.add_ms), ("DEL", samples.del_ms)):
                start = time.perf_counter()
                _, status = os.waitpid(caller.start(command, netns, container), 0)
                into.append((time.perf_counter() - start) * 1e3)
                caller.judge(command, container, status)
    del samples.add_ms[0], samples.del_ms[0]
    samples.add_total_s, samples.del_total_s = sum(samples.add_ms) / 1e3, sum(samples.del_ms) / 1e3
    return samples


def _all(caller: Caller, command: str, pods: Sequence[str]) -> tuple[list[float], float]:
    started: dict[int, tuple[float, str]] = {}
    times: list[float] = []
    failures: list[tuple[str, int]] = []
    begin = time.perf_counter()
    for number, netns in enumerate(pods):
        container = f"burst-{number}"
        now = time.perf_counter()
        started[caller.start(command, netns, container)] = (now, container)
    for _ in pods:
        pid, status = os.wait()
        start, container = started[pid]
        times.append((time.perf_counter() - start) * 1e3)
        if status:
            failures.append((container, status))
    total = time.perf_counter() - begin
    for container, status in failures:
        caller.judge(command, container, status)
    return times, total


def at_once(plugin: Plugin, pods: Sequence[str]) -> Samples:
    """ADD for all namespaces at once, then DEL. No other child of this process may end meanwhile."""
    samples = Samples()
    with tempfile.TemporaryDirectory() as directory:
        caller = Caller(plugin, Path(directory))
        samples.add_ms, samples.add_total_s = _all(caller, "ADD", pods)
        samples.del_ms, samples.del_total_s = _all(caller, "DEL", pods)
    return samples


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def table(title: str, samples: Samples) -> str:
    """Two lines for people."""
    lines = []
    for command, values, total in (
        ("ADD", samples.add_ms, samples.add_total_s),
        ("DEL", samples.del_ms, samples.del_total_s),
    ):
        lines.append(
            f"{title:44} {command}  n={len(values):4}  median {statistics.median(values):8.2f} ms"
            f"  p99 {percentile(values, 99):8.2f} ms  total {total:7.3f} s"
        )
    return "\n".join(lines)


SERVER = """
import asyncio, logging, sys
from pathlib import Path
import structlog
from contiv.cni import model, server
from contiv.model.ip import Address, Network

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
ADDRESS = model.CniAddress(address=Network.parse("10.1.1.2/32"), gateway=Address.parse("10.1.1.1"), interface=0)
ROUTE = model.CniRoute(dst=Network.parse("0.0.0.0/0"), gw=Address.parse("10.1.1.1"))

class Handler:
    async def add(self, request):
        interface = model.CniInterface(name=request.ifname, mac="02:fe:00:00:00:01", sandbox=request.netns)
        return model.AddResult(interfaces=(interface,), ips=(ADDRESS,), routes=(ROUTE,))
    async def delete(self, request): pass

async def main():
    async with server.serve(Handler(), socket=Path(sys.argv[1])):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@contextmanager
def idle_server() -> Iterator[Path]:
    """A server process whose handler does nothing: what remains is the price of plugin and gRPC."""
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "cni.sock"
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(socket)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield socket
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def enter_own_namespace() -> None:
    """Everything that this process starts from now on sees a network of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise PermissionError(ctypes.get_errno(), "unshare(CLONE_NEWNET); the benchmark needs root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main() -> None:
    """Measure what the command line asks for and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--socket", type=Path, help="socket of a running agent; without it a handler that does nothing")
    parser.add_argument("--dataplane", choices=("auto", "vpp", "emulator"), help="start a node of its own with this")
    parser.add_argument("--calls", type=int, default=100, help="calls one by one")
    parser.add_argument("--burst", type=int, default=100, help="calls at once")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.dataplane:
            run_dir = stack.enter_context(one_node.node(options.dataplane))
            options.socket = run_dir / "node-1" / "run" / "cni.sock"
        enter_own_namespace()
        pods = stack.enter_context(namespaces(options.burst))
        socket = options.socket or stack.enter_context(idle_server())
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        name = "contiv" if options.socket else "contiv, handler does nothing"
        for plugin in (contiv(socket, name=name), bridge(data_dir)):
            single = pods[: min(len(pods), 10)]
            rounds = max(1, options.calls // len(single))
            print(table(f"{plugin.name}, one by one", one_by_one(plugin, single, rounds=rounds)))
            print(table(f"{plugin.name}, {len(pods)} at once", at_once(plugin, pods)))


if __name__ == "__main__":
    main()
