"""Which policies, rules and lines decide, for both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from contiv.analysis.explain import Explanation, explain
from contiv.analysis.tables import ClusterTables
from contiv.analysis.traffic import Traffic
from contiv.errors import AnalysisError
from contiv.fastpath import acl
from tests.analysis.clusters import pod, policy, tables

WEB = Traffic("TCP", 80)


@pytest.fixture
def shop(tmp_path: Path) -> ClusterTables:
    """A web server and a database on two nodes: the one may leave by UDP alone, the other takes TCP port 80 from it."""
    return tables(
        tmp_path,
        pod("x/web", node="n1", app="web"),
        pod("x/db", node="n2", app="db"),
        pod("x/host", node="n2", host=True),
        policy("x/deny", podSelector={"matchLabels": {"app": "db"}}),
        policy(
            "x/allow",
            podSelector={"matchLabels": {"app": "db"}},
            ingress=[
                {"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]},
                {
                    "from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"podSelector": {"matchLabels": {"app": "web"}}}],
                    "ports": [{"port": 81}, {"port": 80}],
                },
            ],
        ),
        policy(
            "x/udp",
            podSelector={"matchLabels": {"app": "web"}},
            policyTypes=["Egress"],
            egress=[{"ports": [{"protocol": "UDP"}]}],
        ),
        external=("192.0.2.7",),
    )


def asked(found: ClusterTables, source: str, destination: str, traffic: Traffic = WEB) -> Explanation:
    return explain(found, found.cluster.end(source), found.cluster.end(destination), traffic)


def test_both_sides_are_named_with_their_policies_and_rules(shop: ClusterTables) -> None:
    found = asked(shop, "x/web", "x/db")
    assert not found.allowed
    out, into = found.judgements
    assert (out.pod, out.direction, out.policies, out.rules) == ("x/web", "Egress", ("x/udp",), ())
    assert out.word.startswith("denied")
    assert (into.pod, into.direction, into.policies) == ("x/db", "Ingress", ("x/allow", "x/deny"))
    assert into.rules == ("x/allow spec.ingress[1].from[1] ports[1]",)
    assert into.word == "allowed"


def test_every_list_on_the_way_is_named_with_the_line_that_decides(shop: ClusterTables) -> None:
    found = asked(shop, "x/web", "x/db")
    first = found.steps[0]
    assert (first.node, first.interface, first.side, first.passes) == ("n1", "x/web", "input", False)
    assert first.rule.startswith("deny any 0.0.0.0/0")
    last = found.steps[-1]
    assert (last.node, last.interface, last.side, last.passes) == ("n2", "x/db", "output", True)
    assert "tcp 10.1.1.2/32" in last.rule
    (table,) = [each for each in shop.hop("n2", "x/db", "output").lists if each.name == last.table]
    assert last.line is not None
    assert str(table[last.line]) == last.rule
    assert table[last.line].action == acl.REFLECT


def test_a_connection_that_both_sides_allow_passes_every_step(shop: ClusterTables) -> None:
    found = asked(shop, "x/db", "x/web", Traffic("ICMP"))
    assert found.allowed
    assert all(step.passes for step in found.steps)
    assert [each.word.partition(":")[0] for each in found.judgements] == ["allowed", "allowed"]


def test_a_node_and_its_own_pod(shop: ClusterTables) -> None:
    found = asked(shop, "x/host", "x/db")
    assert found.allowed
    assert [each.word for each in found.judgements] == [
        "allowed: policies do not select pods on the host's network",
        "allowed: a pod's own node always reaches it",
    ]


def test_a_pod_and_itself_never_come_to_vpp(shop: ClusterTables) -> None:
    found = asked(shop, "x/db", "x/db")
    assert found.allowed
    assert found.steps == ()
    assert {each.word for each in found.judgements} == {"allowed: a pod always reaches itself"}


def test_a_client_outside_has_no_side_of_its_own(shop: ClusterTables) -> None:
    found = asked(shop, "ext:192.0.2.7", "x/db")
    assert found.allowed
    (into,) = found.judgements
    assert into.rules == ("x/allow spec.ingress[1].from[0] ports[1]",)


def test_ends_without_a_common_family_are_an_error(shop: ClusterTables) -> None:
    with pytest.raises(AnalysisError, match="no addresses of IPv6 in common"):
        explain(shop, shop.cluster.end("x/web"), shop.cluster.end("x/db"), WEB, family=6)
