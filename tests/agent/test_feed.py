"""contiv.agent.feed on a real etcd: order, resyncs that never go back in time, unreadable objects, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from contiv.agent.feed import Feed
from contiv.agent.persistence import Persistence
from contiv.config import Config
from contiv.controller.cluster import ClusterResync, ClusterState, KubeChange, NodeClaimChange
from contiv.controller.event import Event
from contiv.errors import StoreError
from contiv.model import keys, kube
from contiv.model.node import Attachment, NodeClaim
from contiv.network.ipam import ClusterSubnets
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.mirror import LocalMirror
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


def statuses() -> dict[str, bytes]:
    """KSR's word that all kinds are complete."""
    status = kube.KsrStatus(plural="", instance="i", resource_version="1", objects=1, synced_at="")
    return {keys.ksr_status(kind.plural): msgspec.json.encode(status) for kind in kube.KINDS}


@asynccontextmanager
async def fed(etcd: Etcd, agent: Agent, disk: Path) -> AsyncIterator[Feed]:
    """A feed that nobody has started, with its mirror on ``disk``."""
    config = Config()
    async with await LocalMirror.open(disk / "mirror.db") as mirror:
        persistence = Persistence(etcd, mirror, ClusterSubnets.of(config), node="node1", on_moved=lambda: None)
        yield Feed(etcd, persistence, mirror, node="node1", push=agent.push)


@asynccontextmanager
async def following(etcd: Etcd, agent: Agent, disk: Path) -> AsyncIterator[Feed]:
    async with fed(etcd, agent, disk) as feed:
        await feed.start()
        task = asyncio.create_task(feed.follow())
        try:
            yield feed
        finally:
            task.cancel()
            await asyncio.wait([task])


def names(agent: Agent) -> set[str]:
    return {getattr(each, "name", "") for each in agent.state.objects.values()}


async def test_what_is_there_comes_first_as_one_resync_and_then_every_change_in_order(
    etcd: Etcd, tmp_path: Path
) -> None:
    agent = Agent()
    await etcd.write(dict([namespace("old"), claim(2)]))
    async with following(etcd, agent, tmp_path):
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


async def test_a_value_written_again_is_no_event(etcd: Etcd, tmp_path: Path) -> None:
    agent = Agent()
    async with following(etcd, agent, tmp_path):
        for _ in range(3):
            await etcd.write(dict([namespace("same")]))
        await etcd.write(dict([namespace("last")]))
        await agent.until(lambda: "last" in names(agent))
    assert [event.describe() for event in agent.events[1:]] == [
        f"{namespace('same')[0]} added",
        f"{namespace('last')[0]} added",
    ]


async def test_claims_come_and_go(etcd: Etcd, tmp_path: Path) -> None:
    agent = Agent()
    async with following(etcd, agent, tmp_path):
        await etcd.write(dict([claim(3)]))
        await agent.until(lambda: 3 in agent.state.claims)
        await etcd.delete(keys.node_id(3))
        await agent.until(lambda: not agent.state.claims)


async def test_what_cannot_be_read_is_left_out_and_the_rest_goes_on(etcd: Etcd, tmp_path: Path) -> None:
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
    async with following(etcd, agent, tmp_path) as feed:
        assert names(agent) == {"good"}
        assert set(agent.state.claims) == {3}
        assert agent.state.attachments == {}
        await etcd.write({keys.k8s_object("namespaces", "worse"): b"\xff", keys.node_id(4): b"4"})
        await etcd.write(dict([namespace("better"), claim(5)]))
        await agent.until(lambda: names(agent) == {"good", "better"} and set(agent.state.claims) == {3, 5})
        assert {key.rpartition("/")[2] for key in feed.unreadable} == {"bad", "x", "worse"}
        await etcd.delete(keys.k8s_object("nonsense", "x"))
        await etcd.delete(keys.k8s_object("namespaces", "bad"))
        await etcd.write(dict([namespace("worse")]))
        await agent.until(lambda: names(agent) == {"good", "better", "worse"})
        assert feed.problem is None


