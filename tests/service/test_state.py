"""What services mean for VPP: clause by clause, and against a slow reading of the rules in any order of events."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contiv.model import cnat, kube, vpp
from contiv.model.ip import Address, Network
from contiv.model.service import Backend
from contiv.service.frontends import Kept, speaking
from contiv.service.render_cnat import CnatRenderer
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.renderer import Options, Renderer
from contiv.service.state import ServiceState
from tests.service.builders import NODE, endpoint, key_of, port, service, slice_, state

TCP, UDP = 6, 17


def backends(mapping: Any) -> list[str]:
    """The backends of a mapping as text."""
    return [
        f"{Address(4, address)}:{number}" for address, number, _, _ in struct.iter_unpack(">IHBI", mapping.backends)
    ]


def mappings(desired: dict[str, Any]) -> dict[str, list[str]]:
    """Backends by frontend, ``address:port`` (UDP with a suffix)."""
    return {
        f"{value.address}:{value.port}" + ("/udp" if value.protocol == UDP else ""): backends(value)
        for value in desired.values()
        if isinstance(value, vpp.NatMapping)
    }


def nat(address: str, number: int = 80, protocol: int = TCP) -> str:
    """A mapping's key."""
    return vpp.nat_mapping_key(Address.parse(address), number, protocol)


# ---- what stands without services


def test_the_node_itself() -> None:
    _, desired = state()
    assert vpp.NatAddress(address=NODE.hidden, twice=True) in desired.values()
    assert vpp.NatAddress(address=NODE.uplink) in desired.values()
    assert vpp.NatIdentity(address=NODE.uplink, protocol=UDP, port=4789) in desired.values()
    assert vpp.Route(vrf=0, destination=NODE.services, reject=True) in desired.values()
    assert desired["vpp/nat-interface/uplink"] == vpp.NatInterface(interface="uplink", output=True)
    for name in ("vpp2", "vxlan-bvi"):
        assert desired[f"vpp/nat-interface/{name}"] == vpp.NatInterface(interface=name, inside=True, outside=True)


@pytest.mark.parametrize("changes", [{"uplink": None}, {"snat_interface": None}])
def test_without_an_uplinks_address_or_a_wish_nothing_is_hidden_behind_the_node(changes: dict[str, Any]) -> None:
    _, desired = state(node=msgspec.structs.replace(NODE, **changes))
    assert not any(isinstance(value, vpp.NatAddress) and not value.twice for value in desired.values())
    assert not any(isinstance(value, vpp.NatInterface) and value.output for value in desired.values())


def test_timeouts_and_weight_are_the_configurations() -> None:
    options = Options(local_weight=3, tcp_session_s=600, other_session_s=30)
    _, desired = state(service(), slice_(endpoint("10.1.1.5"), endpoint("10.1.2.5")), options=options)
    settings = desired[vpp.nat_settings_key()]
    assert (settings.tcp_established_s, settings.udp_s, settings.icmp_s) == (600, 30, 30)
    weights = desired[nat("10.96.0.10")].backends[6::11]
    assert weights[0] == 3 * weights[1]


# ---- the fourteen points


def test_ready_endpoints_of_all_slices_without_doubles() -> None:
    one = slice_(endpoint("10.1.1.5"), endpoint("10.1.2.5", ready=False), name="web-a")
    two = slice_(endpoint("10.1.1.5"), endpoint("10.1.3.5"), name="web-b")
    foreign = slice_(endpoint("10.1.9.9"), of="other")
    _, desired = state(service(), one, two, foreign)
    assert mappings(desired) == {"10.96.0.10:80": ["10.1.1.5:8080", "10.1.3.5:8080"]}


def test_ports_are_joined_by_name_and_protocol() -> None:
    web = service(ports=[port(80, "http"), port(53, "dns", protocol="UDP"), port(443, "https")])
    first = slice_(
        endpoint("10.1.1.5"),
        name="web-a",
        ports=[
            kube.EndpointPort(name="http", protocol="TCP", port=8080),
            kube.EndpointPort(name="dns", protocol="UDP", port=5353),
            kube.EndpointPort(name="https", protocol="UDP", port=8443),
        ],
    )
    second = slice_(
        endpoint("10.1.2.5"), name="web-b", ports=[kube.EndpointPort(name="http", protocol="TCP", port=9090)]
    )
    _, desired = state(web, first, second)
    assert mappings(desired) == {
        "10.96.0.10:80": ["10.1.1.5:8080", "10.1.2.5:9090"],
        "10.96.0.10:53/udp": ["10.1.1.5:5353"],
    }


