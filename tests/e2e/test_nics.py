"""A node as a citizen of its network: one NIC or two, static or leased addresses, with and without overlay."""

from __future__ import annotations

import itertools

import pytest

from contiv.demo import probe
from contiv.demo.api import Object
from tests.e2e.conftest import Build
from tests.e2e.world import World, address

pytestmark = pytest.mark.root

COMBINATIONS = list(itertools.product(("two", "one", "dhcp"), ("vxlan", "nooverlay")))
FIRST_S = 10.0


@pytest.mark.parametrize(("nics", "transport"), COMBINATIONS)
async def test_pods_hosts_and_the_world_reach_each_other(build: Build, nics: str, transport: str) -> None:
    async with build(2, {"nodeToNodeTransport": transport}, nics=nics, with_outside=True) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        await world.first_reply(*pods)  # leases and what follows from them take their time
        await world.assert_mesh(pods)
        await assert_hosts(world, pods)
        await assert_outside(world, pods)
        if nics == "one":
            await assert_host_traffic_through_the_stolen_nic(world)


async def assert_reaches(world: World, source: str, target: str) -> None:
    """From the namespace ``source`` to the address ``target``, pings."""
    assert await probe.first_reply(world.cluster.workers, source, target, timeout_s=FIRST_S), f"{source} to {target}"
    pings = await probe.ping(world.cluster.workers, source, target, count=3)
    assert pings.lost == 0, f"{source} to {target}: {pings}"


async def assert_hosts(world: World, pods: list[Object]) -> None:
    """Each host reaches all pods and the other host; pods reach the hosts."""
    for node in world.cluster.nodes:
        for pod in pods:
            await assert_reaches(world, node.netns, address(pod))
            await assert_reaches(world, world.cluster.sandbox_netns(pod), world.cluster.kubelets[node.name].host_ip)
    first, second = world.cluster.nodes
    await assert_reaches(world, first.netns, world.cluster.kubelets[second.name].host_ip)


async def assert_outside(world: World, pods: list[Object]) -> None:
    """The world reaches pods, by routes to their nodes; pods reach the world."""
    outside = world.cluster.outside
    assert outside is not None
    await world.cluster.route_outside()
    for pod in pods:
        await assert_reaches(world, outside.netns, address(pod))
        await assert_reaches(world, world.cluster.sandbox_netns(pod), outside.address)
        rate = await probe.throughput(outside.netns, world.cluster.sandbox_netns(pod), address(pod), seconds=0.3)
        assert rate > 1e6


async def assert_host_traffic_through_the_stolen_nic(world: World) -> None:
    """The hosts' own addresses work as before: to each other, to and from the world, TCP both ways."""
    outside = world.cluster.outside
    assert outside is not None
    first, second = world.cluster.nodes
    ends = {first.netns: str(first.nic.address), second.netns: str(second.nic.address), outside.netns: outside.address}
    for (source, _), (target, goal) in itertools.permutations(ends.items(), 2):
        await assert_reaches(world, source, goal)
        rate = await probe.throughput(source, target, goal, seconds=0.3)
        assert rate > 1e6, f"{source} to {goal}"
