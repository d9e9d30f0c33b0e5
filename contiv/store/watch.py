"""A watch on a prefix that survives: nothing lost, nothing twice, over broken connections and restarts of
etcd.

In: a prefix and the revision to begin with. Out: ``WatchBatch``es of whole revisions, in order. The resume
revision moves with every event and with etcd's progress notifications (which etcd sends to quiet watches, by
default every 10 minutes). Where the history is gone, the batch says ``resync`` and carries a snapshot, and
the watch goes on after it. That happens when the resume revision was compacted, and when etcd lost data: on
every connection the watch asks for the last key that it saw, as of the revision that it reached; an etcd that
was wiped or restored answers something else.

One reader task fills a bounded buffer; when the consumer is slow, HTTP/2 flow control stops etcd, which then
reads from its history. The consumer takes what has gathered in one batch. A resync throws away what has
gathered before it.

Protocol facts (rpc.proto; etcd 3.4.23 and 3.5.1): a compacted start answers ``created``, then ``canceled``
with ``compact_revision``, and the stream stays open; a refused one is ``created`` and ``canceled`` at once;
only progress notifications that etcd sends by itself are in order with events, those asked for are not before
3.5.8 (etcd issue 15220), so none is asked for.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import grpc.aio
import msgspec
import structlog
from google.protobuf.unknown_fields import UnknownFieldSet
from pyetcd.etcdrpc import rpc_pb2 as rpc

from contiv.store.errors import (
    StoreCompacted,
    StoreDenied,
    StoreFailure,
    StoreRevisionAhead,
    StoreUnavailable,
)
from contiv.store.records import Change, Snapshot, WatchBatch, change_from_wire, encode_key, prefix_range
from contiv.store.transport import Connection, Transport, backoff_s

log = structlog.get_logger(__name__)

BUFFER_EVENTS_MAX: Final = 8192
BUFFER_BYTES_MAX: Final = 32 * 1024 * 1024
"""The reader stops at either; a single answer of etcd may exceed them once."""
BATCH_EVENTS_MAX: Final = 1024
"""Of one batch; a revision is never split, so that a larger one makes a larger batch."""
CREATE_TIMEOUT_S: Final = 5.0
"""For etcd's answer to the creation of a watch; then another attempt."""
DENIED_MAX: Final = 2
"""Refusals in a row, with a new token in between, before the watch gives up."""

_FRAGMENT_WISH: Final = b"\x40\x01"
"""WatchCreateRequest.fragment (field 8, true) on the wire: the stubs are older than it."""
_FRAGMENT_FIELD: Final = 7
"""WatchResponse.fragment, likewise."""
_METADATA: Final = (("hasleader", "true"),)
"""etcd ends the stream when its member loses the leader, instead of going quiet
(rpctypes/metadatafields.go)."""


class _Witness(msgspec.Struct, frozen=True):
    """The last thing seen: ``key`` as of the resume revision. ``mod_revision`` 0: deleted."""

    key: str
    mod_revision: int
    checksum: int


class _Buffer:
    """Bounded queue between reader and consumer: changes in order, before them at most one snapshot."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.changes: deque[Change] = deque()
        self.size = 0
        self.ended = False
        self.failure: BaseException | None = None
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    async def room(self) -> None:
        """Wait until the reader may read on."""
        await self._drained.wait()

    async def content(self) -> None:
        """Wait until there is something to take."""
        await self._filled.wait()

    def extend(self, changes: list[Change]) -> None:
        """Add whole revisions."""
        if not changes:
            return
        self.changes.extend(changes)
        self.size += sum(_size(change) for change in changes)
        if len(self.changes) >= BUFFER_EVENTS_MAX or self.size >= BUFFER_BYTES_MAX:
            self._drained.clear()
        self._filled.set()

    def replace(self, snapshot: Snapshot) -> None:
        """A resync: what was known before is void."""
        self.snapshot = snapshot
        self.changes.clear()
        self.size = 0
        self._drained.set()
        self._filled.set()

    def end(self, failure: BaseException | None) -> None:
        """The reader has ended; the consumer learns it after what has gathered."""
        self.ended = True
        self.failure = failure
        self._filled.set()

    def take(self) -> WatchBatch | None:
        """The next batch; call after ``content``. At the end raises the reader's failure, or None."""
        if self.snapshot is not None:
            batch = WatchBatch(self.snapshot.revision, resync=True, snapshot=self.snapshot)
            self.snapshot = None
        elif self.changes:
            batch = self._take_changes()
        elif self.failure is not None:
            raise self.failure
        else:
            return None
        if len(self.changes) < BUFFER_EVENTS_MAX and self.size < BUFFER_BYTES_MAX:
            self._drained.set()
        if not self.changes and not self.ended:
            self._filled.clear()
        return batch

    def _take_changes(self) -> WatchBatch:
        taken: list[Change] = []
        while self.changes:
            full = len(taken) >= BATCH_EVENTS_MAX
            if full and self.changes[0].mod_revision != taken[-1].mod_revision:
                break
            change = self.changes.popleft()
            self.size -= _size(change)
            taken.append(change)
        return WatchBatch(taken[-1].mod_revision, tuple(taken))


