"""One kind reflected: lists are marked and swept against etcd, changes written in batches, failures end in a
new sweep.

In: ``contiv.kube.observe``. Out: guarded writes under the kind's prefix, and its status once a list is
complete. The guard makes etcd refuse everything that a deposed instance may still send. While etcd is slow or
away the stream is not read: the API server's buffers fill, and nothing piles up here; when a write fails for
good, the next attempt reads etcd anew and lists again. Next: agents, by their watch on etcd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import msgspec

from contiv.errors import StoreError
from contiv.ksr.metrics import KsrMetrics
from contiv.ksr.mirror import ChangeSet, Mirror
from contiv.kube.backoff import Backoff
from contiv.kube.client import KubeClient
from contiv.kube.errors import KubeFailure
from contiv.kube.listing import PAGE_LIMIT
from contiv.kube.observation import Changes, ListBegun, ListEnded, Observation, Page
from contiv.kube.watching import observe
from contiv.log import get_logger
from contiv.model import keys, kube
from contiv.model.kubewire import ObjectError
from contiv.store.client import Etcd
from contiv.store.errors import StoreConflict
from contiv.store.records import Compare

STORE_TIMEOUT_S: Final = 10.0
"""How long one transaction is tried before the sweep begins anew: an etcd that restarts is back well before.
"""
STORE_BACKOFF_LAST_S: Final = 2.0
"""Between sweeps that fail; each attempt waits for etcd by itself as well."""

log = get_logger(__name__)


class Reflector:
    """One kind's way from the API server to etcd. ``run`` it while leading."""

    def __init__(
        self,
        kind: kube.AnyKind,
        *,
        client: KubeClient,
        etcd: Etcd,
        guard: Sequence[Compare],
        instance: str,
        metrics: KsrMetrics,
        page_limit: int = PAGE_LIMIT,
    ) -> None:
        self.kind = kind
        self.synced = False
        self._client = client
        self._etcd = etcd
        self._guard = tuple(guard)
        self._instance = instance
        self._metrics = metrics
        self._page_limit = page_limit
        self._mirror = Mirror(kind, refuse=self._refuse_object)
        self._log = log.bind(kind=kind.plural)

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
        observed = observe(self._client, self.kind.collection_path, report=self._report_failure, limit=self._page_limit)
        async with aclosing(observed) as observations:
            async for observation in observations:
                await self._take(observation)
                if isinstance(observation, ListEnded):
                    on_sync()

    async def _take(self, observation: Observation) -> None:
        match observation:
            case ListBegun():
                snapshot = await self._etcd.get_prefix(self.kind.prefix, timeout_s=STORE_TIMEOUT_S)
                self._mirror.begin({key: record.value for key, record in snapshot.records.items()})
            case Page(items=items):
                await self._write(self._mirror.mark(items))
            case ListEnded(resource_version=version):
                await self._write(self._mirror.sweep())
                await self._finish(version)
            case Changes(events=events):
                arrived_s = asyncio.get_running_loop().time()
                await self._write(self._mirror.apply(events))
                lag_s = asyncio.get_running_loop().time() - arrived_s
                self._metrics.events.labels(self.kind.plural).inc(len(events))
                self._metrics.lag.labels(self.kind.plural).observe(lag_s)

    async def _write(self, changes: ChangeSet) -> None:
        plural = self.kind.plural
        if changes.writes:
            await self._etcd.write(changes.writes, guard=self._guard, timeout_s=STORE_TIMEOUT_S)
        self._metrics.adds.labels(plural).inc(changes.adds)
        self._metrics.updates.labels(plural).inc(changes.updates)
        self._metrics.deletes.labels(plural).inc(changes.deletes)
        self._metrics.objects.labels(plural).set(len(self._mirror))

    async def _finish(self, resource_version: str) -> None:
        """The list is in etcd, completely: say so."""
        status = kube.KsrStatus(
            plural=self.kind.plural,
            instance=self._instance,
            resource_version=resource_version,
            objects=len(self._mirror),
            synced_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        key = keys.ksr_status(self.kind.plural)
        await self._etcd.write({key: msgspec.json.encode(status)}, guard=self._guard, timeout_s=STORE_TIMEOUT_S)
        self._set_synced(True)
        self._metrics.resyncs.labels(self.kind.plural).inc()
        self._log.info("kind_synced", resource_version=resource_version, objects=len(self._mirror))

    def _set_synced(self, synced: bool) -> None:
        self.synced = synced
        self._metrics.synced.labels(self.kind.plural).set(synced)

    def _count_error(self, source: str) -> None:
        self._metrics.errors.labels(self.kind.plural, source).inc()

    def _report_failure(self, failure: KubeFailure) -> None:
        """A list or watch failed; ``observe`` goes on by itself."""
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
