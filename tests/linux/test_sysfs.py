"""contiv.linux.sysfs: attributes of the links of the caller's namespace, whatever /sys shows."""

from __future__ import annotations

import subprocess

import pytest

from contiv.linux import netns, sysfs
from contiv.linux.descriptors import InterfaceDescriptor
from contiv.linux.errors import KernelRefusal, LinkMissing
from contiv.linux.netns import Workers
from contiv.model.linux import Interface, interface_key

pytestmark = pytest.mark.root

ATTRIBUTE = "gro_flush_timeout"


def add_pair(path: str) -> None:
    """Links that only the namespace at ``path`` has."""
    argv = ["ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1"]
    subprocess.run(netns.command_in(path, argv, die_with_parent=True), check=True)


async def test_a_link_is_found_in_its_namespace_and_in_no_other(new_netns: list[str], workers: Workers) -> None:
    here, there = new_netns
    add_pair(here)
    await workers.inside(here, lambda: sysfs.write("d0", ATTRIBUTE, 200_000))
    assert await workers.inside(here, lambda: sysfs.read("d0", ATTRIBUTE)) == 200_000
    with pytest.raises(LinkMissing, match="d0"):
        await workers.inside(there, lambda: sysfs.read("d0", ATTRIBUTE))


async def test_what_the_kernel_refuses_names_link_and_attribute(new_netns: list[str], workers: Workers) -> None:
    add_pair(new_netns[0])
    with pytest.raises(KernelRefusal, match=f"d0.*{ATTRIBUTE}"):
        await workers.inside(new_netns[0], lambda: sysfs.write("d0", ATTRIBUTE, -(1 << 70)))


async def test_a_resync_sees_that_somebody_changed_how_long_segments_wait(
    new_netns: list[str], workers: Workers
) -> None:
    add_pair(new_netns[0])
    wanted = Interface("d", "d0", netns=new_netns[0], merge_within_ns=200_000)
    key = interface_key("d")
    descriptor = InterfaceDescriptor(workers)
    await descriptor.create(key, wanted)
    seen = {actual.key: actual.value for actual in await descriptor.retrieve({key: wanted})}
    assert seen[key] == wanted
    await workers.inside(new_netns[0], lambda: sysfs.write("d0", ATTRIBUTE, 0))
    seen = {actual.key: actual.value for actual in await descriptor.retrieve({key: wanted})}
    assert seen[key] != wanted
