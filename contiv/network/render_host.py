"""The parts of a node that stand before any pod comes: pod gateway, host interconnect, uplink. Pure.

The host stack reaches pods, services and other hosts through one interface, ``vpp1``, whose other end VPP holds as
``vpp2`` (the names of the original). The uplink is the NIC that belongs to VPP. ``pod-gateway`` is the loopback that
owns the pods' gateway address; pod interfaces borrow it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.model import linux, vpp
from contiv.model.ip import Address, Network
from contiv.network.ipam import ClusterSubnets, NodeAddresses
from contiv.network.naming import node_mac

POD_GATEWAY: Final = "pod-gateway"
HOST_VPP: Final = "vpp2"
HOST_LINUX: Final = "vpp1"
UPLINK: Final = "uplink"
POD_GATEWAY_INSTANCE: Final = 0
GATEWAY_MAC: Final = (0x12, 0x2A)
HOST_VPP_MAC: Final = (0x12, 0x2C)
HOST_LINUX_MAC: Final = (0x12, 0x2D)
UPLINK_MTU: Final = 1500
UPLINK_TX_FRAMES: Final = 256
"""What VPP handles at once (VLIB_FRAME_SIZE), so that no burst is cut short."""
UPLINK_RX_FRAMES: Final = 1024
"""What may wait while VPP is busy elsewhere: 70 MB, once a node."""
DEFAULT_ROUTE: Final = Network(4, 0, 0)


class Uplink(msgspec.Struct, frozen=True, kw_only=True):
    """The node's NIC as VPP opens it: kernel name, its MAC, the address VPP gives it, and the way out."""

    host_if: str
    mac: str
    address: Network
    gateway: Address | None = None
    mtu: int = UPLINK_MTU


Desired = dict[str, object]


def render(subnets: ClusterSubnets, node: NodeAddresses, uplink: Uplink | None, *, tap: bool, mtu: int) -> Desired:
    """Everything of the node itself. ``tap`` says whether VPP makes the host's interface or a veth pair does."""
    desired = _pod_gateway(node)
    desired |= _host_interconnect(subnets, node, tap=tap, mtu=mtu)
    if uplink is not None:
        desired |= _uplink(uplink)
    return desired


def _pod_gateway(node: NodeAddresses) -> Desired:
    return dict(
        vpp.entry(value)
        for value in (
            vpp.Loopback(name=POD_GATEWAY, instance=POD_GATEWAY_INSTANCE, mac=node_mac(GATEWAY_MAC, node.node_id)),
            vpp.InterfaceAddress(interface=POD_GATEWAY, address=node.pod_gateway.host_network),
            vpp.AdminUp(interface=POD_GATEWAY),
        )
    )


def _host_interconnect(subnets: ClusterSubnets, node: NodeAddresses, *, tap: bool, mtu: int) -> Desired:
    vpp_mac = node_mac(HOST_VPP_MAC, node.node_id)
    linux_mac = node_mac(HOST_LINUX_MAC, node.node_id)
    values: list[vpp.Value] = [
        vpp.InterfaceAddress(interface=HOST_VPP, address=node.host_vpp),
        vpp.Neighbour(interface=HOST_VPP, address=node.host_linux.address, mac=linux_mac),
        vpp.AdminUp(interface=HOST_VPP),
    ]
    desired: Desired = {}
    if tap:
        values.append(vpp.Tap(name=HOST_VPP, host_if=HOST_LINUX, netns="", mac=vpp_mac, host_mac=linux_mac, mtu=mtu))
        link_key = vpp.interface_key(HOST_VPP)
    else:
        link_key = linux.veth_key(HOST_VPP)
        desired[link_key] = linux.Veth(name=HOST_VPP, peer=HOST_LINUX, peer_mac=linux_mac, mtu=mtu)
        values.append(vpp.AfPacket(name=HOST_VPP, host_if=HOST_VPP, mac=vpp_mac, mtu=mtu, requires=(link_key,)))
    desired |= dict(vpp.entry(value) for value in values)
    gateway = node.host_vpp.address
    host_side = linux.Interface(
        logical=HOST_LINUX,
        netns="",
        name=HOST_LINUX,
        up=True,
        mtu=mtu,
        addresses=(node.host_linux,),
        routes=tuple(
            linux.Route(destination=network, gateway=gateway)
            for network in (subnets.pods, subnets.hosts, subnets.services)
        ),
        neighbours=(linux.Neighbour(address=gateway, mac=vpp_mac),),
        requires=(link_key,),
    )
    desired[linux.interface_key(HOST_LINUX)] = host_side
    return desired


def _uplink(uplink: Uplink) -> Desired:
    values: list[vpp.Value] = [
        # Large segments may leave by it as they are, inside VXLAN none ever comes (render_node). Whether the NIC
        # can segment is unknown, so the kernel must be able to help: no qdisc bypass.
        vpp.AfPacket(
            name=UPLINK,
            host_if=uplink.host_if,
            mac=uplink.mac,
            mtu=uplink.mtu,
            qdisc_bypass=False,
            rx_frames=UPLINK_RX_FRAMES,
            tx_frames=UPLINK_TX_FRAMES,
        ),
        vpp.InterfaceAddress(interface=UPLINK, address=uplink.address),
        vpp.AdminUp(interface=UPLINK),
    ]
    if uplink.gateway is not None:
        values.append(vpp.Route(vrf=0, destination=DEFAULT_ROUTE, gateway=uplink.gateway, interface=UPLINK))
    desired: Desired = dict(vpp.entry(value) for value in values)
    # the kernel's side: no IPv6 of its own on a NIC that is VPP's
    kernel_side = linux.Interface(logical=UPLINK, name=uplink.host_if, requires=(vpp.interface_key(UPLINK),))
    desired[linux.interface_key(UPLINK)] = kernel_side
    return desired
