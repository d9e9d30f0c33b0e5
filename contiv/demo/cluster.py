"""The demo cluster as a whole: etcd, API server, KSR, crd, nodes; up, watched, and gone without a trace.

In: how many nodes, which data plane, which API server. Out: a ``DemoCluster`` with Ready nodes that makes
pods real. Everything it starts is stopped in the opposite order, then the run directory's sweep takes what is
left. A process that ends by itself ends the demo with an error that shows its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import yaml

from contiv import processes
from contiv.demo import commands, outside, traces
from contiv.demo.api import Api, ApiRefusal, Object, key_of
from contiv.demo.endpoints import EndpointSlices
from contiv.demo.kubelet import Kubelet
from contiv.demo.node import Node, name_of
from contiv.demo.outside import Outside
from contiv.demo.placement import Placement
from contiv.demo.rundir import RunDirectory
from contiv.demo.wire import Wire
from contiv.errors import DemoError
from contiv.linux.netns import Workers
from contiv.model.ip import Address
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd

API_READY_S: Final = 20.0
NODES_READY_S: Final = 60.0
PODS_READY_S: Final = 60.0
WITHDRAW_S: Final = 20.0
LEASES_S: Final = 60.0
"""VPP's DHCP client waits ever longer before it asks again."""
LEASES_POLL_S: Final = 0.1
NODES_MAX: Final = 64
STUCK_SHOWN: Final = 10

Say = Callable[[str], None]


