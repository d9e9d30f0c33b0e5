"""contiv.agent.feed on a real etcd: order, resyncs that never go back in time, unreadable objects, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from contiv.agent.feed import Feed
from contiv.controller.cluster import ClusterResync, ClusterState, KubeChange, NodeClaimChange
from contiv.controller.event import Event
from contiv.model import keys, kube
from contiv.model.node import Attachment, NodeClaim
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.records import Snapshot

WAIT_S = 20.0


class Agent:
    """Who is fed: keeps the events and the state that follows from them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.state = ClusterState()
        self._changed = asyncio.Condition()

    async def push(self, event: Event) -> None:
        self.events.append(event)
        self.state.apply(event)
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(holds)

    @property
    def resyncs(self) -> int:
        return sum(isinstance(event, ClusterResync) for event in self.events)


def namespace(name: str, **labels: str) -> tuple[str, bytes]:
    return keys.k8s_object("namespaces", name), msgspec.json.encode(kube.Namespace(name=name, labels=labels))


def claim(number: int, name: str = "") -> tuple[str, bytes]:
    made = NodeClaim(id=number, name=name or f"node{number}", uplink=f"192.168.16.{number}/24")
    return keys.node_id(number), msgspec.json.encode(made)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    async with EmbeddedEtcd(tmp_path / "e") as started:
        yield started


@pytest.fixture
async def etcd(server: EmbeddedEtcd) -> AsyncIterator[Etcd]:
    async with await Etcd.connect([server.endpoint]) as client:
        yield client


@asynccontextmanager
async def following(etcd: Etcd, agent: Agent) -> AsyncIterator[Feed]:
    feed = Feed(etcd, "node1", agent.push)
    await feed.start()
    task = asyncio.create_task(feed.follow())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.wait([task])


def names(agent: Agent) -> set[str]:
    return {getattr(each, "name", "") for each in agent.state.objects.values()}


async def test_what_is_there_comes_first_as_one_resync_and_then_every_change_in_order(etcd: Etcd) -> None:
    agent = Agent()
    await etcd.write(dict([namespace("old"), claim(2)]))
    async with following(etcd, agent):
        for number in range(20):
            await etcd.write(dict([namespace("moving", step=str(number))]))
        await etcd.delete(namespace("old")[0])
        await agent.until(lambda: names(agent) == {"moving"})
    assert isinstance(agent.events[0], ClusterResync)
    assert set(agent.events[0].claims) == {2}
    changes = [event for event in agent.events[1:] if isinstance(event, KubeChange)]
    steps = [change.new.labels["step"] for change in changes if isinstance(change.new, kube.Namespace)]
    assert steps == [str(number) for number in range(20)]
    assert isinstance(changes[-1].old, kube.Namespace)
    assert changes[-1].new is None


async def test_a_value_written_again_is_no_event(etcd: Etcd) -> None:
    agent = Agent()
    async with following(etcd, agent):
        for _ in range(3):
            await etcd.write(dict([namespace("same")]))
        await etcd.write(dict([namespace("last")]))
        await agent.until(lambda: "last" in names(agent))
    assert [event.describe() for event in agent.events[1:]] == [
        f"{namespace('same')[0]} added",
        f"{namespace('last')[0]} added",
    ]


async def test_claims_come_and_go(etcd: Etcd) -> None:
    agent = Agent()
    async with following(etcd, agent):
        await etcd.write(dict([claim(3)]))
        await agent.until(lambda: 3 in agent.state.claims)
        await etcd.delete(keys.node_id(3))
        await agent.until(lambda: not agent.state.claims)


async def test_what_cannot_be_read_is_left_out_and_the_rest_goes_on(etcd: Etcd) -> None:
    agent = Agent()
    broken = Attachment(
        container_id="c", if_name="eth0", netns="/n", pod_namespace="d", pod_name="p", pod_uid="", address="nowhere",
        interface="pod0", pod_mac="", vpp_mac="",
    )  # fmt: skip
    await etcd.write(
        {
            keys.k8s_object("namespaces", "bad"): b"{",
            keys.k8s_object("nonsense", "x"): b"{}",
            keys.node_id(1): b"[]",
            keys.node_id(2): msgspec.json.encode(NodeClaim(id=2, name="b", uplink="somewhere")),
            keys.attachment("node1", "c/eth0"): msgspec.json.encode(broken),
            **dict([namespace("good"), claim(3)]),
        }
    )
    async with following(etcd, agent):
        assert names(agent) == {"good"}
        assert set(agent.state.claims) == {3}
        assert agent.state.attachments == {}
        await etcd.write({keys.k8s_object("namespaces", "worse"): b"\xff", keys.node_id(4): b"4"})
        await etcd.write(dict([namespace("better"), claim(5)]))
        await agent.until(lambda: names(agent) == {"good", "better"} and set(agent.state.claims) == {3, 5})


