"""The truth cases: manifests around a small cast of pods, with what must be allowed pinned by hand.

In: ``cast.yaml`` and ``cases/*.yaml``. Out: ``CASES``; a ``Case`` gives the objects of a cluster as a user would write
them (``manifests``), the same for the oracle (``cluster``), and its pins. A case names only what differs from the cast:
``policies`` (namespace/name: spec), ``relabel`` (all labels of a pod or namespace), ``pods`` (more pods, or others in
the place of the cast's). ``by: etcd`` marks objects that the API server would refuse; ``packets`` gives the reason why
a case is not played with packets.

A pin is a line ``FROM -> TO  TRAFFIC  yes|no``. Ends are names or patterns, with commas; ``*`` and ``x/*`` mean pods
that run and are not on the host's network. A pattern never pairs a pod with itself. Traffic is ``*``, ``TCP``,
``TCP/80``, ``ICMP``, with commas. ``yes6`` and ``no6`` are about IPv6, the others about IPv4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from contiv.model import kube
from contiv.model.kubewire import reduce
from tests.policy import oracle
from tests.policy.oracle import Cluster, Traffic

HERE: Final = Path(__file__).parent
TRAFFIC: Final[tuple[Traffic, ...]] = (
    ("TCP", 80),
    ("TCP", 81),
    ("UDP", 80),
    ("UDP", 81),
    ("SCTP", 80),
    ("ICMP", None),
)
NODES: Final = ("node-1", "node-2")
IMAGE: Final = "registry.k8s.io/pause"

Object = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """Where the cast stands: by node name the first three bytes of its pod subnet, the same in IPv6, its host.

    ``ips`` has the addresses of pods where they are known already; others are numbered in the order of the cast.
    """

    pods: Mapping[str, str]
    hosts: Mapping[str, str]
    pods_v6: Mapping[str, str] = field(default_factory=dict)
    ips: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        """``text`` with the places for ``${n1}`` and its like."""
        known: dict[str, str] = {}
        for number, node in enumerate(NODES, start=1):
            known |= {f"n{number}": self.pods[node], f"h{number}": self.hosts[node]}
            known |= {f"v{number}": self.pods_v6.get(node, "fd00")}
        return re.sub(r"\$\{(\w+)}", lambda found: known[found[1]], text)


DRAWN: Final = Places(
    pods={"node-1": "10.1.1", "node-2": "10.1.2"},
    hosts={"node-1": "172.30.1.2", "node-2": "172.30.2.2"},
    pods_v6={"node-1": "fd00:10:1:1", "node-2": "fd00:10:1:2"},
)
"""The places where there is no data plane: those of the default configuration, and an IPv6 address for each pod."""


@dataclass(frozen=True)
class Pin:
    """One line of ``expect``."""

    text: str
    sources: str
    destinations: str
    traffic: tuple[Traffic, ...]
    allowed: bool
    family: int

    def pairs(self, cluster: Cluster) -> Iterator[tuple[str, str]]:
        """The pairs of ends that the line is about."""
        for source, exact_source in _ends(self.sources, cluster):
            for destination, exact in _ends(self.destinations, cluster):
                if source != destination or (exact and exact_source):
                    yield source, destination


@dataclass(frozen=True)
class Case:
    """One state of the cluster and what must hold in it."""

    id: str
    name: str
    clause: int
    pins: tuple[Pin, ...]
    policies: Mapping[str, Object]
    relabel: Mapping[str, Mapping[str, str]]
    pods: Mapping[str, Object]
    by: str
    packets: str

    def manifests(self, places: Places = DRAWN) -> list[Object]:
        """All objects: namespaces, nodes, pods, policies."""
        spaces = {name: self.relabel.get(name, labels) for name, labels in CAST["namespaces"].items()}
        things = [_namespace(name, labels) for name, labels in spaces.items()]
        things += [_node(name, places) for name in NODES]
        return things + self.pod_manifests(places) + self.policy_manifests(places)

    def pod_manifests(self, places: Places = DRAWN) -> list[Object]:
        """The cast with this case's labels and pods."""
        wanted = {
            key: {**entry, **_relabelled(self.relabel, key)} for key, entry in {**CAST["pods"], **self.pods}.items()
        }
        numbers = dict.fromkeys(NODES, 1)
        found = []
        for key, entry in wanted.items():
            numbers[entry["node"]] += not entry.get("hostNetwork", False)
            found.append(_pod(key, entry, places, numbers[entry["node"]]))
        return found

    def policy_manifests(self, places: Places = DRAWN) -> list[Object]:
        """The policies, with their places filled in."""
        return [_policy(key, yaml.safe_load(places.fill(yaml.safe_dump(spec)))) for key, spec in self.policies.items()]

    def cluster(self, places: Places = DRAWN) -> Cluster:
        """What the oracle is asked about."""
        hosts = {node: frozenset({host}) for node, host in places.hosts.items()}
        return Cluster.of(map(reduced, self.manifests(places)), node_addresses=hosts)


