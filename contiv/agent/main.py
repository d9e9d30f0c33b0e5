"""The agent's composition root: connects etcd and VPP, claims the node ID, wires capabilities to the loop, serves.

Order matters and is this: etcd, the node's ID (addresses follow from it), VPP, the first resync, and only then the CNI
socket, so that kubelet never meets an agent that does not know its pods. VPP may come and go: each time it is back,
what it should hold is compared with what it holds. Ends at SIGTERM with the running transaction finished.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from contiv import __version__, metrics
from contiv.agent.cni import Handler
from contiv.agent.feed import Feed
from contiv.agent.metrics import AgentMetrics
from contiv.agent.rest import Views
from contiv.agent.status import publish
from contiv.cni import server as cni_server
from contiv.config import Config, EtcdConfig
from contiv.controller import Controller, Event, FullResync
from contiv.controller.cluster import ClusterState
from contiv.errors import ConfigError
from contiv.linux import links
from contiv.linux.descriptors import linux_descriptors
from contiv.linux.netlink import Conversation
from contiv.linux.netns import OWN, Workers
from contiv.model.ip import Address, Network
from contiv.model.node import NodeClaim, NodeStatus
from contiv.network.handler import NetworkHandler
from contiv.network.ipam import ClusterSubnets
from contiv.network.naming import POD_NAME_PREFIX
from contiv.network.node_id import claim_node_id, release_node_id
from contiv.network.render_host import Uplink
from contiv.network.state import NetworkState, Options
from contiv.scheduler import Scheduler
from contiv.store.client import Etcd
from contiv.store.transport import AuthConfig, TlsConfig
from contiv.vpp import Vpp, connect
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors
from contiv.vpp.descriptors.base import NO_INDEX, OWNER
from contiv.vpp.lifecycle import Sockets, has_vhost_net

log = structlog.get_logger(__name__)

ETCD_TIMEOUT_S: Final = 5.0
VPP_WAIT_S: Final = 60.0
"""How long the agent waits for a VPP to answer before it gives up and lets ``contiv init`` start it anew."""


class EtcdPersistence:
    """What the network capability asks of etcd."""

    def __init__(self, etcd: Etcd, config: Config, subnets: ClusterSubnets, node: str) -> None:
        self._etcd = etcd
        self._config = config
        self._subnets = subnets
        self._node = node

    async def write(self, changes: Mapping[str, bytes | None]) -> object:
        """Put and delete keys."""
        return await self._etcd.write(changes)

    async def release(self, claim: NodeClaim) -> object:
        """Give up another node's claim."""
        return await release_node_id(self._etcd, claim)

    async def reclaim(self) -> NodeClaim:
        """This node's claim, made or found."""
        configured = self._config.node(self._node).main_vpp_interface.ip
        return await claim_node_id(
            self._etcd,
            self._node,
            uplink_of=lambda number: configured or str(self._subnets.node(number).uplink),
            id_max=self._subnets.node_id_max,
            limit_key=self._subnets.node_id_limit,
        )


