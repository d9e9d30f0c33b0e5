"""contiv/scheduler/execute.py: creates of one descriptor that go in one call."""

from __future__ import annotations

import asyncio

import pytest

from contiv.scheduler import OperationError, PendingError, Settings, State, Txn
from tests.scheduler.southbound import Clock, Item, Southbound, make_scheduler


@pytest.fixture
def south():
    southbound = Southbound()
    yield southbound
    assert southbound.violations == []


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def scheduler(south, clock):
    return make_scheduler(south, clock=clock, at_once=4)


def some(n, **fields):
    return {f"b/{number}": Item(**fields) for number in range(n)}


async def test_creates_of_a_descriptor_go_in_as_few_calls_as_it_allows(scheduler, south):
    outcome = await scheduler.commit(Txn({"a/1": Item(), **some(10, needs=("a/1",))}))
    assert outcome.ok
    assert sorted(south.bulks) == [2, 4, 4]
    assert len(south.objects) == len(scheduler.metadata) == 11
    assert all(scheduler.metadata[key] == south.handles[key] for key in south.objects)
    assert {record.result for record in outcome.record.operations} == {"done"}


async def test_one_alone_updates_and_deletes_take_the_usual_way(scheduler, south):
    await scheduler.commit(Txn(some(1)))
    await scheduler.commit(Txn(some(1, data=5)))
    await scheduler.commit(Txn({"b/0": None}))
    assert south.history == ["create b/0", "update b/0", "delete b/0"]
    assert south.bulks == []


async def test_failures_within_a_call_are_those_keys_failures_alone_and_are_tried_again(scheduler, south, clock):
    south.fail("create b/1")
    south.fail("create b/2", times=2)
    outcome = await scheduler.commit(Txn({**some(4), "a/9": Item(needs=("b/1",)), "a/8": Item(needs=("b/3",))}))
    assert {key for key, status in outcome.states.items() if status.state is State.FAILED} == {"b/1", "b/2"}
    assert [str(error) for error in outcome.errors] == [
        "create b/1: planned: create b/1",
        "create b/2: planned: create b/2",
    ]
    assert isinstance(outcome.error_of("a/9"), PendingError)
    assert set(south.objects) == {"b/0", "b/3", "a/8"}
    clock.now += 1.0
    outcome = await scheduler.retry_due()
    assert set(south.objects) == {"b/0", "b/1", "b/3", "a/8", "a/9"}
    clock.now += 2.0
    assert (await scheduler.retry_due()).ok
    assert set(scheduler.actual) == {*some(4), "a/8", "a/9"}
    assert not scheduler.unsettled


async def test_a_call_that_fails_as_a_whole_fails_every_key_of_it(scheduler, south, clock):
    south.fail("create_many")
    outcome = await scheduler.commit(Txn(some(6)))
    failed = {key for key, status in outcome.states.items() if status.state is State.FAILED}
    assert len(failed) == 4
    assert all(isinstance(outcome.error_of(key), OperationError) for key in failed)
    assert failed | set(south.objects) == set(some(6))
    clock.now += 1.0
    assert (await scheduler.retry_due()).ok
    assert set(south.objects) == set(some(6))


async def test_a_call_that_takes_too_long_fails_every_key_of_it(south, clock):
    scheduler = make_scheduler(south, clock=clock, at_once=4, settings=Settings(operation_timeout_s=0.01))
    south.gate("create_many")
    outcome = await scheduler.commit(Txn(some(3)))
    assert {str(error) for error in outcome.errors} == {
        f"create b/{number}: no answer within 0.01 s" for number in range(3)
    }


async def test_a_cancelled_transaction_tells_of_every_key_of_a_call(scheduler, south):
    south.gate("create_many")
    task = asyncio.create_task(scheduler.commit(Txn(some(3))))
    while not south.running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {record.result for record in scheduler.history.last.operations} == {"interrupted"}
    assert set(scheduler.unsettled) == set(some(3))


async def test_a_transaction_that_is_reverted_takes_back_what_a_call_made(scheduler, south):
    south.fail("create b/2")
    outcome = await scheduler.commit(Txn(some(4), revert_on_failure=True))
    assert outcome.reverted
    assert not south.objects
    assert not scheduler.desired
