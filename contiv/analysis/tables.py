"""The access lists of every node of a cluster, and which of them a packet meets on its way.

In: a ``Cluster``, and its services where it has some. Out: ``ClusterTables``: ``way`` gives the ``Hop``s between two
ends, each with the lists that the node's agent would bind there. Nodes are rendered when they are first asked for.
Pure. Next: ``reach``, ``explain``, ``trace``.

The way of a packet (the order within a node is VPP's, see contiv.policy.tables)::

    pod ─ input of its interface ─▶ [overlay, output ─▶ overlay of the other node, input] ─▶ output of the pod's
    host ─ input of the host interconnect ─▶ …                                             ─▶ … or of the host's
    outside ─ input of the uplink ─▶ …                                                     ─▶ … (nothing, outside)
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from contiv.analysis.cluster import Cluster, End
from contiv.analysis.services import ClusterServices
from contiv.errors import AnalysisError
from contiv.fastpath import acl
from contiv.model import kube
from contiv.model.node import Attachment
from contiv.network.render_host import HOST_VPP
from contiv.network.render_node import BVI
from contiv.policy import rules
from contiv.policy.local import Local
from contiv.policy.state import PolicyState
from contiv.policy.tables import OPEN, NodeView

UPLINK: Final = "uplink"
POD_INTERFACE: Final = "eth0"

Side = Literal["input", "output"]


class Hop(msgspec.Struct, frozen=True):
    """One side of one interface with its access lists; without lists it is open."""

    node: str
    interface: str
    side: Side
    lists: tuple[acl.Table, ...]

    def __str__(self) -> str:
        return f"{self.node}, {self.side} of {self.interface}"


class ClusterTables:
    """The rendered policies of a cluster's nodes; with ``services``, those that policies must know are known too."""

    def __init__(self, cluster: Cluster, services: ClusterServices | None = None) -> None:
        self.cluster = cluster
        self._services = services
        self._states: dict[str, PolicyState] = {}
        self._policies = {
            (each.namespace, each.name): each for each in cluster.objects if isinstance(each, kube.NetworkPolicy)
        }

    def state(self, node: str) -> PolicyState:
        """The policies as they bear on one node, settled."""
        if node not in self._states:
            self._states[node] = self._rendered(node)
        return self._states[node]

    def local(self, end: End) -> Local:
        """What policies make of a pod; AnalysisError for an end that they do not select."""
        found = None if end.pod is None else self.state(end.node).local(end.pod.namespace, end.pod.name)
        if found is None:
            raise AnalysisError(f"{end.name}: is no pod with an interface of its own; policies do not select it")
        return found

    def directions(self, namespace: str, name: str) -> frozenset[str]:
        """The directions in which a policy isolates."""
        return frozenset(rules.read(self._policies[namespace, name]).rules)

    def faults(self) -> list[rules.Fault]:
        """What is wrong with the cluster's policies and pods; every node would report the same."""
        return self.state(next(iter(self.cluster.nodes))).faults()

    def hop(self, node: str, interface: str, side: Side) -> Hop:
        """One side of one interface."""
        return Hop(node, interface, side, getattr(self.state(node).lists.get(interface, OPEN), side))

    def way(self, source: End, destination: End) -> list[Hop]:
        """What a packet passes; nothing within one pod or one host, which never come to VPP."""
        if source.name == destination.name or (source.network and destination.network):
            return []
        if source.on_host and destination.on_host and source.node == destination.node:
            return []
        hops = [self.hop(destination.node, UPLINK, "input") if source.network else self.entry(source)]
        if source.node and destination.node and source.node != destination.node:
            hops.append(self.hop(source.node, BVI, "output"))
            hops.append(self.hop(destination.node, BVI, "input"))
        hops.append(self.hop(source.node, UPLINK, "output") if destination.network else self.exit(destination))
        return hops

    def entry(self, end: End) -> Hop:
        """Where packets of an end in the cluster come in."""
        return self.hop(end.node, HOST_VPP if end.on_host else end.name, "input")

    def exit(self, end: End) -> Hop:
        """Where packets to an end in the cluster leave."""
        return self.hop(end.node, HOST_VPP if end.on_host else end.name, "output")

    def _rendered(self, node: str) -> PolicyState:
        state = PolicyState(self._view(node))
        state.load(self.cluster.objects)
        for end in self.cluster.ends:
            if end.node == node and end.pod is not None and not end.on_host:
                state.attach(end.name, _attachment(end))
        if self._services:
            state.set_frontends(self._services.frontends(node))
        state.complete = True
        state.settle()
        return state

    def _view(self, node: str) -> NodeView:
        place, subnets = self.cluster.nodes[node], self.cluster.subnets
        return NodeView(
            name=node,
            addresses=place.own,
            hairpin=(place.plan.nat_loopback,),
            services=(subnets.services,),
            judged=(subnets.pods, subnets.hosts),
            overlay=BVI,
            host=HOST_VPP,
            uplinks=(UPLINK,),
        )


def _attachment(end: End) -> Attachment:
    """The attachment that CNI would have made; the interface has the pod's name, for people."""
    assert end.pod is not None, "only pods are attached"
    return Attachment(
        container_id=end.name,
        if_name=POD_INTERFACE,
        netns="",
        pod_namespace=end.pod.namespace,
        pod_name=end.pod.name,
        pod_uid=end.pod.uid,
        address=str(end.addresses[0]),
        interface=end.name,
        pod_mac="",
        vpp_mac="",
    )