@pytest.mark.parametrize(
    "fields", [{"cluster_ips": ("None",)}, {"cluster_ips": (), "type": "ExternalName", "external_ips": ("1.2.3.4",)}]
)
def test_headless_services_and_names_are_nothing(fields: dict[str, Any]) -> None:
    _, desired = state(service(**fields), slice_(endpoint("10.1.1.5")))
    assert mappings(desired) == {}


def test_node_ports_are_answered_on_all_own_addresses_and_no_others() -> None:
    web = service(type="NodePort", ports=[port(node_port=30080)])
    held, desired = state(web, slice_(endpoint("10.1.2.5")))
    addresses = {str(value.address) for value in desired.values() if getattr(value, "port", 0) == 30080}
    assert addresses == {"192.168.16.1", "172.30.1.2", "172.30.1.1", "192.168.30.1"}
    assert all(value.hide_client for value in desired.values() if getattr(value, "port", 0) == 30080)
    assert not desired[nat("10.96.0.10")].hide_client
    more = held.node_changed(
        NODE, kube.Node(name="node-1", addresses=(kube.NodeAddress(type="ExternalIP", address="198.51.100.1"),))
    )
    assert list(more) == [nat("198.51.100.1", 30080)]


def test_external_and_load_balancer_addresses() -> None:
    web = service(
        type="LoadBalancer",
        external_ips=("203.0.113.7",),
        load_balancer_ingress=(
            kube.LoadBalancerIngress(ip="203.0.113.8", ip_mode="VIP"),
            kube.LoadBalancerIngress(ip="203.0.113.9", ip_mode="Proxy"),
            kube.LoadBalancerIngress(ip="", ip_mode=""),
        ),
    )
    _, desired = state(web, slice_(endpoint("10.1.2.5")))
    assert set(mappings(desired)) == {"10.96.0.10:80", "203.0.113.7:80", "203.0.113.8:80"}
    assert desired[nat("203.0.113.7")].hide_client
    _, cluster = state(msgspec.structs.replace(web, type="ClusterIP"), slice_(endpoint("10.1.2.5")))
    assert set(mappings(cluster)) == {"10.96.0.10:80", "203.0.113.7:80"}


def test_external_policy_local_keeps_clients_and_leaves_cluster_ips_alone() -> None:
    web = service(type="NodePort", ports=[port(node_port=30080)], external_traffic_policy="Local")
    _, desired = state(web, slice_(endpoint("10.1.1.5", node="node-1"), endpoint("10.1.2.5", node="node-2")))
    assert backends(desired[nat("192.168.16.1", 30080)]) == ["10.1.1.5:8080"]
    assert not desired[nat("192.168.16.1", 30080)].hide_client
    assert backends(desired[nat("10.96.0.10")]) == ["10.1.1.5:8080", "10.1.2.5:8080"]


def test_policy_local_without_an_endpoint_here_drops() -> None:
    web = service(
        type="NodePort",
        ports=[port(node_port=30080)],
        external_traffic_policy="Local",
        internal_traffic_policy="Local",
        external_ips=("203.0.113.7", "192.168.16.9"),
    )
    _, desired = state(web, slice_(endpoint("10.1.2.5", node="node-2")))
    assert mappings(desired) == {}
    dropped = {str(v.destination) for v in desired.values() if isinstance(v, vpp.Route) and not v.reject}
    assert dropped == {"10.96.0.10/32", "203.0.113.7/32"}, "a node's own address has other uses"


def test_two_services_that_drop_one_address_share_its_route() -> None:
    fields: dict[str, Any] = {"external_traffic_policy": "Local", "external_ips": ("203.0.113.7",)}
    one = service("one", "10.96.0.1", ports=[port(80)], **fields)
    two = service("two", "10.96.0.2", ports=[port(443)], **fields)
    held, desired = state(one, two, *(slice_(endpoint("10.1.2.5", node="n2"), of=name) for name in ("one", "two")))
    route = "vpp/route/0/203.0.113.7/32"
    assert route in desired
    assert route not in held.service_changed("default/one", None)
    assert held.service_changed("default/two", None)[route] is None


def test_internal_policy_local() -> None:
    web = service(internal_traffic_policy="Local")
    _, desired = state(web, slice_(endpoint("10.1.1.5", node="node-1"), endpoint("10.1.2.5", node="node-2")))
    assert mappings(desired) == {"10.96.0.10:80": ["10.1.1.5:8080"]}


