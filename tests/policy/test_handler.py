"""The capability in the event loop's hands: resyncs, reverts before and after the commit, faults told once."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from structlog.testing import capture_logs

from contiv.controller.cluster import ClusterResync, ClusterState, EtcdChange, KubeChange
from contiv.controller.event import Event, FullResync
from contiv.controller.handler import Commit
from contiv.fastpath import acl
from contiv.model import kube, vpp
from contiv.model.ip import Address
from contiv.model.node import Attachment
from contiv.model.service import Backend, Frontend, FrontendKey
from contiv.policy.handler import JUDGED_BY, PolicyHandler
from contiv.policy.tables import NodeView
from tests.policy.test_state import cluster, from_pods, labelled, pod, policy
from tests.policy.worlds import NODE_PLACES, attachment, view

WEB = "vpp/acl-interface/a-web"
COMMITTED = Commit((), (), {}, None)


class Add(Event, frozen=True):
    """Stands for the network's events."""

    name_: str


class World:
    """The handler, and what the handlers before it hold."""

    def __init__(self, *objects: kube.KubeObject, reflected: frozenset[str] = JUDGED_BY) -> None:
        self.attachments: dict[str, Attachment] = {}
        self.node = view("n1")
        self.services: dict[FrontendKey, Frontend] = {}
        self.frontends_version = 0
        self.state = ClusterState()
        self.pushed: list[Event] = []
        self.handler = PolicyHandler(
            lambda: self.node, attachments=lambda: self.attachments, push=self.pushed.append, services=self
        )
        self.keys: dict[str, object] = {}
        self.resync(*objects, reflected=reflected)

    def frontends(self) -> Mapping[FrontendKey, Frontend]:
        return self.services

    def resync(self, *objects: kube.KubeObject, reflected: frozenset[str] = JUDGED_BY) -> None:
        by_key = {kube_key(each): each for each in objects}
        event = ClusterResync(objects=by_key, claims={}, attachments={}, reason="test", reflected=reflected)
        self.state.apply(event)
        self.keys = dict(self.handler.resync(event, self.state))

    def take(self, changes: Mapping[str, object | None]) -> set[str]:
        for key, value in changes.items():
            if value is None:
                del self.keys[key]
            else:
                self.keys[key] = value
        return set(changes)

    def tell(self, event: Event) -> set[str]:
        assert self.handler.handles(event)
        return self.take(self.handler.update(event))

    def put(self, new: kube.KubeObject) -> set[str]:
        event = KubeChange(key=kube_key(new), old=self.state.objects.get(kube_key(new)), new=new)
        self.state.apply(event)
        return self.tell(event)

    def attach(self, name: str, number: int) -> Add:
        here = attachment(pod(name, number))
        assert here is not None
        self.attachments[name] = here
        event = Add(name)
        self.tell(event)
        return event

    async def commit(self) -> None:
        """The transaction is done, and what it pushed too."""
        await self.handler.after_commit(COMMITTED)
        while self.pushed:
            self.tell(self.pushed.pop(0))

    def lists(self, key: str = WEB) -> vpp.AclInterface:
        value = self.keys[key]
        assert isinstance(value, vpp.AclInterface)
        return value


def open_places(*pods: str) -> dict[str, vpp.AclInterface]:
    """All keys when these pods and nobody else are attached, and nothing is isolated."""
    return {vpp.acl_interface_key(name): vpp.AclInterface(interface=name) for name in (*NODE_PLACES, *pods)}


def kube_key(each: kube.KubeObject) -> str:
    kind = next(kind for kind in kube.KINDS if isinstance(each, kind.model))
    return kind.key_of(each)  # type: ignore[arg-type]


