"""A reflector whose objects hear what became of them: their status is written once etcd holds the verdict.

A status that the API server does not take now is written later; reflecting does not wait for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from contiv.crd.nodeconfigs import NodeConfigs, Status
from contiv.kube.backoff import Backoff
from contiv.kube.errors import KubeFailure
from contiv.kube.listing import PAGE_LIMIT
from contiv.kube.observation import Changes, Event, ListBegun, Observation
from contiv.log import get_logger
from contiv.model import keys
from contiv.network.node_id import parse_claims
from contiv.reflection.reflector import STORE_TIMEOUT_S, Reflector
from contiv.reflection.seat import Seat

NOT_FOUND: Final = 404

log = get_logger(__name__)


class NodeConfigReflector(Reflector):
    """The way of ``NodeConfig`` objects to etcd, and of their status back."""

    def __init__(self, collection: NodeConfigs, seat: Seat, *, page_limit: int = PAGE_LIMIT) -> None:
        super().__init__(collection, seat, page_limit=page_limit)
        self._configs = collection
        self._settled = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report(), name="crd-status")
            try:
                await super().run()
            finally:
                reporting.cancel()

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

    async def _report(self) -> None:
        """Write each status that differs from what its object says, for ever."""
        backoff = Backoff()
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