def test_without_endpoints_connections_are_refused() -> None:
    web = service(type="NodePort", ports=[port(node_port=30080)], external_ips=("203.0.113.7",))
    _, desired = state(web)
    assert nat("10.96.0.10") not in desired
    refusal = vpp.Route(vrf=0, destination=Network.parse("10.96.0.10/32"), reject=True)
    assert desired[vpp.key_of(refusal)] == refusal, "VPP may have taken the address for its own since it had a mapping"
    assert backends(desired[nat("192.168.16.1", 30080)]) == ["172.30.1.2:1"]
    assert backends(desired[nat("203.0.113.7")]) == ["172.30.1.2:1"]


def test_endpoints_that_drain_beside_ready_ones_stay_without_weight() -> None:
    draining = endpoint("10.1.1.3", ready=False, serving=True, terminating=True)
    dead = endpoint("10.1.1.4", ready=False, serving=False, terminating=True)
    key = vpp.nat_mapping_key(Address.parse("10.96.0.10"), 80, 6)
    made, desired = state(service(), slice_(endpoint("10.1.1.2"), draining, dead))
    assert weights_of(desired[key]) == {"10.1.1.2": 2, "10.1.1.3": 0}
    assert [each["backends"] for each in made.services()] == [["10.1.1.2:8080"]]
    _, desired = state(service(), slice_(draining, dead))
    assert weights_of(desired[key]) == {"10.1.1.3": 2}
    _, desired = state(
        service(session_affinity="ClientIP", session_affinity_timeout_s=60), slice_(endpoint("10.1.1.2"), draining)
    )
    assert weights_of(desired[key]) == {"10.1.1.2": 2}


def weights_of(mapping: vpp.NatMapping) -> dict[str, int]:
    size = vpp.NAT_LOCAL_SIZE
    records = [mapping.backends[at : at + size] for at in range(0, len(mapping.backends), size)]
    assert records == sorted(records)
    return {str(Address(4, int.from_bytes(record[:4], "big"))): record[6] for record in records}


def test_session_affinity() -> None:
    web = service(session_affinity="ClientIP", session_affinity_timeout_s=600)
    _, desired = state(web, slice_(endpoint("10.1.2.5")))
    assert desired[nat("10.96.0.10")].affinity_s == 600
    _, desired = state(service(session_affinity_timeout_s=600), slice_(endpoint("10.1.2.5")))
    assert desired[nat("10.96.0.10")].affinity_s == 0


def test_zone_of_the_node_object_counts_for_hints() -> None:
    near, far = endpoint("10.1.2.5", zones=("a",)), endpoint("10.1.3.5", zones=("b",))
    held, desired = state(service(), slice_(near, far), service("other", "10.96.0.11"))
    assert len(backends(desired[nat("10.96.0.10")])) == 2
    changes = held.node_changed(NODE, kube.Node(name="node-1", labels={kube.ZONE_LABEL: "b"}))
    assert list(changes) == [nat("10.96.0.10")]
    assert backends(changes[nat("10.96.0.10")]) == ["10.1.3.5:8080"]


def test_a_mapping_never_carries_more_than_vpp_takes() -> None:
    many = [endpoint(f"10.1.{n // 200 + 2}.{n % 200 + 1}") for n in range(1000)]
    shares = []
    for name in ("node-1", "node-2"):
        _, desired = state(service(), slice_(*many), node=msgspec.structs.replace(NODE, name=name))
        mapping = desired[nat("10.96.0.10")]
        assert len(backends(mapping)) == vpp.NAT_BACKENDS_MAX
        assert sum(mapping.backends[6::11]) <= vpp.NAT_WEIGHT_MAX
        shares.append(mapping.backends)
    assert shares[0] != shares[1]


def test_health_check_ports_count_this_nodes_endpoints() -> None:
    web = service(
        type="LoadBalancer",
        external_traffic_policy="Local",
        health_check_node_port=32000,
        load_balancer_ingress=(kube.LoadBalancerIngress(ip="203.0.113.8", ip_mode="VIP"),),
    )
    here = slice_(endpoint("10.1.1.5", node="node-1"), endpoint("10.1.1.6", node="node-1", ready=False))
    held, desired = state(web, here)
    assert held.health[32000].endpoints == 1
    assert backends(desired[nat("192.168.16.1", 32000)]) == ["172.30.1.2:32000"]
    held.slice_changed(key_of(here), None)
    assert held.health[32000].endpoints == 0
    held.service_changed("default/web", None)
    assert held.health == {}


def host_ports(*ports: kube.ContainerPort, **fields: Any) -> kube.Pod:
    """A pod of this node."""
    defaults: dict[str, Any] = {"name": "p", "node_name": "node-1", "pod_ips": ("10.1.1.9",)}
    return kube.Pod(namespace="default", ports=ports, **(defaults | fields))


