"""NAT44-ED under the sockets of real pods, on both data planes: large segments, open checksums, real fragments."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from nat_wires import INSIDE, OUT2IN_ONLY, OUTSIDE, SELF_TWICE_NAT, TCP, TWICE_ADDRESS, TWICE_NAT, UDP, VIP
from topology import NO_INDEX, Node, Pod, clean, loopback

import contiv.vpp

pytestmark = pytest.mark.root

GATEWAY = "10.1.1.1"
PORT, TARGET = 80, 8080
PAYLOAD = bytes(range(251)) * 4096  # a megabyte whose period divides no segment
WAIT_S = 10.0
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # linux/in.h


@pytest.fixture(params=[SELF_TWICE_NAT, TWICE_NAT], ids=["client seen", "client hidden"])
async def pods(node: Node, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Pod, Pod]]:
    """A client and the one backend of a service, over TCP and UDP."""
    async with node.connect() as vpp:
        await clean(vpp)
        for name in ("va", "vb"):
            await node.unveth(name)
        gateway = await loopback(vpp, 0, "02:fe:00:00:00:01", f"{GATEWAY}/32")
        pair = (Pod(node, "a", "10.1.1.2", 2), Pod(node, "b", "10.1.1.3", 3))
        await vpp.call("nat44_ed_plugin_enable_disable", enable=True)
        await vpp.call("nat44_forwarding_enable_disable", enable=True)
        for pod in pair:
            await pod.attach(vpp, gateway, GATEWAY)
            for flag in (INSIDE, OUTSIDE):
                await vpp.call("nat44_interface_add_del_feature", is_add=True, sw_if_index=pod.index, flags=flag)
        span = {"first_ip_address": TWICE_ADDRESS, "last_ip_address": TWICE_ADDRESS}
        await vpp.call("nat44_add_del_address_range", is_add=True, flags=TWICE_NAT, vrf_id=NO_INDEX, **span)
        for protocol in (TCP, UDP):
            await serve(vpp, pair[1], protocol, flags=OUT2IN_ONLY | request.param)
        yield pair
        await vpp.call("nat44_ed_plugin_enable_disable", enable=False)
        await clean(vpp)
        for name in ("va", "vb"):
            await node.unveth(name)


async def serve(vpp: contiv.vpp.Vpp, pod: Pod, protocol: int, *, flags: int) -> None:
    """Map the service's port to the pod's."""
    await vpp.call(
        "nat44_add_del_static_mapping_v2", is_add=True, match_pool=False, flags=flags, pool_ip_address="0.0.0.0",
        local_ip_address=pod.address, external_ip_address=VIP, protocol=protocol, local_port=TARGET,
        external_port=PORT, external_sw_if_index=NO_INDEX, vrf_id=0, tag="",
    )  # fmt: skip


async def made(node: Node, pod: Pod, kind: socket.SocketKind) -> socket.socket:
    """A socket of the pod."""
    found = await node.inside(pod.netns, lambda: socket.socket(socket.AF_INET, kind))
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setblocking(False)
    return found


async def test_a_megabyte_goes_and_comes_back(pods: tuple[Pod, Pod], node: Node) -> None:
    loop = asyncio.get_running_loop()
    client, backend = pods
    with (
        await made(node, backend, socket.SOCK_STREAM) as listener,
        await made(node, client, socket.SOCK_STREAM) as near,
    ):
        listener.bind((backend.address, TARGET))
        listener.listen()
        async with asyncio.timeout(WAIT_S):
            await loop.sock_connect(near, (VIP, PORT))
            far, seen = await loop.sock_accept(listener)
            assert seen[0] in {client.address, TWICE_ADDRESS}
            with far, near:
                for source, target in ((near, far), (far, near)):
                    sending = asyncio.create_task(loop.sock_sendall(source, PAYLOAD))
                    received = bytearray()
                    while len(received) < len(PAYLOAD):
                        received += await loop.sock_recv(target, 1 << 20)
                    await sending
                    assert received == PAYLOAD


async def test_datagrams_larger_than_the_mtu_arrive_whole(pods: tuple[Pod, Pod], node: Node) -> None:
    loop = asyncio.get_running_loop()
    client, backend = pods
    with await made(node, backend, socket.SOCK_DGRAM) as far, await made(node, client, socket.SOCK_DGRAM) as near:
        far.bind((backend.address, TARGET))
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        near.connect((VIP, PORT))
        async with asyncio.timeout(WAIT_S):
            for size in (1, 1400, 1500, 4000, 9000):
                near.send(PAYLOAD[:size])
                data, seen = await loop.sock_recvfrom(far, 65536)
                assert data == PAYLOAD[:size]
                far.sendto(data, seen)
                assert await loop.sock_recv(near, 65536) == PAYLOAD[:size]
