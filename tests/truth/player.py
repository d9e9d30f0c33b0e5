"""Truth cases played with packets: the cast on a demo cluster, changed from case to case, probed and compared.

In: a running ``World`` and cases in any order. Out: what passed and should not, or did not and should. Objects go in as
users put them in, by the API server (broken ones into etcd, as nobody else would take them), so KSR, etcd, agents and
data plane are all in the path. Only what differs from the case before is changed: each case is a live change too. A
case is probed when it is in force by state: etcd holds the objects, and every agent has done with an event that came
behind them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from contiv.analysis import live
from contiv.analysis.cluster import build
from contiv.analysis.tables import ClusterTables
from contiv.config import EtcdConfig, load
from contiv.demo.api import Object, key_of
from contiv.model import keys, kube
from contiv.store.client import Etcd
from tests.e2e.world import World, eventually
from tests.policy import oracle
from tests.policy.oracle import Traffic
from tests.truth.cases import CAST, NODES, TRAFFIC, Case, Places, as_enforced, reduced, told_apart

PROBER: Final = Path(__file__).with_name("prober.py")
IN_FORCE_S: Final = 10.0
PROBE_S: Final = 20.0
LINE_MAX: Final = 1 << 20
EVENTS_SEEN: Final = 20
"""How far back an agent's history is searched for the event that closes a change."""
POLICIES: Final = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"

Probe = tuple[str, str, Traffic]


