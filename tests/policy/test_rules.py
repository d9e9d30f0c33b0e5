"""One policy, read: each clause by itself, and what is said of what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from contiv.fastpath import acl
from contiv.model import kube
from contiv.model.ip import Address
from contiv.policy import rules
from contiv.policy.rules import EGRESS, INGRESS, UNNAMED, PodSet
from contiv.policy.selectors import EVERYTHING, Requirement, Selector

WEB = Address.parse("10.1.1.2")
DB = Address.parse("10.1.1.3")
OTHER = Address.parse("192.0.2.1")
ALL = kube.LabelSelector()


def read(**fields: object) -> rules.Policy:
    return rules.read(kube.NetworkPolicy(namespace="a", name="p", pod_selector=ALL, **fields))  # type: ignore[arg-type]


def ingress_of(*ports: kube.PolicyPort, pod: rules.ContainerPorts = ()) -> acl.Allowed:
    """What one rule with these ports allows in."""
    return rules.ingress(read(ingress=(kube.IngressRule(ports=ports),)), pod, nobody)


def nobody(_: PodSet) -> Mapping[int, acl.Peers]:
    return {}


def members(sets: Mapping[PodSet, Mapping[int, acl.Peers]]) -> rules.Members:
    return lambda wanted: sets[wanted]


def fields(policy: rules.Policy) -> list[str]:
    return [fault.field for fault in policy.faults]


@pytest.mark.parametrize(
    ("types", "egress", "faults", "isolates"),
    [
        (None, None, (), {INGRESS}),
        (None, (), (), {INGRESS}),
        (None, (kube.EgressRule(),), (), {INGRESS, EGRESS}),
        ((), (kube.EgressRule(),), (), {INGRESS, EGRESS}),
        (("Egress",), None, (), {EGRESS}),
        (("Ingress",), (kube.EgressRule(),), (), {INGRESS}),
        (None, None, ("spec.egress[0].to: expected list",), {INGRESS, EGRESS}),
        (("Sideways",), None, (), set()),
    ],
)
def test_policy_types_say_where_a_policy_isolates_and_rules_do_when_they_are_absent(
    types: tuple[str, ...] | None,
    egress: tuple[kube.EgressRule, ...] | None,
    faults: tuple[str, ...],
    isolates: set[str],
) -> None:
    assert set(read(policy_types=types, egress=egress, faults=faults).rules) == isolates


@pytest.mark.parametrize("empty", [None, ()])
def test_absent_and_empty_lists_in_a_rule_mean_anything_and_no_rules_mean_nothing(empty: tuple[()] | None) -> None:
    assert rules.ingress(read(ingress=(kube.IngressRule(peers=empty, ports=empty),)), (), nobody) == acl.Allowed.ANY
    assert rules.ingress(read(ingress=empty), (), nobody) == acl.Allowed.NONE


def test_selectors_of_a_peer_say_which_pods_of_which_namespaces() -> None:
    app = kube.LabelSelector(match_labels={"app": "x"})
    team = kube.LabelSelector(match_labels={"team": "y"})
    x = Selector((Requirement("app", "In", ("x",)),))
    y = Selector((Requirement("team", "In", ("y",)),))
    peers = [
        (kube.PolicyPeer(pod_selector=app), PodSet(namespace="a", pods=x)),
        (kube.PolicyPeer(pod_selector=ALL), PodSet(namespace="a")),
        (kube.PolicyPeer(namespace_selector=team), PodSet(namespaces=y)),
        (kube.PolicyPeer(namespace_selector=ALL), PodSet(namespaces=EVERYTHING)),
        (kube.PolicyPeer(pod_selector=app, namespace_selector=team), PodSet(namespaces=y, pods=x)),
    ]
    for peer, meant in peers:
        policy = read(ingress=(kube.IngressRule(peers=(peer,)),))
        assert policy.pod_sets(INGRESS) == {meant}
        allowed = rules.ingress(policy, (), members({meant: {UNNAMED: acl.Peers.of([WEB])}}))
        assert allowed == acl.Allowed.of([(acl.Peers.of([WEB]), acl.Ports.ANY)])


def test_a_block_is_its_cidr_less_its_exceptions_whoever_has_the_addresses() -> None:
    block = kube.IPBlock("10.1.1.7/24", ("10.1.1.0/31", "10.1.1.2/32"))
    allowed = rules.ingress(read(ingress=(kube.IngressRule(peers=(kube.PolicyPeer(ip_block=block),)),)), (), nobody)
    assert not allowed.contains(WEB, acl.TCP, 80)
    assert allowed.contains(DB, acl.TCP, 80)
    assert not allowed.contains(OTHER, acl.TCP, 80)


def test_several_blocks_in_one_rule_stay_several() -> None:
    peers = tuple(kube.PolicyPeer(ip_block=kube.IPBlock(cidr)) for cidr in ("10.1.1.2/32", "192.0.2.0/24", "::/0"))
    allowed = rules.ingress(read(ingress=(kube.IngressRule(peers=peers),)), (), nobody)
    assert allowed.peers == acl.Peers.of(["10.1.1.2", "192.0.2.0/24", "::/0"])


@pytest.mark.parametrize(
    ("port", "meant"),
    [
        (kube.PolicyPort("TCP", 80), [(acl.TCP, 80, 80)]),
        (kube.PolicyPort("UDP", 80, 90), [(acl.UDP, 80, 90)]),
        (kube.PolicyPort("UDP"), [acl.UDP]),
        (kube.PolicyPort("SCTP"), [acl.SCTP]),
        (kube.PolicyPort("SCTP", 1, 65535), [(acl.SCTP, 1, 65535)]),
    ],
)
def test_ports_are_a_number_a_range_or_a_whole_protocol_and_never_icmp(
    port: kube.PolicyPort, meant: list[tuple[int, int, int] | int]
) -> None:
    allowed = ingress_of(port)
    assert allowed == acl.Allowed.of([(acl.Peers.ANY, acl.Ports.of(meant))])
    assert not allowed.contains(OTHER, acl.ICMP)


def test_an_ingress_name_is_a_port_of_the_selected_pod_by_name_and_protocol() -> None:
    pod = (("web", acl.TCP, 8080), ("web", acl.UDP, 9), ("web", acl.TCP, 8081), ("other", acl.TCP, 1))
    named = ingress_of(kube.PolicyPort("TCP", "web"), pod=pod)
    assert named == acl.Allowed.of([(acl.Peers.ANY, acl.Ports.of([(acl.TCP, 8080, 8081)]))])


def test_a_name_that_means_nothing_allows_nothing_while_other_ports_of_the_rule_do() -> None:
    assert ingress_of(kube.PolicyPort("TCP", "web")) == acl.Allowed.NONE
    both = ingress_of(kube.PolicyPort("TCP", "web"), kube.PolicyPort("TCP", 80))
    assert both == ingress_of(kube.PolicyPort("TCP", 80))


def test_an_egress_name_is_each_destination_pods_own_and_never_an_address_without_pod() -> None:
    name = (acl.TCP, "web")
    port = (kube.PolicyPort("TCP", "web"),)
    anywhere = read(policy_types=("Egress",), egress=(kube.EgressRule(ports=port),))
    parts = {80: acl.Peers.of([WEB]), 8080: acl.Peers.of([DB])}
    allowed = rules.egress(anywhere, members({PodSet(port=name): parts}))
    assert allowed.toward(WEB) == acl.Ports.of([(acl.TCP, 80, 80)])
    assert allowed.toward(DB) == acl.Ports.of([(acl.TCP, 8080, 8080)])
    assert allowed.toward(OTHER) == acl.Ports.NONE

    block = kube.PolicyPeer(ip_block=kube.IPBlock("10.1.1.2/32"))
    within = read(policy_types=("Egress",), egress=(kube.EgressRule(peers=(block,), ports=port),))
    assert rules.egress(within, members({PodSet(port=name): parts})).peers == acl.Peers.of([WEB])


def test_named_ports_beside_numbers_ask_for_both_kinds_of_members() -> None:
    peer = kube.PolicyPeer(pod_selector=ALL)
    ports = (kube.PolicyPort("TCP", "web"), kube.PolicyPort("UDP", 53))
    policy = read(policy_types=("Egress",), egress=(kube.EgressRule(peers=(peer,), ports=ports),))
    pods, named = PodSet(namespace="a"), PodSet(namespace="a", port=(acl.TCP, "web"))
    assert policy.pod_sets(EGRESS) == {pods, named}
    both = {pods: {UNNAMED: acl.Peers.of([WEB, DB])}, named: {80: acl.Peers.of([WEB])}}
    allowed = rules.egress(policy, members(both))
    assert allowed.toward(WEB) == acl.Ports.of([(acl.TCP, 80, 80), (acl.UDP, 53, 53)])
    assert allowed.toward(DB) == acl.Ports.of([(acl.UDP, 53, 53)])


GOOD_PEER = kube.PolicyPeer(ip_block=kube.IPBlock("192.0.2.0/24"))


@pytest.mark.parametrize(
    ("peer", "field"),
    [
        (kube.PolicyPeer(), ""),
        (kube.PolicyPeer(ip_block=kube.IPBlock("10.0.0.0/8"), pod_selector=ALL), ""),
        (kube.PolicyPeer(ip_block=kube.IPBlock("10.0.0.0/33")), ".ipBlock.cidr"),
        (kube.PolicyPeer(ip_block=kube.IPBlock("10.0.0.1")), ".ipBlock.cidr"),
        (kube.PolicyPeer(ip_block=kube.IPBlock("10.0.0.0/8", ("10.1.0.0/16", "11.0.0.0/16"))), ".ipBlock.except[1]"),
        (kube.PolicyPeer(ip_block=kube.IPBlock("10.0.0.0/8", ("10.0.0.0/7",))), ".ipBlock.except[0]"),
        (kube.PolicyPeer(ip_block=kube.IPBlock("10.0.0.0/8", ("::/16",))), ".ipBlock.except[0]"),
        (
            kube.PolicyPeer(pod_selector=kube.LabelSelector(match_expressions=(kube.LabelRequirement("k", "Gt"),))),
            ".podSelector.matchExpressions[0].operator",
        ),
        (
            kube.PolicyPeer(
                pod_selector=ALL,
                namespace_selector=kube.LabelSelector(match_expressions=(kube.LabelRequirement("k", "In"),)),
            ),
            ".namespaceSelector.matchExpressions[0].values",
        ),
    ],
)
def test_a_peer_that_cannot_be_read_is_nobody_and_leaves_the_others(peer: kube.PolicyPeer, field: str) -> None:
    policy = read(ingress=(kube.IngressRule(peers=(peer, GOOD_PEER)),))
    assert fields(policy) == [f"spec.ingress[0].from[0]{field}"]
    assert rules.ingress(policy, (), nobody).peers == acl.Peers.of(["192.0.2.0/24"])
    alone = read(ingress=(kube.IngressRule(peers=(peer,)),))
    assert rules.ingress(alone, (), nobody) == acl.Allowed.NONE, "and an only one is not an absent list"


@pytest.mark.parametrize(
    ("port", "field"),
    [
        (kube.PolicyPort("XTP", 80), ".protocol"),
        (kube.PolicyPort("TCP", 0), ".port"),
        (kube.PolicyPort("TCP", 65536), ".port"),
        (kube.PolicyPort("TCP", 80, 79), ".endPort"),
        (kube.PolicyPort("TCP", 80, 65536), ".endPort"),
        (kube.PolicyPort("TCP", "web", 80), ".endPort"),
        (kube.PolicyPort("TCP", None, 80), ".endPort"),
        (kube.PolicyPort("TCP", ""), ".port"),
    ],
)
def test_a_port_that_cannot_be_read_is_none_and_leaves_the_others(port: kube.PolicyPort, field: str) -> None:
    good = kube.PolicyPort("UDP", 53)
    policy = read(ingress=(kube.IngressRule(ports=(good, port)),))
    assert fields(policy) == [f"spec.ingress[0].ports[1]{field}"]
    pod = (("web", acl.TCP, 80), ("", acl.TCP, 81))
    assert rules.ingress(policy, pod, nobody) == ingress_of(good)
    assert rules.ingress(read(ingress=(kube.IngressRule(ports=(port,)),)), pod, nobody) == acl.Allowed.NONE


@pytest.mark.parametrize("port", [kube.PolicyPort("SCTP", 80), kube.PolicyPort("SCTP", "web")])
def test_sctp_ports_are_told_to_be_beyond_the_data_plane(port: kube.PolicyPort) -> None:
    (fault,) = read(ingress=(kube.IngressRule(ports=(port,)),)).faults
    assert (fault.field, "SCTP" in fault.problem) == ("spec.ingress[0].ports[0].port", True)


def test_a_subject_that_cannot_be_read_selects_nobody() -> None:
    broken = kube.LabelSelector(match_expressions=(kube.LabelRequirement("k", "Near", ("x",)),))
    policy = rules.read(kube.NetworkPolicy(namespace="a", name="p", pod_selector=broken))
    assert not policy.subject.matches({})
    assert not policy.subject.matches({"k": "x"})
    (fault,) = policy.faults
    assert str(fault) == (
        "networkpolicies a/p: spec.podSelector.matchExpressions[0].operator: "
        "'Near' is none of In, NotIn, Exists, DoesNotExist"
    )


def test_what_ksr_could_not_read_and_unknown_directions_are_faults_too() -> None:
    policy = read(policy_types=("Ingress", "Up"), faults=("spec.ingress[2].ports[0].port: expected int or str",))
    assert [(each.field, each.problem) for each in policy.faults] == [
        ("spec.ingress[2].ports[0].port", "expected int or str"),
        ("spec.policyTypes[1]", "'Up' is neither Ingress nor Egress"),
    ]
