"""Leadership: who of several may act, by one key, a lease and a compare.

The key holds the leader's name and hangs on its lease. Whoever creates it leads; it vanishes with its owner's
lease, at the latest one time to live after the owner's last sign of life. ``Leadership.lost`` is set before
that, by our own clock (``contiv.store.lease``), or when somebody took the key away. ``Leadership.guard``
makes etcd itself refuse the writes of a leader that does not know yet that it is none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self

import structlog

from contiv.store.client import Etcd
from contiv.store.errors import LeaseLost, StoreFailure, StoreUnavailable
from contiv.store.lease import Lease
from contiv.store.records import Compare, Get, Put, Record
from contiv.store.transport import backoff_s

log = structlog.get_logger(__name__)

TTL_S: Final = 10
"""A dead leader is replaced after this long; renewals every third of it."""


class Leadership:
    """Won by ``Election.campaign``. An async context manager that resigns at its end."""

    def __init__(self, etcd: Etcd, record: Record, lease: Lease) -> None:
        self.key = record.key
        self.name = record.value.decode()
        self.revision = record.create_revision
        """Grows from leader to leader: a fencing number."""
        self.guard = Compare(record.key, "create_revision", "==", record.create_revision)
        """True in a transaction while this leadership lasts."""
        self.lost = lease.lost
        self._etcd = etcd
        self._lease = lease
        self._observer = asyncio.create_task(self._observe(), name=f"etcd-leader-{record.key}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.resign()

    async def resign(self) -> None:
        """Give the key back at once, as far as etcd can be reached; else it goes with the lease.
        Idempotent."""
        self._observer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._observer
        try:
            await self._lease.revoke()
        except StoreFailure as failure:
            log.warning("leadership_left_to_expire", key=self.key, ttl_s=self._lease.ttl_s, error=str(failure))

    async def _observe(self) -> None:
        """Notice that the key was taken away while the lease lives. Not being able to look counts as lost."""
        try:
            await self._until_taken_away()
        except StoreFailure as failure:
            log.warning("leadership_unobservable", key=self.key, name=self.name, error=str(failure))
        else:
            log.warning("leadership_lost", key=self.key, name=self.name)
        await self._lease.abandon()

    async def _until_taken_away(self) -> None:
        async with self._etcd.watch(self.key, start_revision=self.revision + 1) as watch:
            async for batch in watch:
                if batch.snapshot is not None:
                    record = batch.snapshot.records.get(self.key)
                    gone = record is None or record.create_revision != self.revision
                else:
                    gone = any(event.key == self.key and event.value is None for event in batch.events)
                if gone:
                    return


class Election:
    """One key to be won. ``name`` tells candidates apart and must be unique among them."""

    def __init__(self, etcd: Etcd, key: str, *, name: str, ttl_s: int = TTL_S) -> None:
        self.key = key
        self.name = name
        self._etcd = etcd
        self._ttl_s = ttl_s

    async def campaign(self) -> Leadership:
        """Wait until elected, over failures of etcd; cancel to give up."""
        failures = 0
        while True:
            try:
                return await self._campaign_once()
            except (StoreUnavailable, LeaseLost) as failure:
                failures += 1
                log.info("election_retried", key=self.key, name=self.name, error=str(failure))
                await asyncio.sleep(backoff_s(failures))

    async def leader(self) -> str | None:
        """The leader's name now, or None."""
        record = await self._etcd.get(self.key)
        return record.value.decode() if record else None

    async def observe(self) -> AsyncIterator[str | None]:
        """The leader's name, now and at every change; None while there is none."""
        snapshot = await self._etcd.get_prefix(self.key)
        record = snapshot.records.get(self.key)
        yield record.value.decode() if record else None
        async with self._etcd.watch(self.key, start_revision=snapshot.revision + 1) as watch:
            async for batch in watch:
                if batch.snapshot is not None:
                    record = batch.snapshot.records.get(self.key)
                    yield record.value.decode() if record else None
                for event in batch.events:
                    if event.key == self.key:
                        yield event.value.decode() if event.value is not None else None

    async def _campaign_once(self) -> Leadership:
        lease = await self._etcd.lease(self._ttl_s)
        try:
            while True:
                record, revision = await self._claim(lease)
                if record.lease == lease.id:
                    log.info("leadership_won", key=self.key, name=self.name)
                    return Leadership(self._etcd, record, lease)
                await self._wait_for_vacancy(revision, lease)
        except BaseException:
            with contextlib.suppress(StoreFailure):
                await lease.revoke()
            raise

    async def _claim(self, lease: Lease) -> tuple[Record, int]:
        """The key as it is after trying to create it, ours or another's, and the revision of that view.

        An uncertain outcome is raised; the next campaign has a new lease, and the old key goes with the old
        one.
        """
        result = await self._etcd.txn(
            compare=[Compare.absent(self.key)],
            success=[Put(self.key, self.name.encode(), lease.id), Get(self.key)],
            failure=[Get(self.key)],
        )
        records = result.responses[-1]
        assert isinstance(records, tuple)
        return records[0], result.revision

    async def _wait_for_vacancy(self, revision: int, lease: Lease) -> None:
        """Until the key is gone. LeaseLost when our own lease ends first."""
        async with asyncio.TaskGroup() as group:
            vacancy = group.create_task(self._vacancy(revision))
            lost = group.create_task(lease.lost.wait())
            await asyncio.wait((vacancy, lost), return_when=asyncio.FIRST_COMPLETED)
            vacancy.cancel()
            lost.cancel()
        if lease.lost.is_set():
            raise LeaseLost(
                "campaign", key=self.key, detail="our lease ended while waiting", remedy="it is tried again"
            )

    async def _vacancy(self, revision: int) -> None:
        async with self._etcd.watch(self.key, start_revision=revision + 1) as watch:
            async for batch in watch:
                if batch.snapshot is not None and self.key not in batch.snapshot.records:
                    return
                if any(event.key == self.key and event.value is None for event in batch.events):
                    return
