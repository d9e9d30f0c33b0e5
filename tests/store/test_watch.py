"""contiv.store.watch against a real etcd that is killed, cut off, compacted and wiped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from pyetcd.etcdrpc import kv_pb2 as kv
from pyetcd.etcdrpc import rpc_pb2 as rpc

from contiv.store import watch as watch_module
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.errors import StoreUnavailable
from contiv.store.records import Change, WatchBatch
from contiv.store.watch import Watch

TasksSettle = Callable[[set[asyncio.Task[Any]]], Awaitable[None]]


async def collect_until(watch: Watch, key: str) -> list[WatchBatch]:
    """Batches up to the one in which ``key`` is written."""
    batches: list[WatchBatch] = []
    async with asyncio.timeout(20):
        async for batch in watch:
            batches.append(batch)
            if any(event.key == key for event in batch.events):
                break
            if batch.snapshot is not None and key in batch.snapshot.records:
                break
    return batches


def events_of(batches: list[WatchBatch]) -> list[Change]:
    return [event for batch in batches for event in batch.events]


async def test_puts_and_deletes_arrive_in_order_with_revisions_and_previous_values(etcd: Etcd, prefix: str) -> None:
    first = await etcd.write({prefix + "a": b"1", prefix + "b": b"1"})
    async with etcd.watch(prefix, start_revision=first, previous=True) as watch:
        second = await etcd.put(prefix + "a", b"2")
        await etcd.put(prefix[:-1] + "0", b"not under the prefix")
        await etcd.delete(prefix + "b")
        end = await etcd.put(prefix + "end", b"")
        batches = await collect_until(watch, prefix + "end")
        assert watch.revision == batches[-1].revision == end
    assert events_of(batches) == [
        Change(prefix + "a", b"1", first, None),
        Change(prefix + "b", b"1", first, None),
        Change(prefix + "a", b"2", second, b"1"),
        Change(prefix + "b", None, end - 1, b"1"),
        Change(prefix + "end", b"", end, None),
    ]
    assert not any(batch.resync for batch in batches)


async def test_the_empty_prefix_watches_everything(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd, etcd.watch("", start_revision=1) as watch:
        await etcd.write({"/x": b"", "y": b""})
        assert [event.key for event in events_of(await collect_until(watch, "y"))] == ["/x", "y"]


async def test_a_consumer_that_is_behind_gets_merged_batches_of_whole_revisions(
    etcd: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "BATCH_EVENTS_MAX", 25)
    start = await etcd.put(prefix, b"")
    async with etcd.watch(prefix, start_revision=start) as watch:
        for n in range(40):
            await etcd.write({f"{prefix}{n}/{i}": b"" for i in range(10)})
        await etcd.put(prefix + "end", b"")
        batches = await collect_until(watch, prefix + "end")
    assert len(batches) < 40
    assert all(len(batch.events) <= 25 + 9 for batch in batches)
    assert all(a.events[-1].mod_revision < b.events[0].mod_revision for a, b in pairwise(batches))
    assert all(batch.revision == batch.events[-1].mod_revision for batch in batches)
    assert len(events_of(batches)) == 402


async def test_a_large_backlog_comes_in_fragments_and_fills_a_bounded_buffer(
    etcd: Etcd, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "BUFFER_BYTES_MAX", 3_000_000)
    fragments: list[bool] = []
    is_fragment = watch_module._is_fragment

    def record(response: Any) -> bool:
        fragments.append(is_fragment(response))
        return fragments[-1]

    monkeypatch.setattr(watch_module, "_is_fragment", record)
    start = (await etcd.get_prefix(prefix)).revision + 1
    for n in range(24):
        await etcd.write({f"{prefix}{n}/{i}": bytes(100_000) for i in range(7)})
    await etcd.put(prefix + "end", b"")
    fullest = 0
    async with etcd.watch(prefix, start_revision=start) as watch:
        seen: list[Change] = []
        async for batch in watch:
            await asyncio.sleep(0.01)  # slower than etcd sends
            fullest = max(fullest, watch._buffer.size)
            seen += batch.events
            if batch.events[-1].key == prefix + "end":
                break
    assert True in fragments
    assert fullest < 2 * 3_000_000
    per_revision = [[event.key for event in group] for _, group in groupby(seen, lambda e: e.mod_revision)]
    assert per_revision == [[f"{prefix}{n}/{i}" for i in range(7)] for n in range(24)] + [[prefix + "end"]]


async def write_for_ever(etcd: Etcd, acknowledged: dict[int, str]) -> None:
    """A transaction after the other, each with a value of its own; what etcd confirmed goes to the record."""
    n = 0
    while True:
        n += 1
        key = f"/w/{n % 7}"
        try:
            acknowledged[await etcd.put(key, str(n).encode())] = f"{key}={n}"
            await etcd.write({key: None, f"/w/{n % 5}x": str(n).encode()})
        except StoreUnavailable:
            await asyncio.sleep(0.05)


async def check_history(etcd: Etcd, batches: list[WatchBatch], start: int, acknowledged: dict[int, str]) -> None:
    """What was watched is what etcd holds as its history, every acknowledged write in it, nothing twice."""
    seen = events_of(batches)
    assert not any(batch.resync for batch in batches)
    async with etcd.watch("/w/", start_revision=start) as replay:
        truth = events_of(await collect_until(replay, "/w/end"))
    assert seen == truth
    assert len({(event.mod_revision, event.key) for event in seen}) == len(seen)
    watched = {event.mod_revision: f"{event.key}={(event.value or b'').decode()}" for event in seen}
    assert acknowledged.items() <= watched.items()
    assert len(acknowledged) > 50


async def test_nothing_is_lost_or_doubled_when_etcd_is_killed_under_a_writer(server: EmbeddedEtcd) -> None:
    acknowledged: dict[int, str] = {}
    async with (
        await Etcd.connect([server.endpoint]) as etcd,
        await Etcd.connect([server.unix_endpoint]) as writer,
    ):
        start = await etcd.put("/w/start", b"")
        async with etcd.watch("/w/", start_revision=start) as watch, asyncio.TaskGroup() as group:
            watching = group.create_task(collect_until(watch, "/w/end"))
            writing = group.create_task(write_for_ever(writer, acknowledged))
            for _ in range(3):
                await asyncio.sleep(random.uniform(0.05, 0.3))
                await server.kill()
                await server.start()
            await asyncio.sleep(0.2)
            writing.cancel()
            await asyncio.wait((writing,))
            await etcd.put("/w/end", b"")
            batches = await watching
            assert watch.reconnects >= 3
        await check_history(etcd, batches, start, acknowledged)


async def test_nothing_is_lost_or_doubled_over_a_bad_wire(server: EmbeddedEtcd, wire: Any) -> None:
    acknowledged: dict[int, str] = {}
    async with (
        await Etcd.connect([wire.endpoint]) as etcd,
        await Etcd.connect([server.unix_endpoint]) as writer,
    ):
        start = await writer.put("/w/start", b"")
        async with etcd.watch("/w/", start_revision=start) as watch, asyncio.TaskGroup() as group:
            watching = group.create_task(collect_until(watch, "/w/end"))
            writing = group.create_task(write_for_ever(writer, acknowledged))
            for _ in range(25):
                await asyncio.sleep(random.uniform(0.0, 0.12))
                await wire.cut()
                await wire.mend()
            writing.cancel()
            await asyncio.wait((writing,))
            await writer.put("/w/end", b"")
            batches = await watching
        await check_history(writer, batches, start, acknowledged)


async def test_a_compaction_while_cut_off_becomes_one_resync_and_the_watch_goes_on(
    server: EmbeddedEtcd, wire: Any
) -> None:
    async with (
        await Etcd.connect([wire.endpoint]) as etcd,
        await Etcd.connect([server.unix_endpoint]) as writer,
    ):
        start = await writer.write({"/w/gone": b"", "/w/stays": b"1"})
        async with etcd.watch("/w/", start_revision=start) as watch:
            await collect_until(watch, "/w/stays")
            await wire.cut()
            await writer.write({"/w/gone": None, "/w/stays": b"2"})
            await writer.compact(await writer.put("/w/new", b""))
            await wire.mend()
            resync, *rest = await collect_until(watch, "/w/new")
            assert resync.resync
            assert rest == []
            assert resync.snapshot is not None
            assert {k: r.value for k, r in resync.snapshot.records.items()} == {
                "/w/stays": b"2",
                "/w/new": b"",
            }
            after = await writer.put("/w/after", b"")
            assert await collect_until(watch, "/w/after") == [
                WatchBatch(after, (Change("/w/after", b"", after, None),))
            ]
            assert watch.resyncs == 1


async def test_a_resync_replaces_what_the_consumer_has_not_taken_yet(server: EmbeddedEtcd, wire: Any) -> None:
    async with (
        await Etcd.connect([wire.endpoint]) as etcd,
        await Etcd.connect([server.unix_endpoint]) as writer,
    ):
        start = await writer.put("/w/a", b"1")
        async with etcd.watch("/w/", start_revision=start) as watch:
            async with asyncio.timeout(5):
                while watch.revision < start:
                    await asyncio.sleep(0.01)
            await wire.cut()
            await writer.put("/w/a", b"2")
            await writer.compact(await writer.put("/w/a", b"3"))
            await wire.mend()
            async with asyncio.timeout(5):
                while not watch.resyncs:
                    await asyncio.sleep(0.01)
            batches = await collect_until(watch, "/w/a")
    assert [batch.resync for batch in batches] == [True]


@pytest.mark.parametrize("refill", [0, 40], ids=["empty", "refilled beyond the old revision"])
async def test_lost_data_becomes_a_resync(server: EmbeddedEtcd, wire: Any, refill: int) -> None:
    async with (
        await Etcd.connect([wire.endpoint]) as etcd,
        await Etcd.connect([server.unix_endpoint]) as writer,
    ):
        for n in range(20):
            start = await writer.put("/w/a", str(n).encode())
        async with etcd.watch("/w/", start_revision=start) as watch:
            await collect_until(watch, "/w/a")
            await wire.cut()
            await server.wipe()
            for n in range(refill):
                await writer.put("/w/a", f"new {n}".encode())
            await writer.put("/w/b", b"")
            await wire.mend()
            resync = (await collect_until(watch, "/w/b"))[-1]
            assert resync.snapshot is not None
            assert set(resync.snapshot.records) == ({"/w/a", "/w/b"} if refill else {"/w/b"})
            await writer.put("/w/c", b"")
            assert [event.key for event in events_of(await collect_until(watch, "/w/c"))] == ["/w/c"]


@pytest.mark.parametrize("start", ["compacted", "in the future"])
async def test_a_start_that_etcd_does_not_have_begins_with_a_resync(server: EmbeddedEtcd, start: str) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd:
        for n in range(10):
            revision = await etcd.put("/w/a", str(n).encode())
        await etcd.compact(revision)
        first = 3 if start == "compacted" else revision + 100
        async with asyncio.timeout(5), etcd.watch("/w/", start_revision=first) as watch:
            async for batch in watch:
                assert batch.resync
                assert batch.snapshot is not None
                assert batch.snapshot.records["/w/a"].value == b"9"
                break


async def test_progress_moves_the_resume_revision_of_a_quiet_watch(tmp_path: Path) -> None:
    interval = "--experimental-watch-progress-notify-interval=100ms"
    async with EmbeddedEtcd(tmp_path, arguments=[interval]) as server:
        async with await Etcd.connect([server.endpoint]) as etcd:
            async with etcd.watch("/quiet/", start_revision=1) as watch:
                revision = await etcd.put("/loud", b"")
                async with asyncio.timeout(5):
                    while watch.revision < revision:
                        await asyncio.sleep(0.02)
                await etcd.compact(revision)
                await server.restart()
                await etcd.put("/quiet/a", b"")
                batches = await collect_until(watch, "/quiet/a")
    assert [batch.resync for batch in batches] == [False]


async def test_leaving_or_cancelling_a_watch_leaves_no_task(etcd: Etcd, prefix: str, tasks_settle: TasksSettle) -> None:
    revision = await etcd.put(prefix, b"")
    before = asyncio.all_tasks()
    async for _ in etcd.watch(prefix, start_revision=revision):
        break

    async def follow() -> None:
        async for _ in etcd.watch(prefix, start_revision=revision):
            await asyncio.sleep(60)

    async def wait_for_more() -> None:
        async for _ in etcd.watch(prefix, start_revision=revision + 1):
            pass

    tasks = [asyncio.create_task(follow()), asyncio.create_task(wait_for_more())]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with etcd.watch(prefix, start_revision=1):
        pass
    await tasks_settle(before)


async def test_closing_a_watch_ends_its_iteration(etcd: Etcd, prefix: str) -> None:
    watch = etcd.watch(prefix, start_revision=(await etcd.get_prefix(prefix)).revision + 1)

    async def count() -> int:
        return len([batch async for batch in watch])

    counting = asyncio.create_task(count())
    await asyncio.sleep(0.05)
    await watch.close()
    async with asyncio.timeout(2):
        assert await counting == 0


async def test_a_start_revision_below_one_is_refused(etcd: Etcd) -> None:
    with pytest.raises(ValueError, match="start revision 0"):
        etcd.watch("/", start_revision=0)


async def test_what_was_seen_before_is_dropped_should_etcd_send_it_again(etcd: Etcd, prefix: str) -> None:
    """etcd does not, as far as is known: this is the last line of defence, fed by hand."""
    watch = etcd.watch(prefix, start_revision=10)
    events = [kv.Event(kv=kv.KeyValue(key=b"/k", mod_revision=revision)) for revision in (8, 9, 10, 11)]
    watch._absorb(rpc.WatchResponse(events=events))
    watch._absorb(rpc.WatchResponse(events=events))
    assert [change.mod_revision for change in watch._buffer.changes] == [10, 11]
