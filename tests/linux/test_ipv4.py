"""contiv.linux.ipv4: a deaf link is read by packet sockets, and by nobody else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from contiv.linux import ipv4, netns
from contiv.linux.descriptors import InterfaceDescriptor
from contiv.linux.errors import KernelRefusal
from contiv.linux.netns import Workers
from contiv.model.linux import Interface, interface_key

pytestmark = pytest.mark.root

HOST, ELSEWHERE, GUEST = "10.77.0.1", "10.78.0.2", "10.79.0.1"


def run(path: str, *argv: str) -> int:
    """A command in a namespace; its exit code."""
    return subprocess.run(
        netns.command_in(path, argv, die_with_parent=True), capture_output=True, check=False
    ).returncode


def wire(host: str, guest: str) -> None:
    """A guest whose way to the host is the link, while the host's way to it is another one."""
    for path, argv in (
        (host, f"ip link add d0 type veth peer name d1 netns {guest.rpartition('/')[2]}"),
        (host, f"ip addr add {HOST}/24 dev lo"),
        (host, "ip link set lo up"),
        (host, "ip link set d0 up"),
        (guest, "ip link set d1 up"),
        (guest, f"ip addr add {GUEST}/32 dev d1"),
        (guest, f"ip route add {HOST}/32 dev d1"),
        (host, "ip link add other type veth peer name other1"),
        (host, "ip link set other up"),
        (host, "ip link set other1 up"),
        (host, f"ip addr add {ELSEWHERE}/24 dev other"),
        (host, f"ip route add {GUEST}/32 dev other"),
    ):
        assert run(path, *argv.split()) == 0, argv


async def test_hosts_stack_takes_nothing_from_a_deaf_link(new_netns: list[str], workers: Workers) -> None:
    host, guest = new_netns
    wire(host, guest)

    async def heard() -> bool:
        before = await workers.inside(host, echoes)
        run(guest, "ping", "-c", "1", "-W", "1", HOST)
        return await workers.inside(host, echoes) > before

    assert await heard(), "the kernel's usual way, whatever link leads back"
    await workers.inside(host, lambda: ipv4.make_deaf("d0"))
    assert not await heard()


def echoes() -> int:
    """Echo requests that the stack of this thread's namespace has taken."""
    names, values = (
        line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Icmp:")
    )
    return int(values[names.index("InEchos")])


async def test_resync_sees_that_somebody_opened_the_link_again(new_netns: list[str], workers: Workers) -> None:
    host, guest = new_netns
    wire(host, guest)
    wanted = Interface("d", "d0", netns=host, deaf=True)
    key = interface_key("d")
    descriptor = InterfaceDescriptor(workers)
    await descriptor.create(key, wanted)
    seen = {actual.key: actual.value for actual in await descriptor.retrieve({key: wanted})}
    assert seen[key] == wanted
    assert run(host, "sysctl", "-w", "net.ipv4.ip_forward=0", "net.ipv4.ip_forward=1") == 0
    seen = {actual.key: actual.value for actual in await descriptor.retrieve({key: wanted})}
    assert not seen[key].deaf


async def test_missing_link_is_named(new_netns: list[str], workers: Workers) -> None:
    assert not await workers.inside(new_netns[0], lambda: ipv4.is_deaf("d0"))
    with pytest.raises(KernelRefusal, match="d0"):
        await workers.inside(new_netns[0], lambda: ipv4.make_deaf("d0"))
