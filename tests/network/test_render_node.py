"""contiv.network.render_node: what leaves for another node is cut to the MTU before it is put into VXLAN."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from contiv.config import parse
from contiv.model import linux, vpp
from contiv.model.ip import Address, Network
from contiv.model.node import NodeClaim
from contiv.network import render_nic, render_node
from contiv.network.ipam import ClusterSubnets
from contiv.network.render_nic import Uplink
from contiv.network.state import NetworkState, Options

SUBNETS = ClusterSubnets.of(parse(""))
LARGE_SEGMENT = 65536
HEADERS = 40  # IPv4 and TCP without options

T = TypeVar("T")


def desired(others: set[int], *, tap: bool = False) -> dict[str, object]:
    """Everything of node 1 in a cluster with the nodes ``others``."""
    me = NodeClaim(id=1, name="node1", uplink="192.168.16.1/24")
    address = Network.parse(me.uplink, strict=False)
    gateway = Address.parse("192.168.16.254")
    uplink = Uplink(host_if="eth1", mac="02:00:00:00:00:01", address=address, gateway=gateway)
    state = NetworkState(SUBNETS, me, uplink, Options(tap=tap, prepared_target=0, mtu=1450, vni=10))
    for number in others:
        state.node_claimed(NodeClaim(id=number, name=f"node{number}", uplink=f"192.168.16.{number}/24"))
    return dict(state.desired())


def of(kind: type[T], values: dict[str, object]) -> list[T]:
    """The values of one kind."""
    return [value for value in values.values() if isinstance(value, kind)]


def the(kind: type[T], values: dict[str, object], key: str) -> T:
    """The value of a key, which is of that kind."""
    value = values[key]
    assert isinstance(value, kind)
    return value


def leaves_by(values: dict[str, object], destination: Address) -> str:
    """The interface that VPP routes ``destination`` to: the longest prefix of routes and interface addresses."""
    ways = [(route.destination, route.interface) for route in of(vpp.Route, values)]
    ways += [(each.address, each.interface) for each in of(vpp.InterfaceAddress, values)]
    fitting = [(network.length, interface) for network, interface in ways if destination in network]
    return max(fitting)[1]


@given(st.sets(st.integers(2, 9), min_size=1, max_size=4), st.booleans())
def test_all_that_goes_to_another_node_enters_the_cable_and_its_far_end_leads_to_the_tunnel(
    others: set[int], tap: bool
) -> None:
    values = desired(others, tap=tap)
    tunnels = {tunnel.name: tunnel for tunnel in of(vpp.VxlanTunnel, values)}
    for number in others:
        there = SUBNETS.node(number)
        for destination in (there.pod_gateway, there.host_linux.address, there.vxlan.address):
            assert leaves_by(values, destination) == render_node.BVI
        hop = the(vpp.Neighbour, values, vpp.neighbour_key(render_node.BVI, there.vxlan.address))
        entry = the(vpp.L2FibEntry, values, vpp.l2fib_key(render_node.BD_ID, hop.mac))
        assert str(tunnels[entry.interface].destination) == f"192.168.16.{number}"


def test_what_is_meant_for_a_node_that_left_goes_nowhere() -> None:
    left = SUBNETS.node(3)
    for destination in (left.pod_gateway, left.host_linux.address):
        assert leaves_by(desired({2}), destination) == ""  # rejected
    assert leaves_by(desired({2}), Address.parse("203.0.113.1")) == render_nic.UPLINK


def test_frames_from_the_tunnels_to_this_node_go_back_through_the_cable() -> None:
    values = desired({2})
    bvi = the(vpp.AfPacket, values, vpp.interface_key(render_node.BVI))
    entry = the(vpp.L2FibEntry, values, vpp.l2fib_key(render_node.BD_ID, bvi.mac))
    assert entry.interface == render_node.PORT
    assert the(vpp.BridgeMember, values, vpp.bridge_member_key(render_node.PORT)).shg == 0


def test_no_interface_of_the_bridge_domain_takes_large_segments() -> None:
    values = desired({2, 3})
    members = {member.interface for member in of(vpp.BridgeMember, values)}
    large = {each.name for each in of(vpp.AfPacket, values) if each.gso}
    assert render_node.BVI in large
    assert not members & large


def test_the_middle_of_the_cable_cuts_and_merges_and_the_link_that_vpp_sends_by_does_not_cut() -> None:
    values = desired({2})
    wire = the(linux.Veth, values, linux.veth_key(render_node.WIRE))
    over = the(linux.Macvlan, values, linux.macvlan_key(render_node.WIRE))
    far = the(linux.Interface, values, linux.interface_key(render_node.PORT))
    assert dict(wire.offloads) == {"tx-checksum": False, "tso": False, "gro": True}
    assert (wire.name, wire.peer, over.name) == (over.parent, render_node.PORT, render_node.BVI)
    assert dict(far.offloads) == {"tso": False}
    assert the(linux.Interface, values, linux.interface_key(render_node.BVI)).offloads == ()


def test_all_segments_that_vpp_can_send_at_once_find_room_at_the_far_end() -> None:
    values = desired({2})
    bvi = the(vpp.AfPacket, values, vpp.interface_key(render_node.BVI))
    port = the(vpp.AfPacket, values, vpp.interface_key(render_node.PORT))
    assert port.rx_frames * (port.mtu - HEADERS) > bvi.tx_frames * LARGE_SEGMENT
