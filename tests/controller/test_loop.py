"""contiv/controller/loop.py: batches, answers, reverts, follow-ups, healing; over a fake data plane."""

from __future__ import annotations

import asyncio
import contextlib
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contiv.controller import (
    Controller,
    ControllerStoppedError,
    DownstreamResync,
    Event,
    FullResync,
    HandlerError,
    OwnershipError,
    QueueFullError,
    ReentrantCallError,
    Settings,
    UpstreamResync,
)
from contiv.errors import ContivError, NetworkError
from contiv.scheduler import OperationError, PendingError
from tests.controller.fakes import AddPod, DeletePod, PodHandler, PodState, Poke, Snapshot
from tests.scheduler.southbound import Item, Southbound, make_scheduler

FAST = Settings(healing_delay_s=0.02, after_commit_timeout_s=0.5)


@pytest.fixture
def south():
    southbound = Southbound()
    yield southbound
    assert southbound.violations == []


@pytest.fixture
def pods():
    return PodHandler()


@contextlib.asynccontextmanager
async def running(south, *handlers, limits=FAST, sync=True, **options):
    """A controller at work; stopped at the end, so that its tasks cannot outlive the test."""
    controller = Controller(make_scheduler(south), handlers, state=PodState(), settings=limits, **options)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(controller.run())
        try:
            if sync:
                await controller.call(Snapshot())
            yield controller
        finally:
            await controller.stop()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def together(controller, *events):
    """Results or errors of events that are queued in one go."""
    return await asyncio.gather(*(controller.call(event) for event in events), return_exceptions=True)


async def test_blocking_event_returns_the_answer_once_its_keys_are_applied(south, pods):
    async with running(south, pods) as controller:
        assert await controller.call(AddPod("p1")) == "wired p1"
        assert sorted(south.objects) == ["a/p1", "b/p1"]
        assert pods.persisted == {"p1"}
        await controller.call(DeletePod("p1"))
        assert not south.objects


async def test_events_that_arrive_during_a_transaction_share_the_next_one(south, pods):
    async with running(south, pods) as controller:
        gate = south.gate("create a/first")
        first = asyncio.create_task(controller.call(AddPod("first")))
        await until(lambda: south.running)
        rest = asyncio.create_task(together(controller, *(AddPod(f"p{n}") for n in range(50))))
        await until(lambda: controller._queue)
        gate.set()
        await first
        assert await rest == [f"wired p{n}" for n in range(50)]
        batches = {record.batch for record in controller.history if record.name == "AddPod"}
        assert len(batches) == 2
        assert len(south.objects) == 102


async def test_batch_is_bounded(south, pods):
    limits = msgspec.structs.replace(FAST, batch_max=10)
    async with running(south, pods, limits=limits) as controller:
        await together(controller, *(AddPod(f"p{n}") for n in range(25)))
        sizes = [r.batch for r in controller.history if r.name == "AddPod"]
        assert sorted(sizes.count(batch) for batch in set(sizes)) == [5, 10, 10]


async def test_failed_pod_of_a_batch_is_reverted_alone(south, pods):
    async with running(south, pods) as controller:
        south.fail("create b/bad", times=100)
        good, bad, other = await together(controller, AddPod("good"), AddPod("bad"), AddPod("other"))
        assert (good, other) == ("wired good", "wired other")
        assert isinstance(bad, OperationError)
        assert bad.key == "b/bad"
        assert sorted(south.objects) == ["a/good", "a/other", "b/good", "b/other"]
        assert pods.pods == pods.persisted == {"good", "other"}
        assert not controller.scheduler.unsettled
        commit = pods.commits[-1]
        assert set(commit.events) == {AddPod("good"), AddPod("other")}
        assert commit.reverted == (AddPod("bad"),)
        record = next(r for r in controller.history if r.description == "pod=bad")
        assert record.reverted
        assert "planned" in record.error


