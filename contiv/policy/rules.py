"""What a NetworkPolicy means: networking.k8s.io/v1, clause by clause, and nothing else.

In: one ``kube.NetworkPolicy``. Out: ``Policy``, the same read once: selectors canonical, blocks and ports as sets, and
what is wrong with it in ``faults``. ``ingress`` and ``egress`` say what one policy allows one pod, given who the
members of its ``PodSet`` are (``index.py`` knows). Pure. Next: ``state.py`` adds policies up, ``tables.py`` writes
access lists. The clauses, with the API's fields:

1.  *Isolation.* A pod is isolated in a direction when a policy of its namespace selects it (``podSelector``; empty:
    all) and names the direction in ``policyTypes``; when these are absent: Ingress, and Egress if there are egress
    rules.
2.  *Addition.* Rules and policies add up, order never matters; a pod that nothing isolates allows everything.
3.  *Emptiness.* No rules: nothing is allowed. In a rule, ``from``/``to`` absent or empty: any peer; ``ports`` absent or
    empty: any protocol and port, ICMP included.
4.  *Pods as peers.* ``podSelector`` alone: pods of the policy's own namespace. ``namespaceSelector`` alone: all pods of
    the namespaces that match. Both: pods that match in namespaces that match.
5.  *Blocks as peers.* ``ipBlock``: the CIDR less its ``except``, whoever has the addresses. Never beside selectors.
6.  *Ports.* ``protocol`` with ``port``: a number; up to ``endPort``; a name; or absent for all ports of the protocol.
    Rules with ports allow no ICMP.
7.  *Named ports* are the container ports of that name and protocol: on ingress of the pod that is selected, on egress
    of each destination pod, so that a name never allows an address that is no pod's. A name that no container has
    allows nothing.
8.  *Host network.* Such pods are neither selected nor peers; blocks match their node's address.
9.  *What cannot be read matches nothing*, is a fault with its field, and leaves everything else as it is: unknown
    operators, protocols and directions, CIDRs and exceptions that are none or lie outside, ports out of range, peers
    with nothing or too much in them. A direction whose rules could not be read stays isolated.

One limit is the data plane's: VPP's access lists do not read SCTP's ports (plugins/acl/public_inlines.h). A rule for
some of them is a fault too: it allows nothing, a rule for all of them works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec

from contiv.fastpath import acl
from contiv.model import kube
from contiv.model.ip import Address, Network
from contiv.policy import selectors
from contiv.policy.selectors import EVERYTHING, Report, Selector

PROTOCOLS: Final = {"TCP": acl.TCP, "UDP": acl.UDP, "SCTP": acl.SCTP}
PORT_MAX: Final = 65535
INGRESS: Final = "Ingress"
EGRESS: Final = "Egress"
DIRECTIONS: Final = (INGRESS, EGRESS)
UNNAMED: Final = 0
"""The port under which the members of a ``PodSet`` without a named port stand."""

ContainerPorts: TypeAlias = tuple[tuple[str, int, int], ...]
"""The named ports of a pod: name, protocol number, port."""


class Fault(msgspec.Struct, frozen=True, order=True):
    """What is wrong with an object: its kind's plural, its name, the field's path, and the problem in words."""

    plural: str
    namespace: str
    name: str
    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.plural} {self.namespace}/{self.name}: {self.field}: {self.problem}"


class PodSet(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Pods that a peer speaks of, as a value: equal ones in different policies are computed once.

    ``namespace``: of this one alone; ``namespaces``: of those that match; both None: of any. ``port``, protocol number
    and name, leaves the pods that have a container port of that name.
    """

    namespace: str | None = None
    namespaces: Selector | None = None
    pods: Selector = EVERYTHING
    port: tuple[int, str] | None = None


EVERY_POD: Final = PodSet()

Members = Callable[[PodSet], Mapping[int, acl.Peers]]
"""Who is in a set: addresses by number of its named port, or all of them under ``UNNAMED``."""


