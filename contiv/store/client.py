"""The etcd client: keys, transactions, batches, leases, watches.

In: keys as text, values as bytes. Out: frozen records, or an error of ``contiv.store.errors`` that names
operation, key, endpoint and remedy. It knows nothing about what the values mean.

What is sent again when the connection breaks (``contiv.store.transport``):

- reads: always;
- ``put``, ``delete``, ``delete_prefix``, ``write``: also when the first may have been applied, because doing
  them twice leaves the same state. That holds since each key has one writer (``contiv.model.keys``); watchers
  may see the same value twice under two revisions, and ``delete`` may say False for what its own first
  attempt deleted;
- ``txn``: only when it is certain that nothing was applied. Else ``StoreUnavailable.uncertain``: read, then
  decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pyetcd.etcdrpc import rpc_pb2 as rpc

from contiv.store.errors import StoreCompacted, StoreConflict, StoreRefused
from contiv.store.lease import Lease
from contiv.store.records import (
    Compare,
    Delete,
    Op,
    Put,
    Record,
    Snapshot,
    Status,
    TxnResult,
    compare_to_wire,
    encode_key,
    op_size,
    op_to_wire,
    prefix_range,
    record_from_wire,
    responses_from_wire,
)
from contiv.store.transport import AuthConfig, Connection, ConnectionCallback, Repeat, TlsConfig, Transport
from contiv.store.watch import Watch

TXN_OPS_MAX: Final = 128
"""etcd's default --max-txn-ops."""
REQUEST_BYTES_MAX: Final = 1536 * 1024 - 4096
"""etcd's default --max-request-bytes, less what wraps our operations."""
BATCH_BYTES_MAX: Final = 1024 * 1024
"""Where ``write`` begins the next transaction."""
PAGE_KEYS: Final = 1000
SNAPSHOT_ATTEMPTS_MAX: Final = 5
"""Listings begun anew because a compaction overtook their revision."""
COMPACT_TIMEOUT_S: Final = 60.0
"""A physical compaction waits for the database."""