async def test_pod_whose_dependency_is_missing_is_refused_and_reverted(south, pods):
    async with running(south, pods) as controller:
        pods.needs = ("a/uplink",)
        with pytest.raises(PendingError, match="a/uplink"):
            await controller.call(AddPod("p1"))
        assert not controller.scheduler.desired
        assert not pods.pods


async def test_best_effort_event_that_fails_keeps_its_wish_and_heals(south, pods):
    async with running(south, pods) as controller:
        await controller.call(AddPod("p1"))
        south.fail("delete b/p1")
        with pytest.raises(OperationError):
            await controller.call(DeletePod("p1"))
        await until(lambda: not south.objects)
        await until(lambda: controller.history.select(last=1)[0].name == "DownstreamResync")
        assert controller.problem() is None


async def test_add_and_delete_of_one_pod_in_one_batch_leave_nothing(south, pods):
    async with running(south, pods) as controller:
        await together(controller, AddPod("p1"), DeletePod("p1"), AddPod("p2"))
        assert sorted(south.objects) == ["a/p2", "b/p2"]


async def test_handler_that_raises_fails_its_event_and_others_go_on(south):
    one, two = PodHandler("one", prefix="1"), PodHandler("two", prefix="2")
    async with running(south, one, two) as controller:
        boom, pod = await together(controller, Poke(boom="one"), AddPod("p"))
        assert isinstance(boom, HandlerError)
        assert (boom.handler, boom.step) == ("one", "update")
        assert pod == "wired p"
        await until(lambda: controller.history.select(last=1)[0].name == "FullResync")
        assert sorted(south.objects) == ["a/1p", "a/2p", "b/1p", "b/2p"]
        assert controller.problem() is None


async def test_revert_on_failure_event_is_undone_by_the_handlers_that_ran(south):
    class Refusing(PodHandler):
        def update(self, event: Event):
            if event == AddPod("bad"):
                raise ValueError("no address left")
            return super().update(event)

    one, two, three = PodHandler("one", prefix="1"), Refusing("two", prefix="2"), PodHandler("three", prefix="3")
    async with running(south, one, two, three) as controller:
        bad, _ = await together(controller, AddPod("bad"), AddPod("good"))
        assert isinstance(bad, HandlerError)
        assert "no address left" in str(bad)
        assert one.pods == two.pods == three.pods == {"good"}
        assert len(south.objects) == 6


async def test_handlers_revert_in_the_opposite_order(south):
    order = []

    class Noting(PodHandler):
        def update(self, event: Event):
            order.append(f"update {self.name}")
            return super().update(event) if isinstance(event, AddPod) else {}

        def revert(self, event: Event):
            order.append(f"revert {self.name}")
            self.pods.discard(event.pod)
            return dict.fromkeys(self._keys(event.pod))

    async with running(south, Noting("one", prefix="1"), Noting("two", prefix="2")) as controller:
        south.fail("create b/2p")
        with pytest.raises(OperationError):
            await controller.call(AddPod("p"))
        assert order == ["update one", "update two", "revert two", "revert one"]


async def test_refusal_reaches_the_caller_as_it_is_and_needs_no_healing(south):
    class Full(PodHandler):
        def update(self, event: Event):
            if event == AddPod("bad"):
                raise NetworkError("no address left in 10.1.1.0/24")
            return super().update(event)

    one, two = PodHandler("one", prefix="1"), Full("two", prefix="2")
    async with running(south, one, two) as controller:
        bad, good = await together(controller, AddPod("bad"), AddPod("good"))
        assert isinstance(bad, NetworkError)
        assert good == "wired good"
        assert one.pods == two.pods == {"good"}
        await asyncio.sleep(5 * FAST.healing_delay_s)
        assert [r.name for r in controller.history] == ["Snapshot", "AddPod", "AddPod"]


async def test_problem_with_keys_is_over_once_retries_succeed(south, pods):
    async with running(south, pods) as controller:
        await controller.call(AddPod("p"))
        del south.objects["a/p"], south.handles["a/p"]
        south.fail("create a/p", times=2)
        with pytest.raises(OperationError):
            await controller.call(DownstreamResync("look"))
        await until(controller.problem)
        await until(lambda: controller.problem() is None)
        assert "a/p" in south.objects


