"""What networking.k8s.io/v1 NetworkPolicy allows, read off the objects and nothing else: the oracle of these tests.

In: a ``Cluster`` of ``contiv.model.kube`` objects. Out: ``allowed`` for one connection, ``matrix`` for many. It knows
no tables, no indexes and no incremental state, and imports nothing of ``contiv.policy``: it asks, for each connection
anew, every policy, every rule, every peer. Slow on purpose; each function is one sentence of the API reference
(kubernetes.io/docs/reference: NetworkPolicy v1; concepts/services-networking/network-policies).

A connection has a source, a destination, a protocol and a port, and is seen after service translation, with the source
address that it left its pod with. Ends are pods (``namespace/name``) or addresses; an address that a running pod has
is that pod. Replies are no connections of their own.

The API reference leaves open what a broken object means, for the API server refuses it. Here, one rule: **what cannot
be read matches nothing**, and so allows nothing:

- a requirement with an unknown operator, In or NotIn without values, Exists or DoesNotExist with some: met by nobody;
- a peer with nothing in it, or a block beside a selector; a block whose CIDR, or one of whose exceptions, cannot be
  read, or an exception that is not within the CIDR: matches nobody;
- an unknown protocol; a port outside 1..65535; ``endPort`` below ``port``, beside a name, or without a port: no port;
- a rule that was left out while reading (``NetworkPolicy.faults``): allows nothing, its direction stays isolated;
- a pod whose Namespace object is not known: no ``namespaceSelector`` matches it;
- an address of a pod that is none: the pod does not have it.

An empty list of ``policyTypes`` is an absent one (the API server's defaulting takes them alike); unknown words in it
name no direction. Container ports of one name and protocol in two containers of a pod: the name means both.

ICMP errors about a connection belong to it and are none of their own: whoever may send one gets it in. The API
reference says nothing of them; connection tracking elsewhere lets them in (docs/decisions/icmp-errors.md).

Node and pod: a pod always receives from the node that it runs on (kubelet's probes); towards its node it is held to
its egress rules like towards any address, so that it cannot use the node's services past them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final, Literal, TypeAlias

from contiv.model import kube

Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Direction: TypeAlias = Literal["Ingress", "Egress"]
Traffic: TypeAlias = tuple[str, int | None]
"""Protocol (TCP, UDP, SCTP, ICMP, or any other word) and destination port, None where the protocol has none."""

ICMP_ERROR: Final = "ICMP error"
WITH_PORTS: Final = frozenset({"TCP", "UDP", "SCTP"})


@dataclass(frozen=True)
class Cluster:
    """The objects that count, and by node name the addresses that a node has besides those of its Node object."""

    pods: tuple[kube.Pod, ...] = ()
    namespaces: tuple[kube.Namespace, ...] = ()
    policies: tuple[kube.NetworkPolicy, ...] = ()
    nodes: tuple[kube.Node, ...] = ()
    node_addresses: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, objects: Iterable[kube.KubeObject], *, node_addresses: Mapping[str, frozenset[str]] | None = None
    ) -> Cluster:
        """The cluster that these objects make; services and slices do not count."""
        things = tuple(objects)
        return cls(
            pods=tuple(thing for thing in things if isinstance(thing, kube.Pod)),
            namespaces=tuple(thing for thing in things if isinstance(thing, kube.Namespace)),
            policies=tuple(thing for thing in things if isinstance(thing, kube.NetworkPolicy)),
            nodes=tuple(thing for thing in things if isinstance(thing, kube.Node)),
            node_addresses=node_addresses or {},
        )


@dataclass(frozen=True)
class End:
    """One end of a connection. ``pod`` is None for all that policies do not select: hosts, host network, outside."""

    address: Ip
    pod: kube.Pod | None


# ---- the questions -----------------------------------------------------------------------------------------


def allowed(
    cluster: Cluster,
    source: str,
    destination: str,
    protocol: str,
    port: int | None = None,
    *,
    family: int | None = None,
) -> bool:
    """Whether the connection is allowed. Ends are ``namespace/name`` or addresses, of IP ``family`` 4 or 6.

    Without ``family`` it is that of the end which is an address, else the first that both pods have in common. False
    when there is no pair of addresses to connect. KeyError for a pod that is not there.
    """
    pair = connect(cluster, source, destination, family=family)
    return pair is not None and permits(cluster, *pair, (protocol, port))


def matrix(
    cluster: Cluster,
    traffic: Sequence[Traffic],
    *,
    ends: Sequence[str] | None = None,
    family: int | None = None,
) -> dict[tuple[str, str, Traffic], bool]:
    """``allowed`` for all ordered pairs of ``ends`` (all running pods when not given), itself to itself included."""
    names = [key(pod) for pod in cluster.pods if addresses(pod)] if ends is None else ends
    return {
        (source, destination, one): allowed(cluster, source, destination, *one, family=family)
        for source, destination, one in product(names, names, traffic)
    }


def permits(cluster: Cluster, source: End, destination: End, traffic: Traffic) -> bool:
    """Both sides must allow; a pod reaches itself, and a node the pods that run on it, whatever policies say."""
    if source.pod is not None and source.pod == destination.pod:
        return True
    out = source.pod is None or side_allows(cluster, "Egress", source.pod, source, destination, traffic)
    if destination.pod is None or is_node_of(cluster, source, destination.pod) or traffic[0] == ICMP_ERROR:
        return out
    return out and side_allows(cluster, "Ingress", destination.pod, source, destination, traffic)


def side_allows(
    cluster: Cluster, direction: Direction, pod: kube.Pod, source: End, destination: End, traffic: Traffic
) -> bool:
    """A pod that no policy isolates in the direction allows all; else one rule of one such policy is enough."""
    policies = [p for p in cluster.policies if direction in directions(p) and selects(p, pod)]
    return not policies or any(
        rule_allows(cluster, policy, rule, direction, source, destination, traffic)
        for policy in policies
        for rule in (policy.ingress if direction == "Ingress" else policy.egress) or ()
    )


# ---- ends --------------------------------------------------------------------------------------------------


def key(pod: kube.Pod) -> str:
    """``namespace/name``."""
    return f"{pod.namespace}/{pod.name}"


def addresses(pod: kube.Pod) -> list[Ip]:
    """The addresses that a pod has: none before it got one, none after it has finished."""
    texts = pod.pod_ips or ((pod.host_ip,) if pod.host_network and pod.host_ip else ())
    return [] if pod.finished else [ip for ip in map(read_ip, texts) if ip is not None]


def connect(cluster: Cluster, source: str, destination: str, *, family: int | None) -> tuple[End, End] | None:
    """The ends of a connection, both of one IP family; None when no family has both."""
    pairs = product(find(cluster, source), find(cluster, destination))
    fitting = (
        p for p in pairs if p[0].address.version == p[1].address.version and family in {None, p[0].address.version}
    )
    return next(fitting, None)


def find(cluster: Cluster, name: str) -> list[End]:
    """The ends that a name can mean: one for each address of the pod, or the address."""
    if "/" in name:
        pod = {key(pod): pod for pod in cluster.pods}[name]
        return [End(address, None if pod.host_network else pod) for address in addresses(pod)]
    address = ipaddress.ip_address(name)
    owners = [pod for pod in cluster.pods if not pod.host_network and address in addresses(pod)]
    return [End(address, owners[0] if owners else None)]


def is_node_of(cluster: Cluster, end: End, pod: kube.Pod) -> bool:
    """Whether the end is the node that the pod runs on (host network pods of that node included)."""
    if end.pod is not None or not pod.node_name:
        return False
    texts = set(cluster.node_addresses.get(pod.node_name, ()))
    texts.update(*(node.ips for node in cluster.nodes if node.name == pod.node_name))
    return end.address in {read_ip(text) for text in texts}


# ---- policies ----------------------------------------------------------------------------------------------


def directions(policy: kube.NetworkPolicy) -> set[str]:
    """What ``policyTypes`` names; absent, Ingress always and Egress when there are egress rules."""
    if policy.policy_types:
        return set(policy.policy_types)
    unread = any(fault.startswith("spec.egress") for fault in policy.faults)
    return {"Ingress", "Egress"} if policy.egress or unread else {"Ingress"}


def selects(policy: kube.NetworkPolicy, pod: kube.Pod) -> bool:
    """Whether the policy is about the pod: same namespace, selector matches, not on the host's network."""
    return not pod.host_network and pod.namespace == policy.namespace and matches(policy.pod_selector, pod.labels)


