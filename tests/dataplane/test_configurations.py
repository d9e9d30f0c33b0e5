"""From any cluster to any other: what agents render of pods, nodes, policies, services and settings, on a data plane.

Twenty clusters, each turned into each other one; after every step a plan finds nothing to do, for the scheduler that
did it and for one that knows nothing. Then a round of them once more with a failure at every single call of the way.
All of it takes minutes (``slow``); a few clusters are always played. Interfaces are loopbacks here: what a pod's veth
or TAP is made of, other tests show.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import msgspec
import pytest
from topology import Node

import contiv.vpp
from contiv.agent import policies, services
from contiv.config import Config, Transport, parse
from contiv.controller.cluster import ClusterResync, ClusterState
from contiv.model import keys, kube
from contiv.model import vpp as model
from contiv.model.ip import Network
from contiv.model.node import Attachment, NodeClaim
from contiv.network.handler import NetworkHandler
from contiv.network.ipam import ClusterSubnets
from contiv.network.render_nic import Uplink
from contiv.network.state import NetworkState, Options
from contiv.policy.handler import PolicyHandler
from contiv.scheduler import Resync, Scheduler, Settings, State, Txn, Value
from contiv.service.handler import ServiceHandler
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.state import ServiceState
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors, nat_descriptors
from contiv.vpp.errors import VppApiError

pytestmark = pytest.mark.root

CLUSTERS, FEW = 20, 5
SEED = 19
ME = NodeClaim(id=1, name="node-1", uplink="192.168.16.1/24")
LABELS = ("web", "db", "job")
VNIS, MTUS = (10, 11), (1450, 1400)

Configuration = dict[str, Value]


class Quiet:
    """What handlers would persist and serve goes nowhere here."""

    async def write(self, changes: Mapping[str, bytes | None]) -> None: ...
    async def release(self, claim: NodeClaim) -> None: ...
    async def reclaim(self) -> None: ...
    async def apply(self, checks: object) -> None: ...


# ---- clusters ----------------------------------------------------------------------------------------------


def configurations(count: int) -> list[Configuration]:
    """The first one is empty but for the node itself; all others are drawn."""
    dice = random.Random(SEED)
    return [render(dice, busy=number > 0) for number in range(count)]


def render(dice: random.Random, *, busy: bool) -> Configuration:
    """What one agent wants VPP to hold in a cluster, as its handlers say it."""
    config = parse(f"serviceLocalEndpointWeight: {dice.choice((1, 3))}")
    subnets = ClusterSubnets.of(config)
    uplink = Uplink(host_if="eth0", mac="02:00:00:00:00:01", address=Network.parse(ME.uplink, strict=False))
    transport = dice.choice(get_args(Transport))
    options = Options(
        tap=False,
        prepared_target=0,
        mtu=dice.choice(MTUS),
        vni=dice.choice(VNIS),
        transport=transport,
        policies=True,
        hide_pods=dice.choice((True, False)),
    )
    network = NetworkState(subnets, ME, uplink, options)
    state, event = a_cluster(dice, busy=busy)
    quiet = Quiet()
    service = a_service_handler(config, network, quiet)
    view = partial(policies.node_view, network)
    policy = PolicyHandler(view, attachments=lambda: network.attachments, push=lambda event: None, services=service)
    wanted: Configuration = {}
    for handler in (NetworkHandler(network, quiet, lambda event: None), service, policy):
        wanted |= handler.resync(event, state)
    return {key: on_a_loopback(value) for key, value in wanted.items() if key.startswith("vpp/")}


def a_service_handler(config: Config, network: NetworkState, quiet: Quiet) -> ServiceHandler:
    view = partial(services.node_view, network)
    return ServiceHandler(
        ServiceState(view(), Nat44Renderer(services.options_of(config))),
        view=view,
        interfaces=lambda: network.pod_interfaces,
        health=quiet,
        push=lambda event: None,
    )


def a_cluster(dice: random.Random, *, busy: bool) -> tuple[ClusterState, ClusterResync]:
    """Objects, claims and attachments as etcd would have them."""
    some = (lambda most: dice.randint(0, most)) if busy else (lambda most: 0)
    claims = {1: ME} | {
        n: NodeClaim(id=n, name=f"node-{n}", uplink=f"192.168.16.{n}/24") for n in range(2, 2 + some(3))
    }
    attachments, pods = {}, []
    for number in dice.sample(range(2, 10), some(6)):
        pod = a_pod(dice, number)
        pods.append(pod)
        made = an_attachment(pod, number)
        attachments[keys.attachment(ME.name, f"{made.container_id}/{made.if_name}")] = made
    pods += [a_pod(dice, number, node=2) for number in range(2, 2 + some(4))]
    namespace = kube.Namespace(name="default", labels={"team": "red"})
    objects: list[kube.KubeObject] = [namespace, *pods, *(kube.Node(name=claim.name) for claim in claims.values())]
    objects += [a_policy(dice, number) for number in range(some(5))]
    for number in range(some(6)):
        objects += a_service(dice, number, pods)
    by_key = {kind_of(value).key_of(value): value for value in objects}
    event = ClusterResync(objects=by_key, claims=claims, attachments=attachments, reason="test", **reflected())
    state = ClusterState()
    state.apply(event)
    return state, event


def reflected() -> dict[str, Any]:
    return {"reflected": frozenset(kind.plural for kind in kube.KINDS)}


def kind_of(value: kube.KubeObject) -> Any:
    return next(kind for kind in kube.KINDS if isinstance(value, kind.model))


def a_pod(dice: random.Random, number: int, *, node: int = 1) -> kube.Pod:
    return kube.Pod(
        namespace="default",
        name=f"pod-{node}-{number}",
        uid=f"{node}-{number}",
        labels={"app": dice.choice(LABELS)},
        node_name=f"node-{node}",
        pod_ips=(f"10.1.{node}.{number}",),
        phase="Running",
    )


def an_attachment(pod: kube.Pod, number: int) -> Attachment:
    return Attachment(
        container_id=f"c{number}",
        if_name="eth0",
        netns=f"/run/netns/{number}",
        pod_namespace=pod.namespace,
        pod_name=pod.name,
        pod_uid=pod.uid,
        address=pod.pod_ips[0],
        interface=f"pod{number}",
        pod_mac=f"02:fe:00:00:00:{number:02x}",
        vpp_mac=f"02:ff:00:00:00:{number:02x}",
    )


def a_policy(dice: random.Random, number: int) -> kube.NetworkPolicy:
    def selector() -> kube.LabelSelector:
        return kube.LabelSelector(match_labels={"app": dice.choice(LABELS)} if dice.random() < 0.7 else {})

    peers = (kube.PolicyPeer(pod_selector=selector()), kube.PolicyPeer(ip_block=kube.IPBlock("192.0.2.0/24")))
    ports = (kube.PolicyPort(protocol="TCP", port=dice.choice((80, 443))),) if dice.random() < 0.5 else None
    ingress, egress = kube.IngressRule(peers, ports), kube.EgressRule(peers[:1], ports)
    return kube.NetworkPolicy(
        namespace="default",
        name=f"policy-{number}",
        pod_selector=selector(),
        policy_types=dice.choice((("Ingress",), ("Egress",), ("Ingress", "Egress"))),
        ingress=(ingress,) if dice.random() < 0.7 else (),
        egress=(egress,) if dice.random() < 0.7 else (),
    )


def a_service(dice: random.Random, number: int, pods: Sequence[kube.Pod]) -> list[kube.KubeObject]:
    chosen = dice.sample(list(pods), dice.randint(0, len(pods)))
    name = f"service-{number}"
    external = dice.random() < 0.5
    service = kube.Service(
        namespace="default",
        name=name,
        type="NodePort" if external else "ClusterIP",
        cluster_ips=(f"10.96.0.{10 + number}",),
        ports=(
            kube.ServicePort(
                name="main",
                protocol=dice.choice(("TCP", "UDP")),
                port=80,
                target_port=8080,
                node_port=30000 + number if external else 0,
            ),
        ),
        external_ips=(f"198.51.100.{number}",) if external and dice.random() < 0.5 else (),
        internal_traffic_policy="Cluster",
        external_traffic_policy=dice.choice(("Cluster", "Local")),
        session_affinity=dice.choice(("None", "None", "ClientIP")),
        session_affinity_timeout_s=600,
    )
    endpoints = tuple(kube.Endpoint(address=pod.pod_ips[0], node_name=pod.node_name) for pod in chosen)
    slice_ = kube.EndpointSlice(
        namespace="default",
        name=f"{name}-a",
        service_name=name,
        address_type="IPv4",
        ports=(kube.EndpointPort(name="main", protocol=service.ports[0].protocol, port=8080),),
        endpoints=endpoints,
    )
    return [service, slice_]


def on_a_loopback(value: Value) -> Value:
    """Interfaces that need the kernel's help become loopbacks, and nothing waits for Linux."""
    if isinstance(value, model.AfPacket):
        instance = 100 + sum(value.name.encode()) + 1000 * len(value.name)
        return model.Loopback(name=value.name, instance=instance % 16000, mac=value.mac, mtu=value.mtu)
    requires = tuple(key for key in getattr(value, "requires", ()) if key.startswith("vpp/"))
    return msgspec.structs.replace(value, requires=requires) if getattr(value, "requires", ()) else value  # type: ignore[type-var]


