"""STN ends by SIGKILL in the midst of handing the NIC to another driver: the next daemon brings it back.

Each file of sysfs that is written is a point, in both directions (``tests/stn/steps.py``). In the kernel's hands the
NIC is what it was, and its router answers.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Final

from contiv import processes
from contiv.demo import probe
from contiv.linux.netns import Workers
from tests.vm.machine import GATEWAY, NIC, VPP_DRIVER, addresses_stand, driver, eventually, fact, kernel_state

STEPS: Final = Path(__file__).parents[1] / "stn" / "steps.py"
WRITES: Final = ("driver_override", "unbind", "drivers_probe")


async def every_write(journal: Path, daemon: list[str], before: dict[str, str]) -> None:
    """Kill at each of them, start the daemon, and tell how the NIC came back."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    for write in WRITES:
        await _step(journal, "take", write)
        await _came_back(f"killed-taking-{write}", journal, daemon, before)
    for write in WRITES:
        await _step(journal, "take")
        await _step(journal, "back", write)
        await _came_back(f"killed-giving-back-{write}", journal, daemon, before)


async def _step(journal: Path, verb: str, *fatal: str) -> None:
    """One call on a ``Theft``, to its end or to the write that it dies at."""
    argv = [sys.executable, str(STEPS), str(journal), verb, *fatal, "--nic", NIC, "--driver", VPP_DRIVER]
    process = await processes.start("steps", argv, log=Path("/run/steps.log"))
    code = await process.wait()
    assert code == (-signal.SIGKILL if fatal else 0), f"{verb} {fatal} ended with {code}"


async def _came_back(name: str, journal: Path, daemon: list[str], before: dict[str, str]) -> None:
    left_with, started = driver(), time.monotonic()
    process = await processes.start("stn", daemon, log=Path("/run/stn.log"))
    workers = Workers()
    try:

        async def forgotten() -> bool:
            return not journal.exists()

        await eventually(forgotten, f"{name}: the kernel has its NIC")
        reply = await probe.first_reply(workers, "", GATEWAY, timeout_s=30)
        took_s = time.monotonic() - started
        await eventually(addresses_stand, "the kernel has looked for duplicates")
        same = "as it was" if kernel_state() == before else "ANOTHER THAN IT WAS"
        answers = f"answers after {took_s:.1f} s" if reply is not None else "DOES NOT ANSWER"
        fact(name, f"left with {left_with}; {answers}, {same}")
    finally:
        workers.close()
        await process.stop()
