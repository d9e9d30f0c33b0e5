"""contiv/scheduler/scheduler.py: transactions with exact histories of operations."""

from __future__ import annotations

import asyncio

import pytest

from contiv.scheduler import (
    BlockedError,
    CycleError,
    OperationError,
    PendingError,
    Resync,
    RetrieveError,
    Scheduler,
    Settings,
    State,
    TransactionError,
    Txn,
    UnknownKeyError,
)
from contiv.scheduler.errors import InterruptedOperationError
from tests.scheduler.southbound import Clock, FakeDescriptor, Item, Southbound, essence, held, make_scheduler


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
    return make_scheduler(south, clock=clock)


async def update(scheduler, changes, **options):
    return await scheduler.commit(Txn(changes, **options))


async def test_values_are_created_after_what_they_depend_on_and_deleted_before_it(scheduler, south):
    chain = {"a/1": Item(), "b/2": Item(needs=("a/1",)), "a/3": Item(needs=("b/2",))}
    assert (await update(scheduler, chain)).ok
    assert south.take_history() == ["create a/1", "create b/2", "create a/3"]
    outcome = await update(scheduler, dict.fromkeys(chain))
    assert south.take_history() == ["delete a/3", "delete b/2", "delete a/1"]
    assert {s.state for s in outcome.states.values()} == {State.REMOVED}
    assert not scheduler.desired
    assert not scheduler.actual
    assert not scheduler.metadata


async def test_value_waits_for_its_dependency_and_comes_with_a_later_transaction(scheduler, south):
    outcome = await update(scheduler, {"b/x": Item(needs=("a/late",)), "b/y": Item(needs=("b/x",))})
    assert outcome.ok
    assert outcome.states["b/x"].state is State.PENDING
    assert outcome.states["b/x"].unmet == ("needs a/late",)
    assert isinstance(outcome.error_of("b/x"), PendingError)
    assert south.take_history() == []
    outcome = await update(scheduler, {"a/late": Item()})
    assert south.take_history() == ["create a/late", "create b/x", "create b/y"]
    assert outcome.states["b/y"].state is State.APPLIED
    assert not scheduler.unsettled


async def test_held_it_changes_nothing_and_catches_up_once_it_is_let_go(scheduler, south):
    await update(scheduler, {"a/1": Item()})
    south.take_history()
    scheduler.hold("somebody else works there")
    for resync in (None, *Resync):
        outcome = await update(scheduler, {"a/1": Item(), "a/2": Item()}, resync=resync)
        assert not outcome.ok
        assert "somebody else works there" in str(outcome.errors[0])
    assert await scheduler.retry_due() is None
    assert south.take_history() == []
    del south.objects["a/1"], south.handles["a/1"]
    scheduler.release()
    assert (await update(scheduler, {})).ok
    assert sorted(south.objects) == ["a/1", "a/2"]


async def test_removal_of_a_dependency_makes_dependents_pending_by_deleting_them_first(scheduler, south):
    await update(scheduler, {"a/1": Item(), "b/x": Item(needs=("a/1",)), "b/y": Item(needs=("b/x",))})
    south.take_history()
    outcome = await update(scheduler, {"a/1": None})
    assert south.take_history() == ["delete b/y", "delete b/x", "delete a/1"]
    assert outcome.states["b/y"].state is State.PENDING
    assert set(scheduler.unsettled) == {"b/x", "b/y"}


async def test_recreate_takes_all_that_rests_on_the_key_along(scheduler, south):
    await update(scheduler, {"a/1": Item(), "b/x": Item(needs=("a/1",)), "b/y": Item(needs=("b/x",)), "b/z": Item()})
    south.take_history()
    await update(scheduler, {"a/1": Item(shape=1)})
    assert south.take_history() == [
        "delete b/y",
        "delete b/x",
        "delete a/1",
        "create a/1",
        "create b/x",
        "create b/y",
    ]


