"""contiv.store.client and contiv.store.transport against a real etcd."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.errors import ConfigError, StoreError
from contiv.store import client as client_module
from contiv.store.client import BATCH_BYTES_MAX, REQUEST_BYTES_MAX, TXN_OPS_MAX, Etcd, batches
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.errors import LeaseLost, StoreConflict, StoreRefused, StoreUnavailable
from contiv.store.records import Compare, Delete, Get, Put, op_size, prefix_range


async def test_a_value_is_put_read_overwritten_and_deleted(etcd: Etcd, prefix: str) -> None:
    key = prefix + "ключ"
    assert await etcd.get(key) is None
    first = await etcd.put(key, b"\x00\xff")
    second = await etcd.put(key, b"")
    record = await etcd.get(key)
    assert record is not None
    assert (record.value, record.create_revision, record.mod_revision, record.version) == (
        b"",
        first,
        second,
        2,
    )
    assert await etcd.delete(key) is True
    assert await etcd.delete(key) is False
    assert await etcd.get(key) is None


async def test_a_prefix_is_read_in_pages_at_one_revision(etcd: Etcd, prefix: str) -> None:
    wanted = {f"{prefix}{n:04}": str(n).encode() for n in range(1000)}
    last = await etcd.write(wanted)
    await etcd.put(prefix[:-1] + "0", b"sorts right after the prefix")
    for page in (7, 1000, 5000):
        snapshot = await etcd.get_prefix(prefix, page=page)
        assert {key: record.value for key, record in snapshot.records.items()} == wanted
        assert snapshot.revision > last


async def test_writers_between_pages_do_not_show_in_a_snapshot(etcd: Etcd, prefix: str) -> None:
    keys = [f"{prefix}{n:03}" for n in range(60)]
    await etcd.write(dict.fromkeys(keys, b"0"))

    async def overwrite_all_at_once() -> None:
        for round_ in range(30):
            await etcd.write(dict.fromkeys(keys, str(round_).encode()))

    writer = asyncio.create_task(overwrite_all_at_once())
    seen = []
    while not writer.done():
        snapshot = await etcd.get_prefix(prefix, page=5)
        seen.append({record.value for record in snapshot.records.values()})
    await writer
    assert len(seen) > 1
    assert all(len(values) == 1 for values in seen)


async def test_a_snapshot_restarts_when_its_revision_is_compacted(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd:
        await etcd.write({f"/p/{n:03}": b"old" for n in range(100)})
        original, pages = etcd._range, 0

        async def compact_after_the_first_page(*args: object, **kwargs: object) -> object:
            nonlocal pages
            pages += 1
            reply = await original(*args, **kwargs)  # type: ignore[arg-type]
            if pages == 1:
                await etcd.compact(await etcd.put("/p/new", b"new"))
            return reply

        etcd._range = compact_after_the_first_page  # type: ignore[method-assign]
        snapshot = await etcd.get_prefix("/p/", page=10)
    assert "/p/new" in snapshot.records
    assert len(snapshot.records) == 101


async def test_a_page_that_is_too_large_to_receive_is_halved(
    etcd: Etcd, prefix: str, shared_etcd: EmbeddedEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    await etcd.write({f"{prefix}{n}": bytes(1_000_000) for n in range(9)})
    monkeypatch.setattr("contiv.store.transport._CHANNEL_OPTIONS", (("grpc.max_receive_message_length", 2_500_000),))
    async with await Etcd.connect([shared_etcd.endpoint]) as small:
        snapshot = await small.get_prefix(prefix)
    assert len(snapshot.records) == 9


async def test_delete_prefix_takes_the_prefix_and_nothing_beside_it(etcd: Etcd, prefix: str) -> None:
    await etcd.write({f"{prefix}a/{n}": b"" for n in range(300)} | {f"{prefix}b": b"stays"})
    assert await etcd.delete_prefix(f"{prefix}a/") == 300
    assert list((await etcd.get_prefix(prefix)).records) == [f"{prefix}b"]


async def test_txn_takes_the_branch_that_its_comparisons_choose(etcd: Etcd, prefix: str) -> None:
    key = prefix + "claim"
    claim = {
        "compare": [Compare.absent(key)],
        "success": [Put(key, b"mine"), Get(key)],
        "failure": [Get(key)],
    }
    won, lost = await etcd.txn(**claim), await etcd.txn(**claim)  # type: ignore[arg-type]
    assert (won.succeeded, lost.succeeded) == (True, False)
    assert won.responses[0] is None
    assert isinstance(won.responses[1], tuple)
    assert won.responses[1] == lost.responses[0]
    record = won.responses[1][0]
    for compare, holds in (
        (Compare.exists(key), True),
        (Compare.value(key, b"mine"), True),
        (Compare.value(key, b"yours"), False),
        (Compare.unchanged(record), True),
        (Compare(key, "version", ">", 1), False),
        (Compare(key, "lease", "!=", 0), False),
    ):
        assert (await etcd.txn(compare=[compare])).succeeded is holds, compare
    deleted = await etcd.txn(success=[Delete(prefix, prefix=True), Get(prefix, prefix=True)])
    assert deleted.responses == (1, ())


async def test_of_many_claims_at_once_exactly_one_wins(etcd: Etcd, prefix: str) -> None:
    key = prefix + "claim"

    async def claim(n: int) -> bool:
        done = await etcd.txn(compare=[Compare.absent(key)], success=[Put(key, str(n).encode())])
        return done.succeeded

    results = await asyncio.gather(*(claim(n) for n in range(50)))
    record = await etcd.get(key)
    assert record is not None
    assert [n for n, won in enumerate(results) if won] == [int(record.value)]


async def test_write_puts_and_deletes_more_than_one_transaction_holds(etcd: Etcd, prefix: str) -> None:
    keys = [f"{prefix}{n}" for n in range(1000)]
    before = await etcd.put(prefix + "mark", b"")
    after = await etcd.write(dict.fromkeys(keys, b"v"))
    assert after - before == -(-1000 // TXN_OPS_MAX)
    await etcd.write({key: None if n % 2 else b"w" for n, key in enumerate(keys)})
    records = (await etcd.get_prefix(prefix)).records
    assert set(records) == {*keys[::2], prefix + "mark"}
    assert await etcd.write({}) == 0


async def test_write_splits_by_bytes_too(etcd: Etcd, prefix: str) -> None:
    wanted = {f"{prefix}{n}": bytes([n]) * 400_000 for n in range(10)}
    await etcd.write(wanted)
    records = (await etcd.get_prefix(prefix)).records
    assert {key: record.value for key, record in records.items()} == wanted


async def test_the_largest_value_goes_through_and_a_larger_one_is_refused_before_it_is_sent(
    etcd: Etcd, prefix: str
) -> None:
    largest = bytes(REQUEST_BYTES_MAX - op_size(Put(prefix, b"")))
    revision = await etcd.put(prefix, largest)
    with pytest.raises(StoreRefused, match="takes 128") as refused:
        await etcd.write({prefix + "small": b"", prefix + "huge": largest})
    assert refused.value.key == prefix + "huge"
    assert (await etcd.get_prefix(prefix)).revision == revision, "nothing of it was written"


async def test_a_guard_that_does_not_hold_stops_the_write(etcd: Etcd, prefix: str) -> None:
    await etcd.put(prefix + "leader", b"somebody else")
    guard = [Compare.value(prefix + "leader", b"me")]
    with pytest.raises(StoreConflict):
        await etcd.write({prefix + "x": b""}, guard=guard)
    assert await etcd.get(prefix + "x") is None


@given(
    st.lists(st.tuples(st.text(max_size=30), st.integers(0, REQUEST_BYTES_MAX - 1000)), max_size=400).map(
        lambda pairs: [Put(key, memoryview(_ZEROS)[:size]) for key, size in pairs]  # type: ignore[arg-type]
    )
)
def test_batches_keep_order_and_every_limit(ops: list[Put]) -> None:
    split = list(batches(ops))
    assert [op for batch in split for op in batch] == ops
    for batch in split:
        assert 0 < len(batch) <= TXN_OPS_MAX
        assert len(batch) == 1 or sum(map(op_size, batch)) <= BATCH_BYTES_MAX


TasksSettle = Callable[[set[asyncio.Task[Any]]], Awaitable[None]]
_ZEROS = bytes(REQUEST_BYTES_MAX)


@given(st.binary(max_size=4), st.binary(max_size=6))
def test_prefix_range_holds_exactly_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    start, end = prefix_range(prefix.decode("utf-8", "surrogateescape"))
    inside = key >= start and (end == b"\0" or key < end)
    assert inside == (key.startswith(prefix) and key != b"")


async def test_a_lease_takes_its_keys_with_it_when_it_is_revoked(etcd: Etcd, prefix: str) -> None:
    async with await etcd.lease(5) as lease:
        await etcd.put(prefix, b"", lease=lease)
        record = await etcd.get(prefix)
        assert record is not None
        assert record.lease == lease.id
    assert await etcd.get(prefix) is None
    assert lease.lost.is_set()
    with pytest.raises(LeaseLost):
        await etcd.put(prefix, b"", lease=lease)


async def test_a_lease_is_kept_alive_and_expires_when_nobody_renews_it(
    shared_etcd: EmbeddedEtcd, etcd: Etcd, prefix: str
) -> None:
    async with await Etcd.connect([shared_etcd.endpoint]) as owner:
        lease = await owner.lease(2)
        revision = await owner.put(prefix, b"", lease=lease)
        await asyncio.sleep(lease.ttl_s + 0.7)
        assert await etcd.get(prefix) is not None
        assert not lease.lost.is_set()
    async with asyncio.timeout(6), etcd.watch(prefix, start_revision=revision + 1) as watch:
        async for batch in watch:
            assert batch.events[0].value is None
            break


async def test_a_lease_is_lost_by_our_own_clock_when_etcd_cannot_be_reached(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd:
        lease = await etcd.lease(2)
        await server.kill()
        async with asyncio.timeout(lease.ttl_s + 0.5):
            await lease.lost.wait()


async def test_a_lease_survives_a_restart_and_is_lost_with_the_data(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd:
        lease = await etcd.lease(3)
        await server.restart()
        await asyncio.sleep(lease.ttl_s / 3 + 0.5)
        assert not lease.lost.is_set()
        await server.wipe()
        async with asyncio.timeout(lease.ttl_s):
            await lease.lost.wait()


async def test_reads_and_writes_wait_out_a_restart(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.unix_endpoint], timeout_s=15) as etcd:
        await etcd.put("/k", b"1")
        states: list[bool] = []
        etcd.on_connection(states.append)
        await server.kill()
        write = asyncio.create_task(etcd.put("/k", b"2"))
        read = asyncio.create_task(etcd.get("/other"))
        await server.start()
        await write
        assert await read is None
        record = await etcd.get("/k")
        assert record is not None
        assert record.value == b"2"
        assert states == [False, True]


async def applied_but_not_answered(server: EmbeddedEtcd, wire: Any, key: str) -> None:
    """Wait until etcd has applied a write of ``key`` whose answer is withheld, then cut and mend the wire."""
    async with await Etcd.connect([server.unix_endpoint]) as observer:
        async with asyncio.timeout(5), observer.watch(key, start_revision=1) as watch:
            async for _ in watch:
                break
    await wire.cut()
    wire.mute.clear()
    await wire.mend()


async def test_a_txn_whose_outcome_is_unknown_is_reported_and_not_sent_again(server: EmbeddedEtcd, wire: Any) -> None:
    async with await Etcd.connect([wire.endpoint]) as etcd:
        wire.mute.set()
        txn = asyncio.create_task(etcd.txn(success=[Put("/k", b"")]))
        await applied_but_not_answered(server, wire, "/k")
        with pytest.raises(StoreUnavailable) as unavailable:
            await txn
        assert unavailable.value.uncertain
        record = await etcd.get("/k")
        assert record is not None
        assert record.version == 1


async def test_a_put_whose_outcome_is_unknown_is_sent_again(server: EmbeddedEtcd, wire: Any) -> None:
    async with await Etcd.connect([wire.endpoint]) as etcd:
        wire.mute.set()
        put = asyncio.create_task(etcd.put("/k", b"v"))
        await applied_but_not_answered(server, wire, "/k")
        revision = await put
        record = await etcd.get("/k")
        assert record is not None
        assert (record.value, record.version, record.mod_revision) == (b"v", 2, revision)


async def test_a_call_to_a_frozen_etcd_ends_in_its_time(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint], timeout_s=0.5) as etcd:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        async with asyncio.timeout(1.5):
            with pytest.raises(StoreUnavailable) as unavailable:
                await etcd.put("/k", b"")
        assert unavailable.value.uncertain
        assert unavailable.value.timed_out
        os.kill(server.pid, signal.SIGCONT)


async def test_a_dead_endpoint_is_named_with_its_reason() -> None:
    with pytest.raises(StoreUnavailable, match="refused") as unavailable:
        await Etcd.connect(["http://127.0.0.1:1"], timeout_s=0.5)
    assert "127.0.0.1:1" in unavailable.value.endpoint
    assert not unavailable.value.uncertain
    assert isinstance(unavailable.value, StoreError)


async def test_a_client_may_begin_before_etcd_does(tmp_path: Path) -> None:
    server = EmbeddedEtcd(tmp_path)
    async with await Etcd.connect([server.unix_endpoint], wait=False, timeout_s=15) as etcd:
        assert not etcd.connected
        write = asyncio.create_task(etcd.put("/k", b"v"))
        async with server:
            assert await write > 0
            assert etcd.connected


async def test_a_dead_endpoint_is_passed_over_and_a_dying_one_left(server: EmbeddedEtcd, tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path / "f") as other:
        endpoints = ["http://127.0.0.1:1", server.endpoint, other.endpoint]
        async with await Etcd.connect(endpoints) as etcd:
            await etcd.put("/k", b"")
            assert etcd.transport.endpoint == server.endpoint
            await server.kill()
            assert await etcd.get("/k") is None, "the other cluster does not have it"
            assert etcd.transport.endpoint == other.endpoint


async def test_a_frozen_endpoint_leaves_time_for_the_next_one(server: EmbeddedEtcd, tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path / "f") as other:
        async with await Etcd.connect([server.endpoint, other.endpoint], timeout_s=2) as etcd:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)
            assert await etcd.get("/k") is None
            assert etcd.transport.endpoint == other.endpoint
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "endpoint", ["", "localhost:2379", "ftp://localhost", "unix://relative/path", "unix:relative", "http:///"]
)
async def test_an_endpoint_that_is_no_url_is_refused_with_a_remedy(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="write http://host:port"):
        await Etcd.connect([endpoint])


async def test_no_endpoints_are_refused() -> None:
    with pytest.raises(ConfigError):
        await Etcd.connect([])


async def test_a_closed_client_fails_calls_and_leaves_no_task(
    shared_etcd: EmbeddedEtcd, tasks_settle: TasksSettle
) -> None:
    before = asyncio.all_tasks()
    etcd = await Etcd.connect([shared_etcd.endpoint])
    await etcd.lease(10)
    watch = etcd.watch("/nothing/", start_revision=1)
    pump = asyncio.create_task(_drain(watch))
    await etcd.get("/k")
    calls = asyncio.gather(*(etcd.get("/k") for _ in range(20)), return_exceptions=True)
    await asyncio.sleep(0)
    await etcd.close()
    assert {type(result) for result in await calls} <= {type(None), StoreUnavailable}
    await pump
    with pytest.raises(StoreUnavailable, match="closed"):
        await etcd.get("/k")
    await tasks_settle(before)


async def _drain(watch: object) -> None:
    async for _ in watch:  # type: ignore[attr-defined]
        pass


async def test_a_cancelled_call_leaves_no_task_and_the_client_usable(
    etcd: Etcd, prefix: str, tasks_settle: TasksSettle
) -> None:
    await etcd.get(prefix)
    before = asyncio.all_tasks()
    for _ in range(20):
        call = asyncio.create_task(etcd.get_prefix(prefix))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await tasks_settle(before)
    assert await etcd.put(prefix, b"") > 0


async def test_status_tells_version_and_revision(etcd: Etcd, prefix: str) -> None:
    revision = await etcd.put(prefix, b"")
    status = await etcd.status()
    assert status.revision >= revision
    assert status.version.count(".") == 2
    assert status.leader == status.member_id


def test_limits_are_below_those_of_etcd() -> None:
    assert TXN_OPS_MAX <= 128
    assert client_module.BATCH_BYTES_MAX < client_module.REQUEST_BYTES_MAX < 1536 * 1024
