"""Which writes a list or an event needs: an oracle that knows only the objects, any history, any start."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.ksr import objects
from contiv.ksr.objects import Objects
from contiv.kube.observation import Event
from contiv.model import kube
from contiv.model.kubewire import ObjectError, reduce
from contiv.reflection.mirror import ChangeSet, Mirror


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def pod(name: str, **labels: str) -> msgspec.Raw:
    return raw({"metadata": {"name": name, "namespace": "ns", "labels": labels}, "spec": {}})


def stored(item: msgspec.Raw) -> bytes:
    value = reduce(kube.PODS, item)
    assert isinstance(value, kube.Pod)
    return kube.PODS.encode(value)


def key(name: str) -> str:
    return f"/contiv/k8s/pods/ns/{name}"


@pytest.fixture
def refused() -> list[ObjectError]:
    return []


@pytest.fixture
def mirror(refused: list[ObjectError]) -> Mirror:
    made = Mirror(Objects(kube.PODS), refuse=refused.append)
    made.begin({})
    return made


def counts(changes: ChangeSet) -> tuple[int, int, int]:
    return changes.adds, changes.updates, changes.deletes


def test_a_list_writes_what_differs_and_sweeps_what_it_does_not_name(mirror: Mirror):
    mirror.begin({key("same"): stored(pod("same")), key("old"): stored(pod("old")), key("gone"): b"{}"})
    changes = mirror.mark([pod("same"), pod("old", v="2"), pod("new")])
    assert changes.writes == {key("old"): stored(pod("old", v="2")), key("new"): stored(pod("new"))}
    assert counts(changes) == (1, 1, 0)
    swept = mirror.sweep()
    assert swept.writes == {key("gone"): None}
    assert counts(swept) == (0, 0, 1)
    assert len(mirror) == 3


def test_an_event_that_changes_nothing_stored_writes_nothing(mirror: Mirror):
    mirror.mark([pod("a")])
    noise = json.loads(bytes(pod("a"))) | {"status": {"conditions": [{"type": "Ready"}]}}
    assert mirror.apply([Event("MODIFIED", raw(noise))]).writes == {}


def test_the_last_word_of_a_batch_counts(mirror: Mirror):
    events = [
        Event("ADDED", pod("a", v="1")),
        Event("MODIFIED", pod("a", v="2")),
        Event("ADDED", pod("b")),
        Event("DELETED", pod("b")),
        Event("DELETED", pod("unknown")),
    ]
    assert mirror.apply(events).writes == {key("a"): stored(pod("a", v="2")), key("b"): None}


def test_an_unreadable_object_keeps_what_is_stored_and_is_reported(mirror: Mirror, refused: list[ObjectError]):
    mirror.begin({key("a"): stored(pod("a"))})
    bad = raw({"metadata": {"name": "a", "namespace": "ns", "labels": []}, "spec": {}})
    assert mirror.mark([bad, pod("b")]).writes == {key("b"): stored(pod("b"))}
    assert mirror.sweep().writes == {}
    assert mirror.apply([Event("MODIFIED", bad)]).writes == {}
    assert [(error.namespace, error.name, error.field) for error in refused] == [("ns", "a", "metadata.labels")] * 2
    assert mirror.apply([Event("DELETED", bad)]).writes == {key("a"): None}, "gone is gone, readable or not"


def test_a_policy_is_kept_without_the_rule_that_cannot_be_read(refused: list[ObjectError]):
    mirror = Mirror(Objects(kube.NETWORK_POLICIES), refuse=refused.append)
    mirror.begin({})
    rules = [{"ports": [{"port": []}]}, {"from": [{"podSelector": {}}]}]
    policy = {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"podSelector": {}, "ingress": rules}}
    ((where, value),) = mirror.mark([raw(policy)]).writes.items()
    assert value is not None
    kept = kube.parse(where, value)
    assert isinstance(kept, kube.NetworkPolicy)
    assert kept.ingress is not None
    assert len(kept.ingress) == 1
    assert [(error.name, error.field) for error in refused] == [("p", "spec.ingress[0].ports[0].port")]


def test_a_nameless_object_harms_nothing(mirror: Mirror, refused: list[ObjectError]):
    mirror.begin({key("a"): stored(pod("a"))})
    for nameless in ({}, {"metadata": {}}, {"metadata": {"name": "../../x", "namespace": "ns"}, "spec": {}}):
        assert mirror.mark([raw(nameless)]).writes == {}
        assert mirror.apply([Event("DELETED", raw(nameless))]).writes == {}
    assert len(refused) == 3


def test_a_value_that_etcd_cannot_take_is_refused(mirror: Mirror, refused: list[ObjectError], monkeypatch):
    monkeypatch.setattr(objects, "VALUE_BYTES_MAX", 200)
    assert set(mirror.mark([pod("big", label="x" * 300), pod("small")]).writes) == {key("small")}
    assert "more than 200" in refused[0].problem


names = st.sampled_from("abcd")
versions = st.sampled_from("123")
worlds = st.dictionaries(names, versions)
steps = st.lists(st.tuples(names, versions | st.none()), max_size=12)


@given(
    stored_world=worlds,
    listed=worlds,
    batches=st.lists(steps, max_size=4),
    pages=st.integers(1, 3),
    broken=st.sets(names),
)
def test_any_history_from_any_start_ends_with_the_api_servers_objects(
    stored_world: dict[str, str],
    listed: dict[str, str],
    batches: list[list[tuple[str, str | None]]],
    pages: int,
    broken: set[str],
):
    """The oracle: after a list and any events, etcd is the world, apart from what was never readable."""
    etcd = {key(name): stored(pod(name, v=v)) for name, v in stored_world.items()}
    expected = dict(etcd)
    mirror = Mirror(Objects(kube.PODS), refuse=lambda _: None)
    mirror.begin(etcd)

    def write(changes: ChangeSet, *, minimal: bool = True) -> None:
        for where, value in changes.writes.items():
            assert not minimal or etcd.get(where) != value, "what is there already needs no write"
            if value is None:
                etcd.pop(where, None)
            else:
                etcd[where] = value

    def item(name: str, v: str) -> msgspec.Raw:
        if name in broken:
            return raw({"metadata": {"name": name, "namespace": "ns"}, "spec": []})
        return pod(name, v=v)

    ordered = sorted(listed.items())
    for start in range(0, len(ordered), pages):
        write(mirror.mark(item(name, v) for name, v in ordered[start : start + pages]))
    write(mirror.sweep())
    for name in "abcd":
        if name not in listed:
            expected.pop(key(name), None)
        elif name not in broken:
            expected[key(name)] = stored(pod(name, v=listed[name]))
    assert etcd == expected
    for batch in batches:
        events = [Event("DELETED" if v is None else "MODIFIED", item(name, v or "0")) for name, v in batch]
        write(mirror.apply(events), minimal=len({name for name, _ in batch}) == len(batch))
        for name, v in batch:
            if v is None:
                expected.pop(key(name), None)
            elif name not in broken:
                expected[key(name)] = stored(pod(name, v=v))
        assert etcd == expected