async def test_change_in_place_leaves_dependents_alone(scheduler, south):
    await update(scheduler, {"a/1": Item(), "b/x": Item(needs=("a/1",))})
    south.take_history()
    await update(scheduler, {"a/1": Item(data=5)})
    assert south.take_history() == ["update a/1"]


async def test_change_that_does_not_matter_is_adopted_without_an_operation(scheduler, south):
    await update(scheduler, {"a/1": Item(note="old")})
    south.take_history()
    outcome = await update(scheduler, {"a/1": Item(note="new")})
    assert outcome.plan.empty
    assert scheduler.actual["a/1"] == Item(note="new")
    assert outcome.states["a/1"].state is State.APPLIED


async def test_value_moves_to_another_dependency_in_place_before_the_old_one_goes(scheduler, south):
    await update(scheduler, {"a/old": Item(), "b/x": Item(needs=("a/old",))})
    south.take_history()
    await update(scheduler, {"a/old": None, "a/new": Item(), "b/x": Item(needs=("a/new",))})
    assert south.take_history() == ["create a/new", "update b/x", "delete a/old"]


async def test_move_off_a_key_that_is_recreated_below_does_not_lock_up(scheduler, south):
    """x moves from d to n; n rests on e, which is recreated, and d rests on e as well: an update would be a
    circle."""
    first = {"a/e": Item(), "a/d": Item(needs=("a/e",)), "b/x": Item(needs=("a/d",))}
    await update(scheduler, first)
    south.take_history()
    second = {"a/e": Item(shape=1), "a/d": None, "a/n": Item(needs=("a/e",)), "b/x": Item(needs=("a/n",))}
    outcome = await update(scheduler, second)
    assert south.take_history() == [
        "delete b/x",
        "delete a/d",
        "delete a/e",
        "create a/e",
        "create a/n",
        "create b/x",
    ]
    assert outcome.ok


async def test_any_one_of_several_dependencies_is_enough(scheduler, south):
    await update(scheduler, {"b/x": Item(any_of=(("a/1", "a/2"),)), "a/2": Item()})
    assert south.take_history() == ["create a/2", "create b/x"]
    await update(scheduler, {"a/1": Item()})
    await update(scheduler, {"a/2": None})
    assert south.take_history() == ["create a/1", "delete a/2"]
    await update(scheduler, {"a/1": None})
    assert south.take_history() == ["delete b/x", "delete a/1"]


async def test_change_from_one_alternative_to_the_other_at_once_recreates_the_dependent(scheduler, south):
    await update(scheduler, {"b/x": Item(any_of=(("a/1", "a/2"),)), "a/1": Item()})
    south.take_history()
    await update(scheduler, {"a/1": None, "a/2": Item()})
    assert sorted(south.objects) == ["a/2", "b/x"]


async def test_exclusive_resource_is_freed_before_another_takes_it(scheduler, south):
    """Without the claim the slow delete would lose against the create."""
    await update(scheduler, {"a/old": Item(claims=("10.1.1.2",))})
    gate = south.gate("delete a/old")
    async with asyncio.TaskGroup() as group:
        group.create_task(update(scheduler, {"a/old": None, "a/new": Item(claims=("10.1.1.2",)), "a/free": Item()}))
        while "a/free" not in south.objects:
            await asyncio.sleep(0)
        assert "a/new" not in south.objects
        gate.set()
    assert sorted(south.objects) == ["a/free", "a/new"]


async def test_cycle_is_named_and_the_rest_is_applied(scheduler, south):
    outcome = await update(
        scheduler,
        {
            "a/1": Item(needs=("b/2",)),
            "b/2": Item(needs=("a/1",)),
            "b/3": Item(needs=("a/1",)),
            "a/ok": Item(),
        },
    )
    assert south.take_history() == ["create a/ok"]
    (error,) = outcome.errors
    assert isinstance(error, CycleError)
    assert error.keys == ("a/1", "b/2")
    assert "a/1 -> b/2 -> a/1" in str(error)
    assert outcome.states["a/1"].state is State.FAILED
    assert outcome.states["a/1"].due is None
    assert outcome.states["b/3"].state is State.PENDING
    outcome = await update(scheduler, {"b/2": Item()})
    assert outcome.ok
    assert south.take_history() == ["create b/2", "create a/1", "create b/3"]