async def test_handler_that_fails_in_healing_stays_a_problem_although_no_key_failed(south, pods):
    async with running(south, pods) as controller:
        pods.boom = True
        with pytest.raises(HandlerError):
            await controller.call(Poke(boom="pods"))
        await until(controller.problem)
        assert not controller.scheduler.unsettled
        assert "boom" in controller.problem()
        pods.boom = False
        await controller.call(FullResync("repaired"))
        assert controller.problem() is None


async def test_best_effort_event_tells_the_handlers_that_did_not_fail(south):
    one, two = PodHandler("one", prefix="1"), PodHandler("two", prefix="2")
    async with running(south, one, two) as controller:
        with pytest.raises(HandlerError):
            await controller.call(Poke(boom="one"))
        assert one.commits[-1].events == ()
        assert two.commits[-1].events == (Poke(boom="one"),)


async def test_healing_is_asked_for_again_when_the_lane_is_full(south, pods):
    limits = msgspec.structs.replace(FAST, follow_ups_max=1, batch_max=1)
    async with running(south, pods, limits=limits) as controller:
        await controller.call(AddPod("p"))
        south.fail("delete b/p")
        with pytest.raises(OperationError):
            await controller.call(DeletePod("p"))
        gate = south.gate("create a/q")
        slow = asyncio.create_task(controller.call(AddPod("q")))
        await until(lambda: south.running)
        controller.follow_up(Poke())
        await asyncio.sleep(2 * FAST.healing_delay_s)
        gate.set()
        await slow
        await until(lambda: any(r.name == "DownstreamResync" for r in controller.history))
        await until(lambda: sorted(south.objects) == ["a/q", "b/q"])


async def test_two_handlers_must_not_own_one_key(south):
    one, two = PodHandler("one"), PodHandler("two")
    async with running(south, one, two) as controller:
        with pytest.raises(HandlerError, match="key a/p belongs to handler one; two must not set it") as caught:
            await controller.call(AddPod("p"))
        assert isinstance(caught.value.cause, OwnershipError)
        assert not south.objects


async def test_failed_resync_leaves_the_keys_with_their_owners(south):
    one, two = PodHandler("one"), PodHandler("two", prefix="2")
    async with running(south, one, two, limits=msgspec.structs.replace(FAST, healing_delay_s=60)) as controller:
        await controller.call(AddPod("p"))
        one.boom = True
        with pytest.raises(HandlerError):
            await controller.call(FullResync("try"))
        two._prefix = ""
        one.handles = lambda event: False
        with pytest.raises(HandlerError, match="belongs to handler one"):
            await controller.call(AddPod("p"))


async def test_key_without_descriptor_fails_its_event_alone(south, pods):
    class Stray(PodHandler):
        def update(self, event: Event):
            return {"stray/1": Item()} if event == AddPod("stray") else {}

    async with running(south, Stray("stray"), pods) as controller:
        stray, good = await together(controller, AddPod("stray"), AddPod("good"))
        assert "no descriptor for key 'stray/1'" in str(stray)
        assert good == "wired good"


async def test_updates_wait_for_the_first_full_resync_and_are_replayed_after_it(south, pods):
    async with running(south, pods, sync=False) as controller:
        early = asyncio.create_task(controller.call(AddPod("early")))
        controller.push(DownstreamResync("too early"))
        await asyncio.sleep(0.01)
        assert not south.objects
        await controller.call(Snapshot(("p0",)))
        assert await early == "wired early"
        assert sorted(south.objects) == ["a/early", "a/p0", "b/early", "b/p0"]
        assert [r.name for r in controller.history] == ["Snapshot", "DownstreamResync", "AddPod"]


