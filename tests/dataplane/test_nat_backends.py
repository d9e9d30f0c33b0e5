"""What connections through a mapping make of a change of its backends: who serves on, who ends, who is chosen."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest
from topology import Node, Pod, clean

import contiv.vpp
from contiv.model import vpp as model
from contiv.model.ip import Address, Network
from contiv.scheduler import Resync, Scheduler, Txn, Value
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors, nat_descriptors

pytestmark = pytest.mark.root

GATEWAY = "10.1.1.1"
TWICE = "10.1.1.254"
VIP = "10.96.0.10"
PORT = 80
TARGET = 8080
TCP = 6
WAIT_S = 3.0
SILENCE_S = 0.5
CLIENT = "10.1.1.10"
SERVERS = {"10.1.1.2": "red", "10.1.1.3": "green", "10.1.1.4": "blue"}


class Connection:
    """A TCP connection through the service; ``server`` is who answers, ``seen`` the address that it sees."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: str, seen: str) -> None:
        self._reader = reader
        self._writer = writer
        self.server = server
        self.seen = seen

    async def alive(self) -> bool:
        """Whether what is sent comes back."""
        self._writer.write(b"still there?\n")
        try:
            async with asyncio.timeout(SILENCE_S):
                return await self._reader.readline() == b"still there?\n"
        except (TimeoutError, ConnectionError):
            return False

    def close(self) -> None:
        """Let it go."""
        self._writer.transport.abort()


