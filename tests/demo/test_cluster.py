"""The demo as a whole, with the kernel in place of agent and data plane: table, failures, and nothing left
behind.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from contiv.demo import commands, main, paths, probe, rundir
from contiv.linux import netns

pytestmark = pytest.mark.root

STUB = Path(__file__).with_name("stub_node.py")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory of a demo whose nodes are stubs."""
    directory = tmp_path / "run"
    tag = f"contiv-{rundir.tag_of(directory)}"
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "contiv-cni").write_text(f'#!/bin/sh\nSTUB_TAG={tag} exec "{sys.executable}" "{STUB}"\n')
    (plugins / "contiv-cni").chmod(0o755)
    monkeypatch.setenv(commands.PLUGIN_PATH_VARIABLE, str(plugins))

    def init(*, config: Path, node: str) -> list[str]:
        return [sys.executable, str(STUB), "init", node.rpartition("-")[2]]

    monkeypatch.setattr(paths, "MEASURE_S", 0.1)
    monkeypatch.setattr(commands, "init", init)
    monkeypatch.setattr(commands, "ksr", lambda **_: ["sleep", "600"])
    return directory


@pytest.fixture(autouse=True)
def nothing_left(place: Path) -> Iterator[None]:
    """No namespace, process or file of the demo stays, however it ends."""
    yield
    tag = f"contiv-{rundir.tag_of(place)}-"
    assert [name for name in netns.names() if name.startswith(tag)] == []
    assert not place.exists()
    mine = [pid for pid in _processes() if str(place) in pid[1] or str(STUB) in pid[1]]
    assert mine == []


def _processes() -> list[tuple[str, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found.append((entry.name, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
            except OSError:
                continue
    return found


def run(place: Path, **options: object) -> tuple[int, str]:
    """The demo in this process; its exit code and what it printed."""
    output = io.StringIO()
    console = Console(file=output, width=160)
    code = main.demo(directory=place, console=console, outside=False, **options)  # type: ignore[arg-type]
    return code, output.getvalue()


def test_two_nodes_reach_each_other_on_every_kind_of_path(place: Path) -> None:
    code, shown = run(place, nodes=2)
    assert code == 0, shown
    assert "every path works" in shown
    for kind in ("pod → pod, across nodes", "host → pod, same node", "pod → host, across nodes"):
        assert kind in shown
    assert "none" not in shown
    assert shown.count("demo/web-") == 4


def test_a_path_that_fails_is_named_and_fails_the_demo(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = place.parent / "broken.py"
    broken.write_text(STUB.read_text().replace("192.168.16.{other}", "192.168.16.{other + 100}"))

    def init(*, config: Path, node: str) -> list[str]:
        return [sys.executable, str(broken), "init", node.rpartition("-")[2]]

    monkeypatch.setattr(commands, "init", init)
    monkeypatch.setattr(probe, "PING_TIMEOUT_S", 0.05)
    code, shown = run(place, nodes=2)
    assert code == 1
    assert "not every path works" in shown
    assert "5 of 5 pings lost" in shown


def test_a_process_that_ends_ends_the_demo_and_shows_its_log(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "init", lambda **_: ["sh", "-c", "echo cannot open the NIC; exit 3"])
    code, shown = run(place, nodes=2)
    assert code == 1
    assert re.search(r"node-[12]: ended with code 3", shown), shown
    assert "cannot open the NIC" in shown


def test_wrong_options_are_refused_with_one_line(place: Path, tmp_path: Path) -> None:
    for options in ({"nodes": 0}, {"dataplane": "x"}, {"manifests": tmp_path / "none"}):
        code, shown = run(place, **options)
        assert code == 1
        assert len(shown.splitlines()) == 1, shown


async def test_ctrl_c_while_it_keeps_running_leaves_nothing(place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from contiv.demo import commands, main\n"
        f"commands.init = lambda *, config, node: [sys.executable, {str(STUB)!r}, 'init', node[-1]]\n"
        "commands.ksr = lambda **_: ['sleep', '600']\n"
        f"sys.exit(main.demo(1, keep=True, outside=False, directory=Path({str(place)!r})))\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert child.stdout is not None
    shown = []
    async with asyncio.timeout(60):
        while "The cluster stays until Ctrl-C." not in "".join(shown):
            line = await child.stdout.readline()
            assert line, "".join(shown)
            shown.append(line.decode())
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGINT)
    rest, _ = await child.communicate()
    assert child.returncode == main.INTERRUPTED, rest.decode()
    assert "everything is gone again" in rest.decode()
