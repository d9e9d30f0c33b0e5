"""The table of ``service_truth`` played with packets on two nodes, and what changes while clients hold on.

One cluster plays all cases: each asks from a namespace of its own, and the names of those that came out otherwise are
the failure.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, defaultdict
from typing import Any

import msgspec
import pytest

from contiv.demo.api import Object
from tests.e2e import service_truth as truth
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.service_truth import ANSWERED, EXTERNAL, HIDDEN, ITSELF, REFUSED, SILENT, Case
from tests.e2e.services import Reply, apply, outside, route_outside, stored
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

SILENCE_S = 0.6
BALANCED = {ip for name, ip in truth.BALANCERS.items() if name != "proxied"}
UDP_TRIES, UDP_TRIES_MAX, UDP_WAIT_S = 3, 12, 0.25
IP_RECVERR = 11  # linux/in.h
SHARE_DEVIATIONS = 4.5
"""How far a share of ``truth.SPREAD`` connections may be off, in standard deviations: one run in 10,000."""


class Stage(msgspec.Struct):
    """The cluster with everything created: namespaces and addresses of clients, addresses and ports of services."""

    world: World
    namespaces: dict[str, str]
    addresses: dict[str, str]
    uplinks: dict[str, str]
    hosts: dict[str, str]
    services: dict[str, Object]

    def target(self, case: Case) -> tuple[str, int]:
        """Where a case's client connects to."""
        spec = self.services[case.service]["spec"]
        port = next(port for port in spec["ports"] if port["name"] == case.port)
        if case.where == "cluster":
            return spec["clusterIP"], port["port"]
        if case.where in self.uplinks:
            return self.uplinks[case.where], port["nodePort"]
        if case.where in self.hosts:
            return self.hosts[case.where], port["nodePort"]
        return case.where, port["port"]

    def sees(self, case: Case) -> str:
        """The client's address that a backend must see."""
        if case.sees == ITSELF:
            return self.addresses[case.client]
        return self.addresses[case.sees]


async def test_every_case(build: Build) -> None:
    async with build(2) as world:
        stage = await prepare(world)
        wrong = await play(stage, truth.cases())
        assert not wrong, "\n".join(wrong)
        await health_checks(stage)
        await nothing_for_headless_and_aliases(stage)
        await udp_moves_on(stage)
        await established_stay_and_new_ones_move(stage)


def test_the_table_has_every_point() -> None:
    cases = truth.cases()
    assert len(cases) >= 80
    assert {case.point for case in cases} == {1, 2, 4, 5, 6, 8, 9, 10, 11, 13, 14}, "3, 7 and 12 are played apart"
    assert len({(case.name, case.count, case.sees) for case in cases}) == len(cases)


async def prepare(world: World) -> Stage:
    """Zones, pods, services, the outside, and all of it programmed."""
    for node, zone in truth.ZONES.items():
        await world.kubectl("label", "node", f"node-{node}", f"topology.kubernetes.io/zone={zone}", "--overwrite")
    running = await world.create_pods(truth.pods())
    addresses = {key.partition("/")[2]: address(pod) for key, pod in running.items()}
    namespaces = {key.partition("/")[2]: world.cluster.sandbox_netns(pod) for key, pod in running.items()}
    status = {number: (await world.rest(number, "status"))["node"] for number in (1, 2)}
    namespaces |= {f"host{number}": world.node(number).netns for number in (1, 2)}
    namespaces["outside"] = await outside(world)
    uplinks = {f"node{number}": bare(status[number]["uplink"]) for number in (1, 2)}
    for external in (EXTERNAL, "203.0.113.8", *truth.BALANCERS.values()):
        await route_outside(world, namespaces["outside"], f"{external}/32", gateway=uplinks["node1"])
    everything = list(truth.objects(addresses))
    await asyncio.gather(*(world.cluster.create(thing) for thing in everything))
    for name, ip in truth.BALANCERS.items():
        await balance(world, name, ip)
    names = [thing["metadata"]["name"] for thing in everything if thing["kind"] == "Service"]
    stage = Stage(
        world=world,
        namespaces=namespaces,
        addresses=addresses | {"outside": str(services.OUTSIDE.address)},
        uplinks=uplinks,
        hosts={},
        services={name: await stored(world, name) for name in names},
    )
    await learn_hosts(stage, status)
    await programmed(stage)
    return stage


