"""Network policies while things happen: changes by kubectl, agents that die, ICMP errors, objects that are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from contiv.demo.api import Object
from contiv.model import keys, kube
from contiv.store.client import Etcd
from tests.e2e.conftest import Build
from tests.e2e.services import apply, server
from tests.e2e.test_drift import netctl
from tests.e2e.world import AGENT, World, address, eventually

pytestmark = pytest.mark.root

CONNECTED_S = 1.0
"""A connection that takes longer has lost its first segment; the next one is sent after a second."""
STREAM_PORT = 7  # tests/e2e/streams.py
PERIOD_S = 0.02


def thing(name: str, *, node: int, namespace: str = "default", ports: tuple[int, ...] = (), **labels: str) -> Object:
    """A pod that answers on its ports, ``tcp-<number>`` by name."""
    made = server(name, node=node, ports=ports)
    made["metadata"] |= {"namespace": namespace, "labels": labels}
    return made


def guard(**spec: Any) -> Object:
    """A policy for the pod ``db``."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "guard", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, **spec},
    }


async def connects(world: World, source: Object, target: Object, port: int) -> bool | None:
    """Whether a new connection is accepted, or lost on the way; None when it gets there and nobody listens yet."""

    def attempt() -> bool | None:
        try:
            socket.create_connection((address(target), port), timeout=CONNECTED_S).close()
        except TimeoutError:
            return False
        except ConnectionRefusedError:
            return None
        return True

    return await world.cluster.workers.inside(world.cluster.sandbox_netns(source), attempt)


# ---- changes -----------------------------------------------------------------------------------------------


async def test_the_next_connection_follows_what_kubectl_changed_and_others_go_on(build: Build) -> None:
    async with build(2) as world:
        await world.kubectl("create", "namespace", "team")
        pods = await world.create_pods(
            [
                thing("db", node=1, ports=(8080, 9090), app="db"),
                thing("near", node=1, role="friend"),
                thing("far", node=2, role="friend"),
                thing("moves", node=2),
                thing("guest", node=1, namespace="team"),
            ]
        )
        named = {key.partition("/")[2]: each for key, each in pods.items()}
        db, near, far = named["db"], named["near"], named["far"]
        friends = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
        friends.append({"namespaceSelector": {"matchLabels": {"trusted": "yes"}}})

        def rule(port: str) -> Mapping[str, Any]:
            return {"ingress": [{"from": friends, "ports": [{"port": port}, {"port": STREAM_PORT}]}]}

        async def now(**expected: set[int]) -> None:
            """Wait until each client reaches these ports of ``db`` and not the other."""
            ways = [(name, port) for name in expected for port in (8080, 9090)]

            async def follows() -> bool:
                found = await asyncio.gather(*(connects(world, named[name], db, port) for name, port in ways))
                return found == [port in expected[name] for name, port in ways]

            await eventually(follows, f"who connects where: {expected}")

        await now(near={8080, 9090}, moves={8080, 9090}, guest={8080, 9090})
        await apply(world, guard(**rule("tcp-8080")))
        await now(moves=set(), guest=set(), near={8080})
        async with world.steady_streams([(near, db), (far, db)], period_s=PERIOD_S) as finish:
            await world.kubectl("label", "pod", "moves", "role=friend")
            await now(moves={8080}, guest=set())
            await world.kubectl("label", "pod", "moves", "role=stranger", "--overwrite")
            await now(moves=set())
            await world.kubectl("label", "namespace", "team", "trusted=yes")
            await now(guest={8080}, moves=set())
            await world.kubectl("label", "namespace", "team", "trusted=no", "--overwrite")
            await now(guest=set())
            await apply(world, guard(**rule("tcp-9090")))
            await now(near={9090}, far={9090}, moves=set())
            await world.kubectl("delete", "networkpolicy", "guard")
            await now(moves={8080, 9090}, guest={8080, 9090})
            streams = await finish()
        assert (streams.broken, streams.unanswered) == ({}, {}), streams
        assert streams.said > 0


# ---- an agent that dies ------------------------------------------------------------------------------------


async def test_an_agent_that_is_killed_opens_nothing_and_cuts_nothing(build: Build) -> None:
    async with build(2) as world:
        pods = await world.create_pods(
            [
                *(thing(f"db-{node}", node=node, app="db") for node in (1, 2)),
                *(thing(f"friend-{node}", node=node, role="friend") for node in (1, 2)),
                *(thing(f"stranger-{node}", node=node) for node in (1, 2)),
                *(thing(f"captive-{node}", node=node, role="captive") for node in (1, 2)),
            ]
        )
        named = {key.partition("/")[2]: each for key, each in pods.items()}
        databases = [named["db-1"], named["db-2"]]
        strangers = [named["stranger-1"], named["stranger-2"]]
        into = guard(ingress=[{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}])
        out = guard(podSelector={"matchLabels": {"role": "captive"}}, policyTypes=["Egress"])
        out["metadata"]["name"] = "captive"
        await apply(world, into, out)
        allowed = [(named[f"friend-{node}"], database) for node in (1, 2) for database in databases]
        forbidden = [(each, databases) for each in strangers]
        forbidden += [(named[f"captive-{node}"], [*strangers, *databases]) for node in (1, 2)]

        async def closed() -> bool:
            pairs = [(source, target) for source, targets in forbidden for target in targets]
            pings = await asyncio.gather(*(world.ping(source, target, count=1) for source, target in pairs))
            return not any(each.times_s for each in pings)

        await eventually(closed, "the policies are in force")
        async with (
            world.steady_streams(allowed, period_s=PERIOD_S) as said,
            world.steady_pings(forbidden, period_s=PERIOD_S) as asked,
        ):
            await asyncio.gather(*(replace_agent(world, number) for number in (1, 2)))
            pings, streams = await asked(), await said()
        assert pings.sent > 0
        assert sum(pings.lost.values()) == pings.sent, pings
        assert streams.said > 0
        assert (streams.broken, streams.unanswered) == ({}, {}), streams
        await apply(world, guard(ingress=[{}]))
        await world.first_reply(strangers[0], databases[1])


