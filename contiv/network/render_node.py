"""The way to the other nodes: a full mesh of VXLAN tunnels in one bridge domain, with a BVI a node. Pure.

Every forwarding entry is known from the node IDs, so nothing is learned or flooded: the other BVI's MAC address
stands in the bridge domain, its neighbour entry on the BVI, and its subnets are routed to it. All tunnels share one
split-horizon group: what came out of one tunnel never enters another. On its way there all traffic of VRF 0 passes the
segmenter, which puts it into its own VRF.
"""

from __future__ import annotations

from typing import Final

from contiv.model import vpp
from contiv.model.node import NodeClaim
from contiv.network import render_segmenter
from contiv.network.ipam import ClusterSubnets, NodeAddresses
from contiv.network.naming import node_mac
from contiv.network.render_host import UPLINK, Desired, Uplink

BVI: Final = "vxlan-bvi"
BVI_INSTANCE: Final = 1
BVI_MAC: Final = (0x12, 0x2B)
BD_ID: Final = 1
BD_LABEL: Final = "contiv:vxlan"
TUNNELS_SHG: Final = 1


def render_bvi(node: NodeAddresses, *, mtu: int) -> Desired:
    """This node's place in the mesh: the bridge domain and its BVI."""
    return dict(
        vpp.entry(value)
        for value in (
            vpp.BridgeDomain(bd_id=BD_ID, label=BD_LABEL),
            vpp.Loopback(name=BVI, instance=BVI_INSTANCE, mac=node_mac(BVI_MAC, node.node_id), mtu=mtu),
            vpp.BridgeMember(bd_id=BD_ID, interface=BVI, bvi=True),
            vpp.InterfaceAddress(interface=BVI, address=node.vxlan),
            vpp.AdminUp(interface=BVI),
        )
    )


def tunnel_name(node_id: int) -> str:
    """The logical name of the tunnel to a node."""
    return f"vxlan-{node_id}"


def render_other(
    subnets: ClusterSubnets, node: NodeAddresses, uplink: Uplink, other: NodeClaim, *, vni: int
) -> Desired:
    """The tunnel to one other node and the routes to what lives there."""
    there = subnets.node(other.id)
    tunnel = tunnel_name(other.id)
    mac = node_mac(BVI_MAC, other.id)
    gateway = there.vxlan.address
    values: tuple[vpp.Value, ...] = (
        vpp.VxlanTunnel(
            name=tunnel,
            instance=other.id,
            vni=vni,
            source=uplink.address.address,
            destination=other.uplink_address,
            requires=(vpp.address_key(UPLINK, uplink.address),),
        ),
        vpp.BridgeMember(bd_id=BD_ID, interface=tunnel, shg=TUNNELS_SHG),
        vpp.AdminUp(interface=tunnel),
        vpp.L2FibEntry(bd_id=BD_ID, mac=mac, interface=tunnel),
        vpp.Neighbour(interface=BVI, address=gateway, mac=mac),
        # its BVI too: nothing large must ever reach the tunnels
        *(
            route
            for destination in (there.pod_subnet, there.host_subnet, gateway.host_network)
            for route in render_segmenter.routes(destination, gateway=gateway, interface=BVI)
        ),
    )
    return dict(vpp.entry(value) for value in values)
