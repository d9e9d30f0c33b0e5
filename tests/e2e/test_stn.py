"""A node with one NIC: whoever dies, and whatever is taken or given back, it stays reachable."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable

import pytest

from contiv.demo import probe
from contiv.demo.node import Node
from contiv.demo.wire import UPLINK
from contiv.stn.keeper import HOLD_OFF_S
from tests.e2e.conftest import Build
from tests.e2e.session import Session
from tests.e2e.stolen import GIVE_BACK_S, GRACE_S, NicState, Stolen, nic_state, run
from tests.e2e.world import World, eventually, pod

pytestmark = pytest.mark.root

SLACK_S = 12.0
"""Beyond the grace time: TCP waits ever longer before it tries again (RFC 6298), and two cores do all the rest."""
HEALING_S = 12.0
"""Twice what an agent waits before it heals what failed."""
MORE_OF_A_NIC = (
    f"addr add 192.168.16.201/24 brd + dev {UPLINK} label {UPLINK}:web",
    f"addr add 198.51.100.7/28 dev {UPLINK}",
    f"addr add 2001:db8::7/64 dev {UPLINK} nodad",
    f"addr add 2001:db8::8/64 dev {UPLINK} nodad",
    f"route add default via 192.168.16.253 dev {UPLINK} metric 200",
    f"route add 10.50.0.0/16 via 192.168.16.254 dev {UPLINK} src 192.168.16.201 mtu 1400",
    f"route add default via 192.168.16.254 dev {UPLINK} table 100",
    f"route add 192.168.16.0/24 dev {UPLINK} table 100 scope link",
    "rule add from 192.168.16.201 lookup 100 pref 1000",
    f"rule add iif {UPLINK} lookup 100 pref 1001",
    f"-6 route add default via 2001:db8::1 dev {UPLINK} metric 300",
    f"-6 route add 2001:db8:5::/48 via 2001:db8::1 dev {UPLINK} table 100",
    "-6 rule add from 2001:db8::8 lookup 100 pref 1000",
    f"neigh add 192.168.16.20 lladdr 02:00:00:00:00:20 nud permanent dev {UPLINK}",
)
"""What an operator's NIC may have beside an address and a default route; words for ``ip``."""