async def balance(world: World, name: str, ip: str) -> None:
    """Be the load balancer's controller: tell the address that it got."""
    ingress: Object = {"ip": ip}
    if name == "proxied":
        ingress["ipMode"] = "Proxy"
    body = {"status": {"loadBalancer": {"ingress": [ingress]}}}
    await world.kubectl("patch", "service", name, "--subresource=status", "--type=merge", "-p", as_json(body))


async def learn_hosts(stage: Stage, status: dict[int, Any]) -> None:
    """What hosts are seen as, where their own addresses are, and what hides clients on each node."""
    for number in (1, 2):
        vip = stage.services["own"]["spec"]["clusterIP"]
        reply = await services.serves(stage.world, stage.namespaces[f"host{number}"], vip, 80)
        stage.addresses[f"host{number}"] = reply.client
        stage.hosts[f"own{number}"] = reply.client
        subnet = ".".join(stage.addresses[f"client{number}"].split(".")[:3])
        stage.addresses[f"{HIDDEN}{number}"] = f"{subnet}.254"


async def programmed(stage: Stage) -> None:
    """Wait until both agents want nothing more and VPP holds what they want."""

    async def settled() -> bool:
        for number in (1, 2):
            frontends = (await stage.world.rest(number, "services"))["frontends"]
            if not {frontend["address"] for frontend in frontends} >= BALANCED:
                return False
            if (await stage.world.rest(number, "diff"))["operations"]:
                return False
        probe = [
            await services.get(stage.world, stage.namespaces[client], stage.services["far"]["spec"]["clusterIP"], 80)
            for client in ("client1", "client2")
        ]
        return all(reply.server == "t1" for reply in probe)

    await eventually(settled, "services are programmed")


def bare(prefix: str) -> str:
    """An address without its prefix length."""
    return prefix.partition("/")[0]


def as_json(thing: object) -> str:
    """For kubectl."""
    return msgspec.json.encode(thing).decode()


# -- playing ----------------------------------------------------------------------------------------------------------


async def play(stage: Stage, cases: list[Case]) -> list[str]:
    """What came out wrong, by name. Clients ask side by side, each its own cases one after the other."""
    by_client: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_client[case.client].append(case)
    found = await asyncio.gather(*(_ask(stage, client, mine) for client, mine in by_client.items()))
    return [wrong for each in found for wrong in each]


async def _ask(stage: Stage, client: str, cases: list[Case]) -> list[str]:
    def work() -> list[list[Reply]]:
        return [_connect(case, *stage.target(case)) for case in cases]

    replies = await stage.world.cluster.workers.inside(stage.namespaces[client], work)
    problems = []
    for case, answers in zip(cases, replies, strict=True):
        problem = _judge(stage, case, answers)
        if problem:
            problems.append(f"{case.name}: {problem}")
    return problems


def _connect(case: Case, target: str, port: int) -> list[Reply]:
    if case.protocol == "UDP":
        return [_datagram(target, port, tries=UDP_TRIES if case.wanted == SILENT else UDP_TRIES_MAX)]
    timeout_s = SILENCE_S if case.wanted == SILENT else services.TIMEOUT_S
    return [services._get(target, port, timeout_s=timeout_s) for _ in range(case.tries)]


