"""Access lists between pods with the kernel's own TCP and UDP: super frames, fragments, connections and changes.

Each is played with sessions as VPP keeps them by itself, and as the project has them reclassified.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from topology import Node, Pod, clean, loopback
from wires import DENY, NEW, REFLECT, TCP, UDP, rule

import contiv.vpp

pytestmark = pytest.mark.root

GATEWAY = "10.1.1.1"
PORT, OTHER = 7100, 7101
CHUNK = bytes(range(256)) * 2048  # 512 KiB
SETTLE_S = 5.0
"""Room for a SYN that is lost while links come up, which the kernel repeats after a second."""
CUT_S = 1.0
"""Long enough to see that nothing more arrives."""


class Street:
    """Two pods, ``a`` and ``b``, and the lists in front of ``b``."""

    def __init__(self, node: Node, vpp: contiv.vpp.Vpp) -> None:
        self.node = node
        self.vpp = vpp
        self.a = Pod(node, "sa", "10.1.1.2", 2)
        self.b = Pod(node, "sb", "10.1.1.3", 3)

    async def acl(self, *rules: dict[str, Any], index: int = NEW) -> int:
        reply = await self.vpp.call("acl_add_replace", acl_index=index, tag="t", count=len(rules), r=list(rules))
        return int(reply.acl_index)

    async def guard(self, *lists: int) -> None:
        """What may go to ``b``; what it sends has its answers."""
        answers = await self.acl(rule(REFLECT))
        acls = [answers, *lists]
        await self.vpp.call(
            "acl_interface_set_acl_list", sw_if_index=self.b.index, count=len(acls), n_input=1, acls=acls
        )

    async def socket(self, pod: Pod, kind: socket.SocketKind) -> socket.socket:
        made = await self.node.inside(pod.netns, lambda: socket.socket(socket.AF_INET, kind))
        made.setblocking(False)
        return made

    @contextlib.asynccontextmanager
    async def connected(
        self, port: int, *, within_s: float = SETTLE_S
    ) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
        """A TCP connection from ``a`` to ``b``; TimeoutError when none comes about."""
        loop = asyncio.get_running_loop()
        with (
            await self.socket(self.b, socket.SOCK_STREAM) as listener,
            await self.socket(self.a, socket.SOCK_STREAM) as client,
        ):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.b.address, port))
            listener.listen()
            async with asyncio.timeout(within_s):
                await loop.sock_connect(client, (self.b.address, port))
                server, _ = await loop.sock_accept(listener)
            with server:
                yield client, server


@pytest.fixture(params=[0, 1], ids=["kept", "reclassified"])
async def street(node: Node, request: pytest.FixtureRequest) -> AsyncIterator[Street]:
    async with node.connect() as vpp:
        await clean(vpp)
        await vpp.call("cli_inband", cmd=f"set acl-plugin reclassify-sessions {request.param}")
        made = Street(node, vpp)
        gateway = await loopback(vpp, 0, "02:fe:00:00:00:01", f"{GATEWAY}/32")
        for pod in (made.a, made.b):
            await node.unveth(f"v{pod.name}")
            await pod.attach(vpp, gateway, GATEWAY)
        yield made
        await clean(vpp)


async def _stream(sender: socket.socket, receiver: socket.socket, *, within_s: float = SETTLE_S) -> None:
    """Half a megabyte arrives whole. TimeoutError when it does not."""
    loop = asyncio.get_running_loop()
    received = bytearray()
    async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
        group.create_task(loop.sock_sendall(sender, CHUNK))
        while len(received) < len(CHUNK):
            received += await loop.sock_recv(receiver, 1 << 16)
    assert bytes(received) == CHUNK


async def test_streams_both_ways(street: Street) -> None:
    web = await street.acl(rule(REFLECT, f"{street.a.address}/32", proto=TCP, dport=(PORT, PORT)))
    await street.guard(web)
    async with street.connected(PORT) as (client, server):
        await _stream(client, server)
        await _stream(server, client)
    with pytest.raises(TimeoutError):
        async with street.connected(OTHER, within_s=CUT_S):
            pass


async def test_a_rule_replaced_in_place_cuts_only_what_is_reclassified(
    street: Street, request: pytest.FixtureRequest
) -> None:
    web = await street.acl(rule(REFLECT, proto=TCP, dport=(PORT, PORT)))
    await street.guard(web)
    async with street.connected(PORT) as (client, server):
        await street.acl(rule(DENY), index=web)
        if "kept" in request.node.name:
            await _stream(client, server)
            await _stream(server, client)
        else:
            with pytest.raises(TimeoutError):
                await _stream(client, server, within_s=CUT_S)
        with pytest.raises(TimeoutError):
            async with street.connected(OTHER, within_s=CUT_S):
                pass


async def test_a_connection_that_new_lists_deny_is_cut(street: Street) -> None:
    await street.guard(await street.acl(rule(REFLECT, proto=TCP, dport=(PORT, PORT))))
    async with street.connected(PORT) as (client, server):
        await _stream(client, server)
        await street.guard(await street.acl(rule(DENY)))
        with pytest.raises(TimeoutError):
            await _stream(client, server, within_s=CUT_S)


async def test_a_connection_that_new_lists_allow_goes_on(street: Street) -> None:
    web = rule(REFLECT, proto=TCP, dport=(PORT, PORT))
    await street.guard(await street.acl(web))
    async with street.connected(PORT) as (client, server):
        for _ in range(3):
            await street.guard(await street.acl(web, rule(REFLECT, proto=UDP)))
            await _stream(client, server)
            await _stream(server, client)


async def test_fragments_pass_with_their_datagram(street: Street) -> None:
    """The first fragment has the ports; the later ones pass by address and protocol, and alone they are nothing."""
    loop = asyncio.get_running_loop()
    await street.guard(await street.acl(rule(REFLECT, proto=UDP, dport=(PORT, PORT))))
    with await street.socket(street.a, socket.SOCK_DGRAM) as sender:
        with (
            await street.socket(street.b, socket.SOCK_DGRAM) as wanted,
            await street.socket(street.b, socket.SOCK_DGRAM) as other,
        ):
            wanted.bind((street.b.address, PORT))
            other.bind((street.b.address, OTHER))
            for size in (10, 4000, 10_000):  # VPP's rings have room for 16 frames
                for port in (OTHER, PORT):
                    sender.sendto(CHUNK[:size], (street.b.address, port))
                    await asyncio.sleep(0.02)
                async with asyncio.timeout(SETTLE_S):
                    assert await loop.sock_recv(wanted, 65536) == CHUNK[:size]
            with pytest.raises(BlockingIOError):
                other.recv(65536)
