"""Configured links by their descriptor: what a pod can reach afterwards, and what a resync sees."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contiv.errors import LinuxError
from contiv.linux import links, netns
from contiv.linux.descriptors import InterfaceDescriptor, VethDescriptor
from contiv.linux.errors import KernelRefusal, LinkMissing, NamespaceMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.model.ip import Address, Network
from contiv.model.linux import Interface, Neighbour, Route, Veth, interface_key, veth_key

pytestmark = pytest.mark.root

MAC = "02:fe:12:34:56:78"
NEAR_MAC = "02:fe:00:00:00:01"
GATEWAY = Address.parse("10.1.1.1")


def pod_interface(path: str, **changes: object) -> Interface:
    """A pod's eth0 as the agent wants it."""
    wanted = Interface(
        "pod-x",
        "eth0",
        netns=path,
        addresses=(Network.parse("10.1.1.7/32"),),
        routes=(
            Route(GATEWAY.host_network),
            Route(Network.parse("0.0.0.0/0"), gateway=GATEWAY, mtu=1400),
        ),
        neighbours=(Neighbour(GATEWAY, NEAR_MAC),),
        mtu=1450,
        offloads=(("tso", False), ("gso", False)),
    )
    return msgspec.structs.replace(wanted, **changes)


async def _pair(workers: Workers, near: str, path: str) -> None:
    veth = Veth(near, "eth0", peer_netns=path, peer_mac=MAC, mac=NEAR_MAC)
    await VethDescriptor(workers).create(veth_key(near), veth)


async def _retrieved(descriptor: InterfaceDescriptor, wanted: Interface) -> Interface | None:
    key = interface_key(wanted.logical)
    found = [actual.value for actual in await descriptor.retrieve({key: wanted}) if actual.key == key]
    return found[0] if found else None


