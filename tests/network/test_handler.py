"""contiv.network.handler in the real loop, over a data plane that can fail: answers, persistence, reverts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import msgspec
import pytest

from contiv.controller import Controller
from contiv.controller.cluster import ClusterResync, ClusterState, KubeChange, NodeClaimChange
from contiv.controller.event import Event, FullResync, HandlerError, QueueFullError
from contiv.errors import CniError, LinuxError, SchedulerError, StoreError
from contiv.model import keys, kube
from contiv.model.node import Attachment, NodeClaim
from contiv.network import handler as handler_module
from contiv.network.events import AddPod, DeletePod
from contiv.network.handler import NetworkHandler
from contiv.network.state import NetworkState, PodRequest
from contiv.scheduler import Actual, Descriptor, Scheduler, Value
from tests.network.test_state import a_state, claim, request


class Everything(Descriptor[Value, None]):
    """One descriptor for every key: a dictionary as data plane; ``broken`` keys cannot be created."""

    name = "everything"
    retrieve_after = ()

    def __init__(self, prefix: str, holds: dict[str, Value], broken: set[str]) -> None:
        self.prefix = prefix
        self.name = prefix
        self._holds = holds
        self._broken = broken

    async def create(self, key: str, value: Value) -> None:
        if key in self._broken:
            raise LinuxError(f"{key} is broken")
        self._holds[key] = value

    async def delete(self, key: str, value: Value, metadata: None) -> None:
        self._holds.pop(key, None)

    async def retrieve(self, wanted: Mapping[str, Value]) -> list[Actual[Value, None]]:
        return [Actual(key, value, None) for key, value in self._holds.items() if key.startswith(self.prefix)]


class Memory:
    """etcd, as far as the handler uses it."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.released: list[str] = []
        self.reclaimed = 0
        self.down = False
        self.refuses_claims = False
        self.settled = asyncio.Event()

    async def write(self, changes: Mapping[str, bytes | None]) -> None:
        if self.down:
            raise StoreError("etcd is down")
        for key, value in changes.items():
            if value is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = value

    async def release(self, claim: NodeClaim) -> None:
        if self.refuses_claims:
            raise StoreError("etcd is down")
        self.settled.set()
        self.released.append(claim.name)

    async def reclaim(self) -> None:
        self.reclaimed += 1


class Node:
    """A controller with the network capability on a dictionary."""

    def __init__(self, memory: Memory, holds: dict[str, Value]) -> None:
        self.memory = memory
        self.holds = holds
        self.broken: set[str] = set()
        self.state: NetworkState = a_state(prepared=2)
        descriptors = [Everything(prefix, holds, self.broken) for prefix in ("vpp/", "linux/")]
        self.handler = NetworkHandler(self.state, memory, self._push)
        self.controller: Controller[ClusterState] = Controller(
            Scheduler(descriptors), [self.handler], state=ClusterState()
        )

    def _push(self, event: Event) -> None:
        self.controller.push(event)

    async def resync(self, *, claims: tuple[NodeClaim, ...] = (), nodes: tuple[str, ...] = ()) -> None:
        attachments = {key: msgspec.json.decode(value, type=Attachment) for key, value in self.memory.stored.items()}
        await self.controller.call(
            ClusterResync(
                objects={keys.k8s_object("nodes", name): a_node(name) for name in nodes},
                claims={each.id: each for each in claims},
                attachments=attachments,
                reason="test",
            )
        )


def a_node(name: str) -> kube.Node:
    return kube.Node(name=name)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node(Memory(), {})
    running = asyncio.create_task(made.controller.run())
    await made.resync()
    yield made
    await made.controller.stop()
    await running


def add(number: int, **fields: str) -> AddPod:
    pod: PodRequest = request(number, **fields)
    return AddPod(request=pod)


async def test_a_pod_is_programmed_and_persisted_when_its_answer_comes(node: Node) -> None:
    attachment = await node.controller.call(add(1))
    assert isinstance(attachment, Attachment)
    assert f"vpp/route/0/{attachment.address}/32" in node.holds
    (key,) = node.memory.stored
    assert key == keys.attachment("node1", "c1/eth0")
    assert msgspec.json.decode(node.memory.stored[key], type=Attachment) == attachment