class Peer(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``from`` or ``to`` that could be read: pods or a block. ``number`` is its place."""

    number: int
    pods: PodSet | None = None
    block: acl.Peers | None = None

    def named(self, port: tuple[int, str]) -> PodSet:
        """The pods among the peer's that may have a container port of that name."""
        return msgspec.structs.replace(self.pods or EVERY_POD, port=port)


class Port(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``ports`` that could be read: a set of ports or a name. ``number`` is its place."""

    number: int
    ports: acl.Ports = acl.Ports.NONE
    name: tuple[int, str] | None = None


class Rule(msgspec.Struct, frozen=True, gc=False):
    """One rule. ``peers`` and ``ports`` None: any (clause 3); empty: none that could be read."""

    number: int
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None

    @property
    def numbered(self) -> acl.Ports:
        """What the rule's ports allow without names."""
        if self.ports is None:
            return acl.Ports.ANY
        return acl.Ports.NONE.union(*(port.ports for port in self.ports))

    @property
    def names(self) -> Iterator[tuple[int, str]]:
        """The named ports."""
        return (port.name for port in self.ports or () if port.name is not None)


class Policy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A policy, read. ``rules`` has the directions in which it isolates; ``faults`` what was left out."""

    namespace: str
    name: str
    subject: Selector
    rules: dict[str, tuple[Rule, ...]]
    faults: tuple[Fault, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    def pod_sets(self, direction: str) -> set[PodSet]:
        """Whose members must be known to say what the policy allows."""
        find = _ingress_sets if direction == INGRESS else _egress_sets
        return {each for rule in self.rules.get(direction, ()) for each in find(rule)}

    @property
    def ingress_names(self) -> tuple[tuple[int, str], ...]:
        """The names that ingress rules resolve against the selected pod."""
        return tuple(sorted({name for rule in self.rules.get(INGRESS, ()) for name in rule.names}))


# ---- what a policy allows ----------------------------------------------------------------------------------


def ingress(policy: Policy, pod: ContainerPorts, members: Members) -> acl.Allowed:
    """Who may come in to a pod that the policy selects and isolates for ingress, and where."""
    return acl.Allowed.of(box for rule in policy.rules.get(INGRESS, ()) for box in ingress_boxes(rule, pod, members))


def egress(policy: Policy, members: Members) -> acl.Allowed:
    """Whom a pod that the policy selects and isolates for egress may reach, and where."""
    return acl.Allowed.of(box for rule in policy.rules.get(EGRESS, ()) for box in egress_boxes(rule, members))


def ingress_boxes(rule: Rule, pod: ContainerPorts, members: Members) -> Iterator[tuple[acl.Peers, acl.Ports]]:
    """One rule's share: its peers with its ports, names resolved against the selected pod (clause 7)."""
    ports = rule.numbered.union(*(resolve(pod, name) for name in rule.names))
    if ports:
        for peer in _any_or_each(rule.peers):
            yield addresses(peer, members), ports


def egress_boxes(rule: Rule, members: Members) -> Iterator[tuple[acl.Peers, acl.Ports]]:
    """One rule's share: its peers with its ports, names resolved against each destination pod (clause 7)."""
    ports = rule.numbered
    for peer in _any_or_each(rule.peers):
        if ports:
            yield addresses(peer, members), ports
        for name in rule.names:
            yield from named_boxes(peer, name, members)


def named_boxes(peer: Peer, name: tuple[int, str], members: Members) -> Iterator[tuple[acl.Peers, acl.Ports]]:
    """The pods among a peer's addresses that have the named port, by its number."""
    for number, pods in members(peer.named(name)).items():
        yield pods if peer.block is None else pods.intersection(peer.block), acl.Ports.of([(name[0], number, number)])


def addresses(peer: Peer, members: Members) -> acl.Peers:
    """The addresses that a peer means (clauses 4 and 5); of one without pods and block: all."""
    if peer.block is not None:
        return peer.block
    return acl.Peers.ANY if peer.pods is None else members(peer.pods).get(UNNAMED, acl.Peers.NONE)


def resolve(pod: ContainerPorts, name: tuple[int, str]) -> acl.Ports:
    """The ports that a name means for a pod; two containers may both use it."""
    protocol, text = name
    return acl.Ports.of([(protocol, port, port) for known, number, port in pod if (number, known) == (protocol, text)])


ANY_PEER: Final = Peer(-1)


def _any_or_each(peers: tuple[Peer, ...] | None) -> tuple[Peer, ...]:
    return (ANY_PEER,) if peers is None else peers


def _ingress_sets(rule: Rule) -> Iterator[PodSet]:
    return (peer.pods for peer in rule.peers or () if peer.pods is not None)


def _egress_sets(rule: Rule) -> Iterator[PodSet]:
    if rule.numbered:
        yield from _ingress_sets(rule)
    for name in rule.names:
        yield from (peer.named(name) for peer in _any_or_each(rule.peers))


# ---- reading -----------------------------------------------------------------------------------------------


def read(policy: kube.NetworkPolicy) -> Policy:
    """The policy as what it means."""
    faults = [_carried(policy, text) for text in policy.faults]

    def report(field: str, problem: str) -> None:
        faults.append(Fault(kube.NETWORK_POLICIES.plural, policy.namespace, policy.name, field, problem))

    rules = {
        INGRESS: tuple(
            _rule(policy, number, ("from", each.peers), each.ports, path=f"spec.ingress[{number}]", report=report)
            for number, each in enumerate(policy.ingress or ())
        ),
        EGRESS: tuple(
            _rule(policy, number, ("to", each.peers), each.ports, path=f"spec.egress[{number}]", report=report)
            for number, each in enumerate(policy.egress or ())
        ),
    }
    isolates = _directions(policy, report)
    return Policy(
        namespace=policy.namespace,
        name=policy.name,
        subject=selectors.read(policy.pod_selector, "spec.podSelector", report),
        rules={direction: rules[direction] for direction in DIRECTIONS if direction in isolates},
        faults=tuple(faults),
    )


def _carried(policy: kube.NetworkPolicy, text: str) -> Fault:
    """What KSR could not read already, as ``field: problem``."""
    field, _, problem = text.partition(": ")
    return Fault(kube.NETWORK_POLICIES.plural, policy.namespace, policy.name, field, problem)


def _directions(policy: kube.NetworkPolicy, report: Report) -> set[str]:
    """Clause 1; an empty list counts as absent, as in the API server's defaulting (networking/v1 defaults.go)."""
    if policy.policy_types:
        for number, each in enumerate(policy.policy_types):
            if each not in DIRECTIONS:
                report(f"spec.policyTypes[{number}]", f"{each!r} is neither Ingress nor Egress")
        return set(policy.policy_types) & set(DIRECTIONS)
    unread = any(fault.startswith("spec.egress") for fault in policy.faults)
    return {INGRESS, EGRESS} if policy.egress or unread else {INGRESS}


def _rule(
    policy: kube.NetworkPolicy,
    number: int,
    peers: tuple[str, tuple[kube.PolicyPeer, ...] | None],
    ports: tuple[kube.PolicyPort, ...] | None,
    *,
    path: str,
    report: Report,
) -> Rule:
    word, entries = peers
    return Rule(
        number,
        _peers(policy.namespace, entries, path=f"{path}.{word}", report=report) if entries else None,
        _ports(ports, path=f"{path}.ports", report=report) if ports else None,
    )


def _peers(namespace: str, entries: Iterable[kube.PolicyPeer], *, path: str, report: Report) -> tuple[Peer, ...]:
    read_ones = (
        _peer(namespace, each, number=number, path=f"{path}[{number}]", report=report)
        for number, each in enumerate(entries)
    )
    return tuple(peer for peer in read_ones if peer is not None)


def _peer(namespace: str, entry: kube.PolicyPeer, *, number: int, path: str, report: Report) -> Peer | None:
    """Clauses 4 and 5; None for what matches nobody."""
    chosen = entry.pod_selector is not None or entry.namespace_selector is not None
    if entry.ip_block is not None:
        if chosen:
            report(path, "ipBlock beside a selector: a peer has one or the other")
            return None
        block = _block(entry.ip_block, f"{path}.ipBlock", report)
        return None if block is None else Peer(number, block=block)
    if not chosen:
        report(path, "names nobody: a peer needs podSelector, namespaceSelector or ipBlock")
        return None
    pods = namespaces = EVERYTHING
    if entry.pod_selector is not None:
        pods = selectors.read(entry.pod_selector, f"{path}.podSelector", report)
    if entry.namespace_selector is None:
        return Peer(number, pods=PodSet(namespace=namespace, pods=pods)) if pods.satisfiable else None
    namespaces = selectors.read(entry.namespace_selector, f"{path}.namespaceSelector", report)
    return Peer(number, pods=PodSet(namespaces=namespaces, pods=pods)) if _possible(pods, namespaces) else None


def _possible(*those: Selector) -> bool:
    return all(each.satisfiable for each in those)


def _block(block: kube.IPBlock, path: str, report: Report) -> acl.Peers | None:
    """Clause 5; host bits are cleared, as the API server's parser does."""
    whole = _network(block.cidr)
    if whole is None:
        report(f"{path}.cidr", f"{block.cidr!r} is no CIDR")
        return None
    exceptions = []
    for number, text in enumerate(block.excepts):
        part = _network(text)
        if part is None or part.version != whole.version or part.length < whole.length or part.address not in whole:
            report(f"{path}.except[{number}]", f"{text!r} is no CIDR within {block.cidr}")
        else:
            exceptions.append(part)
    if len(exceptions) < len(block.excepts):
        return None  # who was to be kept out is unknown, so nobody comes in by this peer
    found = acl.Peers.of([whole])
    return found.difference(acl.Peers.of(exceptions)) if exceptions else found


def _network(text: str) -> Network | None:
    try:
        return Network.parse(text, strict=False).network if "/" in text else None
    except ValueError:
        return None


def _ports(entries: Iterable[kube.PolicyPort], *, path: str, report: Report) -> tuple[Port, ...]:
    read_ones = (_port(each, number, f"{path}[{number}]", report) for number, each in enumerate(entries))
    return tuple(port for port in read_ones if port is not None)


def _port(entry: kube.PolicyPort, number: int, path: str, report: Report) -> Port | None:
    """Clauses 6 and 7; None for what allows no port."""
    protocol = PROTOCOLS.get(entry.protocol)
    if protocol is None:
        report(f"{path}.protocol", f"{entry.protocol!r} is none of TCP, UDP, SCTP")
        return None
    if entry.port is None or isinstance(entry.port, str):
        if entry.end_port is not None:
            report(f"{path}.endPort", "needs a port number beside it")
            return None
        if entry.port is None:
            return Port(number, acl.Ports.of([protocol]))
        if not entry.port:
            report(f"{path}.port", "is an empty name")
            return None
        if protocol == acl.SCTP:
            report(f"{path}.port", _SCTP_PORTS)
        return Port(number, name=(protocol, entry.port))
    last = entry.port if entry.end_port is None else entry.end_port
    if not 1 <= entry.port <= PORT_MAX:
        report(f"{path}.port", f"{entry.port} is not between 1 and {PORT_MAX}")
        return None
    if not entry.port <= last <= PORT_MAX:
        report(f"{path}.endPort", f"{last} is not between the port, {entry.port}, and {PORT_MAX}")
        return None
    ports = acl.Ports.of([(protocol, entry.port, last)])
    if ports.blurred:
        report(f"{path}.port", _SCTP_PORTS)
    return Port(number, ports)


_SCTP_PORTS: Final = "VPP cannot tell SCTP ports apart, so this allows nothing; leave the port out to allow all of SCTP"


# ---- which entries allow a connection ----------------------------------------------------------------------


class Origin(msgspec.Struct, frozen=True, order=True):
    """An entry that allows a connection. ``peer`` and ``port`` are places in the rule, None where it says any."""

    namespace: str
    policy: str
    direction: str
    rule: int
    peer: int | None
    port: int | None


def origins(
    policy: Policy,
    direction: str,
    *,
    pod: ContainerPorts,
    far: Address,
    traffic: tuple[int, int],
    members: Members,
) -> Iterator[Origin]:
    """The entries of one policy that allow ``traffic`` (protocol, port) with ``far``; ``pod`` is the selected one's."""
    for rule in policy.rules.get(direction, ()):
        for peer in _any_or_each(rule.peers):
            for port in rule.ports if rule.ports is not None else (Port(-1, acl.Ports.ANY),):
                if _entry_allows(peer, port, direction, pod, far=far, traffic=traffic, members=members):
                    places = [None if place < 0 else place for place in (peer.number, port.number)]
                    yield Origin(policy.namespace, policy.name, direction, rule.number, *places)


def _entry_allows(
    peer: Peer,
    port: Port,
    direction: str,
    pod: ContainerPorts,
    *,
    far: Address,
    traffic: tuple[int, int],
    members: Members,
) -> bool:
    if port.name is not None and direction == EGRESS:
        boxes = named_boxes(peer, port.name, members)
        return any(far in those and ports.contains(*traffic) for those, ports in boxes)
    ports = port.ports if port.name is None else resolve(pod, port.name)
    return ports.contains(*traffic) and far in addresses(peer, members)
