"""One pod's connection, from its attachment to the objects in VPP and in the pod's namespace. Pure.

The pod has one /32 and a default route by the node's pod gateway; both ends know each other's MAC address, so no ARP
is ever sent. VPP's interface borrows the gateway's address. The interface goes up last: what a pod may do must be in
place before its first packet.
"""

from __future__ import annotations

from contiv.model import linux, vpp
from contiv.model.ip import Network
from contiv.network.ipam import NodeAddresses
from contiv.network.model import Attachment, pod_macs
from contiv.network.render_host import POD_GATEWAY, Desired, veth

DEFAULT_ROUTE = Network(4, 0, 0)


def render(pod: Attachment, node: NodeAddresses, *, tap: bool, mtu: int) -> Desired:
    """All keys of one pod. ``tap`` says whether VPP makes the pod's interface or a veth pair does."""
    name = pod.interface
    pod_mac, vpp_mac = pod_macs(name)
    desired: Desired = {}
    link: vpp.Interface
    if tap:
        link_key = vpp.interface_key(name)
        link = vpp.Tap(
            name=name, host_if=pod.if_name, netns=pod.netns, mac=vpp_mac, host_mac=pod_mac, mtu=mtu
        )
    else:
        link_key = linux.veth_key(name)
        link = vpp.AfPacket(name=name, host_if=name, mac=vpp_mac, mtu=mtu, requires=(link_key,))
        desired |= veth(name, peer=pod.if_name, peer_netns=pod.netns, peer_mac=pod_mac, mtu=mtu)
    neighbour = vpp.Neighbour(interface=name, address=pod.ip, mac=pod_mac)
    route = vpp.Route(vrf=0, destination=pod.ip.host_network, gateway=pod.ip, interface=name)
    unnumbered = vpp.Unnumbered(interface=name, lender=POD_GATEWAY)
    ready = tuple(vpp.key_of(value) for value in (unnumbered, neighbour, route))
    up = vpp.AdminUp(interface=name, requires=ready)
    desired |= dict(vpp.entry(value) for value in (link, unnumbered, neighbour, route, up))
    desired[linux.interface_key(name)] = _pod_side(pod, node, vpp_mac=vpp_mac, mtu=mtu, link_key=link_key)
    return desired


def _pod_side(
    pod: Attachment, node: NodeAddresses, *, vpp_mac: str, mtu: int, link_key: str
) -> linux.Interface:
    gateway = node.pod_gateway
    return linux.Interface(
        logical=pod.interface,
        netns=pod.netns,
        name=pod.if_name,
        up=True,
        mtu=mtu,
        addresses=(pod.ip.host_network,),
        routes=(
            linux.Route(destination=gateway.host_network),
            linux.Route(destination=DEFAULT_ROUTE, gateway=gateway),
        ),
        neighbours=(linux.Neighbour(address=gateway, mac=vpp_mac),),
        requires=(link_key,),
    )
