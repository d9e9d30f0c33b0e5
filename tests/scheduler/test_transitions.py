"""The scheduler's promises over random configurations: from any to any other, through failures, drift and
reverts.

The oracle is ``attainable``: from below, every value whose dependencies are there. The southbound itself
notes each create before its dependencies and each delete under a dependent.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from contiv.scheduler import Resync, Settings, Txn
from tests.scheduler import southbound
from tests.scheduler.southbound import Clock, Item, Southbound, attainable, essence, held

# kind "a" is created one by one, kind "b" by threes
make_scheduler = partial(southbound.make_scheduler, at_once=3)
KEYS = [f"{kind}/{number}" for kind in "ab" for number in range(5)]
quick = settings(max_examples=int(os.environ.get("CONTIV_EXAMPLES", "40")), deadline=None)


FEW = KEYS[:2] + KEYS[-2:]


@st.composite
def alternatives(draw, *, acyclic=True):
    """A few keys, most of which rest on one or the other of two: so few that rare cases are met."""
    order = draw(st.permutations(FEW))
    configuration = {}
    for position, key in enumerate(order):
        below = order[:position] if acyclic else order
        targets = tuple(draw(st.lists(st.sampled_from(below), max_size=2, unique=True))) if below else ()
        item = Item(any_of=(targets,)) if len(targets) > 1 else Item(needs=targets)
        if draw(st.integers(0, 7)):
            configuration[key] = item
    return configuration


@st.composite
def configurations(draw, *, acyclic=True):
    """Some of the keys, each with dependencies among those before it in a random order; some will be
    absent."""
    order = draw(st.permutations(KEYS))
    configuration = {}
    for position, key in enumerate(order):
        if draw(st.integers(0, 3)) == 0:
            continue
        below = st.sampled_from(order[:position] if acyclic else order) if position or not acyclic else st.nothing()
        needs = draw(st.lists(below, max_size=2, unique=True)) if position or not acyclic else []
        any_of = ()
        if acyclic and position > 1 and draw(st.integers(0, 3)) == 0:
            any_of = (tuple(draw(st.lists(below, min_size=2, max_size=3, unique=True))),)
        configuration[key] = Item(
            data=draw(st.integers(0, 2)),
            shape=draw(st.integers(0, 1)),
            note=draw(st.sampled_from(["", "x"])),
            needs=tuple(needs),
            any_of=any_of,
        )
    return configuration


def changes(before, after):
    gone = {key: None for key in before if key not in after}
    return gone | {key: item for key, item in after.items() if before.get(key) != item}


async def assert_settled(scheduler, south, desired):
    """The data plane holds all that can be held, the scheduler knows it, and there is nothing left to do."""
    assert south.violations == []
    assert held(south) == attainable(desired)
    assert {key: essence(item) for key, item in scheduler.actual.items()} == held(south)
    assert dict(scheduler.desired) == desired
    assert set(scheduler.unsettled) == set(desired) - set(south.objects)
    assert set(scheduler.metadata) == set(south.objects)
    assert (await scheduler.inspect()).empty
    south.take_history()
    outcome = await scheduler.commit(Txn(desired, resync=Resync.FULL))
    assert outcome.plan.empty
    assert south.take_history() == []


@quick
@given(st.lists(configurations(), min_size=2, max_size=4), st.integers(0, 3))
def test_any_configuration_leads_to_any_other_by_changes(steps, pause):
    async def run():
        south = Southbound(pause=pause)
        scheduler = make_scheduler(south)
        before = {}
        for after in steps:
            outcome = await scheduler.commit(Txn(changes(before, after)))
            assert outcome.ok, outcome.errors
            await assert_settled(scheduler, south, after)
            before = after

    asyncio.run(run())


@quick
@given(configurations(), configurations())
def test_any_configuration_leads_to_any_other_by_resync_of_a_successor(first, second):
    async def run():
        south = Southbound()
        await make_scheduler(south).commit(Txn(first))
        successor = make_scheduler(south)
        outcome = await successor.commit(Txn(second, resync=Resync.FULL))
        assert outcome.ok
        await assert_settled(successor, south, second)

    asyncio.run(run())


@quick
@given(st.lists(configurations(acyclic=False), min_size=2, max_size=3))
def test_cycles_never_lock_up_nor_harm_the_rest(steps):
    async def run():
        south = Southbound()
        scheduler = make_scheduler(south)
        before = {}
        for after in steps:
            await scheduler.commit(Txn(changes(before, after)))
            assert south.violations == []
            assert held(south) == attainable(after)
            before = after
        await scheduler.commit(Txn(dict.fromkeys(before)))
        assert not south.objects

    asyncio.run(run())


@quick
@given(st.lists(configurations(), min_size=2, max_size=3), st.data())
def test_failures_at_random_operations_are_overcome_by_retries(steps, data):
    verbs = st.sampled_from(["create", "update", "delete"])
    planned = st.dictionaries(st.tuples(verbs, st.sampled_from(KEYS)), st.integers(1, 3), max_size=8)

    async def run():
        south, clock = Southbound(), Clock()
        scheduler = make_scheduler(south, clock=clock, settings=Settings(attempts_max=50))
        before = {}
        for after in steps:
            for (verb, key), times in data.draw(planned).items():
                south.fail(f"{verb} {key}", times=times)
            await scheduler.commit(Txn(changes(before, after)))
            assert south.violations == []
            before = after
        for _ in range(40):
            clock.now += 61
            await scheduler.retry_due()
            assert south.violations == []
        south.heal()
        await assert_settled(scheduler, south, before)

    asyncio.run(run())


@quick
@given(st.lists(alternatives(), min_size=2, max_size=4), st.data())
def test_failures_among_alternatives_are_overcome_and_leave_nothing_that_holds_itself_up(steps, data):
    operations = st.sampled_from([f"{verb} {key}" for verb in ("create", "update", "delete") for key in FEW])
    planned = st.sets(operations, max_size=6)

    async def run():
        south, clock = Southbound(), Clock()
        scheduler = make_scheduler(south, clock=clock, settings=Settings(attempts_max=50))
        before = {}
        for after in [*steps, data.draw(st.sampled_from([{}, steps[0]]))]:
            south.heal()
            for operation in data.draw(planned):
                south.fail(operation)
            await scheduler.commit(Txn(changes(before, after)))
            before = after
        south.heal()
        for _ in range(5):
            clock.now += 61
            await scheduler.retry_due()
        await assert_settled(scheduler, south, before)

    asyncio.run(run())


@quick
@given(alternatives(acyclic=False), alternatives())
def test_resync_over_a_predecessors_circles_leads_to_what_is_desired(found, desired):
    async def run():
        south = Southbound()
        for handle, (key, item) in enumerate(found.items()):
            south.objects[key], south.handles[key] = item, handle
        scheduler = make_scheduler(south)
        await scheduler.commit(Txn(desired, resync=Resync.FULL))
        # What nothing carried has no claim to an order, also where a value that is created meanwhile would carry it.
        south.violations = [each for each in south.violations if each.rpartition(" under ")[2] in attainable(found)]
        await assert_settled(scheduler, south, desired)

    asyncio.run(run())


@quick
@given(configurations(), configurations(), st.data())
def test_revert_restores_exactly_what_was(first, second, data):
    async def run():
        south = Southbound()
        scheduler = make_scheduler(south)
        await scheduler.commit(Txn(first))
        objects, standing = dict(south.objects), dict(scheduler.unsettled)
        south.take_history()
        verb = data.draw(st.sampled_from(["create", "update", "delete"]))
        south.fail(f"{verb} {data.draw(st.sampled_from(KEYS))}")
        outcome = await scheduler.commit(Txn(changes(first, second), revert_on_failure=True))
        assert south.violations == []
        if outcome.ok:
            assert held(south) == attainable(second)
            return
        assert outcome.reverted
        south.heal()
        assert {k: essence(v) for k, v in objects.items()} == held(south)
        assert set(scheduler.unsettled) == set(standing)
        await assert_settled(scheduler, south, first)

    asyncio.run(run())


@quick
@given(configurations(), st.sets(st.sampled_from(KEYS)), st.sets(st.sampled_from(KEYS)))
def test_drift_is_repaired_by_a_downstream_resync(desired, lost, bent):
    async def run():
        south = Southbound()
        scheduler = make_scheduler(south)
        await scheduler.commit(Txn(desired))
        for key in bent & set(south.objects):
            item = south.objects[key]
            south.objects[key] = Item(data=9, shape=item.shape, needs=item.needs, any_of=item.any_of)
        for key in lost & set(south.objects):
            del south.objects[key], south.handles[key]
        for key in lost - set(desired):
            south.objects[key], south.handles[key] = Item(), 77
        outcome = await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))
        assert outcome.ok, outcome.errors
        await assert_settled(scheduler, south, desired)

    asyncio.run(run())


@quick
@given(configurations(), configurations(), st.randoms())
def test_same_state_gives_the_identical_plan_whatever_its_history(first, second, random):
    """The order in which keys arrived must not show in the plan."""

    async def plan_of(keys):
        south = Southbound()
        scheduler = make_scheduler(south)
        for key in keys:
            await scheduler.commit(Txn({key: first[key]}))
        outcome = await scheduler.commit(Txn(changes(first, second)))
        return outcome.plan

    shuffled = list(first)
    random.shuffle(shuffled)
    assert asyncio.run(plan_of(sorted(first))) == asyncio.run(plan_of(shuffled))


@quick
@given(configurations(), configurations(), st.integers(0, 60))
def test_cancellation_at_any_moment_leaves_an_account_from_which_resync_recovers(first, second, moment):
    async def run():
        south = Southbound()
        scheduler = make_scheduler(south)
        await scheduler.commit(Txn(first))
        task = asyncio.create_task(scheduler.commit(Txn(changes(first, second))))
        for _ in range(moment):
            await asyncio.sleep(0)
        started = moment > 0
        task.cancel()
        await asyncio.wait([task])
        assert south.violations == []
        desired = second if started else first
        await scheduler.commit(Txn(desired, resync=Resync.FULL))
        await assert_settled(scheduler, south, desired)

    asyncio.run(run())


@quick
@given(configurations(), configurations(), st.data())
def test_answers_that_got_lost_are_found_out_by_a_downstream_resync(first, second, data):
    """The scheduler cannot know what such operations did; reading the data plane tells."""
    verbs = st.sampled_from(["create", "update", "delete"])
    lost = data.draw(st.sets(st.tuples(verbs, st.sampled_from(KEYS)), max_size=5))

    async def run():
        south = Southbound()
        scheduler = make_scheduler(south)
        await scheduler.commit(Txn(first))
        for verb, key in lost:
            south.mislead(f"{verb} {key}")
        await scheduler.commit(Txn(changes(first, second)))
        # Meanwhile the scheduler's picture was wrong, so the order of what it did may have been as well.
        south.violations.clear()
        for _ in range(len(lost) + 1):
            outcome = await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))
        assert outcome.ok
        south.violations.clear()
        await assert_settled(scheduler, south, second)

    asyncio.run(run())
