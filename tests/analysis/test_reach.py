"""Packets through rendered lists: blocks outside, families, parts; and random clusters against the oracle."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contiv.analysis.cluster import build
from contiv.analysis.manifests import Objects
from contiv.analysis.reach import Reach, compute
from contiv.analysis.tables import ClusterTables
from contiv.analysis.traffic import Traffic
from contiv.config import load
from contiv.model import kube
from tests.analysis.clusters import pod, policy, tables
from tests.policy import oracle
from tests.truth.cases import TRAFFIC, as_enforced

WEB = Traffic("TCP", 80)


def pairs(reach: Reach) -> set[tuple[str, str]]:
    return {(each.source, each.destination) for each in reach.allowed()}


def block(cidr: str, *excepts: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr} | ({"except": list(excepts)} if excepts else {})}


def test_a_block_outside_comes_in_where_rules_name_all_of_it(tmp_path: Path) -> None:
    found = tables(
        tmp_path,
        pod("x/a"),
        policy("x/in", ingress=[{"from": [block("203.0.113.0/24", "203.0.113.128/25")]}]),
        external=("203.0.113.0/25", "203.0.113.128/25", "203.0.113.0/24", "198.51.100.0/24"),
    )
    ends = found.cluster.ends
    reach = compute(found, ends, ends, [WEB])
    assert pairs(reach) >= {("ext:203.0.113.0/25", "x/a"), ("x/a", "ext:198.51.100.0/24")}
    assert {source for source, destination in pairs(reach) if destination == "x/a"} == {"x/a", "ext:203.0.113.0/25"}
    assert [(each.source, each.destination) for each in reach.partly()] == [("ext:203.0.113.0/24", "x/a")]
    assert not any(source.startswith("ext:") and to.startswith("ext:") for source, to in pairs(reach))


def test_a_block_outside_is_reached_where_rules_name_it(tmp_path: Path) -> None:
    out = policy("x/out", policyTypes=["Egress"], egress=[{"to": [block("203.0.113.0/24")], "ports": [{"port": 80}]}])
    found = tables(tmp_path, pod("x/a"), out, external=("203.0.113.7", "203.0.112.0/23", "2001:db8::/32"))
    ends = found.cluster.ends
    reach = compute(found, ends, ends, [WEB, Traffic("UDP", 80)])
    allowed = [(each.destination, str(each.traffic)) for each in reach.allowed() if each.source == "x/a"]
    assert allowed == [("x/a", "80/TCP"), ("x/a", "80/UDP"), ("ext:203.0.113.7", "80/TCP")]
    assert [each.destination for each in reach.partly()] == ["ext:203.0.112.0/23"]


def test_each_pair_talks_the_sources_first_family_unless_one_is_asked_for(tmp_path: Path) -> None:
    found = tables(
        tmp_path,
        pod("x/four", ips=("10.1.1.2", "fd00::2")),
        pod("x/six", ips=("fd00::3", "10.1.1.3")),
        pod("x/only6", ips=("fd00::4",)),
        policy("x/in", ingress=[{"from": [block("fd00::/16")]}]),
    )
    ends = found.cluster.ends
    own = {(end.name, end.name) for end in ends}
    assert pairs(compute(found, ends, ends, [WEB])) - own == {
        ("x/four", "x/only6"),
        ("x/six", "x/four"),
        ("x/six", "x/only6"),
        ("x/only6", "x/four"),
        ("x/only6", "x/six"),
    }
    assert pairs(compute(found, ends, ends, [WEB], family=4)) - own == set()
    assert len(pairs(compute(found, ends, ends, [WEB], family=6)) - own) == 6


def test_what_is_asked_for_a_few_pods_is_what_all_of_them_say(tmp_path: Path) -> None:
    things = [pod(f"{space}/{name}", node=f"n{space}", app=name) for space in "xyz" for name in "abc"]
    rule = {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}}]}
    found = tables(tmp_path, *things, policy("x/in", ingress=[rule]), policy("y/out", policyTypes=["Egress"]))
    ends = found.cluster.ends
    everything = pairs(compute(found, ends, ends, [WEB]))
    for source, destination in itertools.product(ends, ends):
        alone = pairs(compute(ClusterTables(found.cluster), [source], [destination], [WEB]))
        assert alone == everything & {(source.name, destination.name)}


# ---- random clusters ---------------------------------------------------------------------------------------

LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["a", "b", ""]))
REQUIREMENTS = st.builds(
    kube.LabelRequirement,
    st.sampled_from(["app", "tier", "none"]),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Near"]),
    st.sampled_from([(), ("a",), ("a", "b"), ("",)]),
)
SELECTORS = st.builds(kube.LabelSelector, LABELS, st.lists(REQUIREMENTS, max_size=2).map(tuple))
BLOCKS = st.builds(
    kube.IPBlock,
    st.sampled_from(
        ["10.1.0.0/16", "10.1.1.0/24", "10.1.1.2/31", "0.0.0.0/0", "172.30.1.2/32", "fd00::/16", "10.1.1.4"]
    ),
    st.lists(st.sampled_from(["10.1.1.3/32", "10.1.2.0/24", "10.1.1.0/30", "fd00::4/126", "x"]), max_size=2).map(tuple),
)
PEERS = st.builds(
    kube.PolicyPeer,
    st.none() | SELECTORS,
    st.none() | SELECTORS,
    st.none(),
) | st.builds(kube.PolicyPeer, st.none(), st.none(), BLOCKS)
PORTS = st.builds(
    kube.PolicyPort,
    st.sampled_from(["TCP", "UDP", "SCTP", "QUIC"]),
    st.none() | st.sampled_from([80, 81, 1, 0, "web", "dns", "nosuch"]),
    st.none() | st.sampled_from([80, 81, 65535, 70000]),
)


def _rules(kind: Any) -> Any:
    peers, ports = (st.none() | st.lists(each, max_size=3).map(tuple) for each in (PEERS, PORTS))
    return st.none() | st.lists(st.builds(kind, peers, ports), max_size=3).map(tuple)


POLICIES = st.builds(
    kube.NetworkPolicy,
    namespace=st.sampled_from(["x", "y"]),
    name=st.uuids().map(str),
    pod_selector=SELECTORS,
    policy_types=st.none() | st.sampled_from([("Ingress",), ("Egress",), ("Ingress", "Egress"), ()]),
    ingress=_rules(kube.IngressRule),
    egress=_rules(kube.EgressRule),
)
CONTAINER_PORTS = st.builds(
    kube.ContainerPort,
    container=st.just("main"),
    name=st.sampled_from(["web", "dns"]),
    port=st.sampled_from([80, 81]),
    protocol=st.sampled_from(["TCP", "UDP", "SCTP"]),
)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[kube.KubeObject, ...]:
    """Two namespaces, two nodes, up to six pods with both families, up to four policies with some nonsense."""
    things: list[Any] = [kube.Namespace(name=name, labels={**draw(LABELS)}) for name in "xy"]
    for number in range(draw(st.integers(1, 6))):
        node = draw(st.integers(1, 2))
        things.append(
            kube.Pod(
                namespace=draw(st.sampled_from(["x", "y"])),
                name=f"p{number}",
                labels=draw(LABELS),
                node_name=f"n{node}",
                pod_ips=(f"10.1.{node}.{number + 2}", f"fd00::{number + 2}"),
                ports=tuple(draw(st.lists(CONTAINER_PORTS, max_size=2))),
                phase=draw(st.sampled_from(["Running", "Running", "Running", "Failed"])),
            )
        )
    hosts = [kube.Node(name=f"n{n}", addresses=(kube.NodeAddress("InternalIP", f"172.30.{n}.2"),)) for n in (1, 2)]
    host = kube.Pod(namespace="x", name="host", node_name="n1", host_network=True, pod_ips=("172.30.1.2",))
    return (*hosts, *things, host, *draw(st.lists(POLICIES, max_size=4)))


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_random_clusters_reach_what_the_oracle_allows(objects: tuple[kube.KubeObject, ...]) -> None:
    found = ClusterTables(build(Objects(objects), load(None)))
    truth = as_enforced(oracle.Cluster.of(objects))
    traffic = [Traffic(protocol, port or 0) for protocol, port in TRAFFIC]
    ends = found.cluster.ends
    for family in (4, 6):
        reach = compute(found, ends, ends, traffic, family=family)
        answer = {(each.source, each.destination, each.traffic) for each in reach.allowed()}
        wanted = {
            (source.name, destination.name, Traffic(protocol, port or 0))
            for source in ends
            for destination in ends
            for protocol, port in TRAFFIC
            if oracle.allowed(truth, source.name, destination.name, protocol, port, family=family)
        }
        assert answer == wanted