async def test_deleting_a_pod_leaves_what_was_there_before_it(node: Node) -> None:
    before = dict(node.holds)
    await node.controller.call(add(1))
    await node.controller.call(DeletePod(container_id="c1", if_name="eth0"))
    assert node.holds == before
    assert node.memory.stored == {}
    await node.controller.call(DeletePod(container_id="c1", if_name="eth0"))


async def test_a_pod_that_cannot_be_programmed_leaves_nothing_and_the_others_of_its_batch_stay(node: Node) -> None:
    before = dict(node.holds)
    broken = "linux/interface/pod0"
    node.broken.add(broken)
    calls = [asyncio.create_task(node.controller.call(add(number))) for number in (1, 2)]
    failed, attached = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(failed, SchedulerError)
    assert isinstance(attached, Attachment)
    await node.controller.call(DeletePod(container_id="c2", if_name="eth0"))
    assert node.holds == before
    assert node.memory.stored == {}
    assert len(node.state.pool) == 0


async def test_a_refused_duplicate_keeps_the_pod_that_is_there(node: Node) -> None:
    attached = await node.controller.call(add(1))
    with pytest.raises(CniError, match="attached already"):
        await node.controller.call(add(1, netns="/var/run/netns/other"))
    assert await node.controller.call(add(1)) == attached


async def test_a_healing_resync_keeps_the_pods_that_came_since_the_last_one(node: Node) -> None:
    attached = await node.controller.call(add(1))
    assert isinstance(attached, Attachment)
    await node.controller.call(FullResync(reason="healing"))
    assert f"vpp/route/0/{attached.address}/32" in node.holds


async def test_attachments_that_etcd_lost_are_written_again(node: Node) -> None:
    await node.controller.call(add(1))
    kept = dict(node.memory.stored)
    node.memory.stored.clear()
    await node.resync()
    assert node.memory.stored == kept


async def test_a_restart_changes_nothing_and_never_gives_an_address_twice(node: Node) -> None:
    first = await node.controller.call(add(1))
    before = dict(node.holds)
    restarted = Node(node.memory, node.holds)
    running = asyncio.create_task(restarted.controller.run())
    await restarted.resync()
    assert ", 0 operations" in restarted.controller.scheduler.history.to_text()
    assert node.holds == before
    second = await restarted.controller.call(add(2))
    assert isinstance(first, Attachment)
    assert isinstance(second, Attachment)
    assert first.address != second.address
    await restarted.controller.stop()
    await running


async def test_a_node_whose_object_leaves_gives_up_its_id_and_then_its_tunnel_goes(node: Node) -> None:
    await node.controller.call(NodeClaimChange(id=2, claim=claim(2)))
    assert "vpp/interface/vxlan-2" in node.holds
    await node.controller.call(KubeChange(key=keys.k8s_object("nodes", "node2"), old=a_node("node2"), new=None))
    assert node.memory.released == ["node2"]
    await node.controller.call(NodeClaimChange(id=2, claim=None))
    assert "vpp/interface/vxlan-2" not in node.holds


async def test_a_node_that_left_unseen_is_released_at_the_next_resync(node: Node) -> None:
    await node.resync(claims=(claim(1), claim(2), claim(3)), nodes=("node1", "node3"))
    assert node.memory.released == ["node2"]


async def test_nobody_is_released_while_the_nodes_are_not_known(node: Node) -> None:
    await node.resync(claims=(claim(1), claim(2)), nodes=())
    assert node.memory.released == []


async def test_an_own_claim_that_was_taken_is_claimed_again_when_the_node_is_back(node: Node) -> None:
    await node.controller.call(NodeClaimChange(id=1, claim=None))
    assert node.memory.reclaimed == 0
    await node.controller.call(KubeChange(key=keys.k8s_object("nodes", "node1"), old=None, new=a_node("node1")))
    assert node.memory.reclaimed == 1


async def test_an_own_claim_that_was_taken_while_the_node_is_there_is_claimed_again_at_once(node: Node) -> None:
    await node.resync(claims=(claim(1),), nodes=("node1",))
    await node.controller.call(NodeClaimChange(id=1, claim=None))
    assert node.memory.reclaimed == 1