async def test_of_what_cannot_be_read_any_more_what_was_known_stays_in_force(etcd: Etcd, tmp_path: Path) -> None:
    """A policy that somebody spoiled by hand must not open what it had closed, also over resyncs and restarts."""
    key = keys.k8s_object("networkpolicies", "p", namespace="a")
    policy = kube.NetworkPolicy(namespace="a", name="p", pod_selector=kube.LabelSelector())
    await etcd.write({key: kube.NETWORK_POLICIES.encode(policy), **statuses(), **dict([claim(1, "node1")])})
    agent, again = Agent(), Agent()
    spoilt = b'{"namespace":"a","name":"p","podSelector":{},"ingress":[{"ports":[{"protocol":6}]}]}'
    async with following(etcd, agent, tmp_path) as feed:
        await etcd.write({key: spoilt})
        await etcd.write(dict([namespace("after")]))
        await agent.until(lambda: "after" in names(agent))
        assert feed.problem is not None
        assert "networkpolicies/a/p: " in feed.problem
        assert "$.ingress[0].ports[0].protocol" in feed.problem
        await feed._resync("test")
        assert agent.state.objects[key] == policy
    async with following(etcd, again, tmp_path) as feed:
        assert again.state.objects[key] == policy
        assert feed.problem is not None
        await etcd.delete(key)
        await again.until(lambda: key not in again.state.objects)
        assert feed.problem is None


async def test_a_compaction_while_etcd_was_away_is_one_more_resync_and_nothing_is_lost(
    etcd: Etcd, server: EmbeddedEtcd, tmp_path: Path
) -> None:
    agent = Agent()
    await etcd.write(dict([namespace("gone"), claim(2)]))
    await etcd.write(statuses())
    async with fed(etcd, agent, tmp_path) as feed:
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


async def test_a_change_that_a_resync_has_read_is_not_played_again_over_it(etcd: Etcd, tmp_path: Path) -> None:
    agent = Agent()
    seen: list[str] = []
    async with following(etcd, agent, tmp_path) as feed:
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


