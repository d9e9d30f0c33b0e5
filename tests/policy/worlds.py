"""Random clusters on two nodes, and the way of a packet through the lists that ``contiv.policy`` gives each node.

``objects`` draws Kubernetes objects, nonsense included. ``World`` attaches the pods to their nodes and answers, for one
connection, whether the lists on its way let it pass: each list evaluated as VPP does, nothing else known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from hypothesis import strategies as st

from contiv.fastpath import acl
from contiv.model import kube
from contiv.model.ip import Address, Network
from contiv.model.node import Attachment
from contiv.policy.state import PolicyState
from contiv.policy.tables import NodeView

NODES: Final = ("n1", "n2")
NAMESPACES: Final = ("a", "b")
NODE_IPS: Final = {"n1": ("172.30.1.1", "172.30.1.2", "192.168.16.1"), "n2": ("172.30.2.1", "172.30.2.2")}
NODE_PLACES: Final = ("bvi", "host", "uplink")
"""The node's own interfaces, which have places for lists at all times."""
PODS_NETWORK: Final = Network.parse("10.1.0.0/16")
PODS_NETWORK_6: Final = Network.parse("fd00:1::/64")
SERVICES: Final = Network.parse("10.96.0.0/12")
CLUSTER_IP: Final = "10.96.0.5"
OUTSIDE: Final = ("192.0.2.7", "10.1.200.9", "2001:db8::7")
NUMBERS: Final = {"TCP": acl.TCP, "UDP": acl.UDP, "SCTP": acl.SCTP, "ICMP": acl.ICMP, "ICMP error": acl.ICMP, "GRE": 47}
ICMP_TYPES: Final = {("ICMP", 4): (8, 0), ("ICMP", 6): (128, 0), ("ICMP error", 4): (3, 4), ("ICMP error", 6): (2, 0)}
"""Type and code: echo requests; fragmentation needed and packet too big."""
TRAFFIC: Final = (
    ("TCP", 80),
    ("TCP", 81),
    ("UDP", 53),
    ("SCTP", 80),
    ("ICMP", None),
    ("ICMP error", None),
    ("GRE", None),
)
Case = tuple[str, int | None]


# ---- the road ----------------------------------------------------------------------------------------------


def view(node: str) -> NodeView:
    """What the policies of a node know of it."""
    number = NODES.index(node) + 1
    return NodeView(
        name=node,
        addresses=tuple(map(Address.parse, NODE_IPS[node])),
        hairpin=(Address.parse(f"10.1.{number}.254"),),
        services=(SERVICES,),
        judged=(PODS_NETWORK, PODS_NETWORK_6, Network.parse("172.30.0.0/16")),
        overlay="bvi",
        host="host",
        uplinks=("uplink",),
    )


def attachment(pod: kube.Pod) -> Attachment | None:
    """How a pod is attached to its node; None for one that never is."""
    if pod.host_network or pod.finished or pod.node_name not in NODES:
        return None
    address = next((ip for ip in pod.pod_ips if ip.startswith("10.")), None)
    if address is None:
        return None
    return Attachment(
        container_id=pod.uid or f"{pod.namespace}-{pod.name}",
        if_name="eth0",
        netns="/run/netns/x",
        pod_namespace=pod.namespace,
        pod_name=pod.name,
        pod_uid=pod.uid,
        address=address,
        interface=f"{pod.namespace}-{pod.name}",
        pod_mac="02:fe:00:00:00:01",
        vpp_mac="02:ff:00:00:00:01",
    )


def attachments(objects: Iterable[kube.KubeObject], node: str) -> dict[str, Attachment]:
    """The pods of a node by owner."""
    pods = (each for each in objects if isinstance(each, kube.Pod) and each.node_name == node)
    found = (attachment(pod) for pod in pods)
    return {each.container_id: each for each in found if each is not None}


def fresh(objects: Sequence[kube.KubeObject], node: str) -> PolicyState:
    """The state of a node that learned everything at once."""
    state = PolicyState(view(node))
    state.complete = True
    state.load(objects)
    for owner, each in attachments(objects, node).items():
        state.attach(owner, each)
    state.settle()
    return state


