"""A resync of a full node: one that is already right, and one whose VPP was killed, beside VPP's own time for it.

A node of the demo with 110 pods, 2,000 policies and 10,000 services. First the agent is asked for a resync, and then
killed and started anew: both find everything right. Then VPP is killed; VPP's own trace (``api trace``) records every
message that the agent sends to the next one. The recorded messages that change something then go, pre-encoded and
pipelined by a plain C client (``fastpath_client.c``), into one more VPP while the agent is stopped: those that make
interfaces by themselves, for that is the kernel's time, the others after them. Needs root and VPP.

::

    python bench/resync.py [--services 10000] [--policies 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import one_node
import policy_events

import contiv.vpp
from contiv.demo.cluster import DemoCluster
from contiv.demo.node import Node
from contiv.errors import VppError
from contiv.linux import rcu

ENDPOINTS: Final = 2
TRACED_MAX: Final = 1 << 18
TRACE_FILE: Final = struct.Struct(">IIB")
"""Records, size of the message table, wrapped: vlibapi/api.h."""
FRAME: Final = struct.Struct(">QII")
"""What precedes each message on the socket: vlibmemory/socket_api.c."""
READS: Final = ("_dump", "_get", "control_ping", "show_version", "api_versions", "sockclnt_create", "memclnt")
MAKES_INTERFACES: Final = ("af_packet_create", "create_loopback", "tap_create", "vxlan_add_del_tunnel")
WAIT_S: Final = 300.0
FULL: Final = "full-resync"
Object = dict[str, Any]


def service(number: int) -> list[Object]:
    """A service without selector, and its endpoints, which are pods of other nodes."""
    meta = {"name": f"service-{number}", "namespace": f"ns-{number % policy_events.NAMESPACES}"}
    addresses = [f"10.1.{100 + number // 250 % 100}.{2 + (number + place) % 250}" for place in range(ENDPOINTS)]
    labels = {"kubernetes.io/service-name": meta["name"]}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "name": f"{meta['name']}-a", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [each], "nodeName": "elsewhere"} for each in addresses],
        },
    ]


class Agent:
    """The node's REST interface, through restarts."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def ask(self, path: str, *, post: bool = False) -> Any:
        """One answer."""
        connector = aiohttp.UnixConnector(str(self.node.directory / "run" / "rest.sock"))
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            call = session.post if post else session.get
            async with call(f"http://agent/contiv/v1/{path}") as reply:
                return await reply.json()

    async def until(self, holds: Callable[[Object], bool]) -> Object:
        """The status, once it is so."""
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    status: Object = await self.ask("status")
                    if holds(status) and status["synced"] and not status["busy"] and not status["unsettled"]:
                        return status
                await asyncio.sleep(0.05)

    async def events(self) -> int:
        """How many it has had."""
        return max(int(each["number"]) for each in await self.ask("events"))

    def pid(self, *words: str) -> int:
        """The process of init's whose command line has one of the words."""
        children = Path(f"/proc/{self.node.init.pid}/task/{self.node.init.pid}/children").read_text().split()
        (found,) = [
            int(pid)
            for pid in children
            if any(word in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for word in words)
        ]
        return found

    @property
    def api(self) -> str:
        """VPP's socket."""
        return str(self.node.directory / "vpp" / "api.sock")

    async def kill_vpp(self) -> None:
        """And wait until the next one answers."""
        killed = self.pid("/bin/vpp ")
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(ValueError, VppError, OSError):
                    if self.pid("/bin/vpp ") != killed:
                        async with contiv.vpp.connect(self.api, name="bench"):
                            return
                await asyncio.sleep(0.02)


class Resync(NamedTuple):
    """Seconds from its start to its end, operations, and VPP's messages."""

    seconds: float
    operations: int
    messages: Counter[str]
    recorded: list[bytes]


