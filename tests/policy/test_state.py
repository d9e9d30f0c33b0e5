"""Lists that follow events: any order, any batches, the same as everything at once; and closed before all is known."""

from __future__ import annotations

import random
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from contiv.fastpath import acl
from contiv.model import kube, vpp
from contiv.model.node import Attachment
from contiv.policy.render import Rendered, desired
from contiv.policy.state import PolicyState
from contiv.policy.tables import OPEN, REFLECT, Lists
from tests.policy.worlds import NODE_IPS, NODE_PLACES, World, attachment, attachments, fresh, key, objects, view

# no shrinking: clusters take minutes to shrink, and the first that fails tells enough
SETTINGS = settings(
    max_examples=80, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)
NODE = "n1"


class Node:
    """A state that learns of a cluster event by event, with what was rendered on the way."""

    def __init__(self, *, complete: bool = True) -> None:
        self.state = PolicyState(view(NODE))
        self.state.complete = complete
        self.state.settle()
        self.rendered = Rendered()
        self.keys: dict[str, object] = dict(self.rendered.replace(self.state.lists))
        self.things: dict[object, kube.KubeObject] = {}

    def put(self, thing: kube.KubeObject) -> None:
        """The object, and its interface when it is a pod of this node."""
        if isinstance(thing, kube.Pod):
            known = self.things.get(key(thing))
            if isinstance(known, kube.Pod):
                self._detach(known)
            here = attachment(thing) if thing.node_name == NODE else None
            if here is not None:
                self.state.attach(here.container_id, here)
        self.things[key(thing)] = thing
        self.state.put(thing)

    def remove(self, thing: kube.KubeObject) -> None:
        known = self.things.pop(key(thing), None)
        if isinstance(known, kube.Pod):
            self._detach(known)
        self.state.remove(thing)

    def _detach(self, pod: kube.Pod) -> None:
        here = attachment(pod)
        if here is not None:
            self.state.detach(here.container_id)

    def settle(self) -> set[str]:
        """Interfaces that changed; checks that they are exactly those, and that the keys follow."""
        before = dict(self.state.lists)
        changed = self.state.settle()
        after = self.state.lists
        differ = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        assert changed == differ
        for name, value in self.rendered.change(changed, after).items():
            if value is None:
                assert name in self.keys, "what is removed was there"
                del self.keys[name]
            else:
                self.keys[name] = value
        assert self.keys == desired(after)
        return changed


def listed(lists: Mapping[str, Lists]) -> dict[str, tuple[list[str], list[str]]]:
    """Lists as the names of their tables."""
    return {name: ([t.name for t in each.input], [t.name for t in each.output]) for name, each in lists.items()}


# ---- any order ---------------------------------------------------------------------------------------------


@SETTINGS
@given(objects(), objects(), st.randoms(use_true_random=False))
def test_any_order_of_events_gives_what_everything_at_once_gives(
    past: list[kube.KubeObject], present: list[kube.KubeObject], dice: random.Random
) -> None:
    node = Node()
    for thing in past:
        node.put(thing)
        if dice.random() < 0.3:
            node.settle()
    wanted = {key(thing): thing for thing in present}
    steps = [(key(thing), None) for thing in past if key(thing) not in wanted] + list(wanted.items())
    dice.shuffle(steps)
    for identity, thing in steps:
        if thing is None:
            node.remove(node.things[identity])
        else:
            node.put(thing)
        if dice.random() < 0.3:
            node.settle()
    node.settle()
    assert listed(node.state.lists) == listed(fresh(present, NODE).lists)

    everything = list(node.things.values())
    dice.shuffle(everything)
    for thing in everything:
        node.remove(thing)
    node.settle()
    assert node.keys == desired(dict.fromkeys(NODE_PLACES, OPEN)), "without objects and pods VPP holds no list"
    assert not node.state.index.namespaces, "and nothing is remembered"


