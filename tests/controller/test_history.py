"""contiv/controller/history.py: bounded by number and age."""

from __future__ import annotations

import msgspec

from contiv.controller.history import EventHistory, EventRecord, HandlerRecord
from tests.scheduler.southbound import Clock


def record(number, ended, **fields):
    return EventRecord(
        number=number, name="AddPod", description="pod=p", kind="update", started=ended - 0.5, ended=ended, **fields
    )


def make_history(clock, **limits):
    return EventHistory(**{"events_max": 3, "age_max_s": 60.0, "wall_clock": clock} | limits)


def test_old_and_surplus_records_go():
    clock = Clock()
    history = make_history(clock)
    for number in range(5):
        history.add(record(number, clock.now + number))
    assert [r.number for r in history] == [2, 3, 4]
    clock.now += 63.5
    assert [r.number for r in history] == [4]


def test_selection_by_time_and_number():
    clock = Clock()
    history = make_history(clock, events_max=10)
    for number in range(5):
        history.add(record(number, clock.now + number))
    assert [r.number for r in history.select(last=2)] == [3, 4]
    assert history.select(last=0) == ()
    assert [r.number for r in history.select(since=clock.now + 3)] == [3, 4]
    assert len(msgspec.json.decode(history.to_json(last=1))) == 1


def test_text_has_handlers_cause_and_error():
    clock = Clock()
    history = make_history(clock)
    handlers = (HandlerRecord("network", changes=6), HandlerRecord("policy", error="policy failed"))
    history.add(record(7, clock.now, handlers=handlers, follow_up_to=3, error="no address", summary="transaction 2"))
    assert history.to_text() == (
        "#7 1970-01-01 00:16:39.500Z 500.0 ms AddPod pod=p (follows #3): failed: no address "
        "[network: 6 keys, policy: policy failed · transaction 2]"
    )