async def test_waiting_updates_are_bounded(south, pods):
    async with running(south, pods, sync=False, limits=Settings(queued_max=3)) as controller:
        for n in range(3):
            controller.push(AddPod(f"p{n}"))
        with pytest.raises(QueueFullError, match="3 events are queued"):
            controller.push(AddPod("p4"))


async def test_watch_may_put_more_events_than_the_queue_holds(south, pods):
    async with running(south, pods, limits=Settings(queued_max=4, batch_max=2)) as controller:
        for n in range(40):
            await controller.put(AddPod(f"p{n}"))
        await controller.call(Poke())
        assert len(south.objects) == 80


async def test_first_resync_is_repeated_until_it_succeeds(south, pods):
    """Nothing that a predecessor left in the data plane is touched meanwhile."""
    south.objects["a/p"] = Item()
    south.handles["a/p"] = 1
    pods.boom = True
    async with running(south, pods, sync=False) as controller:
        with pytest.raises(HandlerError):
            await controller.call(Snapshot(("p",)))
        await until(controller.problem)
        assert "healing failed" in controller.problem()
        assert not controller.synced
        assert south.history == []
        pods.boom = False
        pods.pods = {"p"}
        await controller.wait_synced()
        await until(lambda: controller.problem() is None)
        assert south.history == ["create b/p"]


async def test_resync_that_cannot_read_the_data_plane_does_not_count_as_the_first(south, pods):
    south.fail("retrieve a")
    async with running(south, pods, sync=False) as controller:
        with pytest.raises(ContivError, match="retrieve a"):
            await controller.call(Snapshot(("p",)))
        assert not controller.synced
        await controller.wait_synced()


async def test_second_failure_is_reported_until_a_resync_succeeds(south, pods):
    async with running(south, pods) as controller:
        await controller.call(AddPod("p"))
        del south.objects["a/p"], south.handles["a/p"]
        south.fail("create a/p", times=1000)
        with pytest.raises(OperationError):
            await controller.call(DownstreamResync("look"))
        await until(controller.problem)
        assert "planned: create a/p" in controller.problem()
        count = sum(r.name == "DownstreamResync" for r in controller.history)
        await asyncio.sleep(0.1)
        assert sum(r.name == "DownstreamResync" for r in controller.history) == count == 2
        south.heal()
        await controller.call(DownstreamResync("look again"))
        assert controller.problem() is None


async def test_follow_ups_go_before_what_is_queued_and_name_their_cause(south):
    class Leading(PodHandler):
        controller: Controller[PodState]

        def update(self, event: Event):
            if isinstance(event, Poke) and event.follow:
                self.controller.follow_up(AddPod(event.follow))
            return super().update(event)

    pods = Leading()
    limits = msgspec.structs.replace(FAST, batch_max=1)
    async with running(south, pods, limits=limits) as controller:
        pods.controller = controller
        controller.push(Poke(follow="next"))
        await controller.call(AddPod("later"))
        records = {r.description: r for r in controller.history}
        poke, follow = records["boom= follow=next"], records["pod=next"]
        assert follow.number == poke.number + 1
        assert follow.follow_up_to == poke.number


async def test_waiting_inside_the_loop_is_refused(south):
    class Impatient(PodHandler):
        controller: Controller[PodState]

        async def after_commit(self, commit):
            if commit.events == (AddPod("p"),):
                await self.controller.call(DeletePod("p"))

    pods = Impatient()
    async with running(south, pods) as controller:
        pods.controller = controller
        with pytest.raises(HandlerError, match="use follow_up instead") as caught:
            await controller.call(AddPod("p"))
        assert isinstance(caught.value.cause, ReentrantCallError)


async def test_pod_that_cannot_be_persisted_is_reverted(south, pods):
    async with running(south, pods) as controller:
        pods.persist_error = ConnectionError("etcd is away")
        with pytest.raises(HandlerError, match="etcd is away"):
            await controller.call(AddPod("p"))
        assert not south.objects
        assert not pods.pods
        assert pods.commits[-1].reverted == (AddPod("p"),)