class World:
    """All nodes of a cluster."""

    def __init__(self, objects: Sequence[kube.KubeObject]) -> None:
        self.states = {node: fresh(objects, node) for node in NODES}
        pods = [each for each in objects if isinstance(each, kube.Pod) and not each.host_network and not each.finished]
        self.places = {address: pod for pod in pods for address in pod.pod_ips}

    def passes(self, source: str, destination: str, case: Case, *, service: bool = False) -> bool:
        """Whether a first packet gets through; ends are addresses. ``service``: it was sent to a cluster IP, which is
        what the first list sees.
        """
        protocol, port = case
        number = NUMBERS[protocol]
        if number == acl.ICMP and ":" in source:
            number = acl.ICMP6
        near, far = self.places.get(source), self.places.get(destination)
        if near is not None and near is far:
            return True

        def through(node: str, interface: str, side: str) -> bool:
            lists = self.states[node].lists.get(interface)
            tables = getattr(lists, side) if lists is not None else ()
            ports = ICMP_TYPES.get((protocol, 6 if ":" in source else 4), (40000, port or 0))
            seen = CLUSTER_IP if service and near is not None and side == "input" and node == here else destination
            return bool(acl.evaluate_lists(tables, source, seen, number, *ports).action)

        here = self._node(source, near)
        there = self._node(destination, far)
        way = []
        if near is not None and here:
            way.append((here, f"{near.namespace}-{near.name}", "input"))
        elif here:
            way.append((here, "host", "input"))
        if here != there and here and there:
            way += [(here, "bvi", "output"), (there, "bvi", "input")]
        elif there and not here:
            way.append((there, "uplink", "input"))
        if far is not None and there:
            way.append((there, f"{far.namespace}-{far.name}", "output"))
        elif there and far is None:
            way.append((there, "host", "output"))
        return all(through(*step) for step in way)

    def _node(self, address: str, pod: kube.Pod | None) -> str:
        if pod is not None:
            return pod.node_name if pod.node_name in NODES else ""
        return next((node for node, ips in NODE_IPS.items() if address in ips), "")


def key(each: kube.KubeObject) -> tuple[str, str, str]:
    """An object's identity."""
    return type(each).__name__, getattr(each, "namespace", ""), each.name


# ---- clusters ----------------------------------------------------------------------------------------------

LABELS: Final = st.sampled_from(
    [{}, {"app": "x"}, {"app": "x"}, {"app": "y"}, {"app": "x", "tier": "y"}, {"tier": "y"}, {"tier": "z"}]
)
REQUIREMENT: Final = st.builds(
    kube.LabelRequirement,
    key=st.sampled_from(["app", "tier", "never"]),
    operator=st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "In", "NotIn", "Gt"]),
    values=st.sampled_from([("x",), ("x",), ("x", "y"), ("z",), ()]),
)
SELECTOR: Final = st.builds(
    kube.LabelSelector,
    match_labels=LABELS,
    match_expressions=st.lists(REQUIREMENT, max_size=1).map(tuple),
)
SIMPLE: Final = st.builds(kube.LabelSelector, match_labels=LABELS)
CIDR: Final = st.sampled_from(
    ["0.0.0.0/0", "::/0", "10.1.0.0/16", "10.1.1.0/28", "10.1.1.7/29", "192.0.2.0/24", "fd00:1::/64", "172.30.2.0/24"]
)
EXCEPTS: Final = ("10.1.1.0/29", "10.1.0.0/20", "192.0.2.7/32", "bad", "fd00:1::2/127")
BLOCK: Final = st.builds(
    kube.IPBlock,
    cidr=st.one_of(CIDR, CIDR, st.sampled_from(["10.1.1.4", "nonsense/8"])),
    excepts=st.lists(
        st.sampled_from(["10.1.1.0/29", "10.1.0.0/20", "192.0.2.7/32", "bad", "fd00:1::2/127"]), max_size=2
    ).map(tuple),
)
PEER: Final = st.one_of(
    st.builds(kube.PolicyPeer, pod_selector=SELECTOR),
    st.builds(kube.PolicyPeer, namespace_selector=SIMPLE),
    st.builds(kube.PolicyPeer, pod_selector=SIMPLE, namespace_selector=SELECTOR),
    st.builds(kube.PolicyPeer, ip_block=BLOCK),
    st.builds(kube.PolicyPeer, ip_block=st.builds(kube.IPBlock, cidr=CIDR)),
    st.builds(kube.PolicyPeer, pod_selector=st.none() | SIMPLE, ip_block=st.none() | BLOCK),
)
PORT: Final = st.one_of(
    st.builds(kube.PolicyPort, protocol=st.sampled_from(["TCP", "UDP", "SCTP"])),
    st.builds(kube.PolicyPort, protocol=st.sampled_from(["TCP", "UDP"]), port=st.sampled_from([80, 81, 53])),
    st.builds(kube.PolicyPort, protocol=st.sampled_from(["TCP", "UDP"]), port=st.sampled_from(["web", "dns", "none"])),
    st.builds(
        kube.PolicyPort,
        protocol=st.sampled_from(["TCP", "UDP", "XTP"]),
        port=st.sampled_from([None, 1, 53, 80, 0, 70000, "web"]),
        end_port=st.sampled_from([None, 60, 80, 65535, 70000]),
    ),
)


