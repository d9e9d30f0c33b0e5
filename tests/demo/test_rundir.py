"""The run directory: locked while it lives, swept after it was killed, careful with what is not its own."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from contiv.demo import rundir
from contiv.demo.rundir import RunDirectory
from contiv.errors import DemoError
from contiv.linux import netns

pytestmark = pytest.mark.root


async def test_it_is_gone_afterwards_with_its_namespaces_and_their_processes(tmp_path: Path) -> None:
    async with RunDirectory(tmp_path / "d") as directory:
        path = netns.create(directory.namespace("x"))
        (directory.path / "sub").mkdir()
        (directory.path / "sub" / "file").write_text("")
        child = subprocess.Popen(netns.command_in(path, ["sleep", "600"]))
        _entered(child.pid, path)
    assert child.wait(timeout=5) < 0
    assert not directory.path.exists()
    assert directory.namespace("x") not in netns.names()


def _entered(pid: int, path: str) -> None:
    while os.stat(f"/proc/{pid}/ns/net").st_ino != netns.identity(path)[1]:
        pass


async def test_two_demos_do_not_share_a_directory(tmp_path: Path) -> None:
    async with RunDirectory(tmp_path / "d"):
        with pytest.raises(DemoError, match="another demo runs in it"):
            async with RunDirectory(tmp_path / "d"):
                pass


async def test_what_a_killed_demo_left_is_swept_by_the_next_one(tmp_path: Path) -> None:
    place = tmp_path / "d"
    place.mkdir()
    (place / "lock").write_text("contiv-demo 1\n")
    (place / "etcd").mkdir()
    left = f"contiv-{rundir.tag_of(place)}-node-1"
    path = netns.create(left)
    child = subprocess.Popen(netns.command_in(path, ["sleep", "600"]))
    _entered(child.pid, path)
    descriptor = os.pidfd_open(child.pid)
    async with RunDirectory(place) as directory:
        assert left not in netns.names()
        assert [entry.name for entry in directory.path.iterdir()] == ["lock"]
        assert select.select([descriptor], [], [], 5)[0]
    os.close(descriptor)
    child.wait()


async def test_a_directory_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(DemoError, match="not a demo's"):
        async with RunDirectory(tmp_path):
            pass
    assert (tmp_path / "precious").read_text() == "x"
