"""The node's configuration as it is in force: its resource over its section of the file, at the start and later.

At the start the resource counts before NICs are chosen. Later changes of it are followed: other addresses, another
gateway and ``natExternalTraffic`` are a resync of what is desired; other NICs end the agent in order, and the next one
starts with them. What a start of the vswitch alone can change, a NIC that is stolen or on PCI and the driver of the
others, waits for that: whoever let go of a stolen NIC under a running VPP would cut the node off. What the machine
refuses changes nothing: the configuration of before stays in force, also over a restart of the agent, and ``problem``
says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import structlog

from contiv.agent import nics
from contiv.config import Config
from contiv.controller.event import Event, HandlerError, QueueFullError
from contiv.errors import ContivError, SchedulerError, StoreError
from contiv.linux.netns import Workers
from contiv.model import keys
from contiv.model.node import ConfigVerdict
from contiv.network import node_config
from contiv.network.events import NicsChange
from contiv.nodeconfig import Interface, Nics, NodeConfig, fingerprint
from contiv.store.client import Etcd
from contiv.store.mirror import LocalMirror

log = structlog.get_logger(__name__)

RETRY_S: Final = 1.0
WAITS: Final = (
    "what is stolen, on PCI or opened by another driver changes with the next start of contiv init; until then the one "
    "before is in force"
)
KEPT: Final = "the one before stays in force"

T = TypeVar("T")


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a start decided: the resource in force and the configuration with it, the NICs, and what was wrong with the
    resource that etcd has."""

    resource: NodeConfig | None
    wanted: NodeConfig | None
    config: Config
    chosen: nics.Chosen
    problem: str | None = None


async def decide(config: Config, node: str, etcd: Etcd, mirror: LocalMirror, workers: Workers) -> Choice:
    """What this start of the agent runs with; raises what is wrong with the configuration where nothing is left."""
    if config.crd_node_configuration_disabled:
        return Choice(resource=None, wanted=None, config=config, chosen=await nics.choose(config, node, workers))
    before = await node_config.in_force(mirror, node)
    try:
        wanted = await node_config.fetch(etcd, node, otherwise=before, timeout_s=node_config.PATIENCE_S)
    except StoreError as error:
        log.warning("etcd does not tell this node's configuration, the last one counts", error=str(error))
        wanted = before
    problem = None
    if wanted != before:
        started = await node_config.started_with(mirror, node)
        possible = {node_config.bound(config.under(each), node) for each in (before, started)}
        if node_config.bound(config.under(wanted), node) in possible:
            try:
                return await _chosen(config, node, mirror, workers, resource=wanted)
            except ContivError as error:
                problem = f"{error}; {KEPT}"
        else:
            problem = WAITS
        log.error("node configuration not applied", problem=problem)
    choice = await _chosen(config, node, mirror, workers, resource=before)
    return msgspec.structs.replace(choice, wanted=wanted, problem=problem)


async def _chosen(
    config: Config, node: str, mirror: LocalMirror, workers: Workers, *, resource: NodeConfig | None
) -> Choice:
    under = config.under(resource)
    chosen = await nics.choose(under, node, workers)
    await node_config.put_in_force(mirror, node, resource)
    return Choice(resource=resource, wanted=resource, config=under, chosen=chosen)


def hides_pods(config: Config, node: str) -> bool:
    """Whether pods leave the cluster with the node's address."""
    return config.nics(node).nat_external and config.service_renderer != "none"


