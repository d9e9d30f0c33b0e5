"""contiv/scheduler/plan.py and operations.py: order, waves and cost, without any execution."""

from __future__ import annotations

import time

from contiv.scheduler.graph import Graph
from contiv.scheduler.plan import make_plan
from contiv.scheduler.registry import Registry
from tests.scheduler.southbound import FakeDescriptor, Item, Southbound

REGISTRY = Registry([FakeDescriptor(Southbound(), name) for name in ("a", "b")])


def graph(**values):
    made = Graph()
    for key, item in values.items():
        put(made, key.replace("_", "/"), item)
    return made


def put(into, key, item):
    into.put(key, item, REGISTRY.needs(key, item))


def plan(desired, actual, touched):
    return make_plan(REGISTRY, desired=desired, actual=actual, touched=touched)


def test_operation_names_those_it_waits_for_and_its_wave():
    desired = graph(a_1=Item(), b_2=Item(needs=("a/1",)), b_3=Item(needs=("b/2", "a/1")))
    operations = plan(desired, Graph(), ["b/3", "a/1", "b/2"]).operations
    assert [(str(o), o.wave, o.after) for o in operations] == [
        ("create a/1", 0, ()),
        ("create b/2", 1, (0,)),
        ("create b/3", 2, (0, 1)),
    ]


def test_operation_says_why_a_key_is_taken_down():
    desired = graph(a_1=Item(shape=1), b_2=Item(needs=("a/1",)))
    actual = graph(a_1=Item(), b_2=Item(needs=("a/1",)), a_3=Item())
    reasons = {str(o): o.reason for o in plan(desired, actual, ["a/1", "a/3"]).operations}
    assert reasons["delete a/1"] == "must be recreated"
    assert reasons["delete b/2"] == "rests on a/1"
    assert reasons["delete a/3"] == "unwanted"


def test_delete_of_a_dependent_goes_before_the_update_of_what_it_rests_on():
    desired = graph(a_1=Item(data=1))
    actual = graph(a_1=Item(), b_2=Item(needs=("a/1",)))
    operations = plan(desired, actual, ["a/1", "b/2"]).operations
    assert [str(o) for o in operations] == ["delete b/2", "update a/1"]
    assert operations[1].after == (0,)


def test_create_waits_for_the_update_of_its_dependency():
    desired = graph(a_1=Item(data=1), b_2=Item(needs=("a/1",)))
    operations = plan(desired, graph(a_1=Item()), ["a/1", "b/2"]).operations
    assert [str(o) for o in operations] == ["update a/1", "create b/2"]
    assert operations[1].after == (0,)


def test_alternatives_that_lean_on_each_other_have_an_order_to_come_and_to_go():
    """Both rest on the ground; each could also rest on the other, which must not make them wait for one
    another."""
    values = {
        "a_0": Item(),
        "a_1": Item(any_of=(("a/2", "a/0"),)),
        "a_2": Item(any_of=(("a/1", "a/0"),)),
        "a_3": Item(any_of=(("a/4", "a/0"),)),
        "a_4": Item(needs=("a/3",)),
    }
    there, nothing = graph(**values), Graph()
    coming = plan(there, nothing, there.values)
    assert str(coming.operations[0]) == "create a/0"
    assert len(coming.operations) == len(values)
    going = plan(nothing, there, there.values)
    assert str(going.operations[-1]) == "delete a/0"
    assert len(going.operations) == len(values)
    assert not coming.cycles
    assert not going.cycles


def test_removed_values_in_a_circle_go_where_an_alternative_is_lost_and_after_what_rests_on_them():
    actual = graph(a_1=Item(needs=("a/2",)), a_2=Item(any_of=(("a/1", "a/9"),)), b_x=Item(needs=("a/1",)))
    going = plan(Graph(), actual, actual.values)
    assert [(str(o), o.after, o.despite) for o in going.operations] == [
        ("delete b/x", (), ()),
        ("delete a/1", (0,), ("a/2",)),
        ("delete a/2", (1,), ()),
    ]
    assert not going.cycles


def test_plan_of_what_is_right_is_empty():
    desired = graph(a_1=Item(), b_2=Item(needs=("a/1",)))
    assert plan(desired, desired, ["a/1", "b/2"]).empty


def test_pending_names_only_what_is_missing():
    desired = graph(a_1=Item(), b_2=Item(needs=("a/1", "a/9")))
    result = plan(desired, Graph(), ["a/1", "b/2"])
    assert {key: [str(n) for n in needs] for key, needs in result.pending.items()} == {"b/2": ["needs a/9"]}


def test_cost_follows_the_touched_keys_and_not_all_keys():
    """One route among many on one interface: planning it must not walk over the others."""
    counts = {}
    for size in (100, 20_000):
        desired, actual = graph(a_up=Item()), graph(a_up=Item())
        for number in range(size):
            put(desired, f"b/{number}", Item(needs=("a/up",)))
            put(actual, f"b/{number}", Item(needs=("a/up",)))
        put(desired, "b/new", Item(needs=("a/up",)))
        best = min(_timed(lambda d=desired, a=actual: plan(d, a, ["b/new", "b/7"])) for _ in range(20))
        counts[size] = best
    assert counts[20_000] < 20 * counts[100]


def _timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
