"""A node as a citizen of its network: one NIC or two, static or leased addresses, with and without overlay."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Sequence

import msgspec
import pytest
import yaml

from contiv.demo import probe
from contiv.demo.api import Object
from contiv.demo.outside import POOL, Outside
from contiv.demo.wire import UPLINK
from contiv.model import keys
from contiv.vpp import Vpp
from tests import dnsmasq
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

COMBINATIONS = list(itertools.product(("two", "one", "dhcp"), ("vxlan", "nooverlay", "auto")))
FIRST_S = 10.0
MOVE_S = 60.0
"""VPP's DHCP client waits ever longer before it asks again."""
RENEW_S, RENEWALS = 3, 3
"""How often a lease is to be renewed, and how many grants make sure that it was."""
WEB = ("web-1", "web-2")
EXTERNAL = "203.0.113.7"


@pytest.mark.parametrize(("nics", "transport"), COMBINATIONS)
async def test_pods_hosts_and_the_world_reach_each_other(build: Build, nics: str, transport: str) -> None:
    async with build(2, {"nodeToNodeTransport": transport}, nics=nics, with_outside=True) as world:
        made = await world.create_pods([services.server(name, node=number) for number, name in enumerate(WEB, start=1)])
        pods = [made[f"default/{name}"] for name in WEB]
        await world.first_reply(*pods)  # leases and what follows from them take their time
        await world.assert_mesh(pods)
        await assert_hosts(world, pods)
        await assert_outside(world, pods)
        await assert_sources(world, pods)
        await assert_services(world)
        assert await tunnels(world) == (len(world.cluster.nodes) if transport == "vxlan" else 0)
        if nics == "one":
            await assert_host_traffic_through_the_stolen_nic(world)


async def tunnels(world: World) -> int:
    """How many VXLAN tunnels all nodes have together."""
    found = 0
    for node in world.cluster.nodes:
        async with world.vpp(node.number) as api:
            found += len(await api.dump("vxlan_tunnel_v2", sw_if_index=0xFFFFFFFF))
    return found


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


async def assert_sources(world: World, pods: list[Object]) -> None:
    """Whom the world sees when a pod calls: its node. Pods of other nodes see the pod itself."""
    outside = world.cluster.outside
    assert outside is not None
    nodes = await uplinks(world)

    def listen() -> socket.socket:
        listener = socket.create_server((outside.address, 7200))
        listener.settimeout(FIRST_S)
        return listener

    listener = await world.cluster.workers.inside(outside.netns, listen)
    with listener:
        for pod in pods:

            def call() -> str:
                with socket.create_connection((outside.address, 7200), timeout=FIRST_S):
                    accepted, (client, _) = listener.accept()
                    accepted.close()
                    return str(client)

            seen = await world.cluster.workers.inside(world.cluster.sandbox_netns(pod), call)
            node = nodes[pod["spec"]["nodeName"]].partition("/")[0]
            assert seen == node


async def assert_services(world: World) -> None:
    """From outside: NodePort on each node, external IP by one of them, either backend behind each."""
    outside = world.cluster.outside
    assert outside is not None
    nodes = [text.partition("/")[0] for _, text in sorted((await uplinks(world)).items())]
    await services.route_outside(world, outside.netns, f"{EXTERNAL}/32", gateway=nodes[0])
    await services.apply(world, services.service("web", type="NodePort", externalIPs=[EXTERNAL]))
    ports = (await services.stored(world, "web"))["spec"]["ports"]
    node_port = next(port["nodePort"] for port in ports if port["protocol"] == "TCP")
    for goal, port in ((nodes[0], node_port), (nodes[1], node_port), (EXTERNAL, 80)):
        await services.serves(world, outside.netns, goal, port)
        assert set(await services.gather(world, outside.netns, goal, port, count=20)) == set(WEB), goal


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


async def test_a_node_whose_lease_changes_is_found_at_its_new_address(build: Build) -> None:
    async with build(2, nics="dhcp") as world:
        outside = world.cluster.outside
        assert outside is not None
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        await world.first_reply(*pods)
        assert await claimed(world) == set(POOL[:2])

        # the next messages of both are refused, as by a server that was given other addresses
        outside.lease(POOL[10:])
        for number in (1, 2):
            async with world.vpp(number) as api:
                await renew(api)

        await eventually(lambda: moved_to(world, POOL[10:12]), "both claims show the new addresses", timeout_s=MOVE_S)
        await eventually(lambda: tunnels_follow(world), "the tunnels end at the new addresses")
        await world.first_reply(*pods)
        await world.assert_mesh(pods)
        await eventually(lambda: status_follows(world), "the nodes' status shows the new addresses")