def container_port(host_port: int = 8080, *, host_ip: str = "", protocol: str = "TCP") -> kube.ContainerPort:
    """A container's port 80 on the host."""
    return kube.ContainerPort(container="c", port=80, protocol=protocol, host_port=host_port, host_ip=host_ip)


def test_host_ports_are_answered_on_the_nodes_addresses_and_show_the_client() -> None:
    held, _ = state()
    changes = held.pod_changed(host_ports(container_port(), container_port(5353, protocol="UDP", host_ip="172.30.1.2")))
    found = mappings(changes)
    assert found == {f"{address}:8080": ["10.1.1.9:80"] for address in map(str, NODE.own_addresses)} | {
        "172.30.1.2:5353/udp": ["10.1.1.9:80"]
    }
    assert not any(value.hide_client for value in changes.values())
    assert set(held.pod_changed(host_ports(), gone=True)) == set(changes)
    assert held.pod_changed(host_ports(), gone=True) == {}


@pytest.mark.parametrize(
    "fields",
    [{"node_name": "node-2"}, {"pod_ips": ()}, {"phase": "Succeeded"}, {"host_network": True}, {"ports": ()}],
)
def test_pods_elsewhere_or_without_address_have_no_host_ports(fields: dict[str, Any]) -> None:
    held, _ = state()
    assert held.pod_changed(msgspec.structs.replace(host_ports(container_port()), **fields)) == {}


def test_a_host_port_gives_way_to_a_node_port_and_says_so() -> None:
    web = service(type="NodePort", ports=[port(node_port=30080)])
    held, _ = state(web, slice_(endpoint("10.1.2.5")))
    assert held.pod_changed(host_ports(container_port(30080), container_port(81, host_ip="192.0.2.1"))) == {}
    assert set(faults(held)) == {"Pod default/p host port", "Pod default/p hostPort 81"}
    changes = held.service_changed("default/web", None)
    assert backends(changes[nat("192.168.16.1", 30080)]) == ["10.1.1.9:80"]
    assert set(faults(held)) == {"Pod default/p hostPort 81"}


def test_of_two_pods_with_one_host_port_the_first_has_it_and_the_other_takes_over() -> None:
    first, second = host_ports(container_port()), host_ports(container_port(), name="q", pod_ips=("10.1.1.10",))
    held, _ = state()
    where = nat("172.30.1.2", 8080)
    assert backends(held.pod_changed(second)[where]) == ["10.1.1.10:80"]
    assert backends(held.pod_changed(first)[where]) == ["10.1.1.9:80"]
    assert "serves Pod default/p" in faults(held)["Pod default/q host port"]
    ended = msgspec.structs.replace(first, phase="Failed")
    assert backends(held.pod_changed(ended)[where]) == ["10.1.1.10:80"]
    assert faults(held) == {}


def test_a_host_port_is_safer_than_an_external_ip() -> None:
    thief = service("a", "10.96.0.1", external_ips=("172.30.1.2",), ports=[port(8080)])
    held, desired = state(thief, slice_(endpoint("10.1.2.5"), of="a"))
    where = nat("172.30.1.2", 8080)
    assert backends(desired[where]) == ["10.1.2.5:8080"]
    changes = held.pod_changed(host_ports(container_port()))
    assert (backends(changes[where]), changes[where].hide_client) == (["10.1.1.9:80"], False)
    assert list(faults(held)) == ["Service default/a external ip"]
    assert backends(held.pod_changed(host_ports(), gone=True)[where]) == ["10.1.2.5:8080"]


@pytest.mark.parametrize("text", ["", "0.0.0.0", "::"])
def test_a_host_ip_may_be_any_address(text: str) -> None:
    held, _ = state()
    assert len(held.pod_changed(host_ports(container_port(host_ip=text)))) == len(NODE.own_addresses)
    assert faults(held) == {}


@pytest.mark.parametrize("text", ["127.0.0.1", "192.168.16.2", "fd00::1", "host"])
def test_a_host_ip_of_somebody_else_is_reported(text: str) -> None:
    held, _ = state()
    assert held.pod_changed(host_ports(container_port(host_ip=text))) == {}
    assert f"hostIP {text}" in faults(held)["Pod default/p hostPort 8080"]


def test_a_host_port_with_an_address_comes_before_one_of_the_same_pod_without() -> None:
    everywhere = kube.ContainerPort(container="c", port=81, protocol="TCP", host_port=8080)
    held, _ = state()
    found = mappings(held.pod_changed(host_ports(everywhere, container_port(host_ip="172.30.1.2"))))
    assert (found["172.30.1.2:8080"], found["192.168.16.1:8080"]) == (["10.1.1.9:80"], ["10.1.1.9:81"])


