"""Pods and the host on TAPs: made as the node's network renders them, read back, replaced, gone without a trace.

VPP's own TAPs need /dev/vhost-net; the emulator's need none.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

import msgspec
import pytest
from topology import NO_INDEX, Node

import contiv.vpp
from contiv.config import parse
from contiv.demo import probe
from contiv.linux import interfaces, links, netns
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.model import linux
from contiv.model import vpp as model
from contiv.model.node import NodeClaim
from contiv.network import render_host
from contiv.network.ipam import ClusterSubnets
from contiv.network.state import NetworkState, Options, PodRequest
from contiv.scheduler import Resync, Scheduler, Txn, Value
from contiv.vpp import lifecycle
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors

pytestmark = pytest.mark.root
WAIT_S = 2.0
MTU = 1450


class Bench:
    """A node's network on TAPs, and the scheduler that brings it into the data plane."""

    def __init__(self, node: Node, vpp: contiv.vpp.Vpp) -> None:
        self.node = node
        self.vpp = vpp
        me = NodeClaim(id=1, name="node1", uplink="192.168.16.1/24")
        options = Options(tap=True, prepared_target=0, mtu=MTU, vni=10)
        self.state = NetworkState(ClusterSubnets.of(parse("")), me, None, options)
        self.scheduler = self.stranger()
        self.host = render_host.render(self.state.subnets, self.state.node, None, tap=True, mtu=MTU)

    def stranger(self) -> Scheduler:
        """A scheduler that knows nothing yet."""
        return Scheduler(list(descriptors(self.vpp, Interfaces(), FibSource(self.vpp))))

    async def apply(self, desired: dict[str, object], *, resync: Resync | None = None) -> None:
        """Bring it about, Linux's part by hand."""
        outcome = await self.scheduler.commit(Txn(of_vpp(desired), resync=resync))
        assert not outcome.errors
        for key, value in desired.items():
            if isinstance(value, linux.Interface):
                place = value.netns or self.node.netns
                await self.node.inside(place, functools.partial(interfaces.configure, key, value))

    async def pod(self, number: int) -> tuple[model.Tap, str]:
        """A pod's TAP and its address."""
        request = PodRequest(container_id=f"c{number}", if_name="eth0", netns=await self.node.namespace(f"tap{number}"))
        attachment, changes = self.state.add_pod(request)
        await self.apply(dict(changes))
        tap = self.scheduler.desired[model.interface_key(attachment.interface)]
        assert isinstance(tap, model.Tap)
        return tap, attachment.address

    async def delete_pod(self, number: int) -> None:
        """Only VPP's part: the namespace is the runtime's."""
        _, changes = self.state.delete_pod(f"c{number}", "eth0")
        outcome = await self.scheduler.commit(Txn(of_vpp(dict(changes))))
        assert not outcome.errors

    async def link(self, place: str, name: str) -> links.Link | None:
        """The kernel's end, None when it is not there."""

        def find() -> links.Link | None:
            with Conversation() as conversation:
                return links.find(conversation, name)

        return await self.node.inside(place, find)


def of_vpp(changes: dict[str, object]) -> dict[str, Value | None]:
    return {key: value for key, value in changes.items() if key.startswith("vpp/")}  # type: ignore[misc]


@pytest.fixture
async def bench(kind: lifecycle.Dataplane, node: Node, vpp: contiv.vpp.Vpp) -> AsyncIterator[Bench]:
    """The host on its TAP; in the end everything is deleted and nothing must be left."""
    if kind == "vpp" and not lifecycle.has_vhost_net():
        pytest.skip(f"VPP's TAPs need {lifecycle.VHOST_NET} (kernel module vhost_net)")
    made = Bench(node, vpp)
    await made.apply(made.host, resync=Resync.FULL)
    yield made
    outcome = await made.scheduler.commit(Txn({}, resync=Resync.FULL))
    assert not outcome.errors
    assert await vpp.dump("sw_interface_tap_v2", sw_if_index=NO_INDEX) == []
    assert await made.link(node.netns, render_host.HOST_LINUX) is None
    for name in list(node.pods):
        netns.delete(name)
        del node.pods[name]


async def test_pods_gateway_and_host_answer_pings(bench: Bench, workers: Workers) -> None:
    (first, first_address), (second, second_address) = await bench.pod(1), await bench.pod(2)
    addresses = bench.state.node
    paths = (
        (first.netns, second_address),
        (second.netns, first_address),
        (first.netns, str(addresses.pod_gateway)),
        (first.netns, str(addresses.host_linux.address)),
        (bench.node.netns, second_address),
        (bench.node.netns, str(addresses.host_vpp.address)),
    )
    for source, target in paths:
        assert await probe.first_reply(workers, source, target, timeout_s=WAIT_S) is not None, (source, target)


async def test_the_host_side_is_as_wanted(bench: Bench) -> None:
    tap, _ = await bench.pod(1)
    inside = await bench.link(tap.netns, "eth0")
    host = await bench.link(bench.node.netns, render_host.HOST_LINUX)
    assert inside is not None
    assert host is not None
    assert (inside.mac, inside.mtu) == (tap.host_mac, MTU)
    assert host.mtu == MTU