async def test_update_that_closes_a_cycle_takes_the_keys_down_and_names_them(scheduler, south):
    await update(scheduler, {"a/1": Item(), "b/2": Item(needs=("a/1",))})
    outcome = await update(scheduler, {"a/1": Item(data=1, needs=("b/2",))})
    assert isinstance(outcome.errors[0], CycleError)
    assert not south.objects
    assert (await update(scheduler, {"a/1": Item()})).ok
    assert sorted(south.objects) == ["a/1", "b/2"]


async def test_unknown_key_is_refused_before_anything_changes(scheduler, south):
    with pytest.raises(UnknownKeyError, match="nobody/1"):
        await update(scheduler, {"a/1": Item(), "nobody/1": Item()})
    assert not scheduler.desired
    assert south.take_history() == []


async def test_independent_keys_do_not_wait_for_one_another(scheduler, south):
    """A pod whose first operation hangs holds up nobody but itself."""
    changes = {f"a/{n}": Item() for n in range(50)} | {f"b/{n}": Item(needs=(f"a/{n}",)) for n in range(50)}
    gate = south.gate("create a/7")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(update(scheduler, changes))
        while len(south.objects) < 98:
            await asyncio.sleep(0)
        assert "b/7" not in south.objects
        gate.set()
    assert task.result().ok
    assert south.running_max == 50


@pytest.mark.parametrize("failing", [False, True])
async def test_creates_come_after_those_of_the_descriptors_that_theirs_names(south, failing):
    """Also after those that fail: it is an order, not a dependency."""
    first = FakeDescriptor(south, "a")
    then = FakeDescriptor(south, "b", create_after=("c",), at_once=4)
    slow = FakeDescriptor(south, "c")
    scheduler = Scheduler([first, then, slow])
    if failing:
        south.fail("create c/1")
    changes = {f"b/{n}": Item() for n in range(6)} | {f"c/{n}": Item(needs=(f"a/{n}",)) for n in range(3)}
    await update(scheduler, changes | {f"a/{n}": Item() for n in range(3)})
    order = [each.removeprefix("create ")[0] for each in south.take_history()]
    assert order[-6:] == ["b"] * 6
    assert len(order) == 11 if failing else 12

    assert (await update(scheduler, {"b/7": Item()})).ok, "alone it waits for nobody"
    south.take_history()
    assert (await update(scheduler, {"c/8": Item(needs=("b/9",)), "b/9": Item()})).ok, "a dependency is stronger"
    assert south.take_history() == ["create b/9", "create c/8"]


async def test_what_a_creation_waited_for_may_go_come_back_and_change(scheduler, south):
    born = Item(after=("a/1",))
    outcome = await update(scheduler, {"b/1": born})
    assert outcome.states["b/1"].state is State.PENDING
    await update(scheduler, {"a/1": Item()})
    assert south.take_history() == ["create a/1", "create b/1"]

    await update(scheduler, {"a/1": None})
    assert south.take_history() == ["delete a/1"]
    assert (await update(scheduler, {"b/1": Item(data=1, after=("a/1",))})).ok
    assert south.take_history() == ["update b/1"], "a change in place does not wait either"
    south.objects.pop("b/1")
    outcome = await update(scheduler, {}, resync=Resync.DOWNSTREAM)
    assert outcome.states["b/1"].state is State.PENDING, "another creation waits again"
    await update(scheduler, {"a/1": Item(shape=1)})
    assert south.take_history() == ["create a/1", "create b/1"]
    await update(scheduler, {"a/1": Item(shape=2)})
    assert south.take_history() == ["delete a/1", "create a/1"]


