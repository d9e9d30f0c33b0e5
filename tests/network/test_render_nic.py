"""contiv.network.render_nic, and what a change of address means: pure, on the state of one node."""

from __future__ import annotations

from typing import TypeVar

import pytest

from contiv.config import Transport, parse
from contiv.model import linux, vpp
from contiv.model.ip import Address, Network
from contiv.model.node import NO_ADDRESS, NodeClaim
from contiv.network import render_nic, render_out
from contiv.network.ipam import ClusterSubnets
from contiv.network.render_host import HOST_LINUX, HOST_VPP
from contiv.network.render_nic import UPLINK, Nic, Uplink, Way
from contiv.network.render_node import BVI, WIRE
from contiv.network.state import NetworkState, Options

SUBNETS = ClusterSubnets.of(parse(""))
ROUTER = Address.parse("192.168.16.254")
OWN = Network.parse("192.168.16.1/24", strict=False)
T = TypeVar("T")


def state(
    uplink: Uplink | None,
    *,
    transport: Transport = "vxlan",
    others: tuple[Nic, ...] = (),
    pods: int = 0,
    hide_pods: bool = True,
    large_segments: bool = True,
    tap: bool = False,
) -> NetworkState:
    text = "" if uplink is None or uplink.address is None else str(uplink.address)
    me = NodeClaim(id=1, name="node1", uplink=text)
    options = Options(
        tap=tap,
        prepared_target=pods,
        mtu=1450,
        vni=10,
        transport=transport,
        hide_pods=hide_pods,
        large_segments=large_segments,
    )
    network = NetworkState(SUBNETS, me, uplink, options, nics=others)
    network.slots.grow(pods)
    return network


def static(**more: object) -> Uplink:
    return Uplink(host_if="eth1", mac="02:00:00:00:00:01", address=OWN, gateway=ROUTER, **more)  # type: ignore[arg-type]


def claim(number: int, uplink: str = "") -> NodeClaim:
    return NodeClaim(id=number, name=f"node{number}", uplink=uplink or f"192.168.16.{number}/24")


def of(kind: type[T], values: dict[str, object]) -> list[T]:
    return [value for value in values.values() if isinstance(value, kind)]


def way(desired: dict[str, object], destination: Network) -> vpp.Route:
    found = desired[vpp.route_key(0, destination)]
    assert isinstance(found, vpp.Route)
    return found


def test_without_overlay_nodes_are_reached_by_their_own_addresses_and_nothing_of_vxlan_is_there() -> None:
    node = state(static(), transport="nooverlay")
    node.node_claimed(claim(2))
    desired = node.desired()
    there = SUBNETS.node(2)
    for destination in (there.pod_subnet, there.host_subnet):
        assert way(desired, destination) == vpp.Route(
            vrf=0, destination=destination, gateway=Address.parse("192.168.16.2"), interface=UPLINK
        )
    assert not of(vpp.VxlanTunnel, desired)
    assert not of(vpp.BridgeDomain, desired)
    assert vpp.interface_key(BVI) not in desired
    assert node.node_interfaces == (UPLINK,)


def test_without_overlay_a_node_behind_a_router_is_reached_by_the_router_or_not_at_all() -> None:
    node = state(static(), transport="nooverlay")
    node.node_claimed(claim(2, "10.77.0.2/24"))
    assert way(node.desired(), SUBNETS.node(2).pod_subnet).gateway == ROUTER
    alone = state(Uplink(host_if="eth1", mac="", address=OWN), transport="nooverlay")
    alone.node_claimed(claim(2, "10.77.0.2/24"))
    assert vpp.route_key(0, SUBNETS.node(2).pod_subnet) not in alone.desired()


def leads(node: NetworkState) -> dict[str, vpp.Route]:
    """Where the table of pods sends their packets, by destination."""
    routes = of(vpp.Route, node.desired())
    return {str(route.destination): route for route in routes if route.vrf == render_out.POD_TABLE}


def test_without_overlay_pods_leave_the_cluster_by_what_hides_them_and_reach_it_as_they_are() -> None:
    node = state(static(), transport="nooverlay", pods=2)
    node.node_claimed(claim(2))
    ways = leads(node)
    assert ways.pop("0.0.0.0/0").interface == render_out.SNAT
    assert all(route.main for route in ways.values())
    wanted = {"10.1.0.0/16", "172.30.0.0/16", "10.96.0.0/12", "192.168.30.0/24", "192.168.16.1/32", "192.168.16.2/32"}
    assert ways.keys() == wanted
    diverted = {diversion.interface for diversion in of(vpp.Diversion, node.desired())}
    assert diverted == node.pod_interfaces
    assert node.snat_interface == render_out.SNAT
    assert vpp.route_key(render_out.POD_TABLE, Network.parse("192.168.16.2/32")) in node.node_released(2)