class Etcd:
    """A connected client; an async context manager. Any number of calls at once, from one event loop."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._leases: set[Lease] = set()
        self._watches: set[Watch] = set()

    @classmethod
    async def connect(
        cls,
        endpoints: Sequence[str],
        *,
        tls: TlsConfig | None = None,
        auth: AuthConfig | None = None,
        timeout_s: float = 5,
        wait: bool = True,
    ) -> Self:
        """A client of the cluster behind ``endpoints`` (``http://host:port``, ``https://…``,
        ``unix:///path``).

        ``timeout_s`` is each call's, with all its attempts. With ``wait`` it returns connected and
        authenticated or raises ``StoreUnavailable`` or ``StoreDenied``; without, it connects in the
        background. ConfigError for endpoints and files that cannot be used.
        """
        transport = Transport(endpoints, tls=tls, auth=auth, timeout_s=timeout_s)
        transport.start()
        try:
            if wait:
                deadline = asyncio.get_running_loop().time() + timeout_s
                await transport.authenticated("connect", deadline=deadline)
        except BaseException:
            await transport.close()
            raise
        return cls(transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End watches and keep-alives (leases stay until they expire) and close the connections."""
        for watch in tuple(self._watches):
            await watch.close()
        for lease in tuple(self._leases):
            await lease.abandon()
        await self.transport.close()

    @property
    def connected(self) -> bool:
        """Whether the endpoint in use has a connection now."""
        return self.transport.connected

    def on_connection(self, callback: ConnectionCallback) -> None:
        """Call ``callback(connected: bool)`` at each change; what it returns is awaited when awaitable."""
        self.transport.on_connection(callback)

    async def get(self, key: str, *, timeout_s: float | None = None) -> Record | None:
        """The key's record, or None. Linearizable, as all reads."""
        reply = await self._range("get", rpc.RangeRequest(key=encode_key(key)), key, timeout_s=timeout_s)
        return record_from_wire(reply.kvs[0]) if reply.kvs else None

    async def get_prefix(self, prefix: str, *, page: int = PAGE_KEYS, timeout_s: float | None = None) -> Snapshot:
        """Everything under ``prefix`` at one revision, read in pages of at most ``page`` keys.

        ``timeout_s`` is for one page. A compaction in between begins anew, at most SNAPSHOT_ATTEMPTS_MAX
        times.
        """
        for attempt in range(1, SNAPSHOT_ATTEMPTS_MAX + 1):
            try:
                return await self._list(prefix, page, timeout_s)
            except StoreCompacted:
                if attempt == SNAPSHOT_ATTEMPTS_MAX:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _list(self, prefix: str, page: int, timeout_s: float | None) -> Snapshot:
        key, end = prefix_range(prefix)
        revision = 0
        records: dict[str, Record] = {}
        while True:
            request = rpc.RangeRequest(key=key, range_end=end, limit=page, revision=revision)
            try:
                reply = await self._range("get prefix", request, prefix, timeout_s=timeout_s)
            except StoreRefused as refused:
                if not refused.too_large_to_receive or page == 1:
                    raise
                page = max(page // 2, 1)
                continue
            revision = revision or reply.header.revision
            for kv in reply.kvs:
                record = record_from_wire(kv)
                records[record.key] = record
            if not reply.more:
                return Snapshot(revision, records)
            key = reply.kvs[-1].key + b"\0"

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None, timeout_s: float | None = None) -> int:
        """Store ``value``; the revision of the write."""
        return await self.write({key: value}, lease=lease, timeout_s=timeout_s)

    async def delete(self, key: str, *, timeout_s: float | None = None) -> bool:
        """Delete the key; whether it was there."""
        return await self._delete("delete", key, encode_key(key), b"", timeout_s) > 0

    async def delete_prefix(self, prefix: str, *, timeout_s: float | None = None) -> int:
        """Delete everything under ``prefix`` in one revision; how many keys there were."""
        key, end = prefix_range(prefix)
        return await self._delete("delete prefix", prefix, key, end, timeout_s)

    async def txn(
        self,
        *,
        compare: Sequence[Compare] = (),
        success: Sequence[Op] = (),
        failure: Sequence[Op] = (),
        timeout_s: float | None = None,
    ) -> TxnResult:
        """One atomic transaction, never applied twice; see the module's text for uncertain outcomes."""
        return await self._txn(compare, success, failure, repeat=Repeat.IF_UNSENT, timeout_s=timeout_s)

    async def write(
        self,
        changes: Mapping[str, bytes | None],
        *,
        lease: Lease | None = None,
        guard: Sequence[Compare] = (),
        timeout_s: float | None = None,
    ) -> int:
        """Any number of puts (and deletes, by None) in the mapping's order; the last revision, 0 for none.

        Transactions of at most TXN_OPS_MAX operations and about BATCH_BYTES_MAX bytes, one after the other:
        each is atomic, the whole is not. After an error the earlier ones stand; writing all of it again is
        safe. ``guard`` is compared in every transaction; ``StoreConflict`` when it does not hold. A value
        that etcd cannot take raises ``StoreRefused`` before anything is sent. ``timeout_s`` is for one
        transaction.
        """
        ops: list[Op] = [
            Delete(key) if value is None else Put(key, value, lease.id if lease else 0)
            for key, value in changes.items()
        ]
        revision = 0
        for batch in tuple(batches(ops)):
            result = await self._txn(guard, batch, (), repeat=Repeat.IDEMPOTENT, timeout_s=timeout_s)
            if not result.succeeded:
                detail = f"guard does not hold: {', '.join(c.key for c in guard)}"
                raise StoreConflict(
                    "write",
                    key=batch[0].key,
                    endpoint=self.transport.endpoint,
                    detail=detail,
                    remedy="somebody else owns this now; stop writing",
                )
            revision = result.revision
        return revision

    async def lease(self, ttl_s: int, *, timeout_s: float | None = None) -> Lease:
        """A lease of ``ttl_s`` whole seconds, kept alive in the background until ``revoke`` or ``close``."""
        lease = await Lease.grant(self.transport, ttl_s, timeout_s=timeout_s)
        self._leases.add(lease)
        lease.on_end(self._leases.discard)
        return lease

    def watch(self, prefix: str, *, start_revision: int, previous: bool = False) -> Watch:
        """Everything that happens under ``prefix`` from ``start_revision`` on; see
        ``contiv.store.watch.Watch``.

        ``async for batch in etcd.watch(...)`` or, to end it at once, ``async with etcd.watch(...) as watch``.
        ``previous`` adds the value before each event, where etcd still has it.
        """
        watch = Watch(self.transport, self.get_prefix, prefix, start_revision=start_revision, previous=previous)
        watch.on_open(self._watches.add)
        watch.on_end(self._watches.discard)
        return watch

    async def compact(self, revision: int, *, physical: bool = False) -> None:
        """Forget the history before ``revision``; with ``physical`` wait until the database has done so."""
        request = rpc.CompactionRequest(revision=revision, physical=physical)
        await self.transport.call(
            "compact", request, lambda c: c.kv.Compact, repeat=Repeat.IF_UNSENT, timeout_s=COMPACT_TIMEOUT_S
        )

    async def status(self, *, timeout_s: float | None = None) -> Status:
        """The state of the member behind the endpoint in use."""
        reply = await self.transport.call(
            "status", rpc.StatusRequest(), lambda c: c.maintenance.Status, timeout_s=timeout_s
        )
        header = reply.header
        return Status(
            version=reply.version,
            db_size=reply.dbSize,
            cluster_id=header.cluster_id,
            member_id=header.member_id,
            leader=reply.leader,
            raft_term=reply.raftTerm,
            revision=header.revision,
        )

    async def _range(self, operation: str, request: Any, key: str, *, timeout_s: float | None) -> Any:
        return await self.transport.call(operation, request, _range_method, key=key, timeout_s=timeout_s)

    async def _delete(self, operation: str, name: str, key: bytes, end: bytes, timeout_s: float | None) -> int:
        request = rpc.DeleteRangeRequest(key=key, range_end=end)
        reply = await self.transport.call(
            operation,
            request,
            lambda c: c.kv.DeleteRange,
            key=name,
            repeat=Repeat.IDEMPOTENT,
            timeout_s=timeout_s,
        )
        return int(reply.deleted)

    async def _txn(
        self,
        compare: Sequence[Compare],
        success: Sequence[Op],
        failure: Sequence[Op],
        *,
        repeat: Repeat,
        timeout_s: float | None,
    ) -> TxnResult:
        for branch in (success, failure):
            _check_size(branch)
        request = rpc.TxnRequest(
            compare=[compare_to_wire(c) for c in compare],
            success=[op_to_wire(op) for op in success],
            failure=[op_to_wire(op) for op in failure],
        )
        key = success[0].key if success else compare[0].key if compare else ""
        reply = await self.transport.call(
            "txn", request, lambda c: c.kv.Txn, key=key, repeat=repeat, timeout_s=timeout_s
        )
        return TxnResult(reply.succeeded, reply.header.revision, responses_from_wire(reply.responses))


def _range_method(connection: Connection) -> Any:
    return connection.kv.Range


def batches(ops: Sequence[Op]) -> Iterator[list[Op]]:
    """Split into transactions that etcd takes, in order. StoreRefused for an operation too large alone."""
    batch: list[Op] = []
    size = 0
    for op in ops:
        one = op_size(op)
        _check_size((op,))
        if batch and (len(batch) == TXN_OPS_MAX or size + one > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(op)
        size += one
    if batch:
        yield batch


def _check_size(ops: Sequence[Op]) -> None:
    size = sum(op_size(op) for op in ops)
    if size <= REQUEST_BYTES_MAX and len(ops) <= TXN_OPS_MAX:
        return
    largest = max(ops, key=op_size)
    raise StoreRefused(
        "txn",
        key=largest.key,
        detail=f"{len(ops)} operations of {size} bytes; etcd takes {TXN_OPS_MAX} and {REQUEST_BYTES_MAX}",
        remedy="split or shrink it; this key's value is the largest",
    )
