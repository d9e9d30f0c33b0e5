"""Nodes come and go: a full mesh of four, one of them lost for good, a new one on its ID."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from contiv.demo import probe
from contiv.model import keys
from contiv.model.ip import Network
from tests.e2e.conftest import Build
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

NODES = (1, 2, 3, 4)
LOST = 3


async def test_a_lost_node_takes_its_tunnels_and_routes_along_and_its_id_is_free_again(build: Build) -> None:
    async with build(len(NODES)) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in NODES]
        await world.assert_mesh(pods)
        await assert_hosts_reach_each_other(world)
        claims = {name: number for number, name in (await claimed(world)).items()}
        assert sorted(claims.values()) == list(NODES)
        lost_id = claims[f"node-{LOST}"]
        lost_subnet = Network.parse((await world.rest(LOST, "ipam"))["node"]["pod_subnet"])

        await world.lose_node(LOST)
        await world.kubectl("delete", "node", f"node-{LOST}", "--wait=false")
        left = [number for number in NODES if number != LOST]
        for number in left:

            async def forgotten(number: int = number) -> bool:
                return not await about(world, number, lost_id, lost_subnet)

            await eventually(forgotten, f"node {number} forgets node {LOST}", timeout_s=10)
        assert lost_id not in await claimed(world)
        await world.assert_mesh([pods[number - 1] for number in left])

        await world.add_node(5)
        assert (await claimed(world))[lost_id] == "node-5"
        newcomer = await world.create_pod("newcomer", node=5)
        assert Network.parse(f"{address(newcomer)}/32").address in lost_subnet
        for number in left:
            await world.first_reply(pods[number - 1], newcomer)
        await world.assert_mesh([newcomer, *(pods[number - 1] for number in left)])


async def about(world: World, number: int, lost_id: int, lost_subnet: Network) -> list[str]:
    """What a node still holds about the lost one."""
    held = await world.held(number)
    found = [name for name in held.interfaces if name == f"contiv:vxlan-{lost_id}"]
    # not the default route, nor those that reject what no node has
    routes = [route for route in held.routes if Network.parse(route).length >= lost_subnet.length]
    found += [route for route in routes if Network.parse(route).overlaps(lost_subnet)]
    found += [neighbour for _, neighbour in held.neighbours if neighbour == f"192.168.30.{lost_id}"]
    return found


async def claimed(world: World) -> dict[int, str]:
    """Node names by ID."""
    stored = await world.etcd(keys.NODE_IDS)
    claims = [msgspec.json.decode(value) for value in stored.values()]
    return {claim["id"]: claim["name"] for claim in claims}


async def assert_hosts_reach_each_other(world: World) -> None:
    """The host stacks, over VPP."""
    for source, target in itertools.permutations(world.cluster.nodes, 2):
        goal = world.cluster.kubelets[target.name].host_ip
        pings = await probe.ping(world.cluster.workers, source.netns, goal, count=2)
        assert pings.lost == 0, f"{source.name} to {target.name}: {pings}"