async def test_operations_at_once_stay_within_the_bound(south):
    scheduler = make_scheduler(south, settings=Settings(concurrency_max=8))
    await update(scheduler, {f"a/{n}": Item() for n in range(100)})
    assert south.running_max == 8
    assert len(south.objects) == 100


async def test_metadata_is_there_before_dependents_start_and_gone_after_the_delete(scheduler, south):
    await update(scheduler, {"a/1": Item(), "b/2": Item(needs=("a/1",))})
    assert scheduler.metadata.require("a/1", int) == south.handles["a/1"]
    assert scheduler.metadata.under("b/") == {"b/2": south.handles["b/2"]}
    await update(scheduler, {"a/1": None})
    assert not scheduler.metadata


# ---------------------------------------------------------------------- failures


async def test_failed_key_stops_only_what_needs_it_and_is_retried_with_growing_delays(scheduler, south, clock):
    south.fail("create a/1", times=2)
    outcome = await update(scheduler, {"a/1": Item(), "b/x": Item(needs=("a/1",)), "a/2": Item()})
    assert south.take_history() == ["create a/2"]
    assert not outcome.ok
    failed = outcome.states["a/1"]
    assert failed.state is State.FAILED
    assert isinstance(failed.error, OperationError)
    assert (failed.error.key, failed.error.operation) == ("a/1", "create")
    assert str(failed.error.cause) == "planned: create a/1"
    assert outcome.states["b/x"].state is State.PENDING
    assert failed.due == clock.now + 1
    assert await scheduler.retry_due() is None
    clock.now += 1
    again = await scheduler.retry_due()
    assert again.states["a/1"].due == clock.now + 2
    clock.now += 2
    assert (await scheduler.retry_due()).ok
    assert south.take_history() == ["create a/1", "create b/x"]
    assert not scheduler.unsettled
    with pytest.raises(TransactionError, match="create a/1"):
        outcome.raise_for_errors()


async def test_exhausted_key_stays_visible_and_a_new_change_gives_it_new_attempts(south, clock):
    scheduler = make_scheduler(south, clock=clock, settings=Settings(attempts_max=3))
    south.fail("create a/1", times=100)
    await update(scheduler, {"a/1": Item()})
    for _ in range(5):
        clock.now += 100
        await scheduler.retry_due()
    status = scheduler.status("a/1")
    assert (status.state, status.attempts, status.due) == (State.FAILED, 3, None)
    assert "planned" in str(status.error)
    south.heal()
    assert (await update(scheduler, {"a/1": Item(data=1)})).ok


async def test_error_that_cannot_heal_is_not_retried(scheduler, south):
    south.fail("create a/1", error=NotImplementedError("no such plugin"))
    outcome = await update(scheduler, {"a/1": Item()})
    assert outcome.states["a/1"].due is None


async def test_delete_is_blocked_while_a_dependent_could_not_be_deleted(scheduler, south, clock):
    await update(scheduler, {"a/1": Item(), "b/x": Item(needs=("a/1",))})
    south.take_history()
    south.fail("delete b/x")
    outcome = await update(scheduler, {"a/1": None, "b/x": None})
    assert south.take_history() == []
    error = outcome.states["a/1"].error
    assert isinstance(error, BlockedError)
    assert error.dependent == "b/x"
    clock.now += 1
    assert (await scheduler.retry_due()).ok
    assert south.take_history() == ["delete b/x", "delete a/1"]
    assert not scheduler.unsettled


async def test_failed_delete_of_a_recreate_leaves_the_old_and_tries_again(scheduler, south, clock):
    await update(scheduler, {"a/1": Item(), "b/x": Item(needs=("a/1",))})
    south.fail("delete a/1")
    outcome = await update(scheduler, {"a/1": Item(shape=1)})
    assert outcome.states["a/1"].state is State.FAILED
    assert outcome.states["b/x"].state is State.APPLIED
    assert south.objects["a/1"].shape == 0
    clock.now += 1
    await scheduler.retry_due()
    assert south.objects["a/1"].shape == 1
    assert not scheduler.unsettled