def rule_allows(
    cluster: Cluster,
    policy: kube.NetworkPolicy,
    rule: kube.IngressRule | kube.EgressRule,
    direction: Direction,
    source: End,
    destination: End,
    traffic: Traffic,
) -> bool:
    """A peer matches the far end and a port the traffic; absent or empty lists match everything."""
    far = source if direction == "Ingress" else destination
    peer = not rule.peers or any(peer_matches(cluster, policy.namespace, peer, far) for peer in rule.peers)
    return peer and (not rule.ports or any(port_matches(port, destination, traffic) for port in rule.ports))


def peer_matches(cluster: Cluster, namespace: str, peer: kube.PolicyPeer, end: End) -> bool:
    """A block matches addresses, selectors match pods; ``podSelector`` alone means the policy's own namespace."""
    if peer.ip_block is not None:
        mixed = peer.pod_selector is not None or peer.namespace_selector is not None
        return not mixed and block_matches(peer.ip_block, end.address)
    if end.pod is None or (peer.pod_selector is None and peer.namespace_selector is None):
        return False
    if peer.namespace_selector is None:
        there = end.pod.namespace == namespace
    else:
        labels = [n.labels for n in cluster.namespaces if n.name == end.pod.namespace]
        there = any(matches(peer.namespace_selector, one) for one in labels)
    return there and (peer.pod_selector is None or matches(peer.pod_selector, end.pod.labels))


