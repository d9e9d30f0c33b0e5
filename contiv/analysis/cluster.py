"""Who is where, and with which address: the cluster that a set of objects describes.

In: ``Objects`` and the address configuration. Out: ``Cluster``: nodes with their addresses, ends in order, and the
objects completed as agents would meet them. A pod has the addresses of its status; one that has none yet gets the next
of its node's pool, as the agent would give it. A pod without a node is taken to run on the first one. Nodes are those
of Node objects and of ``spec.nodeName``, in the order in which they appear. Their IDs are those that the cluster's
claims or addresses tell; others are claimed in that order. Pods that have finished are no ends. Pure. Next: ``tables``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from contiv.analysis.manifests import Objects
from contiv.config import Config
from contiv.errors import AnalysisError, NetworkError
from contiv.model import kube
from contiv.model.ip import BITS, Address, Network
from contiv.network.ipam import ClusterSubnets, NodeAddresses, PodPool

FIRST_NODE: Final = "node-1"
EXTERNAL: Final = "ext:"


class NodePlace(msgspec.Struct, frozen=True, kw_only=True):
    """A node: ``plan`` follows from its ID, ``given`` are the addresses of its object, ``own`` all that are its own."""

    name: str
    plan: NodeAddresses
    given: tuple[Address, ...]
    own: tuple[Address, ...]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One end of connections. ``pod`` is None outside of the cluster; then ``network`` is all of the end.

    ``on_host``: it has its node's addresses, so that policies take it for the node.
    """

    name: str
    node: str = ""
    addresses: tuple[Address, ...] = ()
    pod: kube.Pod | None = None
    on_host: bool = False
    network: Network | None = None

    def address(self, version: int) -> Address | None:
        """The first address of a family."""
        return next((each for each in self.addresses if each.version == version), None)


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster at one moment. ``objects`` have a UID and a node wherever these were left out."""

    nodes: Mapping[str, NodePlace]
    ends: tuple[End, ...]
    objects: tuple[kube.KubeObject, ...]
    subnets: ClusterSubnets
    notes: tuple[str, ...]

    def end(self, name: str) -> End:
        """The end of a name; AnalysisError when there is none."""
        for each in self.ends:
            if each.name == name:
                return each
        similar = [each.name for each in self.ends if each.name.rpartition("/")[2] == name.rpartition("/")[2]]
        hint = f"; there is {', '.join(similar)}" if similar else "; name it namespace/name, as in -o json"
        raise AnalysisError(f"pod {name}: not in the cluster, or finished{hint}")

    def at(self, text: str) -> End:
        """The end that has an address: a pod, a node by one of its host's pods, or the block ``text`` outside."""
        for each in self.ends:
            if any(str(address) == text for address in each.addresses) and each.network is None:
                return each
        return self.end(f"{EXTERNAL}{text}")


def build(found: Objects, config: Config, *, external: Sequence[str] = ()) -> Cluster:
    """The cluster of these objects, with blocks of addresses outside of it as further ends."""
    subnets = ClusterSubnets.of(config)
    pods = [thing for thing in found.objects if isinstance(thing, kube.Pod)]
    known = {thing.name: thing for thing in found.objects if isinstance(thing, kube.Node)}
    names = list(known | dict.fromkeys(pod.node_name for pod in pods if pod.node_name)) or [FIRST_NODE]
    told = _told_ids(known.values(), pods, subnets)
    ids = _node_ids(names, told | {claim.name: claim.id for claim in found.claims})
    placed = [_placed(pod, names[0]) for pod in pods]
    nodes = {name: _place(name, subnets.node(ids[name]), known.get(name), placed) for name in names}
    addressed = _addressed(placed, nodes)
    others = [thing for thing in found.objects if not isinstance(thing, kube.Pod)]
    spaces = {thing.name for thing in others if isinstance(thing, kube.Namespace)}
    implied = [
        kube.Namespace(name=name, labels={kube.NAMESPACE_NAME_LABEL: name})
        for name in dict.fromkeys(pod.namespace for pod in pods)
        if name not in spaces
    ]
    ends = [_end(pod) for pod in addressed if not pod.finished and any(_parsed(pod.pod_ips))]
    return Cluster(
        nodes=nodes,
        ends=(*sorted(ends, key=lambda end: end.name), *map(_outside, dict.fromkeys(external))),
        objects=(*others, *implied, *addressed),
        subnets=subnets,
        notes=(*found.notes, *_twins(ends)),
    )