def reduced(thing: Object) -> kube.KubeObject:
    """A manifest as etcd holds it."""
    kind = next(kind for kind in kube.KINDS if kind.kind == thing["kind"])
    return reduce(kind, msgspec.json.encode(thing))


def ends(cluster: Cluster) -> list[str]:
    """The pods that run, those on the host's network too."""
    return [oracle.key(pod) for pod in cluster.pods if oracle.addresses(pod)]


def as_enforced(cluster: Cluster) -> Cluster:
    """The cluster as the data plane can enforce it: a rule for particular SCTP ports allows nothing.

    SCTP is where we deviate from Kubernetes, here and in ``told_apart``. VPP's ACL plugin takes ports from TCP and UDP
    headers only (plugins/acl/public_inlines.h, acl_fill_5tuple_l4_and_pkt_data), so it cannot tell one SCTP port from
    another; the renderer fails closed and reports it. Rules for all of SCTP, or for all protocols, work.
    """
    nothing = kube.PolicyPort("SCTP", 0)

    def without(rule: Any) -> Any:
        ports = rule.ports and tuple(
            nothing if port.protocol == "SCTP" and port.port is not None else port for port in rule.ports
        )
        return msgspec.structs.replace(rule, ports=ports)

    policies = tuple(
        msgspec.structs.replace(
            policy,
            ingress=policy.ingress and tuple(map(without, policy.ingress)),
            egress=policy.egress and tuple(map(without, policy.egress)),
        )
        for policy in cluster.policies
    )
    return Cluster(cluster.pods, cluster.namespaces, policies, cluster.nodes, cluster.node_addresses)


def told_apart(source: int, destination: int, traffic: Traffic) -> bool:
    """Whether the data plane can tell a probe between two ends, by number, from the answers to another one.

    A session of the ACL plugin has no SCTP ports either: what answers an association from a to b, and an association
    that b opens to a while that session lives, are one thing to it. So between two ends SCTP is probed one way only,
    every end being the source of half of its pairs.
    """
    return traffic[0] != "SCTP" or (source < destination) == ((source + destination) % 2 == 0)


# ---- manifests ---------------------------------------------------------------------------------------------


def _relabelled(relabel: Mapping[str, Mapping[str, str]], key: str) -> Object:
    return {"labels": relabel[key]} if key in relabel else {}