@SETTINGS
@given(objects(), st.randoms(use_true_random=False))
def test_pods_that_stay_without_any_object_are_isolated_and_without_policies_open(
    things: list[kube.KubeObject], dice: random.Random
) -> None:
    node = Node()
    dice.shuffle(things)
    for thing in things:
        node.put(thing)
    node.settle()
    for policy in [thing for thing in things if isinstance(thing, kube.NetworkPolicy)]:
        node.state.remove(policy)
    node.settle()
    assert all(lists == OPEN for lists in node.state.lists.values())
    for pod in [thing for thing in things if isinstance(thing, kube.Pod)]:
        node.state.remove(pod)
    node.settle()
    pods = attachments(things, NODE)
    for here in pods.values():
        assert REFLECT not in (*node.state.lists[here.interface].input, *node.state.lists[here.interface].output)


def test_an_event_that_is_told_twice_changes_nothing() -> None:
    node = Node()
    things = cluster(policy("p", ingress=()))
    for thing in things:
        node.put(thing)
    node.settle()
    for thing in things:
        node.state.put(thing)
    assert node.settle() == set()


# ---- exactly the pods that can change ----------------------------------------------------------------------


def pod(name: str, number: int, *, namespace: str = "a", node: str = NODE, **labels: str) -> kube.Pod:
    third = 1 if node == NODE else 2
    address = f"10.1.{third}.{number}"
    return kube.Pod(
        namespace=namespace, name=name, uid=f"uid-{name}", labels=labels, node_name=node, pod_ips=(address,)
    )


def policy(
    name: str, *, namespace: str = "a", subject: kube.LabelSelector | None = None, **fields: object
) -> kube.NetworkPolicy:
    return kube.NetworkPolicy(
        namespace=namespace,
        name=name,
        pod_selector=subject or kube.LabelSelector(),
        **fields,  # type: ignore[arg-type]
    )


def labelled(**labels: str) -> kube.LabelSelector:
    return kube.LabelSelector(match_labels=labels)


def from_pods(**labels: str) -> tuple[kube.IngressRule, ...]:
    return (kube.IngressRule(peers=(kube.PolicyPeer(pod_selector=labelled(**labels)),)),)


def cluster(*more: kube.KubeObject) -> list[kube.KubeObject]:
    return [
        kube.Namespace(name="a", labels={"team": "red"}),
        kube.Namespace(name="b", labels={"team": "blue"}),
        pod("web", 2, app="web"),
        pod("db", 3, app="db"),
        pod("far", 2, node="n2", app="far"),
        *more,
    ]


def running(*more: kube.KubeObject) -> Node:
    node = Node()
    for thing in cluster(*more):
        node.put(thing)
    node.settle()
    return node


def test_a_label_change_of_a_remote_pod_rewrites_the_pods_whose_rules_name_it_and_no_others() -> None:
    node = running(policy("p", subject=labelled(app="web"), ingress=from_pods(role="client")))
    node.put(pod("far", 2, node="n2", app="far", role="client"))
    assert node.settle() == {"a-web"}
    node.put(pod("far", 2, node="n2", app="other", role="client"))
    assert node.settle() == set()


def test_a_namespace_label_change_rewrites_the_pods_whose_rules_select_by_it() -> None:
    peer = kube.PolicyPeer(namespace_selector=labelled(team="green"))
    node = running(
        pod("other", 9, namespace="b", node="n2"),
        policy("p", subject=labelled(app="db"), ingress=(kube.IngressRule(peers=(peer,)),)),
    )
    node.put(kube.Namespace(name="b", labels={"team": "green"}))
    assert node.settle() == {"a-db"}
    node.put(kube.Namespace(name="a", labels={"team": "grey"}))
    assert node.settle() == set()


def test_an_own_label_change_moves_a_pod_into_and_out_of_isolation() -> None:
    node = running(policy("p", subject=labelled(app="web"), ingress=()))
    node.put(pod("db", 3, app="web"))
    assert node.settle() == {"a-db"}
    assert listed(node.state.lists)["a-db"] == listed(node.state.lists)["a-web"]
    node.put(pod("web", 2, app="db"))
    assert node.settle() == {"a-web"}
    assert node.state.lists["a-web"] == OPEN


