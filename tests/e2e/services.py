"""Services seen by their clients: objects to create, and one-shot clients in pods, on hosts and outside.

In: a ``World``. Out: what answered, who it saw, or how it was refused. Clients are plain sockets in the namespace that
they stand for; each connection has a source port of its own.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import Any, Final

import msgspec

from contiv.demo.api import Object
from contiv.demo.wire import UPLINK, Wire
from contiv.linux import addresses, links, netns
from contiv.linux.netlink import Conversation
from contiv.linux.routes import Route
from contiv.linux.routes import add as add_routes
from contiv.model.ip import Address, Network
from tests.e2e.world import World, eventually

TIMEOUT_S: Final = 2.0
OUTSIDE: Final = Network.parse("192.168.16.200/24", strict=False)
PORT_OUTSIDE: Final = 200


class Reply(msgspec.Struct, frozen=True):
    """Who answered and which client it saw; ``error`` instead: refused, unreachable or timeout."""

    server: str = ""
    client: str = ""
    error: str = ""


async def get(world: World, namespace: str, address: str, port: int, *, source_port: int = 0) -> Reply:
    """One HTTP request over TCP from a namespace; ``source_port`` 0 is any."""
    return await world.cluster.workers.inside(namespace, lambda: _get(address, port, source_port=source_port))


async def echo(world: World, namespace: str, address: str, port: int) -> str:
    """One datagram there and back: what came back, or how it failed."""
    return await world.cluster.workers.inside(namespace, lambda: _echo(address, port))


def still_answers(kept: socket.socket) -> bool:
    """Whether what a connected socket sends comes back; it has a timeout."""
    try:
        kept.sendall(b"still there?")
        return kept.recv(64) == b"still there?"
    except OSError:
        return False


async def gather(world: World, namespace: str, address: str, port: int, *, count: int) -> Counter[str]:
    """Who answered ``count`` connections, or how they failed."""

    def work() -> Counter[str]:
        replies = [_get(address, port) for _ in range(count)]
        return Counter(reply.server or reply.error for reply in replies)

    return await world.cluster.workers.inside(namespace, work)


async def serves(world: World, namespace: str, address: str, port: int, *, timeout_s: float = 10.0) -> Reply:
    """Wait until somebody answers there; the answer."""
    last: list[Reply] = []

    async def answered() -> bool:
        last.append(await get(world, namespace, address, port))
        return bool(last[-1].server)

    try:
        await eventually(answered, f"{address}:{port} answers", timeout_s=timeout_s)
    except AssertionError:
        raise AssertionError(f"{address}:{port} does not answer: {last[-1]}") from None
    return last[-1]


async def refuses(world: World, namespace: str, address: str, port: int, *, timeout_s: float = 10.0) -> None:
    """Wait until connections there fail at once."""

    async def refused() -> bool:
        return (await get(world, namespace, address, port)).error in ("refused", "unreachable")

    await eventually(refused, f"{address}:{port} refuses", timeout_s=timeout_s)


async def outside(world: World) -> str:
    """A host on the nodes' wire that is no node; its namespace."""
    name = world.cluster.rundir.namespace("outside")
    namespace = netns.create(name)
    wire = Wire(world.cluster.workers, world.cluster.rundir.namespace("wire"))
    await wire.plug(PORT_OUTSIDE, namespace)

    def configure() -> None:
        with Conversation() as conversation:
            link = links.find(conversation, UPLINK)
            assert link is not None
            conversation.run([addresses.add(link.index, OUTSIDE, name=UPLINK)])

    await world.cluster.workers.inside(namespace, configure)
    return namespace


async def route_outside(world: World, namespace: str, destination: str, *, gateway: str) -> None:
    """The outside host reaches ``destination`` by a node."""

    def configure() -> None:
        with Conversation() as conversation:
            link = links.find(conversation, UPLINK)
            assert link is not None
            route = Route(destination=Network.parse(destination), gateway=Address.parse(gateway))
            add_routes(conversation, link.index, (route,), name=UPLINK)

    await world.cluster.workers.inside(namespace, configure)


def server(name: str, *, node: int, app: str = "web", ports: tuple[int, ...] = (8080,)) -> Object:
    """A pod whose responder answers over TCP and UDP."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {
            "nodeName": f"node-{node}",
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "responder",
                    "image": "contiv.vpp/responder",
                    "ports": [
                        {"name": f"{protocol.lower()}-{port}", "containerPort": port, "protocol": protocol}
                        for port in ports
                        for protocol in ("TCP", "UDP")
                    ],
                }
            ],
        },
    }


def service(name: str, *, app: str = "web", port: int = 80, target: int | str = 8080, **spec: Any) -> Object:
    """A service on TCP and UDP ``port``; ``spec`` adds fields."""
    ports = [
        {"name": protocol.lower(), "protocol": protocol, "port": port, "targetPort": target}
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": app}, "ports": ports, **spec},
    }


async def apply(world: World, *things: Object) -> None:
    """kubectl apply."""
    await world.kubectl("apply", "-f", "-", stdin="\n".join(map(json.dumps, things)))


async def stored(world: World, name: str) -> Object:
    """The service as the API server has it."""
    return await world.cluster.api.request("GET", f"/api/v1/namespaces/default/services/{name}")


def _get(address: str, port: int, *, timeout_s: float = TIMEOUT_S, source_port: int = 0) -> Reply:
    # bound without need, the kernel would draw a port at random: one that VPP still knows, now and then
    source = ("", source_port) if source_port else None
    try:
        with socket.create_connection((address, port), timeout=timeout_s, source_address=source) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            while chunk := connection.recv(4096):
                data += chunk
    except TimeoutError:
        return Reply(error="timeout")
    except ConnectionRefusedError:
        return Reply(error="refused")
    except OSError:
        return Reply(error="unreachable")
    words = data.rpartition(b"\r\n")[2].decode().split()
    return Reply(server=words[0], client=words[3].rstrip(":")) if len(words) > 3 else Reply(error="cut short")


def http_status(address: str, port: int) -> int:
    """The status of one HTTP request, 0 without an answer."""
    try:
        with socket.create_connection((address, port), timeout=TIMEOUT_S) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return int(connection.recv(64).split()[1])
    except (OSError, IndexError):
        return 0


def _echo(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect((address, port))
        try:
            client.send(b"ping")
            return client.recv(64).decode()
        except TimeoutError:
            return "timeout"
        except OSError:
            return "refused"
