"""contiv.linux.rcu: the switch is on while several wait, and afterwards as it was found, whoever dies."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from contiv.linux.rcu import Expedition, settle


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    return path


def state(switch: Path) -> int:
    return int(switch.read_text())


def test_on_while_several_wait_until_the_last_is_done(switch: Path, tmp_path: Path) -> None:
    expedition = Expedition(tmp_path / "run", switch=switch)
    first, second = ExitStack(), ExitStack()
    first.enter_context(expedition.waiting())
    assert state(switch) == 0, "one interface is not worth it"
    second.enter_context(expedition.waiting())
    assert state(switch) == 1
    second.close()
    assert state(switch) == 1, "one still waits"
    first.close()
    assert state(switch) == 0
    with expedition.waiting(), expedition.waiting():
        assert state(switch) == 1


def test_a_switch_that_was_on_stays_on(switch: Path, tmp_path: Path) -> None:
    switch.write_text("1\n")
    expedition = Expedition(tmp_path / "run", switch=switch)
    with expedition.waiting(), expedition.waiting():
        assert state(switch) == 1
    assert state(switch) == 1


def test_the_next_process_turns_off_what_a_killed_one_left_on(switch: Path, tmp_path: Path) -> None:
    killed = ExitStack()
    former = Expedition(tmp_path / "run", switch=switch)
    killed.enter_context(former.waiting())
    killed.enter_context(former.waiting())
    assert state(switch) == 1
    Expedition(tmp_path / "run", switch=switch)
    assert state(switch) == 0
    Expedition(tmp_path / "run", switch=switch)  # the note is gone: what is on from now on is somebody else's
    switch.write_text("1\n")
    Expedition(tmp_path / "run", switch=switch)
    assert state(switch) == 1


def test_whoever_started_the_killed_one_turns_it_off_and_nobody_elses(switch: Path, tmp_path: Path) -> None:
    killed = ExitStack()
    former = Expedition(tmp_path / "run", switch=switch)
    killed.enter_context(former.waiting())
    killed.enter_context(former.waiting())
    settle(tmp_path / "another", switch=switch)
    assert state(switch) == 1
    settle(tmp_path / "run", switch=switch)
    assert state(switch) == 0


def test_a_kernel_without_the_switch_is_no_error(tmp_path: Path) -> None:
    expedition = Expedition(tmp_path / "run", switch=tmp_path / "none")
    for _ in range(2):
        with expedition.waiting(), expedition.waiting():
            pass
    assert not list(tmp_path.rglob("rcu*"))
