"""Which addresses, ports and protocols a service claims on this node. Pure.

In: a ``Service`` (host ports of a pod are one, ``hostports.py``) and what the node is (``NodeView``). Out: ``Claim``
values in order of kind, and faults for what cannot be claimed: the rest of the service works. Headless services and
ExternalName claim nothing, and nothing claims a port that the node needs itself (``Kept``).

Claims of different services may collide. The lower ``Kind`` wins: cluster IPs are Kubernetes' own to give, node ports
too; then host ports and load balancers; external IPs anybody may write (CVE-2020-8554). Among equals the first name
wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import product
from operator import attrgetter
from typing import Final

import msgspec

from contiv.fastpath import hashing
from contiv.model import kube
from contiv.model.ip import Address, Network
from contiv.model.service import FrontendKey
from contiv.service.endpoints import Fault, Place
from contiv.service.hostports import PodPorts

PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""IANA protocol numbers of core/v1 Protocol."""
PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
VXLAN_PORT: Final = 4789
"""RFC 7348 section 5."""
LOCAL_POLICY: Final = "Local"
POD: Final = "Pod "
_KIND: Final = attrgetter("kind")


class Kind(IntEnum):
    """Where an address of a service comes from; the lower one wins."""

    CLUSTER_IP = 0
    NODE_PORT = 1
    HEALTH_CHECK = 2
    HOST_PORT = 3
    LOAD_BALANCER = 4
    EXTERNAL_IP = 5


# Python 3.11 finds a member of an enumeration slowly, and every service is asked for these two.
CLUSTER_IP: Final = Kind.CLUSTER_IP
HEALTH_CHECK: Final = Kind.HEALTH_CHECK


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One address, port and protocol. ``index`` is the place in the service's ports, -1 for the health check's."""

    kind: int
    address: Address
    port: int
    protocol: int
    index: int

    @property
    def key(self) -> FrontendKey:
        """What is claimed."""
        return (self.protocol, self.address, self.port)


class Kept(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Ports ``first`` to ``last`` of one of the node's addresses that the node needs itself; ``use`` says what for.

    ``from_host_ports``: host ports alone may not have them, since NodePorts come from a range that whoever runs the
    cluster keeps for them.
    """

    protocols: tuple[int, ...]
    address: Address
    first: int
    last: int
    use: str
    remedy: str = "choose another port"
    from_host_ports: bool = False

    def holds(self, claim: Claim) -> bool:
        """Whether the claim is one that nobody may make."""
        return (
            claim.address == self.address
            and self.first <= claim.port <= self.last
            and claim.protocol in self.protocols
            and (claim.kind == Kind.HOST_PORT or not self.from_host_ports)
        )


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What services must know of their node.

    ``uplink`` is the address that other nodes and the outside know, None while there is none. ``own_addresses``: every
    address that is this node's, on VPP's side and on the host's; NodePorts are answered on them. ``host``: where the
    host's stack is reached. ``hidden``: the source that clients get where they must be hidden (twice-NAT), the last
    of the node's pod subnet. ``interfaces``: those besides pods that clients or backends are behind;
    ``outside``: those of them that connections to pods' own addresses enter by, whose replies must keep their source;
    ``snat_interface``: what leaves by it gets the node's address, None for nothing. ``kept``: ports of its addresses
    that nobody may claim, besides VXLAN's. Networks: ``pods``, ``hosts``, ``services``, ``vxlan``, ``interconnect`` of
    the whole cluster, ``own_pods`` of the node.
    """

    name: str
    zone: str = ""
    uplink: Address | None
    interfaces: tuple[str, ...]
    outside: tuple[str, ...] = ()
    snat_interface: str | None
    own_addresses: tuple[Address, ...]
    kept: tuple[Kept, ...] = ()
    host: Address
    hidden: Address
    pods: Network
    own_pods: Network
    hosts: Network
    services: Network
    vxlan: Network
    interconnect: Network

    @property
    def place(self) -> Place:
        """Where endpoints are judged from."""
        return Place(
            node=self.name,
            zone=self.zone,
            own_pods=self.own_pods,
            own_addresses=frozenset(self.own_addresses),
            pods=self.pods,
            services=self.services,
        )

    def belongs_to_nodes(self, address: Address) -> bool:
        """Whether the address is some node's, by the subnets that nodes have theirs from."""
        return address in self.own_addresses or address in self.hosts or address in self.interconnect

    def seen_as(self, node: kube.Node | None) -> NodeView:
        """The same node with what its Kubernetes object adds: zone and addresses."""
        if node is None:
            return msgspec.structs.replace(self, zone="")
        known = list(self.own_addresses)
        for text in node.ips:
            address = _parsed(text)
            if address is not None and address not in known:
                known.append(address)
        return msgspec.structs.replace(self, zone=node.zone, own_addresses=tuple(known))


