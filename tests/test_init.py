"""contiv.init as a process: starts, supervises, attaches, ends in order. The data plane is a stub that listens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from contiv.config import Config, EtcdConfig, VppConfig
from contiv.errors import ContivError
from contiv.init import READY_TIMEOUT_S, _Dataplane, _under_resource, answers
from contiv.model import keys
from contiv.network import node_config
from contiv.nodeconfig import Interface, NodeConfig
from contiv.processes import Process, start
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.mirror import LocalMirror, mirror_path
from contiv.vpp.lifecycle import Sockets

STUB = Path(__file__).with_name("stub_dataplane.py")
WAIT_S = 20.0


class Vswitch:
    """A node's directory with a stub VPP installed, and ``contiv init`` running on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_dir = root / "vpp"
        self.run_dir.mkdir()
        binary = root / "prefix" / "bin" / "vpp"
        binary.parent.mkdir(parents=True)
        binary.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} "$@"\n')
        binary.chmod(0o755)
        self.config = root / "contiv.yaml"
        self.config.write_text(
            f"runDir: {root}/run\n"
            f"restListen: unix:{root}/rest.sock\n"
            f"etcd: {{endpoints: ['unix://{root}/no-etcd']}}\n"
            f"vpp: {{dataplane: vpp, prefix: {root}/prefix, runDir: {self.run_dir}}}\n"
        )
        self.init: Process

    async def start(self) -> None:
        argv = [sys.executable, "-m", "contiv.cli.main", "init", "--node", "n", "--config", str(self.config)]
        environment = {"CONTIV_VPP_PREFIX": ""}
        self.init = await start("init", argv, log=self.root / "init.log", environment=environment)

    def dataplanes(self) -> list[int]:
        """The data planes that were ever started."""
        try:
            return [int(pid) for pid in (self.run_dir / "startup.pids").read_text().split()]
        except FileNotFoundError:
            return []

    def log(self) -> str:
        return (self.root / "init.log").read_text() if (self.root / "init.log").exists() else ""

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                assert not self.init.ended, self.log()
                await asyncio.sleep(0.02)

    async def running(self) -> None:
        await self.until(lambda: "process=agent" in self.log())


@pytest.fixture
async def vswitch(tmp_path: Path) -> AsyncIterator[Vswitch]:
    made = Vswitch(tmp_path)
    yield made
    await made.init.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def test_sigterm_ends_the_agent_and_then_the_data_plane(vswitch: Vswitch) -> None:
    await vswitch.start()
    await vswitch.running()
    (dataplane,) = vswitch.dataplanes()
    started = children(vswitch.init.pid)
    assert dataplane in started
    assert len(started) == 2
    os.kill(vswitch.init.pid, signal.SIGTERM)
    async with asyncio.timeout(WAIT_S):
        assert await vswitch.init.wait() == 0
    assert not any(alive(pid) for pid in started)


async def test_a_data_plane_that_dies_is_started_again(vswitch: Vswitch) -> None:
    await vswitch.start()
    await vswitch.running()
    os.kill(vswitch.dataplanes()[0], signal.SIGKILL)
    await vswitch.until(lambda: len(vswitch.dataplanes()) == 2)
    assert await answers(f"{vswitch.run_dir}/api.sock")
    assert "code=-9" in vswitch.log()


async def test_a_restart_that_fails_is_tried_again(vswitch: Vswitch) -> None:
    await vswitch.start()
    await vswitch.running()
    (vswitch.run_dir / "refuse").touch()
    os.kill(vswitch.dataplanes()[0], signal.SIGKILL)
    await vswitch.until(lambda: len(vswitch.dataplanes()) >= 3)
    (vswitch.run_dir / "refuse").unlink()
    tries = len(vswitch.dataplanes())
    await vswitch.until(lambda: len(vswitch.dataplanes()) > tries)
    async with asyncio.timeout(WAIT_S):
        while not await answers(f"{vswitch.run_dir}/api.sock"):
            await asyncio.sleep(0.02)


async def test_a_first_start_that_fails_ends_init_with_the_reason(vswitch: Vswitch) -> None:
    (vswitch.run_dir / "refuse").touch()
    await vswitch.start()
    async with asyncio.timeout(WAIT_S):
        assert await vswitch.init.wait() == 1
    assert "ended with code 3" in vswitch.log()
    assert "stub: told to refuse" in vswitch.log()
    assert "Traceback" not in vswitch.log()


