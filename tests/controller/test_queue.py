"""contiv/controller/queue.py: lanes, limits and what makes a batch."""

from __future__ import annotations

import asyncio

import pytest

from contiv.controller import ControllerStoppedError, DownstreamResync, QueueFullError
from contiv.controller.queue import Entry, EventQueue
from tests.controller.fakes import AddPod, Snapshot


def make_queue(**limits):
    return EventQueue(**{"queued_max": 10, "follow_ups_max": 10, "on_depth": lambda depth: None} | limits)


def entries(*events):
    return [Entry(event, 0.0) for event in events]


async def take(queue, *, batch_max=10, synced=True):
    async with asyncio.timeout(1):
        return [entry.event for entry in await queue.take(batch_max, synced=synced)]


async def test_resync_is_a_batch_of_its_own_and_updates_on_its_sides_share_theirs():
    queue = make_queue()
    for entry in entries(AddPod("1"), AddPod("2"), DownstreamResync("x"), AddPod("3"), AddPod("4")):
        queue.put(entry)
    assert await take(queue) == [AddPod("1"), AddPod("2")]
    assert await take(queue) == [DownstreamResync("x")]
    assert await take(queue) == [AddPod("3"), AddPod("4")]


async def test_follow_ups_go_first():
    queue = make_queue()
    queue.put(Entry(AddPod("1"), 0.0))
    queue.put_follow_up(Entry(AddPod("2"), 0.0))
    assert await take(queue) == [AddPod("2"), AddPod("1")]


async def test_nothing_but_a_full_resync_passes_before_the_first_one():
    queue = make_queue()
    for entry in entries(AddPod("1"), DownstreamResync("x"), Snapshot(("s",))):
        queue.put(entry)
    assert await take(queue, synced=False) == [Snapshot(("s",))]
    waiting = asyncio.create_task(take(queue, synced=False))
    await asyncio.sleep(0)
    queue.put(Entry(AddPod("2"), 0.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.put_follow_up(Entry(Snapshot(("again",)), 0.0))
    assert await waiting == [Snapshot(("again",))]
    assert await take(queue) == [AddPod("1")]


async def test_each_lane_has_its_limit():
    queue = make_queue(queued_max=1, follow_ups_max=1)
    queue.put(Entry(AddPod("1"), 0.0))
    queue.put_follow_up(Entry(AddPod("2"), 0.0))
    with pytest.raises(QueueFullError):
        queue.put(Entry(AddPod("3"), 0.0))
    with pytest.raises(QueueFullError):
        queue.put_follow_up(Entry(AddPod("4"), 0.0))


async def test_patient_source_waits_and_leaves_room_for_the_impatient():
    queue = make_queue(queued_max=4)
    for number in range(2):
        await queue.put_patiently(Entry(AddPod(f"{number}"), 0.0))
    third = asyncio.create_task(queue.put_patiently(Entry(AddPod("patient"), 0.0)))
    await asyncio.sleep(0)
    queue.put(Entry(AddPod("impatient"), 0.0))
    assert await take(queue) == [AddPod("0"), AddPod("1"), AddPod("impatient")]
    await third
    assert await take(queue) == [AddPod("patient")]


async def test_resync_finds_a_place_among_updates_that_wait_for_it():
    queue = make_queue(queued_max=2)
    for entry in entries(AddPod("1"), AddPod("2")):
        queue.put(entry)
    await queue.put_patiently(Entry(Snapshot(("s",)), 0.0))
    assert await take(queue, synced=False) == [Snapshot(("s",))]


async def test_patient_source_learns_that_the_queue_was_closed():
    queue = make_queue(queued_max=2)
    queue.put(Entry(AddPod("1"), 0.0))
    waiting = asyncio.create_task(queue.put_patiently(Entry(AddPod("2"), 0.0)))
    await asyncio.sleep(0)
    queue.close()
    with pytest.raises(ControllerStoppedError):
        await waiting


async def test_closed_queue_gives_back_what_waits_and_takes_nothing_more():
    queue = make_queue()
    waiting = asyncio.create_task(take(queue, synced=False))
    await asyncio.sleep(0)
    queue.put(Entry(AddPod("1"), 0.0))
    assert [entry.event for entry in queue.close()] == [AddPod("1")]
    assert await waiting == []
    with pytest.raises(ControllerStoppedError):
        queue.put(Entry(AddPod("2"), 0.0))
