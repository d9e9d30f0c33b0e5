"""Packets on one node: pods laid out as the agent lays them out, and what comes back when there is no way on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest
from topology import NO_INDEX, Node, Pod, clean, loopback, path, route, until

import contiv.vpp
from contiv.demo import probe
from contiv.linux.netns import Workers
from contiv.vpp.errors import retval_name

pytestmark = pytest.mark.root

GATEWAY = "10.1.1.1"
WAIT_S = 2.0
PAYLOAD = bytes(range(256)) * 1024  # 256 KiB
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_DONT = 10, 2, 0  # linux/in.h


@pytest.fixture(scope="module")
def layout() -> dict[str, object]:
    """Filled by the first test that needs pods; pods live as long as the node."""
    return {}


@pytest.fixture
async def pods(node: Node, layout: dict[str, object]) -> AsyncIterator[tuple[Pod, Pod]]:
    """Two pods behind one gateway."""
    async with node.connect() as vpp:
        await clean(vpp)
        for name in ("va", "vb"):
            await node.unveth(name)
        gateway = await loopback(vpp, 0, "02:fe:00:00:00:01", f"{GATEWAY}/32")
        pair = (Pod(node, "a", "10.1.1.2", 2), Pod(node, "b", "10.1.1.3", 3))
        for pod in pair:
            await pod.attach(vpp, gateway, GATEWAY)
        yield pair
        await clean(vpp)
        for name in ("va", "vb"):
            await node.unveth(name)


async def test_pods_and_gateway_answer_pings(pods: tuple[Pod, Pod], workers: Workers) -> None:
    first, second = pods
    for source, target in ((first, second.address), (second, first.address), (first, GATEWAY)):
        assert await probe.first_reply(workers, source.netns, target, timeout_s=WAIT_S) is not None, target
        assert (await probe.ping(workers, source.netns, target, count=10)).lost == 0


async def test_tcp_carries_what_it_is_given(pods: tuple[Pod, Pod], node: Node) -> None:
    first, second = pods
    received = await _tcp(node, first, second, PAYLOAD)
    assert received == PAYLOAD


async def test_udp_of_every_size_arrives(pods: tuple[Pod, Pod], node: Node) -> None:
    first, second = pods
    sizes = (1, 100, 1422, 1423, 9000, 16000)  # 1,422 fill the MTU of 1,450; more is fragments, 16 fit VPP's ring
    assert await _udp(node, first, second, sizes) == list(sizes)


async def test_time_to_live_ends_at_the_gateway(pods: tuple[Pod, Pod], node: Node) -> None:
    kind, code, source = await _error_for(node, pods[0], pods[1].address, ttl=1)
    assert (kind, code, source) == (11, 0, GATEWAY)


async def test_closed_port_of_the_gateway_is_unreachable(pods: tuple[Pod, Pod], node: Node) -> None:
    kind, code, source = await _error_for(node, pods[0], GATEWAY, ttl=64)
    assert (kind, code, source) == (3, 3, GATEWAY)


async def test_route_of_type_unreachable_says_so(pods: tuple[Pod, Pod], node: Node) -> None:
    async with node.connect() as vpp:
        await route(vpp, "10.66.0.0/16", path(NO_INDEX, type=5))
        kind, _, source = await _error_for(node, pods[0], "10.66.1.1", ttl=64)
    assert (kind, source) == (3, GATEWAY)


async def test_packet_too_big_tells_the_mtu(pods: tuple[Pod, Pod], node: Node) -> None:
    first, second = pods
    async with node.connect() as vpp:
        await vpp.call("sw_interface_set_mtu", sw_if_index=second.index, mtu=[1000, 0, 0, 0])
    kind, code, source = await _error_for(node, first, second.address, ttl=64, size=1200)
    assert (kind, code, source) == (3, 4, GATEWAY)


async def test_packet_that_may_be_cut_is_fragmented(pods: tuple[Pod, Pod], node: Node) -> None:
    first, second = pods
    async with node.connect() as vpp:
        await vpp.call("sw_interface_set_mtu", sw_if_index=second.index, mtu=[600, 0, 0, 0])
    assert await _udp(node, first, second, (1200,), discover=IP_PMTUDISC_DONT) == [1200]


async def test_no_route_is_silence(pods: tuple[Pod, Pod], workers: Workers) -> None:
    assert await probe.first_reply(workers, pods[0].netns, "10.99.0.1", timeout_s=0.2) is None


async def test_deleted_route_and_interface_stop_the_traffic(
    pods: tuple[Pod, Pod], node: Node, workers: Workers
) -> None:
    first, second = pods
    async with node.connect() as vpp:
        assert await probe.first_reply(workers, first.netns, second.address, timeout_s=WAIT_S)
        await vpp.call("sw_interface_set_flags", sw_if_index=second.index, flags=0)
        assert await probe.first_reply(workers, first.netns, second.address, timeout_s=0.2) is None
        await vpp.call("sw_interface_set_flags", sw_if_index=second.index, flags=1)
        await node.inside(second.netns, _nothing)
        assert await probe.first_reply(workers, first.netns, second.address, timeout_s=WAIT_S)
        fields = {"table_id": 0, "prefix": f"{second.address}/32", "n_paths": 0, "paths": []}
        await vpp.call("ip_route_add_del", is_add=False, route=fields)
        neighbour = {"sw_if_index": second.index, "flags": 1, "mac_address": second.mac, "ip_address": second.address}
        await vpp.call("ip_neighbor_add_del", is_add=False, neighbor=neighbour)
        assert await probe.first_reply(workers, first.netns, second.address, timeout_s=0.2) is None


async def test_pods_in_another_table_are_apart(pods: tuple[Pod, Pod], node: Node, workers: Workers) -> None:
    """A pod moved to a table of its own is reached by nobody until that table knows it."""
    first, second = pods
    async with node.connect() as vpp:
        await _to_table(vpp, second, 5)
        assert await probe.first_reply(workers, first.netns, second.address, timeout_s=0.2) is None
        await route(vpp, f"{second.address}/32", path(NO_INDEX, table_id=5))
        await route(vpp, f"{second.address}/32", path(second.index, second.address), table=5)
        await route(vpp, "10.1.1.0/24", path(NO_INDEX, table_id=0), table=5)
        assert await probe.first_reply(workers, first.netns, second.address, timeout_s=WAIT_S)


async def test_api_answers_while_packets_flow(pods: tuple[Pod, Pod], node: Node) -> None:
    first, second = pods
    async with node.connect() as vpp, asyncio.TaskGroup() as group:
        flow = group.create_task(probe.throughput(first.netns, second.netns, second.address, seconds=1))
        slowest = 0.0
        while not flow.done():
            started = time.perf_counter()
            await vpp.call("control_ping")
            slowest = max(slowest, time.perf_counter() - started)
            await asyncio.sleep(0.01)
    assert flow.result() > 100e6
    assert slowest < 0.5


async def _to_table(vpp: contiv.vpp.Vpp, pod: Pod, table: int) -> None:
    gateway = (await vpp.dump("ip_unnumbered", sw_if_index=pod.index))[0].ip_sw_if_index
    loan = {"sw_if_index": gateway, "unnumbered_sw_if_index": pod.index}
    await vpp.call("sw_interface_set_unnumbered", is_add=False, **loan)
    await vpp.call("ip_table_add_del_v2", is_add=True, table={"table_id": table, "is_ip6": False, "name": "contiv:t"})
    await vpp.call("sw_interface_set_table", sw_if_index=pod.index, is_ipv6=False, vrf_id=table)
    refused = await vpp.call("sw_interface_set_unnumbered", check=False, is_add=True, **loan)
    assert retval_name(refused.retval) == "UNEXPECTED_INTF_STATE", "a loan stays within one table"
    await vpp.call("sw_interface_add_del_address", sw_if_index=pod.index, is_add=True, prefix=f"{GATEWAY}/32")


def _nothing() -> None:
    return None


async def _socket(node: Node, pod: Pod, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    """A socket of the pod, usable from here: a socket belongs to the namespace that it was made in."""
    made = await node.inside(pod.netns, lambda: socket.socket(socket.AF_INET, kind, protocol))
    made.setblocking(False)
    return made


async def _tcp(node: Node, source: Pod, target: Pod, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with (
        await _socket(node, target, socket.SOCK_STREAM) as listener,
        await _socket(node, source, socket.SOCK_STREAM) as sender,
    ):
        listener.bind((target.address, 7000))
        listener.listen()
        received = bytearray()
        async with asyncio.timeout(10):
            await loop.sock_connect(sender, (target.address, 7000))
            connection, _ = await loop.sock_accept(listener)
            with connection:
                sending = asyncio.create_task(loop.sock_sendall(sender, data))
                while len(received) < len(data):
                    received += await loop.sock_recv(connection, 65536)
                await sending
    return bytes(received)


async def _udp(
    node: Node, source: Pod, target: Pod, sizes: tuple[int, ...], *, discover: int = IP_PMTUDISC_DONT
) -> list[int]:
    loop = asyncio.get_running_loop()
    with (
        await _socket(node, target, socket.SOCK_DGRAM) as receiver,
        await _socket(node, source, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((target.address, 7001))
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)
        found = []
        async with asyncio.timeout(5):
            for size in sizes:
                sender.sendto(PAYLOAD[:size], (target.address, 7001))
                data = await loop.sock_recv(receiver, 65536)
                assert data == PAYLOAD[:size]
                found.append(len(data))
    return found


async def _error_for(node: Node, pod: Pod, target: str, *, ttl: int, size: int = 20) -> tuple[int, int, str]:
    """Type, code and sender of the ICMP error that a UDP packet provokes; asked again until it comes."""
    loop = asyncio.get_running_loop()
    with (
        await _socket(node, pod, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear,
        await _socket(node, pod, socket.SOCK_DGRAM) as mouth,
    ):
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        mouth.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)

        async def ask() -> tuple[int, int, str] | None:
            with contextlib.suppress(OSError):  # the error of the packet before: it is read from the raw socket
                mouth.sendto(bytes(size), (target, 40000))
            try:
                async with asyncio.timeout(0.3):
                    data = await loop.sock_recv(ear, 2048)
            except TimeoutError:
                return None
            header = (data[0] & 15) * 4
            quoted = data[header + 8 :]
            assert socket.inet_ntoa(quoted[16:20]) == target
            assert struct.unpack(">H", quoted[22:24])[0] == 40000
            return data[header], data[header + 1], socket.inet_ntoa(data[12:16])

        found: tuple[int, int, str] = await until(ask)
        return found
