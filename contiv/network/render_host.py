"""The parts of a node that stand before any pod comes: pod gateway, host interconnect, NICs. Pure.

The host stack reaches pods, services and other hosts through one interface, ``vpp1``, whose other end VPP holds as
``vpp2`` (the names of the original). ``pod-gateway`` is the loopback that owns the pods' gateway address; pod
interfaces borrow it. NICs are ``render_nic``'s.
"""

from __future__ import annotations

from typing import Final

from contiv.model import linux, vpp
from contiv.network import render_nic
from contiv.network.ipam import ClusterSubnets, NodeAddresses
from contiv.network.naming import node_mac
from contiv.network.render_nic import Nic, Uplink

POD_GATEWAY: Final = "pod-gateway"
HOST_VPP: Final = "vpp2"
HOST_LINUX: Final = "vpp1"
POD_GATEWAY_INSTANCE: Final = 0
GATEWAY_MAC: Final = (0x12, 0x2A)
HOST_VPP_MAC: Final = (0x12, 0x2C)
HOST_LINUX_MAC: Final = (0x12, 0x2D)
SMALL_FRAMES: Final = 256
"""A ring, each way, where segments come one by one: what VPP handles at once (VLIB_FRAME_SIZE), of 2 KiB each, which
is more than comes in anywhere on such a node."""

Desired = dict[str, object]


def render(
    subnets: ClusterSubnets,
    node: NodeAddresses,
    uplink: Uplink | None,
    *,
    others: tuple[Nic, ...] = (),
    tap: bool,
    mtu: int,
    large_segments: bool = True,
) -> Desired:
    """Everything of the node itself. ``tap`` says whether VPP makes the host's interface or a veth pair does,
    ``large_segments`` whether the host may hand VPP TCP segments larger than the MTU."""
    desired = _pod_gateway(node)
    desired |= _inside(subnets)
    desired |= _host_interconnect(subnets, node, uplink, tap=tap, mtu=mtu, large_segments=large_segments)
    if uplink is not None:
        desired |= render_nic.render_uplink(uplink, host=node.host_linux.address, host_interface=HOST_VPP)
    for other in others:
        desired |= render_nic.render(other)
    return desired


def near_end(name: str, *, mac: str, mtu: int, large_segments: bool, requires: tuple[str, ...]) -> vpp.AfPacket:
    """VPP's end of a veth pair to a pod or the host, by which no ``large_segments`` get in unless they may."""
    if large_segments:
        return vpp.AfPacket(name=name, host_if=name, mac=mac, mtu=mtu, requires=requires)
    return vpp.AfPacket(
        name=name,
        host_if=name,
        mac=mac,
        mtu=mtu,
        large=False,
        rx_frames=SMALL_FRAMES,
        tx_frames=SMALL_FRAMES,
        requires=requires,
    )


def _pod_gateway(node: NodeAddresses) -> Desired:
    return dict(
        vpp.entry(value)
        for value in (
            vpp.Loopback(name=POD_GATEWAY, instance=POD_GATEWAY_INSTANCE, mac=node_mac(GATEWAY_MAC, node.node_id)),
            vpp.InterfaceAddress(interface=POD_GATEWAY, address=node.pod_gateway.host_network),
            vpp.AdminUp(interface=POD_GATEWAY),
        )
    )


def _inside(subnets: ClusterSubnets) -> Desired:
    """Addresses of the cluster that no node has now are unreachable. By the default route they would be somebody
    else's, and a connection that once left that way, translated, would be translated for as long as it lasts."""
    return dict(
        vpp.entry(vpp.Route(vrf=0, destination=destination, reject=True))
        for destination in (subnets.pods, subnets.hosts)
    )


def _host_interconnect(
    subnets: ClusterSubnets,
    node: NodeAddresses,
    uplink: Uplink | None,
    *,
    tap: bool,
    mtu: int,
    large_segments: bool,
) -> Desired:
    vpp_mac = node_mac(HOST_VPP_MAC, node.node_id)
    linux_mac = node_mac(HOST_LINUX_MAC, node.node_id)
    values: list[vpp.Value] = [
        vpp.InterfaceAddress(interface=HOST_VPP, address=node.host_vpp),
        vpp.Neighbour(interface=HOST_VPP, address=node.host_linux.address, mac=linux_mac),
        vpp.AdminUp(interface=HOST_VPP),
    ]
    desired: Desired = {}
    if tap:
        values.append(
            vpp.Tap(
                name=HOST_VPP,
                host_if=HOST_LINUX,
                netns="",
                mac=vpp_mac,
                host_mac=linux_mac,
                mtu=mtu,
                gso=large_segments,
            )
        )
        link_key = vpp.interface_key(HOST_VPP)
    else:
        link_key = linux.veth_key(HOST_VPP)
        desired[link_key] = linux.Veth(name=HOST_VPP, peer=HOST_LINUX, peer_mac=linux_mac, mtu=mtu)
        values.append(near_end(HOST_VPP, mac=vpp_mac, mtu=mtu, large_segments=large_segments, requires=(link_key,)))
    desired |= dict(vpp.entry(value) for value in values)
    gateway = node.host_vpp.address
    host_side = linux.Interface(
        logical=HOST_LINUX,
        netns="",
        name=HOST_LINUX,
        up=True,
        mtu=mtu,
        addresses=(node.host_linux, *render_nic.host_addresses(uplink)),
        # the source is named: with a stolen NIC's address replies of other nodes' pods would be translated and lost
        routes=tuple(
            linux.Route(destination=network, gateway=gateway, source=node.host_linux.address)
            for network in (subnets.pods, subnets.hosts, subnets.services)
        )
        + render_nic.host_routes(uplink, gateway=gateway),
        neighbours=(linux.Neighbour(address=gateway, mac=vpp_mac),),
        offloads=() if tap else (("tso", large_segments),),
        requires=(link_key,),
    )
    desired[linux.interface_key(HOST_LINUX)] = host_side
    return desired