async def test_a_change_that_overtakes_a_resync_outlives_it(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = Agent()
    async with following(etcd, agent, tmp_path) as feed:
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


async def test_changes_made_around_a_restart_of_etcd_all_arrive(
    etcd: Etcd, server: EmbeddedEtcd, tmp_path: Path
) -> None:
    agent = Agent()
    async with following(etcd, agent, tmp_path):
        await etcd.write(dict([namespace("before")]))
        await server.restart()
        await etcd.write(dict([namespace("after"), claim(2)]))
        await agent.until(lambda: names(agent) == {"before", "after"} and 2 in agent.state.claims)
    assert agent.resyncs == 1


async def test_an_etcd_that_lost_its_data_is_followed_from_its_new_beginning(
    server: EmbeddedEtcd, etcd: Etcd, tmp_path: Path
) -> None:
    agent = Agent()
    for number in range(1, 30):
        await etcd.write(dict([namespace(f"n{number}"), claim(number)]))
    async with following(etcd, agent, tmp_path):
        await server.wipe()
        await etcd.write(dict([namespace("anew"), claim(1)]))  # at a revision far below the last one known
        await agent.until(lambda: "anew" in names(agent) and set(agent.state.claims) == {1})
        await etcd.write(statuses())
        await agent.until(lambda: names(agent) == {"anew"})
        await etcd.write(dict([namespace("last")]))
        await agent.until(lambda: names(agent) == {"anew", "last"})


def node(name: str) -> tuple[str, bytes]:
    return keys.k8s_object("nodes", name), msgspec.json.encode(kube.Node(name=name))


async def test_what_etcd_has_lost_stays_until_it_is_told_again(
    server: EmbeddedEtcd, etcd: Etcd, tmp_path: Path
) -> None:
    agent = Agent()
    nodes = dict([node("node1"), node("node2"), node("left")])
    await etcd.write({**nodes, **dict([namespace("kept"), namespace("gone")]), **statuses()})
    await etcd.write(dict([claim(1), claim(2), claim(3, "left")]))
    async with following(etcd, agent, tmp_path):
        await server.wipe()
        await agent.until(lambda: agent.resyncs > 1)
        assert names(agent) == {"kept", "gone", "node1", "node2", "left"}
        assert {each.name for each in agent.state.claims.values()} >= {"node2", "left"}
        await etcd.write(dict([claim(1)]))  # as this node's own agent does at once
        del nodes[node("left")[0]]
        await etcd.write({**nodes, **dict([namespace("kept")]), **statuses()})
        await agent.until(lambda: names(agent) == {"kept", "node1", "node2"})
        await agent.until(lambda: {each.name for each in agent.state.claims.values()} == {"node1", "node2"})
        await etcd.write(dict([claim(4, "node2")]))  # it could not have its ID again
        await agent.until(lambda: 4 in agent.state.claims)


def attachment(number: int) -> tuple[str, bytes]:
    made = Attachment(
        container_id=f"c{number}", if_name="eth0", netns=f"/n/{number}", pod_namespace="d", pod_name=f"p{number}",
        pod_uid="", address=f"10.1.1.{number}", interface=f"pod{number}", pod_mac="", vpp_mac="",
    )  # fmt: skip
    return keys.attachment("node1", f"c{number}/eth0"), msgspec.json.encode(made)


async def test_a_start_without_etcd_is_a_start_from_the_mirror(server: EmbeddedEtcd, tmp_path: Path) -> None:
    before, after = Agent(), Agent()
    async with await Etcd.connect([server.endpoint], timeout_s=1) as etcd:
        await etcd.write(dict([namespace("a"), namespace("b"), claim(1), claim(2), attachment(7)]))
        async with following(etcd, before, tmp_path):
            await etcd.write(dict([namespace("c"), claim(3)]))
            await etcd.delete(namespace("a")[0])
            await before.until(lambda: names(before) == {"b", "c"} and 3 in before.state.claims)
            await server.kill()
    async with (
        await Etcd.connect([server.endpoint], timeout_s=1, wait=False) as etcd,
        following(etcd, after, tmp_path),
    ):
        assert after.state.objects == before.state.objects
        assert after.state.claims == before.state.claims
        assert set(after.state.attachments) == {attachment(7)[0]}
        assert after.state.away
        await server.restart()
        await etcd.write(dict([namespace("d")]))
        await after.until(lambda: "d" in names(after) and not after.state.away)


async def test_it_is_told_when_etcd_is_away_and_when_it_is_back(
    etcd: Etcd, server: EmbeddedEtcd, tmp_path: Path
) -> None:
    agent = Agent()
    async with following(etcd, agent, tmp_path):
        await server.kill()
        await agent.until(lambda: agent.state.away)
        await server.start()
        await agent.until(lambda: not agent.state.away)
        await etcd.write(dict([namespace("after")]))
        await agent.until(lambda: names(agent) == {"after"})
    assert agent.resyncs == 1


async def test_a_node_that_the_mirror_does_not_know_cannot_start_without_etcd(tmp_path: Path) -> None:
    async with (
        await Etcd.connect([f"unix://{tmp_path}/nobody"], timeout_s=0.2, wait=False) as etcd,
        fed(etcd, Agent(), tmp_path) as feed,
    ):
        with pytest.raises(StoreError):
            await feed.start()


async def test_what_ksr_has_reflected_completely_is_told_at_once_and_over_a_start_from_the_mirror(
    server: EmbeddedEtcd, etcd: Etcd, tmp_path: Path
) -> None:
    """Fail-closed handlers wait for it: it must neither come before the objects nor get lost with etcd."""
    everything = frozenset(kind.plural for kind in kube.KINDS)
    agent = Agent()
    told = statuses()
    last = keys.ksr_status("pods")
    await etcd.write(dict([claim(1, "node1")]) | {key: value for key, value in told.items() if key != last})
    async with following(etcd, agent, tmp_path):
        assert agent.state.reflected == everything - {"pods"}
        await etcd.write(dict([namespace("late")]))
        await etcd.write({last: told[last]})
        await agent.until(lambda: agent.resyncs == 2)
        assert agent.state.reflected == everything
        assert names(agent) == {"late"}
        await etcd.write({last: told[last]})  # KSR starts over: nothing new
        await etcd.write(dict([namespace("later")]))
        await agent.until(lambda: "later" in names(agent))
        assert agent.resyncs == 2
    await server.kill()
    again = Agent()
    async with fed(etcd, again, tmp_path) as feed:
        await feed.start()
    assert again.state.reflected == everything
