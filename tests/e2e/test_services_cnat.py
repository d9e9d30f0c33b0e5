"""Services by CNAT (``serviceRenderer: cnat``) on two nodes, with VPP alone: the emulator has no CNAT.

The table is that of ``service_truth``. One kind of case comes out better than with NAT44-ED, for which it was written:
a UDP client outside hears from a node port that there is nobody.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contiv.vpp.lifecycle import find_vpp
from tests.e2e import service_truth as truth
from tests.e2e import services
from tests.e2e.conftest import Build
from tests.e2e.service_truth import REFUSED, SILENT, Case
from tests.e2e.services import apply, outside, server, serves, service, stored
from tests.e2e.test_services_truth import (
    SILENCE_S,
    Stage,
    _ask_held,
    bare,
    health_checks,
    play,
    prepare,
    replace_endpoints,
)
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root
CNAT = {"serviceRenderer": "cnat"}
RESTART_S = 60.0


@pytest.fixture(params=[pytest.param("vpp", marks=pytest.mark.vpp)])
def dataplane(request: pytest.FixtureRequest) -> str:
    """Skips visibly without VPP."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if find_vpp() is None:
        pytest.skip("no VPP is installed, and the emulator has no CNAT")
    return str(request.param)


async def test_every_case(build: Build) -> None:
    async with build(2, CNAT) as world:
        stage = await prepare(world)
        wrong = await play(stage, [told_apart(case) for case in truth.cases()])
        assert not wrong, "\n".join(wrong)
        await health_checks(stage)
        await a_socket_moves_on(stage)
        await one_of_four_leaves(stage)


def told_apart(case: Case) -> Case:
    """CNAT's own answer where the table has NAT44-ED's."""
    silent_refusal = case.point == 10 and case.protocol == "UDP" and case.wanted == SILENT
    return case._replace(wanted=REFUSED) if silent_refusal else case


