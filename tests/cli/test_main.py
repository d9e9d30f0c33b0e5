"""The ``contiv`` command: help of every subcommand, exit codes, one line for what cannot be helped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from contiv.cli.main import contiv, guarded
from contiv.errors import ConfigError, StoreError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "contiv.cli.main", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_help_names_every_subcommand() -> None:
    ended = run("--help")
    assert ended.returncode == 0
    for name in contiv.commands:
        assert f"\n  {name} " in ended.stdout


@pytest.mark.parametrize("arguments", [("emulate",), ("emulate", "kube"), ("emulate", "vpp"), ("demo",), ("ksr",)])
def test_every_stand_in_explains_itself(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments, "--help")
    assert ended.returncode == 0
    assert ended.stdout.lower().startswith("usage:")
    assert ended.stderr == ""


@pytest.mark.parametrize(
    "arguments", [("agent", "--node", "n", "--log-level", "loud"), ("nonsense",), ("demo", "--nodes", "two")]
)
def test_a_wrong_option_ends_with_two(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_missing_password_ends_ksr_with_the_key_in_one_line(tmp_path: Path) -> None:
    config = tmp_path / "contiv.yaml"
    config.write_text(f"etcd: {{username: u, passwordFile: {tmp_path}/none}}\n")
    ended = run("ksr", "--config", str(config))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("configuration: etcd.passwordFile = ")


def ends(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    @click.command()
    def command() -> None:
        raise error

    argv, sys.argv = sys.argv, ["contiv"]
    try:
        with pytest.raises(SystemExit) as ended:
            guarded(command)
    finally:
        sys.argv = argv
    return ended.value.code, capsys.readouterr().err


def test_what_cannot_be_helped_is_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ConfigError("a.b", 1, "bad", remedy="good")
    assert ends(wrong, capsys) == (2, "configuration: a.b = 1: bad; good\n")
    assert ends(StoreError("etcd is down"), capsys) == (1, "error: etcd is down\n")
    nested = ExceptionGroup("tasks", [ExceptionGroup("more", [StoreError("etcd is down")])])
    assert ends(nested, capsys) == (1, "error: etcd is down\n")
    assert ends(PermissionError(13, "Permission denied", "/run/x"), capsys)[0] == 1


def test_a_bug_keeps_its_traceback() -> None:
    @click.command()
    def command() -> None:
        raise ExceptionGroup("tasks", [StoreError("etcd is down"), ZeroDivisionError()])

    argv, sys.argv = sys.argv, ["contiv"]
    try:
        with pytest.raises(ExceptionGroup):
            guarded(command)
    finally:
        sys.argv = argv
