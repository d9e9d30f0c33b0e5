"""Macvlans in pods by their descriptor, judged by what the kernel holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from contiv.linux import links, netns
from contiv.linux.descriptors import MacvlanDescriptor, VethDescriptor
from contiv.linux.errors import KernelRefusal, NamespaceMissing
from contiv.linux.netlink import Conversation, Request
from contiv.linux.netns import OWN, Workers
from contiv.model.linux import Macvlan, Veth, macvlan_key, veth_key

pytestmark = pytest.mark.root
MAC = "02:fe:12:34:56:79"


def _link(name: str) -> links.Link | None:
    with Conversation() as conversation:
        return links.find(conversation, name)


@pytest.fixture
async def far(workers: Workers, near: str) -> AsyncIterator[str]:
    """The far end of a pair."""
    pairs, pair = VethDescriptor(workers), Veth(near, f"{near}p", peer_mac=MAC)
    index = await pairs.create(veth_key(near), pair)
    yield pair.peer
    await pairs.delete(veth_key(near), pair, index)


async def test_the_pod_gets_a_link_with_the_mac_of_the_far_end_and_loses_it_again(
    new_netns: list[str], workers: Workers, far: str
) -> None:
    descriptor = MacvlanDescriptor(workers)
    key, value = macvlan_key(far), Macvlan(parent=far, name="eth0", netns=new_netns[0], mtu=1450)
    index = await descriptor.create(key, value)
    link = await workers.inside(new_netns[0], lambda: _link("eth0"))
    assert link is not None
    assert (link.index, link.kind, link.mac, link.mtu, link.up) == (index, "macvlan", MAC, 1450, False)
    assert [found.value for found in await descriptor.retrieve({key: value})] == [value]
    with pytest.raises(KernelRefusal, match=f"on {far}"):
        await descriptor.create(key, msgspec.structs.replace(value, name="eth1"))
    await descriptor.delete(key, value, index)
    assert await workers.inside(new_netns[0], lambda: _link("eth0")) is None
    await descriptor.delete(key, value, index)
    assert list(await descriptor.retrieve({key: value})) == []


async def test_a_link_whose_maker_died_before_it_could_mark_it_is_made_anew_and_a_strangers_is_not(
    new_netns: list[str], workers: Workers, far: str
) -> None:
    descriptor = MacvlanDescriptor(workers)
    key, value = macvlan_key(far), Macvlan(parent=far, name="eth0", netns=new_netns[0], mtu=1450)
    index = await descriptor.create(key, value)
    unmarked = [links.set_alias(index, "", name="eth0")]  # as it was born
    await workers.inside(new_netns[0], lambda: _run(unmarked))
    anew = await descriptor.create(key, value)
    assert anew != index
    assert [found.value for found in await descriptor.retrieve({key: value})] == [value]
    await descriptor.delete(key, value, anew)
    await workers.inside(new_netns[0], lambda: _run([links.create_bridge("eth0", mtu=1450)]))
    with pytest.raises(KernelRefusal, match="there already"):
        await descriptor.create(key, value)


def _run(requests: list[Request]) -> None:
    with Conversation() as conversation:
        conversation.run(requests)


async def test_a_pod_that_is_gone_took_its_link_along_and_left_the_pair(
    new_netns: list[str], workers: Workers, far: str
) -> None:
    descriptor = MacvlanDescriptor(workers)
    key, value = macvlan_key(far), Macvlan(parent=far, name="eth0", netns=new_netns[0], mtu=1450)
    index = await descriptor.create(key, value)
    netns.delete(Path(new_netns[0]).name)
    await descriptor.delete(key, value, index)
    assert list(await descriptor.retrieve({key: value})) == []
    assert await workers.inside(OWN, lambda: _link(far)) is not None
    with pytest.raises(NamespaceMissing):
        await descriptor.create(key, value)
