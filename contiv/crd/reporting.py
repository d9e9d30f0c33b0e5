"""A reflector whose objects hear what became of them: their status is written once etcd holds the verdict, and again
when the node's agent says in its own status whether the object is in force.

A status that the API server does not take now is written later; reflecting does not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from contiv.crd.nodeconfigs import NodeConfigs, Status
from contiv.errors import StoreError
from contiv.kube.backoff import Backoff
from contiv.kube.errors import KubeFailure
from contiv.kube.listing import PAGE_LIMIT
from contiv.kube.observation import Changes, Event, ListBegun, Observation
from contiv.log import get_logger
from contiv.model import keys
from contiv.model.node import ConfigVerdict
from contiv.network.node_id import parse_claims
from contiv.reflection.reflector import STORE_BACKOFF_LAST_S, STORE_TIMEOUT_S, Reflector
from contiv.reflection.seat import Seat

NOT_FOUND: Final = 404


class _Told(msgspec.Struct, frozen=True, rename="camel"):
    """What matters here of an agent's status (``contiv.model.node.NodeStatus``)."""

    node_config: ConfigVerdict | None = None


_told: Final = msgspec.json.Decoder(_Told)

log = get_logger(__name__)


class NodeConfigReflector(Reflector):
    """The way of ``NodeConfig`` objects to etcd, and of their status back."""

    def __init__(self, collection: NodeConfigs, seat: Seat, *, page_limit: int = PAGE_LIMIT) -> None:
        super().__init__(collection, seat, page_limit=page_limit)
        self._configs = collection
        self._settled = asyncio.Event()
        self._agents_heard = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._report(), name="crd-status"),
                group.create_task(self._listen(), name="crd-agents"),
            ]
            try:
                await super().run()
            finally:
                for helper in helpers:
                    helper.cancel()

    async def take(self, observation: Observation) -> None:
        if isinstance(observation, ListBegun | Changes):
            snapshot = await self.seat.etcd.get_prefix(keys.NODE_IDS, timeout_s=STORE_TIMEOUT_S)
            self._configs.nodes(parse_claims(snapshot.values).values())
        await super().take(observation)

    async def settle(self) -> None:
        """Judge again what another object may have been in the way of; then there is something to say."""
        while again := self._configs.to_judge_again():
            await self.write(self.mirror.apply([Event("MODIFIED", raw) for raw in again]))
        self._settled.set()

    async def _listen(self) -> None:
        """Follow what the agents say, for ever."""
        backoff = Backoff(last_s=STORE_BACKOFF_LAST_S)
        while True:
            try:
                await self._follow_agents(on_sync=backoff.reset)
            except StoreError as error:
                log.warning("agents_not_followed", error=str(error))
                await asyncio.sleep(backoff.next_s())

    async def _follow_agents(self, *, on_sync: Callable[[], None]) -> None:
        etcd = self.seat.etcd
        known = await etcd.get_prefix(keys.NODE_STATUS, timeout_s=STORE_TIMEOUT_S)
        self._hear(dict(known.values), whole=True)
        on_sync()
        async with etcd.watch(keys.NODE_STATUS, start_revision=known.revision + 1) as watch:
            async for batch in watch:
                if batch.snapshot is not None:
                    self._hear(dict(batch.snapshot.values), whole=True)
                self._hear({change.key: change.value for change in batch.events})

    def _hear(self, told: Mapping[str, bytes | None], *, whole: bool = False) -> None:
        """Take what agents say by key; ``whole``: the others say nothing."""
        if whole:
            self._configs.forget_verdicts()
        for key, value in told.items():
            self._configs.heard(key.removeprefix(keys.NODE_STATUS), _verdict(value))
        self._agents_heard.set()
        self._settled.set()

    async def _report(self) -> None:
        """Write each status that differs from what its object says, for ever."""
        backoff = Backoff()
        await self._agents_heard.wait()  # else what is in force would be told as not applied yet, for a moment
        while True:
            await self._settled.wait()
            self._settled.clear()
            try:
                for name, status in self._configs.untold().items():
                    await self._write_status(name, status)
            except KubeFailure as failure:
                self.report_failure(failure)
                self._settled.set()
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def _write_status(self, name: str, status: Status) -> None:
        try:
            await self.seat.client.patch(
                f"{self.collection.path}/{name}/status", msgspec.json.encode({"status": status})
            )
        except KubeFailure as failure:
            if failure.status != NOT_FOUND:  # else deleted meanwhile
                raise
        log.info("status_written", name=name, state=status.state, message=status.message)


def _verdict(status: bytes | None) -> ConfigVerdict | None:
    """An agent's word on its node's resource; None of one that is gone, or of a release that says nothing."""
    try:
        return None if status is None else _told.decode(status).node_config
    except msgspec.DecodeError as error:
        log.warning("agent_unreadable", error=str(error))
        return None