async def replace_agent(world: World, number: int) -> None:
    """SIGKILL for a node's agent; returns when the next one is synced and has nothing to do."""
    before = world.agent_pid(number)
    os.kill(before, signal.SIGKILL)

    async def synced() -> bool:
        if not any(AGENT in command and pid != before for pid, command in world.children_of(number).items()):
            return False
        status = await world.rest_when_back(number, "status")
        return status["synced"] and not status["unsettled"] and not status["busy"]

    await eventually(synced, "another agent has taken over")


# ---- ICMP errors -------------------------------------------------------------------------------------------


PATH_MTU = 1200
IP_MTU = 14  # linux/in.h
DATAGRAM = struct.Struct("!BBHHHBBH4s4sHHHH")
"""The head of an IPv4 packet with UDP: what an ICMP error quotes."""


async def test_an_isolated_pod_learns_path_mtus(build: Build) -> None:
    """Nobody may speak to it; what is told about its own packets it hears, or large ones would be lost for good."""
    async with build(2) as world:
        pods = await world.create_pods([thing("db", node=1, app="db"), thing("far", node=2)])
        db, far = pods["default/db"], pods["default/far"]
        await apply(world, guard(policyTypes=["Ingress"]))

        async def isolated() -> bool:
            return not (await world.ping(far, db, count=1)).times_s

        await eventually(isolated, "the policy is in force")
        here, there = world.cluster.sandbox_netns(db), world.cluster.sandbox_netns(far)
        with await world.cluster.workers.inside(here, lambda: connected_datagrams(address(far))) as client:
            assert client.getsockopt(socket.IPPROTO_IP, IP_MTU) > PATH_MTU
            error = fragmentation_needed(client)

            async def learnt() -> bool:
                await world.cluster.workers.inside(there, lambda: send_icmp(error, address(db)))
                return client.getsockopt(socket.IPPROTO_IP, IP_MTU) == PATH_MTU

            await eventually(learnt, "the pod knows the path MTU")
        assert await isolated()


def connected_datagrams(target: str) -> socket.socket:
    """A UDP socket that has sent something there."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((target, STREAM_PORT))
    client.send(b"as large as it gets")
    return client


def fragmentation_needed(client: socket.socket) -> bytes:
    """The ICMP error of a router on the way of a socket's datagrams (RFC 1191)."""
    (here, source), (there, destination) = client.getsockname(), client.getpeername()
    ends = socket.inet_aton(here), socket.inet_aton(there)
    quoted = DATAGRAM.pack(0x45, 0, 1400, 0, 0x4000, 64, 17, 0, *ends, source, destination, 1380, 0)
    message = struct.pack("!BBHHH", 3, 4, 0, 0, PATH_MTU) + quoted
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    return message[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + message[4:]


def send_icmp(message: bytes, target: str) -> None:
    """Send an ICMP message as it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(message, (target, 0))


# ---- bad objects -------------------------------------------------------------------------------------------


UNDECODABLE = b'{"namespace":"default","name":"broken","podSelector":{},"ingress":[{"ports":[{"protocol":6}]}]}'


async def test_bad_policies_are_told_by_name_and_field_and_all_else_holds(build: Build) -> None:
    """One that the API server took and VPP cannot do in part, and two that it would not take, written into etcd."""
    async with build(1) as world:
        pods = await world.create_pods(
            [
                thing("db", node=1, app="db"),
                thing("friend", node=1, role="friend"),
                thing("stranger", node=1),
                thing("other", node=1, app="other"),
            ]
        )
        named = {key.partition("/")[2]: each for key, each in pods.items()}
        friend = {"podSelector": {"matchLabels": {"role": "friend"}}}
        await world.cluster.create(guard(ingress=[{"ports": [{"protocol": "SCTP", "port": 80}]}, {"from": [friend]}]))
        selector = kube.LabelSelector(match_expressions=(kube.LabelRequirement("app", "Like", ("db",)),))
        odd = kube.NetworkPolicy(namespace="default", name="odd", pod_selector=selector)
        async with await Etcd.connect([world.cluster.etcd]) as etcd:
            for name, value in (("odd", kube.NETWORK_POLICIES.encode(odd)), ("broken", UNDECODABLE)):
                await etcd.put(keys.k8s_object("networkpolicies", name, namespace="default"), value)

        async def told() -> bool:
            problems = (await world.rest(1, "status"))["problems"]
            return all(
                part in problems.get(place, "")
                for place, part in (
                    ("policies", "networkpolicies default/guard: spec.ingress[0].ports[0].port: VPP cannot"),
                    ("policies", "networkpolicies default/odd: spec.podSelector.matchExpressions[0].operator: 'Like'"),
                    ("unreadable", "networkpolicies/default/broken: "),
                    ("unreadable", "$.ingress[0].ports[0].protocol"),
                )
            )

        await eventually(told, "each is told with its field")
        await world.first_reply(named["friend"], named["db"])
        await world.first_reply(named["stranger"], named["other"])
        assert not (await world.ping(named["stranger"], named["db"])).times_s
        _, output = await netctl(world, "-o", "json", "status", "node-1")
        (row,) = json.loads(output)
        assert "default/guard: spec.ingress[0].ports[0].port" in row["detail"]
        assert "default/broken: " in row["detail"]
        await world.kubectl("delete", "networkpolicy", "guard")
        await world.first_reply(named["stranger"], named["db"])
