"""The agent's composition root: connects etcd and VPP, claims the node ID, wires capabilities to the loop, serves.

Order matters and is this: the mirror, etcd, the node's configuration and its NICs, its ID (addresses follow from it),
VPP, the first resync, and only then the CNI socket, so that kubelet never meets an agent that does not know its pods.
An etcd that does not answer is no obstacle to a node whose mirror knows its ID. VPP may come and go: each time it is
back, what it should hold is compared with what it holds. SIGTERM ends it with the running transaction finished, and at
once while it still waits for etcd or VPP. Ends with an error, to be started anew, when etcd or VPP do not answer at the
start, when another node took its ID (all its addresses would be somebody else's), and when the node's configuration
names other NICs.
"""

from __future__ import annotations

import asyncio
import gc
import re
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from contiv import __version__, metrics
from contiv.agent import cnat
from contiv.agent.cni import Handler
from contiv.agent.custody import Custody
from contiv.agent.feed import Feed
from contiv.agent.leases import Leases
from contiv.agent.metrics import AgentMetrics
from contiv.agent.persistence import Persistence
from contiv.agent.policies import Policies
from contiv.agent.reconfiguration import Choice, Reconfiguration, decide, hides_pods
from contiv.agent.rest import Views
from contiv.agent.services import Services
from contiv.agent.status import publish
from contiv.cni import server as cni_server
from contiv.config import Config
from contiv.controller import Controller, DownstreamResync, Event, FullResync, Settings
from contiv.controller.cluster import ClusterState
from contiv.credentials import credentials
from contiv.errors import NetworkError, VppError
from contiv.linux import rcu
from contiv.linux.descriptors import linux_descriptors
from contiv.linux.netns import Workers
from contiv.model.ip import Network
from contiv.model.node import ConfigVerdict, NodeClaim, NodeStatus
from contiv.model.vpp import PREFIX as VPP_PREFIX
from contiv.network.handler import NetworkHandler
from contiv.network.ipam import ClusterSubnets
from contiv.network.naming import POD_NAME_PREFIX
from contiv.network.state import NetworkState, Options
from contiv.scheduler import Scheduler
from contiv.store.client import Etcd
from contiv.store.errors import StoreUnavailable
from contiv.store.mirror import LocalMirror, mirror_path
from contiv.vpp import Vpp, connect
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors
from contiv.vpp.descriptors.base import NO_INDEX, OWNER
from contiv.vpp.lifecycle import Sockets, has_vhost_net

log = structlog.get_logger(__name__)

ETCD_TIMEOUT_S: Final = 5.0
VPP_WAIT_S: Final = 60.0
"""How long the agent waits for a VPP to answer before it gives up and lets ``contiv init`` start it anew."""
VPP_RETRY_S: Final = 0.5
GC_THRESHOLD: Final = 20_000
"""New objects that make the cyclic collector look for garbage. A full resync makes hundreds of thousands, in no circle:
at Python's 700 the collector took a tenth of its time, to find nothing."""


async def run(config: Config, *, node: str) -> None:
    """Serve node ``node`` until SIGTERM or SIGINT."""
    gc.set_threshold(GC_THRESHOLD)
    stop, started = asyncio.Event(), asyncio.Event()
    starting = asyncio.timeout(None)

    def terminate() -> None:
        if not started.is_set() and not stop.is_set():
            starting.reschedule(0.0)  # its time is over: whatever is waited for is cancelled
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, terminate)
    async with AsyncExitStack() as stack:
        try:
            async with starting:
                agent, etcd = await _start(stack, config, node, on_end=stop.set)
                started.set()
        except TimeoutError:
            if not starting.expired():
                raise
            log.info("stopped before it was ready")
            return
        await agent.serve(etcd, stop)


async def _start(
    stack: AsyncExitStack, config: Config, node: str, *, on_end: Callable[[], None]
) -> tuple[_Agent, Etcd]:
    """Everything that an agent waits for before it can resync; what it opens, ``stack`` closes."""
    mirror = await stack.enter_async_context(await LocalMirror.open(mirror_path(config.state_dir)))
    etcd = await stack.enter_async_context(
        await Etcd.connect(config.etcd.endpoints, **credentials(config.etcd), timeout_s=ETCD_TIMEOUT_S, wait=False)
    )
    subnets = ClusterSubnets.of(config)
    workers = Workers()
    stack.callback(workers.close)
    choice = await decide(config, node, etcd, mirror, workers)
    persistence = Persistence(etcd, mirror, subnets, node=node, uplink=choice.chosen.claimed(), on_moved=on_end)
    me = await _claim(persistence)
    vpp = await _connect_vpp(stack, Sockets(run_dir=config.vpp.run_dir).api)
    if config.service_renderer == "cnat":
        await cnat.require(vpp)
    agent = _Agent(config, choice, subnets, me, vpp, workers, persistence, mirror, on_end)
    await agent.adopt_prepared()
    return agent, etcd