async def test_a_compaction_while_etcd_was_away_is_one_more_resync_and_nothing_is_lost(
    etcd: Etcd, server: EmbeddedEtcd
) -> None:
    agent = Agent()
    await etcd.write(dict([namespace("gone"), claim(2)]))
    feed = Feed(etcd, "node1", agent.push)
    await feed.start()
    await etcd.delete(namespace("gone")[0])
    await etcd.write(dict([claim(2, "other")]))
    revision = await etcd.write(dict([namespace("new")]))
    await etcd.compact(revision, physical=True)
    task = asyncio.create_task(feed.follow())  # its first revision is history now
    await agent.until(lambda: names(agent) == {"new"} and agent.state.claims[2].name == "other")
    await etcd.write(dict([namespace("newer"), claim(3)]))
    await agent.until(lambda: "newer" in names(agent) and 3 in agent.state.claims)
    task.cancel()
    await asyncio.wait([task])
    assert agent.resyncs >= 2


async def test_a_change_that_a_resync_has_read_is_not_played_again_over_it(etcd: Etcd) -> None:
    agent = Agent()
    seen: list[str] = []
    async with following(etcd, agent) as feed:
        async with feed._turn:  # the watch has the changes, but must wait
            for number in range(5):
                await etcd.write(dict([claim(2, f"name{number}")]))
        await asyncio.gather(*(feed._resync("test") for _ in range(2)))
        await etcd.write(dict([claim(3)]))
        await agent.until(lambda: 3 in agent.state.claims)
    for event in agent.events:
        if isinstance(event, ClusterResync) and 2 in event.claims:
            seen.append(event.claims[2].name)
        elif isinstance(event, NodeClaimChange) and event.id == 2 and event.claim is not None:
            seen.append(event.claim.name)
    assert seen == sorted(seen)
    assert seen[-1] == "name4"


async def test_a_change_that_overtakes_a_resync_outlives_it(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    async with following(etcd, agent) as feed:
        read = etcd.get_prefix

        async def slow(prefix: str) -> Snapshot:
            snapshot = await read(prefix)
            if prefix == keys.NODE_IDS:  # between the reading of the claims and the push of the resync
                await etcd.write(dict([claim(7)]))
                await etcd.get(keys.node_id(7))
            return snapshot

        monkeypatch.setattr(etcd, "get_prefix", slow)
        await feed._resync("test")
        await etcd.write(dict([claim(8)]))
        await agent.until(lambda: 8 in agent.state.claims)
    assert set(agent.state.claims) == {7, 8}


async def test_changes_made_around_a_restart_of_etcd_all_arrive(etcd: Etcd, server: EmbeddedEtcd) -> None:
    agent = Agent()
    async with following(etcd, agent):
        await etcd.write(dict([namespace("before")]))
        await server.restart()
        await etcd.write(dict([namespace("after"), claim(2)]))
        await agent.until(lambda: names(agent) == {"before", "after"} and 2 in agent.state.claims)
    assert agent.resyncs == 1


async def test_an_etcd_that_lost_its_data_is_followed_from_its_new_beginning(tmp_path: Path) -> None:
    agent = Agent()
    async with EmbeddedEtcd(tmp_path / "e") as server, await Etcd.connect([server.endpoint]) as etcd:
        for number in range(1, 30):
            await etcd.write(dict([namespace(f"n{number}"), claim(number)]))
        async with following(etcd, agent):
            await server.wipe()
            await agent.until(lambda: not agent.state.objects and not agent.state.claims)
            await etcd.write(dict([namespace("anew"), claim(1)]))  # at a revision far below the last one known
            await agent.until(lambda: names(agent) == {"anew"} and set(agent.state.claims) == {1})