async def test_leases_of_a_real_server_are_renewed_and_peers_follow_when_it_gives_others(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dnsmasq; nobody but the clients themselves asks anew."""
    dnsmasq.require()
    monkeypatch.setattr(Outside, "serve_dhcp", lambda self: serve_leases(self, POOL[:2]))
    async with build(2, nics="dhcp") as world:
        outside = world.cluster.outside
        assert outside is not None
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        await world.first_reply(*pods)
        assert await claimed(world) == set(POOL[:2])
        await eventually(lambda: renewed(outside, POOL[:2]), "both leases are renewed")
        await world.assert_mesh(pods)

        await outside.stop()
        await serve_leases(outside, POOL[10:12])
        await eventually(lambda: moved_to(world, POOL[10:12]), "both claims show the new addresses", timeout_s=MOVE_S)
        await eventually(lambda: tunnels_follow(world), "the tunnels end at the new addresses")
        await eventually(lambda: status_follows(world), "the nodes' status shows the new addresses")
        await world.first_reply(*pods)
        await world.assert_mesh(pods)
        await eventually(lambda: renewed(outside, POOL[10:12]), "both new leases are renewed")
        await world.assert_mesh(pods)


async def serve_leases(outside: Outside, pool: Sequence[str]) -> None:
    """dnsmasq in the place of the demo's server, without a memory of other leases."""
    folder = outside.log.parent
    dnsmasq.leases(folder).unlink(missing_ok=True)
    argv = dnsmasq.command(UPLINK, folder=folder, first=pool[0], last=pool[-1], router=outside.address, renew_s=RENEW_S)
    await outside.serve(argv, until="DHCP, IP range")


async def claimed(world: World) -> set[str]:
    """The addresses that the claims show."""
    return {each.partition("/")[0] for each in (await uplinks(world)).values()}


async def moved_to(world: World, pool: Sequence[str]) -> bool:
    return await claimed(world) == set(pool)


async def renewed(outside: Outside, pool: Sequence[str]) -> bool:
    granted = dnsmasq.granted(outside.log)
    return all(granted.count(each) >= RENEWALS for each in pool)


async def status_follows(world: World) -> bool:
    """Whether what the agents tell of themselves agrees with the claims."""
    status = [msgspec.json.decode(value) for value in (await world.etcd(keys.node_status(""))).values()]
    return {each["name"]: each["uplink"] for each in status} == await uplinks(world)


async def uplinks(world: World) -> dict[str, str]:
    """The addresses that the nodes' claims show, by node."""
    claims = [msgspec.json.decode(value) for value in (await world.etcd(keys.NODE_IDS)).values()]
    return {claim["name"]: claim["uplink"] for claim in claims}


async def renew(api: Vpp) -> None:
    """Configure the DHCP client anew, as an operator does who does not want to wait for the lease's half."""
    for entry in await api.dump("dhcp_client"):
        await api.call("dhcp_client_config", is_add=False, client={"sw_if_index": entry.client.sw_if_index})
        client = {"sw_if_index": entry.client.sw_if_index, "hostname": "contiv", "set_broadcast_flag": True}
        await api.call("dhcp_client_config", is_add=True, client=client)


async def tunnels_follow(world: World) -> bool:
    """Whether each node's tunnel leads from its own address to the other's, as the claims have them."""
    claimed = {name: text.partition("/")[0] for name, text in (await uplinks(world)).items()}
    for number, other in ((1, 2), (2, 1)):
        async with world.vpp(number) as api:
            found = await api.dump("vxlan_tunnel_v2", sw_if_index=0xFFFFFFFF)
        ends = {(str(each.src_address), str(each.dst_address)) for each in found}
        if ends != {(claimed[f"node-{number}"], claimed[f"node-{other}"])}:
            return False
    return True


@pytest.mark.parametrize("transport", ["vxlan", "nooverlay"])
async def test_a_node_that_is_given_another_address_is_found_there(build: Build, transport: str) -> None:
    async with build(2, {"nodeToNodeTransport": transport}) as world:
        pods = [await world.create_pod(f"pod-{number}", node=number) for number in (1, 2)]
        await world.first_reply(*pods)
        place = world.node(2).directory / "contiv.yaml"
        config = yaml.safe_load(place.read_text())
        config["nodeConfig"][0]["mainVPPInterface"]["ip"] = "192.168.16.77/24"
        place.write_text(yaml.safe_dump(config))
        os.kill(world.agent_pid(2), signal.SIGTERM)

        async def moved() -> bool:
            return (await uplinks(world))["node-2"] == "192.168.16.77/24"

        await eventually(moved, "the claim shows the new address")
        await world.first_reply(*pods)
        await world.settled()
        await world.assert_mesh(pods)