async def test_a_restarted_agent_finds_nothing_to_do(bench: Bench) -> None:
    await bench.pod(1)
    wanted = dict(bench.scheduler.desired)
    stranger = bench.stranger()
    outcome = await stranger.commit(Txn(wanted, resync=Resync.FULL))
    assert outcome.plan.empty, outcome.plan.operations
    assert set(stranger.actual) == set(wanted)


async def test_a_deleted_pod_leaves_nothing(bench: Bench) -> None:
    tap, _ = await bench.pod(1)
    await bench.delete_pod(1)
    assert await bench.link(tap.netns, "eth0") is None
    outcome = await bench.stranger().commit(Txn(dict(of_vpp(bench.host)), resync=Resync.FULL))
    assert outcome.plan.empty, outcome.plan.operations


async def test_a_pod_whose_namespace_is_gone_can_be_deleted(bench: Bench) -> None:
    await bench.pod(1)
    name = f"{bench.node.name}-tap1"
    netns.delete(name)
    await bench.delete_pod(1)


async def test_a_smaller_mtu_keeps_the_tap(bench: Bench) -> None:
    tap, _ = await bench.pod(1)
    before = {entry.sw_if_index for entry in await bench.vpp.dump("sw_interface_tap_v2", sw_if_index=NO_INDEX)}
    key = model.interface_key(tap.name)
    outcome = await bench.scheduler.commit(Txn({key: msgspec.structs.replace(tap, mtu=1300)}))
    assert not outcome.errors
    assert {e.sw_if_index for e in await bench.vpp.dump("sw_interface_tap_v2", sw_if_index=NO_INDEX)} == before
    assert (await bench.scheduler.inspect()).empty


async def test_without_gso_the_tap_is_another_one(bench: Bench) -> None:
    tap, _ = await bench.pod(1)
    key = model.interface_key(tap.name)
    outcome = await bench.scheduler.commit(Txn({key: msgspec.structs.replace(tap, gso=False)}))
    assert not outcome.errors
    assert (await bench.scheduler.inspect()).empty
    dumped = await bench.vpp.dump("sw_interface_tap_v2", sw_if_index=NO_INDEX)
    flags = {entry.host_namespace: int(entry.tap_flags) for entry in dumped}
    assert flags == {"": 3, tap.netns: 2}  # tapv2.api: GSO 1, checksum offload 2


async def test_a_tap_in_another_namespace_than_wanted_is_moved(bench: Bench) -> None:
    tap, _ = await bench.pod(1)
    elsewhere = await bench.node.namespace("elsewhere")
    key = model.interface_key(tap.name)
    wanted = dict(bench.scheduler.desired) | {key: msgspec.structs.replace(tap, netns=elsewhere)}
    bench.scheduler = bench.stranger()
    outcome = await bench.scheduler.commit(Txn(wanted, resync=Resync.FULL))
    assert not outcome.errors
    assert await bench.link(tap.netns, "eth0") is None
    assert await bench.link(elsewhere, "eth0") is not None


async def test_the_next_tap_of_a_name_comes_when_the_last_is_gone(bench: Bench) -> None:
    """VPP would make both share one link."""
    tap, _ = await bench.pod(1)
    successor = msgspec.structs.replace(tap, name="podnext", host_mac="02:fe:00:00:00:77")
    _, changes = bench.state.delete_pod("c1", "eth0")
    outcome = await bench.scheduler.commit(Txn(dict([*of_vpp(dict(changes)).items(), model.entry(successor)])))
    assert not outcome.errors
    link = await bench.link(tap.netns, "eth0")
    assert link is not None
    assert link.mac == successor.host_mac


async def test_a_tap_that_its_maker_did_not_tag_is_adopted(bench: Bench) -> None:
    tap, _ = await bench.pod(1)
    index = bench.scheduler.metadata[model.interface_key(tap.name)]
    await bench.vpp.call("sw_interface_tag_add_del", is_add=False, sw_if_index=index, tag="")
    outcome = await bench.stranger().commit(Txn(dict(bench.scheduler.desired), resync=Resync.FULL))
    assert outcome.plan.empty, outcome.plan.operations
    tags = {e.sw_if_index: e.tag for e in await bench.vpp.dump("sw_interface", sw_if_index=NO_INDEX)}
    assert tags[index] == f"contiv:{tap.name}"


async def test_an_error_names_the_pod_and_its_namespace(bench: Bench) -> None:
    lost = model.Tap(
        name="podlost",
        host_if="eth0",
        netns="/var/run/netns/contiv-none",
        mac="02:ff:00:00:00:01",
        host_mac="02:fe:00:00:00:01",
        mtu=MTU,
    )
    outcome = await bench.scheduler.commit(Txn(dict([model.entry(lost)])))
    [error] = outcome.errors
    assert "podlost" in str(error)
    assert "SYSCALL_ERROR_2" in str(error)
    assert lost.netns in str(error)
    taps = await bench.vpp.dump("sw_interface_tap_v2", sw_if_index=NO_INDEX)
    assert {entry.host_namespace for entry in taps} == {""}