async def test_sigterm_while_the_data_plane_does_not_come_up_ends_both(vswitch: Vswitch) -> None:
    (vswitch.run_dir / "deaf").touch()
    await vswitch.start()
    await vswitch.until(lambda: bool(vswitch.dataplanes()))
    os.kill(vswitch.init.pid, signal.SIGTERM)
    async with asyncio.timeout(READY_TIMEOUT_S / 2):
        assert await vswitch.init.wait() == 0
    assert not alive(vswitch.dataplanes()[0])


async def test_a_data_plane_that_answers_is_attached_to_and_left_alone(vswitch: Vswitch) -> None:
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), f"{vswitch.run_dir}/api.sock")
    async with server:
        await vswitch.start()
        await vswitch.running()
        await vswitch.init.stop()
        assert vswitch.dataplanes() == []
        assert await answers(f"{vswitch.run_dir}/api.sock")


async def test_a_data_plane_that_runs_and_does_not_serve_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIV_VPP_PREFIX", "")
    monkeypatch.setattr("contiv.init.READY_TIMEOUT_S", 1.0)
    vswitch = Vswitch(tmp_path)
    vpp = VppConfig(dataplane="vpp", prefix=str(tmp_path / "prefix"), run_dir=str(vswitch.run_dir))
    child = _Dataplane(Config(vpp=vpp), "node", Sockets(run_dir=str(vswitch.run_dir)), tmp_path / "log")
    await child.start()
    keeping = asyncio.create_task(child.keep_running())
    (vswitch.run_dir / "deaf").touch()
    os.kill(vswitch.dataplanes()[0], signal.SIGKILL)
    async with asyncio.timeout(WAIT_S):
        while len(vswitch.dataplanes()) < 2:
            await asyncio.sleep(0.02)
        (vswitch.run_dir / "deaf").unlink()
        while not await answers(f"{vswitch.run_dir}/api.sock"):
            await asyncio.sleep(0.02)
    assert not alive(vswitch.dataplanes()[1])
    keeping.cancel()
    await asyncio.wait([keeping])
    await child.stop(1.0)


async def test_a_data_plane_that_never_serves_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTIV_VPP_PREFIX", "")
    monkeypatch.setattr("contiv.init.READY_TIMEOUT_S", 0.3)
    vswitch = Vswitch(tmp_path)
    (vswitch.run_dir / "deaf").touch()
    vpp = VppConfig(dataplane="vpp", prefix=str(tmp_path / "prefix"), run_dir=str(vswitch.run_dir))
    child = _Dataplane(Config(vpp=vpp), "node", Sockets(run_dir=str(vswitch.run_dir)), tmp_path / "log")
    with pytest.raises(ContivError, match="no API socket after"):
        await child.start()
    await child.stop(1.0)


async def test_it_starts_with_the_nodes_resource_and_notes_it_for_the_agent(tmp_path: Path) -> None:
    given = NodeConfig(node_name="n", main_vpp_interface=Interface(interface_name="eth1"))
    missing = NodeConfig(node_name="n", main_vpp_interface=Interface(interface_name="0000:ff:1f.7"))
    async with EmbeddedEtcd(tmp_path / "e") as server, await Etcd.connect([server.endpoint]) as etcd:
        config = Config(etcd=EtcdConfig(endpoints=(server.endpoint,)), state_dir=str(tmp_path))

        async def started() -> tuple[Config, NodeConfig | None]:
            under = await _under_resource(config, "n", vpp_socket="")
            async with await LocalMirror.open(mirror_path(config.state_dir)) as mirror:
                return under, await node_config.started_with(mirror, "n")

        assert await started() == (config, None)
        await etcd.put(keys.node_config("n"), msgspec.json.encode(given))
        assert await started() == (config.under(given), given)
        await etcd.put(keys.node_config("n"), msgspec.json.encode(missing))
        assert await started() == (config, None), "the machine has no such device; nothing else was in force"
        async with await LocalMirror.open(mirror_path(config.state_dir)) as mirror:
            await node_config.put_in_force(mirror, "n", given)
        assert await started() == (config.under(given), given)
        await server.kill()
        assert await started() == (config.under(given), given), "without etcd the last one counts"