def test_pods_with_equal_rules_share_their_lists_also_when_they_are_isolated_both_ways() -> None:
    both = policy("p", policy_types=("Ingress", "Egress"), ingress=from_pods(app="web"))
    node = running(both, pod("db2", 4, app="db"))
    assert listed(node.state.lists)["a-db"] == listed(node.state.lists)["a-db2"] == listed(node.state.lists)["a-web"]
    made = [name for name in node.keys if name.startswith(vpp.ACL)]
    assert len(made) == 6, "egress, sources, errors and ingress of pods; REFLECT and the list of BVI and host"


def test_a_policy_that_allows_everything_needs_no_list() -> None:
    node = running(policy("p", ingress=(kube.IngressRule(),)))
    assert all(lists == OPEN for lists in node.state.lists.values())


def test_a_policy_of_another_namespace_changes_nothing() -> None:
    node = running()
    node.put(policy("p", namespace="b", ingress=()))
    assert node.settle() == set()


def test_changed_container_ports_follow_into_rules_by_name() -> None:
    rule = kube.IngressRule(ports=(kube.PolicyPort("TCP", "http"),))
    node = running(policy("p", subject=labelled(app="web"), ingress=(rule,)))

    def open_ports() -> list[int]:
        output = node.state.lists["a-web"].output
        ask = [acl.evaluate_lists(output, "192.0.2.1", "10.1.1.2", 6, 40000, port).action for port in (80, 81)]
        return [port for port, verdict in zip((80, 81), ask, strict=True) if verdict]

    assert open_ports() == []
    for number in (80, 81):
        port = kube.ContainerPort(container="c", name="http", port=number, protocol="TCP")
        node.put(msgspec.structs.replace(pod("web", 2, app="web"), ports=(port,)))
        assert node.settle() == {"a-web"}
        assert open_ports() == [number]


def test_changed_container_ports_of_a_destination_follow_into_egress_rules_by_name() -> None:
    rule = kube.EgressRule(ports=(kube.PolicyPort("TCP", "http"),))
    node = running(policy("p", subject=labelled(app="web"), policy_types=("Egress",), egress=(rule,)))
    for number in (80, 81):
        port = kube.ContainerPort(container="c", name="http", port=number, protocol="TCP")
        node.put(msgspec.structs.replace(pod("far", 2, node="n2", app="far"), ports=(port,)))
        assert "a-web" in node.settle()
        tables = node.state.lists["a-web"].input
        ask = {there: acl.evaluate_lists(tables, "10.1.1.2", "10.1.2.2", 6, 40000, there).action for there in (80, 81)}
        assert [there for there, verdict in ask.items() if verdict] == [number]


def test_who_is_a_peer_is_forgotten_with_the_last_policy_that_asks() -> None:
    node = running(policy("p", subject=labelled(app="web"), ingress=from_pods(app="far")))
    far = node.state.index.pod("a", "far")
    assert far is not None
    assert len(far.label_class.groups) == 1
    node.remove(policy("p"))
    node.settle()
    assert far.label_class.groups == frozenset()


def test_an_address_that_two_objects_claim_leaves_a_rule_with_the_last_of_them() -> None:
    """A pod that is being deleted may still show the address that its successor has already."""
    old, new = pod("old", 7, node="n2", app="x"), pod("new", 7, node="n2", app="x")
    node = running(old, new, policy("p", subject=labelled(app="web"), ingress=from_pods(app="x")))
    node.remove(old)
    assert node.settle() == set()
    node.remove(new)
    assert node.settle() == {"a-web"}


def test_a_finished_pod_holds_no_address() -> None:
    far = pod("client", 8, node="n2", app="x")
    node = running(far, policy("p", subject=labelled(app="web"), ingress=from_pods(app="x")))
    node.put(msgspec.structs.replace(far, phase="Succeeded"))
    assert node.settle() == {"a-web"}


# ---- closed before all is known ----------------------------------------------------------------------------


