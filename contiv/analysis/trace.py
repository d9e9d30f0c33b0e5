"""The way of one connection, from state alone: access lists, services, source translation, next hops, tunnels. Pure.

In: ``ClusterTables`` with services, a source, an address with port and protocol. Out: a ``Trace``. Every backend that
may be chosen is followed to its end; the steps shown are those of one of them, picked by a Maglev table over the flow,
since VPP's NAT44-ED draws a backend at random, by weight, for each connection (or keeps the one that session affinity
remembers).

A packet comes to a node by an interface, meets its input lists, is translated where its destination is a frontend of
that node, is routed, and meets the output lists of the interface that it leaves by; then it is delivered, or comes to
the next node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from contiv.analysis.cluster import End
from contiv.analysis.services import Answered, Candidate, ClusterServices
from contiv.analysis.tables import UPLINK, ClusterTables, Hop
from contiv.analysis.traffic import Traffic
from contiv.errors import AnalysisError
from contiv.fastpath import acl, hashing
from contiv.model.ip import Address
from contiv.network.render_host import HOST_VPP
from contiv.network.render_node import BVI
from contiv.service.frontends import object_of
from contiv.service.renderer import Answer

NODES_MAX: Final = 4
"""Nodes that a packet may pass: its own, one whose NodePort it asks, the backend's; more would be a loop."""
EPHEMERAL_PORT: Final = 32768
"""The source port that stands for any: the first one that Linux gives (ip(7), ip_local_port_range)."""
TABLE_SIZE: Final = 1021
"""A prime, well above the 254 backends that a mapping can have."""
DELIVERED, DENIED, DROPPED, REFUSED, LEFT = "delivered", "denied", "dropped", "refused", "left the cluster"


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happens on a node. ``kind``: access list, service, source, next hop, end."""

    node: str
    kind: str
    text: str
    passes: bool = True
    interface: str = ""
    side: str = ""
    table: str = ""
    line: int | None = None


class Followed(msgspec.Struct, frozen=True):
    """A candidate with what becomes of a connection to it."""

    address: str
    port: int
    pod: str
    node: str
    weight: int
    verdict: str


class Served(msgspec.Struct, frozen=True):
    """The service that answers, its candidates, and the one that the steps follow."""

    name: str
    frontend: str
    node: str
    answer: str
    candidates: tuple[Followed, ...]
    chosen: str
    affinity_s: int


class Trace(msgspec.Struct, frozen=True):
    """A connection: who asks whom, what comes of it, and the steps."""

    source: str
    source_address: str
    destination: str
    verdict: str
    service: Served | None
    steps: tuple[Step, ...]


class _Packet(msgspec.Struct, frozen=True):
    """The first packet of the connection where it stands: on a node, come in by an interface."""

    node: str
    interface: str
    source: Address
    destination: Address
    port: int


class Tracer:
    """Follows connections through one cluster. ``owners`` and ``node_of`` say whose an address is."""

    def __init__(self, tables: ClusterTables, services: ClusterServices) -> None:
        self.tables = tables
        self.services = services
        self.owners: Mapping[Address, End] = {
            address: end for end in reversed(tables.cluster.ends) if end.network is None for address in end.addresses
        }
        self.node_of: Mapping[Address, str] = {
            address: name for name, place in tables.cluster.nodes.items() for address in place.own
        }

    def trace(self, source: End, destination: Address, traffic: Traffic) -> Trace:
        """The way of a connection; AnalysisError where it has none to begin with."""
        own = source.address(destination.version)
        if own is None:
            raise AnalysisError(f"{source.name}: has no IPv{destination.version} address to reach {destination} from")
        packet = _Packet(*self._entry(source, destination), own, destination, traffic.port)
        journey = _Journey(self, traffic)
        if source.name == getattr(self.owners.get(destination), "name", ""):
            steps, verdict = [Step(source.node, "end", "a pod reaches itself without VPP")], DELIVERED
        else:
            steps, verdict = journey.follow(packet)
        text = str(destination) if destination.version == 4 else f"[{destination}]"
        where = text if traffic.port == 0 else f"{text}:{traffic.port}"
        return Trace(source.name, str(own), f"{where}/{traffic.protocol}", verdict, journey.served, tuple(steps))

    def _entry(self, source: End, destination: Address) -> tuple[str, str]:
        """The node and interface that the source's packets come in by."""
        if source.network is None:
            return source.node, HOST_VPP if source.on_host else source.name
        owner = self.owners.get(destination)
        asked = self.node_of.get(destination) or (owner.node if owner is not None else "")
        return asked or next(iter(self.tables.cluster.nodes)), UPLINK