class DemoCluster:
    """An async context manager; inside, all nodes are Ready.

    ``config`` has keys of a node's configuration that differ from the demo's; ``nics`` is one of ``commands.NICS``.
    ``with_outside`` says whether there is a host outside of the cluster, the nodes' router; some ``nics`` need it.
    """

    def __init__(
        self,
        nodes: int = 2,
        *,
        dataplane: str = "auto",
        kubeconfig: str | None = None,
        directory: Path | None = None,
        config: Mapping[str, Any] | None = None,
        nics: str = "two",
        with_outside: bool = False,
        say: Say = lambda _: None,
    ) -> None:
        if not 1 <= nodes <= NODES_MAX:
            raise DemoError(f"nodes = {nodes}: out of range; choose a number from 1 to {NODES_MAX}")
        self._count = nodes
        self._dataplane = dataplane
        self._config = dict(config or {})
        if nics not in commands.NICS:
            raise DemoError(f"nics = {nics!r}: unknown; choose one of {', '.join(commands.NICS)}")
        self.nics = nics
        self._wants_outside = with_outside or nics != "two"
        self._given_kubeconfig = kubeconfig
        self.say = say
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.rundir = RunDirectory(directory)
        self.outside: Outside | None = None
        self.nodes: list[Node] = []
        self.kubelets: dict[str, Kubelet] = {}
        self.kubeconfig = kubeconfig or ""
        self.etcd = ""
        self._traces = False
        self._created: list[str] = []
        self.etcd_server: EmbeddedEtcd
        self.workers: Workers
        self.api: Api

    async def __aenter__(self) -> Self:
        try:
            await self._build()
        except BaseException as error:
            # what was built is taken down as if the body had failed
            if not await self.__aexit__(type(error), error, error.__traceback__):
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.say("cleaning up")
        # first of all nobody may take the stopping for a failure
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._withdraw()
        finally:
            suppressed = await self._stack.__aexit__(kind, error, trace)
        return suppressed

    async def _withdraw(self) -> None:
        """Take from an API server that stays what the demo put there."""
        if not self._traces:
            return
        try:
            async with asyncio.timeout(WITHDRAW_S):
                await traces.remove_nodes(self.api, [node.name for node in self.nodes])
                await traces.remove_objects(self.api, self._created)
        except (ApiRefusal, aiohttp.ClientError, TimeoutError) as error:
            self.say(f"objects of the demo stay in the API server: {type(error).__name__} {error}")

    # ---- up ----------------------------------------------------------------------------------------------

    async def _build(self) -> None:
        enter = self._stack.enter_async_context
        plugins = commands.plugin_directories()
        await enter(self.rundir)
        self.workers = Workers()
        self._stack.callback(self.workers.close)
        self._group = await enter(asyncio.TaskGroup())
        self.say("starting etcd")
        self.etcd_server = await enter(EmbeddedEtcd(self.rundir.path / "etcd"))
        self.etcd = self.etcd_server.unix_endpoint
        self.say("starting the API server" if not self._given_kubeconfig else "reaching the API server")
        await self._start_api()
        await self._start_ksr()
        if self._given_kubeconfig:
            await traces.remove_nodes(self.api, [name_of(number) for number in range(1, self._count + 1)])
            self._traces = True
        self.say(f"starting {self._count} nodes")
        await self._start_nodes()
        await self._start_crd()
        for node in self.nodes:
            self.kubelets[node.name] = node.kubelet(self.api, plugins)
            self._task(self.kubelets[node.name].run(), f"kubelet {node.name}")
        names = frozenset(node.name for node in self.nodes)
        self._task(Placement(self.api, names).run(), "placement")
        self._task(EndpointSlices(self.api).run(), "endpoint slices")
        await self._nodes_ready()

    async def _start_api(self) -> None:
        if not self._given_kubeconfig:
            self.kubeconfig = str(self.rundir.path / "kubeconfig")
            place = Path(self.kubeconfig)

            async def written() -> bool:
                return await asyncio.to_thread(place.exists)

            argv = commands.emulated_api(kubeconfig=place)
            server = await self._process("kube", argv)
            await processes.ready(server, written, timeout_s=API_READY_S, what="kubeconfig")
        self.api = await self._stack.enter_async_context(Api(self.kubeconfig))
        try:
            async with asyncio.timeout(API_READY_S):
                await self.api.ready()
        except TimeoutError:
            raise DemoError(
                f"API server of {self.kubeconfig}: not ready after {API_READY_S:g} s; check that it runs"
            ) from None

    async def _start_ksr(self) -> None:
        await self._process("ksr", commands.ksr(kubeconfig=self.kubeconfig, etcd=self.etcd))

    async def _start_crd(self) -> None:
        """Custom resources: their definitions, and who reads them over the nodes' own sections."""
        definitions = commands.definitions()
        if not definitions:
            return
        for place in definitions:
            await self.create(yaml.safe_load(place.read_text()))
        sections = {section["nodeName"]: section for node in self.nodes for section in node.sections}
        config = self.rundir.path / "crd.yaml"
        config.write_text(yaml.safe_dump({**self._config, "nodeConfig": list(sections.values())}))
        await self._process("crd", commands.crd(kubeconfig=self.kubeconfig, etcd=self.etcd, config=config))

    async def _start_nodes(self) -> None:
        self._stack.push_async_callback(self._stop_nodes)
        wire = Wire(self.workers, self.rundir.namespace("wire"))
        await wire.build()
        gateway = await self._build_outside(wire)
        for number in range(1, self._count + 1):
            node = Node(number, rundir=self.rundir, workers=self.workers)
            self.nodes.append(node)
            await node.start(
                wire,
                etcd=self.etcd,
                dataplane=self._dataplane,
                nics=self.nics,
                gateway=gateway,
                config=self._config,
            )
            self._guard(node.init)

    async def _build_outside(self, wire: Wire) -> Address | None:
        """The host outside, where one is wanted; its address."""
        if not self._wants_outside:
            return None
        self.outside = Outside(self.workers, self.rundir.namespace("world"), self.rundir.path)
        self._stack.push_async_callback(self.outside.stop)
        await self.outside.build(wire)
        if self.nics == "dhcp":
            await self.outside.serve_dhcp()
        return outside.ADDRESS.address

    async def route_outside(self) -> None:
        """Let the host outside know the way to the pods of every node, once all of them have an address."""
        if self.outside is not None:
            try:
                async with asyncio.timeout(LEASES_S), await Etcd.connect([self.etcd]) as etcd:
                    while True:
                        if await self.outside.learn(etcd) == len(self.nodes):
                            return
                        await asyncio.sleep(LEASES_POLL_S)
            except TimeoutError:
                raise DemoError(f"not every node has an address on the wire after {LEASES_S:g} s") from None

    async def _stop_nodes(self) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes))

    async def _nodes_ready(self) -> None:
        try:
            async with asyncio.timeout(NODES_READY_S):
                for kubelet in self.kubelets.values():
                    await kubelet.ready.wait()
        except TimeoutError:
            waiting = {name for name, kubelet in self.kubelets.items() if not kubelet.ready.is_set()}
            raise self._not_ready(waiting) from None

    def _not_ready(self, names: set[str]) -> processes.ProcessFailed:
        first = next(node for node in self.nodes if node.name in names)
        reason = self.kubelets[first.name].problems.get(first.name, "the network plugin did not say why")
        problem = f"not Ready after {NODES_READY_S:g} s ({reason})"
        return first.init.failed(problem)

    # ---- pods --------------------------------------------------------------------------------------------

    async def create(self, thing: Object) -> Object:
        """Create an object of a manifest, or take the one that is there."""
        path = await self.api.collection(thing)
        try:
            created = await self.api.create(thing)
            self._created.append(f"{path}/{thing['metadata']['name']}")
        except ApiRefusal as refusal:
            if refusal.reason != "AlreadyExists":
                raise
            created = await self.api.request("GET", f"{path}/{thing['metadata']['name']}")
        if thing["kind"] == "Namespace":
            await self._service_account(thing["metadata"]["name"])
        return created

    async def _service_account(self, namespace: str) -> None:
        """A real API server admits no pod without it, and without its controllers nobody else makes it."""
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        try:
            await self.api.create(account, namespace=namespace)
            self._created.append(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        except ApiRefusal as refusal:
            if refusal.reason != "AlreadyExists":
                raise

    async def running(self, pods: set[str], *, seen: Callable[[str, Object], None]) -> None:
        """Wait until every pod (``namespace/name``) runs with an address; ``seen`` hears of each once, at
        once.
        """
        waiting = set(pods)
        try:
            async with asyncio.timeout(PODS_READY_S), aclosing(self.api.watch("/api/v1/pods")) as watched:
                async for known in watched:
                    for key in waiting & known.keys():
                        if known[key].get("status", {}).get("podIP"):
                            waiting.discard(key)
                            seen(key, known[key])
                    if not waiting:
                        return
        except TimeoutError:
            raise DemoError(self._stuck(waiting)) from None

    def _stuck(self, waiting: set[str]) -> str:
        known = {name: problem for kubelet in self.kubelets.values() for name, problem in kubelet.problems.items()}
        lines = [f"{len(waiting)} pods are not running after {PODS_READY_S:g} s:"]
        unknown = "not bound to a node, or still being set up"
        lines += [f"  {key}: {known.get(key.partition('/')[2], unknown)}" for key in sorted(waiting)[:STUCK_SHOWN]]
        return "\n".join(lines)

    def sandbox_netns(self, pod: Object) -> str:
        """The namespace of a pod that runs; the node's for one on the host's network."""
        node = next(node for node in self.nodes if node.name == pod["spec"]["nodeName"])
        sandbox = self.kubelets[node.name].sandboxes.get(pod["metadata"]["uid"])
        if sandbox is None and not pod["spec"].get("hostNetwork"):
            raise DemoError(f"pod {key_of(pod)}: has no sandbox on {node.name} any more; was it deleted?")
        return node.netns if sandbox is None else sandbox.netns

    # ---- tasks and processes -----------------------------------------------------------------------------

    async def _process(self, name: str, argv: list[str]) -> processes.Process:
        process = await processes.start(name, argv, log=self.rundir.path / f"{name}.log")
        self._stack.push_async_callback(process.stop)
        self._guard(process)
        return process

    def _guard(self, process: processes.Process) -> None:
        """End the demo when the process ends by itself."""

        async def watch() -> None:
            code = await process.wait()
            raise process.failed(f"ended with code {code}")

        self._task(watch(), f"guard {process.name}")

    def _task(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(self._group.create_task(work, name=name))
