"""The emulated VPP as a process: its configuration, its sockets, its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import contiv.vpp
from contiv.config import VppConfig
from contiv.emulator.vpp.serve.startup import Startup, parse
from contiv.errors import ConfigError
from contiv.vpp import lifecycle

START_S = 10.0


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The emulated VPP, serving; its folder is ``tmp_path``."""
    conf = tmp_path / "startup.conf"
    conf.write_text(lifecycle.startup_conf(VppConfig(), run_dir=str(tmp_path)))
    (tmp_path / "api.sock").touch()  # left over from one that was killed
    (tmp_path / "api.sock").unlink()
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "contiv.emulator.vpp", "-c", str(conf)], stdout=log, stderr=log, text=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not (tmp_path / "api.sock").exists():
            assert child.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)  # the socket's appearance is the only sign
        yield child
    finally:
        child.kill()
        child.wait()


async def test_serves_when_its_socket_appears_and_leaves_nothing(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    async with contiv.vpp.connect(tmp_path / "api.sock") as vpp:
        assert vpp.version.startswith("26.06")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"log", "startup.conf"}
    assert "ready" in (tmp_path / "log").read_text()


def test_cli_socket_answers_plain_lines(process: subprocess.Popen[str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as session:
        session.settimeout(5)
        session.connect(str(tmp_path / "cli.sock"))
        session.sendall(b"show interface\nshow nonsense\nquit\n")
        text = b""
        while data := session.recv(4096):
            text += data
    assert b"local0" in text
    assert b"unknown input `show nonsense'" in text


async def test_client_that_does_not_read_does_not_hold_up_others(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    async with contiv.vpp.connect(tmp_path / "api.sock") as vpp:
        data = vpp.schema.encode("get_api_json", msg_id=vpp.table["get_api_json_51077d14"], context=1)
        frame = bytes(8) + len(data).to_bytes(4, "big") + bytes(4) + data
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(tmp_path / "api.sock"))
            rude.sendall(frame * 20)
            started = time.perf_counter()
            for _ in range(10):
                await vpp.call("control_ping")
            assert time.perf_counter() - started < 3


def test_configuration_names_the_sockets() -> None:
    text = "unix { runtime-dir /x cli-listen /x/c } # } comment\nsocksvr { socket-name /x/a }\ncpu { }\na { b { c } }"
    assert parse(text) == Startup(runtime_dir="/x", api_socket="/x/a", cli_socket="/x/c")
    assert parse("") == Startup()
    assert parse("acl-plugin { reclassify sessions 1 }").reclassify_sessions
    assert not parse("acl-plugin { reclassify sessions 0 }").reclassify_sessions
    assert parse("unix { runtime-dir /y }\nsocksvr { default }").api_socket == "/y/api.sock"


def test_braces_that_do_not_match_are_refused() -> None:
    with pytest.raises(ConfigError, match="braces"):
        parse("unix { runtime-dir /x")