class _Journey:
    """One connection. ``served`` is the service that it met."""

    def __init__(self, tracer: Tracer, traffic: Traffic) -> None:
        self._tracer = tracer
        self._tables = tracer.tables
        self._cluster = tracer.tables.cluster
        self._traffic = traffic
        self.served: Served | None = None

    def follow(self, packet: _Packet, *, nodes: int = 0) -> tuple[list[Step], str]:
        """What happens to a packet from where it stands, and what comes of it."""
        if nodes >= NODES_MAX:
            return [Step(packet.node, "end", "goes in circles", passes=False)], DROPPED
        step, passes = self._judged(self._tables.hop(packet.node, packet.interface, "input"), packet)
        if not passes:
            return [step], DENIED
        protocol, _, _ = self._traffic.header(packet.destination.version)
        answered = self._tracer.services.answered(packet.node, packet.destination, packet.port, protocol)
        if answered is None:
            steps, verdict = self._route(packet, nodes)
        else:
            steps, verdict = self._serve(packet, answered, nodes)
        return [step, *steps], verdict

    # ---------------------------------------------------------------- services

    def _serve(self, packet: _Packet, answered: Answered, nodes: int) -> tuple[list[Step], str]:
        frontend = f"{packet.destination}:{packet.port}/{self._traffic.protocol}"
        title = f"{frontend} is {_named(answered)}"
        if answered.answer is not Answer.SERVE:
            refused = answered.answer is Answer.REFUSE
            why = "no endpoint: refused at once" if refused else "no endpoint on this node (traffic policy Local)"
            self.served = Served(answered.service, frontend, packet.node, answered.answer.value, (), "", 0)
            return [Step(packet.node, "service", f"{title}: {why}", passes=False)], REFUSED if refused else DROPPED
        ways = {each: self._translated(packet, each, answered, nodes) for each in answered.candidates}
        chosen = _chosen(packet, answered.candidates, self._traffic)
        followed = tuple(self._followed(each, verdict) for each, (_, verdict) in ways.items())
        self.served = Served(
            answered.service,
            frontend,
            packet.node,
            answered.answer.value,
            followed,
            f"{chosen.address}:{chosen.port}",
            answered.affinity_s,
        )
        others = f", one of {len(ways)}" if len(ways) > 1 else ""
        steps, verdict = ways[chosen]
        return [Step(packet.node, "service", f"{title}: to {chosen.address}:{chosen.port}{others}"), *steps], verdict

    def _translated(
        self, packet: _Packet, candidate: Candidate, answered: Answered, nodes: int
    ) -> tuple[list[Step], str]:
        """The way on to one backend."""
        hairpin = candidate.address == packet.source
        hidden = self._cluster.nodes[packet.node].plan.nat_loopback
        source = hidden if answered.hide_client or hairpin else packet.source
        onward = msgspec.structs.replace(packet, source=source, destination=candidate.address, port=candidate.port)
        steps, verdict = self._route(onward, nodes)
        if source == packet.source:
            return steps, verdict
        why = "its own backend" if hairpin else "replies must come back by this node"
        return [Step(packet.node, "source", f"{packet.source} becomes {source}: {why}"), *steps], verdict

    def _followed(self, candidate: Candidate, verdict: str) -> Followed:
        owner = self._tracer.owners.get(candidate.address)
        name, node = (owner.name, owner.node) if owner is not None else ("", "")
        return Followed(str(candidate.address), candidate.port, name, node, candidate.weight, verdict)

    # ---------------------------------------------------------------- routes

    def _route(self, packet: _Packet, nodes: int) -> tuple[list[Step], str]:
        """Where the packet goes from this node."""
        here, destination = packet.node, packet.destination
        owner = self._tracer.owners.get(destination)
        if owner is not None and not owner.on_host:
            return self._to_pod(packet, owner, nodes)
        if destination in self._cluster.subnets.services:
            return [Step(here, "end", f"{destination}: no service has it: refused", passes=False)], REFUSED
        if destination in self._cluster.subnets.pods:
            return [Step(here, "end", f"{destination}: no pod has it", passes=False)], DROPPED
        node = self._tracer.node_of.get(destination) or (owner.node if owner is not None else "")
        if node == here:
            return self._to_host(packet)
        if node and destination != self._cluster.nodes[node].plan.uplink.address:
            return self._to_node(packet, node, nodes)
        return self._by_uplink(packet, node, nodes)

    def _to_pod(self, packet: _Packet, owner: End, nodes: int) -> tuple[list[Step], str]:
        if owner.node != packet.node:
            return self._to_node(packet, owner.node, nodes)
        step, passes = self._judged(self._tables.exit(owner), packet)
        if not passes:
            return [step], DENIED
        return [step, Step(packet.node, "end", f"delivered to {owner.name} ({packet.destination})")], DELIVERED

    def _to_host(self, packet: _Packet) -> tuple[list[Step], str]:
        plan = self._cluster.nodes[packet.node].plan
        if packet.destination in (plan.pod_gateway, plan.vxlan.address, plan.host_vpp.address):
            return [Step(packet.node, "end", f"{packet.destination} is VPP's own: it answers pings alone")], DELIVERED
        step, passes = self._judged(self._tables.hop(packet.node, HOST_VPP, "output"), packet)
        if not passes:
            return [step], DENIED
        return [step, Step(packet.node, "end", f"delivered to the host ({packet.destination})")], DELIVERED

    def _to_node(self, packet: _Packet, node: str, nodes: int) -> tuple[list[Step], str]:
        """By VXLAN to another node."""
        step, passes = self._judged(self._tables.hop(packet.node, BVI, "output"), packet)
        if not passes:
            return [step], DENIED
        here, there = self._cluster.nodes[packet.node].plan, self._cluster.nodes[node].plan
        tunnel = f"VXLAN from {here.uplink.address} to {there.uplink.address}"
        text = f"{packet.destination} by way of {there.vxlan.address} on {node}, {tunnel}"
        onward = msgspec.structs.replace(packet, node=node, interface=BVI)
        steps, verdict = self.follow(onward, nodes=nodes + 1)
        return [step, Step(packet.node, "next hop", text, interface=BVI), *steps], verdict

    def _by_uplink(self, packet: _Packet, node: str, nodes: int) -> tuple[list[Step], str]:
        """To the outside, or to another node by its uplink's address, with this node's address as source."""
        step, passes = self._judged(self._tables.hop(packet.node, UPLINK, "output"), packet)
        if not passes:
            return [step], DENIED
        steps = [step]
        own = self._cluster.nodes[packet.node].plan.uplink.address
        inside = packet.source in self._cluster.subnets.pods or packet.source in self._tracer.node_of
        if inside and packet.source != own and own.version == packet.source.version:
            steps.append(Step(packet.node, "source", f"{packet.source} becomes {own}: it leaves the cluster's network"))
            packet = msgspec.structs.replace(packet, source=own)
        steps.append(Step(packet.node, "next hop", f"{packet.destination} by the uplink", interface=UPLINK))
        if not node:
            return [*steps, Step(packet.node, "end", f"{packet.destination} is outside of the cluster")], LEFT
        onward = msgspec.structs.replace(packet, node=node, interface=UPLINK)
        further, verdict = self.follow(onward, nodes=nodes + 1)
        return [*steps, *further], verdict

    # ---------------------------------------------------------------- lists

    def _judged(self, hop: Hop, packet: _Packet) -> tuple[Step, bool]:
        """What an interface's lists say of the packet as it is there."""
        traffic = msgspec.structs.replace(self._traffic, port=packet.port)
        protocol, source_port, port = traffic.header(packet.source.version)
        verdict = acl.evaluate_lists(hop.lists, packet.source, packet.destination, protocol, source_port, port)
        table, line, text = "", None, "open"
        if hop.lists:
            text = "deny, since no line matches"
        if verdict.table is not None and verdict.line is not None:
            chosen = hop.lists[verdict.table]
            table, line, text = chosen.name, verdict.line, str(chosen[verdict.line])
        step = Step(
            hop.node,
            "access list",
            text,
            passes=verdict.permitted,
            interface=hop.interface,
            side=hop.side,
            table=table,
            line=line,
        )
        return step, verdict.permitted


def _named(answered: Answered) -> str:
    """A service by the kind of its address, or the pod whose host port it is."""
    kind = answered.kind.lower().replace("_", " ")
    what, _, name = object_of(answered.service).partition(" ")
    return f"{what.lower()} {name} ({kind})"


def _chosen(packet: _Packet, candidates: tuple[Candidate, ...], traffic: Traffic) -> Candidate:
    """The candidate that a Maglev table gives the flow; equal flows get equal answers."""
    names = [each.address.packed + each.port.to_bytes(2, "big") for each in candidates]
    weights = np.array([each.weight for each in candidates], np.uint32)
    table = hashing.maglev(hashing.fingerprints(names), TABLE_SIZE, weights)
    return candidates[int(table[hashing.fingerprint(_flow(packet, traffic)) % TABLE_SIZE])]


def _flow(packet: _Packet, traffic: Traffic) -> bytes:
    ports = EPHEMERAL_PORT.to_bytes(2, "big") + packet.port.to_bytes(2, "big")
    return packet.source.packed + packet.destination.packed + ports + traffic.protocol.encode()