def _namespace(name: str, labels: Mapping[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def _node(name: str, places: Places) -> Object:
    status = {"addresses": [{"type": "InternalIP", "address": places.hosts[name]}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}


def _pod(key: str, entry: Object, places: Places, number: int) -> Object:
    namespace, _, name = key.partition("/")
    node = entry["node"]
    ips: tuple[str, ...]
    if entry.get("hostNetwork"):
        ips = (places.hosts[node],)
    elif "ip" in entry:
        ips = (places.fill(entry["ip"]),)
    else:
        drawn = [f"{places.pods[node]}.{number}"]
        drawn += [f"{prefix}::{number}" for at, prefix in places.pods_v6.items() if at == node]
        ips = places.ips.get(key, tuple(drawn))
    spec: Object = {"nodeName": node, "containers": [_container("main", entry.get("ports", []))]}
    if entry.get("second"):
        spec["containers"].append(_container("second", entry["second"]))
    init = [_container("init", entry["init"])] if "init" in entry else []
    if "sidecar" in entry:
        init.append(_container("sidecar", entry["sidecar"]) | {"restartPolicy": "Always"})
    if init:
        spec["initContainers"] = init
    if entry.get("hostNetwork"):
        spec["hostNetwork"] = True
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(entry["labels"])},
        "spec": spec,
        "status": {
            "phase": entry.get("phase", "Running"),
            "hostIP": places.hosts[node],
            "podIPs": [{"ip": ip} for ip in ips],
        },
    }


def _container(name: str, ports: Sequence[str]) -> Object:
    parsed = [re.fullmatch(r"(\w+)=(\d+)/(\w+)", text) for text in ports]
    found = [{"name": each[1], "containerPort": int(each[2]), "protocol": each[3]} for each in parsed if each]
    assert len(found) == len(ports), f"ports {ports}: write name=number/PROTOCOL"
    return {"name": name, "image": IMAGE, "ports": found}


def _policy(key: str, spec: Object) -> Object:
    namespace, _, name = key.partition("/")
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


# ---- pins --------------------------------------------------------------------------------------------------


def _ends(patterns: str, cluster: Cluster) -> Iterator[tuple[str, bool]]:
    ordinary = [oracle.key(pod) for pod in cluster.pods if oracle.addresses(pod) and not pod.host_network]
    for pattern in patterns.split(","):
        if "*" not in pattern:
            assert pattern in ends(cluster), f"{pattern} is not there"
            yield pattern, True
            continue
        prefix = pattern.removesuffix("*")
        yield from ((key, False) for key in ordinary if key.startswith(prefix))


def _traffic(text: str) -> tuple[Traffic, ...]:
    found: list[Traffic] = []
    for word in text.split(","):
        protocol, _, port = word.partition("/")
        fitting = [one for one in TRAFFIC if word == "*" or (one[0] == protocol and port in {"", str(one[1])})]
        assert fitting, f"{word}: no traffic of these cases"
        found += fitting
    return tuple(found)


def _pin(line: str) -> Pin:
    sources, arrow, destinations, traffic, verdict = line.split()
    assert arrow == "->", line
    assert verdict in {"yes", "no", "yes6", "no6"}, line
    family = 6 if verdict.endswith("6") else 4
    return Pin(line, sources, destinations, _traffic(traffic), verdict.startswith("yes"), family)


def _load(path: Path) -> Iterator[Case]:
    chapter = yaml.safe_load(path.read_text())
    for number, entry in enumerate(chapter["cases"], start=1):
        unknown = entry.keys() - {"name", "policies", "expect", "relabel", "pods", "packets"}
        assert not unknown, f"{path.name}, case {number}: {unknown}"
        yield Case(
            id=f"{chapter['clause']:02}.{number:02}",
            name=entry["name"],
            clause=chapter["clause"],
            pins=tuple(_pin(line) for line in entry["expect"].splitlines()),
            policies=entry["policies"],
            relabel=entry.get("relabel", {}),
            pods=entry.get("pods", {}),
            by=chapter.get("by", "api"),
            packets=entry.get("packets", ""),
        )


CAST: Final[Object] = yaml.safe_load((HERE / "cast.yaml").read_text())
CASES: Final[tuple[Case, ...]] = tuple(case for path in sorted(HERE.glob("cases/*.yaml")) for case in _load(path))