async def test_update_whose_new_dependency_failed_follows_when_it_comes(scheduler, south, clock):
    await update(scheduler, {"a/old": Item(), "b/x": Item(needs=("a/old",))})
    south.fail("create a/new")
    outcome = await update(scheduler, {"a/new": Item(), "b/x": Item(needs=("a/new",))})
    assert outcome.states["b/x"].state is State.PENDING
    clock.now += 1
    assert (await scheduler.retry_due()).ok
    assert south.objects["b/x"].needs == ("a/new",)
    assert not scheduler.unsettled


async def test_slow_operation_fails_with_the_limit_in_its_text(south):
    scheduler = make_scheduler(south, settings=Settings(operation_timeout_s=0.01))
    south.gate("create a/1")
    outcome = await update(scheduler, {"a/1": Item(), "a/2": Item()})
    assert "no answer within 0.01 s" in str(outcome.errors[0])
    assert "a/2" in south.objects


async def test_client_that_cancels_its_own_future_is_a_failure_and_not_a_cancellation(scheduler, south):
    south.fail("create a/1", error=asyncio.CancelledError())
    outcome = await update(scheduler, {"a/1": Item(), "a/2": Item()})
    assert outcome.states["a/1"].state is State.FAILED
    assert "a/2" in south.objects


async def test_retries_run_by_themselves_when_due(south):
    scheduler = make_scheduler(south, settings=Settings(retry_delay_s=0.01))
    south.fail("create a/1", times=2)
    async with asyncio.TaskGroup() as group:
        runner = group.create_task(scheduler.run())
        await update(scheduler, {"a/1": Item()})
        async with asyncio.timeout(5):
            while scheduler.unsettled:
                await asyncio.sleep(0.005)
        runner.cancel()
    assert "a/1" in south.objects


async def test_cancelled_transaction_accounts_for_what_was_interrupted(scheduler, south, clock):
    south.gate("create a/slow")
    changes = {"a/quick": Item(), "a/slow": Item(), "b/x": Item(needs=("a/slow",))}
    task = asyncio.create_task(update(scheduler, changes))
    while "a/quick" not in south.objects:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scheduler.status("a/quick").state is State.APPLIED
    assert isinstance(scheduler.status("a/slow").error, InterruptedOperationError)
    assert scheduler.status("b/x").state is State.PENDING
    assert scheduler.history.last.operations[1].result == "interrupted"
    south.gates.clear()
    clock.now += 1
    assert (await scheduler.retry_due()).ok
    assert set(south.objects) == set(changes)


async def test_transactions_run_one_after_the_other(scheduler, south):
    gate = south.gate("create a/1")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(update(scheduler, {"a/1": Item()}))
        second = group.create_task(update(scheduler, {"a/1": None}))
        await asyncio.sleep(0)
        gate.set()
    assert south.history == ["create a/1", "delete a/1"]
    assert (first.result().number, second.result().number) == (1, 2)


# ---------------------------------------------------------------------- revert


async def test_revert_undoes_this_transaction_in_reverse_and_restores_values(scheduler, south):
    before = {
        "a/1": Item(data=1),
        "a/2": Item(),
        "b/x": Item(needs=("a/2",)),
        "b/wait": Item(needs=("a/none",)),
    }
    await update(scheduler, before)
    objects = dict(south.objects)
    south.take_history()
    south.fail("create b/bad")
    changes = {
        "a/1": Item(data=2),
        "a/2": None,
        "a/none": Item(),
        "b/bad": Item(needs=("b/wait",)),
    }
    outcome = await update(scheduler, changes, revert_on_failure=True)
    assert outcome.reverted
    assert [str(e) for e in outcome.errors] == ["create b/bad: planned: create b/bad"]
    assert south.objects == objects
    assert dict(scheduler.desired) == before
    history = south.take_history()
    undone = len(history) // 2
    inverse = {"create": "delete", "delete": "create", "update": "update"}
    mirrored = [f"{inverse[verb]} {key}" for verb, key in (entry.split() for entry in history[:undone])]
    assert sorted(history[undone:]) == sorted(mirrored)
    assert set(scheduler.unsettled) == {"b/wait"}
    assert (await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))).plan.empty