async def _claim(persistence: Persistence) -> NodeClaim:
    """The node's ID: claimed in etcd, or the one that it had when etcd cannot be asked."""
    await persistence.remember()
    try:
        return await persistence.reclaim()
    except StoreUnavailable as error:
        claim = persistence.resume()
        if claim is None:
            raise
        log.warning("etcd does not answer, running with the ID of before", id=claim.id, error=str(error))
        return claim


async def _connect_vpp(stack: AsyncExitStack, path: str) -> Vpp:
    """The VPP behind ``path``, which may still be starting; its error after VPP_WAIT_S."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + VPP_WAIT_S
    while True:
        try:
            return await stack.enter_async_context(connect(path, name="contiv-agent", reconnect=True))
        except VppError as error:
            if loop.time() >= deadline:
                raise
            log.info("waiting for VPP", error=str(error), retry_s=VPP_RETRY_S)
            await asyncio.sleep(VPP_RETRY_S)


class _Agent:
    """The parts, wired."""

    def __init__(
        self,
        file: Config,
        choice: Choice,
        subnets: ClusterSubnets,
        me: NodeClaim,
        vpp: Vpp,
        workers: Workers,
        persistence: Persistence,
        mirror: LocalMirror,
        on_end: Callable[[], None],
    ) -> None:
        config, chosen = choice.config, choice.chosen
        self.config = config
        self.me = me
        self.vpp = vpp
        self.persistence = persistence
        self.mirror = mirror
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._generation = vpp.generation
        self._feed: Feed | None = None
        self.registry = metrics.registry()
        self.health = metrics.Health()
        tap = config.pod_interface == "tap" or (config.pod_interface == "auto" and has_vhost_net())
        options = Options(
            tap=tap,
            prepared_target=config.prepared_interfaces,
            mtu=config.mtu_size,
            vni=config.vxlan_vni,
            transport=config.node_to_node_transport,
            policies=True,
            cnat=config.service_renderer == "cnat",
            hide_pods=hides_pods(config, me.name),
            large_segments=not config.nics(me.name).by_xdp,
        )
        uplink = chosen.uplink
        if uplink is not None and uplink.address is None and me.uplink:
            uplink = msgspec.structs.replace(uplink, address=Network.parse(me.uplink, strict=False))
        self.network = NetworkState(subnets, me, uplink, options, nics=chosen.others)
        self.interfaces = Interfaces()
        self.source = FibSource(vpp)
        self.services = Services(config, self.network, vpp, self.interfaces, self._push)
        self.scheduler = Scheduler(
            [
                *descriptors(vpp, self.interfaces, self.source, hurry=_hurry(config)),
                *self.services.descriptors,
                *linux_descriptors(workers),
            ]
        )
        handler = NetworkHandler(self.network, persistence, self._push)
        services = [self.services.handler] if config.service_renderer != "none" else []
        self.policies = Policies(self.network, *services, push=self._push)
        self.metrics = AgentMetrics(self.registry)
        settings = Settings(periodic_resync_s=config.periodic_healing_interval_s or None)
        self.controller: Controller[ClusterState] = Controller(
            self.scheduler,
            [handler, *services, self.policies.handler],
            state=ClusterState(),
            settings=settings,
            metrics=self.metrics,
        )
        self.custody = Custody(config, chosen.stolen, vpp, self.scheduler, self.network) if chosen.stolen else None
        self.reconfiguration = Reconfiguration(
            file, choice, mirror, workers, node=me.name, call=self.controller.call, on_other_nics=on_end
        )
        self.leases = Leases(vpp, self.interfaces, self.network)
        self.health.add_liveness("controller", self.controller.problem)
        self.health.add_readiness("first resync", self._unready)

    def _push(self, event: Event) -> None:
        """For the handler, which exists before the controller does."""
        self.controller.push(event)

    async def adopt_prepared(self) -> None:
        """Keep as many interfaces ahead as VPP holds already, so that a restart of the agent changes none."""
        if self.network.options.tap:
            return
        slot = re.compile(rf"{OWNER}{POD_NAME_PREFIX}(\d+)")
        details = await self.vpp.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
        numbers = [int(match[1]) for entry in details if (match := slot.fullmatch(entry.tag))]
        self.network.slots.grow(max(numbers, default=-1) + 1)

    async def serve(self, etcd: Etcd, stop: asyncio.Event) -> None:
        """Run everything until ``stop``."""
        self._feed = feed = Feed(etcd, self.persistence, self.mirror, node=self.me.name, push=self.controller.put)
        run_dir = Path(self.config.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        handler = Handler(self.controller.call, self.network, self._unready)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.services.close)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            await feed.start()
            if self.custody is not None:  # not before: what was just read may have come in by that NIC
                await self.custody.steal()
            loop = group.create_task(self.controller.run(), name="controller")
            background = [
                group.create_task(feed.follow(), name="feed"),
                group.create_task(self.persistence.settle(), name="persistence"),
                group.create_task(self._follow_vpp(), name="vpp"),
                group.create_task(self.leases.follow(self._push), name="leases"),
                group.create_task(self.reconfiguration.follow(etcd), name="reconfiguration"),
            ]
            if self.custody is not None:
                background.append(group.create_task(self.custody.keep(), name="custody"))
            if await _sooner(self.controller.wait_synced(), stop.wait()):
                rest = await self._serve_rest(stack)
                await stack.enter_async_context(
                    cni_server.serve(handler, socket=run_dir / "cni.sock", observe=self.metrics.cni_call)
                )
                status = publish(etcd, lambda: self._status(rest), changed=self.persistence.readdressed)
                background.append(group.create_task(status, name="status"))
                log.info("agent ready", node=self.me.name, id=self.me.id, dataplane=self.vpp.version)
                await stop.wait()
            log.info("stopping")
            for task in background:
                task.cancel()
            await self.controller.stop()
            await loop
        if ended := self.persistence.moved or self.reconfiguration.ended:
            raise NetworkError(ended)

    async def _serve_rest(self, stack: AsyncExitStack) -> str:
        status = self._status(self.config.rest_listen)
        views = Views(status, self.network, self.controller, self._problems)
        routes = [*views.routes(), *self.services.routes(), *self.policies.routes()]
        address = await stack.enter_async_context(
            metrics.serve(self.config.rest_listen, self.registry, self.health, routes=routes)
        )
        return address if address.startswith("unix:") else f"http://{address}"

    async def _follow_vpp(self) -> None:
        """When VPP comes back it is another one: forget its numbers, compare everything before anything else."""
        while True:
            if self.vpp.generation == self._generation:
                log.error("VPP is gone", reason=await self.vpp.wait_disconnected())
            if self.custody is not None:  # what the host is given stands in for the NIC, and would cut it off beside it
                self.scheduler.hold("the kernel may have its NIC back")
            # at once: an old number may mean another interface in the VPP that comes
            self.source.forget()
            self.interfaces.replace({})
            await self.vpp.wait_connected()
            if self.custody is not None:
                await self.custody.steal()
                self.scheduler.release()
            self._generation = self.vpp.generation
            log.info("VPP is back", version=self.vpp.version)
            if self.controller.synced:  # what is desired stands; Linux too, unless the NIC changed hands meanwhile
                under = VPP_PREFIX if self.custody is None else ""
                self.controller.follow_up(DownstreamResync(reason="VPP was restarted", under=under))
            else:  # the first resync brings what the cluster is; nothing may overtake it
                self.controller.push(FullResync(reason="VPP was restarted"))

    def _problems(self) -> dict[str, str]:
        """What is wrong, whether or not the node can do its work meanwhile."""
        problems = self.health.unready()
        if self.mirror.problem is not None:
            problems["mirror"] = self.mirror.problem
        if self.mirror.set_aside is not None:
            problems["former mirror"] = f"unreadable, kept as {self.mirror.set_aside}; remove it when it is of no use"
        if self.policies.problem is not None and self.controller.synced:
            problems["policies"] = self.policies.problem
        if self.reconfiguration.problem is not None:
            problems["nodeConfig"] = self.reconfiguration.problem
        if self._feed is not None and self._feed.problem is not None:
            problems["unreadable"] = self._feed.problem
        if self.persistence.unsent:
            problems["etcd"] = f"{self.persistence.unsent} keys are not written yet; they are in the mirror"
        return problems

    def _unready(self) -> str | None:
        if not self.controller.synced:
            return "the first resync is not done"
        return None if self.vpp.connected else "VPP is not connected"

    def _verdict(self) -> ConfigVerdict | None:
        """What became of the node's resource: not in force as long as something of the node itself is not there."""
        verdict, unsettled = self.reconfiguration.verdict, self.scheduler.unsettled
        if verdict is None or verdict.problem or not unsettled:
            return verdict
        for key in sorted(self.network.host_keys() & unsettled.keys()):
            return msgspec.structs.replace(verdict, problem=str(unsettled[key].error or f"{key}: not there yet"))
        return verdict

    def _status(self, rest: str) -> NodeStatus:
        node = self.network.node
        return NodeStatus(
            id=self.me.id,
            name=self.me.name,
            version=__version__,
            dataplane=self.vpp.version,
            started_at=self._started_at,
            rest=rest,
            pod_subnet=str(node.pod_subnet),
            pod_cluster_subnet=str(self.network.subnets.pods),
            host_subnet=str(node.host_subnet),
            host_address=str(node.host_linux.address),
            uplink=self.network.me.uplink,
            vxlan=str(node.vxlan),
            node_config=self._verdict(),
        )


def _hurry(config: Config) -> Callable[[], AbstractContextManager[None]]:
    return rcu.Expedition(Path(config.run_dir)).waiting if config.expedite_rcu else nullcontext


async def _sooner(wanted: Coroutine[Any, Any, object], otherwise: Coroutine[Any, Any, object]) -> bool:
    """Whether ``wanted`` was done when the first of the two was; the other one is cancelled."""
    tasks = [asyncio.ensure_future(wanted), asyncio.ensure_future(otherwise)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