@pytest.fixture
def dressed(before: dict[str, NicState], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes whose NIC has, before anybody looks at it, all that an operator may give one."""
    start_stn = Node.start_stn

    async def with_more(self: Node) -> None:
        if self.name not in before:
            # the demo's wire has none; without duplicate detection, which would keep addresses tentative for a second
            for key in ("accept_dad", "disable_ipv6"):
                run(self, "sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{UPLINK}/{key}")
            for words in MORE_OF_A_NIC:
                run(self, "ip", *words.split())
        await start_stn(self)

    monkeypatch.setattr(Node, "start_stn", with_more)


async def test_a_session_outlives_steal_release_vpp_and_the_loss_of_everything(
    build: Build, before: dict[str, NicState]
) -> None:
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen = Stolen(world)
        await stolen.confirmed()
        assert nic_state(stolen.node)["addresses"] != before["node-1"]["addresses"]
        async with stolen.session() as session:
            stolen.forget_guard()
            await stolen.node.init.stop()
            await stolen.release()
            await stolen.returned(before["node-1"], timeout_s=GIVE_BACK_S)
            await session.goes_on(timeout_s=SLACK_S)

            async with stolen.session(port=7101) as older_than_the_theft:
                sessions = (session, older_than_the_theft)
                await stolen.node.start_init()
                await eventually(stolen.is_stolen, "stolen again")
                await stolen.confirmed()
                await all_go_on(sessions, timeout_s=SLACK_S)

                os.kill(world.dataplane_pid(1), signal.SIGKILL)
                await eventually(lambda: gone(world), "VPP is gone")
                await all_go_on(sessions, timeout_s=GRACE_S + SLACK_S)
                await stolen.confirmed()

                for pid in (stolen.node.init.pid, world.agent_pid(1), world.dataplane_pid(1)):
                    os.kill(pid, signal.SIGKILL)
                await stolen.node.init.wait()
                lost = time.monotonic()
                await stolen.returned(before["node-1"])
                assert time.monotonic() - lost < GRACE_S + GIVE_BACK_S
                await all_go_on(sessions, timeout_s=SLACK_S)


async def all_go_on(sessions: Iterable[Session], *, timeout_s: float) -> None:
    await asyncio.gather(*(session.goes_on(timeout_s=timeout_s) for session in sessions))


async def gone(world: World) -> bool:
    return not world.has_dataplane(1)


async def test_all_that_a_nic_had_is_there_again_after_a_release_and_after_the_loss_of_everything(
    build: Build, before: dict[str, NicState], dressed: None
) -> None:
    """Several addresses, IPv6, routes in two tables, policy rules, a neighbour: with an agent and a VPP that really
    took them over."""
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen = Stolen(world)
        await stolen.confirmed()
        assert "192.168.16.201" in str(before["node-1"]), "it was dressed before"
        assert "192.168.16.201" not in str(nic_state(stolen.node)["addresses"])
        stolen.forget_guard()
        await stolen.node.init.stop()
        await stolen.release()
        await stolen.returned(before["node-1"], timeout_s=GIVE_BACK_S)

        await stolen.node.start_init()
        await eventually(stolen.is_stolen, "stolen again")
        await stolen.confirmed()
        await stolen.kill_init()
        await stolen.returned(before["node-1"])


async def test_a_vswitch_that_is_late_leaves_alone_what_the_kernel_has_again(
    build: Build, before: dict[str, NicState]
) -> None:
    """The agent sleeps through the grace time. Awake, it has a VPP, a pod to wire, and a NIC that is held back."""
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen, agent = Stolen(world), world.agent_pid(1)
        await stolen.confirmed()
        async with stolen.reachable() as reachable:
            os.kill(agent, signal.SIGSTOP)
            os.kill(world.dataplane_pid(1), signal.SIGKILL)
            await stolen.returned(before["node-1"])
            await reachable.again(timeout_s=GIVE_BACK_S)
            returned = time.monotonic()
            os.kill(agent, signal.SIGCONT)
            await world.cluster.create(pod("late", node=1))
            await asyncio.sleep(HEALING_S)
            assert reachable.longest_silence_s(since=returned) < 2.0
            assert nic_state(stolen.node) == before["node-1"]
            await stolen.confirmed(timeout_s=HOLD_OFF_S + GRACE_S)
        await world.running({"default/late"})


@pytest.mark.parametrize("victim", ["stn", "agent", "init"])
async def test_who_is_killed_is_replaced_and_the_node_stays_reachable(build: Build, victim: str) -> None:
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen = Stolen(world)
        await stolen.confirmed()
        async with stolen.session() as session:
            struck = time.monotonic()
            if victim == "agent":
                os.kill(world.agent_pid(1), signal.SIGKILL)
            elif victim == "init":
                await stolen.kill_init()
                await stolen.node.start_init()
            else:
                await stolen.kill_stn()
                await stolen.start_stn()
            await session.goes_on(timeout_s=GRACE_S + SLACK_S)
            await asyncio.sleep(GRACE_S + 1)  # whoever waits for a confirmation has given up by now
            await session.goes_on(timeout_s=SLACK_S)
            if victim != "init":
                assert session.longest_silence_s(since=struck) < 1.0  # VPP forwards on
        outside = stolen.outside.netns
        assert await probe.first_reply(world.cluster.workers, outside, stolen.address, timeout_s=5.0)


async def test_a_vpp_that_does_not_start_leaves_the_nic_to_the_kernel(
    build: Build, before: dict[str, NicState]
) -> None:
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen = Stolen(world)
        await stolen.confirmed()
        async with stolen.session() as session:
            # from now on no data plane gets its socket: its directory is a file
            place = stolen.node.directory / "vpp"
            place.rename(place.with_name("vpp-away"))
            place.write_text("")
            os.kill(world.dataplane_pid(1), signal.SIGKILL)
            await stolen.returned(before["node-1"])
            await session.goes_on(timeout_s=SLACK_S)
