"""What Kubernetes demands of services, as a table: who asks which address, and who must answer, seeing whom.

The numbers of points are those of the service semantics that the project follows: 1 slices merged, 2 readiness, 3 no
address, 4 node ports, external and load-balancer addresses, 5 external and 6 internal traffic policy, 7 health checks,
8 affinity, 9 topology, 10 refusal, 11 ports and protocols, 12 endpoints that go (played apart), 13 hairpin and hosts,
14 slices alone. Everything is written by hand: services without selectors, and their slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from contiv.demo.api import Object
from tests.e2e.services import server

NODE_OF: Final = {"s1": 1, "s2": 1, "t1": 2, "t2": 2, "odd": 2, "client1": 1, "client2": 2}
PORTS_OF: Final = {"odd": (8081,)}
ZONES: Final = {1: "north", 2: "south"}
EXTERNAL: Final = "203.0.113.7"
BALANCERS: Final = {
    "balancer": "203.0.113.20", "open": "203.0.113.21", "closed": "203.0.113.22", "proxied": "203.0.113.23",
    "checked": "203.0.113.24", "void-balancer": "203.0.113.25",
}  # fmt: skip
OUTSIDE_ONLY: Final = "192.168.16.200/32"
NOBODY: Final = "198.51.100.0/24"
ALL: Final = frozenset({"s1", "s2", "t1", "t2"})
REFUSED: Final = "refused"
SILENT: Final = "silent"
ANSWERED: Final = "answered"
HIDDEN: Final = "hidden"
ITSELF: Final = "itself"
SPREAD: Final = 200
"""Connections where shares are judged."""


class Case(NamedTuple):
    """``client`` asks ``service`` at ``where``: every answer is of ``wanted`` and, given enough tries, each answers.

    ``wanted`` may be REFUSED, SILENT, or ANSWERED where nobody tells who he is (UDP). ``sees``: the client's own
    address (ITSELF), or that which hides it (HIDDEN) with the number of the node that was asked.
    """

    point: int
    client: str
    service: str
    where: str
    wanted: frozenset[str] | str
    port: str = "web"
    protocol: str = "TCP"
    count: int = 0
    sees: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.point}: {self.client} to {self.service}, {self.where}, {self.protocol} {self.port}"

    @property
    def tries(self) -> int:
        """Connections: enough that a backend of as many misses its turn once in a hundred thousand runs."""
        if self.count:
            return self.count
        return {1: 3, 2: 18, 3: 30, 4: 44}[len(self.wanted)] if isinstance(self.wanted, frozenset) else 1


def pods() -> list[Object]:
    """Backends that answer, and clients."""
    return [server(name, node=node, ports=PORTS_OF.get(name, (8080,))) for name, node in NODE_OF.items()]


def _slice(
    service: str, number: int, endpoints: list[Object], ports: list[tuple[str, int, str]] | None = None
) -> Object:
    wanted = ports or [("web", 8080, "TCP"), ("dns", 8080, "UDP")]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-{number}", "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": name, "port": port, "protocol": protocol} for name, port, protocol in wanted],
    }  # fmt: skip


def endpoint(
    name: str, addresses: dict[str, str], *, conditions: dict[str, bool] | None = None, **hints: list[Object]
) -> Object:
    """An endpoint of a slice; ``conditions`` absent: nothing is said of them."""
    node = NODE_OF[name]
    made: Object = {
        "addresses": [addresses[name]], "nodeName": f"node-{node}", "zone": ZONES[node],
        "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
    }  # fmt: skip
    if conditions is not None:
        made["conditions"] = conditions
    if hints:
        made["hints"] = hints
    return made


READY: Final = {"ready": True, "serving": True, "terminating": False}
UNREADY: Final = {"ready": False, "serving": False, "terminating": False}
DRAINING: Final = {"ready": False, "serving": True, "terminating": True}
DEAD: Final = {"ready": False, "serving": False, "terminating": True}
WEB: Final = {"name": "web", "protocol": "TCP", "port": 80, "targetPort": 8080}
DNS: Final = {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 8080}


def service(name: str, **spec: Any) -> Object:
    """A service without a selector."""
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [WEB, DNS], **spec}}


def objects(addresses: dict[str, str]) -> Iterator[Object]:
    """Every service with its slices."""

    def at(name: str, conditions: dict[str, bool] | None = READY, **hints: list[Object]) -> Object:
        return endpoint(name, addresses, conditions=conditions, **hints)

    def simple(name: str, *backends: str, **spec: Any) -> Iterator[Object]:
        yield service(name, **spec)
        yield _slice(name, 1, [at(backend) for backend in backends])

    yield from simple("plain", "s1", "s2", "t1", "t2")
    yield service("merged")
    yield _slice("merged", 1, [at("s1"), at("t1")])
    yield _slice("merged", 2, [at("t1"), at("s2")])
    yield service("parted", ports=[WEB, {**WEB, "name": "other", "port": 81}])
    yield _slice("parted", 1, [at("s1")], [("web", 8080, "TCP")])
    yield _slice("parted", 2, [at("t1")], [("other", 8080, "TCP")])
    yield service("named", ports=[{**WEB, "targetPort": "tcp-8080"}])
    yield _slice("named", 1, [at("s1")], [("web", 8080, "TCP")])
    yield _slice("named", 2, [at("odd")], [("web", 8081, "TCP")])
    yield service("unsaid")
    yield _slice("unsaid", 1, [at("s1", None), at("t1", UNREADY), at("s2")])
    yield service("eager", publishNotReadyAddresses=True)
    yield _slice("eager", 1, [at("s1", UNREADY), at("t1")])
    yield service("draining", type="NodePort")
    yield _slice("draining", 1, [at("s1", DRAINING), at("t1", DEAD), at("t2", UNREADY)])
    yield service("half", type="NodePort")
    yield _slice("half", 1, [at("s1"), at("t1", DRAINING)])
    yield from simple("port", "s1", "t1", type="NodePort")
    yield from simple("external", "s1", "t1", externalIPs=[EXTERNAL])
    yield from simple("balancer", "s1", "t1", type="LoadBalancer")
    yield from simple("open", "s1", type="LoadBalancer", loadBalancerSourceRanges=[OUTSIDE_ONLY])
    yield from simple("closed", "s1", type="LoadBalancer", loadBalancerSourceRanges=[NOBODY])
    yield from simple("proxied", "s1", type="LoadBalancer")
    yield from simple("local", "s1", type="NodePort", externalTrafficPolicy="Local")
    yield from simple("checked", "s1", "s2", type="LoadBalancer", externalTrafficPolicy="Local")
    yield from simple("inner", "s1", internalTrafficPolicy="Local", type="NodePort")
    yield from simple("sticky", "s1", "s2", "t1", "t2", sessionAffinity="ClientIP")
    yield service("hinted")
    hints = {name: [{"name": ZONES[NODE_OF[name]]}] for name in ("s1", "t1")}
    yield _slice("hinted", 1, [at(name, forZones=zones) for name, zones in hints.items()])
    yield service("unhinted")
    yield _slice("unhinted", 1, [at("s1", forZones=hints["s1"]), at("t1")])
    yield from simple("zonal", "s1", "t1", trafficDistribution="PreferSameZone")
    yield from simple("nodal", "s1", "t1", trafficDistribution="PreferSameNode")
    yield from simple("far", "t1", trafficDistribution="PreferSameNode")
    yield from simple("void", type="NodePort", externalIPs=["203.0.113.8"])
    yield from simple("void-balancer", type="LoadBalancer")
    yield from simple("own", "s1")
    yield service("stream", ports=[WEB, {"name": "stream", "protocol": "SCTP", "port": 90, "targetPort": 8080}])
    yield _slice("stream", 1, [at("s1")], [("web", 8080, "TCP"), ("stream", 8080, "SCTP")])
    yield service("old")
    yield {
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "old", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": addresses["s1"]}], "ports": [{"name": "web", "port": 8080}]}],
    }  # fmt: skip
    yield service("headless", clusterIP="None")
    yield _slice("headless", 1, [at("s1")])
    alias = {"name": "elsewhere", "namespace": "default"}
    spec = {"type": "ExternalName", "externalName": "example.org"}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": alias, "spec": spec}


S1, S2, T1 = frozenset({"s1"}), frozenset({"s2"}), frozenset({"t1"})
BOTH: Final = frozenset({"s1", "t1"})
INSIDE: Final = ("client1", "client2", "host1", "host2")
UPLINKS: Final = ("node1", "node2")


def cases() -> list[Case]:
    """All of them."""
    return [*_cluster(), *_readiness(), *_addresses(), *_policies(), *_choices(), *_refusals()]


def _cluster() -> Iterator[Case]:
    for client in INSIDE:
        yield Case(1, client, "plain", "cluster", ALL, sees=ITSELF)
        yield Case(11, client, "plain", "cluster", ANSWERED, port="dns", protocol="UDP")
        yield Case(1, client, "parted", "cluster", S1)
        yield Case(1, client, "parted", "cluster", T1, port="other")
    yield Case(1, "client1", "plain", "cluster", ALL, count=SPREAD)
    yield Case(1, "client2", "merged", "cluster", S1 | S2 | T1, count=SPREAD)
    yield Case(1, "host1", "merged", "cluster", S1 | S2 | T1, count=SPREAD)
    for client in INSIDE:
        yield Case(11, client, "named", "cluster", frozenset({"s1", "odd"}))
    yield Case(11, "client2", "stream", "cluster", S1)
    for client in ("s1", "s2"):
        yield Case(13, client, "plain", "cluster", ALL)
    yield Case(13, "s1", "own", "cluster", S1, sees=f"{HIDDEN}1")
    yield Case(13, "s1", "own", "cluster", ANSWERED, port="dns", protocol="UDP")
    yield Case(13, "s1", "port", "node1", BOTH, sees=f"{HIDDEN}1")
    yield Case(13, "s1", "port", "node2", BOTH)
    for client in ("host1", "host2"):
        yield Case(13, client, "own", "cluster", S1, sees=ITSELF)


def _readiness() -> Iterator[Case]:
    for client in ("client1", "client2", "host2"):
        yield Case(2, client, "unsaid", "cluster", S1 | S2)
        yield Case(2, client, "eager", "cluster", BOTH)
        yield Case(2, client, "draining", "cluster", S1)
        yield Case(2, client, "half", "cluster", S1)
    for where in UPLINKS:
        yield Case(2, "outside", "draining", where, S1)
        yield Case(2, "outside", "half", where, S1)


def _addresses() -> Iterator[Case]:
    for where in UPLINKS:
        for client in ("outside", "client1", "client2"):
            yield Case(4, client, "port", where, BOTH)
        yield Case(4, "outside", "port", where, ANSWERED, port="dns", protocol="UDP")
        yield Case(4, "client1", "port", where, ANSWERED, port="dns", protocol="UDP")
        yield Case(5, "outside", "port", where, BOTH, sees=f"{HIDDEN}{where[-1]}")
    for client, where in (("client1", "own1"), ("client2", "own2"), ("s1", "own1"), ("t1", "own2")):
        yield Case(4, client, "port", where, BOTH)
    for client, where in (("client1", "own2"), ("client2", "own1"), ("host1", "own2"), ("host2", "own1")):
        yield Case(4, client, "port", where, BOTH)
    for client in ("outside", "client1", "client2"):
        yield Case(4, client, "external", EXTERNAL, BOTH)
        yield Case(4, client, "external", EXTERNAL, ANSWERED, port="dns", protocol="UDP")
        yield Case(4, client, "balancer", BALANCERS["balancer"], BOTH)
    yield Case(4, "outside", "open", BALANCERS["open"], S1)
    yield Case(4, "client1", "open", "cluster", S1)
    yield Case(4, "outside", "closed", BALANCERS["closed"], SILENT)
    yield Case(4, "client1", "closed", "cluster", S1)
    yield Case(4, "outside", "proxied", BALANCERS["proxied"], SILENT)


def _policies() -> Iterator[Case]:
    yield Case(5, "outside", "local", "node1", S1, sees=ITSELF)
    yield Case(5, "outside", "local", "node2", SILENT)
    yield Case(5, "outside", "local", "node1", ANSWERED, port="dns", protocol="UDP")
    for client in INSIDE:
        yield Case(5, client, "local", "cluster", S1, sees=ITSELF)
    yield Case(5, "outside", "checked", BALANCERS["checked"], S1 | S2, sees=ITSELF)
    for client in ("client1", "host1"):
        yield Case(6, client, "inner", "cluster", S1, sees=ITSELF)
    for client in ("client2", "host2"):
        yield Case(6, client, "inner", "cluster", SILENT)
    for where in UPLINKS:
        yield Case(6, "outside", "inner", where, S1)


def _choices() -> Iterator[Case]:
    for client in ("client1", "client2", "host1"):
        yield Case(8, client, "sticky", "cluster", "one of several", count=20)
    for service_name in ("hinted", "zonal", "nodal"):
        for client, wanted in (("client1", S1), ("host1", S1), ("client2", T1), ("host2", T1)):
            yield Case(9, client, service_name, "cluster", wanted, count=8)
    yield Case(9, "client1", "unhinted", "cluster", BOTH)
    yield Case(9, "client1", "far", "cluster", T1)


def _refusals() -> Iterator[Case]:
    for client in INSIDE:
        yield Case(10, client, "void", "cluster", REFUSED)
        yield Case(10, client, "void", "cluster", REFUSED, port="dns", protocol="UDP")
    for where in UPLINKS:
        yield Case(10, "outside", "void", where, REFUSED)
        # NAT44-ED lets no ICMP error about what it translated out of an interface with the output feature
        yield Case(10, "outside", "void", where, SILENT, port="dns", protocol="UDP")
    yield Case(10, "client2", "void", "node2", REFUSED, port="dns", protocol="UDP")
    yield Case(10, "client1", "void", "node1", REFUSED)
    yield Case(10, "outside", "void", "203.0.113.8", REFUSED)
    yield Case(10, "outside", "void-balancer", BALANCERS["void-balancer"], REFUSED)
    yield Case(14, "client1", "old", "cluster", REFUSED)
    yield Case(14, "host2", "old", "cluster", REFUSED)