async def test_revert_brings_one_alternative_back_before_it_takes_the_other(scheduler, south):
    await update(scheduler, {"a/1": Item(), "b/x": Item(any_of=(("a/0", "a/1"),))})
    south.fail("delete b/x")
    outcome = await update(scheduler, {"a/0": Item(), "a/1": None, "b/x": None}, revert_on_failure=True)
    assert outcome.reverted
    assert sorted(south.objects) == ["a/1", "b/x"]


async def test_alternatives_that_leave_together_do_not_vouch_for_each_other(scheduler, south):
    """The dependent could not be deleted: at least one of those that it rests on has to stay."""
    await update(scheduler, {"a/0": Item(), "a/1": Item(), "b/x": Item(any_of=(("a/0", "a/1"),))})
    south.fail("delete b/x", times=100)
    gate = south.gate("delete a/1")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(update(scheduler, dict.fromkeys(["a/0", "a/1", "b/x"])))
        for _ in range(20):  # long enough for everything that does not wait for the gate
            await asyncio.sleep(0)
        gate.set()
    assert sorted(south.objects) == ["a/0", "b/x"]
    assert isinstance(task.result().states["a/0"].error, BlockedError)


async def test_values_that_failures_left_in_a_circle_are_deleted_by_a_retry(scheduler, south, clock):
    """Each could rest on the other or on the ground; both stayed where the ground went."""
    one, other, ground = "a/1", "a/2", "a/0"
    await update(scheduler, {ground: Item(), one: Item(any_of=((other, ground),)), other: Item(needs=(ground,))})
    south.fail(f"update {one}")
    await update(scheduler, {one: Item(needs=(ground,)), other: Item(any_of=((one, ground),))})
    south.fail(f"delete {one}")
    south.fail(f"delete {other}")
    await update(scheduler, dict.fromkeys([ground, one, other]))
    assert sorted(south.objects) == [one, other]
    clock.now += 2
    outcome = await scheduler.retry_due()
    assert outcome.ok
    assert not south.objects
    assert not scheduler.unsettled
    assert south.violations == []


async def test_values_that_a_failed_update_left_in_a_circle_without_alternative_are_deleted(scheduler, south):
    await update(scheduler, {"a/1": Item(needs=("a/2",)), "a/2": Item(), "b/x": Item(needs=("a/2",))})
    south.fail("update a/1")
    await update(scheduler, {"a/1": Item()})
    await update(scheduler, {"a/2": Item(needs=("a/1",))})
    outcome = await update(scheduler, dict.fromkeys(["a/1", "a/2", "b/x"]))
    assert outcome.ok
    assert not south.objects
    assert south.violations == []


async def test_nothing_new_is_built_on_what_could_not_be_deleted(scheduler, south):
    await update(scheduler, {"a/1": Item()})
    south.fail("delete a/1", times=100)
    await update(scheduler, {"a/1": None})
    outcome = await update(scheduler, {"b/x": Item(needs=("a/1",))})
    assert outcome.states["b/x"].state is State.PENDING
    assert sorted(south.objects) == ["a/1"]