@pytest.mark.parametrize(("transport", "hide_pods"), [("vxlan", True), ("nooverlay", False), ("auto", False)])
def test_where_one_way_out_serves_all_nothing_is_diverted(transport: Transport, hide_pods: bool) -> None:
    node = state(static(), transport=transport, pods=2, hide_pods=hide_pods)
    node.node_claimed(claim(2))
    assert not leads(node)
    assert not of(vpp.Diversion, node.desired())
    assert vpp.interface_key(render_out.SNAT) not in node.desired()


def test_auto_takes_the_overlay_only_where_subnets_differ() -> None:
    node = state(static(), transport="auto")
    node.node_claimed(claim(2))
    node.node_claimed(claim(3, "10.77.0.3/24"))
    desired = node.desired()
    assert way(desired, SUBNETS.node(2).pod_subnet).interface == UPLINK
    assert way(desired, SUBNETS.node(3).pod_subnet).interface == BVI
    assert [tunnel.name for tunnel in of(vpp.VxlanTunnel, desired)] == ["vxlan-3"]


@pytest.mark.parametrize("transport", ["vxlan", "nooverlay"])
def test_another_address_changes_what_depends_on_it_and_ends_where_a_new_node_would(transport: Transport) -> None:
    node = state(static(), transport=transport)
    for number in (2, 3):
        node.node_claimed(claim(number))
    before = node.desired()
    new = Network.parse("192.168.16.77/24", strict=False)
    changes = node.address_changed(UPLINK, new, ROUTER)
    after = {key: value for key, value in {**before, **changes}.items() if value is not None}
    fresh = state(Uplink(host_if="eth1", mac="02:00:00:00:00:01", address=new, gateway=ROUTER), transport=transport)
    for number in (2, 3):
        fresh.node_claimed(claim(number))
    assert after == fresh.desired() == node.desired()
    assert node.me.uplink == str(new)
    touched = {key for key in changes if before.get(key) != changes[key]}
    assert touched == set(changes)  # nothing that stays is written again
    assert bool(of(vpp.VxlanTunnel, dict(changes))) == (transport == "vxlan")


def test_another_node_that_moves_takes_its_tunnel_along() -> None:
    node = state(static())
    node.node_claimed(claim(2))
    changes = node.node_claimed(claim(2, "192.168.16.99/24"))
    (tunnel,) = of(vpp.VxlanTunnel, dict(changes))
    assert str(tunnel.destination) == "192.168.16.99"
    assert set(changes) == {vpp.interface_key("vxlan-2")}


def test_a_node_that_waits_for_a_lease_has_no_tunnels_and_is_no_tunnel_s_end() -> None:
    waiting = state(Uplink(host_if="eth1", mac="02:00:00:00:00:01", dhcp=True))
    waiting.node_claimed(claim(2))
    assert not of(vpp.VxlanTunnel, waiting.desired())
    assert vpp.dhcp_client_key(UPLINK) in waiting.desired()
    changes = waiting.address_changed(UPLINK, OWN, ROUTER)
    (tunnel,) = of(vpp.VxlanTunnel, dict(changes))
    assert (str(tunnel.source), tunnel.requires) == ("192.168.16.1", (vpp.dhcp_client_key(UPLINK),))
    # address and default route are the client's affair
    assert not [each for each in of(vpp.InterfaceAddress, waiting.desired()) if each.interface == UPLINK]
    assert vpp.route_key(0, render_nic.DEFAULT_ROUTE) not in waiting.desired()
    known = state(static())
    unreachable = NodeClaim(id=2, name="node2", uplink="")
    assert unreachable.uplink_address == NO_ADDRESS
    assert known.node_claimed(unreachable) == {}