async def test_slow_persistence_is_cut_off(south):
    class Slow(PodHandler):
        async def after_commit(self, commit):
            if commit.events == (AddPod("p"),):
                await asyncio.Event().wait()

    limits = msgspec.structs.replace(FAST, after_commit_timeout_s=0.02)
    async with running(south, Slow(), limits=limits) as controller:
        with pytest.raises(HandlerError, match="persist"):
            await controller.call(AddPod("p"))
        assert await controller.call(AddPod("q")) == "wired q"


async def test_commit_tells_a_handler_its_own_changes(south):
    one, two = PodHandler("one", prefix="1"), PodHandler("two", prefix="2")
    async with running(south, one, two) as controller:
        await controller.call(AddPod("p"))
        assert set(one.commits[-1].changes) == {"a/1p", "b/1p"}
        assert set(two.commits[-1].changes) == {"a/2p", "b/2p"}
        assert one.commits[-1].outcome.ok


async def test_upstream_resync_recomputes_without_reading(south, pods):
    async with running(south, pods) as controller:
        await controller.call(AddPod("p"))
        pods.pods = {"q"}
        south.fail("retrieve a")
        await controller.call(UpstreamResync("settings changed"))
        assert sorted(south.objects) == ["a/q", "b/q"]


async def test_caller_that_goes_away_before_its_turn_leaves_no_pod(south, pods):
    async with running(south, pods) as controller:
        gate = south.gate("create a/slow")
        slow = asyncio.create_task(controller.call(AddPod("slow")))
        await until(lambda: south.running)
        gone = asyncio.create_task(controller.call(AddPod("gone")))
        goes = asyncio.create_task(controller.call(DeletePod("slow")))
        await asyncio.sleep(0)
        gone.cancel()
        goes.cancel()
        await asyncio.sleep(0)
        gate.set()
        await slow
        await controller.call(AddPod("last"))
        assert sorted(south.objects) == ["a/last", "b/last"]


async def test_caller_that_goes_away_during_the_transaction_loses_only_the_answer(south, pods):
    async with running(south, pods) as controller:
        gate = south.gate("create a/p")
        task = asyncio.create_task(controller.call(AddPod("p")))
        await until(lambda: south.running)
        task.cancel()
        gate.set()
        await controller.call(Poke())
        assert sorted(south.objects) == ["a/p", "b/p"]


async def test_stop_finishes_the_running_transaction_and_refuses_the_rest(south, pods):
    async with running(south, pods) as controller:
        gate = south.gate("create a/p")
        first = asyncio.create_task(controller.call(AddPod("p")))
        await until(lambda: south.running)
        second = asyncio.create_task(controller.call(AddPod("q")))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(controller.stop())
        with pytest.raises(ControllerStoppedError):
            await second
        assert not stopping.done()
        gate.set()
        await stopping
        assert await first == "wired p"
        with pytest.raises(ControllerStoppedError):
            controller.push(AddPod("r"))


async def test_cancelled_controller_answers_everybody_and_stops(south, pods):
    controller = Controller(make_scheduler(south), [pods], state=PodState(), settings=FAST)
    run = asyncio.create_task(controller.run())
    await controller.call(Snapshot())
    south.gate("create a/p")
    first = asyncio.create_task(controller.call(AddPod("p")))
    await until(lambda: south.running)
    second = asyncio.create_task(controller.call(AddPod("q")))
    await asyncio.sleep(0)
    run.cancel()
    for task in (first, second):
        with pytest.raises(ControllerStoppedError):
            await task
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not south.running


async def test_periodic_resync_repairs_drift(south, pods):
    limits = msgspec.structs.replace(FAST, periodic_resync_s=0.02)
    async with running(south, pods, limits=limits) as controller:
        await controller.call(AddPod("p"))
        del south.objects["b/p"], south.handles["b/p"]
        await until(lambda: "b/p" in south.objects)