class Recorder:
    """VPP's trace of the messages that it received."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    @contextlib.asynccontextmanager
    async def recording(self) -> AsyncIterator[list[bytes]]:
        """Messages that VPP receives meanwhile, as bytes, in order; they are there at the end."""
        found: list[bytes] = []
        await self._cli(f"api trace on nitems {TRACED_MAX}")
        yield found
        with tempfile.NamedTemporaryFile(dir="/tmp", prefix="contiv-bench-") as file:  # VPP writes to /tmp only
            name = Path(file.name).name
            Path(file.name).unlink()
            await self._cli(f"api trace save {name}")
            found += records(Path(file.name).read_bytes())
        await self._cli("api trace off")

    async def named(self, recorded: Iterable[bytes]) -> list[tuple[str, bytes]]:
        """The messages with their names."""
        async with contiv.vpp.connect(self._agent.api, name="bench") as client:
            names = {number: key.rpartition("_")[0] for key, number in client.table.items()}
        return [(names[int.from_bytes(each[:2], "big")], each) for each in recorded]

    async def _cli(self, command: str) -> None:
        async with contiv.vpp.connect(self._agent.api, name="bench") as client:
            await client.call("cli_inband", cmd=command)


def records(data: bytes) -> Iterator[bytes]:
    """The messages of a trace file."""
    count, table, wrapped = TRACE_FILE.unpack_from(data)
    if wrapped:
        raise ValueError(f"VPP's trace holds {TRACED_MAX} messages and got more: fewer services")
    at = TRACE_FILE.size + table
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


async def resync(agent: Agent, recorder: Recorder, cause: Callable[[], Any], *, kind: str, after: int) -> Resync:
    """What ``cause`` makes the agent do: its first such event after that number."""
    async with recorder.recording() as recorded:
        await cause()
        events: list[Object] = []
        while not events:
            await agent.until(lambda status: True)
            fresh = [each for each in await agent.ask("events") if each["kind"] == kind and each.get("ended")]
            events = [each for each in fresh if each["number"] > after][-1:]
    (event,) = events
    summary = str(event["summary"])
    named = await recorder.named(recorded)
    words = summary.split(": ")[1].split() if ": " in summary else ["0"]
    operations = int(words[0]) if words[0].isdecimal() else 0
    return Resync(event["ended"] - event["started"], operations, Counter(name for name, _ in named), recorded)


async def replay(agent: Agent, recorder: Recorder, recorded: list[bytes], folder: Path) -> tuple[float, float, int]:
    """Seconds that a new VPP takes for the messages that make interfaces, for the others, and how many these are."""
    named = [(name, each) for name, each in await recorder.named(recorded) if not name.endswith(READS)]
    making = [each for name, each in named if name.startswith(MAKES_INTERFACES)]
    others = [each for name, each in named if not name.startswith(MAKES_INTERFACES)]
    source = Path(__file__).with_name("fastpath_client.c")
    flags = ["-std=c11", "-O2", "-D_POSIX_C_SOURCE=200809L"]
    subprocess.run(["cc", *flags, str(source), "-o", str(folder / "client")], check=True)
    times = []
    for part in (making, others):
        file = folder / "requests"
        file.write_bytes(b"".join(FRAME.pack(0, len(each), 0) + each for each in part))
        argv = [str(folder / "client"), agent.api, str(file), str(len(part))]
        done = await asyncio.to_thread(subprocess.run, argv, check=True, capture_output=True)
        times.append(float(done.stdout))
    return times[0], times[1], len(others)


async def fill(cluster: DemoCluster, policies: int, services: int) -> None:
    """The cluster's objects."""
    policy_events.PODS = policy_events.LOCAL  # type: ignore[misc]
    policy_events.POLICIES = policies  # type: ignore[misc]
    await policy_events.fill(cluster)
    await policy_events.at_once(cluster.api.create(each) for number in range(services) for each in service(number))


async def measure(options: argparse.Namespace) -> None:
    """All of it, printed as it comes."""
    config = {"preparedInterfaces": one_node.PREPARED}
    async with DemoCluster(1, dataplane="vpp", config=config) as cluster:
        agent = Agent(cluster.nodes[0])
        recorder = Recorder(agent)
        await fill(cluster, options.policies, options.services)
        objects = (await agent.until(lambda status: status["objects"] > options.services))["objects"]
        print(f"{objects} objects in VPP and Linux: {options.services} services, {options.policies} policies")

        async def ask() -> None:
            await agent.ask("resync", post=True)

        right = await resync(agent, recorder, ask, kind="downstream-resync", after=await agent.events())
        show("asked for, all is right", right)

        async def kill_agent() -> None:
            killed = agent.pid(" agent ")
            began = time.perf_counter()
            os.kill(killed, signal.SIGKILL)
            while True:
                with contextlib.suppress(ValueError, OSError):
                    if agent.pid(" agent ") != killed:
                        break
                await asyncio.sleep(0.01)
            await agent.until(lambda status: True)
            print(f"agent killed: the next one is ready after {time.perf_counter() - began:.2f} s")

        show("agent's start, all is right", await resync(agent, recorder, kill_agent, kind=FULL, after=0))
        events = await agent.events()
        stopped = agent.pid(" agent ")
        os.kill(stopped, signal.SIGSTOP)
        await agent.kill_vpp()

        async def go_on() -> None:
            os.kill(stopped, signal.SIGCONT)
            await asyncio.sleep(1)

        anew = await resync(agent, recorder, go_on, kind="downstream-resync", after=events)
        show("VPP killed", anew)
        os.kill(stopped, signal.SIGSTOP)
        await agent.kill_vpp()
        with tempfile.TemporaryDirectory() as folder:
            expedition = rcu.Expedition(Path(folder))
            with expedition.waiting(), expedition.waiting():  # as the agent does
                making, others, count = await replay(agent, recorder, anew.recorded, Path(folder))
        os.kill(stopped, signal.SIGCONT)
        print(
            f"the same {count} messages pre-encoded: {others:.3f} s, and {making:.3f} s for what makes interfaces\n"
            f"without the latter the agent takes {(anew.seconds - making) / others:.1f} times VPP's time (at most 5)"
        )
        await agent.until(lambda status: True)


def show(title: str, found: Resync) -> None:
    """One line, and the messages by name."""
    frequent = ", ".join(f"{name} {count}" for name, count in found.messages.most_common(8))
    print(
        f"{title}: {found.seconds:.2f} s, {found.operations} operations, {found.messages.total()} messages ({frequent})"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--policies", type=int, default=2_000)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