def isolated(node: Node, interface: str) -> bool:
    """Whether nobody but its node and the hairpin gets in, and it reaches nobody."""
    lists = node.state.lists[interface]
    into = lambda source: acl.evaluate_lists(lists.output, source, "10.1.1.2", 6, 1, 80).action  # noqa: E731
    out = acl.evaluate_lists(lists.input, "10.1.1.2", "192.0.2.1", 6, 1, 80).action
    reaches = [
        acl.evaluate_lists(lists.input, "10.1.1.2", there, 6, 1, 80).action for there in (*NODE_IPS[NODE], "10.96.0.9")
    ]
    from_node = all(into(address) for address in NODE_IPS[NODE])
    return from_node and bool(into("10.1.1.254")) and not (into("10.1.1.3") or into("192.0.2.1") or out or any(reaches))


def test_a_pod_is_isolated_from_its_attachment_until_its_object_is_known() -> None:
    node = Node()
    here = attachment(pod("web", 2))
    assert here is not None
    node.state.attach(here.container_id, here)
    assert node.settle() == {"a-web"}, "what reaches nothing needs no judging elsewhere"
    assert isolated(node, "a-web")
    node.state.put(pod("web", 2))
    node.settle()
    assert node.state.lists == dict.fromkeys((*NODE_PLACES, "a-web"), OPEN)
    node.state.remove(pod("web", 2))
    node.settle()
    assert isolated(node, "a-web")


def test_all_pods_are_isolated_until_the_cluster_is_known_completely() -> None:
    node = Node(complete=False)
    for thing in cluster():
        node.put(thing)
    node.settle()
    assert isolated(node, "a-web")
    node.state.complete = True
    assert node.settle() >= {"a-web", "a-db"}
    assert node.state.lists["a-web"] == OPEN


def away(*things: kube.KubeObject) -> Node:
    """A node that knows these objects, has an unknown pod ``a/web``, and hears of nothing more."""
    node = Node()
    for thing in things:
        node.put(thing)
    here = attachment(pod("web", 2))
    assert here is not None
    node.state.attach(here.container_id, here)
    node.settle()
    assert isolated(node, "a-web"), "in the ordinary course its object is waited for"
    node.state.away = True
    node.settle()
    return node


HOME = kube.Namespace(name="a")


def test_a_pod_that_comes_while_nothing_can_be_learnt_is_open_where_no_policy_is_known() -> None:
    node = away(HOME, kube.Namespace(name="b"), policy("p", namespace="b", ingress=()))
    assert node.state.lists["a-web"] == OPEN
    node.state.away = False
    assert node.settle() == set(), "what runs goes on until its object is known"
    node.put(policy("p", ingress=()))
    node.settle()
    assert isolated(node, "a-web")
    node.remove(policy("p"))
    node.settle()
    assert isolated(node, "a-web"), "its object can be waited for again"
    node.put(pod("web", 2))
    node.settle()
    assert node.state.lists["a-web"] == OPEN


@pytest.mark.parametrize(
    "things",
    [
        (HOME, policy("p", ingress=())),
        (HOME, policy("p", subject=labelled(app="db"), ingress=())),
        (kube.Namespace(name="b"),),
    ],
    ids=["a policy for all", "a policy that may select it", "a namespace never heard of"],
)
def test_a_pod_that_comes_while_nothing_can_be_learnt_is_isolated_elsewhere(
    things: tuple[kube.KubeObject, ...],
) -> None:
    assert isolated(away(*things), "a-web")


def test_a_pod_is_isolated_while_nothing_can_be_learnt_and_the_cluster_is_not_known_completely() -> None:
    node = away(HOME)
    node.state.complete = False
    node.settle()
    assert isolated(node, "a-web")


@pytest.mark.parametrize(
    ("attached", "object_", "known"),
    [
        ("u1", "u1", True),
        ("u1", "u2", False),
        ("", "u2", True),
        ("u1", "", True),
        ("0123456789abcdef0123456789abcdef", "7a9b3ab2-6b0a-4e0d-9d0b-0f6f6c9d2f7e", True),
    ],
    ids=["same", "its namesake", "runtime tells none", "object has none", "static pod"],
)
def test_a_namesake_of_before_or_after_is_another_pod(attached: str, object_: str, *, known: bool) -> None:
    node = Node()
    here = attachment(msgspec.structs.replace(pod("web", 2), uid=attached))
    assert here is not None
    node.state.attach("one", here)
    node.state.put(msgspec.structs.replace(pod("web", 2), uid=object_))
    node.settle()
    assert (node.state.lists["a-web"] == OPEN) is known