def test_a_host_port_over_sctp_is_refused_by_nat44_alone() -> None:
    pod = host_ports(container_port(protocol="SCTP"))
    held, _ = state()
    assert held.pod_changed(pod) == {}
    assert "cannot tell SCTP ports apart" in faults(held)["Pod default/p hostPort 8080"]
    other, _ = state(renderer=CnatRenderer)
    assert cnat.translation_key(NODE.host, 8080, 132) in other.pod_changed(pod)
    assert faults(other) == {}


def test_a_pod_with_an_address_of_another_network_has_no_host_ports() -> None:
    held, _ = state()
    assert held.pod_changed(host_ports(container_port(), pod_ips=("10.1.2.9",))) == {}
    assert list(faults(held)) == ["Pod default/p status.podIPs"]


def test_what_the_node_needs_itself_is_no_host_port() -> None:
    own = NODE.own_addresses[:1]
    dhcp = Kept(protocols=(UDP,), address=own[0], first=68, last=68, use="is DHCP's")
    node = msgspec.structs.replace(NODE, kept=(dhcp, *speaking((NODE.host,), ((32768, 60999),))))
    held, _ = state(node=node)
    ports = [container_port(number, protocol=name) for number in (68, 4789, 32767, 40000) for name in ("TCP", "UDP")]
    found = set(mappings(held.pod_changed(host_ports(*ports))))
    everywhere = {f"{address}:{each.host_port}" for address in NODE.own_addresses for each in ports}
    wanted = everywhere | {f"{each}/udp" for each in everywhere}
    assert wanted - found == {
        "192.168.16.1:68/udp", "192.168.16.1:4789/udp", "172.30.1.2:40000", "172.30.1.2:40000/udp"
    }  # fmt: skip
    reasons = [fault.reason for fault in held.faults()]
    assert len(reasons) == 4
    assert any("ip_local_reserved_ports" in reason for reason in reasons)


def test_node_ports_have_a_range_of_their_own() -> None:
    node = msgspec.structs.replace(NODE, kept=tuple(speaking((NODE.host,), ((32768, 60999),))))
    _, desired = state(service(type="NodePort", ports=[port(node_port=40000)]), node=node)
    assert nat("172.30.1.2", 40000) in desired


def test_a_host_port_leaves_a_health_check_alone() -> None:
    web = service(type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=32000)
    held, desired = state(web)
    assert nat("172.30.1.2", 32000) not in desired, "the host answers there by itself"
    assert held.pod_changed(host_ports(container_port(32000))) == {}
    assert nat("172.30.1.2", 32000) in held.service_changed("default/web", None)


def test_a_service_and_a_pod_of_one_name_are_told_apart() -> None:
    held, _ = state(service("p", "10.96.0.1", type="NodePort", ports=[port(node_port=30080)]))
    changes = held.pod_changed(host_ports(container_port()))
    assert changes[nat("192.168.16.1", 8080)].label == "Pod default/p"
    assert {each["service"] for each in held.services()} == {"default/p", "Pod default/p"}


# ---- what changes with what


def test_one_endpoint_is_one_key() -> None:
    services = [service(f"s{n}", f"10.96.1.{n}") for n in range(1, 40)]
    slices = [slice_(*(endpoint(f"10.1.2.{m}") for m in range(1, 11)), of=f"s{n}") for n in range(1, 40)]
    held, _ = state(*services, *slices)
    changes = held.slice_changed(key_of(slices[7]), slice_(endpoint("10.1.2.1"), of="s8"))
    assert list(changes) == [nat("10.96.1.8")]
    assert held.slice_changed(key_of(slices[7]), slice_(endpoint("10.1.2.1"), of="s8")) == {}


def test_a_slice_may_move_to_another_service() -> None:
    held, _ = state(
        service("a", "10.96.0.1"), service("b", "10.96.0.2"), slice_(endpoint("10.1.2.5"), of="a", name="x")
    )
    moved = slice_(endpoint("10.1.2.5"), of="b", name="x")
    assert mappings(held.slice_changed(key_of(moved), moved)) == {"10.96.0.2:80": ["10.1.2.5:8080"]}
    assert held.slice_changed(key_of(moved), moved) == {}


def test_pods_interfaces_come_and_go() -> None:
    held, _ = state()
    assert held.interfaces_changed({"pod1", "pod2"}) == {
        f"vpp/nat-interface/{name}": vpp.NatInterface(interface=name, inside=True, classified=True)
        for name in ("pod1", "pod2")
    }
    assert held.interfaces_changed({"pod2"}) == {"vpp/nat-interface/pod1": None}
    assert held.interfaces_changed({"pod2"}) == {}


