"""contiv.agent.cni: CNI requests become events, and what goes wrong with these becomes a code that kubelet knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contiv.agent.cni import CODE_DATA_PLANE, Handler
from contiv.cni import model as cni
from contiv.controller.event import ControllerStoppedError, Event, HandlerError, QueueFullError
from contiv.errors import CniError, ContivError, LinuxError, StoreError
from contiv.model.ip import Address, Network
from contiv.network.events import AddPod, DeletePod
from contiv.network.ipam import PodPool
from contiv.network.state import CNI_CODE_IN_USE, CNI_CODE_NO_ADDRESS, NetworkState
from contiv.scheduler.errors import OperationError
from tests.network.test_state import a_state

DNS = cni.Dns(nameservers=("10.96.0.10",))


class Agent:
    """A controller as far as CNI sees one: events go into a real state, or fail as they are told to."""

    def __init__(self) -> None:
        self.state: NetworkState = a_state()
        self.events: list[Event] = []
        self.fails: dict[type[Event], BaseException] = {}
        self.problem: str | None = None
        self.handler = Handler(self._call, self.state, lambda: self.problem)

    async def _call(self, event: Event) -> Any:
        self.events.append(event)
        await asyncio.sleep(0)
        if type(event) in self.fails:
            raise self.fails[type(event)]
        match event:
            case AddPod():
                return self.state.add_pod(event.request)[0]
            case DeletePod():
                return self.state.delete_pod(event.container_id, event.if_name)[0]
        raise AssertionError(event)


@pytest.fixture
def agent() -> Agent:
    return Agent()


def add(container: str = "c1", *, netns: str = "/var/run/netns/p1") -> cni.AddRequest:
    return cni.AddRequest(
        cni_version="1.1.0",
        container_id=container,
        netns=netns,
        ifname="eth0",
        network="contiv",
        pod=cni.PodRef(namespace="default", name="p1", uid="u"),
        path="/opt/cni/bin",
        runtime=cni.RuntimeConfig(),
        dns=DNS,
        deadline_s=None,
        raw_config=b"{}",
    )


def delete(container: str = "c1") -> cni.DelRequest:
    return cni.DelRequest(
        cni_version="1.1.0", container_id=container, netns="", ifname="eth0", network="contiv", pod=cni.PodRef(),
        previous=None, deadline_s=None,
    )  # fmt: skip


def check(previous: cni.AddResult, container: str = "c1", *, netns: str = "/var/run/netns/p1") -> cni.CheckRequest:
    return cni.CheckRequest(
        cni_version="1.1.0", container_id=container, netns=netns, ifname="eth0", network="contiv", pod=cni.PodRef(),
        previous=previous, deadline_s=None,
    )  # fmt: skip


def status() -> cni.StatusRequest:
    return cni.StatusRequest(cni_version="1.1.0", network="contiv", deadline_s=None)


def gc(*valid: str) -> cni.GcRequest:
    kept = frozenset(cni.Attachment(container, "eth0") for container in valid)
    return cni.GcRequest(cni_version="1.1.0", network="contiv", valid=kept, deadline_s=None)


async def code_of(work: Awaitable[object]) -> int:
    with pytest.raises(CniError) as refused:
        await work
    assert refused.value.details
    return refused.value.code


async def test_an_add_answers_with_address_gateway_route_and_mac(agent: Agent) -> None:
    result = await agent.handler.add(add())
    attachment = agent.state.attachments["c1/eth0"]
    (interface,) = result.interfaces
    assert (interface.name, interface.mac, interface.sandbox) == ("eth0", attachment.pod_mac, "/var/run/netns/p1")
    (address,) = result.ips
    assert str(address.address) == f"{attachment.address}/32"
    assert address.gateway == agent.state.node.pod_gateway
    assert address.interface == 0
    (route,) = result.routes
    assert (route.dst, route.gw) == (Network(4, 0, 0), agent.state.node.pod_gateway)
    assert result.dns == DNS
    assert await agent.handler.add(add()) == result


WRONG: list[tuple[Callable[[], ContivError], int]] = [
    (lambda: QueueFullError("AddPod", 1000), cni.TRY_AGAIN_LATER),
    (lambda: ControllerStoppedError("AddPod"), cni.TRY_AGAIN_LATER),
    (lambda: raised(StoreError("etcd is down"), "persist"), cni.TRY_AGAIN_LATER),
    (lambda: raised(CniError(CNI_CODE_NO_ADDRESS, "full", details="all in use"), "update"), CNI_CODE_NO_ADDRESS),
    (lambda: raised(CniError(CNI_CODE_IN_USE, "twice", details="delete it"), "update"), CNI_CODE_IN_USE),
    (lambda: OperationError("vpp/route/x", "create", LinuxError("no")), CODE_DATA_PLANE),
    (lambda: LinuxError("no"), cni.TRY_AGAIN_LATER),
]


def raised(cause: ContivError, step: str) -> HandlerError:
    error = HandlerError("network", step, "AddPod", cause)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(("make", "code"), WRONG)
async def test_what_fails_becomes_the_code_that_kubelet_knows(
    agent: Agent, make: Callable[[], ContivError], code: int
) -> None:
    agent.fails = {AddPod: make(), DeletePod: make()}
    assert await code_of(agent.handler.add(add())) == code
    assert await code_of(agent.handler.delete(delete())) == code


async def test_a_bug_is_not_dressed_up_as_a_refusal(agent: Agent) -> None:
    agent.fails = {AddPod: ZeroDivisionError()}
    with pytest.raises(ZeroDivisionError):
        await agent.handler.add(add())


async def test_without_a_data_plane_nothing_is_asked_of_the_loop(agent: Agent) -> None:
    agent.problem = "VPP is not connected"
    for work in (agent.handler.add(add()), agent.handler.delete(delete()), agent.handler.gc(gc())):
        assert await code_of(work) == cni.TRY_AGAIN_LATER
    assert await code_of(agent.handler.status(status())) == cni.LIMITED_CONNECTIVITY
    assert agent.events == []


async def test_a_pool_without_addresses_shows_in_status_but_not_to_pods_that_run(agent: Agent) -> None:
    await agent.handler.status(status())
    agent.state.pool = PodPool(Network.parse("10.1.1.0/29"))
    for number in range(agent.state.pool.capacity):
        await agent.handler.add(add(f"c{number}"))
    assert await code_of(agent.handler.status(status())) == cni.NOT_AVAILABLE


async def test_a_delete_of_the_unknown_succeeds(agent: Agent) -> None:
    await agent.handler.delete(delete("never"))


async def test_a_check_compares_address_and_namespace(agent: Agent) -> None:
    result = await agent.handler.add(add())
    await agent.handler.check(check(result))
    assert await code_of(agent.handler.check(check(result, "other"))) == cni.UNKNOWN_CONTAINER
    assert await code_of(agent.handler.check(check(result, netns="/var/run/netns/p2"))) == CODE_DATA_PLANE
    elsewhere = cni.AddResult(ips=(cni.CniAddress(address=Address.parse("10.9.9.9").host_network),))
    assert await code_of(agent.handler.check(check(elsewhere))) == CODE_DATA_PLANE


async def test_a_gc_detaches_what_the_runtime_does_not_know_and_nothing_else(agent: Agent) -> None:
    for number in range(4):
        await agent.handler.add(add(f"c{number}"))
    await agent.handler.gc(gc("c1", "c3", "stranger"))
    assert sorted(agent.state.attachments) == ["c1/eth0", "c3/eth0"]
    await agent.handler.gc(gc())
    assert agent.state.attachments == {}


async def test_a_gc_tries_all_and_names_those_that_it_could_not_remove(agent: Agent) -> None:
    for number in range(3):
        await agent.handler.add(add(f"c{number}"))
    agent.fails = {DeletePod: OperationError("vpp/route/x", "delete", LinuxError("no"))}
    with pytest.raises(CniError) as refused:
        await agent.handler.gc(gc("c0"))
    assert refused.value.code == CODE_DATA_PLANE
    assert all(name in refused.value.details for name in ("c1/eth0", "c2/eth0"))
    assert sum(isinstance(event, DeletePod) for event in agent.events) == 2