def test_an_attachment_that_is_no_kubernetes_pod_is_open() -> None:
    node = running(policy("p", ingress=()))
    here = Attachment(
        container_id="c", if_name="eth0", netns="/n", pod_namespace="", pod_name="", pod_uid="",
        address="10.1.1.77", interface="bare", pod_mac="", vpp_mac="",
    )  # fmt: skip
    node.state.attach("bare", here)
    assert node.settle() == {"bare"}
    assert node.state.lists["bare"] == OPEN


def test_a_local_pod_is_a_peer_from_its_attachment_on() -> None:
    """Its status shows the address only later; who may reach whom does not wait for that."""
    node = running(policy("p", subject=labelled(app="web"), ingress=from_pods(app="x")))
    unseen = msgspec.structs.replace(pod("new", 9, app="x"), pod_ips=())
    node.state.put(unseen)
    assert node.settle() == set()
    here = attachment(pod("new", 9, app="x"))
    assert here is not None
    node.state.attach("new", here)
    assert node.settle() == {"a-new", "a-web"}
    assert acl.evaluate_lists(node.state.lists["a-web"].output, "10.1.1.9", "10.1.1.2", 6, 1, 80).action
    node.state.detach("new")
    assert node.settle() == {"a-new", "a-web"}
    assert "a-new" not in node.state.lists


def test_the_own_nodes_addresses_follow_its_object() -> None:
    node = running(policy("p", ingress=()))
    told = kube.Node(name=NODE, addresses=(kube.NodeAddress("InternalIP", "203.0.113.5"),))
    output = node.state.lists["a-web"].output
    assert not acl.evaluate_lists(output, "203.0.113.5", "10.1.1.2", 6, 1, 80).action
    node.state.put(told)
    assert node.settle() == {"a-web", "a-db"}
    output = node.state.lists["a-web"].output
    assert acl.evaluate_lists(output, "203.0.113.5", "10.1.1.2", 6, 1, 80).action
    node.state.put(msgspec.structs.replace(told, name="n2"))
    assert node.settle() == set()


# ---- answers -----------------------------------------------------------------------------------------------


def test_origins_name_the_entries_that_allow_a_connection() -> None:
    web = kube.PolicyPort("TCP", 80)
    rules = (
        kube.IngressRule(peers=(kube.PolicyPeer(pod_selector=labelled(app="no")),)),
        kube.IngressRule(
            peers=(kube.PolicyPeer(ip_block=kube.IPBlock("192.0.2.0/24")), *(from_pods(app="far")[0].peers or ())),
            ports=(kube.PolicyPort("UDP", 80), web),
        ),
    )
    node = running(policy("p", subject=labelled(app="web"), ingress=rules), policy("q", ingress=from_pods(app="far")))
    local = node.state.local("a", "web")
    assert local is not None
    far = World(cluster()).places["10.1.2.2"]
    address = fresh(cluster(), NODE).index.pod("a", far.name)
    assert address is not None
    found = node.state.origins(local, "Ingress", far=address.addresses[0], traffic=(acl.TCP, 80))
    assert [(each.policy, each.rule, each.peer, each.port) for each in found] == [("p", 1, 1, 1), ("q", 0, 0, None)]
    assert not node.state.origins(local, "Egress", far=address.addresses[0], traffic=(acl.TCP, 80))


def test_faults_name_object_and_field_until_they_are_mended() -> None:
    broken = policy("p", ingress=(kube.IngressRule(peers=(kube.PolicyPeer(),)),))
    node = running(broken, msgspec.structs.replace(pod("bad", 9, node="n2"), pod_ips=("nonsense",)))
    assert [(f.plural, f.namespace, f.name, f.field) for f in node.state.faults()] == [
        ("networkpolicies", "a", "p", "spec.ingress[0].from[0]"),
        ("pods", "a", "bad", "status.podIPs[0]"),
    ]
    node.put(policy("p", ingress=()))
    node.put(pod("bad", 9, node="n2"))
    assert node.state.faults() == []