def test_a_new_uplink_address_moves_node_ports_and_nothing_else() -> None:
    plain = service("plain", "10.96.0.1")
    web = service(type="NodePort", ports=[port(node_port=30080)])
    held, _ = state(plain, web, slice_(endpoint("10.1.2.5")), slice_(endpoint("10.1.2.6"), of="plain"))
    new = Address.parse("192.168.16.77")
    moved = msgspec.structs.replace(NODE, uplink=new, own_addresses=(new, *NODE.own_addresses[1:]))
    changes = held.node_changed(moved, None)
    assert changes[nat("192.168.16.1", 30080)] is None
    assert changes[nat("192.168.16.77", 30080)] is not None
    assert changes["vpp/nat-address/pool/192.168.16.1"] is None
    touched = {key for key in changes if key.startswith(vpp.NAT_MAPPING)}
    assert touched == {nat("192.168.16.1", 30080), nat("192.168.16.77", 30080)}
    assert held.node_changed(moved, None) == {}


# ---- what is wrong


def faults(held: ServiceState) -> dict[str, str]:
    """Reasons by object and field."""
    return {f"{fault.object} {fault.field}": fault.reason for fault in held.faults()}


def test_two_services_with_one_node_port_and_the_way_back() -> None:
    first = service("a", "10.96.0.1", type="NodePort", ports=[port(node_port=30080)])
    second = service("b", "10.96.0.2", type="NodePort", ports=[port(node_port=30080)])
    slices = [slice_(endpoint("10.1.2.5"), of="a"), slice_(endpoint("10.1.3.5"), of="b")]
    held, desired = state(second, first, *slices)
    where = nat("192.168.16.1", 30080)
    assert backends(desired[where]) == ["10.1.2.5:8080"]
    assert list(faults(held)) == ["Service default/b node port"]
    assert backends(desired[nat("10.96.0.2")]) == ["10.1.3.5:8080"]
    assert backends(held.service_changed("default/a", None)[where]) == ["10.1.3.5:8080"]
    assert faults(held) == {}
    assert backends(held.service_changed("default/a", first)[where]) == ["10.1.2.5:8080"]


def test_an_external_ip_never_takes_a_cluster_ip() -> None:
    thief = service("a", "10.96.0.1", external_ips=("10.96.0.2", "10.1.2.5", "127.0.0.1", "nonsense", "203.0.113.7"))
    held, desired = state(thief, slice_(endpoint("10.1.2.6"), of="a"))
    assert set(mappings(desired)) == {"10.96.0.1:80", "203.0.113.7:80"}
    assert set(faults(held)) == {f"Service default/a externalIPs[{n}]" for n in range(4)}


def test_an_external_ip_of_the_node_leaves_vxlan_alone() -> None:
    tunnel = service("a", "10.96.0.1", external_ips=("192.168.16.1",), ports=[port(4789, protocol="UDP")])
    held, desired = state(tunnel)
    assert nat("192.168.16.1", 4789, UDP) not in desired
    assert "carries VXLAN" in faults(held)["Service default/a ports"]


def test_sctp_and_ipv6_are_refused_in_words_and_the_rest_serves() -> None:
    web = service(cluster_ips=("10.96.0.10", "fd00::10"), ports=[port(80, "http"), port(81, "sctp", protocol="SCTP")])
    slices = slice_(endpoint("10.1.2.5"), ports=[kube.EndpointPort(name="http", protocol="TCP", port=8080)])
    held, desired = state(web, slices)
    assert mappings(desired) == {"10.96.0.10:80": ["10.1.2.5:8080"]}
    words = " ".join(fault.reason for fault in held.faults())
    assert "cannot tell SCTP ports apart" in words
    assert "fd00::10 is IPv6" in words


def test_a_pods_endpoint_outside_of_the_pod_subnet_is_reported_unless_it_is_a_nodes() -> None:
    stray = endpoint("198.51.100.5", is_pod=True)
    on_host = endpoint("192.168.16.2", is_pod=True)
    held, desired = state(service(), slice_(stray, on_host))
    assert len(backends(desired[nat("10.96.0.10")])) == 2
    (reason,) = faults(held).values()
    assert "198.51.100.5" in reason


def test_source_ranges_that_nobody_can_read_let_nobody_in() -> None:
    web = service(
        type="LoadBalancer",
        load_balancer_ingress=(kube.LoadBalancerIngress(ip="203.0.113.8", ip_mode="VIP"),),
        load_balancer_source_ranges=("10.0.0.0/33",),
    )
    held, desired = state(web, slice_(endpoint("10.1.2.5")))
    assert set(mappings(desired)) == {"10.96.0.10:80"}
    assert "Service default/web loadBalancerSourceRanges[0]" in faults(held)


