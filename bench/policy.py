"""Policies: rendering a node's access lists beside plain Python, the cost of one change, the memory of a large cluster.

    python bench/policy.py [--repeat 5] [--changes 300] [-o json]

The first row has two peers. ``tests/policy/oracle.py`` answers, for each local pod, each other pod and each direction,
whether one port is allowed; it is asked a sample of these questions, and the rest is reckoned. ``plainly`` is that
oracle made into a renderer: its clauses, asked once for each local pod's policies, peers and ports, collect who is
allowed where. It makes no access lists and judges no pairs, so it does less than is compared with it. The second row is
one label change of a pod elsewhere that enters or leaves rules of local pods, from the event to the bytes for VPP, in a
cluster and in one a tenth as large. The third is a process of its own that decodes objects as KSR stores them, keeps
them as an agent does, and renders its node.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the oracle is a test's

from contiv.controller.cluster import ClusterResync, ClusterState  # noqa: E402
from contiv.fastpath import acl  # noqa: E402
from contiv.model import kube  # noqa: E402
from contiv.model.ip import Address, Network  # noqa: E402
from contiv.model.node import Attachment  # noqa: E402
from contiv.model.sharing import Sharing  # noqa: E402
from contiv.policy.handler import JUDGED_BY  # noqa: E402
from contiv.policy.render import Rendered  # noqa: E402
from contiv.policy.state import PolicyState  # noqa: E402
from contiv.policy.tables import NodeView  # noqa: E402
from tests.policy import oracle  # noqa: E402

LOCAL: Final = 110
"""Pods of this node: kubelet's default of a node's capacity."""
APPS: Final = 8
NAMESPACES_A_TEAM: Final = 5
QUESTIONS: Final = 1_000
"""Asked of the oracle, of 2.2 million."""
RATIO_WANTED: Final = 50.0
GROWTH_WANTED: Final = 2.0
MEMORY_WANTED_MB: Final = 400.0
LARGE: Final = (150_000, 10_000, 10_000)
"""Pods, namespaces and policies: what issue and Kubernetes' own thresholds name."""


# ---- clusters ----------------------------------------------------------------------------------------------


def namespaces(count: int) -> Iterator[kube.Namespace]:
    """Namespaces, a few of them a team's."""
    for number in range(count):
        name = f"ns-{number:05d}"
        labels = {kube.NAMESPACE_NAME_LABEL: name, "team": f"team-{number // NAMESPACES_A_TEAM}"}
        yield kube.Namespace(name=name, labels=labels)