def test_every_attached_pod_has_a_place_for_lists_from_the_same_transaction_on() -> None:
    world = World(*cluster())
    world.attach("web", 2)
    assert world.lists() == vpp.AclInterface(interface="a-web"), "known and open"
    world.attach("unknown", 9)
    assert world.lists("vpp/acl-interface/a-unknown").input, "isolated"
    named = {*world.lists("vpp/acl-interface/a-unknown").input, *world.lists("vpp/acl-interface/a-unknown").output}
    assert {f"vpp/acl/{name}" for name in named} <= world.keys.keys()
    del world.attachments["unknown"]
    world.tell(Add("left"))
    assert world.keys == open_places("a-web")


def test_all_is_isolated_until_ksr_has_reflected_what_judges_and_a_resync_opens() -> None:
    world = World(*cluster(), reflected=JUDGED_BY - {"networkpolicies"})
    world.attach("web", 2)
    assert world.lists().input
    world.resync(*cluster())
    assert world.keys == open_places("a-web")


async def test_a_resync_gives_what_the_events_had_given() -> None:
    things = cluster(policy("p", policy_types=("Ingress", "Egress"), ingress=from_pods(app="db")))
    world = World(*things)
    world.attach("web", 2)
    world.attach("db", 3)
    world.put(pod("far", 2, node="n2", app="db"))
    await world.commit()
    before = dict(world.keys)
    assert dict(world.handler.resync(FullResync(reason="test"), world.state)) == before


@pytest.mark.parametrize("committed", [False, True], ids=["handlers failed", "persisting failed"])
async def test_a_reverted_attachment_leaves_nothing_and_its_repetition_is_a_new_one(*, committed: bool) -> None:
    world = World(*cluster())
    world.attach("web", 2)
    await world.handler.after_commit(COMMITTED)
    before = dict(world.keys)
    event = world.attach("new", 9)
    if committed:
        await world.handler.after_commit(COMMITTED)
    world.take(world.handler.revert(event))
    assert world.keys == before
    world.tell(Add("another event while the network still holds it"))
    assert world.keys == before
    del world.attachments["new"]
    await world.handler.after_commit(COMMITTED)
    again = world.attach("new", 9)
    assert "vpp/acl-interface/a-new" in world.keys
    del again


async def test_a_new_pod_reaches_services_only_after_all_lists_that_judge_it_there_are_committed() -> None:
    world = World(*cluster(policy("p", policy_types=("Egress",), subject=labelled(app="web"))))
    world.attach("db", 3)
    await world.handler.after_commit(COMMITTED)
    assert world.pushed == [], "an open pod needs no second look"
    world.attach("web", 2)

    def reaches_services() -> bool:
        tables = world.handler.state.lists["a-web"].input
        return bool(acl.evaluate_lists(tables, "10.1.1.2", "10.96.0.9", 6, 40000, 80).action)

    assert not reaches_services()
    await world.handler.after_commit(COMMITTED)
    (event,) = world.pushed
    world.attach("other", 4)
    assert not reaches_services()
    assert WEB in world.tell(event)
    assert reaches_services()
    world.handler.resync(FullResync(reason="test"), world.state)
    assert reaches_services(), "what runs goes on"


async def test_a_pod_that_becomes_known_reaches_services_only_one_transaction_later() -> None:
    isolating = policy("p", policy_types=("Egress",))
    world = World(kube.Namespace(name="a"), isolating)
    world.attach("web", 2)
    await world.commit()
    tables = lambda: world.handler.state.lists["a-web"].input  # noqa: E731
    ask = lambda: acl.evaluate_lists(tables(), "10.1.1.2", "10.96.0.9", 6, 1, 80).action  # noqa: E731
    assert not ask()
    world.put(pod("web", 2, app="web"))
    assert "vpp/acl-interface/bvi" in world.keys
    assert not ask()
    await world.commit()
    assert ask()