# ---- what policies see


def test_policies_see_all_frontends_but_the_cluster_ips_of_pods() -> None:
    plain = service("plain", "10.96.0.1")
    api = service("kubernetes", "10.96.0.2")
    web = service(
        type="LoadBalancer",
        ports=[port(node_port=30080)],
        external_traffic_policy="Local",
        load_balancer_ingress=(kube.LoadBalancerIngress(ip="203.0.113.8", ip_mode="VIP"),),
        load_balancer_source_ranges=("198.51.100.0/24",),
    )
    near = slice_(endpoint("10.1.1.5", node="node-1"))
    held, _ = state(
        plain,
        api,
        web,
        near,
        slice_(endpoint("10.1.2.6"), of="plain"),
        slice_(endpoint("192.168.16.9"), of="kubernetes"),
    )
    seen = held.frontends()
    own = set(map(str, NODE.own_addresses))
    assert {str(frontend.address) for frontend in seen.values()} == {"10.96.0.2", "203.0.113.8", *own}
    assert not seen[TCP, NODE.host, 30080].client_hidden
    lb = seen[TCP, Address.parse("203.0.113.8"), 80]
    assert lb.source_ranges == (Network.parse("198.51.100.0/24"),)
    assert lb.backends == (Backend(Address.parse("10.1.1.5"), 8080),)
    version = held.frontends_version
    held.slice_changed("other", slice_(endpoint("10.1.2.7"), of="plain", name="other"))
    assert held.frontends_version == version, "a plain service concerns no policy"
    assert held.frontends()[lb.key] is lb
    held.service_changed("default/web", msgspec.structs.replace(web, external_traffic_policy="Cluster"))
    assert held.frontends_version > version
    assert held.frontends()[TCP, Address.parse("192.168.16.1"), 30080].client_hidden
    held.service_changed("default/web", None)
    assert {str(frontend.address) for frontend in held.frontends().values()} == {"10.96.0.2"}


# ---- any order of events

NAMES = ("a", "b", "c")
ADDRESSES = tuple(f"10.1.{n}.{m}" for n in (1, 2, 3) for m in (5, 6))
endpoints_ = st.builds(
    lambda address, ready, node: endpoint(address, ready=ready, terminating=not ready, node=node),
    st.sampled_from(ADDRESSES),
    st.booleans(),
    st.sampled_from(["", "node-1", "node-2"]),
)
slices_ = st.builds(
    lambda found, of, number: slice_(*found, of=of, name=f"s{number}"),
    st.lists(endpoints_, max_size=4),
    st.sampled_from(NAMES),
    st.integers(0, 4),
)
services_ = st.builds(
    lambda name, kind, etp, itp, external, node_port, weight: service(
        name,
        f"10.96.0.{ord(name)}",
        type=kind,
        external_traffic_policy=etp,
        internal_traffic_policy=itp,
        external_ips=external,
        ports=[port(80, node_port=node_port)],
        load_balancer_ingress=(kube.LoadBalancerIngress(ip="203.0.113.8", ip_mode="VIP"),),
        health_check_node_port=weight,
    ),
    st.sampled_from(NAMES),
    st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
    st.sampled_from(["Local", "Cluster"]),
    st.sampled_from(["Local", "Cluster"]),
    st.sampled_from([(), ("203.0.113.7",), ("203.0.113.7", "203.0.113.8")]),
    st.sampled_from([0, 30080, 30081]),
    st.sampled_from([0, 32000]),
)
views = st.sampled_from(
    [
        NODE,
        msgspec.structs.replace(NODE, kept=tuple(speaking((NODE.host,), ((32768, 60999),)))),
        msgspec.structs.replace(NODE, uplink=None, own_addresses=NODE.own_addresses[1:], snat_interface=None),
    ]
)
nodes_ = st.sampled_from([None, kube.Node(name="node-1", labels={kube.ZONE_LABEL: "z"})])
PODS = ("a", "p", "q")
"""Pods with host ports; one has the name of a service."""
ports_ = st.builds(
    lambda number, host_ip, protocol: container_port(number, host_ip=host_ip, protocol=protocol),
    st.sampled_from([0, 80, 8080, 30080, 32000, 40000]),
    st.sampled_from(["", "0.0.0.0", "192.168.16.1", "172.30.1.2", "192.0.2.1", "203.0.113.7"]),
    st.sampled_from(["TCP", "TCP", "SCTP"]),
)
pods_ = st.builds(
    lambda name, ports, address, phase, node: host_ports(
        *ports, name=name, pod_ips=address, phase=phase, node_name=node
    ),
    st.sampled_from(PODS),
    st.lists(ports_, max_size=3),
    st.sampled_from([("10.1.1.9",), ("10.1.1.10", "fd00::1"), ("10.1.2.9",), ()]),
    st.sampled_from(["Running", "Running", "Failed"]),
    st.sampled_from(["node-1", "node-1", "node-2"]),
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("service"), services_),
        st.tuples(st.just("no service"), st.sampled_from(NAMES)),
        st.tuples(st.just("slice"), slices_),
        st.tuples(st.just("no slice"), st.integers(0, 4)),
        st.tuples(st.just("node"), st.tuples(views, nodes_)),
        st.tuples(st.just("pod"), pods_),
        st.tuples(st.just("no pod"), st.sampled_from(PODS)),
    ),
    max_size=25,
)


