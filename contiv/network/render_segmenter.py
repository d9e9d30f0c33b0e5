"""The segmenter: a loop through the kernel, where large TCP segments for other nodes are cut to the MTU. Pure.

::

    pod ─▶ VRF 0 ─▶ segment-out ═ segment-wire ═ segment-in ─▶ VRF 2 ─▶ BVI ─▶ VXLAN ─▶ uplink
           (64 KiB)    macvlan on    a veth pair    (1,450 bytes)

Pods hand VPP segments of up to 64 KiB, which is what makes traffic on a node quick. Inside VXLAN they cannot go: VPP
26.06 cannot segment what came from af_packet (its IPv4 branch wants a flag that af_packet never sets, vnet/gso/gso.h)
and no kernel link takes them there. So they go to a link that cannot segment (offloads off) and the kernel does it,
checksums included, before VPP sees them again. VPP sends into a macvlan, for what a packet socket's own link segments
comes back to that socket as an outgoing frame. docs/decisions/vxlan-segmentation.md has the measurements.
"""

from __future__ import annotations

from typing import Final

from contiv.model import linux, vpp
from contiv.model.ip import Address, Network
from contiv.network.ipam import NodeAddresses
from contiv.network.naming import node_mac
from contiv.network.render_host import Desired

OUT: Final = "segment-out"
WIRE: Final = "segment-wire"
IN: Final = "segment-in"
OUT_MAC: Final = (0x12, 0x2E)
IN_MAC: Final = (0x12, 0x2F)
IN_ADDRESS: Final = Address.parse("169.254.254.1")
"""Link-local (RFC 3927), the same on every node: next hop of VRF 0, and what traceroute shows of the second hop."""
VRF: Final = 2
VRF_LABEL: Final = "segmented"
IN_TX_FRAMES: Final = 2
"""Nothing is ever sent there; two frames are the least that fill whole pages."""
IN_FRAMES: Final = 1024
"""Some 20 large segments of 64 KiB cut to 1,450 bytes, which come all at once."""


def render(node: NodeAddresses, *, mtu: int) -> Desired:
    """The loop itself, and the way back from its VRF for ICMP errors about what it carries."""
    out_key, in_key = linux.macvlan_key(WIRE), linux.veth_key(WIRE)
    in_mac = node_mac(IN_MAC, node.node_id)
    in_vrf = (vpp.interface_vrf_key(IN, 4),)
    values: tuple[vpp.Value, ...] = (
        vpp.AfPacket(name=OUT, host_if=OUT, mac=node_mac(OUT_MAC, node.node_id), mtu=mtu, requires=(_up_key(OUT),)),
        vpp.AdminUp(interface=OUT),
        vpp.Neighbour(interface=OUT, address=IN_ADDRESS, mac=in_mac),
        vpp.Vrf(table_id=VRF, version=4, label=VRF_LABEL),
        vpp.AfPacket(
            name=IN,
            host_if=IN,
            mac=in_mac,
            mtu=mtu,
            gso=False,
            rx_frames=IN_FRAMES,
            tx_frames=IN_TX_FRAMES,
            requires=(_up_key(IN),),
        ),
        vpp.InterfaceVrf(interface=IN, table_id=VRF, version=4),
        vpp.InterfaceAddress(interface=IN, address=IN_ADDRESS.host_network, requires=in_vrf),
        # in VRF 0 its packets would go round and round
        vpp.AdminUp(interface=IN, requires=in_vrf),
        *(vpp.Route(vrf=VRF, destination=own, table=0) for own in (node.pod_subnet, node.host_subnet)),
    )
    wire = linux.Veth(name=WIRE, peer=IN, mtu=mtu, offloads=(("tx-checksum", False), ("tso", False)))
    desired: Desired = dict(vpp.entry(value) for value in values)
    desired[in_key] = wire
    desired[out_key] = linux.Macvlan(parent=WIRE, name=OUT, netns="", mtu=mtu, requires=(_up_key(WIRE),))
    desired |= {
        _up_key(name): linux.Interface(logical=name, name=name, requires=(link,))
        for name, link in ((WIRE, in_key), (IN, in_key), (OUT, out_key))
    }
    return desired


def routes(destination: Network, *, gateway: Address, interface: str) -> tuple[vpp.Route, vpp.Route]:
    """The way to ``destination`` on another node: into the loop, and from its far side by ``interface``."""
    return (
        vpp.Route(vrf=0, destination=destination, gateway=IN_ADDRESS, interface=OUT),
        vpp.Route(vrf=VRF, destination=destination, gateway=gateway, interface=interface),
    )


def _up_key(name: str) -> str:
    return linux.interface_key(name)