def _some(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...] | None]:
    one = st.tuples(strategy)
    return st.one_of(one, one, st.tuples(strategy, strategy), st.none(), st.just(()))


INGRESS: Final = st.builds(kube.IngressRule, peers=_some(PEER), ports=_some(PORT))
EGRESS: Final = st.builds(kube.EgressRule, peers=_some(PEER), ports=_some(PORT))
POLICY: Final = st.builds(
    kube.NetworkPolicy,
    namespace=st.sampled_from(NAMESPACES),
    name=st.sampled_from(["p", "q", "r"]),
    pod_selector=st.one_of(SIMPLE, st.just(kube.LabelSelector()), st.just(kube.LabelSelector()), SELECTOR),
    policy_types=st.sampled_from([None, None, (), ("Ingress",), ("Egress",), ("Ingress", "Egress"), ("Sideways",)]),
    ingress=_some(INGRESS),
    egress=_some(EGRESS),
    faults=st.sampled_from([(), (), (), ("spec.egress[0].to: nonsense",)]),
)
NAMESPACE: Final = st.builds(kube.Namespace, name=st.sampled_from(NAMESPACES), labels=LABELS)
CONTAINER_PORT: Final = st.builds(
    kube.ContainerPort,
    container=st.sampled_from(["c", "d"]),
    name=st.sampled_from(["web", "dns", ""]),
    port=st.sampled_from([80, 81, 53]),
    protocol=st.sampled_from(["TCP", "UDP"]),
)


@st.composite
def pod(draw: st.DrawFn) -> kube.Pod:
    """A pod; its addresses follow from its name, so that no two pods share any."""
    namespace, number = draw(st.sampled_from(NAMESPACES)), draw(st.integers(0, 3))
    node = draw(st.sampled_from([*NODES, *NODES, "elsewhere"]))
    host_network = draw(st.sampled_from([False] * 7 + [True]))
    index = 4 * NAMESPACES.index(namespace) + number + 2
    third = NODES.index(node) + 1 if node in NODES else 9
    ips: tuple[str, ...] = (f"10.1.{third}.{index}", f"fd00:1::{third}:{index:x}")
    if host_network:
        ips = NODE_IPS[node][:1] if node in NODES else ("192.168.99.1",)
    ips = draw(st.sampled_from([ips, ips, ips[:1], (), (*ips[:1], "nonsense")]))
    return kube.Pod(
        namespace=namespace,
        name=f"pod{number}",
        uid=draw(st.sampled_from(["", "u1"])) and f"{namespace}{number}",
        labels=draw(LABELS),
        node_name=node,
        host_network=host_network,
        pod_ips=ips,
        phase=draw(st.sampled_from(["Running", "Running", "Running", "Succeeded", "Pending"])),
        ports=tuple(draw(st.lists(CONTAINER_PORT, max_size=2))),
    )


@st.composite
def objects(draw: st.DrawFn, *, pods: int = 8, policies: int = 5) -> list[kube.KubeObject]:
    """The objects of a cluster, each identity once."""
    drawn = [
        *draw(st.lists(NAMESPACE, min_size=1, max_size=3)),
        *draw(st.lists(pod(), min_size=pods // 2, max_size=pods, unique_by=key)),
        *draw(st.lists(POLICY, min_size=1, max_size=policies, unique_by=key)),
    ]
    return list({key(each): each for each in drawn}.values())
