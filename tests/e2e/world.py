"""A demo cluster seen from outside: what Kubernetes, etcd, VPP, Linux and the agents hold of it.

In: a running ``DemoCluster``. Out: ``World`` with kubectl, dumps of each node and waits with limits. Nothing here asks
the agent what it believes, apart from ``rest``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from contiv import vpp
from contiv.demo import commands, probe
from contiv.demo.api import Object, key_of
from contiv.demo.cluster import DemoCluster
from contiv.demo.commands import PREPARED_INTERFACES
from contiv.demo.node import Node
from contiv.demo.wire import Wire
from contiv.linux import links, neighbours, netns, routes
from contiv.linux.netlink import Conversation
from contiv.model import keys
from contiv.store.client import Etcd

KUBECTL: Final = "kubectl"
WAIT_S: Final = 30.0
POLL_S: Final = 0.05
NO_INDEX: Final = 0xFFFFFFFF
CONTIV_KEYS: Final = "/contiv/"
AGENT: Final = " agent "
DATAPLANE: Final = re.compile(r"/bin/vpp |contiv\.emulator\.vpp ")


class Held(msgspec.Struct, frozen=True):
    """What one node's VPP and Linux hold, comparable; ``interfaces`` by tag or name, with VPP's index.

    ``mappings`` are NAT's balanced ones, ``address:port/protocol``; ``lists`` the access lists' tags.
    """

    interfaces: dict[str, int]
    up: frozenset[str]
    routes: frozenset[str]
    neighbours: frozenset[tuple[str, str]]
    links: frozenset[str]
    host_routes: frozenset[str]
    host_neighbours: frozenset[tuple[str, str]]
    mappings: frozenset[str]
    lists: frozenset[str]

    def mentions(self, address: str) -> list[str]:
        """Where an address still stands."""
        found = [f"VPP route {route}" for route in self.routes if route.startswith(f"{address}/")]
        found += [f"VPP neighbour {entry}" for entry in self.neighbours if entry[1] == address]
        found += [f"Linux route {route}" for route in self.host_routes if route.startswith(f"{address}/")]
        found += [f"Linux neighbour {entry}" for entry in self.host_neighbours if entry[1] == address]
        return found


class Steady(msgspec.Struct, frozen=True):
    """Echo requests sent, those of them lost by pair, and the longest time that the sender was late by."""

    sent: int
    late_s: float
    lost: dict[str, int]


class Streams(msgspec.Struct, frozen=True):
    """Numbers said over TCP, the longest that an answer took, segments sent again, and what went wrong by stream."""

    said: int
    slowest_s: float
    retransmitted: int
    broken: dict[str, str]
    unanswered: dict[str, int]


T = TypeVar("T")


class World:
    """The cluster and the ways to look at it."""

    def __init__(self, cluster: DemoCluster) -> None:
        self.cluster = cluster

    # ---- Kubernetes ----------------------------------------------------------------------------------------

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """kubectl's standard output; AssertionError with what it said when it fails."""
        child = await asyncio.create_subprocess_exec(
            KUBECTL,
            *arguments,
            env={**os.environ, "KUBECONFIG": self.cluster.kubeconfig, "HOME": str(self.cluster.rundir.path)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(WAIT_S):
            output, complaint = await child.communicate(stdin.encode())
        assert child.returncode == 0, f"kubectl {' '.join(arguments)}: {complaint.decode()}"
        return output.decode()

    async def create_pod(self, name: str, *, node: int, namespace: str = "default") -> Object:
        """Create a pod on a node with kubectl and wait until it has an address."""
        await self.kubectl("apply", "-f", "-", stdin=json.dumps(pod(name, node=node, namespace=namespace)))
        return (await self.running({f"{namespace}/{name}"}))[f"{namespace}/{name}"]

    async def create_pods(self, pods: list[Object]) -> dict[str, Object]:
        """Create pods over the API, all at once; those that run, by ``namespace/name``."""
        created = await asyncio.gather(*(self.cluster.create(thing) for thing in pods))
        return await self.running({key_of(thing) for thing in created})

    async def running(self, names: set[str]) -> dict[str, Object]:
        """Wait until the pods run."""
        found: dict[str, Object] = {}
        await self.cluster.running(names, seen=found.__setitem__)
        return found

    async def pods(self) -> dict[str, Object]:
        """All pods by ``namespace/name``."""
        answer = await self.cluster.api.request("GET", "/api/v1/pods")
        return {key_of(thing): thing for thing in answer["items"]}

    # ---- a node --------------------------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        """Node ``number``, from 1."""
        return self.cluster.nodes[number - 1]

    def vpp(self, number: int) -> vpp.Vpp:
        """A connection of our own to the node's data plane, as an async context manager."""
        return vpp.connect(str(self.node(number).directory / "vpp" / "api.sock"), name="test")

    async def held(self, number: int) -> Held:
        """Dumps of the node's VPP and of its namespace."""
        async with self.vpp(number) as api:
            dumped = await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
            name_of = {entry.sw_if_index: entry.tag or entry.interface_name for entry in dumped}
            table = {"table_id": 0, "is_ip6": False, "name": ""}
            fib = await api.dump("ip_route_v2", src=0, table=table)
            known = await api.dump("ip_neighbor", sw_if_index=NO_INDEX, af=0)
            mapped = await api.dump("nat44_lb_static_mapping")
            lists = await api.dump("acl", acl_index=NO_INDEX)
        host_links, host_routes, host_neighbours = await self.cluster.workers.inside(self.node(number).netns, _linux)
        return Held(
            interfaces={name: index for index, name in name_of.items()},
            up=frozenset(name_of[entry.sw_if_index] for entry in dumped if int(entry.flags) & 1),
            routes=frozenset(str(entry.route.prefix) for entry in fib),
            neighbours=frozenset(
                (name_of.get(entry.neighbor.sw_if_index, "?"), str(entry.neighbor.ip_address)) for entry in known
            ),
            links=host_links,
            host_routes=host_routes,
            host_neighbours=host_neighbours,
            mappings=frozenset(f"{each.external_addr}:{each.external_port}/{each.protocol}" for each in mapped),
            lists=frozenset(str(each.tag) for each in lists),
        )

    async def rest(self, number: int, path: str) -> Any:
        """What the node's agent answers to ``GET /contiv/v1/<path>``."""
        connector = aiohttp.UnixConnector(str(self.node(number).directory / "run" / "rest.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(
                f"http://agent/contiv/v1/{path}", timeout=aiohttp.ClientTimeout(total=10)
            ) as response:
                assert response.status == 200, await response.text()
                return msgspec.json.decode(await response.read())

    async def rest_when_back(self, number: int, path: str) -> Any:
        """The same from an agent that is being restarted."""
        answer: list[Any] = []

        async def answered() -> bool:
            try:
                answer.append(await self.rest(number, path))
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False
            return True

        await eventually(answered, "the agent's REST answers")
        return answer[0]

    def children_of(self, number: int) -> dict[int, str]:
        """The processes that the node's init runs, with their command lines."""
        return children(self.node(number).init.pid)

    def agent_pid(self, number: int) -> int:
        """The process of the node's agent."""
        return next(pid for pid, command in self.children_of(number).items() if AGENT in command)

    def dataplane_pid(self, number: int) -> int:
        """The process of the node's VPP or of its emulator."""
        return next(pid for pid, command in self.children_of(number).items() if DATAPLANE.search(command))

    def has_agent(self, number: int) -> bool:
        """Whether an agent runs."""
        return any(AGENT in command for command in self.children_of(number).values())

    def has_dataplane(self, number: int) -> bool:
        """Whether a data plane runs."""
        return any(DATAPLANE.search(command) for command in self.children_of(number).values())

    async def settled(self) -> None:
        """Wait until every agent has made its spare interfaces and has nothing to do."""

        async def quiet() -> bool:
            status = [await self.rest_when_back(node.number, "status") for node in self.cluster.nodes]
            return all(
                each["preparedInterfaces"] == PREPARED_INTERFACES and not each["unsettled"] and not each["busy"]
                for each in status
            )

        await eventually(quiet, "the agents have made their spare interfaces and have nothing to do")

    async def lose_node(self, number: int) -> None:
        """SIGKILL for init, agent and data plane: what a power cut does. The kubelet is gone as well."""
        node = self.node(number)
        for task in self.cluster._tasks:
            if task.get_name() in (f"guard {node.name}", f"kubelet {node.name}"):
                task.cancel()
        for pid in (node.init.pid, self.agent_pid(number), self.dataplane_pid(number)):
            os.kill(pid, signal.SIGKILL)
        await node.init.wait()

    async def add_node(self, number: int) -> None:
        """One more node, Ready; its number must be the next."""
        cluster = self.cluster
        node = Node(number, rundir=cluster.rundir, workers=cluster.workers)
        cluster.nodes.append(node)
        wire = Wire(cluster.workers, cluster.rundir.namespace("wire"))
        await node.start(wire, etcd=cluster.etcd, dataplane=cluster._dataplane)
        cluster._guard(node.init)
        kubelet = node.kubelet(cluster.api, commands.plugin_directories())
        cluster.kubelets[node.name] = kubelet
        cluster._task(kubelet.run(), f"kubelet {node.name}")

        async def ready() -> bool:
            return bool(kubelet.host_ip)

        await eventually(ready, f"{node.name} is Ready")

    # ---- etcd ----------------------------------------------------------------------------------------------

    async def etcd(self, prefix: str = CONTIV_KEYS) -> dict[str, bytes]:
        """All keys below a prefix."""
        async with await Etcd.connect([self.cluster.etcd]) as client:
            return {key: record.value for key, record in (await client.get_prefix(prefix)).records.items()}

    def etcd_pid(self) -> int:
        """The process of the cluster's etcd."""
        pid = self.cluster.etcd_server.pid
        assert pid is not None, "etcd does not run"
        return pid

    async def mirrors_kubernetes(self) -> bool:
        """Whether etcd holds every pod and node of the API server, with its addresses, and no others."""
        stored = await self.etcd(keys.K8S)
        for plural, path in (("pods", "/api/v1/pods"), ("nodes", "/api/v1/nodes")):
            answer = await self.cluster.api.request("GET", path)
            wanted = {f"{keys.k8s_kind(plural)}{key_of(thing)}": thing for thing in answer["items"]}
            held = {key: value for key, value in stored.items() if key.startswith(keys.k8s_kind(plural))}
            if wanted.keys() != held.keys():
                return False
            if any(thing["status"].get("podIP", "").encode() not in held[key] for key, thing in wanted.items()):
                return False
        return True

    async def stop_ksr(self) -> None:
        """SIGKILL for the one KSR."""
        for task in self.cluster._tasks:
            if task.get_name() == "guard ksr":
                task.cancel()
        (pid,) = (pid for pid, command in children(os.getpid()).items() if " ksr " in command)
        os.kill(pid, signal.SIGKILL)

    async def start_ksr(self) -> None:
        """Another KSR."""
        await self.cluster._start_ksr()

    # ---- packets -------------------------------------------------------------------------------------------

    async def ping(self, source: Object, target: Object, *, count: int = 3) -> probe.Pings:
        """From pod to pod."""
        return await probe.ping(self.cluster.workers, self.cluster.sandbox_netns(source), address(target), count=count)

    @asynccontextmanager
    async def steady_streams(
        self, pairs: list[tuple[Object, Object]], *, period_s: float
    ) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
        """One TCP connection for each pair, over which something is said and answered once a period.

        The function given ends them and says what came of them.
        """
        streams = [
            {
                "source": self.cluster.sandbox_netns(source),
                "target": self.cluster.sandbox_netns(target),
                "address": address(target),
            }
            for source, target in pairs
        ]
        async with self._speaking("streams", {"period_s": period_s, "streams": streams}) as finish:
            yield lambda: finish(Streams)

    @asynccontextmanager
    async def steady_pings(
        self, pairs: list[tuple[Object, list[Object]]], *, period_s: float
    ) -> AsyncIterator[Callable[[], Awaitable[Steady]]]:
        """Ping from each source to each of its targets once a period, in a process of its own.

        The function given ends it and says what was lost.
        """
        sources = [
            {"netns": self.cluster.sandbox_netns(source), "targets": [address(target) for target in targets]}
            for source, targets in pairs
        ]
        async with self._speaking("pings", {"period_s": period_s, "sources": sources}) as finish:
            yield lambda: finish(Steady)

    @asynccontextmanager
    async def _speaking(self, script: str, spec: object) -> AsyncIterator[Callable[[type[T]], Awaitable[T]]]:
        """Run a script beside this file; the function given ends it and returns what it found."""
        file = self.cluster.rundir.path / f"{script}.json"
        file.write_bytes(msgspec.json.encode(spec))
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(Path(__file__).with_name(f"{script}.py")), str(file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

        async def finish(kind: type[T]) -> T:
            async with asyncio.timeout(WAIT_S):
                output, _ = await child.communicate(b"")
            return msgspec.json.decode(output, type=kind)

        try:
            assert child.stdout is not None
            async with asyncio.timeout(WAIT_S):
                assert await child.stdout.readline() == b"ready\n"
            yield finish
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()

    async def assert_mesh(self, pods: list[Object]) -> None:
        """Every pod gets a reply of every other."""
        pairs = [(source, target) for source in pods for target in pods if source is not target]
        for source, target in pairs:
            pings = await self.ping(source, target)
            assert pings.lost == 0, f"{key_of(source)} to {key_of(target)}: {pings}"

    async def first_reply(self, source: Object, target: Object, *, timeout_s: float = WAIT_S) -> None:
        """Wait until ``target`` answers ``source``."""
        namespace = self.cluster.sandbox_netns(source)
        reply = await probe.first_reply(self.cluster.workers, namespace, address(target), timeout_s=timeout_s)
        assert reply is not None, f"{key_of(source)} to {key_of(target)}: no reply in {timeout_s:g} s"


def pod(name: str, *, node: int, namespace: str = "default") -> Object:
    """A pod object bound to a node; nothing runs in it, its kernel answers pings."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": f"node-{node}",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "pause"}],
        },
    }


def address(thing: Object) -> str:
    """A running pod's address."""
    return str(thing["status"]["podIP"])


async def eventually(holds: Callable[[], Awaitable[bool]], what: str, *, timeout_s: float = WAIT_S) -> None:
    """Poll until it holds: for state of other processes that tell nobody when it changes."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await holds():
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what}") from None


def children(pid: int) -> dict[int, str]:
    """The children of a process with their command lines."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {}
    for child in found:
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        commands[int(child)] = line.replace(b"\0", b" ").decode()
    return commands


def _linux() -> tuple[frozenset[str], frozenset[str], frozenset[tuple[str, str]]]:
    with Conversation() as conversation:
        found = links.every(conversation)
        hops = {str(route.destination) for link in found for route in routes.of_link(conversation, link.index)}
        known = {
            (link.name, str(entry.address)) for link in found for entry in neighbours.of_link(conversation, link.index)
        }
    return frozenset(link.name for link in found), frozenset(hops), frozenset(known)


def namespace_of(name: str) -> str:
    """The path of a namespace that the test makes itself."""
    return netns.path_of(name)
