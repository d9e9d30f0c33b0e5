"""contiv.agent.main: what an agent does before it is up, and what it makes of credentials."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from contiv.agent.persistence import Persistence
from contiv.config import Config, EtcdConfig
from contiv.credentials import credentials
from contiv.errors import ConfigError
from contiv.network.ipam import ClusterSubnets
from contiv.processes import start
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.mirror import LocalMirror

WAIT_S = 20.0


async def test_sigterm_ends_an_agent_that_waits_for_etcd(tmp_path: Path) -> None:
    waits = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        waits.set()
        await asyncio.Event().wait()

    config = tmp_path / "contiv.yaml"
    config.write_text(f"etcd: {{endpoints: ['unix://{tmp_path}/etcd']}}\nrunDir: {tmp_path}\n")
    server = await asyncio.start_unix_server(silent, tmp_path / "etcd")
    argv = [sys.executable, "-m", "contiv.cli.main", "agent", "--node", "n", "--config", str(config)]
    agent = await start("agent", argv, log=tmp_path / "log")
    try:
        async with asyncio.timeout(WAIT_S):
            await waits.wait()
            os.kill(agent.pid, signal.SIGTERM)
            assert await agent.wait() == 0, agent.tail()
        assert "stopped before it was ready" in agent.tail()
    finally:
        await agent.stop()
        server.close()


def test_a_password_keeps_its_blanks_and_loses_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(" with blanks \n")
    made = credentials(EtcdConfig(username="u", password_file=str(tmp_path / "password")))
    assert made["auth"].password == " with blanks "


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_password_that_cannot_be_read_is_a_wrong_configuration(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(ConfigError, match=r"etcd\.passwordFile"):
        credentials(EtcdConfig(username="u", password_file=str(tmp_path / "password")))


async def test_nodes_claim_the_ids_that_they_run_with_after_etcd_lost_them(tmp_path: Path) -> None:
    moved: list[str] = []
    config = Config()
    subnets = ClusterSubnets.of(config)
    async with (
        EmbeddedEtcd(tmp_path / "e") as server,
        await Etcd.connect([server.endpoint]) as etcd,
        await LocalMirror.open(tmp_path / "mirror.db") as mirror,
    ):
        names = ("a", "b", "c")
        nodes = {
            name: Persistence(etcd, mirror, subnets, node=name, on_moved=lambda name=name: moved.append(name))
            for name in names
        }
        before = {name: (await nodes[name].reclaim()).id for name in names}
        await server.wipe()
        after = {name: (await nodes[name].reclaim()).id for name in reversed(names)}
        assert after == before
        assert moved == []
        await server.wipe()
        usurper = Persistence(etcd, mirror, subnets, node="z", on_moved=lambda: None)
        assert (await usurper.reclaim()).id == before["a"]
        await nodes["a"].reclaim()
        assert moved == ["a"]
        assert "lost ID 1" in nodes["a"].moved