async def test_a_claim_that_etcd_lost_is_claimed_again(node: Node) -> None:
    await node.resync(claims=(), nodes=("node1",))
    assert node.memory.reclaimed == 1


async def test_a_node_with_our_id_gets_no_tunnel_and_ours_is_claimed_anew(node: Node) -> None:
    usurper = msgspec.structs.replace(claim(1), name="node9")
    await node.controller.call(NodeClaimChange(id=1, claim=usurper))
    assert "vpp/interface/vxlan-1" not in node.holds
    assert node.memory.reclaimed == 1


async def test_a_node_outside_our_subnets_stops_nothing_else(node: Node) -> None:
    outside = NodeClaim(id=node.state.subnets.node_id_max + 1, name="far", uplink="192.168.16.9/24")
    await node.resync(claims=(claim(1), claim(2), outside))
    assert "vpp/interface/vxlan-2" in node.holds
    await node.controller.call(NodeClaimChange(id=outside.id, claim=outside))


async def test_a_pod_that_cannot_be_persisted_is_refused_and_leaves_nothing(node: Node) -> None:
    before = dict(node.holds)
    node.memory.down = True
    with pytest.raises(HandlerError, match="etcd is down"):
        await node.controller.call(add(1))
    assert node.holds == before
    assert node.state.attachments == {}
    node.memory.down = False
    await node.controller.call(add(2))
    assert list(node.memory.stored) == [keys.attachment("node1", "c2/eth0")]


async def test_a_deletion_that_cannot_be_persisted_fails_until_it_is(node: Node) -> None:
    await node.controller.call(add(1))
    node.memory.down = True
    gone = DeletePod(container_id="c1", if_name="eth0")
    for _ in range(2):
        with pytest.raises(HandlerError):
            await node.controller.call(gone)
    node.memory.down = False
    await node.controller.call(gone)
    assert node.memory.stored == {}


async def test_claims_that_cannot_be_settled_fail_no_pod_and_are_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler_module, "SETTLE_RETRY_S", 0.01)
    await node.controller.call(NodeClaimChange(id=2, claim=claim(2)))
    node.memory.refuses_claims = True
    left = KubeChange(key=keys.k8s_object("nodes", "node2"), old=a_node("node2"), new=None)
    node.controller.push(left)
    assert isinstance(await node.controller.call(add(1)), Attachment)
    node.memory.refuses_claims = False
    async with asyncio.timeout(5):
        await node.memory.settled.wait()
    assert node.memory.released == ["node2"]


async def test_an_attachment_that_this_node_cannot_hold_is_forgotten_when_it_is_deleted() -> None:
    memory = Memory()
    memory.stored[keys.attachment("node1", "c1/eth0")] = msgspec.json.encode(
        Attachment(
            container_id="c1",
            if_name="eth0",
            netns="/var/run/netns/p1",
            pod_namespace="default",
            pod_name="p1",
            pod_uid="",
            address="10.9.9.9",
            interface="pod0",
            pod_mac="02:fe:00:00:00:01",
            vpp_mac="02:ff:00:00:00:01",
        )
    )
    node = Node(memory, {})
    running = asyncio.create_task(node.controller.run())
    await node.resync()
    assert node.state.attachments == {}
    assert memory.stored != {}
    await node.controller.call(DeletePod(container_id="c1", if_name="eth0"))
    assert memory.stored == {}
    await node.controller.stop()
    await running


async def test_interfaces_that_cannot_be_prepared_now_fail_no_pod(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(event: Event) -> None:
        raise QueueFullError(event.name, 1)

    node.handler._prepare = True
    monkeypatch.setattr(node.handler, "_push", full)
    assert isinstance(await node.controller.call(add(1)), Attachment)
    assert node.handler._prepare


async def test_an_address_that_was_just_freed_is_not_the_next_one_after_a_resync_either(node: Node) -> None:
    first = await node.controller.call(add(1))
    await node.controller.call(DeletePod(container_id="c1", if_name="eth0"))
    await node.controller.call(FullResync(reason="healing"))
    second = await node.controller.call(add(2))
    assert isinstance(first, Attachment)
    assert isinstance(second, Attachment)
    assert first.address != second.address