async def test_retries_of_the_scheduler_run_beside_the_loop(south, pods):
    limits = msgspec.structs.replace(FAST, healing_delay_s=60)
    async with running(south, pods, limits=limits) as controller:
        await controller.call(AddPod("p"))
        south.fail("delete b/p")
        with pytest.raises(OperationError):
            await controller.call(DeletePod("p"))
        await until(lambda: not south.objects)


async def test_state_is_up_to_date_before_handlers_run(south, pods):
    async with running(south, pods) as controller:
        await controller.call(Snapshot(("x",)))
        await controller.call(FullResync("on demand"))
        assert controller.state.seen == ["Snapshot", "Snapshot", "FullResync"]
        assert pods.pods == {"x"}


async def test_metrics_hear_of_depth_events_and_batches(south, pods):
    class Recorder:
        def __init__(self):
            self.depths, self.events, self.batches = [], [], []

        def queue_depth(self, depth):
            self.depths.append(depth)

        def event(self, name, *, waited_s, duration_s, failed):
            assert waited_s >= 0
            assert duration_s >= 0
            self.events.append((name, failed))

        def batch(self, *, events, keys, duration_s, failed):
            self.batches.append((events, keys, failed))

    recorder = Recorder()
    async with running(south, pods, metrics=recorder) as controller:
        await together(controller, AddPod("p"), AddPod("q"))
    assert recorder.depths == [1, 0, 1, 2, 0]
    assert recorder.events == [("Snapshot", False), ("AddPod", False), ("AddPod", False)]
    assert recorder.batches == [(1, 0, False), (2, 4, False)]


async def test_history_tells_the_story(south, pods):
    async with running(south, pods) as controller:
        south.fail("create a/bad")
        await together(controller, AddPod("good"), AddPod("bad"))
        text = controller.history.to_text(last=2)
        assert "AddPod pod=good: ok [pods: 2 keys · transaction 2: 4 operations, 1 errors]" in text
        assert "reverted: create a/bad: planned: create a/bad [pods: 2 keys, pods: reverted" in text
        records = msgspec.json.decode(controller.history.to_json())
        assert [r["name"] for r in records] == ["Snapshot", "AddPod", "AddPod"]


@settings(max_examples=int(os.environ.get("CONTIV_EXAMPLES", "25")), deadline=None)
@given(st.data())
def test_random_bursts_with_failures_leave_exactly_the_pods_that_were_promised(data):
    """Whatever fails: data plane, handler and persisted pods agree, and a failed ADD leaves nothing."""
    names = st.sampled_from(["p1", "p2", "p3", "p4"])
    events = st.one_of(st.builds(AddPod, names), st.builds(DeletePod, names))
    bursts = data.draw(st.lists(st.lists(events, min_size=1, max_size=8), min_size=1, max_size=4))
    verbs = st.sampled_from(["create a", "create b", "delete a", "delete b"])

    async def run():
        south, pods = Southbound(), PodHandler()
        async with running(south, pods, limits=msgspec.structs.replace(FAST, healing_delay_s=0.001)) as controller:
            promised: dict[str, bool] = {}
            for burst in bursts:
                for verb, name in data.draw(st.lists(st.tuples(verbs, names), max_size=3)):
                    south.fail(f"{verb}/{name}")
                results = await together(controller, *burst)
                for event, result in zip(burst, results, strict=True):
                    if isinstance(event, DeletePod):
                        promised[event.pod] = False
                    elif not isinstance(result, Exception):
                        promised[event.pod] = True
            south.heal()
            await controller.call(FullResync("settle"))
            assert south.violations == []
            present = {key.removeprefix("a/") for key in south.objects if key.startswith("a/")}
            assert present == {key.removeprefix("b/") for key in south.objects if key.startswith("b/")}
            assert present == pods.pods == pods.persisted
            # A failed ADD of a pod that was there already takes it down: only promises made later are kept.
            assert present <= {pod for pod, wired in promised.items() if wired}
            assert (await controller.scheduler.inspect()).empty

    asyncio.run(run())