class Reconfiguration:
    """Follows the resource of one node from the ``choice`` of the agent's start on."""

    def __init__(
        self,
        config: Config,
        choice: Choice,
        mirror: LocalMirror,
        workers: Workers,
        *,
        node: str,
        call: Callable[[Event], Awaitable[object]],
        on_other_nics: Callable[[], None],
    ) -> None:
        """``config`` is the file's; ``call`` has an event processed; ``on_other_nics`` is called when the agent has to
        start anew."""
        self.problem = choice.problem
        self.ended = ""
        self._file = config
        self._config = choice.config
        self._resource = choice.resource
        self._judged = choice.wanted
        self._mirror = mirror
        self._workers = workers
        self._node = node
        self._call = call
        self._on_other_nics = on_other_nics
        self._turn = asyncio.Lock()

    @property
    def verdict(self) -> ConfigVerdict | None:
        """What became of the resource that was judged last; None when there is none."""
        if self._judged is None:
            return None
        return ConfigVerdict(fingerprint=fingerprint(self._judged), problem=self.problem or "")

    async def follow(self, etcd: Etcd) -> None:
        """Apply what changes, for ever."""
        if self._file.crd_node_configuration_disabled:
            return
        async with asyncio.TaskGroup() as group:
            for prefix in (keys.node_config(self._node), keys.NODE_CONFIGS_STATUS):
                group.create_task(self._follow(etcd, prefix))

    async def _follow(self, etcd: Etcd, prefix: str) -> None:
        """Look whenever something happens under the prefix, be it about a node whose name begins like this one's."""
        revision = (await _patiently(lambda: etcd.get_prefix(prefix))).revision
        async with etcd.watch(prefix, start_revision=revision + 1) as watch:
            await self._look(etcd)
            async for _ in watch:
                await self._look(etcd)

    async def _look(self, etcd: Etcd) -> None:
        async with self._turn:
            await self.take(await _patiently(lambda: node_config.fetch(etcd, self._node, otherwise=self._resource)))

    async def take(self, wanted: NodeConfig | None) -> None:
        """Apply a resource (None: it is gone) as far as that is possible under a running VPP."""
        if wanted != self._judged:
            problem = await self._apply(wanted)
            if not self.ended:  # else the next agent is to judge
                self._judged, self.problem = wanted, problem

    async def _apply(self, wanted: NodeConfig | None) -> str | None:
        """Do what a running VPP allows; what keeps the resource from being in force, None when nothing does."""
        if wanted == self._resource:
            return None
        config = self._file.under(wanted)
        if node_config.bound(config, self._node) != node_config.bound(self._config, self._node):
            return _kept(WAITS)
        try:
            chosen = await nics.choose(config, self._node, self._workers)
        except ContivError as error:
            return _kept(f"{error}; {KEPT}")
        if not same_nics(self._config.nics(self._node), config.nics(self._node)):
            self.ended = f"node {self._node} is configured with other NICs; start the agent anew"
            self._on_other_nics()
            return None
        log.info("node configuration changed", resource=wanted)
        await self._render(
            NicsChange(uplink=chosen.uplink, nics=chosen.others, hide_pods=hides_pods(config, self._node))
        )
        await node_config.put_in_force(self._mirror, self._node, wanted)
        self._config, self._resource = config, wanted
        return None

    async def _render(self, change: NicsChange) -> None:
        """Return when the transaction is over. What failed in it is retried and told with its key, as ever."""
        while True:
            try:
                await self._call(change)
            except QueueFullError:
                await asyncio.sleep(RETRY_S)
            except (HandlerError, SchedulerError) as error:
                log.warning("node configuration not complete yet", error=str(error))
                return
            else:
                return


def _kept(problem: str) -> str:
    log.error("node configuration not applied", problem=problem)
    return problem


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What etcd answers, however long that takes."""
    while True:
        try:
            return await ask()
        except StoreError as error:
            log.debug("node configuration not read", error=str(error))
            await asyncio.sleep(RETRY_S)


def same_nics(before: Nics, after: Nics) -> bool:
    """Whether the NICs are the same ones and get their addresses the same way; which address may differ."""
    return _ways(before) == _ways(after)


def _ways(nics: Nics) -> list[Interface]:
    return [msgspec.structs.replace(nic, ip="") for nic in (nics.main, *nics.others)]