async def test_two_ends_reach_each_other_by_host_routes_and_static_neighbours(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    pod, gateway = new_netns
    await VethDescriptor(workers).create(veth_key(near), Veth(near, "eth0", peer_netns=pod, peer_mac=MAC, mac=NEAR_MAC))
    descriptor = InterfaceDescriptor(workers)
    link = await workers.inside("", lambda: _find(near))
    target = netns.open_namespace(gateway)
    with Conversation() as conversation:
        conversation.run([links.move(link.index, target, name=near)])
    import os

    os.close(target)
    await descriptor.create("linux/interface/pod-x", pod_interface(pod))
    await descriptor.create(
        "linux/interface/gw",
        Interface(
            "gw",
            near,
            netns=gateway,
            addresses=(Network.parse("10.1.1.1/32"),),
            routes=(Route(Network.parse("10.1.1.7/32"), scope="link"),),
            neighbours=(Neighbour(Address.parse("10.1.1.7"), MAC),),
        ),
    )
    for target_address in ("10.1.1.1", "127.0.0.1"):
        line = netns.command_in(pod, ["ping", "-c", "1", "-W", "2", target_address])
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def _find(name: str) -> links.Link:
    with Conversation() as conversation:
        link = links.find(conversation, name)
    assert link is not None
    return link


async def test_retrieving_after_creating_says_nothing_to_do(new_netns: list[str], workers: Workers, near: str) -> None:
    await _pair(workers, near, new_netns[0])
    descriptor = InterfaceDescriptor(workers)
    wanted = pod_interface(new_netns[0])
    key = interface_key("pod-x")
    index = await descriptor.create(key, wanted)
    assert await _retrieved(descriptor, wanted) == wanted
    assert await descriptor.create(key, wanted) == index
    assert await _retrieved(descriptor, wanted) == wanted


async def test_ipv6_addresses_and_routes_come_back_as_wanted(new_netns: list[str], workers: Workers, near: str) -> None:
    await _pair(workers, near, new_netns[0])
    descriptor = InterfaceDescriptor(workers)
    gateway = Address.parse("fd00:1::1")
    wanted = pod_interface(
        new_netns[0],
        ipv6=True,
        addresses=(Network.parse("fd00:1::7/128"),),
        routes=(
            Route(gateway.host_network),
            Route(Network.parse("::/0"), gateway=gateway, mtu=1400),
            Route(Network.parse("fd00:2::/64"), gateway=gateway, metric=50),
        ),
        neighbours=(Neighbour(gateway, NEAR_MAC),),
    )
    await descriptor.create(interface_key("pod-x"), wanted)
    assert await _retrieved(descriptor, wanted) == wanted


async def test_deleting_leaves_the_link_bare_and_is_idempotent(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    await _pair(workers, near, new_netns[0])
    descriptor = InterfaceDescriptor(workers)
    wanted = pod_interface(new_netns[0])
    key = interface_key("pod-x")
    index = await descriptor.create(key, wanted)
    await descriptor.delete(key, wanted, index)
    await descriptor.delete(key, wanted, index)
    assert await _retrieved(descriptor, wanted) is None
    link = await workers.inside(new_netns[0], lambda: _find("eth0"))
    assert (link.up, link.owners) == (False, ())


async def test_what_ends_with_its_link_stays_on_it_until_then(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    path = new_netns[0]
    await _pair(workers, near, path)
    wanted, descriptor = pod_interface(path, ends_with_link=True), InterfaceDescriptor(workers)
    key = interface_key(wanted.logical)
    index = await descriptor.create(key, wanted)
    await descriptor.delete(key, wanted, index)
    assert await _retrieved(descriptor, wanted) == wanted
    pair = VethDescriptor(workers)
    await pair.delete(veth_key(near), Veth(near, "eth0"), 0)
    assert await _retrieved(descriptor, wanted) is None


async def test_deleting_where_link_or_namespace_is_gone_succeeds(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    descriptor = InterfaceDescriptor(workers)
    wanted = pod_interface(new_netns[0])
    await descriptor.delete(interface_key("pod-x"), wanted, 2)
    netns.delete(Path(new_netns[0]).name)
    await descriptor.delete(interface_key("pod-x"), wanted, 2)
    assert await _retrieved(descriptor, wanted) is None
    with pytest.raises(NamespaceMissing):
        await descriptor.create(interface_key("pod-x"), wanted)


async def test_a_missing_link_is_named(new_netns: list[str], workers: Workers) -> None:
    with pytest.raises(LinkMissing, match=f"link eth0 in {new_netns[0]}"):
        await InterfaceDescriptor(workers).create(interface_key("pod-x"), pod_interface(new_netns[0]))


async def test_an_unreachable_gateway_is_reported_with_its_remedy(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    await _pair(workers, near, new_netns[0])
    bad = pod_interface(new_netns[0], routes=(Route(Network.parse("0.0.0.0/0"), gateway=Address.parse("192.0.2.1")),))
    with pytest.raises(KernelRefusal, match=r"route 0\.0\.0\.0/0.*gateway.*link-scope route") as caught:
        await InterfaceDescriptor(workers).create(interface_key("pod-x"), bad)
    assert isinstance(caught.value, LinuxError)


async def test_a_route_of_another_link_is_not_taken(new_netns: list[str], workers: Workers, near: str) -> None:
    await _pair(workers, near, new_netns[0])
    second = near + "b"
    await VethDescriptor(workers).create(veth_key(second), Veth(second, "eth1", peer_netns=new_netns[0]))
    descriptor = InterfaceDescriptor(workers)
    first = pod_interface(new_netns[0])
    await descriptor.create(interface_key("pod-x"), first)
    rival = pod_interface(new_netns[0], logical="rival", name="eth1", addresses=(), offloads=())
    with pytest.raises(KernelRefusal, match="link eth0 has a route to it"):
        await descriptor.create(interface_key("rival"), rival)
    assert await _retrieved(descriptor, first) == first


async def test_strays_of_an_earlier_agent_are_found_in_the_own_namespace(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    await _pair(workers, near, new_netns[0])
    descriptor = InterfaceDescriptor(workers)
    key = interface_key(near)
    wanted = Interface(near, near, addresses=(Network.parse("198.18.77.1/32"),))
    await descriptor.create(key, wanted)
    strays = {found.key: found for found in await descriptor.retrieve({})}
    assert strays[key].value.addresses == wanted.addresses
    await descriptor.delete(key, strays[key].value, strays[key].metadata)
    assert key not in {found.key for found in await descriptor.retrieve({})}
    assert (await workers.inside("", lambda: _find(near))).owned_by(veth_key(near))


HOSTS = st.integers(min_value=2, max_value=40).map(lambda n: Network.parse(f"10.1.1.{n}/32"))
ROUTES = st.integers(min_value=0, max_value=5).flatmap(
    lambda n: st.builds(
        Route,
        st.just(Network.parse(f"10.{n + 50}.0.0/16")),
        gateway=st.just(GATEWAY),
        mtu=st.sampled_from([None, 1300]),
        onlink=st.just(True),
    )
)
WANTED = st.builds(
    dict,
    addresses=st.sets(HOSTS, min_size=1, max_size=4).map(lambda s: tuple(sorted(s))),
    routes=st.lists(ROUTES, max_size=4, unique_by=lambda r: r.destination).map(tuple),
    neighbours=st.sets(st.integers(2, 9), max_size=3).map(
        lambda s: tuple(Neighbour(Address.parse(f"10.1.1.{n}"), f"02:00:00:00:00:0{n}") for n in sorted(s))
    ),
    up=st.booleans(),
)


async def test_any_configuration_turns_into_any_other(new_netns: list[str], workers: Workers, near: str) -> None:
    """A to B by update, then retrieve: the plan from B to B is empty. (Routes need a link that is up.)"""
    await _pair(workers, near, new_netns[0])
    descriptor = InterfaceDescriptor(workers)
    key = interface_key("pod-x")
    loop = asyncio.get_running_loop()
    current = pod_interface(new_netns[0], routes=(), neighbours=())
    index = await descriptor.create(key, current)
    steps: list[Interface] = []

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(WANTED)
    def collect(changes: dict[str, object]) -> None:
        if not changes["up"]:
            changes["routes"] = ()
        steps.append(pod_interface(new_netns[0], **changes))

    await loop.run_in_executor(None, collect)
    for step in steps:
        await descriptor.update(key, current, step, index)
        current = step
        assert await _retrieved(descriptor, step) == step
