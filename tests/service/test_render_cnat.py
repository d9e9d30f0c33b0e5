"""What services mean for CNAT; that any order of events means the same, ``test_state`` asserts for every renderer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from contiv.model import cnat, kube, vpp
from contiv.model.ip import Address, Network
from contiv.service.render_cnat import CnatRenderer
from tests.service.builders import NODE, endpoint, port, service, slice_, state

TCP, SCTP = 6, 132
VIP, NODE_IP, EXTERNAL = "10.96.0.10", "192.168.16.1", "203.0.113.7"
NODE_PORT = 30080


def rendered(*objects: Any, node: Any = NODE) -> dict[str, Any]:
    """What CNAT shall hold."""
    return state(*objects, node=node, renderer=CnatRenderer)[1]


def translation(desired: dict[str, Any], address: str, number: int = 80, protocol: int = TCP) -> cnat.CnatTranslation:
    """One of them."""
    found = desired[cnat.translation_key(Address.parse(address), number, protocol)]
    assert isinstance(found, cnat.CnatTranslation)
    return found


def targets(value: cnat.CnatTranslation) -> list[tuple[str, int, bool]]:
    """Backends: address, port, and whether clients are hidden from it."""
    return [
        (str(each.address), each.port, each.hidden) for each in cnat.backends(value.backends, value.address.version)
    ]


def hairpins(desired: dict[str, Any]) -> set[str]:
    """Whose hairpins there are."""
    return {str(value.address) for value in desired.values() if isinstance(value, cnat.CnatHairpin)}


def test_the_node_itself() -> None:
    desired = rendered()
    assert desired[cnat.settings_key()] == cnat.CnatSettings(hidden=NODE.hidden)
    assert desired[cnat.hairpins_key()] == cnat.CnatHairpins(interfaces=("vpp2", "vxlan-bvi", "uplink"))
    for name in ("vpp2", "vxlan-bvi", "uplink"):
        assert desired[cnat.interface_key(name)] == cnat.CnatInterface(interface=name)
    nat = {key: value for key, value in desired.items() if key.startswith("vpp/nat-interface/")}
    assert nat == {"vpp/nat-interface/uplink": vpp.NatInterface(interface="uplink", output=True)}
    assert vpp.NatAddress(address=NODE.uplink) in desired.values()
    assert not any(isinstance(value, vpp.NatAddress) and value.twice for value in desired.values())


def test_without_a_wish_nothing_of_nat44_stands() -> None:
    desired = rendered(node=msgspec.structs.replace(NODE, snat_interface=None))
    assert not [key for key in desired if key.startswith("vpp/nat-")]


def test_a_cluster_ip_keeps_its_clients_and_its_own_pods_reach_themselves() -> None:
    desired = rendered(service(), slice_(endpoint("10.1.1.5"), endpoint("10.1.2.5")))
    assert targets(translation(desired, VIP)) == [("10.1.1.5", 8080, False), ("10.1.2.5", 8080, False)]
    assert translation(desired, VIP).source is None
    assert hairpins(desired) == {"10.1.1.5"}


def test_a_backend_on_the_host_sees_the_hidden_address() -> None:
    desired = rendered(service(), slice_(endpoint("10.1.2.5"), endpoint("172.30.1.2")))
    assert targets(translation(desired, VIP)) == [("10.1.2.5", 8080, False), ("172.30.1.2", 8080, True)]
    assert translation(desired, VIP).source == NODE.hidden
    assert hairpins(desired) == set(), "an address of the node has none"


def test_policies_judge_who_asks_a_backend_on_the_host_before_it_is_hidden() -> None:
    made, _ = state(service(), slice_(endpoint("172.30.1.2")), renderer=CnatRenderer)
    (frontend,) = made.frontends().values()
    assert frontend.client_hidden
    pods, _ = state(service(), slice_(endpoint("10.1.1.5")), renderer=CnatRenderer)
    assert not pods.frontends()


def test_the_outside_is_hidden_from_all_unless_the_policy_is_local() -> None:
    web = service(type="NodePort", ports=[port(node_port=NODE_PORT)])
    endpoints = slice_(endpoint("10.1.1.5", node="node-1"), endpoint("10.1.2.5", node="node-2"))
    desired = rendered(web, endpoints)
    assert all(hidden for _, _, hidden in targets(translation(desired, NODE_IP, NODE_PORT)))
    desired = rendered(msgspec.structs.replace(web, external_traffic_policy="Local"), endpoints)
    assert targets(translation(desired, NODE_IP, NODE_PORT)) == [("10.1.1.5", 8080, False)]


def test_nobody_anywhere_is_refused_by_the_host_and_nobody_here_is_dropped() -> None:
    web = service(type="NodePort", ports=[port(node_port=NODE_PORT)])
    desired = rendered(web)
    for address, number in ((VIP, 80), (NODE_IP, NODE_PORT)):
        assert targets(translation(desired, address, number)) == [(str(NODE.host), 1, True)]
    local = msgspec.structs.replace(web, external_traffic_policy="Local", internal_traffic_policy="Local")
    desired = rendered(local, slice_(endpoint("10.1.2.5", node="node-2")))
    for address, number in ((VIP, 80), (NODE_IP, NODE_PORT)):
        assert targets(translation(desired, address, number)) == [(str(cnat.BLACK_HOLE[4]), 1, False)]


def test_a_translation_always_has_backends_and_never_too_many() -> None:
    many = [endpoint(f"10.1.{n // 200 + 2}.{n % 200 + 2}") for n in range(300)]
    desired = rendered(service(), slice_(*many))
    found = targets(translation(desired, VIP))
    assert len(found) == cnat.BACKENDS_MAX
    assert found == sorted(found, key=lambda each: Address.parse(each[0]).value)
    other = rendered(service(), slice_(*many), node=msgspec.structs.replace(NODE, name="node-9"))
    assert targets(translation(other, VIP)) != found, "each node has its own share"


def test_an_external_ip_has_a_route_that_two_services_share() -> None:
    route = vpp.Route(vrf=0, destination=Network.parse(f"{EXTERNAL}/32"), reject=True)
    one = service("a", external_ips=(EXTERNAL,))
    two = service("b", "10.96.0.11", external_ips=(EXTERNAL,), ports=[port(81)])
    made, desired = state(one, two, slice_(endpoint("10.1.2.5"), of="a"), renderer=CnatRenderer)
    assert desired[vpp.key_of(route)] == route
    assert vpp.key_of(route) not in made.service_changed("default/a", None)
    assert made.service_changed("default/b", None)[vpp.key_of(route)] is None


def test_a_hairpin_stays_while_any_service_has_the_pod() -> None:
    here = endpoint("10.1.1.5")
    key = cnat.hairpin_key(Address.parse("10.1.1.5"))
    made, desired = state(
        service("a"), service("b", "10.96.0.11"), slice_(here, of="a"), slice_(here, of="b"), renderer=CnatRenderer
    )
    assert key in desired
    assert key not in made.service_changed("default/a", None)
    again = made.service_changed("default/a", service("a"))
    assert key not in again, "it stands"
    assert key not in made.service_changed("default/b", None)
    assert made.service_changed("default/a", None)[key] is None


def test_affinity_is_the_translations() -> None:
    desired = rendered(service(session_affinity="ClientIP"), slice_(endpoint("10.1.2.5")))
    assert translation(desired, VIP).affinity
    assert not translation(rendered(service(session_affinity="ClientIP")), VIP).affinity, "of refusal"


def test_sctp_is_served_and_its_replies_are_exempt_from_source_nat() -> None:
    web = service(type="NodePort", external_ips=(EXTERNAL,), ports=[port(protocol="SCTP", node_port=NODE_PORT)])
    ports = (kube.EndpointPort(name="", protocol="SCTP", port=8080),)
    made, desired = state(web, slice_(endpoint("10.1.2.5"), ports=ports), renderer=CnatRenderer)
    assert not made.faults()
    assert targets(translation(desired, VIP, protocol=SCTP)) == [("10.1.2.5", 8080, False)]
    for address, number in ((NODE_IP, NODE_PORT), (EXTERNAL, 80)):
        assert targets(translation(desired, address, number, SCTP)) == [("10.1.2.5", 8080, True)]
        assert vpp.NatIdentity(address=Address.parse(address), protocol=SCTP) in desired.values()
    assert vpp.NatIdentity(address=Address.parse(VIP), protocol=SCTP) not in desired.values()


def test_cluster_ips_of_ipv6_are_rendered_and_the_rest_of_ipv6_is_a_fault() -> None:
    web = service(cluster_ips=(VIP, "fd00::10"), external_ips=("2001:db8::7",))
    six = slice_(endpoint("fd01::5"), endpoint("fd01::6"), name="web-6", address_type="IPv6")
    made, desired = state(web, slice_(endpoint("10.1.2.5")), six, renderer=CnatRenderer)
    found = translation(desired, "fd00::10")
    assert targets(found) == [("fd01::5", 8080, False), ("fd01::6", 8080, False)]
    assert desired["vpp/route/0/fd00::10/128"].reject
    assert ["2001:db8::7" in fault.reason for fault in made.faults()] == [True]
    none = rendered(web)
    assert cnat.translation_key(Address.parse("fd00::10"), 80, TCP) not in none
    assert none["vpp/route/0/fd00::10/128"].reject, "refuses by itself"


@pytest.mark.parametrize("number", [0, 1])
def test_one_endpoint_more_is_one_key(number: int) -> None:
    """For each frontend of the service, and the hairpin of a pod that is here."""
    before = [endpoint("10.1.2.5"), endpoint("10.1.2.6")]
    more = endpoint(("10.1.2.7", "10.1.1.7")[number])
    made, _ = state(service(), slice_(*before), renderer=CnatRenderer)
    changes = made.slice_changed("/registry/slice", slice_(*before, more, name="web-1"))
    keys = {cnat.translation_key(Address.parse(VIP), 80, TCP)}
    assert set(changes) == keys | ({cnat.hairpin_key(Address.parse("10.1.1.7"))} if number else set())
