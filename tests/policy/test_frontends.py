"""Services that would carry a pod past its policies are judged before they translate."""

from __future__ import annotations

import msgspec

from contiv.fastpath import acl
from contiv.model import kube
from contiv.model.ip import Address, Network
from contiv.model.service import Backend, Frontend, FrontendKey
from contiv.policy.state import PolicyState
from contiv.policy.tables import OPEN
from tests.policy.test_state import labelled, pod, policy
from tests.policy.worlds import attachment, view

NODE_IP = "192.168.16.1"
OUTSIDE = "192.0.2.7"
EXTERNAL = "198.51.100.9"


def frontend(address: str, *backends: str, port: int = 80, hidden: bool = False) -> Frontend:
    ends = tuple(Backend(Address.parse(each), 8080) for each in backends)
    return Frontend(
        address=Address.parse(address), port=port, protocol=acl.TCP, service="a/s", client_hidden=hidden, backends=ends
    )


def by_key(*frontends: Frontend) -> dict[FrontendKey, Frontend]:
    return {each.key: each for each in frontends}


def node(*policies: kube.NetworkPolicy) -> PolicyState:
    """web (10.1.1.2) and db (10.1.1.3) on this node, far (10.1.2.2) on another."""
    state = PolicyState(view("n1"))
    state.complete = True
    pods = [pod("web", 2, app="web"), pod("db", 3, app="db"), pod("far", 2, node="n2", app="far")]
    state.load([kube.Namespace(name="a"), *pods, *policies])
    for each in pods[:2]:
        here = attachment(each)
        assert here is not None
        state.attach(here.container_id, here)
    state.settle()
    return state


def to(*cidrs: str, port: int | None = None) -> tuple[kube.EgressRule, ...]:
    peers = tuple(kube.PolicyPeer(ip_block=kube.IPBlock(cidr)) for cidr in cidrs)
    return (kube.EgressRule(peers=peers, ports=(kube.PolicyPort("TCP", port),) if port else None),)


def out_of_web(*rules: kube.EgressRule) -> kube.NetworkPolicy:
    return policy("p", subject=labelled(app="web"), policy_types=("Egress",), egress=rules)


def into_db(*cidrs: str) -> kube.NetworkPolicy:
    peers = tuple(kube.PolicyPeer(ip_block=kube.IPBlock(cidr)) for cidr in cidrs)
    return policy("q", subject=labelled(app="db"), ingress=(kube.IngressRule(peers=peers),) if peers else ())


def enters(state: PolicyState, interface: str, source: str, destination: str, port: int = 80) -> bool:
    lists = state.lists.get(interface)
    tables = lists.input if lists is not None else ()
    return bool(acl.evaluate_lists(tables, source, destination, acl.TCP, 40000, port).action)


def web_sends(state: PolicyState, destination: str, port: int = 80) -> bool:
    return enters(state, "a-web", "10.1.1.2", destination, port)


def test_a_cluster_ip_of_pods_passes_since_it_is_judged_behind() -> None:
    state = node(out_of_web())
    state.set_frontends(by_key(frontend("10.96.0.9", "10.1.1.3", "10.1.2.2")))
    state.settle()
    assert web_sends(state, "10.96.0.9")


def test_a_service_with_a_backend_by_the_uplink_passes_only_where_rules_allow_all_of_them() -> None:
    service = frontend("10.96.0.1", EXTERNAL, "192.168.16.2")
    for rules, passes in (
        ((), False),
        (to(f"{EXTERNAL}/32"), False),
        (to(f"{EXTERNAL}/32", "192.168.16.2/32"), True),
        (to(f"{EXTERNAL}/32", "192.168.16.2/32", port=8080), True),
        (to(f"{EXTERNAL}/32", "192.168.16.2/32", port=80), False),
    ):
        state = node(out_of_web(*rules))
        state.set_frontends(by_key(service))
        state.settle()
        assert web_sends(state, "10.96.0.1") is passes, rules
        assert web_sends(state, "10.96.0.1", port=81), "another port of the address is another service's"


def test_a_node_port_hides_the_client_so_that_its_own_list_decides_by_the_backends() -> None:
    state = node(out_of_web(*to("10.1.1.3/32")))
    state.set_frontends(by_key(frontend(NODE_IP, "10.1.1.3", port=30080, hidden=True)))
    state.settle()
    assert web_sends(state, NODE_IP, port=30080)
    assert not web_sends(state, NODE_IP, port=22)
    state.set_frontends(by_key(frontend(NODE_IP, "10.1.1.3", "10.1.2.2", port=30080, hidden=True)))
    assert state.settle() == {"a-web"}
    assert not web_sends(state, NODE_IP, port=30080)


def test_a_pod_reaches_itself_through_its_own_node_port_whatever_its_rules() -> None:
    state = node(out_of_web())
    state.set_frontends(by_key(frontend(NODE_IP, "10.1.1.2", port=30080, hidden=True)))
    state.settle()
    assert web_sends(state, NODE_IP, port=30080)


def test_an_address_outside_of_the_service_network_that_is_judged_behind_is_let_through_by_name() -> None:
    state = node(out_of_web())
    state.set_frontends(by_key(frontend(EXTERNAL, "10.1.1.3")))
    state.settle()
    assert web_sends(state, EXTERNAL)
    assert not web_sends(state, EXTERNAL, port=81)
    state.set_frontends({})
    state.settle()
    assert not web_sends(state, EXTERNAL)


