"""A collection observed through bad days: nothing lost, nothing listed again without need, no hot loops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from contiv.kube import watching
from contiv.kube.backoff import Backoff
from contiv.kube.client import KubeClient
from contiv.kube.errors import KubeFailure, KubeGarbled, KubeGone, KubeUnavailable
from contiv.kube.observation import Changes, ListBegun, ListEnded, Observation, Page
from contiv.kube.watching import observe
from tests.kube.scripted import PODS, ScriptedApi, pod

WAIT_S = 5.0


class Observer:
    """Follows ``observe`` and keeps the state that it tells."""

    def __init__(self, observations: AsyncGenerator[Observation, None], failures: list[KubeFailure]) -> None:
        self.failures = failures
        self.state: dict[str, str] = {}
        self.lists = 0
        self.batches = 0
        self._listed: dict[str, str] = {}
        self._observations = observations

    async def until(self, **state: str) -> None:
        """Read on until the names and their label ``v`` are exactly these."""
        async with asyncio.timeout(WAIT_S):
            while self.state != state or not self.lists:
                self._take(await anext(self._observations))

    async def until_listed(self, times: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.lists < times:
                self._take(await anext(self._observations))

    def _take(self, observation: Observation) -> None:
        match observation:
            case ListBegun():
                self._listed = {}
            case Page(items=items):
                for raw in items:
                    put(self._listed, bytes(raw))
            case ListEnded():
                self.lists += 1
                self.state = self._listed
            case Changes(events=events):
                assert events
                self.batches += 1
                for event in events:
                    if event.type == "DELETED":
                        del self.state[json.loads(bytes(event.raw))["metadata"]["name"]]
                    else:
                        put(self.state, bytes(event.raw))


def put(state: dict[str, str], raw: bytes) -> None:
    meta = json.loads(raw)["metadata"]
    state[meta["name"]] = meta["labels"].get("v", "")


@pytest.fixture
async def observer(api: ScriptedApi, client: KubeClient) -> AsyncIterator[Observer]:
    failures: list[KubeFailure] = []
    backoff = Backoff(first_s=0.01, last_s=0.05)
    observations = observe(client, PODS, report=failures.append, limit=2, backoff=backoff)
    yield Observer(observations, failures)
    await observations.aclose()


async def test_changes_follow_the_list(api: ScriptedApi, observer: Observer):
    for name in "abc":
        await api.put(PODS, pod(name, v="1"))
    await observer.until(a="1", b="1", c="1")
    await api.put(PODS, pod("a", v="2"))
    await api.put(PODS, pod("d", v="1"))
    await api.delete(PODS, "b")
    await observer.until(a="2", c="1", d="1")
    assert (api.count(watch=False), api.count(watch=True)) == (2, 1)


async def test_what_arrived_together_comes_as_one_batch(api: ScriptedApi, observer: Observer):
    await observer.until_listed(1)
    for number in range(200):
        await api.put(PODS, pod("a", v=str(number)))
    await observer.until(a="199")
    assert observer.batches < 200


async def test_a_dropped_connection_resumes_without_a_list(api: ScriptedApi, observer: Observer):
    await api.put(PODS, pod("a", v="1"))
    await observer.until(a="1")
    for round_number in range(3):
        waiting = asyncio.create_task(observer.until(a="1", **{f"x{n}": "" for n in range(round_number + 1)}))
        while api.count(watch=True) < round_number + 1:
            await asyncio.sleep(0)
        await api.drop()
        await api.put(PODS, pod(f"x{round_number}"))
        await waiting
    assert observer.lists == 1
    assert {type(failure) for failure in observer.failures} <= {KubeUnavailable}


async def test_an_expired_version_is_listed_again(api: ScriptedApi, observer: Observer):
    await api.put(PODS, pod("a", v="1"))
    await api.put(PODS, pod("gone"))
    await observer.until(a="1", gone="")
    await api.delete(PODS, "gone")
    await api.put(PODS, pod("b", v="1"))
    api.history.clear()
    await api.expire()
    await api.drop()
    await observer.until(a="1", b="1")
    assert observer.lists == 2
    assert any(isinstance(failure, KubeGone) for failure in observer.failures)


async def test_a_bookmark_moves_the_version_to_resume_from(api: ScriptedApi, observer: Observer):
    await api.put(PODS, pod("a", v="1"))
    await observer.until(a="1")
    await api.bookmark(PODS)
    versionless = {"type": "ADDED", "object": pod("b", v="1")}  # moves no version, shows that all before it was read
    await api.send(PODS, json.dumps(versionless).encode() + b"\n")
    await observer.until(a="1", b="1")
    api.oldest = api.version  # the bookmark's: what an idle watch would have missed has expired since
    await api.drop()
    await api.put(PODS, pod("c", v="1"))
    await observer.until(a="1", b="1", c="1")
    assert observer.lists == 1


async def test_events_before_an_error_in_the_same_chunk_count(api: ScriptedApi, observer: Observer):
    await observer.until_listed(1)
    added = {"type": "ADDED", "object": {**pod("a", v="1"), "metadata": {**pod("a", v="1")["metadata"]}}}
    error = {"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}
    await api.send(PODS, json.dumps(added).encode() + b"\n" + json.dumps(error).encode() + b"\n")
    await observer.until(a="1")
    await observer.until_listed(2)
    assert observer.state == {}, "the list that follows has the last word"


@pytest.mark.parametrize("line", [b"garbage\n", b'{"type":"ADDED"}\n', b"[]\n", b'{"type":1,"object":{}}\n'])
async def test_a_garbled_line_is_answered_by_a_new_list(api: ScriptedApi, observer: Observer, line: bytes):
    await api.put(PODS, pod("a"))
    await observer.until(a="")
    await api.send(PODS, line)
    await observer.until_listed(2)
    assert observer.state == {"a": ""}
    assert any(isinstance(failure, KubeGarbled) for failure in observer.failures)


async def test_a_line_without_end_is_cut_off(api: ScriptedApi, observer: Observer, monkeypatch):
    monkeypatch.setattr(watching, "LINE_BYTES_MAX", 10_000)
    await observer.until_listed(1)
    await api.send(PODS, b"x" * 200_000)
    await observer.until_listed(2)
    assert any("more than 10000 bytes" in str(failure) for failure in observer.failures)


async def test_a_line_in_pieces_is_one_event(api: ScriptedApi, observer: Observer):
    await observer.until_listed(1)
    line = json.dumps({"type": "ADDED", "object": pod("a", v="1")}).encode()
    await api.send(PODS, line[:10])
    await api.send(PODS, line[10:])
    await api.send(PODS, b"\n")
    await observer.until(a="1")


async def test_an_expired_continue_token_is_followed_by_a_list_in_one_piece(api: ScriptedApi, observer: Observer):
    for name in "abcde":
        await api.put(PODS, pod(name))
    api.expire_tokens = True
    await observer.until(**dict.fromkeys("abcde", ""))
    assert observer.lists == 1
    assert [query.get("limit") for path, query in api.requests if "watch" not in query] == ["2", "2", None]


async def test_failures_of_the_server_are_waited_out(api: ScriptedApi, observer: Observer):
    await api.put(PODS, pod("a"))
    api.statuses = [(500, {}), (503, {}), (429, {}), (403, {})]
    await observer.until(a="")
    api.statuses = [(500, {}), (500, {})]
    await api.drop()
    await api.put(PODS, pod("b"))
    await observer.until(a="", b="")
    assert observer.lists == 1
    assert [f.status for f in observer.failures if f.status] == [500, 503, 429, 403, 500, 500]


async def test_a_server_whose_data_was_replaced_by_older_data_is_listed_again(api: ScriptedApi, observer: Observer):
    for name in "abc":
        await api.put(PODS, pod(name))
    await observer.until(a="", b="", c="")
    api.objects.clear()
    api.history.clear()
    api.version = 50
    await api.put(PODS, pod("restored"))
    await api.drop()
    waiting = asyncio.create_task(observer.until(restored=""))
    await api.bookmark(PODS)  # all that a server says of itself while nothing happens
    await waiting
    assert observer.lists == 2


async def test_a_version_that_is_refused_again_and_again_is_given_up(api: ScriptedApi, observer: Observer):
    await observer.until_listed(1)
    api.statuses = [(504, {})] * (watching.REFUSALS_MAX + 1)
    await observer.until_listed(2)
    assert api.count(watch=True) == watching.REFUSALS_MAX + 1


async def test_silence_is_taken_for_a_dead_connection(api: ScriptedApi, observer: Observer, monkeypatch):
    monkeypatch.setattr(watching, "SILENCE_TIMEOUT_S", 0.05)
    await observer.until_listed(1)
    waiting = asyncio.create_task(observer.until(a=""))
    async with asyncio.timeout(WAIT_S):
        while api.count(watch=True) < 3:
            await asyncio.sleep(0.01)
    await api.put(PODS, pod("a"))
    await waiting
    assert observer.lists == 1


async def test_watches_that_end_at_once_do_not_spin(api: ScriptedApi, observer: Observer):
    api.refuse_watches = True
    await observer.until_listed(1)
    waiting = asyncio.create_task(observer.until(a=""))
    await asyncio.sleep(0.3)
    assert 3 <= api.count(watch=True) <= 20, "paused from 5 to 50 ms each time"
    api.refuse_watches = False
    await api.put(PODS, pod("a"))
    await waiting