async def run(config: Config, *, node: str) -> None:
    """Serve node ``node`` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(
            await Etcd.connect(config.etcd.endpoints, **credentials(config.etcd), timeout_s=ETCD_TIMEOUT_S)
        )
        subnets = ClusterSubnets.of(config)
        persistence = EtcdPersistence(etcd, config, subnets, node)
        me = await persistence.reclaim()
        workers = Workers()
        stack.callback(workers.close)
        uplink = await _uplink(config, node, me, workers)
        sockets = Sockets(run_dir=config.vpp.run_dir)
        vpp = await stack.enter_async_context(connect(sockets.api, name="contiv-agent", reconnect=True))
        agent = _Agent(config, subnets, me, uplink, vpp, workers, persistence)
        await agent.adopt_prepared()
        await agent.serve(etcd, stop)


class _Agent:
    """The parts, wired."""

    def __init__(
        self,
        config: Config,
        subnets: ClusterSubnets,
        me: NodeClaim,
        uplink: Uplink | None,
        vpp: Vpp,
        workers: Workers,
        persistence: EtcdPersistence,
    ) -> None:
        self.config = config
        self.me = me
        self.vpp = vpp
        self.registry = metrics.registry()
        self.health = metrics.Health()
        tap = config.pod_interface == "tap" or (config.pod_interface == "auto" and has_vhost_net())
        options = Options(
            tap=tap,
            prepared_target=config.prepared_interfaces,
            mtu=config.mtu_size,
            vni=config.vxlan_vni,
        )
        self.network = NetworkState(subnets, me, uplink, options)
        self.interfaces = Interfaces()
        self.source = FibSource(vpp)
        self.scheduler = Scheduler([*descriptors(vpp, self.interfaces, self.source), *linux_descriptors(workers)])
        handler = NetworkHandler(self.network, persistence, self._push)
        self.metrics = AgentMetrics(self.registry)
        self.controller: Controller[ClusterState] = Controller(
            self.scheduler, [handler], state=ClusterState(), metrics=self.metrics
        )
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
        feed = Feed(etcd, self.me.name, self.controller.put)
        run_dir = Path(self.config.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        handler = Handler(self.controller.call, self.network, self._unready)
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(asyncio.TaskGroup())
            loop = group.create_task(self.controller.run(), name="controller")
            background = [group.create_task(feed.follow(await feed.start()), name="feed")]
            await self.controller.wait_synced()
            rest = await self._serve_rest(stack)
            await stack.enter_async_context(
                cni_server.serve(handler, socket=run_dir / "cni.sock", observe=self.metrics.cni_call)
            )
            background += [
                group.create_task(publish(etcd, self._status(rest)), name="status"),
                group.create_task(self._follow_vpp(), name="vpp"),
            ]
            log.info("agent ready", node=self.me.name, id=self.me.id, dataplane=self.vpp.version)
            await stop.wait()
            log.info("stopping")
            for task in background:
                task.cancel()
            await self.controller.stop()
            await loop

    async def _serve_rest(self, stack: AsyncExitStack) -> str:
        status = self._status(self.config.rest_listen)
        views = Views(status, self.network, self.controller, self.health.unready)
        address = await stack.enter_async_context(
            metrics.serve(self.config.rest_listen, self.registry, self.health, routes=views.routes())
        )
        return address if address.startswith("unix:") else f"http://{address}"

    async def _follow_vpp(self) -> None:
        """When VPP comes back it is another one: forget its numbers, compare everything."""
        while True:
            reason = await self.vpp.wait_disconnected()
            log.error("VPP is gone", reason=reason)
            await self.vpp.wait_connected()
            log.info("VPP is back", version=self.vpp.version)
            self.source.forget()
            self.controller.push(FullResync(reason="VPP was restarted"))

    def _unready(self) -> str | None:
        if not self.controller.synced:
            return "the first resync is not done"
        return None if self.vpp.connected else "VPP is not connected"

    def _status(self, rest: str) -> NodeStatus:
        node = self.network.node
        return NodeStatus(
            id=self.me.id,
            name=self.me.name,
            version=__version__,
            dataplane=self.vpp.version,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            rest=rest,
            pod_subnet=str(node.pod_subnet),
            pod_cluster_subnet=str(self.network.subnets.pods),
            host_subnet=str(node.host_subnet),
            host_address=str(node.host_linux.address),
            uplink=self.me.uplink,
            vxlan=str(node.vxlan),
        )


def credentials(config: EtcdConfig) -> dict[str, Any]:
    """TLS and user of the configuration, as the etcd client takes them."""
    credentials: dict[str, Any] = {}
    if config.ca_file:
        credentials["tls"] = TlsConfig(
            ca=Path(config.ca_file),
            cert=Path(config.cert_file) if config.cert_file else None,
            key=Path(config.key_file) if config.key_file else None,
        )
    if config.username:
        try:
            password = Path(config.password_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                "etcd.passwordFile", config.password_file, str(error.strerror), remedy="name a readable file"
            ) from error
        credentials["auth"] = AuthConfig(user=config.username, password=password)
    return credentials


async def _uplink(config: Config, node: str, me: NodeClaim, workers: Workers) -> Uplink | None:
    """The node's NIC as the configuration names it; its MAC address is the kernel's, so that filters let it pass."""
    section = config.node(node)
    name = section.main_vpp_interface.interface_name
    if not name:
        return None
    link = await workers.inside(OWN, lambda: _find_link(name))
    if link is None:
        raise ConfigError(
            "nodeConfig.mainVPPInterface.interfaceName", name, "there is no such link", remedy="name a kernel link"
        )
    return Uplink(
        host_if=name,
        mac=link.mac,
        address=Network.parse(me.uplink, strict=False),
        gateway=Address.parse(section.gateway) if section.gateway else None,
    )


def _find_link(name: str) -> links.Link | None:
    with Conversation() as conversation:
        return links.find(conversation, name)
