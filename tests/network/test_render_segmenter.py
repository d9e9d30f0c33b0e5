"""contiv.network.render_segmenter: what leaves for another node is cut to the MTU, and nothing goes round in a loop.

The oracle follows a packet through the rendered routes of a whole node, table by table.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contiv.config import parse
from contiv.model import linux, vpp
from contiv.model.ip import Address, Network
from contiv.model.node import NodeClaim
from contiv.network import render_host, render_node, render_segmenter
from contiv.network.ipam import ClusterSubnets
from contiv.network.render_host import Uplink
from contiv.network.state import NetworkState, Options

SUBNETS = ClusterSubnets.of(parse(""))
NODES = st.sets(st.integers(2, 9), min_size=1, max_size=4)


def desired(others: set[int], *, tap: bool = False) -> dict[str, object]:
    """Everything of node 1 in a cluster with the nodes ``others``."""
    me = NodeClaim(id=1, name="node1", uplink="192.168.16.1/24")
    gateway = Address.parse("192.168.16.254")
    address = Network.parse(me.uplink, strict=False)
    uplink = Uplink(host_if="eth1", mac="02:00:00:00:00:01", address=address, gateway=gateway)
    state = NetworkState(SUBNETS, me, uplink, Options(tap=tap, prepared_target=0, mtu=1450, vni=10))
    for number in others:
        state.node_claimed(NodeClaim(id=number, name=f"node{number}", uplink=f"192.168.16.{number}/24"))
    return dict(state.desired())


def way(values: dict[str, object], destination: Address, *, vrf: int = 0) -> list[str]:
    """The interfaces that a packet leaves by, from VRF ``vrf`` until it leaves the node or is dropped."""
    left: list[str] = []
    table_of_in = values[vpp.interface_vrf_key(render_segmenter.IN, 4)]
    assert isinstance(table_of_in, vpp.InterfaceVrf)
    for _ in range(8):
        routes = [value for value in values.values() if isinstance(value, vpp.Route) and value.vrf == vrf]
        fitting = [route for route in routes if destination in route.destination]
        if not fitting:
            return left
        best = max(fitting, key=lambda route: route.destination.length)
        if best.table is not None:
            vrf = best.table
            continue
        left.append(best.interface)
        if best.interface != render_segmenter.OUT:
            return left
        vrf = table_of_in.table_id
    raise AssertionError(f"{destination} goes round and round: {left}")


def targets(number: int) -> list[Address]:
    """An address in everything that a node has: a pod, its host stack, its BVI."""
    there = SUBNETS.node(number)
    return [there.pod_gateway, there.host_linux.address, there.vxlan.address]


@given(NODES, st.booleans())
def test_all_that_goes_to_another_node_passes_the_kernel_before_the_tunnel(others: set[int], tap: bool) -> None:
    values = desired(others, tap=tap)
    for number in others:
        for destination in targets(number):
            assert way(values, destination) == [render_segmenter.OUT, render_node.BVI]


@given(NODES)
def test_what_is_meant_for_a_node_that_left_leaves_by_the_uplink_and_never_loops(others: set[int]) -> None:
    values = desired(others)
    for destination in targets(10):
        assert way(values, destination) == [render_host.UPLINK]
        assert way(values, destination, vrf=render_segmenter.VRF) == []


def test_errors_about_what_the_loop_carries_find_the_way_back_to_this_node_s_pods_and_host() -> None:
    values = desired({2})
    me = SUBNETS.node(1)
    for network in (me.pod_subnet, me.host_subnet):
        route = values[vpp.route_key(render_segmenter.VRF, network)]
        assert isinstance(route, vpp.Route)
        assert route.table == 0


def test_vpp_sends_large_segments_into_the_loop_and_takes_none_from_it() -> None:
    values = desired({2})
    out, back = (values[vpp.interface_key(name)] for name in (render_segmenter.OUT, render_segmenter.IN))
    assert isinstance(out, vpp.AfPacket)
    assert isinstance(back, vpp.AfPacket)
    assert (out.gso, back.gso) == (True, False)
    assert back.rx_frames * (back.mtu - 40) > 16 * 65536  # what one round of its ring can bring


def test_the_wire_cuts_and_the_link_that_vpp_sends_by_does_not() -> None:
    values = desired({2})
    wire = values[linux.veth_key(render_segmenter.WIRE)]
    over = values[linux.macvlan_key(render_segmenter.WIRE)]
    assert isinstance(wire, linux.Veth)
    assert isinstance(over, linux.Macvlan)
    assert dict(wire.offloads) == {"tx-checksum": False, "tso": False}
    assert (wire.name, wire.peer, over.name) == (over.parent, render_segmenter.IN, render_segmenter.OUT)


def test_the_next_hop_of_the_loop_is_its_own_far_end() -> None:
    values = desired({2})
    back = values[vpp.interface_key(render_segmenter.IN)]
    hop = values[vpp.neighbour_key(render_segmenter.OUT, render_segmenter.IN_ADDRESS)]
    assert isinstance(back, vpp.AfPacket)
    assert isinstance(hop, vpp.Neighbour)
    assert hop.mac == back.mac


def test_the_far_end_is_up_only_in_its_own_vrf() -> None:
    values = desired({2})
    up = values[vpp.admin_up_key(render_segmenter.IN)]
    assert isinstance(up, vpp.AdminUp)
    assert vpp.interface_vrf_key(render_segmenter.IN, 4) in up.requires