def _told_ids(nodes: Iterable[kube.Node], pods: Iterable[kube.Pod], subnets: ClusterSubnets) -> dict[str, int]:
    """Node IDs that addresses give away: a node's own in the hosts' network, else those of its pods."""
    told = [(node.name, subnets.hosts, subnets.host_share_length, node.ips) for node in nodes]
    attached = [pod for pod in pods if not pod.host_network and not pod.finished]
    told += [(pod.node_name, subnets.pods, subnets.pod_share_length, pod.pod_ips) for pod in attached]
    ids: dict[str, int] = {}
    taken: set[int] = set()
    for name, network, length, texts in told:
        for address in _parsed(texts):
            if name and name not in ids and address in network:
                number = (address.value - network.network.value) >> (BITS[network.version] - length)
                number = number or 1 << (length - network.length)  # the last node has the first share
                if number not in taken and number <= subnets.node_id_max:
                    ids[name] = number
                    taken.add(number)
    return ids


def _node_ids(names: Sequence[str], claimed: Mapping[str, int]) -> dict[str, int]:
    """The node's own ID where it is known, else the next free one, as its agent would claim."""
    taken = set(claimed.values())
    ids = dict(claimed)
    number = 0
    for name in names:
        if name not in ids:
            number = next(
                candidate for candidate in range(number + 1, number + len(taken) + 2) if candidate not in taken
            )
            ids[name] = number
    return ids


def _place(name: str, plan: NodeAddresses, node: kube.Node | None, pods: Iterable[kube.Pod]) -> NodePlace:
    given = list(_parsed(node.ips)) if node is not None else []
    planned = [plan.pod_gateway, plan.uplink.address, plan.vxlan.address]
    planned += [plan.host_vpp.address, plan.host_linux.address]
    hosted = [each for pod in pods if pod.host_network and pod.node_name == name for each in _parsed(pod.pod_ips)]
    own = tuple(dict.fromkeys([*given, *planned, *hosted]))
    return NodePlace(name=name, plan=plan, given=tuple(given), own=own)


def _placed(pod: kube.Pod, first: str) -> kube.Pod:
    key = f"{pod.namespace}/{pod.name}"
    return msgspec.structs.replace(pod, node_name=pod.node_name or first, uid=pod.uid or key)


def _addressed(pods: Sequence[kube.Pod], nodes: Mapping[str, NodePlace]) -> list[kube.Pod]:
    """The pods with addresses: those that are given first keep theirs, the others get what is free."""
    pools = {name: PodPool(place.plan.pod_subnet) for name, place in nodes.items()}
    for pod in pods:
        if not pod.host_network and not pod.finished:
            for address in _parsed(pod.pod_ips):
                with contextlib.suppress(NetworkError):  # not of this pool, or given twice: noted elsewhere
                    pools[pod.node_name].claim(address, f"{pod.namespace}/{pod.name}")
    return [pod if pod.pod_ips else _with_address(pod, nodes[pod.node_name], pools) for pod in pods]


def _with_address(pod: kube.Pod, place: NodePlace, pools: Mapping[str, PodPool]) -> kube.Pod:
    if pod.finished:
        return pod
    if pod.host_network:
        planned = (*place.given, place.plan.host_linux.address)[0]
        address = pod.host_ip or str(planned)
    else:
        address = str(pools[pod.node_name].allocate(f"{pod.namespace}/{pod.name}"))
    return msgspec.structs.replace(pod, pod_ips=(address,))


def _parsed(texts: Iterable[str]) -> Iterator[Address]:
    """The addresses among ``texts``; contiv.policy reports the others with their field."""
    for text in texts:
        with contextlib.suppress(ValueError):
            yield Address.parse(text)


def _end(pod: kube.Pod) -> End:
    return End(
        name=f"{pod.namespace}/{pod.name}",
        node=pod.node_name,
        addresses=tuple(_parsed(pod.pod_ips)),
        pod=pod,
        on_host=pod.host_network,
    )


def _outside(text: str) -> End:
    try:
        network = Network.parse(text, strict=False).network
    except ValueError as error:
        raise AnalysisError(f"--external {text}: no CIDR: {error}; write 203.0.113.0/24") from error
    return End(name=f"{EXTERNAL}{text}", addresses=(network.address,), network=network)


def _twins(ends: Iterable[End]) -> list[str]:
    """Two running pods with one address: the answer for them is a guess, as it is for the data plane."""
    holders: dict[Address, str] = {}
    notes = []
    for end in ends:
        for address in () if end.on_host else end.addresses:
            other = holders.setdefault(address, end.name)
            if other != end.name:
                notes.append(f"pods {end.name}: status.podIPs: {address} is {other}'s too; correct one of them")
    return notes
