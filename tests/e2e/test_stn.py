"""A node with one NIC: whoever dies, and whatever is taken or given back, it stays reachable."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from contiv.demo import probe
from contiv.demo.node import Node
from contiv.linux import netns
from contiv.stn.client import StnClient
from contiv.stn.errors import StnError
from contiv.stn.model import NicInfo
from tests.e2e.conftest import Build
from tests.e2e.session import Session
from tests.e2e.world import World, eventually

pytestmark = pytest.mark.root

GRACE_S = 8.0
"""A VPP that is started anew and programmed on two busy cores takes half of it."""
SLACK_S = 12.0
"""Beyond the grace time: TCP waits ever longer before it tries again (RFC 6298), and two cores do all the rest."""
NIC = "uplink"


def ip(node: Node, *words: str) -> list[str]:
    argv = netns.command_in(node.netns, ["ip", *words], die_with_parent=True)
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def nic_state(node: Node) -> dict[str, Any]:
    """What the kernel has of the NIC, and all ways out."""
    routes = [line for line in ip(node, "route", "show", "table", "all") if f"dev {NIC}" in line]
    return {
        "addresses": ip(node, "addr", "show", "dev", NIC),
        "routes": routes,
        "default": ip(node, "route", "show", "default"),
        "rules": ip(node, "rule"),
    }


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The state of each node's NIC before anybody touched it, by node."""
    found: dict[str, dict[str, Any]] = {}
    original = Node.start_stn

    async def recorded(self: Node) -> None:
        found.setdefault(self.name, nic_state(self))
        await original(self)

    monkeypatch.setattr(Node, "start_stn", recorded)
    return found


class Stolen:
    """Node 1 and its STN daemon."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.node(1)
        self.client = StnClient(str(self.node.directory / "run" / "stn.sock"))
        assert world.cluster.outside is not None
        self.outside = world.cluster.outside

    async def info(self) -> NicInfo | None:
        """What the daemon says; None while it does not answer."""
        try:
            return await self.client.info("")
        except StnError:
            return None

    async def is_stolen(self) -> bool:
        """Whether VPP has the NIC."""
        found = await self.info()
        return found is not None and found.stolen

    async def confirmed(self) -> None:
        """Wait until VPP carries the node: the world reaches it, which would not last otherwise."""

        async def holds() -> bool:
            place = self.node.directory / "state" / "stn"
            record = place.read_bytes() if place.exists() else b""
            return b'"confirmed":{' in record and str(self.world.dataplane_pid(1)).encode() in record

        await eventually(holds, "the vswitch is confirmed")

    def session(self, port: int = 7100) -> Session:
        """A TCP connection from the world to the node's own address."""
        return Session(self.outside.netns, self.node.netns, str(self.node.nic.address), port=port)

    def forget_guard(self) -> None:
        """The test ends init itself."""
        for task in self.world.cluster._tasks:
            if task.get_name() == f"guard {self.node.name}":
                task.cancel()

    async def release(self) -> None:
        """``contiv stn --release``, as an uninstallation runs it."""
        config = self.node.directory / "contiv.yaml"
        argv = [sys.executable, "-m", "contiv.cli.main", "stn", "--release", "--config", str(config)]
        child = await asyncio.create_subprocess_exec(*netns.command_in(self.node.netns, argv, die_with_parent=True))
        assert await child.wait() == 0


async def test_a_session_outlives_vpp_release_steal_and_the_loss_of_everything(
    build: Build, before: dict[str, dict[str, Any]]
) -> None:
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen = Stolen(world)
        await stolen.confirmed()
        assert nic_state(stolen.node)["addresses"] != before["node-1"]["addresses"]
        async with stolen.session() as session:
            os.kill(world.dataplane_pid(1), signal.SIGKILL)
            await eventually(lambda: gone(world), "VPP is gone")
            await session.goes_on(timeout_s=GRACE_S + SLACK_S)
            await stolen.confirmed()

            stolen.forget_guard()
            await stolen.node.init.stop()
            await stolen.release()
            assert nic_state(stolen.node) == before["node-1"]
            await session.goes_on(timeout_s=SLACK_S)

            await stolen.node.start_init()
            await eventually(stolen.is_stolen, "stolen again")
            await stolen.confirmed()
            await session.goes_on(timeout_s=SLACK_S)

            for pid in (stolen.node.init.pid, world.agent_pid(1), world.dataplane_pid(1)):
                os.kill(pid, signal.SIGKILL)
            await stolen.node.init.wait()
            lost = time.monotonic()
            await eventually(lambda: returned(stolen, before["node-1"]), "the kernel has its NIC back")
            assert time.monotonic() - lost < GRACE_S + 3
            await session.goes_on(timeout_s=SLACK_S)


async def gone(world: World) -> bool:
    return not world.has_dataplane(1)


async def returned(stolen: Stolen, before: dict[str, Any]) -> bool:
    return not await stolen.is_stolen() and nic_state(stolen.node) == before


@pytest.mark.parametrize("victim", ["stn", "agent", "init"])
async def test_who_is_killed_is_replaced_and_the_node_stays_reachable(build: Build, victim: str) -> None:
    async with build(1, {"stnGraceSeconds": GRACE_S}, nics="one") as world:
        stolen = Stolen(world)
        await stolen.confirmed()
        outside, address = stolen.outside.netns, str(stolen.node.nic.address)
        async with stolen.session() as session:
            struck = time.monotonic()
            if victim == "agent":
                os.kill(world.agent_pid(1), signal.SIGKILL)
            elif victim == "init":  # its children go with it
                stolen.forget_guard()
                os.kill(stolen.node.init.pid, signal.SIGKILL)
                await stolen.node.init.wait()
                await stolen.node.start_init()
            else:
                assert stolen.node.stn is not None
                os.kill(stolen.node.stn.pid, signal.SIGKILL)
                await stolen.node.stn.wait()
                (stolen.node.directory / "run" / "stn.sock").unlink(missing_ok=True)
                await stolen.node.start_stn()
            await session.goes_on(timeout_s=GRACE_S + SLACK_S)
            await asyncio.sleep(GRACE_S + 1)  # whoever waits for a confirmation has given up by now
            await session.goes_on(timeout_s=SLACK_S)
            if victim != "init":
                assert session.longest_silence_s(since=struck) < 1.0  # VPP forwards on
        assert await probe.first_reply(world.cluster.workers, outside, address, timeout_s=5.0)


async def test_a_vpp_that_does_not_start_leaves_the_nic_to_the_kernel(
    build: Build, before: dict[str, dict[str, Any]]
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
            await eventually(lambda: returned(stolen, before["node-1"]), "the kernel has its NIC back")
            await session.goes_on(timeout_s=SLACK_S)