async def a_socket_moves_on(stage: Stage) -> None:
    """A UDP socket whose backend has left is answered by another; CNAT says where it is."""
    target = stage.services["own"]["spec"]["clusterIP"], 53
    client = stage.namespaces["client2"]
    kept = await stage.world.cluster.workers.inside(client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with kept:
        kept.settimeout(SILENCE_S)
        kept.connect(target)

        async def served_by(name: str) -> bool:
            asked = await stage.world.cluster.workers.inside(client, lambda: services.still_answers(kept))
            sessions = (await stage.world.rest(2, "services?sessions=1"))["sessions"]
            mine = f"{stage.addresses['client2']}:{kept.getsockname()[1]}"
            backends = {each["backend"] for each in sessions if each["client"] == mine}
            return asked and backends == {f"{stage.addresses[name]}:8080"}

        await eventually(lambda: served_by("s1"), "the first backend answers")
        await replace_endpoints(stage, "own", "t2")
        await eventually(lambda: served_by("t2"), "the socket is served by the new backend")


async def one_of_four_leaves(stage: Stage) -> None:
    """Connections to the others never notice; those to it end when CNAT's scanner has come by; none is new."""
    target = stage.services["plain"]["spec"]["clusterIP"], 80
    client = stage.namespaces["client1"]

    def hold() -> list[socket.socket]:
        return [socket.create_connection(target, timeout=services.TIMEOUT_S) for _ in range(24)]

    held = await stage.world.cluster.workers.inside(client, hold)
    try:
        await replace_endpoints(stage, "plain", "s2", "t1", "t2")

        async def gone() -> bool:
            servers = await services.gather(stage.world, client, *target, count=40)
            sessions = (await stage.world.rest(1, "services?sessions=1"))["sessions"]
            mine = [each for each in sessions if each["frontend"] == f"{target[0]}:{target[1]}"]
            left = any(each["backend"].startswith(f"{stage.addresses['s1']}:") for each in mine)
            return bool(mine) and not left and set(servers) == {"s2", "t1", "t2"}

        await eventually(gone, "neither a new nor an old connection reaches the backend that left")
        answers = Counter([await asyncio.to_thread(_ask_held, connection) for connection in held])
        assert set(answers) <= {"s2", "t1", "t2", "lost"}, answers
        assert set(answers) >= {"s2", "t1", "t2"}
        assert answers["lost"] <= 16, "six of 24 expected at the backend that left, deviation 2.1"
    finally:
        for connection in held:
            connection.close()


async def test_isolation_restarts_and_another_renderer(build: Build) -> None:
    async with build(2, CNAT) as world:
        running = await world.create_pods(
            [server("web-1", node=1), server("web-2", node=2), server("shy", node=1, app="shy")]
        )
        pods = {name.partition("/")[2]: pod for name, pod in running.items()}
        client = world.cluster.sandbox_netns(await world.create_pod("client", node=1))
        await apply(
            world, service("web", type="NodePort"), service("shy", app="shy", type="NodePort"), only_from(client="shy")
        )
        vips = {name: (await stored(world, name))["spec"]["clusterIP"] for name in ("web", "shy")}
        await serves(world, client, vips["web"], 80)
        shy, strangers = world.cluster.sandbox_netns(pods["shy"]), (client, await outside(world))
        await isolation_holds(world, vips["shy"], shy=shy, strangers=strangers)
        assert (await services.get(world, client, address(pods["web-2"]), 8080)).server == "web-2"

        def connect() -> socket.socket:
            return socket.create_connection((vips["web"], 80), timeout=services.TIMEOUT_S)

        connection = await world.cluster.workers.inside(client, connect)
        with connection:
            await world.settled()
            await kill_agent(world, 1)
            first = (await world.rest_when_back(1, "transactions"))[0]
            assert (first["resync"], first.get("operations", [])) == ("full", [])
            connection.sendall(b"still there?")
            connection.settimeout(services.TIMEOUT_S)
            assert connection.recv(64) == b"still there?"
        await kill_dataplane(world, 1)
        await serves(world, client, vips["web"], 80, timeout_s=RESTART_S)
        await world.settled()
        await isolation_holds(world, vips["shy"], shy=shy, strangers=strangers)
        await renders_by(world, 1, "nat44")
        assert set(await services.gather(world, client, vips["web"], 80, count=20)) == {"web-1", "web-2"}
        await renders_by(world, 1, "cnat")
        assert set(await services.gather(world, client, vips["web"], 80, count=20)) == {"web-1", "web-2"}


def only_from(*, client: str) -> dict[str, Any]:
    """A policy that lets nobody in to the pods ``app: client`` but pods that do not exist."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "shy", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": client}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}],
        },
    }


async def isolation_holds(world: World, vip: str, *, shy: str, strangers: tuple[str, ...]) -> None:
    """No stranger gets in by the service; the pod itself does."""
    port = (await stored(world, "shy"))["spec"]["ports"][0]["nodePort"]
    node = bare((await world.rest(1, "status"))["node"]["uplink"])
    await serves(world, shy, vip, 80)
    for namespace in strangers:
        for target in ((vip, 80), (node, port)):
            assert (await services.get(world, namespace, *target)).error in ("timeout", "unreachable")


async def kill_agent(world: World, number: int) -> None:
    killed = world.agent_pid(number)
    os.kill(killed, signal.SIGKILL)

    async def replaced() -> bool:
        return killed not in world.children_of(number) and world.has_agent(number)

    await eventually(replaced, "init starts another agent")


async def kill_dataplane(world: World, number: int) -> None:
    killed = world.dataplane_pid(number)
    os.kill(killed, signal.SIGKILL)

    async def replaced() -> bool:
        return killed not in world.children_of(number) and world.has_dataplane(number)

    await eventually(replaced, "init starts another data plane")


async def renders_by(world: World, number: int, renderer: str) -> None:
    """Have a node's agent translate another way; what the former way made in VPP is gone when this returns."""
    place = Path(world.node(number).directory) / "contiv.yaml"
    former = {"nat44": "cnat", "cnat": "nat44"}[renderer]
    text = place.read_text()
    assert former in text
    place.write_text(text.replace(former, renderer))
    await kill_agent(world, number)
    await world.rest_when_back(number, "transactions")

    async def cleaned() -> bool:
        async with world.vpp(number) as api:
            if renderer == "nat44":
                return not await api.dump("cnat_translation")
            return not await api.dump("nat44_lb_static_mapping") and not await api.dump("nat44_interface")

    await eventually(cleaned, f"nothing of {former} is left", timeout_s=RESTART_S)
    await world.settled()
    assert (await world.rest(number, "diff"))["operations"] == []
