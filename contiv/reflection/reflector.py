"""One collection reflected: lists are marked and swept against etcd, changes written in batches, failures end in a
new sweep.

In: ``contiv.kube.observe``. Out: guarded writes under the collection's prefix, and its status once a list is
complete. The guard makes etcd refuse everything that a deposed instance may still send. While etcd is slow or
away the stream is not read: the API server's buffers fill, and nothing piles up here; when a write fails for
good, the next attempt reads etcd anew and lists again. Next: agents, by their watch on etcd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import msgspec

from contiv.errors import StoreError
from contiv.kube.backoff import Backoff
from contiv.kube.errors import KubeFailure
from contiv.kube.listing import PAGE_LIMIT
from contiv.kube.observation import Changes, ListBegun, ListEnded, Observation, Page
from contiv.kube.watching import observe
from contiv.log import get_logger
from contiv.model import kube
from contiv.model.kubewire import ObjectError
from contiv.reflection.collection import Collection
from contiv.reflection.mirror import ChangeSet, Mirror
from contiv.reflection.seat import Seat
from contiv.store.errors import StoreConflict

STORE_TIMEOUT_S: Final = 10.0
"""How long one transaction is tried before the sweep begins anew: an etcd that restarts is back well before.
"""
STORE_BACKOFF_LAST_S: Final = 2.0
"""Between sweeps that fail; each attempt waits for etcd by itself as well."""

log = get_logger(__name__)


class Reflector:
    """One collection's way from the API server to etcd. ``run`` it while leading."""

    def __init__(self, collection: Collection, seat: Seat, *, page_limit: int = PAGE_LIMIT) -> None:
        self.collection = collection
        self.synced = False
        self.seat = seat
        self._metrics = seat.metrics
        self._page_limit = page_limit
        self.mirror = Mirror(collection, refuse=self._refuse_object)
        self._log = log.bind(kind=collection.plural)

    async def run(self) -> None:
        """Reflect until cancelled. StoreConflict when etcd says that another instance leads."""
        backoff = Backoff(last_s=STORE_BACKOFF_LAST_S)
        try:
            while True:
                try:
                    await self._reflect(on_sync=backoff.reset)
                except StoreConflict:
                    raise
                except StoreError as error:
                    self._set_synced(False)
                    self._count_error("store")
                    self._log.warning("reflection_interrupted", error=str(error))
                    await asyncio.sleep(backoff.next_s())
        finally:
            self._set_synced(False)

    async def _reflect(self, *, on_sync: Callable[[], None]) -> None:
        """Observe and write until a write fails."""
        observed = observe(self.seat.client, self.collection.path, report=self.report_failure, limit=self._page_limit)
        async with aclosing(observed) as observations:
            async for observation in observations:
                await self.take(observation)
                if isinstance(observation, ListEnded | Changes):
                    await self.settle()
                if isinstance(observation, ListEnded):
                    on_sync()

    async def settle(self) -> None:
        """etcd holds all that was observed so far; nothing more to do, unless a collection has more."""

    async def take(self, observation: Observation) -> None:
        """Bring what was observed to etcd."""
        match observation:
            case ListBegun():
                snapshot = await self.seat.etcd.get_prefix(self.collection.prefix, timeout_s=STORE_TIMEOUT_S)
                self.mirror.begin({key: record.value for key, record in snapshot.records.items()})
            case Page(items=items):
                await self.write(self.mirror.mark(items))
            case ListEnded(resource_version=version):
                await self.write(self.mirror.sweep())
                await self._finish(version)
            case Changes(events=events):
                arrived_s = asyncio.get_running_loop().time()
                await self.write(self.mirror.apply(events))
                lag_s = asyncio.get_running_loop().time() - arrived_s
                self._metrics.events.labels(self.collection.plural).inc(len(events))
                self._metrics.lag.labels(self.collection.plural).observe(lag_s)

    async def write(self, changes: ChangeSet) -> None:
        """Make etcd hold the changes."""
        plural = self.collection.plural
        if changes.writes:
            await self.seat.etcd.write(changes.writes, guard=[self.seat.guard], timeout_s=STORE_TIMEOUT_S)
        self._metrics.adds.labels(plural).inc(changes.adds)
        self._metrics.updates.labels(plural).inc(changes.updates)
        self._metrics.deletes.labels(plural).inc(changes.deletes)
        self._metrics.objects.labels(plural).set(len(self.mirror))

    async def _finish(self, resource_version: str) -> None:
        """The list is in etcd, completely: say so."""
        status = kube.KsrStatus(
            plural=self.collection.plural,
            instance=self.seat.instance,
            resource_version=resource_version,
            objects=len(self.mirror),
            synced_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        key = self.collection.status_key
        await self.seat.etcd.write(
            {key: msgspec.json.encode(status)}, guard=[self.seat.guard], timeout_s=STORE_TIMEOUT_S
        )
        self._set_synced(True)
        self._metrics.resyncs.labels(self.collection.plural).inc()
        self._log.info("kind_synced", resource_version=resource_version, objects=len(self.mirror))

    def _set_synced(self, synced: bool) -> None:
        self.synced = synced
        self._metrics.synced.labels(self.collection.plural).set(synced)

    def _count_error(self, source: str) -> None:
        self._metrics.errors.labels(self.collection.plural, source).inc()

    def report_failure(self, failure: KubeFailure) -> None:
        """A request to the API server failed; whoever made it goes on by itself."""
        self._count_error("api")
        self._log.warning("api_failed", error=str(failure))

    def _refuse_object(self, error: ObjectError) -> None:
        self._count_error("object")
        self._log.warning(
            "object_unreadable",
            namespace=error.namespace,
            name=error.name,
            field=error.field,
            problem=error.problem,
        )