async def test_what_could_not_be_deleted_and_is_wanted_again_carries_those_that_waited_for_it(scheduler, south):
    south.fail("delete a/1", times=100)
    await update(scheduler, {"a/1": Item(), "b/moves": Item()})
    await update(scheduler, {"a/1": None})
    await update(scheduler, {"b/x": Item(needs=("a/1",)), "b/moves": Item(needs=("a/1",))})
    assert set(scheduler.unsettled) == {"a/1", "b/x", "b/moves"}
    outcome = await update(scheduler, {"a/1": Item()})
    assert outcome.ok
    assert held(south) == {key: essence(item) for key, item in scheduler.desired.items()}
    assert not scheduler.unsettled


async def test_pending_key_does_not_make_a_transaction_revert(scheduler, south):
    outcome = await update(scheduler, {"a/1": Item(), "b/x": Item(needs=("a/no",))}, revert_on_failure=True)
    assert not outcome.reverted
    assert "a/1" in south.objects


async def test_failure_while_reverting_is_retried(scheduler, south, clock):
    await update(scheduler, {"a/1": Item(data=1)})
    south.fail("create a/bad")
    south.fail("delete a/2")
    outcome = await update(scheduler, {"a/2": Item(), "a/bad": Item()}, revert_on_failure=True)
    assert len(outcome.errors) == 2
    assert scheduler.status("a/2").state is State.FAILED
    clock.now += 1
    await scheduler.retry_due()
    assert sorted(south.objects) == ["a/1"]


async def test_key_that_had_failed_before_stands_as_it_stood_after_a_revert(scheduler, south, clock):
    south.fail("create a/1")
    await update(scheduler, {"a/1": Item()})
    due = scheduler.status("a/1").due
    south.fail("create a/bad")
    await update(scheduler, {"a/1": Item(data=2), "a/bad": Item()}, revert_on_failure=True)
    assert scheduler.status("a/1").due == due
    clock.now += 1
    await scheduler.retry_due()
    assert south.objects == {"a/1": Item()}


# ---------------------------------------------------------------------- resync


async def test_resync_over_a_right_data_plane_does_nothing_and_refreshes_metadata(scheduler, south):
    desired = {"a/1": Item(), "b/x": Item(needs=("a/1",))}
    await update(scheduler, desired)
    south.take_history()
    successor = make_scheduler(south)
    outcome = await successor.commit(Txn(desired, resync=Resync.FULL))
    assert outcome.plan.empty
    assert south.take_history() == []
    assert dict(successor.metadata) == south.handles
    assert outcome.states["b/x"].state is State.APPLIED


async def test_full_resync_changes_what_differs_and_removes_what_nobody_wants(scheduler, south):
    await update(scheduler, {"a/1": Item(), "a/2": Item(data=1), "a/stale": Item(), "b/x": Item(needs=("a/1",))})
    south.take_history()
    successor = make_scheduler(south)
    wanted = {
        "a/1": Item(note="irrelevant"),
        "a/2": Item(data=2),
        "b/x": Item(needs=("a/1",)),
        "b/new": Item(),
    }
    await successor.commit(Txn(wanted, resync=Resync.FULL))
    assert sorted(south.take_history()) == ["create b/new", "delete a/stale", "update a/2"]


async def test_downstream_resync_repairs_drift(scheduler, south):
    await update(scheduler, {"a/1": Item(), "a/2": Item(), "b/x": Item(needs=("a/1",))})
    south.take_history()
    del south.objects["a/1"], south.handles["a/1"]
    south.objects["a/alien"] = Item()
    south.handles["a/alien"] = 99
    assert {str(o) for o in (await scheduler.inspect()).operations} == {
        "delete a/alien",
        "delete b/x",
        "create a/1",
        "create b/x",
    }
    assert south.take_history() == []
    await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))
    assert sorted(south.objects) == ["a/1", "a/2", "b/x"]
    assert (await scheduler.inspect()).empty


