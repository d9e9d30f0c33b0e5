"""Grace periods of the kernel's RCU cut short while several callers wait for some.

VPP's one thread waits for two grace periods, some 20 ms each, for every af_packet interface that it makes, and
forwards nothing meanwhile. Expedited ones take tens of microseconds and cost each processor an interrupt
(``rcu_expedited``, Documentation/ABI/testing/sysfs-kernel-rcu). One interface is not worth that, a hundred are.

The switch is the whole machine's: who finds it on leaves it on, who turned it on turns it off, and a note on disk has
``contiv init``, or the next agent, turn it off where an agent was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

SWITCH: Final = Path("/sys/kernel/rcu_expedited")
NOTE: Final = "rcu-expedited"
"""The note's name in the run directory, which, as the switch, does not outlive the machine."""
MANY: Final = 2
"""Callers at once from which on it is turned on."""


class Expedition:
    """One process's hold on the switch. Not for several threads."""

    def __init__(self, run_dir: Path, *, switch: Path = SWITCH) -> None:
        self._note = run_dir / NOTE
        self._switch = switch
        self._waiting = 0
        self._refused = False
        settle(run_dir, switch=switch)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The caller waits for the kernel meanwhile; a kernel that has no such switch is no error."""
        self._waiting += 1
        if self._waiting == MANY:
            self._turn_on()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                settle(self._note.parent, switch=self._switch)

    def _turn_on(self) -> None:
        try:
            if self._refused or int(self._switch.read_text()):
                return
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.touch()
            self._switch.write_text("1")
        except OSError as error:
            self._refused = True
            self._note.unlink(missing_ok=True)
            log.info("interfaces take the kernel's ordinary time", switch=str(self._switch), error=str(error))


def settle(run_dir: Path, *, switch: Path = SWITCH) -> None:
    """Turn the switch off if an agent with that run directory has it on."""
    note = run_dir / NOTE
    if not note.exists():
        return
    try:
        switch.write_text("0")
        note.unlink(missing_ok=True)
    except OSError as error:
        log.warning("RCU stays expedited", switch=str(switch), error=str(error), remedy="write 0 to it")