async def test_pods_that_came_while_etcd_was_away_stay_open_over_the_resync_when_it_is_back() -> None:
    world = World(kube.Namespace(name="a"), kube.Namespace(name="b"), policy("p", namespace="b", ingress=()))
    world.tell(EtcdChange(away=True))
    world.attach("web", 2)
    other = attachment(pod("shut", 3, namespace="b"))
    assert other is not None
    world.attachments["shut"] = other
    world.tell(Add("shut"))
    await world.commit()
    for _ in range(2):  # an agent that starts from its mirror; etcd that is back
        assert world.lists() == vpp.AclInterface(interface="a-web")
        assert world.lists("vpp/acl-interface/b-shut").input
        told = {each["pod"]: (each["known"], each["presumed"]) for each in world.handler.report(lines=False)["pods"]}
        assert told == {"web": (False, True), "shut": (False, False)}
        world.resync(*world.state.objects.values())
    world.resync(*cluster())
    assert world.lists() == vpp.AclInterface(interface="a-web")
    assert not any(each["presumed"] for each in world.handler.report(lines=False)["pods"])


def test_a_revert_of_an_event_that_attached_nothing_takes_nothing_back() -> None:
    world = World(*cluster())
    world.attach("web", 2)
    repeated = Add("web")
    world.tell(repeated)
    world.take(world.handler.revert(repeated))
    assert WEB in world.keys


async def test_services_are_read_again_when_they_changed() -> None:
    world = World(*cluster(policy("p", policy_types=("Egress",))))
    world.attach("web", 2)
    await world.commit()
    closed = world.lists()
    backend = Backend(Address.parse("10.1.1.3"), 80)
    there = Address.parse("198.51.100.9")
    shown = Frontend(address=there, port=80, protocol=6, service="a/s", client_hidden=False, backends=(backend,))
    world.services[shown.key] = shown
    world.frontends_version += 1
    service = kube.Service(
        namespace="a", name="s", type="ClusterIP", internal_traffic_policy="Cluster",
        external_traffic_policy="Cluster", session_affinity="None",
    )  # fmt: skip
    assert WEB in world.put(service)
    assert world.lists() != closed
    assert world.put(msgspec.structs.replace(service, uid="other")) == set()


def test_a_node_that_gets_its_address_late_exempts_it_from_then_on() -> None:
    world = World(*cluster(policy("p", ingress=())))
    world.attach("web", 2)
    before = world.lists()
    view_: NodeView = world.node
    world.node = msgspec.structs.replace(view_, addresses=(*view_.addresses, Address.parse("203.0.113.5")))
    assert WEB in world.tell(Add("lease"))
    assert world.lists() != before


def test_faults_are_logged_once_with_object_and_field_and_their_end_too() -> None:
    bad = policy("bad", ingress=(kube.IngressRule(peers=(kube.PolicyPeer(),)),))
    with capture_logs() as logs:
        world = World(*cluster(bad))
        world.put(pod("other", 7, node="n2"))
        world.put(policy("bad", ingress=()))
    told = [(each["event"], each["object"], each["field"]) for each in logs if "object" in each]
    field = "spec.ingress[0].from[0]"
    assert told == [("bad object", "a/bad", field), ("object mended", "a/bad", field)]


def test_the_report_names_pods_policies_lists_and_faults() -> None:
    rule = kube.IngressRule(peers=(kube.PolicyPeer(),))
    bad = policy("bad", policy_types=("Ingress", "Egress"), ingress=(rule,), subject=labelled(app="web"))
    world = World(*cluster(bad))
    world.attach("web", 2)
    world.attach("db", 3)
    world.attach("unknown", 9)
    report = msgspec.json.decode(msgspec.json.encode(world.handler.report(lines=True)))
    told = {each["pod"]: (each["known"], each["isolated"], each["policies"]) for each in report["pods"]}
    assert told == {
        "web": (True, ["Ingress", "Egress"], ["a/bad"]),
        "db": (True, [], []),
        "unknown": (False, ["Ingress", "Egress"], []),
    }
    assert [(each["name"], each["field"]) for each in report["faults"]] == [("bad", "spec.ingress[0].from[0]")]
    (entry,) = [each for each in report["pods"] if each["pod"] == "web"]
    assert report["lists"][entry["output"][-1]][-1].startswith("deny")
    assert (report["complete"], report["policies"], set(report["interfaces"])) == (True, 1, {"bvi", "host"})