async def test_a_resync_of_one_data_plane_neither_reads_nor_forgets_the_other(scheduler, south):
    desired = {"a/1": Item(), "b/1": Item(needs=("a/1",)), "b/2": Item(after=("a/1",)), "b/3": Item()}
    await update(scheduler, desired)
    before = dict(scheduler.metadata)
    south.take_history()
    del south.objects["a/1"], south.handles["a/1"]
    south.fail("retrieve b")
    outcome = await scheduler.commit(Txn(resync=Resync.DOWNSTREAM, under="a/"))
    assert outcome.ok
    assert south.take_history() == ["delete b/1", "create a/1", "create b/1"]
    assert {key: before[key] for key in ("b/2", "b/3")} == {key: scheduler.metadata[key] for key in ("b/2", "b/3")}
    south.heal()
    assert (await scheduler.inspect()).empty


async def test_after_a_failed_reading_a_resync_reads_everything(scheduler, south):
    await update(scheduler, {"a/1": Item(), "b/1": Item()})
    south.fail("retrieve b")
    assert not (await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))).ok
    del south.objects["b/1"], south.handles["b/1"]
    assert (await scheduler.commit(Txn(resync=Resync.DOWNSTREAM, under="a/"))).ok
    assert sorted(south.objects) == ["a/1", "b/1"]


async def test_upstream_resync_replaces_the_desired_without_reading(scheduler, south):
    await update(scheduler, {"a/1": Item(), "a/2": Item()})
    south.fail("retrieve a")
    outcome = await scheduler.commit(Txn({"a/2": Item(), "a/3": Item()}, resync=Resync.UPSTREAM))
    assert outcome.ok
    assert sorted(south.objects) == ["a/2", "a/3"]


async def test_what_cannot_be_read_is_not_changed_until_it_can(scheduler, south, clock):
    await update(scheduler, {"a/1": Item()})
    south.take_history()
    metadata = dict(scheduler.metadata)
    south.fail("retrieve b", times=2)
    outcome = await scheduler.commit(Txn({"a/2": Item()}, resync=Resync.FULL))
    assert isinstance(outcome.errors[0], RetrieveError)
    assert south.take_history() == []
    assert dict(scheduler.metadata) == metadata
    assert outcome.states["a/2"].state is State.FAILED
    outcome = await update(scheduler, {"b/3": Item()})
    assert not outcome.ok
    clock.now += 60
    outcome = await scheduler.retry_due()
    assert outcome.ok
    assert sorted(south.objects) == ["a/2", "b/3"]


async def test_first_resync_that_cannot_read_leaves_the_data_plane_of_the_predecessor(scheduler, south):
    await update(scheduler, {"a/1": Item()})
    south.take_history()
    successor = make_scheduler(south)
    south.fail("retrieve a")
    assert not (await successor.commit(Txn({}, resync=Resync.FULL))).ok
    assert south.take_history() == []
    assert (await successor.commit(Txn({}))).ok
    assert south.take_history() == ["delete a/1"]


# ---------------------------------------------------------------------- record


async def test_history_tells_what_was_done_as_text_and_json(scheduler, south):
    south.fail("create a/bad")
    await update(scheduler, {"a/1": Item(), "a/bad": Item(), "b/x": Item(needs=("a/no",))}, description="pod x")
    text = scheduler.history.to_text()
    assert "#1 " in text
    assert "update 'pod x': failed, 3 changes, 2 operations" in text
    assert "create a/bad" in text
    assert "FAILED (create a/bad: planned: create a/bad)" in text
    assert "pending b/x: waits for needs a/no" in text
    assert b'"description":"pod x"' in scheduler.history.to_json()


async def test_history_is_bounded_by_transactions_and_operations(south):
    settings = Settings(history_transactions_max=3, history_operations_max=10)
    scheduler = make_scheduler(south, settings=settings)
    for n in range(6):
        await update(scheduler, {f"a/{n}": Item()})
    assert [r.number for r in scheduler.history] == [4, 5, 6]
    await update(scheduler, {f"b/{n}": Item() for n in range(20)})
    assert [r.number for r in scheduler.history] == [7]