def _datagram(target: str, port: int, *, tries: int) -> Reply:
    """A datagram there and back, sent again as resolvers do; errors that ICMP brings are told whatever their code.

    VPP tells at most four senders in 100 ms that there is no way (vnet/dpo/ip_null_dpo.c).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        client.settimeout(UDP_WAIT_S)
        client.connect((target, port))
        for _ in range(tries):
            try:
                client.send(b"ping")
                return Reply(server=ANSWERED) if client.recv(64) == b"ping" else Reply(error="garbled")
            except TimeoutError:
                continue
            except OSError:
                return Reply(error="unreachable")
    return Reply(error="timeout")


def _judge(stage: Stage, case: Case, replies: list[Reply]) -> str:
    """What is wrong, "" for nothing."""
    errors = Counter(reply.error for reply in replies if reply.error)
    servers = Counter(reply.server for reply in replies if reply.server)
    if case.wanted in (REFUSED, SILENT):
        wanted = {"timeout"} if case.wanted == SILENT else {"refused", "unreachable"}
        return "" if not servers and set(errors) <= wanted else f"{dict(servers)} {dict(errors)}"
    if errors:
        return f"{dict(servers)} {dict(errors)}"
    if case.wanted == ANSWERED:
        return ""
    if not isinstance(case.wanted, frozenset):
        return "" if len(servers) == 1 else f"moves about: {dict(servers)}"
    if set(servers) != case.wanted:
        return f"answered by {dict(servers)}"
    if case.count == truth.SPREAD:
        share = case.count / len(case.wanted)
        deviation = (share * (1 - 1 / len(case.wanted))) ** 0.5
        if any(abs(number - share) > SHARE_DEVIATIONS * deviation for number in servers.values()):
            return f"uneven: {dict(servers)}"
    if case.sees:
        seen = {reply.client for reply in replies}
        return "" if seen == {stage.sees(case)} else f"backends see {seen}, not {stage.sees(case)}"
    return ""


# -- what the table cannot say ----------------------------------------------------------------------------------------


async def health_checks(stage: Stage) -> None:
    """Point 7: how many endpoints each node has, by HTTP."""
    port = stage.services["checked"]["spec"]["healthCheckNodePort"]
    for where, status in (("node1", "200"), ("node2", "503")):
        found = await stage.world.cluster.workers.inside(
            stage.namespaces["outside"], lambda where=where: _http_status(stage.uplinks[where], port)
        )
        assert found == status, where


def _http_status(target: str, port: int) -> str:
    with socket.create_connection((target, port), timeout=services.TIMEOUT_S) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return connection.recv(4096).split()[1].decode()


async def nothing_for_headless_and_aliases(stage: Stage) -> None:
    """Point 3: no frontend on any node."""
    for number in (1, 2):
        told = await stage.world.rest(number, "services")
        names = {frontend["service"] for frontend in told["frontends"]}
        assert "default/plain" in names
        assert names & {"default/headless", "default/elsewhere", "default/old"} <= {"default/old"}


async def replace_endpoints(stage: Stage, name: str, *backends: str) -> None:
    """Write a service's slice anew."""
    endpoints = [truth.endpoint(backend, stage.addresses, conditions=truth.READY) for backend in backends]
    await apply(stage.world, truth._slice(name, 1, endpoints))


async def udp_moves_on(stage: Stage) -> None:
    """Point 12: a socket whose backend has left is answered by another, without being opened anew."""
    target = stage.services["own"]["spec"]["clusterIP"], 53
    client = stage.namespaces["client2"]
    kept = await stage.world.cluster.workers.inside(client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with kept:
        kept.settimeout(SILENCE_S)
        kept.connect(target)
        assert await asyncio.to_thread(services.still_answers, kept)
        before = await backends_of(stage, 2, kept.getsockname()[1])
        assert before == {stage.addresses["s1"]}
        await replace_endpoints(stage, "own", "t2")

        async def moved() -> bool:
            answered = await asyncio.to_thread(services.still_answers, kept)
            return answered and await backends_of(stage, 2, kept.getsockname()[1]) == {stage.addresses["t2"]}

        await eventually(moved, "the socket is served by the new backend")


async def backends_of(stage: Stage, node: int, port: int) -> set[str]:
    """The backends to which a node translates a client's UDP port."""
    found = set()
    async with stage.world.vpp(node) as api:
        for user in await api.dump("nat44_user"):
            for session in await api.dump("nat44_user_session_v3", ip_address=str(user.ip_address), vrf_id=0):
                if session.ext_host_port == port and session.protocol == 17:
                    found.add(str(session.inside_ip_address))
    return found


async def established_stay_and_new_ones_move(stage: Stage) -> None:
    """Point 12: one backend of four leaves, and serves other services still; no open connection notices, no new one
    reaches it."""
    target = stage.services["plain"]["spec"]["clusterIP"], 80
    client = stage.namespaces["client1"]

    def hold() -> list[socket.socket]:
        return [socket.create_connection(target, timeout=services.TIMEOUT_S) for _ in range(24)]

    held = await stage.world.cluster.workers.inside(client, hold)
    try:
        await replace_endpoints(stage, "plain", "s2", "t1", "t2")

        async def gone() -> bool:
            servers = await services.gather(stage.world, client, *target, count=40)
            return set(servers) == {"s2", "t1", "t2"}

        await eventually(gone, "no new connection reaches the backend that left")
        assert set(await services.gather(stage.world, client, *target, count=100)) == {"s2", "t1", "t2"}
        answers = Counter([await asyncio.to_thread(_ask_held, connection) for connection in held])
        assert set(answers) == {"s1", "s2", "t1", "t2"}, answers
    finally:
        for connection in held:
            connection.close()


def _ask_held(connection: socket.socket) -> str:
    """Who answers on a connection that stands."""
    connection.settimeout(SILENCE_S)
    try:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while chunk := connection.recv(4096):
            data += chunk
    except OSError:
        return "lost"
    words = data.rpartition(b"\r\n")[2].decode().split()
    return words[0] if words else "lost"