# ---- on a data plane ---------------------------------------------------------------------------------------


class Faulty:
    """A connection whose ``countdown``-th call from now fails once; 0: none."""

    def __init__(self, vpp: contiv.vpp.Vpp) -> None:
        self.vpp = vpp
        self.countdown = 0
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vpp, name)

    def _strike(self, name: str) -> None:
        self.calls += 1
        if self.countdown:
            self.countdown -= 1
            if not self.countdown:
                raise VppApiError(name, -1)

    def call(self, name: str, /, **fields: Any) -> Awaitable[Any]:
        self._strike(name)
        return self.vpp.call(name, **fields)

    async def batch(self, requests: Sequence[tuple[str, Mapping[str, Any]]], /, **options: Any) -> list[Any]:
        self._strike("batch")
        return await self.vpp.batch(requests, **options)

    async def call_many(self, name: str, columns: Mapping[str, Any], /, **options: Any) -> Any:
        self._strike(name)
        return await self.vpp.call_many(name, columns, **options)


def a_scheduler(api: Any) -> Scheduler:
    interfaces = Interfaces()
    kinds = [*descriptors(api, interfaces, FibSource(api)), *nat_descriptors(api, interfaces)]
    return Scheduler(kinds, settings=Settings(retry_delay_s=60.0))