def pods(count: int, homes: int) -> Iterator[kube.Pod]:
    """Pods of several apps in each namespace; ``LOCAL`` of them, spread over all, are this node's."""
    here = set(random.Random(3).sample(range(count), LOCAL))
    for number in range(count):
        home, app = number % homes, (number // homes) % APPS
        labels = {"app": f"app-{app}", "tier": ("front", "back", "data")[app % 3], "pod-template-hash": f"{app:08x}"}
        port = kube.ContainerPort(container="c", name="http", port=8080 + app % 2, protocol="TCP")
        node = "n1" if number in here else f"node-{2 + number // LOCAL}"
        address = f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        yield kube.Pod(
            namespace=f"ns-{home:05d}",
            name=f"app-{app}-{number:06d}",
            uid=f"00000000-0000-4000-8000-{number:012x}",
            labels=labels,
            node_name=node,
            host_ip="192.168.0.1",
            pod_ips=(address,),
            phase="Running",
            ports=(port,),
        )


def labelled(**labels: str) -> kube.LabelSelector:
    """A selector by labels."""
    return kube.LabelSelector(match_labels=labels)


def policy(number: int, homes: int, dice: random.Random) -> kube.NetworkPolicy:
    """One of eight kinds that clusters have."""
    home = number % homes
    app, other = f"app-{dice.randrange(APPS)}", f"app-{dice.randrange(APPS)}"
    here = kube.PolicyPeer(pod_selector=labelled(app=other))
    team = kube.PolicyPeer(namespace_selector=labelled(team=f"team-{dice.randrange(homes) // NAMESPACES_A_TEAM}"))
    both = msgspec.structs.replace(team, pod_selector=labelled(tier="front"))
    expression = kube.LabelRequirement("tier", "In", ("front", "back"))
    expressed = kube.PolicyPeer(pod_selector=kube.LabelSelector(match_expressions=(expression,)))
    block = kube.PolicyPeer(ip_block=kube.IPBlock("172.16.0.0/12", ("172.20.0.0/16", "172.21.4.0/24")))
    web, named = kube.PolicyPort("TCP", 8080, 8090), kube.PolicyPort("TCP", "http")
    dns = (kube.PolicyPort("UDP", 53), kube.PolicyPort("TCP", 53))
    fields: list[dict[str, Any]] = [
        {"pod_selector": kube.LabelSelector(), "policy_types": ("Ingress",)},
        {"ingress": (kube.IngressRule(peers=(here,), ports=(web,)),)},
        {"ingress": (kube.IngressRule(peers=(team, block)),)},
        {"ingress": (kube.IngressRule(peers=(both, here), ports=(named,)),)},
        {"ingress": (kube.IngressRule(ports=(named,)), kube.IngressRule(peers=(expressed,)))},
        {"policy_types": ("Egress",), "egress": (kube.EgressRule(peers=(here, both)), kube.EgressRule(ports=dns))},
        {"policy_types": ("Egress",), "egress": (kube.EgressRule(peers=(team,), ports=(named,)),)},
        {
            "policy_types": ("Ingress", "Egress"),
            "ingress": (kube.IngressRule(peers=(expressed,), ports=(web,)),),
            "egress": (kube.EgressRule(peers=(block, here), ports=(web, *dns)),),
        },
    ]
    subject = dice.choice((kube.LabelSelector(), labelled(tier="front"), labelled(app=app)))
    chosen = {"pod_selector": subject} | fields[(number // homes + home) % len(fields)]
    return kube.NetworkPolicy(namespace=f"ns-{home:05d}", name=f"policy-{number:05d}", **chosen)


def objects(count: int, homes: int, policies: int) -> list[kube.KubeObject]:
    """A cluster."""
    dice = random.Random(5)
    made = (policy(number, homes, dice) for number in range(policies))
    return [*namespaces(homes), *pods(count, homes), *made]


def node(things: list[kube.KubeObject]) -> PolicyState:
    """This node with all that it must know, nothing settled."""
    view = NodeView(
        name="n1",
        addresses=(Address.parse("172.30.1.1"), Address.parse("172.30.1.2")),
        hairpin=(Address.parse("10.1.1.254"),),
        services=(Network.parse("10.96.0.0/12"),),
        judged=(Network.parse("10.128.0.0/9"),),
        overlay="vxlan-bvi",
        host="vpp2",
        uplinks=("uplink",),
    )
    state = PolicyState(view)
    state.complete = True
    state.load(things)
    for each in things:
        if isinstance(each, kube.Pod) and each.node_name == "n1":
            state.attach(each.uid, attachment(each))
    return state


def attachment(pod: kube.Pod) -> Attachment:
    """A pod's interface here."""
    return Attachment(
        container_id=pod.uid,
        if_name="eth0",
        netns="",
        pod_namespace=pod.namespace,
        pod_name=pod.name,
        pod_uid=pod.uid,
        address=pod.pod_ips[0],
        interface=f"pod{pod.name[-6:]}",
        pod_mac="",
        vpp_mac="",
    )


# ---- plain Python ------------------------------------------------------------------------------------------

Line = tuple[str, str, str | int | None, int | None]


def plainly(things: list[kube.KubeObject]) -> dict[tuple[str, str, str], set[Line] | None]:
    """What each local pod allows, by direction: addresses or CIDRs with their ports; None where it is not isolated."""
    cluster = oracle.Cluster.of(things)
    homes = {each.name: each.labels for each in cluster.namespaces}
    found: dict[tuple[str, str, str], set[Line] | None] = {}
    for pod in cluster.pods:
        if pod.node_name != "n1":
            continue
        selecting = [each for each in cluster.policies if oracle.selects(each, pod)]
        for direction in ("Ingress", "Egress"):
            chosen = [each for each in selecting if direction in oracle.directions(each)]
            lines: set[Line] = set()
            for each in chosen:
                for rule in (each.ingress if direction == "Ingress" else each.egress) or ():
                    lines.update(_lines(rule, each.namespace, pod, direction, cluster=cluster, homes=homes))
            found[pod.namespace, pod.name, direction] = lines if chosen else None
    return found


def _lines(
    rule: kube.IngressRule | kube.EgressRule,
    namespace: str,
    pod: kube.Pod,
    direction: str,
    *,
    cluster: oracle.Cluster,
    homes: dict[str, dict[str, str]],
) -> Iterator[Line]:
    for peer in rule.peers or (None,):
        for far, address in _far_ends(peer, namespace, cluster, homes):
            for port in rule.ports or (None,):
                if port is None or port.port is None:
                    yield address, port.protocol if port else "any", None, None
                elif isinstance(port.port, str):
                    for number in oracle.named(pod if direction == "Ingress" else far, port.port, port.protocol):
                        yield address, port.protocol, number, number
                else:
                    yield address, port.protocol, port.port, port.end_port or port.port


def _far_ends(
    peer: kube.PolicyPeer | None, namespace: str, cluster: oracle.Cluster, homes: dict[str, dict[str, str]]
) -> Iterator[tuple[kube.Pod | None, str]]:
    if peer is None or peer.ip_block is not None:
        yield None, peer.ip_block.cidr if peer is not None and peer.ip_block is not None else "any"
        return
    for each in cluster.pods:
        if peer.namespace_selector is None:
            there = each.namespace == namespace
        else:
            there = oracle.matches(peer.namespace_selector, homes[each.namespace])
        if there and (peer.pod_selector is None or oracle.matches(peer.pod_selector, each.labels)):
            yield each, each.pod_ips[0]


def agree(state: PolicyState, plain: dict[tuple[str, str, str], set[Line] | None]) -> None:
    """Both must have said the same, or the figures compare different things."""
    for local in state.locals():
        for direction, allowed in (("Ingress", local.ingress), ("Egress", local.egress)):
            lines = plain[*local.name, direction]
            assert (lines is None) == (allowed is None), (local.name, direction)
            for address, protocol, first, last in lines or ():
                if address == "any" or "/" in address or allowed is None:
                    continue
                ports = [(6, first or 0, last or 65535)] if protocol in ("any", "TCP") else [(17, first, last)]
                assert allowed.toward(address).covers(acl.Ports.of(ports)), (local.name, direction, address)
            ends = {address for address, *_ in lines or () if address != "any" and "/" not in address}
            if allowed is not None and lines and not any(line[0] == "any" for line in lines):
                inner = allowed.peers.intersection(acl.Peers.of("10.128.0.0/9"))
                assert inner.size == len(ends), (local.name, direction)


# ---- rows --------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and what it gave; garbage of before does not count."""
    gc.collect()
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def rendering(repeat: int) -> dict[str, Any]:
    """Full rendering of one node, from objects to bytes, beside plain Python."""
    things = objects(10_000, 500, 2_000)

    def render() -> tuple[PolicyState, dict[str, Any]]:
        state = node(things)
        state.settle()
        return state, Rendered().replace(state.lists)

    ours, (state, keys) = min((timed(render) for _ in range(repeat)), key=lambda each: each[0])
    plain_s, plain = timed(lambda: plainly(things))
    question_s = asking(things)
    oracle_s = question_s * LOCAL * 10_000 * 2
    agree(state, plain)
    tables = [value for key, value in keys.items() if key.startswith("vpp/acl/")]
    return {
        "full_rendering_s": round(ours, 4),
        "oracle_s": round(oracle_s),
        "oracle_ms_a_question": round(question_s * 1e3, 3),
        "ratio_oracle_to_ours": round(oracle_s / ours),
        "plain_python_s": round(plain_s, 2),
        "ratio_plain_to_ours": round(plain_s / ours, 1),
        "access_lists": len(tables),
        "rules": sum(len(each.rules) for each in tables) // acl.RULE_SIZE,
    }


def asking(things: list[kube.KubeObject]) -> float:
    """Seconds that the oracle takes to say whether one pod's side allows one connection."""
    cluster = oracle.Cluster.of(things)
    ends = [oracle.End(oracle.addresses(pod)[0], pod) for pod in cluster.pods]
    near = [end for end in ends if end.pod is not None and end.pod.node_name == "n1"]
    dice = random.Random(11)
    asked = [(dice.choice(near), dice.choice(ends)) for _ in range(QUESTIONS // 2)]

    def ask() -> None:
        for here, far in asked:
            assert here.pod is not None
            oracle.side_allows(cluster, "Ingress", here.pod, far, here, ("TCP", 8080))
            oracle.side_allows(cluster, "Egress", here.pod, here, far, ("TCP", 8080))

    return timed(ask)[0] / QUESTIONS


def label_change(changes: int) -> dict[str, Any]:
    """One pod's label change, in a cluster and in one a tenth as large."""
    figures: dict[str, Any] = {}
    for name, size in (("small", (1_000, 50, 200)), ("large", (10_000, 500, 2_000))):
        things = objects(*size)
        state = node(things)
        state.settle()
        rendered = Rendered()
        rendered.replace(state.lists)
        near = {local.name[0] for local in state.locals()}
        movers = [
            each for each in things if isinstance(each, kube.Pod) and each.node_name != "n1" and each.namespace in near
        ]
        dice = random.Random(7)
        times: list[float] = []
        gc.collect()
        while len(times) < changes:
            pod = dice.choice(movers)
            app = f"app-{dice.randrange(APPS)}"
            new = msgspec.structs.replace(pod, labels=pod.labels | {"app": app})
            started = time.perf_counter()
            state.put(new)
            written = rendered.change(state.settle(), state.lists)
            took = time.perf_counter() - started
            if written:
                times.append(took)
        figures[f"{name}_median_ms"] = round(statistics.median(times) * 1e3, 3)
        figures[f"{name}_p99_ms"] = round(statistics.quantiles(times, n=100)[98] * 1e3, 3)
    figures["growth"] = round(figures["large_median_ms"] / figures["small_median_ms"], 2)
    return figures


def memory() -> dict[str, Any]:
    """The figures of a fresh process with a large cluster."""
    command = [sys.executable, __file__, "--large"]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout))


def large() -> dict[str, Any]:
    """Hold a large cluster as an agent does; called in a process of its own."""
    count, homes, policies = LARGE
    dice = random.Random(5)
    made: Iterator[kube.KubeObject] = (
        each
        for part in (namespaces(homes), pods(count, homes), (policy(n, homes, dice) for n in range(policies)))
        for each in part
    )
    before = resident_mb()
    decoded, sharing = {}, Sharing()
    for each in made:  # through JSON: every string is the object's own, as from etcd
        kind = next(kind for kind in kube.KINDS if isinstance(each, kind.model))
        decoded[kind.key_of(each)] = sharing.share(kind.decode(kind.encode(each)))  # type: ignore[arg-type]
    event = ClusterResync(objects=decoded, claims={}, attachments={}, reason="", reflected=JUDGED_BY)
    known, cluster = ClusterState(), ClusterState()  # the feed's and the controller's
    known.apply(event)
    cluster.apply(event)
    del decoded, event
    objects_mb = resident_mb() - before
    processor = time.process_time()
    took, state = timed(lambda: settled(list(cluster.objects.values())))
    processor = time.process_time() - processor
    gc.collect()
    whole = resident_mb()
    return {
        "resident_mb": round(whole, 1),
        "objects_mb": round(objects_mb, 1),
        "policy_state_mb": round(whole - before - objects_mb, 1),
        "full_rendering_s": round(took, 2),
        "full_rendering_cpu_s": round(processor, 2),
        "interfaces": len(state.lists),
    }


def settled(things: list[kube.KubeObject]) -> PolicyState:
    """A node, rendered."""
    state = node(things)
    state.settle()
    Rendered().replace(state.lists)
    return state


def resident_mb() -> float:
    """The process's resident memory (proc(5), VmRSS)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


def main() -> int:
    """Print the rows; 1 when one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    if arguments.large:
        print(json.dumps(large()))
        return 0
    result = {
        "rendering": rendering(arguments.repeat),
        "label_change": label_change(arguments.changes),
        "memory": memory(),
    }
    if arguments.output == "json":
        print(json.dumps(result))
    else:
        for row, figures in result.items():
            print(f"{row}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    met = (
        result["rendering"]["ratio_oracle_to_ours"] >= RATIO_WANTED,
        result["label_change"]["growth"] <= GROWTH_WANTED,
        result["memory"]["resident_mb"] <= MEMORY_WANTED_MB,
    )
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