def claims_of(service: kube.Service, node: NodeView) -> tuple[tuple[Claim, ...], tuple[Fault, ...]]:
    """What the service claims, and what is wrong with it."""
    if isinstance(service, PodPorts):
        return _host_ports(service, node)
    if service.headless or service.type == "ExternalName":
        return (), ()
    faults: list[Fault] = []
    addresses = _cluster_ips(service, node, faults)
    if service.external_ips or service.type == "LoadBalancer":
        addresses += _external(service, node, faults)
    claims: list[Claim] = []
    for index, port in enumerate(service.ports):
        protocol = PROTOCOLS.get(port.protocol)
        if protocol is None:
            faults.append(_fault(service, f"ports[{index}].protocol", f"{port.protocol} is none of TCP, UDP, SCTP"))
            continue
        claims += [Claim(kind, address, port.port, protocol, index) for kind, address in addresses]
        if port.node_port and service.type in ("NodePort", "LoadBalancer"):
            claims.extend(
                Claim(Kind.NODE_PORT, address, port.node_port, protocol, index) for address in node.own_addresses
            )
    if has_health_check(service):
        claims.extend(
            Claim(Kind.HEALTH_CHECK, address, service.health_check_node_port, PROTOCOLS["TCP"], -1)
            for address in node.own_addresses
            if address.version == node.host.version
        )
    claims.sort(key=_KIND)
    return tuple(_free(service, claims, node, faults)), tuple(faults)


def _host_ports(service: PodPorts, node: NodeView) -> tuple[tuple[Claim, ...], tuple[Fault, ...]]:
    """A port that names its address comes before one of the same pod that takes any, as a socket's would."""
    address = _parsed(service.address)
    if address is None or address not in node.own_pods:
        reason = f"{service.address} is no address of this node's pods ({node.own_pods}), so its host ports are closed"
        return (), (_fault(service, "status.podIPs", reason),)
    claims: list[Claim] = []
    faults: list[Fault] = []
    for index, port in enumerate(service.ports):
        field, host_ip = field_of(service, index), service.host_ips[index]
        addresses = [_parsed(host_ip)] if host_ip else node.own_addresses
        protocol = PROTOCOLS.get(port.protocol)
        if protocol is None:
            faults.append(_fault(service, field, f"{port.protocol} is none of TCP, UDP, SCTP"))
            continue
        for own in addresses:
            if own is None or own not in node.own_addresses:
                known = ", ".join(map(str, node.own_addresses))
                reason = f"hostIP {host_ip} is none of this node's addresses ({known}); not served"
                faults.append(_fault(service, field, reason))
            else:
                claims.append(Claim(Kind.HOST_PORT, own, port.port, protocol, index))
    claims.sort(key=lambda claim: not service.host_ips[claim.index])
    return tuple(_free(service, claims, node, faults)), tuple(faults)


def _free(service: kube.Service, claims: list[Claim], node: NodeView, faults: list[Fault]) -> list[Claim]:
    """The claims, in order of kind, but for those of ports that the node needs itself."""
    if not claims or claims[-1].kind == CLUSTER_IP:
        return claims
    kept = (*node.kept, *_tunnel(node))
    free: list[Claim] = []
    for claim in claims:
        found = next((each for each in kept if each.holds(claim)), None)
        if found is None:
            free.append(claim)
        else:
            what = f"{PROTOCOL_NAMES[claim.protocol]} {claim.port} of {claim.address}"
            faults.append(_fault(service, "ports", f"{what} {found.use}; {found.remedy}"))
    return free


def _tunnel(node: NodeView) -> Iterator[Kept]:
    if node.uplink is not None:
        protocols = (PROTOCOLS["UDP"],)
        yield Kept(protocols=protocols, address=node.uplink, first=VXLAN_PORT, last=VXLAN_PORT, use="carries VXLAN")


def has_health_check(service: kube.Service) -> bool:
    """Whether load balancers may ask this node for endpoints of its own (core/v1 healthCheckNodePort)."""
    return (
        service.type == "LoadBalancer"
        and service.health_check_node_port > 0
        and service.external_traffic_policy == LOCAL_POLICY
    )