class Player:
    """The cast on a cluster of two nodes. ``start`` it, ``play`` cases, ``stop`` it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._api = world.cluster.api
        self._etcd: Etcd
        self._prober: asyncio.subprocess.Process
        self._places = Places({}, {})
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._pods: dict[str, Object] = {}
        self._manifests: dict[str, Object] = {}
        self._specs: dict[str, tuple[str, Object]] = {}
        """Policies that are there: how they came (api, etcd) and their spec."""
        self._stored: dict[str, kube.KubeObject] = {}
        """What etcd must hold below the policies, by key."""
        self._barrier = 0

    # ---- the cast ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Namespaces and pods; each node's pods one after the other, so that their addresses are known."""
        self._etcd = await (await Etcd.connect([self.world.cluster.etcd])).__aenter__()
        self._prober = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(PROBER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_MAX,
        )
        for name, labels in CAST["namespaces"].items():
            thing = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
            await self.world.cluster.create(thing)
            self._namespaces[name] = labels
        hosts = {name: kubelet.host_ip for name, kubelet in self.world.cluster.kubelets.items()}
        subnets = [await self.world.rest(number, "ipam") for number in (1, 2)]
        prefixes = {
            node: told["node"]["pod_subnet"].rpartition(".")[0] for node, told in zip(NODES, subnets, strict=True)
        }
        self._places = Places(prefixes, hosts)
        by_node: dict[str, list[Object]] = {node: [] for node in NODES}
        for thing in _empty_case().pod_manifests(self._places):
            by_node[thing["spec"]["nodeName"]].append(thing)
        await asyncio.gather(*(self._create_in_order(things) for things in by_node.values()))

    async def _create_in_order(self, things: Iterable[Object]) -> None:
        for thing in things:
            await self._create_pod(thing)
            drawn = [each["ip"] for each in thing["status"]["podIPs"]]
            assert [self._pods[key_of(thing)]["status"]["podIP"]] == drawn, "the cases name addresses in this order"

    async def _create_pod(self, thing: Object) -> None:
        key = key_of(thing)
        bare = {name: part for name, part in thing.items() if name != "status"}
        self._pods |= await self.world.create_pods([bare])
        self._labels[key] = thing["metadata"]["labels"]
        self._manifests[key] = thing

    async def stop(self) -> None:
        """End the prober; pods and policies go with the cluster."""
        await self._etcd.__aexit__(None, None, None)
        if self._prober.returncode is None:
            self._prober.kill()
        await self._prober.wait()

    # ---- a case ------------------------------------------------------------------------------------------

    async def play(self, case: Case, traffic: Sequence[Traffic]) -> list[str]:
        """Bring the cluster into the case's state and compare packets with the oracle; what is wrong, as text."""
        await self.become(case)
        return await self.compare(case, traffic)

    async def become(self, case: Case) -> None:
        """Bring the cluster into the case's state, in force on every node."""
        await self._apply(case)
        await self._in_force()

    async def compare(self, case: Case, traffic: Sequence[Traffic]) -> list[str]:
        """Send packets between all ends and compare with the oracle; what is wrong, as text."""
        probes = self._probes(traffic)
        cluster = as_enforced(case.cluster(self._seen()))
        expected = [oracle.allowed(cluster, *probe[:2], *probe[2]) for probe in probes]
        wanted = [index for index, each in enumerate(expected) if each]
        answer = await self._ask({"probes": [(*probe[:2], *probe[2]) for probe in probes], "wanted": wanted})
        arrived, answered = set(answer["arrived"]), set(answer["answered"])
        return [
            f"{source} to {destination} {protocol}/{port}: {problem}"
            for index, (source, destination, (protocol, port)) in enumerate(probes)
            if (problem := _problem(expected[index], index in arrived, index in answered))
        ]

    async def faults(self) -> set[str]:
        """The policies, ``namespace/name``, of which both agents say that something is wrong."""
        told = [(await self.world.rest(number, "policies"))["faults"] for number in (1, 2)]
        assert told[0] == told[1]
        return {f"{each['namespace']}/{each['name']}" for each in told[0]}

    def place(self, key: str) -> tuple[str, str]:
        """A pod's namespace on this machine and its address."""
        thing = self._pods[key]
        return self.world.cluster.sandbox_netns(thing), thing["status"]["podIP"]

    def _seen(self) -> Places:
        ips = {key: (thing["status"]["podIP"],) for key, thing in self._pods.items()}
        return Places(self._places.pods, self._places.hosts, ips=ips)

    def _probes(self, traffic: Sequence[Traffic]) -> list[Probe]:
        """Every pair but hosts between themselves, so ordered that neighbours come from and go to different pods."""
        names = list(self._pods)
        hosts = {name for name, thing in self._pods.items() if thing["spec"].get("hostNetwork")}
        return [
            (source, destination, one)
            for one in traffic
            for shift in range(len(names))
            for place, source in enumerate(names)
            if not {source, destination := names[(place + shift) % len(names)]} <= hosts
            and told_apart(place, (place + shift) % len(names), one)
        ]

    async def _ask(self, command: Object) -> Any:
        assert self._prober.stdin is not None
        assert self._prober.stdout is not None
        self._prober.stdin.write(json.dumps(command).encode() + b"\n")
        async with asyncio.timeout(PROBE_S):
            line = await self._prober.stdout.readline()
        assert line, "the prober ended; its standard error says why"
        return json.loads(line)

    async def told(self, *source: str) -> set[tuple[str, str, str]]:
        """What ``contiv connectivity`` says of the cluster as it is: source, destination and port of all allowed."""
        ports = [text for one in TRAFFIC for text in ("--port", _port(one))]
        argv = [sys.executable, "-m", "contiv.cli.main", "connectivity", *source, *ports, "-o", "json"]
        child = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(PROBE_S):
            output, _ = await child.communicate()
        assert child.returncode == 0
        return {(each["from"], each["to"], each["port"]) for each in json.loads(output)["allowed"]}

    async def lists(self, number: int) -> tuple[set[str], set[str]]:
        """The names of a node's access lists: those of its agent, and those that the analysis of etcd finds."""
        node = self.world.node(number).name
        found = await live.from_etcd(EtcdConfig(endpoints=(self.world.cluster.etcd,)))
        tables = ClusterTables(build(found, load(None)))
        computed = tables.state(node).lists.values()
        names = {table.name for each in computed for table in (*each.input, *each.output)}
        return set((await self.world.rest(number, "policies"))["lists"]), names

    def sources(self) -> list[tuple[str, str]]:
        """The two ways in which ``contiv connectivity`` reads this cluster."""
        return [("--kubeconfig", self.world.cluster.kubeconfig), ("--etcd", self.world.cluster.etcd)]

    def expected(self, case: Case) -> set[tuple[str, str, str]]:
        """The same from the oracle, for the case that was played last."""
        cluster = as_enforced(case.cluster(self._seen()))
        return {(source, to, _port(one)) for (source, to, one), yes in oracle.matrix(cluster, TRAFFIC).items() if yes}

    # ---- objects -----------------------------------------------------------------------------------------

    async def _apply(self, case: Case) -> None:
        """What differs from the case before, everything at once as far as it does not hang together."""
        namespaces = {name: case.relabel.get(name, labels) for name, labels in CAST["namespaces"].items()}
        things = {key_of(thing): thing for thing in case.pod_manifests(self._places)}
        gone = {key for key in self._pods if key not in things or self._manifests[key]["spec"] != things[key]["spec"]}
        fresh = [thing for key, thing in things.items() if key not in self._pods or key in gone]
        await asyncio.gather(
            *(self._label_namespace(name, labels) for name, labels in namespaces.items()),
            *(self._label_pod(key, things[key]["metadata"]["labels"]) for key in self._pods.keys() - gone),
            *(self._delete_pod(key) for key in gone),
            self._apply_policies(case),
        )
        for thing in fresh:  # behind the policies: clause 13
            await self._create_pod(thing)
        places = {
            key: {"netns": self.world.cluster.sandbox_netns(thing), "address": thing["status"]["podIP"]}
            for key, thing in self._pods.items()
        }
        await self._ask({"ends": places})

    async def _label_namespace(self, name: str, labels: Mapping[str, str]) -> None:
        if self._namespaces[name] != labels:
            await self._api.patch(f"/api/v1/namespaces/{name}", _relabel(self._namespaces[name], labels))
            self._namespaces[name] = labels

    async def _label_pod(self, key: str, labels: Mapping[str, str]) -> None:
        if self._labels[key] != labels:
            namespace, _, name = key.partition("/")
            await self._api.patch(f"/api/v1/namespaces/{namespace}/pods/{name}", _relabel(self._labels[key], labels))
            self._labels[key] = labels

    async def _delete_pod(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        await self.world.kubectl("delete", "pod", name, "-n", namespace, "--wait=true")
        del self._pods[key], self._labels[key], self._manifests[key]

    async def _apply_policies(self, case: Case) -> None:
        wanted = {key_of(thing): thing for thing in case.policy_manifests(self._places)}
        for key in self._specs.keys() - wanted.keys():
            await self._delete_policy(key)
        for key, thing in wanted.items():
            if self._specs.get(key) == (case.by, thing["spec"]):
                continue
            if key in self._specs and "etcd" in (self._specs[key][0], case.by):
                await self._delete_policy(key)
            await self._put_policy(key, thing, by=case.by)

    async def _put_policy(self, key: str, thing: Object, *, by: str) -> None:
        namespace, _, name = key.partition("/")
        place = keys.k8s_object("networkpolicies", name, namespace=namespace)
        if by == "etcd":
            stored = reduced(thing)
            assert isinstance(stored, kube.NetworkPolicy)
            await self._etcd.put(place, kube.NETWORK_POLICIES.encode(stored))
            self._stored[place] = stored
        else:
            collection = POLICIES.format(namespace)
            known = key in self._specs
            method, path = ("PUT", f"{collection}/{name}") if known else ("POST", collection)
            self._stored[place] = reduced(await self._api.request(method, path, body=thing))
        self._specs[key] = (by, thing["spec"])

    async def _delete_policy(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        by, _ = self._specs.pop(key)
        place = keys.k8s_object("networkpolicies", name, namespace=namespace)
        del self._stored[place]
        if by == "etcd":
            await self._etcd.delete(place)
        else:
            await self._api.delete(f"{POLICIES.format(namespace)}/{name}")

    # ---- in force ----------------------------------------------------------------------------------------

    async def _in_force(self) -> None:
        """Wait until etcd holds the objects and both agents have done what follows from them."""
        await eventually(self._mirrored, "etcd holds what the API server holds", timeout_s=IN_FORCE_S)
        last = keys.k8s_object("namespaces", f"barrier-{self._barrier}")
        self._barrier += 1
        name = f"barrier-{self._barrier}"
        place = keys.k8s_object("namespaces", name)
        await self._etcd.write({last: None, place: kube.NAMESPACES.encode(kube.Namespace(name=name))})

        async def done() -> bool:
            seen = [await self.world.rest(number, f"events?last={EVENTS_SEEN}") for number in (1, 2)]
            return all(any(place in event["description"] for event in events) for events in seen)

        await eventually(done, "both agents have done with the change", timeout_s=IN_FORCE_S)
        for number in (1, 2):
            unsettled = (await self.world.rest(number, "status"))["unsettled"]
            assert not unsettled, f"node {number}: {unsettled}"

    async def _mirrored(self) -> bool:
        policies = (await self._etcd.get_prefix(keys.k8s_kind("networkpolicies"))).records
        if {key: kube.parse(key, record.value) for key, record in policies.items()} != self._stored:
            return False
        for name, labels in self._namespaces.items():
            held = await self._held(keys.k8s_object("namespaces", name))
            if not isinstance(held, kube.Namespace) or held.labels != {kube.NAMESPACE_NAME_LABEL: name, **labels}:
                return False
        pods = (await self._etcd.get_prefix(keys.k8s_kind("pods"))).records
        held_pods = [kube.PODS.decode(record.value) for record in pods.values()]
        return {oracle.key(pod): (pod.labels, pod.pod_ips) for pod in held_pods} == {
            key: (dict(self._labels[key]), (thing["status"]["podIP"],)) for key, thing in self._pods.items()
        }

    async def _held(self, key: str) -> kube.KubeObject | None:
        record = await self._etcd.get(key)
        return None if record is None else kube.parse(key, record.value)


def _problem(expected: bool, arrived: bool, answered: bool) -> str:
    if expected:
        return "" if answered else "is allowed, and " + ("the answer was lost" if arrived else "did not arrive")
    return "is denied, and arrived" if arrived or answered else ""


def _port(traffic: Traffic) -> str:
    """As ``--port`` takes it."""
    protocol, port = traffic
    return protocol if port is None else f"{port}/{protocol}"


def _relabel(old: Mapping[str, str], new: Mapping[str, str]) -> Object:
    """A merge patch from some labels to others."""
    return {"metadata": {"labels": {**dict.fromkeys(old.keys() - new.keys()), **new}}}


def _empty_case() -> Case:
    return Case("", "", 0, pins=(), policies={}, relabel={}, pods={}, by="api", packets="")
