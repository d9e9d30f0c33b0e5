"""Policies and services together, with real TCP connections: the backend is judged, not the service's address.

The cast of the truth cases, services in front of some of it, of a node and of a host outside, and that host as a
client. Endpoints are written down, so that each service has the backend that its name says. Targets: a service's name
is its cluster IP, ``near@2`` its NodePort on node 2, ``direct-out`` the host outside without any service.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from contiv.demo.api import Object
from tests.e2e import services as e2e
from tests.e2e.world import eventually
from tests.truth.cases import Case
from tests.truth.player import Player

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

OUTSIDE = str(e2e.OUTSIDE.address)
TRIES, PATIENCE_S = 4, 0.8
BACKLOG = 512
ALTERNATE = 8888

FROM_FRONT_OF_X = [
    {"namespaceSelector": {"matchLabels": {"team": "red"}}, "podSelector": {"matchLabels": {"app": "web"}}}
]
TO_DB_OF_Y = [{"namespaceSelector": {"matchLabels": {"team": "blue", "env": "prod"}}, "podSelector": {}}]


def block(address: str) -> list[dict[str, Any]]:
    return [{"ipBlock": {"cidr": address if "/" in address else f"{address}/32"}}]


def into(selector: Mapping[str, str], *rules: dict[str, Any]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": dict(selector)}, "policyTypes": ["Ingress"], "ingress": list(rules)}


def out(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"podSelector": {}, "policyTypes": ["Egress"], "egress": list(rules)}


DB: Mapping[str, str] = {"app": "db"}
EXTERNAL = {"near": "203.0.113.{}", "own": "203.0.114.{}", "near-local": "203.0.115.{}", "own-local": "203.0.116.{}"}
"""External addresses of services, by the node that the host outside sends them to."""
EVERYTHING = "near far ext api own alt direct-out"


def scenes(node_1: str) -> dict[str, tuple[dict[str, Any], str]]:
    """By name: policies, and who connects to what: ``CLIENT TARGET…: yes|no``.

    A target is a service by its cluster IP, ``@N`` by node N's port, ``+N`` by the external address that leads to N.
    """
    return {
        "without policies": (
            {},
            f"""
            x/a {EVERYTHING} near@1 near@2 far@1 ext@1: yes
            x/b {EVERYTHING}: yes
            outside near@1 near@2 far@1: yes
            outside near+1 near+2 own+1 near-local@1 near-local+1 own-local+1: yes""",
        ),
        "the backend's ingress is judged": (
            {"y/in": into(DB, {"from": FROM_FRONT_OF_X})},
            """
            x/a near: yes
            x/b x/c y/a z/a z/c near: no
            x/b far ext api: yes""",
        ),
        "a rule that names the service network lets nobody in": (
            {"y/in": into(DB, {"from": block("10.96.0.0/12")})},
            "x/a x/b y/a near: no",
        ),
        "a client isolated for ingress gets its replies": (
            {"x/deny": {"podSelector": {}, "policyTypes": ["Ingress"]}},
            "x/a x/b near far ext api direct-out near@1: yes",
        ),
        "egress to pods opens the services in front of them, and no others": (
            {"x/out": out({"to": TO_DB_OF_Y, "ports": [{"port": 80}]})},
            """
            x/a x/b near alt: yes
            x/a x/b far ext api direct-out ext@1 ext@2: no""",
        ),
        "egress ports are the backend's": (
            {"x/out": out({"to": TO_DB_OF_Y, "ports": [{"port": ALTERNATE}]})},
            "x/a x/b near alt: no",
        ),
        "egress denied altogether": (
            {"x/deny": {"podSelector": {}, "policyTypes": ["Egress"]}},
            """
            x/a x/b near far ext api alt direct-out near@1 near@2 ext@1 ext@2: no
            x/a own: yes
            outside near@1: yes""",
        ),
        "egress to the outside opens the service with an endpoint there": (
            {"x/out": out({"to": block(OUTSIDE)})},
            """
            x/a direct-out ext ext@1: yes
            x/b direct-out ext ext@2: yes
            x/a x/b near far api: no""",
        ),
        "egress to a node opens the service in front of it": (
            {"x/out": out({"to": block(node_1), "ports": [{"port": 80}]})},
            """
            x/a x/b api: yes
            x/a x/b near ext direct-out: no""",
        ),
        "egress to the service network alone opens nothing": (
            {"x/out": out({"to": block("10.96.0.0/12")})},
            "x/a x/b near far ext api: no",
        ),
        "an isolated pod behind a node port lets in whom it allows": (
            {"y/in": into(DB, {"from": FROM_FRONT_OF_X})},
            """
            x/a near@1 near+1 near-local@1 near-local+1: yes
            outside near@1 near@2 near+1 near+2 near-local@1 near-local+1: no
            z/a x/c near@1 near+1 near-local@1 near-local+1: no
            outside far@2: yes""",
        ),
        "an isolated pod behind a node port of its own node lets in an outside block": (
            {"y/in": into(DB, {"from": block(OUTSIDE)})},
            """
            outside near@1 near+1 near-local@1 near-local+1: yes
            outside near@2 near+2: no
            x/a z/a near near@1 near+1 near-local@1 near-local+1: no""",
        ),
        "a pod isolated both ways reaches itself through its service, nobody else does": (
            {"x/deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}},
            """
            x/a own own@1 own+1 own-local own-local@1 own-local+1: yes
            x/b x/c y/b z/c own own-local: no
            outside own@1 own@2 own+1 own+2 own-local@1 own-local+1: no""",
        ),
    }


@dataclass
class Stage:
    """Where everything is: namespaces of clients, addresses of targets."""

    player: Player
    clients: dict[str, str]
    targets: dict[str, tuple[str, int]]
    server: socket.socket
    """That of the host outside: it answers by its backlog, for as long as somebody keeps it."""

    async def reaches(self, client: str, target: str, *, wanted: bool) -> bool:
        """Whether the client connects; one that should is given some tries on a busy machine."""
        workers = self.player.world.cluster.workers
        for _ in range(TRIES if wanted else 1):
            if await workers.inside(self.clients[client], lambda: _connects(*self.targets[target])):
                return True
        return False


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


async def staged(player: Player) -> Stage:
    """Services and the host outside."""
    world = player.world
    stranger = await e2e.outside(world)
    server = await world.cluster.workers.inside(stranger, lambda: socket.create_server((OUTSIDE, 80), backlog=BACKLOG))
    ends = {key: player.place(key) for key in ("x/a", "x/b", "x/c", "y/a", "y/b", "z/a", "z/b", "z/c", "y/h")}
    backends = {"near": ends["y/b"][1], "far": ends["z/b"][1], "ext": OUTSIDE, "api": ends["y/h"][1]}
    backends |= {"own": ends["x/a"][1], "alt": ends["y/b"][1]}
    backends |= {"own-local": backends["own"], "near-local": backends["near"]}
    told = [(await world.rest(number, "status"))["node"] for number in (1, 2)]
    uplinks = [each["uplink"].partition("/")[0] for each in told]
    for each, uplink in zip(told, uplinks, strict=True):
        # what a service sends outside keeps the pod's address: NAT44-ED translates a packet once
        await e2e.route_outside(world, stranger, each["podSubnet"], gateway=uplink)
    targets: dict[str, tuple[str, int]] = {"direct-out": (OUTSIDE, 80)}
    for name, backend in backends.items():
        port = ALTERNATE if name == "alt" else 80
        external = [EXTERNAL[name].format(number) for number in (1, 2)] if name in EXTERNAL else []
        created = await world.cluster.api.create(_service(name, port, external), namespace="x")
        await world.cluster.api.create(_slice(name, backend), namespace="x")
        targets[name] = (created["spec"]["clusterIP"], port)
        for number, uplink in enumerate(uplinks, start=1):
            targets[f"{name}@{number}"] = (uplink, created["spec"]["ports"][0]["nodePort"])
        for address, number, uplink in zip(external, (1, 2), uplinks, strict=False):
            await e2e.route_outside(world, stranger, f"{address}/32", gateway=uplink)
            targets[f"{name}+{number}"] = (address, port)

    async def served() -> bool:
        for number in (1, 2):
            frontends = (await world.rest(number, "services"))["frontends"]
            if {each["service"] for each in frontends if each["backends"]} != {f"x/{name}" for name in backends}:
                return False
        return True

    await eventually(served, "both nodes serve all services")
    clients = {key: place for key, (place, _) in ends.items()} | {"outside": stranger}
    return Stage(player, clients, targets, server)


def _service(name: str, port: int, external: list[str]) -> Object:
    policy = "Local" if name.endswith("-local") else "Cluster"
    ports = [{"name": "web", "port": port, "targetPort": 80}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "x"},
        "spec": {"type": "NodePort", "ports": ports, "externalIPs": external, "externalTrafficPolicy": policy},
    }


def _slice(name: str, backend: str) -> Object:
    labels = {"kubernetes.io/service-name": name}
    node = {"nodeName": "node-1"} if name.endswith("-local") else {}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": "x", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [backend], "conditions": {"ready": True}, **node}],
    }


def _asked(lines: str, stage: Stage) -> list[tuple[str, str, bool]]:
    """The connections that the lines of a scene speak of."""
    found = []
    for line in lines.strip().splitlines():
        words, _, verdict = line.strip().rpartition(":")
        assert verdict.strip() in {"yes", "no"}, line
        clients = [word for word in words.split() if word in stage.clients]
        targets = [word for word in words.split() if word in stage.targets]
        assert len(clients) + len(targets) == len(words.split()), line
        found += [(client, target, verdict.strip() == "yes") for client in clients for target in targets]
    return found


@pytest.mark.parametrize(
    ("dataplane", "services"),
    [
        ("emulator", "nat44"),
        pytest.param("vpp", "nat44", marks=[pytest.mark.vpp, pytest.mark.slow]),
        pytest.param("vpp", "cnat", marks=[pytest.mark.vpp, pytest.mark.slow]),
    ],
    scope="module",
)
async def test_policies_judge_what_is_behind_services(player: Player) -> None:
    stage = await staged(player)
    wrong: list[str] = []
    for name, (policies, lines) in scenes(player.place("y/h")[1]).items():
        await player.become(Case(name, name, 14, (), policies, relabel={}, pods={}, by="api", packets=""))
        asked = _asked(lines, stage)
        answers = await asyncio.gather(*(stage.reaches(client, to, wanted=wanted) for client, to, wanted in asked))
        wrong += [
            f"{name}: {client} to {to}: {'reached' if answer else 'did not reach'}"
            for (client, to, wanted), answer in zip(asked, answers, strict=True)
            if answer is not wanted
        ]
    assert not wrong, "\n".join(wrong)