class Bench:
    """A node with a client and three servers as pods behind NAT44-ED, laid out by a scheduler."""

    def __init__(self, node: Node, vpp: contiv.vpp.Vpp) -> None:
        self.node = node
        self.vpp = vpp
        interfaces = Interfaces()
        every = [*descriptors(vpp, interfaces, FibSource(vpp)), *nat_descriptors(vpp, interfaces)]
        self.scheduler = Scheduler(every)
        self.pods = {address: Pod(node, name, address, n) for n, (address, name) in enumerate(SERVERS.items(), 2)}
        self.pods[CLIENT] = Pod(node, "client", CLIENT, 10)
        self._servers: list[asyncio.Server] = []
        self._open: list[Connection] = []
        self._handlers: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def build(self) -> None:
        """Pods, interfaces, NAT without mappings, servers."""
        for pod in self.pods.values():
            await pod.lay(GATEWAY)
        outcome = await self.scheduler.commit(Txn(_entries(*_layout(self.pods.values())), resync=Resync.FULL))
        outcome.raise_for_errors()
        for address, name in SERVERS.items():
            await self._serve(self.pods[address], name)

    async def close(self) -> None:
        """Everything goes."""
        for connection in self._open:
            connection.close()
        for server in self._servers:
            server.close()
        for writer in self._handlers.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in self._handlers if task is not None))
        await self.scheduler.commit(Txn({}, resync=Resync.FULL))
        await clean(self.vpp)
        for pod in self.pods.values():
            await self.node.unveth(pod.link)

    async def service(self, weights: Mapping[str, int], vip: str = VIP, **fields: Any) -> None:
        """Program the service with these backends; none: take it away."""
        value = _mapping(weights, vip, **fields)
        outcome = await self.scheduler.commit(Txn({model.key_of(value): value if weights else None}))
        outcome.raise_for_errors()

    async def connect(self, source: str = CLIENT, vip: str = VIP) -> Connection:
        """A new connection to the service from a pod."""
        netns = self.pods[source].netns
        sock = await self.node.inside(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        sock.setblocking(False)
        async with asyncio.timeout(WAIT_S):
            await asyncio.get_running_loop().sock_connect(sock, (vip, PORT))
            reader, writer = await asyncio.open_connection(sock=sock)
            name, seen = (await reader.readline()).decode().split()
        connection = Connection(reader, writer, name, seen)
        self._open.append(connection)
        return connection

    async def answers(self, count: int, source: str = CLIENT) -> Counter[str]:
        """Who answers how many of ``count`` new connections."""
        found: Counter[str] = Counter()
        for _ in range(count):
            connection = await self.connect(source)
            found[connection.server] += 1
            connection.close()
        return found

    async def sessions(self, address: str) -> int:
        """How many sessions VPP keeps of connections to a backend's port."""
        dumped = await self.vpp.dump("nat44_user_session_v3", ip_address=address, vrf_id=0)
        return sum(entry.inside_port == TARGET for entry in dumped)

    async def _serve(self, pod: Pod, name: str) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._handlers[asyncio.current_task()] = writer
            seen = writer.get_extra_info("peername")[0]
            writer.write(f"{name} {seen}\n".encode())
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    writer.write(line)
            writer.transport.abort()

        sock = await self.node.inside(pod.netns, lambda: socket.create_server((pod.address, TARGET)))
        self._servers.append(await asyncio.start_server(answer, sock=sock))


def _layout(pods: Iterable[Pod]) -> list[Value]:
    """What the agent's renderers want of VPP for these pods."""
    gateway, twice = Address.parse(GATEWAY), Address.parse(TWICE)
    values: list[Value] = [
        model.Loopback(name="gateway", instance=50, mac="12:2a:00:00:00:50"),
        model.InterfaceAddress(interface="gateway", address=gateway.host_network),
        model.AdminUp(interface="gateway"),
        model.NatSettings(sessions=4096, udp_s=300, tcp_established_s=7440, tcp_transitory_s=240, icmp_s=60),
        model.NatAddress(address=twice, twice=True),
    ]
    for pod in pods:
        address = Address.parse(pod.address)
        values += [
            model.AfPacket(name=pod.name, host_if=pod.link, mac=pod.vpp_mac, mtu=1450),
            model.Unnumbered(interface=pod.name, lender="gateway"),
            model.Neighbour(interface=pod.name, address=address, mac=pod.mac),
            model.Route(vrf=0, destination=address.host_network, gateway=address, interface=pod.name),
            model.AdminUp(interface=pod.name),
            model.NatInterface(interface=pod.name, inside=True, outside=True),
        ]
    return values


def _mapping(weights: Mapping[str, int], vip: str, **fields: Any) -> model.NatMapping:
    tail = TARGET.to_bytes(2, "big")
    records = (Address.parse(text).packed + tail + bytes((weight, 0, 0, 0, 0)) for text, weight in weights.items())
    fields = {"label": "t/s", **fields}
    return model.NatMapping(
        address=Address.parse(vip), port=PORT, protocol=TCP, backends=b"".join(sorted(records)), **fields
    )


def _entries(*values: Value) -> dict[str, Value]:
    return dict(model.entry(value) for value in values)  # type: ignore[arg-type]


@pytest.fixture
async def bench(node: Node, vpp: contiv.vpp.Vpp) -> AsyncIterator[Bench]:
    """The layout, without a mapping."""
    if (await vpp.call("nat44_show_running_config", check=False)).retval:
        pytest.skip("this data plane has no NAT44-ED")
    made = Bench(node, vpp)
    try:
        await made.build()
        yield made
    finally:
        await made.close()


RED, GREEN, BLUE = SERVERS


async def test_who_is_chosen_follows_the_weights_and_nobody_else_is(bench: Bench) -> None:
    await bench.service({RED: 1})
    assert await bench.answers(10) == {"red": 10}
    await bench.service({RED: 1, GREEN: 3})
    found = await bench.answers(120)
    assert set(found) == {"red", "green"}
    assert 12 <= found["red"] <= 50  # 30 expected, 4.2 standard deviations either way
    await bench.service({RED: 1, GREEN: 1, BLUE: 1})
    await bench.service({BLUE: 1})
    assert await bench.answers(10) == {"blue": 10}


async def test_connections_of_backends_that_stay_live_on(bench: Bench) -> None:
    await bench.service({RED: 1})
    first = await bench.connect()
    for weights in ({RED: 1, GREEN: 1}, {RED: 1, GREEN: 1, BLUE: 1}, {RED: 1, BLUE: 1}, {RED: 1}, {RED: 1, GREEN: 5}):
        await bench.service(weights)
        assert await first.alive(), weights
    assert first.server == "red"
    assert first.seen == CLIENT


async def test_connections_of_a_backend_that_goes_end_with_their_sessions(bench: Bench) -> None:
    await bench.service({RED: 1, GREEN: 1})
    held = [await bench.connect() for _ in range(12)]
    assert {connection.server for connection in held} == {"red", "green"}
    assert await bench.sessions(GREEN) > 0
    await bench.service({RED: 1})
    assert await bench.sessions(GREEN) == 0
    alive = await asyncio.gather(*(connection.alive() for connection in held))
    assert alive == [connection.server == "red" for connection in held]
    assert await bench.answers(20) == {"red": 20}
    await bench.service({GREEN: 1})
    assert await bench.sessions(RED) == 0
    await bench.service({})
    assert await bench.sessions(GREEN) == 0
    assert await bench.vpp.dump("nat44_lb_static_mapping") == []


async def test_a_backend_that_drains_keeps_its_connections_until_it_goes(bench: Bench) -> None:
    await bench.service({RED: 1, GREEN: 1, BLUE: 1})
    held = [await bench.connect() for _ in range(15)]
    assert {connection.server for connection in held} == {"red", "green", "blue"}
    for weights in ({RED: 0, GREEN: 1, BLUE: 1}, {RED: 0, GREEN: 2, BLUE: 0}, {RED: 0, GREEN: 2, BLUE: 5}):
        await bench.service(weights)
        names = {SERVERS[address] for address, weight in weights.items() if weight}
        assert set(await bench.answers(20)) == names
        assert all(await asyncio.gather(*(connection.alive() for connection in held))), weights
        read = await bench.scheduler.commit(Txn({}, resync=Resync.DOWNSTREAM))
        assert read.plan.empty
    await bench.service({GREEN: 2, BLUE: 5})
    assert await bench.sessions(RED) == 0
    alive = await asyncio.gather(*(connection.alive() for connection in held))
    assert alive == [connection.server != "red" for connection in held]


async def test_a_service_that_loses_a_backend_ends_no_connection_of_another_service(bench: Bench) -> None:
    other = "10.96.0.11"
    await bench.service({RED: 1, GREEN: 1})
    await bench.service({RED: 1, BLUE: 1}, other, label="t/other")
    held = [await bench.connect(vip=other) for _ in range(10)]
    assert {connection.server for connection in held} == {"red", "blue"}
    for weights in ({GREEN: 1}, {RED: 1, GREEN: 1}, {RED: 3, GREEN: 1}, {}):
        await bench.service(weights)
        assert all(await asyncio.gather(*(connection.alive() for connection in held))), weights
    assert await bench.sessions(GREEN) == 0
    await bench.service({BLUE: 1}, other, label="t/other")
    assert await bench.sessions(RED) == 0
    alive = await asyncio.gather(*(connection.alive() for connection in held))
    assert alive == [connection.server != "red" for connection in held]
    await bench.service({}, other, label="t/other")
    assert await bench.sessions(BLUE) == 0


async def test_connections_survive_a_change_of_many_backends_weights_while_others_come(bench: Bench) -> None:
    """More messages than VPP reads at once."""
    strangers = {f"10.1.2.{number}": 0 for number in range(1, 201)}
    await bench.service({RED: 1, GREEN: 1, **strangers})
    held = [await bench.connect() for _ in range(6)]
    for turn in range(8):
        changing = asyncio.create_task(bench.service({RED: 1 + turn % 2, GREEN: 2 - turn % 2, **strangers}))
        answered = Counter({"": 0})
        while not changing.done():
            answered += await bench.answers(1)
        await changing
        assert set(answered) <= {"red", "green"}
    assert all(await asyncio.gather(*(connection.alive() for connection in held)))


async def test_a_client_with_affinity_is_never_sent_to_a_backend_that_went(bench: Bench) -> None:
    affinity = {"affinity_s": 600}
    await bench.service({RED: 1, GREEN: 1}, **affinity)
    found = await bench.answers(20)
    assert len(found) == 1, "affinity does not hold"
    name = next(iter(found))
    gone = next(address for address, server in SERVERS.items() if server == name)
    (stays,) = {RED, GREEN} - {gone}
    await bench.service({stays: 1, BLUE: 1}, **affinity)  # another takes the place
    found = await bench.answers(20)
    assert found == {"blue": 20}
    await bench.service({stays: 1}, **affinity)  # nobody takes it
    assert await bench.answers(20) == {SERVERS[stays]: 20}
    await bench.service({stays: 1, gone: 1}, **affinity)
    assert await bench.answers(20) == {SERVERS[stays]: 20}


async def test_a_backend_reaches_itself_through_its_service(bench: Bench) -> None:
    await bench.service({RED: 1})
    own = await bench.connect(RED)
    assert (own.server, own.seen) == ("red", TWICE)
    assert (await bench.connect()).seen == CLIENT
    await bench.service({RED: 1}, hide_client=True)
    assert (await bench.connect()).seen == TWICE


async def test_a_service_that_goes_takes_its_address_with_it(bench: Bench) -> None:
    await bench.service({RED: 1})
    held = await bench.connect()
    await bench.service({})

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            await bench.connect()
    assert not await held.alive()
    reject = model.Route(vrf=0, destination=Network.parse("10.96.0.0/12"), reject=True)
    outcome = await bench.scheduler.commit(Txn(_entries(reject)))
    outcome.raise_for_errors()
    with pytest.raises(OSError, match=rf"Errno ({errno.EHOSTUNREACH}|{errno.ENETUNREACH})"):
        await bench.connect()
    await bench.service({RED: 1})
    assert await bench.answers(1) == {"red": 1}
