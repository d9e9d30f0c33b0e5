"""How pods leave the cluster with the node's address where other nodes are reached by the same NIC. Pure.

NAT44-ED translates sources on the output of an interface, whatever the destination. Over VXLAN that interface is the
uplink: what goes to other nodes' pods is inside tunnels by then. Without overlay both leave by it, and only one of
them may be translated. So pods' packets (and nobody else's) are looked up in a table of their own. It sends what stays
in the cluster on to the main table, and everything else through a loopback that is NAT's interface and hands back
what it gets::

    pod ─ diverted to table 4096 ─┬─ pods, hosts, services, nodes ─▶ main table ─▶ uplink, as it is
                                  └─ the rest ─▶ "snat" (output NAT) ═ loops ═▶ main table ─▶ uplink, the node's address

The main table is untouched: routes, leases and neighbours of the uplink are as without it. Replies come in by the
uplink, which is outside for NAT. What a pod answers to somebody who reached it by its own address is left alone, by
the session that his first packet made there.
"""

from __future__ import annotations

from typing import Final

from contiv.model import vpp
from contiv.model.ip import Address, Network
from contiv.model.node import NodeClaim
from contiv.network.ipam import ClusterSubnets, NodeAddresses
from contiv.network.naming import node_mac
from contiv.network.render_host import POD_GATEWAY
from contiv.network.render_nic import DEFAULT_ROUTE, Desired, Nic, Uplink

SNAT: Final = "snat"
SNAT_INSTANCE: Final = 1
SNAT_MAC: Final = (0x12, 0x2F)
POD_TABLE: Final = 4096
LABEL: Final = "pods-way-out"
FAR_END: Final = Address.parse("169.254.0.1")
"""A next hop for the loopback, which is its own neighbour (RFC 3927: nobody routes there)."""


def render(subnets: ClusterSubnets, node: NodeAddresses, uplink: Uplink, *, nics: tuple[Nic, ...]) -> Desired:
    """The loopback and the pods' table with all but the other nodes' addresses."""
    mac = node_mac(SNAT_MAC, node.node_id)
    values: list[vpp.Value] = [
        # the MTU of where everything leaves: who sends too much is told before his address is translated
        vpp.Loopback(name=SNAT, instance=SNAT_INSTANCE, mac=mac, mtu=uplink.mtu),
        vpp.Unnumbered(interface=SNAT, lender=POD_GATEWAY),
        vpp.Neighbour(interface=SNAT, address=FAR_END, mac=mac),
        vpp.AdminUp(interface=SNAT),
        vpp.Vrf(table_id=POD_TABLE, version=4, label=LABEL),
        vpp.Route(vrf=POD_TABLE, destination=DEFAULT_ROUTE, gateway=FAR_END, interface=SNAT),
    ]
    own = [nic.address for nic in (uplink, *nics) if nic.address is not None]
    own += [address for address in uplink.shared if address.version == 4]
    inside = [
        subnets.pods,
        subnets.hosts,
        subnets.services,
        subnets.vxlan,
        *(address.address.host_network for address in own),
    ]
    values += [_as_main(destination) for destination in dict.fromkeys(inside)]
    return dict(vpp.entry(value) for value in values)


def render_node(other: NodeClaim) -> Desired:
    """Another node's own address: it sees the pods that call it."""
    return dict([vpp.entry(_as_main(other.uplink_address.host_network))])


def diverted(interface: str) -> vpp.Diversion:
    """A pod's interface looks packets up in the pods' table."""
    return vpp.Diversion(interface=interface, table_id=POD_TABLE)


def _as_main(destination: Network) -> vpp.Route:
    return vpp.Route(vrf=POD_TABLE, destination=destination, main=True)
