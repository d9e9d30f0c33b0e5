"""The daemon as it runs: a real process in the node's namespace, a stand-in for VPP that listens and dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from contiv import processes
from contiv.processes import Process
from contiv.stn.client import StnClient
from contiv.stn.errors import StnError, StnRefusal, StnUnreachable
from contiv.stn.theft import STEPS_OF_RETURNING, STEPS_OF_TAKING
from tests.stn.conftest import NIC, Node
from tests.stn.held import Held

pytestmark = pytest.mark.root

GRACE_S = 1.0
WAIT_S = 15.0
HEARD_S = 0.3
"""Within which a daemon hears that nobody waits for its answer any more."""
LISTEN = "import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\ntime.sleep(600)"


class Daemon:
    """``contiv stn`` on the node, and the vswitch that it looks after."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node = node
        self._directory = directory
        self.held = Held(directory)
        self.client = StnClient(str(directory / "stn.sock"))
        self.vpp_socket = str(directory / "vpp.sock")
        self._config = directory / "contiv.yaml"
        self._config.write_text(
            yaml.safe_dump(
                {
                    "stateDir": str(directory / "state"),
                    "stnSocketFile": str(directory / "stn.sock"),
                    "stnGraceSeconds": GRACE_S,
                }
            )
        )
        self.process: Process
        self.vpp: Process | None = None

    async def start(self) -> None:
        argv = self.held.argv(self._config)
        self.process = await processes.start("stn", argv, log=self._directory / "stn.log", netns=self.node.path)

        async def serves() -> bool:
            with contextlib.suppress(StnUnreachable, OSError):
                probe = socket.socket(socket.AF_UNIX)
                with probe:
                    probe.connect(str(self._directory / "stn.sock"))
                return True
            return False

        await processes.ready(self.process, serves, timeout_s=WAIT_S, what="socket")

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def start_vpp(self) -> Process:
        """Something that listens where VPP would."""
        Path(self.vpp_socket).unlink(missing_ok=True)
        argv = [sys.executable, "-c", LISTEN, self.vpp_socket]
        self.vpp = await processes.start("vpp", argv, log=self._directory / "vpp.log")

        async def listens() -> bool:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(self.vpp_socket)
                return True
            return False

        await processes.ready(self.vpp, listens, timeout_s=WAIT_S, what="socket")
        return self.vpp

    async def restart(self) -> None:
        """Another daemon, which does not hold the NIC back for having given it back moments ago."""
        await self.kill()
        await self.start()

    async def ask_and_leave(self, step: str, call: Callable[[], Awaitable[None]]) -> None:
        """Have ``call`` done as far as the step, go away, and let the daemon go on once it has heard of that."""
        self.held.at(step)
        calling = asyncio.create_task(call())
        await self.held.reached()
        calling.cancel()
        await asyncio.wait([calling])
        await asyncio.sleep(HEARD_S)
        self.held.go_on()

    async def kill_at(self, step: str, victim: str, call: Callable[[], Awaitable[None]]) -> None:
        """Have ``call`` done as far as the step, kill ``stn`` or ``vpp`` there; start a daemon where none is left."""
        self.held.at(step)
        calling = asyncio.create_task(call())
        await self.held.reached()
        if victim == "stn":
            await self.kill()
        else:
            vpp = await self.start_vpp() if self.vpp is None or self.vpp.ended else self.vpp
            os.kill(vpp.pid, signal.SIGKILL)
        self.held.go_on()
        if victim == "stn":
            await self.start()
        with contextlib.suppress(StnUnreachable):
            await calling

    async def steal(self) -> None:
        nic = await self.client.steal(NIC, vpp_socket=self.vpp_socket)
        assert nic.stolen

    async def release_by_command(self) -> int:
        argv = [sys.executable, "-m", "contiv.cli.main", "stn", "--release", "--config", str(self._config)]
        done = await processes.start("release", argv, log=self._directory / "release.log", netns=self.node.path)
        return await done.wait()


@pytest.fixture
async def daemon(node: Node, tmp_path: Path) -> AsyncIterator[Daemon]:
    made = Daemon(node, tmp_path)
    await made.start()
    yield made
    await made.process.stop()
    if made.vpp is not None:
        await made.vpp.stop()


async def start_again_and_again(daemon: Daemon) -> None:
    while True:
        vpp = await daemon.start_vpp()
        await daemon.steal()
        await vpp.stop()


async def until(holds: Callable[[], bool], *, timeout_s: float = WAIT_S) -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not await asyncio.to_thread(holds):
        assert time.monotonic() - started < timeout_s
        await asyncio.sleep(0.05)
    return time.monotonic() - started


async def test_info_tells_of_the_nic_before_and_after_and_the_first_one_is_that_of_the_default_route(
    daemon: Daemon,
) -> None:
    before = await daemon.client.info("")
    assert before.interface == NIC
    assert not before.stolen
    assert before.addresses[0] == "192.0.2.7/24"
    assert str(before.gateway) == "192.0.2.1"
    await daemon.steal()
    stolen = await daemon.client.info(NIC)
    assert stolen.stolen
    assert (stolen.addresses, stolen.routes, stolen.mac) == (before.addresses, before.routes, before.mac)


async def test_without_a_confirmation_the_nic_comes_back_after_the_grace_time(daemon: Daemon) -> None:
    before = daemon.node.state()
    vpp = await daemon.start_vpp()
    await daemon.steal()
    seconds = await until(daemon.node.answers)
    assert seconds < GRACE_S + 2
    assert daemon.node.state() == before
    await vpp.wait()  # it held the NIC, and did not work
    with pytest.raises(StnRefusal, match="given back moments ago"):
        await daemon.steal()