def test_a_stolen_nic_s_addresses_and_routes_are_the_host_s_too() -> None:
    second = Network.parse("192.168.16.9/24", strict=False)
    ways = (
        Way(destination=Network.parse("192.168.16.0/24"), source=OWN.address),
        Way(destination=render_nic.DEFAULT_ROUTE, gateway=ROUTER, metric=100),
        Way(destination=Network.parse("10.50.0.0/16"), gateway=Address.parse("192.168.16.253"), source=second.address),
        Way(destination=Network.parse("2001:db8::/32"), gateway=Address.parse("2001:db8::1")),
    )
    desired = state(static(shared=(OWN, second), ways=ways)).desired()
    node = SUBNETS.node(1)
    host = desired[linux.interface_key(HOST_LINUX)]
    assert isinstance(host, linux.Interface)
    assert host.addresses == (node.host_linux, OWN.address.host_network, second.address.host_network)
    routes = {(str(route.destination), route.metric): route for route in host.routes}
    assert routes["0.0.0.0/0", 100].source == OWN.address
    assert routes["192.168.16.0/24", 0].source == OWN.address
    assert routes["10.50.0.0/16", 0].source == second.address
    assert {route.gateway for route in host.routes} == {node.host_vpp.address}
    assert all(
        route.source == node.host_linux.address
        for route in host.routes
        if route.destination in (SUBNETS.pods, SUBNETS.services)
    )
    assert way(desired, render_nic.DEFAULT_ROUTE).gateway == ROUTER
    assert way(desired, Network.parse("10.50.0.0/16")).gateway == Address.parse("192.168.16.253")
    on_uplink = {str(each.address) for each in of(vpp.InterfaceAddress, desired) if each.interface == UPLINK}
    assert on_uplink == {"192.168.16.1/24", "192.168.16.9/24"}
    redirect = desired[vpp.punt_redirect_key()]
    assert redirect == vpp.PuntRedirect(gateway=node.host_linux.address, interface=HOST_VPP)


def test_a_nic_that_is_vpp_s_alone_leaves_the_host_as_it_is() -> None:
    desired = state(static()).desired()
    host = desired[linux.interface_key(HOST_LINUX)]
    assert isinstance(host, linux.Interface)
    assert host.addresses == (SUBNETS.node(1).host_linux,)
    assert {route.destination for route in host.routes} == {SUBNETS.pods, SUBNETS.hosts, SUBNETS.services}
    assert vpp.punt_redirect_key() not in desired


def test_other_nics_stand_beside_the_main_one() -> None:
    others = (
        Nic(name="nic1", host_if="eth2", mac="02:00:00:00:00:02", address=Network.parse("10.9.0.1/24", strict=False)),
        Nic(name="nic2", host_if="0000:00:08.0", mac="", is_pci=True, dhcp=True),
        Nic(name="nic3", host_if="0000:00:09.0", mac="", is_pci=True, is_virtio=True),
    )
    node = state(static(), others=others)
    desired = node.desired()
    assert isinstance(desired[vpp.interface_key("nic1")], vpp.AfPacket)
    assert isinstance(desired[vpp.interface_key("nic2")], vpp.Dpdk)
    assert isinstance(desired[vpp.interface_key("nic3")], vpp.VirtioPci)
    assert linux.interface_key("nic2") not in desired  # the kernel has no such link
    moved = Network.parse("10.9.0.9/24", strict=False)
    changes = node.address_changed("nic1", moved, None)
    assert set(changes) == {vpp.address_key("nic1", others[0].address or moved), vpp.address_key("nic1", moved)}
    assert node.me.uplink == str(OWN)


def test_a_nic_is_opened_by_xdp_once_its_link_is_up() -> None:
    desired = state(static(by_xdp=True)).desired()
    nic = desired[vpp.interface_key(UPLINK)]
    assert nic == vpp.AfXdp(
        name=UPLINK, host_if="eth1", mac="02:00:00:00:00:01", mtu=1500, requires=(linux.interface_key(UPLINK),)
    )
    link = desired[linux.interface_key(UPLINK)]
    assert isinstance(link, linux.Interface)
    assert (link.name, link.up, link.requires) == ("eth1", True, ())


@pytest.mark.parametrize("large", [True, False])
def test_large_segments_enter_vpp_nowhere_unless_they_may(large: bool) -> None:
    desired = state(static(by_xdp=not large), pods=3, large_segments=large).desired()
    links = {value.name: value for value in of(linux.Interface, desired)}
    slots = [name for name in links if vpp.interface_key(name.removesuffix("p")) in desired and name.endswith("p")]
    assert len(slots) == 3
    for name in (*slots, HOST_LINUX):
        assert dict(links[name].offloads) == {"tso": large}, name
    wire = desired[linux.veth_key(WIRE)]
    assert isinstance(wire, linux.Veth)
    assert dict(wire.offloads)["gro"] is large
    ends = [each for each in of(vpp.AfPacket, desired) if each.name != UPLINK]
    assert {each.name for each in ends} >= {HOST_VPP, BVI, *(name.removesuffix("p") for name in slots)}
    assert {each.large for each in ends} == {large}
    on_taps = state(static(by_xdp=not large), tap=True, large_segments=large).desired()
    assert {tap.gso for tap in of(vpp.Tap, on_taps)} == {large}
