"""STN, init, agent and VPP killed at every step of taking the NIC and of giving it back: the node is never unreachable
for longer than the grace time, and whatever happened, the kernel can have back exactly what it had. ``make test-slow``;
``tests/stn/test_keeper.py`` has the daemon's part of it with a stand-in for VPP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contiv.demo import commands
from contiv.stn.errors import StnUnreachable
from contiv.stn.keeper import HOLD_OFF_S
from contiv.stn.theft import STEPS_OF_RETURNING, STEPS_OF_TAKING
from tests.e2e.conftest import Build
from tests.e2e.stolen import GIVE_BACK_S, GRACE_S, NicState, Stolen
from tests.e2e.world import WAIT_S, eventually
from tests.stn.held import Held

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

VICTIMS = ("stn", "init", "init for good", "agent", "vpp")
"""``for good``: nobody starts it again, so that nothing but the STN daemon is left."""
VICTIMS_WITHOUT_VPP = VICTIMS[:-1]
HEARD_S = 0.3
"""Within which the daemon hears that nobody waits for its answer any more."""


@pytest.fixture(autouse=True)
def held_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes whose STN daemon can be held at a step."""

    def argv(*, config: Path) -> list[str]:
        return Held(config.parent).argv(config)

    monkeypatch.setattr(commands, "stn", argv)


async def strike(stolen: Stolen, held: Held, victim: str) -> None:
    """Kill the victim while the daemon waits, let that go on, and start again what a host starts again."""
    match victim:
        case "stn":
            await stolen.kill_stn()
        case "init" | "init for good":
            await stolen.kill_init()
        case "agent":
            await running(stolen, stolen.world.has_agent, "an agent")
            os.kill(stolen.world.agent_pid(1), signal.SIGKILL)
        case "vpp":
            await running(stolen, stolen.world.has_dataplane, "a VPP")
            os.kill(stolen.world.dataplane_pid(1), signal.SIGKILL)
    await asyncio.sleep(HEARD_S)
    held.go_on()
    if victim == "stn":
        await stolen.start_stn()
    elif victim == "init":
        await stolen.node.start_init()


async def running(stolen: Stolen, has: Callable[[int], bool], what: str) -> None:
    async def holds() -> bool:
        return has(1)

    await eventually(holds, f"{what} runs")


async def recovered(stolen: Stolen, victim: str, before: NicState) -> None:
    """Whoever is left has brought the node back: to VPP, be it after a while in which the kernel had the NIC, for the
    machine was too slow; or to the kernel where nobody starts VPP."""
    if victim == "init for good":
        await stolen.returned(before)
    else:
        await stolen.confirmed(timeout_s=GRACE_S + HOLD_OFF_S + WAIT_S)


async def with_the_kernel(stolen: Stolen, before: NicState) -> None:
    """No vswitch runs, the kernel has its NIC, and the daemon is one that remembers nothing."""
    if not stolen.node.init.ended:
        stolen.forget_guard()
        await stolen.node.init.stop()
    await stolen.release()
    await stolen.returned(before)
    await stolen.kill_stn()
    await stolen.start_stn()


async def with_vpp(stolen: Stolen) -> None:
    """A vswitch runs and carries the node."""
    if stolen.node.init.ended:
        await stolen.kill_stn()  # it may hold the NIC back after a return
        await stolen.start_stn()
        await stolen.node.start_init()
    await stolen.confirmed()


async def ask_for_release(stolen: Stolen) -> None:
    """What ``contiv stn --release`` asks; the daemon may be killed before it answers."""
    with contextlib.suppress(StnUnreachable):
        await stolen.client.release()


@pytest.mark.parametrize("victim", VICTIMS)
async def test_killed_at_a_step_of_taking(build: Build, before: dict[str, NicState], victim: str) -> None:
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen, known = Stolen(world), before["node-1"]
        held = Held(stolen.node.directory)
        await stolen.confirmed()
        for step in STEPS_OF_TAKING:
            await with_the_kernel(stolen, known)
            async with stolen.reachable() as reachable:
                begun = time.monotonic()
                held.at(step)
                await stolen.node.start_init()
                await held.reached()
                await strike(stolen, held, victim)
                await recovered(stolen, victim, known)
                await reachable.again(timeout_s=GIVE_BACK_S)
                silence_s = reachable.longest_silence_s(since=begun)
            print(f"{victim} killed after {step}: {silence_s:.1f} s without a connection")
            assert silence_s < GRACE_S + GIVE_BACK_S, f"{victim} killed after {step}"
        await with_the_kernel(stolen, known)


@pytest.mark.parametrize("victim", VICTIMS_WITHOUT_VPP)
async def test_killed_at_a_step_of_giving_back(build: Build, before: dict[str, NicState], victim: str) -> None:
    """Asked for while the vswitch runs: so the killed ones are those that would take the NIC again. No VPP is there to
    be killed: the daemon has ended the one, and init asks the daemon before it starts another."""
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen, known = Stolen(world), before["node-1"]
        held = Held(stolen.node.directory)
        for step in STEPS_OF_RETURNING:
            await with_vpp(stolen)
            async with stolen.reachable() as reachable:
                begun = time.monotonic()
                held.at(step)
                releasing = asyncio.create_task(ask_for_release(stolen))
                await held.reached()
                assert not world.has_dataplane(1)
                await strike(stolen, held, victim)
                await releasing
                await recovered(stolen, victim, known)
                await reachable.again(timeout_s=GIVE_BACK_S)
                silence_s = reachable.longest_silence_s(since=begun)
            print(f"{victim} killed after {step}: {silence_s:.1f} s without a connection")
            assert silence_s < GRACE_S + GIVE_BACK_S, f"{victim} killed after {step}"
        await with_the_kernel(stolen, known)