def test_a_frontend_without_backends_opens_nothing() -> None:
    state = node(out_of_web())
    state.set_frontends(by_key(frontend(EXTERNAL), frontend(NODE_IP, port=30080, hidden=True)))
    state.settle()
    assert not web_sends(state, EXTERNAL)
    assert not web_sends(state, NODE_IP, port=30080)


def test_outside_clients_of_a_hidden_service_are_judged_by_their_own_address() -> None:
    state = node(into_db("192.0.2.0/24"))
    state.set_frontends(by_key(frontend(NODE_IP, "10.1.1.3", port=30080, hidden=True)))
    assert state.settle() == {"uplink", "bvi", "a-web"}
    for interface in ("uplink", "bvi"):
        assert enters(state, interface, OUTSIDE, NODE_IP, 30080)
        assert not enters(state, interface, "203.0.113.1", NODE_IP, 30080)
        assert enters(state, interface, "203.0.113.1", NODE_IP, 22), "other traffic is not the guard's"
        assert enters(state, interface, "203.0.113.1", "10.1.1.2", 80)
    assert not web_sends(state, NODE_IP, port=30080), "nor may a pod come in that way"
    assert enters(state, "a-db", "10.1.1.3", NODE_IP, 30080), "but a pod may reach itself"
    assert state.lists["uplink"].output == ()


def test_no_guard_stands_before_a_backend_that_lets_everybody_in() -> None:
    state = node(into_db("0.0.0.0/0", "::/0"))
    state.set_frontends(by_key(frontend(NODE_IP, "10.1.1.3", port=30080, hidden=True)))
    assert state.settle() == set()
    state.set_frontends(by_key(frontend(NODE_IP, "10.1.2.2", port=30080, hidden=True)))
    assert state.settle() == set(), "a remote backend is judged on its own node"


def test_a_guard_follows_rules_and_backends_and_goes_with_them() -> None:
    state = node()
    services = by_key(frontend(NODE_IP, "10.1.1.3", "10.1.1.2", port=30080, hidden=True))
    state.set_frontends(services)
    state.settle()
    assert state.lists["uplink"] == OPEN
    state.put(into_db("192.0.2.7/32"))
    assert {"uplink", "bvi", "a-web", "a-db"} == state.settle()
    assert enters(state, "uplink", OUTSIDE, NODE_IP, 30080)
    state.put(into_db())
    state.settle()
    assert not enters(state, "uplink", OUTSIDE, NODE_IP, 30080), "it could end at db"
    state.set_frontends(by_key(frontend(NODE_IP, "10.1.1.2", port=30080, hidden=True)))
    state.settle()
    assert enters(state, "uplink", OUTSIDE, NODE_IP, 30080)
    assert state.lists["uplink"] == OPEN


def test_source_ranges_hold_for_the_outside_for_pods_and_for_the_host() -> None:
    ranges = tuple(map(Network.parse, ("192.0.2.0/24", "10.1.1.3/32")))
    balancer = msgspec.structs.replace(frontend(EXTERNAL, "10.1.2.2"), source_ranges=ranges)
    state = node()
    state.set_frontends(by_key(balancer))
    assert state.settle() == {"uplink", "bvi", "host", "a-web"}
    for interface in ("uplink", "bvi", "host"):
        assert enters(state, interface, OUTSIDE, EXTERNAL)
        assert not enters(state, interface, "203.0.113.1", EXTERNAL)
        assert enters(state, interface, "203.0.113.1", EXTERNAL, 81)
        assert state.lists[interface].output == ()
    assert not web_sends(state, EXTERNAL)
    assert enters(state, "a-db", "10.1.1.3", EXTERNAL)
    state.set_frontends(by_key(msgspec.structs.replace(balancer, source_ranges=())))
    assert state.settle() == {"uplink", "bvi", "host", "a-web"}
    assert set(state.lists.values()) == {OPEN}


def test_source_ranges_and_policies_must_both_let_a_client_in() -> None:
    ranges = (Network.parse("192.0.2.0/25"),)
    state = node(into_db("192.0.2.64/26", "203.0.113.0/24"))
    hidden = msgspec.structs.replace(frontend(NODE_IP, "10.1.1.3", port=30080, hidden=True), source_ranges=ranges)
    state.set_frontends(by_key(hidden))
    state.settle()
    clients = ("192.0.2.7", "192.0.2.70", "192.0.2.200", "203.0.113.1")
    assert [each for each in clients if enters(state, "uplink", each, NODE_IP, 30080)] == ["192.0.2.70"]


def test_a_node_without_overlay_judges_services_with_remote_pods_before_they_leave_by_the_uplink() -> None:
    state = node(out_of_web(*to("10.1.1.0/24")))
    alone = msgspec.structs.replace(view("n1"), judged=(view("n1").judged[0].subnet(1, 24),), overlay="")
    state.set_frontends(by_key(frontend("10.96.0.9", "10.1.1.3", "10.1.2.2")))
    state.settle()
    assert web_sends(state, "10.96.0.9")
    state.set_node(alone)
    assert "a-web" in state.settle()
    assert not web_sends(state, "10.96.0.9")
    assert "bvi" not in state.lists
