"""Veth pairs by their descriptor, judged by what the kernel holds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from contiv.linux import ipv6, links, netns, offloads
from contiv.linux.descriptors import VethDescriptor
from contiv.linux.errors import KernelRefusal, NamespaceMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import OWN, Workers
from contiv.model.linux import Veth, veth_key

pytestmark = pytest.mark.root
MAC = "02:fe:12:34:56:78"


def _link(name: str) -> links.Link | None:
    with Conversation() as conversation:
        return links.find(conversation, name)


async def _gone(workers: Workers, name: str) -> None:
    """Wait until a link has left the own namespace (the kernel takes a pair down after its namespace)."""
    deadline = time.monotonic() + 10
    while await workers.inside(OWN, lambda: _link(name)) is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_pair_is_born_down_marked_without_ipv6_and_with_its_far_end_in_the_pod(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    descriptor = VethDescriptor(workers)
    veth = Veth(near, "eth0", peer_netns=new_netns[0], peer_mac=MAC, mac="02:aa:00:00:00:01", mtu=1450)
    index = await descriptor.create(veth_key(near), veth)
    link = await workers.inside(OWN, lambda: _link(near))
    assert link is not None
    assert (link.index, link.up, link.mtu, link.mac) == (index, False, 1450, "02:aa:00:00:00:01")
    assert link.owned_by(veth_key(near))
    assert not ipv6.enabled(near)
    far = await workers.inside(new_netns[0], lambda: _link("eth0"))
    assert far is not None
    assert (far.mac, far.mtu, far.peer) == (MAC, 1450, index)
    await descriptor.delete(veth_key(near), veth, index)
    assert await workers.inside(OWN, lambda: _link(near)) is None


async def test_creating_again_replaces_ours_and_retrieving_says_nothing_to_do(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    descriptor = VethDescriptor(workers)
    key = veth_key(near)
    veth = Veth(near, "eth0", peer_netns=new_netns[0], peer_mac=MAC, offloads=(("tso", False), ("gso", False)))
    await descriptor.create(key, veth)
    index = await descriptor.create(key, veth)
    (actual,) = [found for found in await descriptor.retrieve({key: veth}) if found.key == key]
    assert actual.value == veth
    assert actual.metadata == index
    await descriptor.delete(key, veth, index)
    await descriptor.delete(key, veth, index)
    assert not [found for found in await descriptor.retrieve({key: veth}) if found.key == key]


async def test_a_foreign_link_of_that_name_is_neither_taken_nor_removed(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    descriptor = VethDescriptor(workers)
    with Conversation() as conversation:
        conversation.run([links.create_bridge(near, mtu=1500)])
        link = links.find(conversation, near)
        assert link is not None
        with pytest.raises(KernelRefusal, match="not this agent's"):
            await descriptor.create(veth_key(near), Veth(near, "eth0", peer_netns=new_netns[0]))
        await descriptor.delete(veth_key(near), Veth(near, "eth0"), link.index)
        after = links.find(conversation, near)
        conversation.run([links.remove(link.index, name=near)])
    assert after == link


async def test_a_pair_whose_maker_died_before_it_could_mark_it_is_made_anew(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    descriptor = VethDescriptor(workers)
    veth = Veth(near, f"{near}p", peer_mac=MAC)
    with Conversation() as conversation:
        conversation.run([links.create_veth(near, f"{near}p", peer_mac=MAC, mtu=1500)])  # and here it died
    index = await descriptor.create(veth_key(near), veth)
    (actual,) = [found for found in await descriptor.retrieve({veth_key(near): veth}) if found.key == veth_key(near)]
    assert actual.value == veth
    await descriptor.delete(veth_key(near), veth, index)


async def test_a_taken_peer_name_is_reported_with_its_namespace(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    descriptor = VethDescriptor(workers)
    with pytest.raises(KernelRefusal, match=f"peer lo in {new_netns[0]}"):
        await descriptor.create(veth_key(near), Veth(near, "lo", peer_netns=new_netns[0]))
    assert await workers.inside(OWN, lambda: _link(near)) is None


async def test_a_missing_namespace_is_named(workers: Workers, near: str) -> None:
    with pytest.raises(NamespaceMissing, match="/var/run/netns/none"):
        await VethDescriptor(workers).create(veth_key(near), Veth(near, "eth0", peer_netns="/var/run/netns/none"))


async def test_names_that_the_kernel_refuses_are_reported(new_netns: list[str], workers: Workers) -> None:
    long = "x" * 16
    with pytest.raises(KernelRefusal, match="veth xxxxxxxxxxxxxxxx to eth0"):
        await VethDescriptor(workers).create(veth_key(long), Veth(long, "eth0", peer_netns=new_netns[0]))


async def test_mtu_and_offloads_change_in_place(new_netns: list[str], workers: Workers, near: str) -> None:
    descriptor = VethDescriptor(workers)
    key = veth_key(near)
    old = Veth(near, "eth0", peer_netns=new_netns[0], mtu=1500)
    new = msgspec.structs.replace(old, mtu=1400, offloads=(("tso", False),))
    assert not descriptor.must_recreate(key, old, new)
    assert descriptor.must_recreate(key, old, msgspec.structs.replace(old, peer_mac=MAC))
    index = await descriptor.create(key, old)
    assert await descriptor.update(key, old, new, index) == index
    (actual,) = [found for found in await descriptor.retrieve({key: new}) if found.key == key]
    assert actual.value == new
    far = await workers.inside(new_netns[0], lambda: _link("eth0"))
    assert far is not None
    assert far.mtu == 1400
    assert await workers.inside(OWN, lambda: offloads.read(near, ["tso"])) == (("tso", False),)
    await descriptor.delete(key, new, index)


async def test_retrieving_sees_ipv6_switched_on_and_a_wrong_far_end(
    new_netns: list[str], workers: Workers, near: str
) -> None:
    descriptor = VethDescriptor(workers)
    key = veth_key(near)
    veth = Veth(near, "eth0", peer_netns=new_netns[0], peer_mac=MAC)
    index = await descriptor.create(key, veth)
    elsewhere = msgspec.structs.replace(veth, peer_netns=new_netns[1])
    (actual,) = [found for found in await descriptor.retrieve({key: elsewhere}) if found.key == key]
    assert actual.value != elsewhere
    await workers.inside(OWN, lambda: ipv6.set_enabled(near, True))
    (actual,) = [found for found in await descriptor.retrieve({key: veth}) if found.key == key]
    assert actual.value != veth
    await descriptor.delete(key, veth, index)


async def test_the_pair_goes_with_its_namespace(new_netns: list[str], workers: Workers, near: str) -> None:
    descriptor = VethDescriptor(workers)
    veth = Veth(near, "eth0", peer_netns=new_netns[0])
    index = await descriptor.create(veth_key(near), veth)
    netns.delete(Path(new_netns[0]).name)
    await _gone(workers, near)
    await descriptor.delete(veth_key(near), veth, index)