def source_ranges(service: kube.Service) -> tuple[tuple[Network, ...], tuple[Fault, ...]]:
    """loadBalancerSourceRanges as networks; those that cannot be read are left out, which lets nobody more in."""
    ranges: list[Network] = []
    faults: list[Fault] = []
    for number, text in enumerate(service.load_balancer_source_ranges):
        try:
            ranges.append(Network.parse(text.strip(), strict=False).network)
        except ValueError as error:
            faults.append(_fault(service, f"loadBalancerSourceRanges[{number}]", f"{error}; left out"))
    return tuple(ranges), tuple(faults)


def _cluster_ips(service: kube.Service, node: NodeView, faults: list[Fault]) -> list[tuple[int, Address]]:
    found: list[tuple[int, Address]] = []
    for number, text in enumerate(service.cluster_ips):
        address = _parsed(text)
        if address is None:
            faults.append(_fault(service, f"clusterIPs[{number}]", f"{text!r} is no IP address"))
            continue
        found.append((CLUSTER_IP, address))
        if address not in node.services and address.version == node.services.version:
            reason = f"{text} lies outside of the service CIDR {node.services}, so that hosts do not reach it"
            remedy = "set ipamConfig.serviceCIDR as the API server has it"
            faults.append(_fault(service, f"clusterIPs[{number}]", f"{reason}; {remedy}"))
    return found


def _external(service: kube.Service, node: NodeView, faults: list[Fault]) -> list[tuple[int, Address]]:
    """External IPs and, of a load balancer, the addresses that are ours to answer (ipMode VIP)."""
    texts = [(Kind.EXTERNAL_IP, f"externalIPs[{i}]", text) for i, text in enumerate(service.external_ips)]
    if service.type == "LoadBalancer":
        texts += [
            (Kind.LOAD_BALANCER, f"status.loadBalancer.ingress[{i}].ip", each.ip)
            for i, each in enumerate(service.load_balancer_ingress)
            if each.ip and each.ip_mode != "Proxy"
        ]
    found: list[tuple[int, Address]] = []
    for kind, where, text in texts:
        address = _parsed(text)
        reason = f"{text!r} is no IP address" if address is None else _unfit(address, node)
        if reason:
            faults.append(_fault(service, where, reason))
        elif address is not None:
            found.append((kind, address))
    return found


def _unfit(address: Address, node: NodeView) -> str:
    """Why nobody may claim the address from outside; "" if one may."""
    taken = {"pods": node.pods, "services": node.services, "the VXLAN between nodes": node.vxlan}
    for whose, network in taken.items():
        if address in network:
            return f"{address} lies in {network}, which belongs to {whose}; not served: choose an address outside"
    first = address.packed[0]
    if address.version == 4 and (first in (0, 127) or first >= 224):
        return f"{address} is no unicast address; not served"
    return ""


def _parsed(text: str) -> Address | None:
    value = hashing.ipv4(text)
    if value is not None:  # several times faster than the standard library
        return Address(4, value)
    try:
        return Address.parse(text)
    except ValueError:
        return None


def speaking(addresses: Iterable[Address], ranges: Iterable[tuple[int, int]]) -> Iterator[Kept]:
    """Where replies to the host's own connections come in: a host port there would take them for its clients."""
    use = "is one that the host's own connections come from (net.ipv4.ip_local_port_range), so it is not served there"
    remedy = "choose another port, or reserve it in net.ipv4.ip_local_reserved_ports and start the agent anew"
    for address, (first, last) in product(addresses, ranges):
        yield Kept(
            protocols=tuple(PROTOCOLS.values()),
            address=address,
            first=first,
            last=last,
            use=use,
            remedy=remedy,
            from_host_ports=True,
        )


def name_of(service: kube.Service) -> str:
    """What a service is known by: ``namespace/name``. A pod's host ports have a blank in it, as no service can."""
    name = f"{service.namespace}/{service.name}"
    return f"{POD}{name}" if isinstance(service, PodPorts) else name


def field_of(service: kube.Service, index: int) -> str:
    """Where a port of it is written."""
    return f"hostPort {service.ports[index].port}" if isinstance(service, PodPorts) else f"ports[{index}]"


def object_of(name: str) -> str:
    """The Kubernetes object that has a name as ``name_of`` gives it."""
    return name if name.startswith(POD) else f"Service {name}"


def _fault(service: kube.Service, field: str, reason: str) -> Fault:
    return Fault(object_of(name_of(service)), field, reason)