class World:
    """The objects as they are, and the keys as the changes made them."""

    def __init__(self, renderer: Callable[[Options], Renderer] = Nat44Renderer) -> None:
        self.renderer = renderer
        self.services: dict[str, kube.Service] = {}
        self.slices: dict[str, kube.EndpointSlice] = {}
        self.view, self.node = NODE, None
        self.pods: dict[str, kube.Pod] = {}
        self.held, self.keys = state(renderer=renderer)

    def play(self, kind: str, value: Any) -> None:
        """One event, into the objects and the state."""
        match kind:
            case "service":
                self.services[f"default/{value.name}"] = value
                changes = self.held.service_changed(f"default/{value.name}", value)
            case "no service":
                self.services.pop(f"default/{value}", None)
                changes = self.held.service_changed(f"default/{value}", None)
            case "slice":
                self.slices[key_of(value)] = value
                changes = self.held.slice_changed(key_of(value), value)
            case "no slice":
                key = key_of(slice_(name=f"s{value}"))
                self.slices.pop(key, None)
                changes = self.held.slice_changed(key, None)
            case "pod":
                self.pods[value.name] = value
                changes = self.held.pod_changed(value)
            case "no pod":
                changes = self.held.pod_changed(self.pods.pop(value, host_ports(name=value)), gone=True)
            case _:
                self.view, self.node = value
                changes = self.held.node_changed(*value)
        for key, desired in changes.items():
            if desired is None:
                self.keys.pop(key)  # KeyError: removed what never stood
            else:
                assert self.keys.get(key) != desired, f"{key} was sent again as it was"
                self.keys[key] = desired

    def fresh(self) -> tuple[ServiceState, dict[str, Any]]:
        """A state that was told everything at once."""
        made = ServiceState(self.view, self.renderer(Options()))
        keys = made.replace(
            self.services.values(),
            self.slices,
            self.view,
            node_object=self.node,
            interfaces=(),
            pods=self.pods.values(),
        )
        return made, dict(keys)


@pytest.mark.parametrize("renderer", [Nat44Renderer, CnatRenderer])
@settings(max_examples=150, deadline=None)
@given(played=events)
def test_any_order_of_events_ends_where_a_fresh_start_does(
    renderer: Callable[[Options], Renderer], played: list[tuple[str, Any]]
) -> None:
    world = World(renderer)
    for kind, value in played:
        world.play(kind, value)
        if value and kind == "slice":
            world.held.frontends()  # looked at now and then, it must not go stale
    made, keys = world.fresh()
    assert world.keys == keys
    assert dict(world.held.frontends()) == dict(made.frontends())
    assert world.held.faults() == made.faults()
    assert world.held.services() == made.services()
    assert world.held.health == made.health


@pytest.mark.parametrize("renderer", [Nat44Renderer, CnatRenderer])
@settings(max_examples=60, deadline=None)
@given(played=events)
def test_deleted_services_leave_nothing(renderer: Callable[[Options], Renderer], played: list[tuple[str, Any]]) -> None:
    world = World(renderer)
    for kind, value in played:
        world.play(kind, value)
    for name in NAMES:
        world.play("no service", name)
    for number in range(5):
        world.play("no slice", number)
    for name in PODS:
        world.play("no pod", name)
    world.play("node", (NODE, None))
    assert world.keys == state(renderer=renderer)[1]
    assert not world.held.frontends()
    assert not world.held.health
    assert not world.held.faults()
    inside = ("_entries", "_objects", "_slices", "_claimants", "_rendered", "_routes", "_frontends", "_shown")
    assert [name for name in inside if getattr(world.held, name)] == []
