"""Nodes whose NICs VPP opens by AF_XDP: all that nodes with af_packet can, and after restarts the same again."""

from __future__ import annotations

import os
import signal

import pytest

from contiv.demo import probe
from contiv.demo.api import Object
from contiv.vpp.descriptors.af_xdp import DEVICE_TYPE
from contiv.vpp.lifecycle import AF_XDP, find_vpp, has_plugin
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.test_nics import (
    WEB,
    assert_host_traffic_through_the_stolen_nic,
    assert_hosts,
    assert_outside,
    assert_services,
    assert_sources,
)
from tests.e2e.test_restart import first_transaction_of_the_next_agent
from tests.e2e.world import NO_INDEX, World, address, eventually

pytestmark = [pytest.mark.root, pytest.mark.vpp]

BY_XDP = {"linkDriver": "af_xdp"}
TCP_MIN = 20e6
"""Bits a second, far below what a busy machine does and far above what passes when segments are broken."""


@pytest.fixture
def dataplane() -> str:
    """VPP alone can."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    prefix = find_vpp()
    if prefix is None or not has_plugin(prefix, AF_XDP):
        pytest.skip("no VPP with the af_xdp plugin is installed")
    return "vpp"


@pytest.mark.parametrize(
    ("nics", "transport"), [("two", "vxlan"), ("two", "nooverlay"), ("one", "vxlan"), ("dhcp", "nooverlay")]
)
async def test_pods_hosts_and_the_world_reach_each_other(build: Build, nics: str, transport: str) -> None:
    async with build(2, {"nodeToNodeTransport": transport, **BY_XDP}, nics=nics, with_outside=True) as world:
        pods = await serving_pods(world)
        for number in (1, 2):
            assert await opened_by_xdp(world, number) == ["uplink"]
        await world.assert_mesh(pods)
        await assert_hosts(world, pods)
        await assert_outside(world, pods)
        await assert_sources(world, pods)
        await assert_services(world)
        if nics == "one":
            await assert_host_traffic_through_the_stolen_nic(world)
        await assert_streams_pass(world, pods)


async def test_a_killed_agent_finds_the_nic_and_changes_nothing(build: Build) -> None:
    async with build(2, BY_XDP) as world:
        pods = await serving_pods(world)
        await world.settled()
        before = await world.held(1)
        first, pings = await first_transaction_of_the_next_agent(world, [(pods[0], [pods[1]])], signal.SIGKILL)
        assert pings.lost == {}
        assert first["resync"] == "full"
        assert first.get("operations", []) == [], "the plan of the first resync is not empty"
        await world.settled()
        assert await world.held(1) == before


async def test_a_killed_data_plane_opens_the_nic_again(build: Build) -> None:
    async with build(2, BY_XDP) as world:
        pods = await serving_pods(world)
        await world.settled()
        before = await world.held(1)
        for _ in range(2):
            killed = world.dataplane_pid(1)
            os.kill(killed, signal.SIGKILL)

            async def replaced(killed: int = killed) -> bool:
                return killed not in world.children_of(1) and world.has_dataplane(1)

            await eventually(replaced, "init starts another data plane")
            await world.first_reply(*pods)
            await world.settled()
        after = await world.held(1)
        assert (after.interfaces.keys(), after.up, after.routes) == (before.interfaces.keys(), before.up, before.routes)
        await world.assert_mesh(pods)
        await assert_streams_pass(world, pods)


async def serving_pods(world: World) -> list[Object]:
    """A pod that serves on each node; they reach each other."""
    made = await world.create_pods([services.server(name, node=number) for number, name in enumerate(WEB, start=1)])
    pods = [made[f"default/{name}"] for name in WEB]
    await world.first_reply(*pods)
    return pods


async def opened_by_xdp(world: World, number: int) -> list[str]:
    """The interfaces, by their names for us, that the node's VPP has by AF_XDP."""
    async with world.vpp(number) as api:
        found = await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
    return [each.tag.removeprefix("contiv:") for each in found if each.interface_dev_type == DEVICE_TYPE]


async def assert_streams_pass(world: World, pods: list[Object]) -> None:
    """TCP with as much to send as it can takes all ways at a decent rate: no segment is larger than it may be."""
    ends = {world.cluster.sandbox_netns(pod): address(pod) for pod in pods}
    outside = world.cluster.outside
    if outside is not None:
        ends[outside.netns] = outside.address
    for source in ends:
        for target, goal in ends.items():
            if source != target:
                rate = await probe.throughput(source, target, goal, seconds=1)
                assert rate > TCP_MIN, f"{source} to {goal}: {rate / 1e6:.1f} Mbit/s"
