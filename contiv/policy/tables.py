"""Access lists, from what is allowed to the lines that VPP gets. Pure.

VPP's order of features decides what stands where (VPP 26.06): on input an interface's access lists see a packet before
service translation, on output after it; the uplink's output would see it after source NAT, so nothing stands there.

====================== ============================================================================================
pod, input             ``guard``, then ``egress`` or, when the pod may reach everything, ``REFLECT``
pod, output            ``sources``, then ``ERRORS`` and ``ingress``, or ``REFLECT``
overlay, output        ``remote``
overlay, input         ``outside_guard``, then ``REFLECT``
host, output           ``remote``
host, input            ``outside_guard`` of services with source ranges, then ``REFLECT``
uplinks, input         ``outside_guard``, then ``PASS``
====================== ============================================================================================

(``overlay`` is the way to the other nodes, ``host`` the host interconnect.) Each of these has its place for lists from
the start, also without any, so that it can require one before it goes up.

A direct connection of a pod is judged by its ``egress``. One to a service passes there, and is judged again where it
leaves, with the backend as its destination and still the pod as its source: ``sources`` of local pods, ``remote``
elsewhere. Permits reflect, so that replies come back by session, which takes a list on both sides of an interface;
an interface without any is open. What a pod sends to itself never reaches VPP; what comes back to it through its own
service has the hairpin address. That address also hides outside clients of NodePorts and external addresses; they are
judged before it, by the guards, which keep a service's source ranges too. What no line allows, a line denies, so that
it can be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from contiv.fastpath import acl
from contiv.model.ip import Address, Network
from contiv.model.service import Frontend

REFLECT: Final = acl.Table.build([acl.permit()])
"""Everything passes, and its replies too."""
PASS: Final = acl.Table.build([acl.permit(reflect=False)])
"""Everything passes."""


ANYWHERE: Final = (Network.parse("0.0.0.0/0"), Network.parse("::/0"))
ERRORS: Final = acl.Table.from_rules(
    acl.Rule(acl.PERMIT, anywhere, anywhere, protocol=protocol, source_ports=types)
    for anywhere, protocol, types in (
        (ANYWHERE[0], acl.ICMP, (3, 3)),
        (ANYWHERE[0], acl.ICMP, (11, 12)),
        (ANYWHERE[1], acl.ICMP6, (1, 4)),
    )
)
"""ICMP errors come in: destination unreachable, which carries path MTUs, time exceeded, parameter problem; for IPv6
packet too big as well (RFC 792, RFC 4443). They are about what the pod has sent, and no session lets them back."""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What policies must know of the node.

    ``addresses`` are all of its own: what comes from them to its pods always passes. ``hairpin`` is what a pod's own
    connections come back from through its services (twice-NAT). ``services`` are the cluster's service networks;
    ``judged`` the networks that are reached by pods' interfaces, ``overlay`` and ``host`` alone, never by ``uplinks``.
    These are interfaces; "" for what the node does not have.
    """

    name: str
    addresses: tuple[Address, ...] = ()
    hairpin: tuple[Address, ...] = ()
    services: tuple[Network, ...] = ()
    judged: tuple[Network, ...] = ()
    overlay: str = ""
    host: str = ""
    uplinks: tuple[str, ...] = ()

    @property
    def exempt(self) -> acl.Peers:
        """What may always come in to the node's pods."""
        return acl.Peers.of([*self.addresses, *self.hairpin])


class Lists(msgspec.Struct, frozen=True):
    """The access lists of one interface, in order; without any on a side, that side is open."""

    input: tuple[acl.Table, ...] = ()
    output: tuple[acl.Table, ...] = ()


OPEN: Final = Lists()


class Usable(msgspec.Struct, frozen=True):
    """Service addresses with their ports that a pod's own list must decide about: translation alone would not."""

    denied: acl.Allowed = acl.Allowed.NONE
    allowed: acl.Allowed = acl.Allowed.NONE


def ingress(allowed: acl.Allowed, node: NodeView) -> acl.Table:
    """Who may come in to a pod that is isolated for ingress."""
    return acl.Table.build([acl.permit(node.exempt), acl.permit(allowed), acl.deny()])


def egress(allowed: acl.Allowed, usable: Usable, services: Iterable[Network]) -> acl.Table:
    """Whom a pod that is isolated for egress may address; what is behind ``services`` is judged later."""
    return acl.Table.build(
        [
            acl.deny(usable.denied, side="destination"),
            acl.permit(usable.allowed, side="destination"),
            acl.permit(acl.Peers.of(services), side="destination"),
            acl.permit(allowed, side="destination"),
            acl.deny(),
        ]
    )


def sources(peers: acl.Peers, allowed: acl.Allowed) -> acl.Table:
    """What isolated pods of this node, ``peers``, may do here: what ``allowed`` says of them and nothing else.

    That is already what both sides allow, since a permit here is final.
    """
    return acl.Table.build([acl.permit(allowed), acl.deny(peers)])


def grouped(pairs: Iterable[tuple[Address, acl.Ports]]) -> tuple[acl.Peers, acl.Allowed]:
    """All the addresses, and what each of them is allowed."""
    by_ports: dict[acl.Ports, list[Address]] = {}
    for address, ports in pairs:
        by_ports.setdefault(ports, []).append(address)
    boxes = [(acl.Peers.of(addresses), ports) for ports, addresses in by_ports.items()]
    return acl.Peers.union_of([peers for peers, _ in boxes]), acl.Allowed.of(boxes)


def remote(pods: Mapping[acl.Allowed, acl.Peers]) -> acl.Table:
    """What isolated pods of this node may reach beyond it: per set of egress rules, the pods that have it."""
    permits = [acl.permit(allowed, side="destination", own=own) for allowed, own in pods.items()]
    return acl.Table.build([*_ordered(permits), acl.deny(acl.Peers.union_of(pods.values())), acl.permit()])


def _ordered(blocks: Iterable[acl.Block]) -> list[acl.Block]:
    """Blocks of disjoint pods in an order that depends on nothing else: equal facts must give equal lists."""
    return sorted(blocks, key=lambda block: (block.own.networks(), block.side))


def guard(frontends: Iterable[Frontend]) -> acl.Table:
    """Services that would hide this pod's address from a backend that must not be reached from it."""
    return acl.Table.build([acl.deny(service_ports(frontends), side="destination")])


def outside_guard(allowed: Mapping[Frontend, acl.Peers]) -> acl.Table:
    """Who from outside may use services that hide the client; says nothing about other traffic."""
    blocks: list[acl.Block] = []
    for frontend in sorted(allowed, key=lambda each: each.key):
        ports = acl.Ports.of([(frontend.protocol, frontend.port, frontend.port)])
        own = acl.Peers.of([frontend.address])
        blocks.append(acl.permit(acl.Allowed.of([(allowed[frontend], ports)]), own=own, reflect=False))
        blocks.append(acl.deny(acl.Allowed.of([(acl.Peers.ANY, ports)]), own=own))
    return acl.Table.build(blocks)


def service_ports(frontends: Iterable[Frontend]) -> acl.Allowed:
    """The addresses of frontends with their ports."""
    return acl.Allowed.of(
        (acl.Peers.of([each.address]), acl.Ports.of([(each.protocol, each.port, each.port)])) for each in frontends
    )
