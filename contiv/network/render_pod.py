"""Pod interfaces, from an attachment to the objects in VPP and in the pod's namespace. Pure.

The pod has one /32 and a default route by the node's pod gateway; both ends know each other's MAC address, so no ARP
is ever sent. VPP's interface borrows the gateway's address and goes up last: what a pod may do must be in place
before its first packet. A slot (``slots.py``) is the same interface while no pod has it.
"""

from __future__ import annotations

from typing import Final

from contiv.model import linux, vpp
from contiv.model.ip import Network
from contiv.model.node import Attachment
from contiv.network.ipam import NodeAddresses
from contiv.network.naming import pod_macs
from contiv.network.render_host import POD_GATEWAY, Desired, near_end

DEFAULT_ROUTE: Final = Network(4, 0, 0)


def render(
    pod: Attachment,
    node: NodeAddresses,
    *,
    tap: bool,
    mtu: int,
    large_segments: bool = True,
    ready: tuple[str, ...] = (),
) -> Desired:
    """All keys of one pod. ``tap`` says whether VPP makes the pod's interface or a veth pair does, ``large_segments``
    whether the pod may hand VPP TCP segments larger than the MTU.

    Neither end goes up before the keys ``ready`` are there, the access lists above all: a slot may have its last pod's.
    The pod's end stays up when VPP dies: without VPP's end it reaches nobody, and that one waits for the lists again.
    """
    name = pod.interface
    make = _tap if tap else _slot_in_pod
    link = make(pod, node, mtu=mtu, large_segments=large_segments)
    neighbour = vpp.Neighbour(interface=name, address=pod.ip, mac=pod.pod_mac)
    route = vpp.Route(vrf=0, destination=pod.ip.host_network, gateway=pod.ip, interface=name)
    unnumbered = vpp.Unnumbered(interface=name, lender=POD_GATEWAY)
    known = tuple(vpp.key_of(value) for value in (unnumbered, neighbour, route))
    up = vpp.AdminUp(interface=name, requires=(*known, *ready))
    desired = link | dict(vpp.entry(value) for value in (unnumbered, neighbour, route, up))
    link_key = vpp.interface_key(name) if tap else linux.macvlan_key(far_end_of(name))
    desired[linux.interface_key(name)] = _pod_side(pod, node, mtu=mtu, link=link_key, after=ready)
    return desired


def render_slot(name: str, node: NodeAddresses, *, mtu: int, large_segments: bool = True) -> Desired:
    """A veth pair, VPP's hold on its near end, and the far end up, both in the node's own namespace."""
    pod_mac, vpp_mac = pod_macs(node.node_id, name)
    far_end = far_end_of(name)
    veth = linux.Veth(name=name, peer=far_end, peer_mac=pod_mac, mtu=mtu)
    interface = near_end(name, mac=vpp_mac, mtu=mtu, large_segments=large_segments, requires=(linux.veth_key(name),))
    # VPP brings its own end up and down; the far end speaks only once VPP holds the other. Large segments are cut here:
    # the macvlan on top is the pod's to configure.
    up = linux.Interface(
        logical=far_end,
        name=far_end,
        up=True,
        offloads=(("tso", large_segments),),
        requires=(linux.veth_key(name),),
        after=(vpp.interface_key(name),),
    )
    return {linux.veth_key(name): veth, vpp.interface_key(name): interface, linux.interface_key(far_end): up}


def far_end_of(name: str) -> str:
    """The Linux name of a slot's far end."""
    return f"{name}p"


def _slot_in_pod(pod: Attachment, node: NodeAddresses, *, mtu: int, large_segments: bool) -> Desired:
    """The slot with a macvlan on its far end, in the pod."""
    far_end = far_end_of(pod.interface)
    macvlan = linux.Macvlan(
        parent=far_end,
        name=pod.if_name,
        netns=pod.netns,
        mtu=mtu,
        requires=(linux.interface_key(far_end),),
    )
    slot = render_slot(pod.interface, node, mtu=mtu, large_segments=large_segments)
    return slot | {linux.macvlan_key(far_end): macvlan}


def _tap(pod: Attachment, _: NodeAddresses, *, mtu: int, large_segments: bool) -> Desired:
    return dict(
        [
            vpp.entry(
                vpp.Tap(
                    name=pod.interface,
                    host_if=pod.if_name,
                    netns=pod.netns,
                    mac=pod.vpp_mac,
                    host_mac=pod.pod_mac,
                    mtu=mtu,
                    gso=large_segments,
                )
            )
        ]
    )


def _pod_side(pod: Attachment, node: NodeAddresses, *, mtu: int, link: str, after: tuple[str, ...]) -> linux.Interface:
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
        neighbours=(linux.Neighbour(address=gateway, mac=pod.vpp_mac),),
        ends_with_link=True,
        requires=(link,),
        after=after,
    )
