"""Which addresses, ports and protocols a service claims on this node. Pure.

In: a ``Service`` and what the node is (``NodeView``). Out: ``Claim`` values in order of kind, and faults for what
cannot be claimed: the rest of the service works. Headless services and ExternalName claim nothing.

Claims of different services may collide. The lower ``Kind`` wins: cluster IPs are Kubernetes' own to give, node ports
too; then host ports and load balancers; external IPs anybody may write (CVE-2020-8554). Among equals the first name
wins.
"""

from __future__ import annotations

from enum import IntEnum
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


class Kind(IntEnum):
    """Where an address of a service comes from; the lower one wins."""

    CLUSTER_IP = 0
    NODE_PORT = 1
    HEALTH_CHECK = 2
    HOST_PORT = 3
    LOAD_BALANCER = 4
    EXTERNAL_IP = 5


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


_KIND: Final = attrgetter("kind")


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What services must know of their node.

    ``uplink`` is the address that other nodes and the outside know, None while there is none. ``own_addresses``: every
    address that is this node's, on VPP's side and on the host's; NodePorts are answered on them. ``host``: where the
    host's stack is reached. ``hidden``: the source that clients get where they must be hidden (twice-NAT), the last
    of the node's pod subnet. ``interfaces``: those besides pods that clients or backends are behind;
    ``outside``: those of them that connections to pods' own addresses enter by, whose replies must keep their source;
    ``snat_interface``: what leaves by it gets the node's address, None for nothing. Networks: ``pods``, ``hosts``,
    ``services``, ``vxlan``, ``interconnect`` of the whole cluster, ``own_pods`` of the node.
    """

    name: str
    zone: str = ""
    uplink: Address | None
    interfaces: tuple[str, ...]
    outside: tuple[str, ...] = ()
    snat_interface: str | None
    own_addresses: tuple[Address, ...]
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
            if address != node.host and address.version == node.host.version
        )
    claims = _without_tunnel(service, claims, node, faults)
    claims.sort(key=_KIND)
    return tuple(claims), tuple(faults)


def _host_ports(service: PodPorts, node: NodeView) -> tuple[tuple[Claim, ...], tuple[Fault, ...]]:
    claims: list[Claim] = []
    faults: list[Fault] = []
    for index, (port, host_ip) in enumerate(zip(service.ports, service.host_ips, strict=True)):
        addresses = [each for each in node.own_addresses if not host_ip or str(each) == host_ip]
        protocol = PROTOCOLS.get(port.protocol)
        if protocol is None or not addresses:
            reason = f"{host_ip} is no address of this node" if protocol else f"{port.protocol} is unknown"
            faults.append(_fault(service, f"hostPort {port.port}", f"{reason}; not served"))
        else:
            claims.extend(Claim(Kind.HOST_PORT, address, port.port, protocol, index) for address in addresses)
    return tuple(_without_tunnel(service, claims, node, faults)), tuple(faults)


def _without_tunnel(service: kube.Service, claims: list[Claim], node: NodeView, faults: list[Fault]) -> list[Claim]:
    """The claims but for the port that VXLAN comes in by."""
    suspects = [claim for claim in claims if claim.port == VXLAN_PORT]
    taken = [claim for claim in suspects if claim.address == node.uplink and claim.protocol == PROTOCOLS["UDP"]]
    if not taken:
        return claims
    faults.append(_fault(service, "ports", f"UDP {VXLAN_PORT} of {node.uplink} carries VXLAN; choose another port"))
    return [claim for claim in claims if claim not in taken]


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
        found.append((Kind.CLUSTER_IP, address))
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
    packed, region = hashing.read_ipv4((text,), ())
    if region[0] != hashing.UNREADABLE:  # several times faster than the standard library
        return Address(4, int.from_bytes(packed, "big"))
    try:
        return Address.parse(text)
    except ValueError:
        return None


def _fault(service: kube.Service, field: str, reason: str) -> Fault:
    kind = "Pod" if isinstance(service, PodPorts) else "Service"
    return Fault(f"{kind} {service.namespace}/{service.name}", field, reason)