async def go(scheduler: Scheduler, wanted: Configuration) -> Any:
    """One transaction to ``wanted``."""
    gone = dict.fromkeys(key for key in scheduler.desired if key not in wanted)
    return await scheduler.commit(Txn(gone | {k: v for k, v in wanted.items() if scheduler.desired.get(k) != v}))


async def assert_arrived(scheduler: Scheduler, wanted: Configuration, *, where: str) -> None:
    """Nothing is left to do, for ``scheduler`` and for one that reads the data plane for the first time."""
    plan = await scheduler.inspect()
    assert plan.empty, f"{where}: {plan.operations}"
    stranger = a_scheduler(scheduler_api(scheduler))
    read = await stranger.commit(Txn(wanted, resync=Resync.FULL))
    assert read.plan.empty, f"{where}, read anew: {read.plan.operations}"
    assert not [key for key, status in read.states.items() if status.state is State.FAILED]


def scheduler_api(scheduler: Scheduler) -> Any:
    return scheduler.api  # type: ignore[attr-defined]


def every_pair(count: int) -> Iterator[tuple[int, int]]:
    """A walk that goes from each number to each other one exactly once."""
    unused = {source: [target for target in range(count) if target != source] for source in range(count)}
    stack, walk = [0], []
    while stack:
        if unused[stack[-1]]:
            stack.append(unused[stack[-1]].pop())
        else:
            walk.append(stack.pop())
    walk.reverse()
    return itertools.pairwise(walk)


async def play_every_pair(vpp: contiv.vpp.Vpp, count: int) -> int:
    clusters = configurations(count)
    scheduler = a_scheduler(vpp)
    scheduler.api = vpp  # type: ignore[attr-defined]
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    await go(scheduler, clusters[0])
    steps = 0
    for source, target in every_pair(count):
        outcome = await go(scheduler, clusters[target])
        assert not outcome.errors, f"{source} to {target}: {outcome.errors[:3]}"
        await assert_arrived(scheduler, clusters[target], where=f"{source} to {target}")
        steps += 1
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    assert scheduler.actual == {}
    return steps


async def play_every_failure(vpp: contiv.vpp.Vpp, count: int) -> int:
    """Round the clusters; each call of each step fails once, and each time everything arrives in the end."""
    clusters = configurations(count)
    faulty = Faulty(vpp)
    scheduler = a_scheduler(faulty)
    scheduler.api = faulty  # type: ignore[attr-defined]
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    await go(scheduler, clusters[0])
    failures = 0
    for source in range(count):
        target = (source + 1) % count
        faulty.calls = 0
        await go(scheduler, clusters[target])
        ways = faulty.calls
        for number in range(1, ways + 1):
            await go(scheduler, clusters[source])
            faulty.countdown = number
            await go(scheduler, clusters[target])
            faulty.countdown = 0
            failures += 1
            await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))
            plan = await scheduler.inspect()
            assert plan.empty, f"{source} to {target}, call {number} failed: {plan.operations}"
        await assert_arrived(scheduler, clusters[target], where=f"{source} to {target}")
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    return failures


async def test_a_few_clusters_turn_into_each_other(node: Node, vpp: contiv.vpp.Vpp) -> None:
    assert await play_every_pair(vpp, FEW) == FEW * (FEW - 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_twenty_clusters_turn_into_each_other(node: Node, vpp: contiv.vpp.Vpp) -> None:
    print(f"{await play_every_pair(vpp, CLUSTERS)} steps")


@pytest.mark.slow
@pytest.mark.timeout(2400)
async def test_a_failure_at_every_single_call_is_survived(node: Node, vpp: contiv.vpp.Vpp) -> None:
    print(f"{await play_every_failure(vpp, CLUSTERS)} failures")