class Watch:
    """Made by ``Etcd.watch``; an async iterable, and an async context manager that ends it at once.

    ``revision`` is the last one that the watch has followed; a new watch may start after it once the consumer
    has seen all batches. ``resyncs`` and ``reconnects`` count. Raises ``StoreDenied`` when the user may not
    read the prefix; rides out everything else, and ends when it or the client is closed. One consumer.
    """

    def __init__(
        self,
        transport: Transport,
        list_prefix: Callable[[str], Awaitable[Snapshot]],
        prefix: str,
        *,
        start_revision: int,
        previous: bool = False,
    ) -> None:
        if start_revision < 1:
            raise ValueError(f"watch {prefix!r}: start revision {start_revision}; take a snapshot's revision + 1")
        self.prefix = prefix
        self.resyncs = 0
        self.reconnects = 0
        self._transport = transport
        self._list_prefix = list_prefix
        self._previous = previous
        self._next_revision = start_revision
        self._witness: _Witness | None = None
        self._partial: list[Change] = []
        self._denied = 0
        self._buffer = _Buffer()
        self._task: asyncio.Task[None] | None = None
        self._open_callbacks: list[Callable[[Watch], None]] = []
        self._end_callbacks: list[Callable[[Watch], None]] = []

    @property
    def revision(self) -> int:
        """The last revision that the watch has followed."""
        return self._next_revision - 1

    def on_open(self, callback: Callable[[Watch], None]) -> None:
        """Call when the reader starts."""
        self._open_callbacks.append(callback)

    def on_end(self, callback: Callable[[Watch], None]) -> None:
        """Call when the watch is closed."""
        self._end_callbacks.append(callback)

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[WatchBatch]:
        entered_here = self._task is None
        self._open()
        try:
            while True:
                await self._buffer.content()
                batch = self._buffer.take()
                if batch is None:
                    return
                yield batch
        finally:
            if entered_here:
                await self.close()

    async def close(self) -> None:
        """End the watch. Idempotent."""
        task = self._task
        if task is None:
            return
        task.cancel()
        await asyncio.wait((task,))
        for callback in self._end_callbacks:
            callback(self)

    def _open(self) -> None:
        if self._task is not None:
            return
        self._task = asyncio.create_task(self._read(), name=f"etcd-watch-{self.prefix}")
        self._task.add_done_callback(self._ended)
        for callback in self._open_callbacks:
            callback(self)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._buffer.end(None if task.cancelled() else task.exception())

    async def _read(self) -> None:
        """The reader: one stream after the other, for ever."""
        failures = 0
        while True:
            followed = self._next_revision
            try:
                await self._follow_one_stream()
            except StoreDenied:
                self._denied += 1
                if self._denied >= DENIED_MAX:
                    raise
            except StoreFailure as failure:
                if self._transport.closed:
                    raise
                log.info("etcd_watch_interrupted", prefix=self.prefix, revision=self.revision, error=str(failure))
            else:
                continue  # resynced: open the next stream at once
            failures = 1 if self._next_revision > followed else failures + 1
            self.reconnects += 1
            await asyncio.sleep(backoff_s(failures))

    async def _follow_one_stream(self) -> None:
        """Follow until the stream breaks (StoreFailure) or a resync makes a new one necessary (returns)."""
        transport = self._transport
        connection = await transport.authenticated("watch", key=self.prefix)
        if not await self._history_holds():
            await self._resync("etcd lost data")
            return
        token = transport.token
        self._partial.clear()
        stream: Any = connection.watch.Watch(metadata=_METADATA + transport.metadata())
        try:
            await stream.write(self._create_request())
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                response = await stream.read()
            while response is not grpc.aio.EOF:
                if response.canceled:
                    await self._canceled(response, connection, token)
                    return
                self._absorb(response)
                await self._buffer.room()
                response = await stream.read()
        except TimeoutError:
            raise self._silent(connection) from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended; its status says why
        finally:
            stream.cancel()
        await transport.stream_failed(connection, stream, "watch", key=self.prefix, token=token)

    def _silent(self, connection: Connection) -> StoreUnavailable:
        self._transport.abandon(connection)
        return StoreUnavailable(
            "watch",
            key=self.prefix,
            endpoint=connection.endpoint,
            detail=f"no answer to its creation in {CREATE_TIMEOUT_S:g} s",
            remedy="look at the member's log",
        )

    def _create_request(self) -> Any:
        key, end = prefix_range(self.prefix)
        create = rpc.WatchCreateRequest(
            key=key,
            range_end=end,
            start_revision=self._next_revision,
            progress_notify=True,
            prev_kv=self._previous,
        )
        create.MergeFromString(_FRAGMENT_WISH)  # kept as an unknown field and sent
        return rpc.WatchRequest(create_request=create)

    def _absorb(self, response: Any) -> None:
        """Take in one answer: events, part of them, or progress."""
        if response.created:
            self._denied = 0
            return
        if not response.events:
            self._progress(response.header.revision)
            return
        arrived = self._partial
        arrived.extend(c for c in map(change_from_wire, response.events) if c.mod_revision >= self._next_revision)
        whole = arrived
        self._partial = []
        if _is_fragment(response) and arrived:  # the last revision may go on in the next fragment
            last = arrived[-1].mod_revision
            cut = next(i for i, change in enumerate(arrived) if change.mod_revision == last)
            whole, self._partial = arrived[:cut], arrived[cut:]
        if whole:
            self._remember(whole[-1])
            self._buffer.extend(whole)

    def _progress(self, revision: int) -> None:
        """Nothing happened under the prefix up to ``revision``; the witness stays what it was."""
        if not self._partial:
            self._next_revision = max(self._next_revision, revision + 1)

    def _remember(self, last: Change) -> None:
        self._next_revision = last.mod_revision + 1
        revision = 0 if last.value is None else last.mod_revision
        self._witness = _Witness(last.key, revision, zlib.crc32(last.value or b""))

    async def _canceled(self, response: Any, connection: Connection, token: str | None) -> None:
        if response.compact_revision:
            await self._resync(f"compacted up to {response.compact_revision}")
            return
        reason = response.cancel_reason or "no reason given"
        if "permission denied" in reason or "invalid auth token" in reason:  # an old token looks like the first
            if token:
                await self._transport.renew_token(token)
            raise StoreDenied(
                "watch",
                key=self.prefix,
                endpoint=connection.endpoint,
                detail=reason,
                remedy="check the key ranges that the user's roles grant",
            )
        raise StoreUnavailable(
            "watch", key=self.prefix, endpoint=connection.endpoint, detail=reason, remedy="it is tried again"
        )

    async def _resync(self, reason: str) -> None:
        """Replace what the consumer knows by a snapshot and go on after it."""
        snapshot = await self._list_prefix(self.prefix)
        self.resyncs += 1
        log.warning("etcd_watch_resync", prefix=self.prefix, revision=snapshot.revision, reason=reason)
        self._next_revision = snapshot.revision + 1
        newest = max(snapshot.records.values(), key=lambda record: record.mod_revision, default=None)
        self._witness = (
            _Witness(newest.key, newest.mod_revision, zlib.crc32(newest.value)) if newest is not None else None
        )
        self._buffer.replace(snapshot)

    async def _history_holds(self) -> bool:
        """Whether etcd still knows the revision that we reached, and the last key as we saw it then."""
        if self.revision == 0:
            return True
        witness = self._witness
        key = witness.key if witness else self.prefix or "\0"
        request = rpc.RangeRequest(key=encode_key(key), revision=self.revision)
        try:
            reply = await self._transport.call("watch resume", request, lambda c: c.kv.Range, key=key)
        except StoreRevisionAhead:
            return False
        except StoreCompacted:
            return True  # the watch itself answers whether it can go on from here
        if witness is None:
            return True
        found = _Witness(key, 0, zlib.crc32(b""))
        if reply.kvs:
            found = _Witness(key, reply.kvs[0].mod_revision, zlib.crc32(reply.kvs[0].value))
        return found == witness


def _size(change: Change) -> int:
    return len(change.key) + len(change.value or b"") + len(change.previous or b"")


def _is_fragment(response: Any) -> bool:
    """Whether more of the same answer follows."""
    unknown: Any = UnknownFieldSet(response)
    return any(field.field_number == _FRAGMENT_FIELD and bool(field.data) for field in unknown)