def block_matches(block: kube.IPBlock, address: Ip) -> bool:
    """Within the CIDR and within none of the exceptions."""
    cidr, exceptions = read_cidr(block.cidr), [read_cidr(text) for text in block.excepts]
    if cidr is None or any(one is None or not within(one, cidr) for one in exceptions):
        return False
    return address in cidr and not any(address in one for one in exceptions if one is not None)


def port_matches(port: kube.PolicyPort, destination: End, traffic: Traffic) -> bool:
    """Same protocol; no port, this port, this range, or the number that the name has in the destination pod."""
    protocol, number = traffic
    if port.protocol not in WITH_PORTS or protocol != port.protocol or number is None:
        return False
    if port.port is None:
        return port.end_port is None
    if isinstance(port.port, str):
        return port.end_port is None and number in named(destination.pod, port.port, protocol)
    last = port.port if port.end_port is None else port.end_port
    return 1 <= port.port <= number <= last <= 65535


def named(pod: kube.Pod | None, name: str, protocol: str) -> set[int]:
    """The numbers of a pod's container ports of that name and protocol; an address that is no pod has none."""
    ports = pod.ports if pod is not None and name else ()
    return {port.port for port in ports if port.name == name and port.protocol == protocol}


def matches(selector: kube.LabelSelector, labels: Mapping[str, str]) -> bool:
    """All requirements are met; without any, everything matches."""
    return all(labels.get(name) == value for name, value in selector.match_labels.items()) and all(
        meets(requirement, labels) for requirement in selector.match_expressions
    )


def meets(requirement: kube.LabelRequirement, labels: Mapping[str, str]) -> bool:
    """One expression. NotIn is also met by what lacks the key."""
    present, values = requirement.key in labels, requirement.values
    match requirement.operator:
        case "In":
            return present and labels[requirement.key] in values
        case "NotIn":
            return bool(values) and not (present and labels[requirement.key] in values)
        case "Exists":
            return not values and present
        case "DoesNotExist":
            return not values and not present
        case _:
            return False


# ---- text --------------------------------------------------------------------------------------------------


def read_ip(text: str) -> Ip | None:
    """The address, or None."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def read_cidr(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network, host bits cleared as the API server's parser does, or None. A bare address is no CIDR."""
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def within(
    inner: ipaddress.IPv4Network | ipaddress.IPv6Network, outer: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    """Whether every address of ``inner`` is one of ``outer``."""
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