async def test_a_confirmed_vswitch_keeps_the_nic_until_it_dies(daemon: Daemon) -> None:
    before = daemon.node.state()
    vpp = await daemon.start_vpp()
    await daemon.steal()
    await daemon.client.confirm()
    await asyncio.sleep(2 * GRACE_S)
    assert (await daemon.client.info("")).stolen
    await vpp.stop()
    assert await until(daemon.node.answers) < GRACE_S + 2
    assert daemon.node.state() == before


async def test_a_vswitch_that_is_back_within_the_grace_time_keeps_the_nic(daemon: Daemon) -> None:
    await daemon.start_vpp()
    await daemon.steal()
    await daemon.client.confirm()
    assert daemon.vpp is not None
    await daemon.vpp.stop()
    await daemon.start_vpp()
    await daemon.steal()
    await daemon.client.confirm()
    await asyncio.sleep(2 * GRACE_S)
    assert (await daemon.client.info("")).stolen


async def test_a_vswitch_that_starts_again_and_again_and_never_works_does_not_keep_it(daemon: Daemon) -> None:
    await daemon.start_vpp()
    await daemon.steal()
    # refused, or killed before it could ask: the keeper ends what has the NIC before it gives it back
    with pytest.raises((StnRefusal, processes.ProcessFailed)):
        await asyncio.wait_for(start_again_and_again(daemon), WAIT_S)
    await until(daemon.node.answers)
    assert daemon.node.answers()


@pytest.mark.parametrize("confirmed", [False, True])
async def test_a_daemon_that_is_killed_and_started_again_takes_the_theft_up(daemon: Daemon, confirmed: bool) -> None:
    before = daemon.node.state()
    await daemon.start_vpp()
    await daemon.steal()
    if confirmed:
        await daemon.client.confirm()
    await daemon.kill()
    await daemon.start()
    if confirmed:
        await asyncio.sleep(2 * GRACE_S)
        assert (await daemon.client.info("")).stolen
        assert daemon.vpp is not None
        await daemon.vpp.stop()
    assert await until(daemon.node.answers) < GRACE_S + 2
    assert daemon.node.state() == before


@pytest.mark.parametrize("victim", ["stn", "vpp"])
@pytest.mark.parametrize("step", STEPS_OF_TAKING)
async def test_killed_at_a_step_of_taking_the_nic_comes_back_within_the_grace_time(
    daemon: Daemon, step: str, victim: str
) -> None:
    before = daemon.node.state()
    await daemon.start_vpp()
    await daemon.kill_at(step, victim, daemon.steal)
    assert await until(daemon.node.answers) < GRACE_S + 2
    assert daemon.node.state() == before


@pytest.mark.parametrize("victim", ["stn", "vpp"])
@pytest.mark.parametrize("step", STEPS_OF_RETURNING)
async def test_killed_at_a_step_of_giving_back_it_is_finished(daemon: Daemon, step: str, victim: str) -> None:
    """The VPP killed is the next one: the daemon has ended the one that had the NIC."""
    before = daemon.node.state()
    await daemon.start_vpp()
    await daemon.steal()
    await daemon.client.confirm()
    await daemon.kill_at(step, victim, daemon.client.release)
    assert await until(daemon.node.answers) < GRACE_S + 2
    assert daemon.node.state() == before


async def test_who_asks_and_goes_away_leaves_nothing_half_done(daemon: Daemon) -> None:
    """An agent killed while it has the NIC stolen, an operator who does not wait for the release."""
    before = daemon.node.state()
    await daemon.start_vpp()
    await daemon.ask_and_leave("deafened", daemon.steal)
    assert await until(daemon.node.answers) < GRACE_S + 2
    await daemon.restart()
    assert daemon.node.state() == before
    await daemon.start_vpp()
    await daemon.steal()
    await daemon.client.confirm()
    await daemon.ask_and_leave("returning", daemon.client.release)
    assert await until(daemon.node.answers) < GRACE_S + 2
    assert (await daemon.client.info(NIC)).stolen is False
    assert daemon.node.state() == before


@pytest.mark.parametrize("running", [True, False])
async def test_release_gives_the_nic_back_with_the_daemon_or_without_it(daemon: Daemon, running: bool) -> None:
    before = daemon.node.state()
    await daemon.start_vpp()
    await daemon.steal()
    await daemon.client.confirm()
    if not running:
        await daemon.kill()
    assert await daemon.release_by_command() == 0
    assert daemon.node.state() == before
    assert daemon.node.answers()


async def test_what_cannot_be_is_refused_by_name(daemon: Daemon) -> None:
    with pytest.raises(StnError, match="NIC nic9: the kernel has no such link"):
        await daemon.client.steal("nic9", vpp_socket="/x")
    with pytest.raises(StnError, match="on no PCI bus"):
        await daemon.client.steal(NIC, vpp_socket="/x", vpp_driver="vfio-pci")
    with pytest.raises(StnRefusal, match="no NIC is stolen"):
        await daemon.client.confirm()
    await daemon.steal()
    with pytest.raises(StnError, match="does not answer"):
        await daemon.client.confirm()
    with pytest.raises(StnRefusal, match=f"{NIC} is stolen already"):
        await daemon.client.steal("lo", vpp_socket="/x")


async def test_a_client_without_a_daemon_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(StnUnreachable, match="start 'contiv stn'"):
        await StnClient(str(tmp_path / "none")).info("")
