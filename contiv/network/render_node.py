"""The way to the other nodes: a full mesh of VXLAN tunnels in one bridge domain, or plain routes. Pure.

Every forwarding entry is known from the node IDs, so nothing is learned or flooded: the other node's MAC address
stands in the bridge domain, its neighbour entry on this node's port, and its subnets are routed to it. All tunnels
share one split-horizon group: what came out of one tunnel never enters another.

What would be the bridge domain's BVI is a cable through the kernel::

    VRF 0 ─ vxlan-bvi ═ vxlan-wire ═ vxlan-port ─ bridge domain ─ tunnels ─ uplink
     (64 KiB)  macvlan on   a veth pair   (1,450 bytes)

Pods hand VPP TCP segments of up to 64 KiB, which is what makes traffic on a node quick. Inside VXLAN they cannot go:
VPP 26.06 cannot segment what came from af_packet (vnet/gso/gso.h takes a buffer without IP_CKSUM for IPv6, and
af_packet never sets it), and no kernel link takes them there. The cable's middle cannot segment by itself, so the
kernel cuts what passes to the MTU; the other way it merges what came in segments. VPP sends into a macvlan, for what a
packet socket's own link cuts comes back to that socket. docs/decisions/vxlan-segmentation.md has the measurements.
"""

from __future__ import annotations

from typing import Final

from contiv.model import linux, vpp
from contiv.model.node import NodeClaim
from contiv.network import render_nic
from contiv.network.ipam import ClusterSubnets, NodeAddresses
from contiv.network.naming import node_mac
from contiv.network.render_nic import UPLINK, Desired, Uplink

BVI: Final = "vxlan-bvi"
WIRE: Final = "vxlan-wire"
PORT: Final = "vxlan-port"
BVI_MAC: Final = (0x12, 0x2B)
PORT_MAC: Final = (0x12, 0x2E)
BD_ID: Final = 1
BD_LABEL: Final = "contiv:vxlan"
TUNNELS_SHG: Final = 1
BVI_RX_FRAMES: Final = 64
"""Merged segments and lone acknowledgements of all connections."""
BVI_TX_FRAMES: Final = 16
"""Large segments, as many as the far end has room for once they are cut."""
PORT_RX_FRAMES: Final = 1024
"""Twenty-odd segments of 64 KiB cut to 1,450 bytes, which come all at once; small frames, 2 MB."""
PORT_TX_FRAMES: Final = 256
"""What VPP handles at once (VLIB_FRAME_SIZE); frames stay taken while the kernel merges."""
MERGE_WITHIN_NS: Final = 200_000
"""Merging ends sooner at a segment with PSH, so that requests and answers do not wait."""


def render_bvi(node: NodeAddresses, *, mtu: int, large_segments: bool = True) -> Desired:
    """This node's place in the mesh: the bridge domain, and the cable between it and VRF 0. What comes from other nodes
    is merged where ``large_segments`` may pass through VPP."""
    bvi_mac = node_mac(BVI_MAC, node.node_id)
    values: tuple[vpp.Value, ...] = (
        vpp.BridgeDomain(bd_id=BD_ID, label=BD_LABEL),
        vpp.AfPacket(
            name=PORT,
            host_if=PORT,
            mac=node_mac(PORT_MAC, node.node_id),
            mtu=mtu,
            gso=False,
            large=large_segments,
            rx_frames=PORT_RX_FRAMES,
            tx_frames=PORT_TX_FRAMES,
            requires=(linux.interface_key(PORT),),
        ),
        vpp.BridgeMember(bd_id=BD_ID, interface=PORT),
        vpp.L2FibEntry(bd_id=BD_ID, mac=bvi_mac, interface=PORT),
        vpp.AdminUp(interface=PORT),
        vpp.AfPacket(
            name=BVI,
            host_if=BVI,
            mac=bvi_mac,
            mtu=mtu,
            large=large_segments,
            rx_frames=BVI_RX_FRAMES if large_segments else PORT_RX_FRAMES,
            tx_frames=BVI_TX_FRAMES if large_segments else PORT_TX_FRAMES,
            requires=(linux.interface_key(BVI),),
        ),
        vpp.InterfaceAddress(interface=BVI, address=node.vxlan),
        vpp.AdminUp(interface=BVI),
    )
    return dict(vpp.entry(value) for value in values) | _cable(mtu, merges=large_segments)


def _cable(mtu: int, *, merges: bool) -> Desired:
    veth, macvlan = linux.veth_key(WIRE), linux.macvlan_key(WIRE)
    cuts_and_merges = (("tx-checksum", False), ("tso", False), ("gro", merges))
    return {
        veth: linux.Veth(name=WIRE, peer=PORT, mtu=mtu, offloads=cuts_and_merges),
        linux.interface_key(WIRE): linux.Interface(
            logical=WIRE, name=WIRE, merge_within_ns=MERGE_WITHIN_NS, requires=(veth,)
        ),
        # a veth merges only what comes from a peer that cannot segment (drivers/net/veth.c)
        linux.interface_key(PORT): linux.Interface(
            logical=PORT, name=PORT, offloads=(("tso", False),), requires=(veth,)
        ),
        macvlan: linux.Macvlan(parent=WIRE, name=BVI, netns="", mtu=mtu, requires=(linux.interface_key(WIRE),)),
        # a macvlan in passthru mode takes every frame for the host's own (drivers/net/macvlan.c)
        linux.interface_key(BVI): linux.Interface(logical=BVI, name=BVI, deaf=True, requires=(macvlan,)),
    }


def tunnel_name(node_id: int) -> str:
    """The logical name of the tunnel to a node."""
    return f"vxlan-{node_id}"


def render_direct(subnets: ClusterSubnets, uplink: Uplink, other: NodeClaim) -> Desired:
    """The way to one other node as it is, without overlay: by its own address where that is on our link, else by our
    router, which must then know every node's subnets; nothing without either."""
    there = subnets.node(other.id)
    gateway = other.uplink_address if is_on_link(uplink, other) else uplink.gateway
    if gateway is None:
        return {}
    return dict(
        vpp.entry(vpp.Route(vrf=0, destination=destination, gateway=gateway, interface=UPLINK))
        for destination in (there.pod_subnet, there.host_subnet)
    )


def is_on_link(uplink: Uplink, other: NodeClaim) -> bool:
    """Whether the other node's address lies in the subnet of this node's uplink."""
    return uplink.address is not None and other.uplink_address in uplink.address


def render_tunnel(subnets: ClusterSubnets, uplink: Uplink, other: NodeClaim, *, vni: int) -> Desired:
    """The tunnel to one other node and the routes to what lives there; nothing until this node has an address."""
    if uplink.address is None:
        return {}
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
            requires=render_nic.address_keys(uplink),
        ),
        vpp.BridgeMember(bd_id=BD_ID, interface=tunnel, shg=TUNNELS_SHG),
        vpp.AdminUp(interface=tunnel),
        vpp.L2FibEntry(bd_id=BD_ID, mac=mac, interface=tunnel),
        vpp.Neighbour(interface=BVI, address=gateway, mac=mac),
        vpp.Route(vrf=0, destination=there.pod_subnet, gateway=gateway, interface=BVI),
        vpp.Route(vrf=0, destination=there.host_subnet, gateway=gateway, interface=BVI),
    )
    return dict(vpp.entry(value) for value in values)
