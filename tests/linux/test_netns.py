"""Namespaces: identity, idempotence, and that nobody's own namespace changes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from contiv.errors import LinuxError
from contiv.linux import netns
from contiv.linux.errors import NamespaceMissing
from contiv.linux.netns import Workers

pytestmark = pytest.mark.root


def _inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


async def test_work_runs_inside_the_namespace_and_threads_come_home(new_netns: list[str], workers: Workers) -> None:
    home = _inode()
    wanted = [netns.identity(path)[1] for path in new_netns]
    for _ in range(4):
        seen = await asyncio.gather(*(workers.inside(path, _inode) for path in [*new_netns, ""] * 8))
        assert seen == [*wanted, home] * 8
    assert _inode() == home


async def test_a_failing_job_leaves_its_thread_at_home(new_netns: list[str]) -> None:
    pool = Workers(1)

    def fail() -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        await pool.inside(new_netns[0], fail)
    assert await asyncio.get_running_loop().run_in_executor(pool._pool, _inode) == _inode()
    pool.close()


def test_creating_twice_keeps_the_namespace(new_netns: list[str]) -> None:
    before = netns.identity(new_netns[0])
    assert netns.create(Path(new_netns[0]).name) == new_netns[0]
    assert netns.identity(new_netns[0]) == before
    assert before != netns.identity(new_netns[1])


def test_deleting_twice_succeeds_and_the_name_is_gone(new_netns: list[str]) -> None:
    name = Path(new_netns[0]).name
    assert name in netns.names()
    netns.delete(name)
    netns.delete(name)
    assert name not in netns.names()
    assert not netns.exists(new_netns[0])


async def test_a_deleted_namespace_is_freed_even_though_threads_worked_in_it(
    new_netns: list[str], workers: Workers
) -> None:
    await asyncio.gather(*(workers.inside(new_netns[0], _inode) for _ in range(32)))
    netns.delete(Path(new_netns[0]).name)
    with pytest.raises(NamespaceMissing, match="not there"):
        await workers.inside(new_netns[0], _inode)


def test_a_plain_file_is_no_namespace(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(NamespaceMissing, match="no network namespace stands there"):
        netns.identity(str(place))


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(LinuxError, match="not a name"):
        netns.create(name)


def test_a_command_runs_inside_with_its_arguments_and_exit_code(new_netns: list[str]) -> None:
    script = 'readlink /proc/self/ns/net; echo "$1"; exit 7'
    line = netns.command_in(new_netns[0], ["sh", "-c", script, "sh", "a b"])
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"net:[{netns.identity(new_netns[0])[1]}]", "a b"]
    assert done.returncode == 7


def test_a_command_in_a_missing_namespace_fails_with_one_line() -> None:
    done = subprocess.run(
        netns.command_in("/var/run/netns/none", ["true"]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 126
    assert done.stderr.startswith("launch: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_command_dies_with_its_parent(new_netns: list[str]) -> None:
    line = netns.command_in(new_netns[0], ["sleep", "600"], die_with_parent=True)
    code = "import subprocess,sys;print(subprocess.Popen(sys.argv[1:]).pid,flush=True);input()"
    with subprocess.Popen(
        ["python3", "-c", code, *line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        while b"sleep" not in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
            pass
        descriptor = os.pidfd_open(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    import select

    assert select.select([descriptor], [], [], 5)[0], "the child outlived its parent"
    os.close(descriptor)
