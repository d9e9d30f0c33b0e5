"""The way of a connection: services, backends, source translation, access lists, next hops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contiv.analysis.services import ClusterServices
from contiv.analysis.tables import ClusterTables
from contiv.analysis.trace import Trace, Tracer
from contiv.analysis.traffic import Traffic
from contiv.config import parse
from contiv.errors import AnalysisError
from contiv.model.ip import Address
from tests.analysis.clusters import Object, cluster, pod, policy

WEB = Traffic("TCP", 80)
VIP = "10.96.0.20"


def service(name: str, *, ip: str = VIP, selector: dict[str, str] | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "x"},
        "spec": {"clusterIP": ip, "selector": selector or {"app": name}, "ports": [{"port": 80}]} | spec,
    }


def tracer(place: Path, *things: Object, external: tuple[str, ...] = (), renderer: str = "nat44") -> Tracer:
    built = cluster(place, *things, external=external)
    services = ClusterServices(built, parse(f"serviceRenderer: {renderer}"))
    return Tracer(ClusterTables(built, services), services)


def traced(found: Tracer, source: str, destination: str, traffic: Traffic = WEB) -> Trace:
    return found.trace(found.tables.cluster.end(source), Address.parse(destination), traffic)


def kinds(trace: Trace) -> list[tuple[str, str]]:
    """Steps that are no access lists: node and kind."""
    return [(step.node, step.kind) for step in trace.steps if step.kind != "access list"]


PODS = (
    pod("x/client", node="n1", app="client"),
    pod("x/near", node="n1", app="web"),
    pod("x/far", node="n2", app="web"),
)


def test_a_cluster_ip_leads_to_a_backend_on_either_node(tmp_path: Path) -> None:
    found = tracer(tmp_path, *PODS, service("web"))
    trace = traced(found, "x/client", VIP)
    assert trace.verdict == "delivered"
    assert trace.service is not None
    assert trace.service.name == "x/web"
    assert [(each.pod, each.node, each.verdict) for each in trace.service.candidates] == [
        ("x/near", "n1", "delivered"),
        ("x/far", "n2", "delivered"),
    ]
    far = trace.service.chosen == "10.1.2.2:80"
    expected = [("n1", "service"), ("n1", "next hop"), ("n2", "end")] if far else [("n1", "service"), ("n1", "end")]
    assert kinds(trace) == expected


def test_different_clients_are_spread_and_one_client_stays(tmp_path: Path) -> None:
    clients = [pod(f"x/c{number}", node="n1") for number in range(40)]
    found = tracer(tmp_path, *PODS, *clients, service("web"))
    traces = [traced(found, f"x/c{number}", VIP) for number in range(40)]
    chosen = Counter(trace.service.chosen for trace in traces if trace.service)
    assert set(chosen) == {"10.1.1.3:80", "10.1.2.2:80"}
    assert min(chosen.values()) >= 8
    assert traced(found, "x/c7", VIP) == traces[7]


def test_policies_judge_the_backend_and_name_their_line(tmp_path: Path) -> None:
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}
    found = tracer(
        tmp_path,
        *PODS,
        pod("x/friend", node="n2", app="friend"),
        service("web"),
        policy("x/in", podSelector={"matchLabels": {"app": "web"}}, ingress=[rule]),
    )
    assert traced(found, "x/friend", VIP).verdict == "delivered"
    denied = traced(found, "x/client", VIP)
    assert denied.verdict == "denied"
    assert denied.service is not None
    assert {each.verdict for each in denied.service.candidates} == {"denied"}
    last = denied.steps[-1]
    assert (last.kind, last.side, last.passes) == ("access list", "output", False)
    assert last.interface in {"x/near", "x/far"}
    assert last.line is not None
    assert last.text.startswith("deny any")


def test_a_pod_that_reaches_itself_through_its_service_is_seen_as_the_hairpin_address(tmp_path: Path) -> None:
    found = tracer(tmp_path, pod("x/alone", node="n1", app="web"), service("web"), policy("x/deny"))
    trace = traced(found, "x/alone", VIP)
    assert trace.verdict == "delivered"
    assert [step.text for step in trace.steps if step.kind == "source"] == [
        "10.1.1.2 becomes 10.1.1.254: its own backend"
    ]


def published(key: str, *, node: str, port: int, **labels: str) -> Object:
    """A pod with a host port."""
    thing = pod(key, node=node, **labels)
    thing["spec"]["containers"][0]["ports"][0]["hostPort"] = port
    return thing


def test_a_host_port_leads_to_its_pod_on_its_node_alone(tmp_path: Path) -> None:
    found = tracer(tmp_path, PODS[0], published("x/web", node="n1", port=8080, app="web"), external=("203.0.113.9",))
    for source in ("x/client", "ext:203.0.113.9"):
        trace = traced(found, source, "192.168.16.1", Traffic("TCP", 8080))
        assert trace.verdict == "delivered"
        assert trace.service is not None
        assert [each.pod for each in trace.service.candidates] == ["x/web"]
        (text,) = [step.text for step in trace.steps if step.kind == "service"]
        assert text == "192.168.16.1:8080/TCP is pod x/web (host port): to 10.1.1.3:80"
        assert [step for step in trace.steps if step.kind == "source"] == [], "the pod sees the client"
    assert traced(found, "x/client", "192.168.16.1", Traffic("TCP", 8081)).service is None


@pytest.mark.parametrize(("selector", "verdict"), [({"app": "web"}, "delivered"), ({"app": "other"}, "denied")])
def test_egress_to_a_host_port_is_judged_by_the_pod_behind_it(
    tmp_path: Path, selector: dict[str, str], verdict: str
) -> None:
    rule = {"to": [{"podSelector": {"matchLabels": selector}}]}
    found = tracer(
        tmp_path,
        PODS[0],
        published("x/web", node="n1", port=8080, app="web"),
        policy("x/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[rule]),
    )
    assert traced(found, "x/client", "192.168.16.1", Traffic("TCP", 8080)).verdict == verdict


def test_a_service_without_endpoints_refuses_and_an_unknown_address_too(tmp_path: Path) -> None:
    found = tracer(tmp_path, *PODS, service("none", selector={"app": "nobody"}))
    empty = traced(found, "x/client", VIP)
    assert (empty.verdict, empty.service is not None and empty.service.answer) == ("refused", "refuse")
    assert traced(found, "x/client", "10.96.0.21").verdict == "refused"
    assert traced(found, "x/client", VIP, Traffic("UDP", 80)).verdict == "refused"


def test_a_pod_on_another_node_is_reached_by_the_tunnel(tmp_path: Path) -> None:
    found = tracer(tmp_path, *PODS)
    trace = traced(found, "x/client", "10.1.2.2")
    assert trace.service is None
    assert kinds(trace) == [("n1", "next hop"), ("n2", "end")]
    (hop,) = [step for step in trace.steps if step.kind == "next hop"]
    assert "VXLAN from 192.168.16.1 to 192.168.16.2" in hop.text


def test_what_leaves_the_cluster_has_the_nodes_address(tmp_path: Path) -> None:
    found = tracer(tmp_path, *PODS, external=("203.0.113.9",))
    trace = traced(found, "x/client", "203.0.113.50")
    assert trace.verdict == "left the cluster"
    assert "10.1.1.2 becomes 192.168.16.1: it leaves the cluster's network" in [step.text for step in trace.steps]
    assert traced(found, "ext:203.0.113.9", "10.1.1.2").verdict == "delivered"


def test_a_node_port_hides_the_client_and_is_judged_before(tmp_path: Path) -> None:
    def built(cidr: str) -> Tracer:
        return tracer(
            tmp_path,
            *PODS,
            service("web", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]),
            policy(
                "x/in",
                podSelector={"matchLabels": {"app": "web"}},
                ingress=[{"from": [{"ipBlock": {"cidr": cidr}}, {"podSelector": {"matchLabels": {"app": "web"}}}]}],
            ),
            external=("203.0.113.9",),
        )

    port = Traffic("TCP", 30080)
    let_in = traced(built("203.0.113.0/24"), "ext:203.0.113.9", "192.168.16.1", port)
    assert let_in.service is not None
    near = next(each for each in let_in.service.candidates if each.pod == "x/near")
    assert near.verdict == "delivered"
    assert any(step.kind == "source" and "10.1.1.254" in step.text for step in let_in.steps)
    kept_out = traced(built("198.51.100.0/24"), "ext:203.0.113.9", "192.168.16.1", port)
    assert kept_out.verdict == "denied"
    assert (kept_out.steps[-1].interface, kept_out.steps[-1].side) == ("uplink", "input")


def test_slices_that_are_given_count_instead_of_the_selector(tmp_path: Path) -> None:
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.2.2"]}, {"addresses": ["10.1.1.3"], "conditions": {"ready": False}}],
    }
    trace = traced(tracer(tmp_path, *PODS, service("web"), slices), "x/client", VIP)
    assert trace.service is not None
    assert [(each.address, each.port, each.pod) for each in trace.service.candidates] == [("10.1.2.2", 8080, "x/far")]


def test_named_target_ports_are_each_pods_own(tmp_path: Path) -> None:
    other = pod("x/other", node="n2", app="web")
    other["spec"]["containers"][0]["ports"] = [{"name": "web", "containerPort": 8080}]
    found = tracer(tmp_path, *PODS, other, service("web", ports=[{"port": 80, "targetPort": "web"}]))
    trace = traced(found, "x/client", VIP)
    assert trace.service is not None
    ports = {each.pod: each.port for each in trace.service.candidates}
    assert ports == {"x/near": 80, "x/far": 80, "x/other": 8080}


def test_a_service_without_an_address_gets_the_next_one(tmp_path: Path) -> None:
    bare = service("web")
    del bare["spec"]["clusterIP"]
    found = tracer(tmp_path, *PODS, bare)
    (address,) = found.services.addresses("x/web")
    assert traced(found, "x/client", address).verdict == "delivered"
    assert found.services.addresses("x/nothing") == ()


def test_a_source_without_an_address_of_the_family_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="no IPv6 address"):
        traced(tracer(tmp_path, *PODS), "x/client", "2001:db8::1")


def test_cnat_leads_where_nat44_does_and_takes_sctp_there_too(tmp_path: Path) -> None:
    web = service("web", type="NodePort", ports=[{"port": 80, "nodePort": 30080}, {**SCTP_PORT, "nodePort": 30081}])
    found = {name: tracer(tmp_path, *PODS, web, renderer=name) for name in ("nat44", "cnat")}
    for target, port in ((VIP, 80), ("192.168.16.1", 30080)):
        traces = [traced(each, "x/client", target, Traffic("TCP", port)) for each in found.values()]
        first, second = (
            {each.address for each in trace.service.candidates} if trace.service else set() for trace in traces
        )
        assert first == second != set()
        assert kinds(traces[0]) == kinds(traces[1])
    told = {name: traced(each, "x/client", VIP, Traffic("SCTP", 80)).service for name, each in found.items()}
    assert told["nat44"] is None
    assert told["cnat"] is not None


SCTP_PORT = {"name": "sctp", "port": 80, "protocol": "SCTP"}
