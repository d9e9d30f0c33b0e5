"""The handler's seat: which events it takes, what it hands on, and what it does when another capability takes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from contiv.controller.cluster import ClusterResync, ClusterState, KubeChange
from contiv.controller.event import Event
from contiv.controller.handler import Commit
from contiv.model import kube
from contiv.service.handler import CompareInterfaces, ServiceHandler
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.renderer import Options
from contiv.service.state import HealthCheck, ServiceState
from tests.service.builders import NODE, endpoint, port, service, slice_


class PodsChanged(Event, frozen=True):
    """Some event of another capability."""


class Health:
    """Remembers what it was told to serve."""

    def __init__(self) -> None:
        self.checks: dict[int, HealthCheck] = {}

    async def apply(self, checks: Mapping[int, HealthCheck]) -> None:
        """Take the checks."""
        self.checks = dict(checks)


class Seat:
    """A handler with everything around it in plain sight."""

    def __init__(self, *objects: Any) -> None:
        self.cluster = ClusterState()
        self.interfaces: set[str] = set()
        self.view = NODE
        self.health = Health()
        self.pushed: list[Event] = []
        self.handler = ServiceHandler(
            ServiceState(NODE, Nat44Renderer(Options())),
            view=lambda: self.view,
            interfaces=lambda: self.interfaces,
            health=self.health,
            push=self.pushed.append,
        )
        stored = {kube.kind_of(key).key_of(each): each for key, each in map(keyed, objects)}
        event = ClusterResync(objects=stored, claims={}, attachments={}, reason="test")
        self.cluster.apply(event)
        self.desired = dict(self.handler.resync(event, self.cluster))

    def change(self, old: Any, new: Any) -> dict[str, Any]:
        """An object was written or removed; None where the handler does not want to know."""
        event = KubeChange(key=keyed(new or old)[0], old=old, new=new)
        self.cluster.apply(event)
        return dict(self.handler.update(event)) if self.handler.handles(event) else {}

    async def commit(self, *, reverted: tuple[Event, ...] = ()) -> None:
        """The transaction is done."""
        await self.handler.after_commit(Commit(events=(), reverted=reverted, changes={}, outcome=None))


def keyed(value: Any) -> tuple[str, Any]:
    """An object with its key."""
    kind = next(kind for kind in kube.KINDS if isinstance(value, kind.model))
    return kind.key_of(value), value


def test_objects_become_keys_and_leave_none() -> None:
    seat = Seat(service(), slice_(endpoint("10.1.2.5")))
    assert "vpp/nat-mapping/6/10.96.0.10/80" in seat.desired
    assert seat.change(service(), None) == {"vpp/nat-mapping/6/10.96.0.10/80": None}
    again = seat.change(None, service())
    assert again == {"vpp/nat-mapping/6/10.96.0.10/80": seat.desired["vpp/nat-mapping/6/10.96.0.10/80"]}


def test_other_nodes_and_pods_are_not_its_affair() -> None:
    seat = Seat()
    for other in (kube.Node(name="node-2"), kube.Pod(namespace="default", name="p")):
        assert not seat.handler.handles(KubeChange(key=keyed(other)[0], old=None, new=other))


def test_the_own_nodes_addresses_and_zone_are() -> None:
    web = service(type="NodePort", ports=[port(node_port=30080)])
    seat = Seat(web, slice_(endpoint("10.1.2.5")))
    named = kube.Node(name="node-1", addresses=(kube.NodeAddress(type="ExternalIP", address="198.51.100.1"),))
    assert list(seat.change(None, named)) == ["vpp/nat-mapping/6/198.51.100.1/30080"]
    assert seat.change(named, None) == {"vpp/nat-mapping/6/198.51.100.1/30080": None}
    seat.view = msgspec.structs.replace(NODE, snat_interface=None)
    changes = seat.handler.update(PodsChanged())
    assert changes["vpp/nat-interface/uplink"] is None


def test_a_pod_without_host_ports_is_not_even_looked_at() -> None:
    ports = (kube.ContainerPort(container="c", port=80, protocol="TCP"),)
    here = kube.Pod(namespace="default", name="p", node_name="node-1", pod_ips=("10.1.1.9",), ports=ports)
    seat = Seat(here)
    assert not seat.handler.handles(KubeChange(key=keyed(here)[0], old=None, new=here))
    assert not seat.handler.handles(KubeChange(key=keyed(here)[0], old=here, new=None))
    assert seat.handler.state.services() == []


def test_own_pods_with_host_ports_are_too() -> None:
    ports = (kube.ContainerPort(container="c", port=80, protocol="TCP", host_port=8080),)
    here = kube.Pod(namespace="default", name="p", node_name="node-1", pod_ips=("10.1.1.9",), ports=ports)
    seat = Seat(here)
    assert "vpp/nat-mapping/6/192.168.16.1/8080" in seat.desired
    assert seat.change(here, None)["vpp/nat-mapping/6/192.168.16.1/8080"] is None
    there = msgspec.structs.replace(here, node_name="node-2")
    assert not seat.handler.handles(KubeChange(key=keyed(there)[0], old=None, new=there))


def test_pods_interfaces_get_their_features_with_the_event_that_made_them() -> None:
    seat = Seat()
    seat.interfaces.add("pod1")
    assert seat.handler.handles(PodsChanged())
    assert list(seat.handler.update(PodsChanged())) == ["vpp/nat-interface/pod1"]
    assert seat.handler.update(PodsChanged()) == {}
    seat.interfaces = set()
    assert seat.handler.update(PodsChanged()) == {"vpp/nat-interface/pod1": None}


async def test_what_the_network_takes_back_later_is_looked_at_again() -> None:
    seat = Seat()
    seat.interfaces.add("pod1")
    seat.handler.update(PodsChanged())
    seat.interfaces.clear()  # handlers are reverted in the opposite order: this one first
    await seat.commit(reverted=(PodsChanged(),))
    assert seat.pushed == [CompareInterfaces()]
    assert seat.handler.update(seat.pushed[0]) == {"vpp/nat-interface/pod1": None}
    await seat.commit(reverted=(PodsChanged(),))
    assert len(seat.pushed) == 1


async def test_load_balancers_learn_after_the_commit() -> None:
    web = service(type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=32000)
    seat = Seat(web, slice_(endpoint("10.1.1.5", node="node-1")))
    assert seat.health.checks == {}
    await seat.commit()
    assert seat.health.checks == {32000: HealthCheck("default/web", 1)}
