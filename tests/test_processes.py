"""Child processes: outputs, exit codes, ends in order and by force, errors that show the log."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from contiv import processes
from contiv.processes import ProcessFailed


async def _never() -> bool:
    return False


async def test_outputs_go_to_the_log_and_the_exit_code_comes_back(tmp_path: Path) -> None:
    script = "echo out; echo err >&2; exit 3"
    child = await processes.start("x", ["sh", "-c", script], log=tmp_path / "new" / "x.log")
    assert await child.wait() == 3
    assert child.ended
    assert child.tail().splitlines() == ["out", "err"]
    assert child.tail(1) == "err"


async def test_stopping_is_gentle_first_then_by_force_and_idempotent(tmp_path: Path) -> None:
    gentle = await processes.start(
        "g", ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"], log=tmp_path / "g"
    )
    stubborn = await processes.start(
        "s", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], log=tmp_path / "s"
    )
    for child in (gentle, stubborn):

        async def up(child: processes.Process = child) -> bool:
            return "up" in child.tail()

        await processes.ready(child, up, timeout_s=5, what="output")
    await asyncio.gather(gentle.stop(), stubborn.stop(grace_s=0.1))
    assert (await gentle.wait(), await stubborn.wait()) == (0, -9)
    assert "bye" in gentle.tail()
    await gentle.stop()


async def test_one_that_ends_before_it_is_ready_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    child = await processes.start("x", ["sh", "-c", "echo no such NIC; exit 4"], log=tmp_path / "x.log")
    with pytest.raises(ProcessFailed, match="x: ended with code 4 before socket") as caught:
        await processes.ready(child, _never, timeout_s=5, what="socket")
    assert "no such NIC" in str(caught.value)


async def test_one_that_never_gets_ready_is_an_error(tmp_path: Path) -> None:
    child = await processes.start("x", ["sleep", "60"], log=tmp_path / "x.log")
    with pytest.raises(ProcessFailed, match=r"x: no socket after 0\.05 s"):
        await processes.ready(child, _never, timeout_s=0.05, what="socket")
    await child.stop()


async def test_a_signal_to_a_child_that_has_ended_keeps_its_exit_code(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if sys.version_info < (3, 12):  # the default watcher's threads would be first to reap the child
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)
        request.addfinalizer(lambda: asyncio.set_child_watcher(None))
    child = await processes.start("x", ["sh", "-c", "exit 5"], log=tmp_path / "x.log")
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass  # the loop must not run, or it would reap the child
    await child.stop()
    assert await child.wait() == 5
