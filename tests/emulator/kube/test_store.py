"""The store against a plain oracle: a copy of everything at every version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.emulator.kube.store import Compacted, Name, Store

KEY = ("", "things")
NAMES = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z"]))
STEPS = st.lists(st.tuples(st.booleans(), NAMES, st.integers(0, 9)), max_size=40)


def _play(store: Store, steps: list[tuple[bool, Name, int]]) -> dict[int, dict[Name, int]]:
    """Carry out puts and removals; the content at every version."""
    content: dict[Name, int] = {}
    at = {store.revision: {}}
    for keep, name, value in steps:
        if keep:
            store.put(KEY, name, content={"metadata": {}, "value": value})
            content[name] = value
        elif name in content:
            store.remove(KEY, name)
            del content[name]
        at[store.revision] = dict(content)
    return at


def _values(records: Any) -> list[tuple[Name, int]]:
    return [(record.name, record.content["value"]) for record in records]


@given(STEPS, NAMES)
def test_every_older_version_can_be_listed(steps: list[tuple[bool, Name, int]], after: Name):
    store = Store()
    at = _play(store, steps)
    for revision, content in at.items():
        wanted = sorted(content.items())
        assert _values(store.table(KEY).scan_at(revision, namespace="")) == wanted
        behind = [(name, value) for name, value in wanted if name > after]
        assert _values(store.table(KEY).scan_at(revision, namespace="", after=after)) == behind
        inside = [(name, value) for name, value in wanted if name[0] == "b"]
        assert _values(store.table(KEY).scan_at(revision, namespace="b")) == inside
    assert _values(store.table(KEY).scan(namespace="a")) == [e for e in sorted(content.items()) if e[0][0] == "a"]


@given(STEPS, st.integers(1, 41))
def test_events_after_a_version_lead_to_the_present(steps: list[tuple[bool, Name, int]], start: int):
    store = Store()
    at = _play(store, steps)
    table = store.table(KEY)
    start = min(start, store.revision)
    content = dict(at[start])
    for event in table.events_from(table.position_after(start), limit=100):
        if event.type == "DELETED":
            del content[event.record.name]
        else:
            assert (event.type == "ADDED") == (event.record.name not in content)
            content[event.record.name] = event.record.content["value"]
    assert content == at[store.revision]


def test_the_history_is_bounded_and_says_so():
    store = Store(history_max=10)
    _play(store, [(True, ("a", "x"), value) for value in range(50)])
    table = store.table(KEY)
    assert len(table.events_from(table.position_after(table.compacted_revision), limit=100)) <= 11
    with pytest.raises(Compacted):
        table.position_after(table.compacted_revision - 1)
    with pytest.raises(Compacted):
        table.events_from(0, limit=1)
