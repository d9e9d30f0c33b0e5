"""Child processes: started in a namespace, logged to a file, gone with us.

In: a command line. Out: a ``Process`` that can be awaited, tailed and stopped. A child dies when we do,
however we do (prctl(2), PR_SET_PDEATHSIG), and is otherwise ended by its pid: SIGTERM, a grace, SIGKILL.
Start them from the main thread: the kernel watches the thread that forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from contiv.errors import ContivError
from contiv.linux import netns as namespaces

STOP_GRACE_S: Final = 3.0
TAIL_LINES: Final = 15
READY_POLL_S: Final = 0.02


class ProcessFailed(ContivError):
    """A child ended, or did not become ready; the text shows the end of its log."""


class Process:
    """One child. ``name`` is for people; ``log`` holds both of its outputs."""

    def __init__(self, name: str, child: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._child = child

    @property
    def pid(self) -> int:
        """The process ID; of no use once ``ended``."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether the child has ended."""
        return self._child.returncode is not None

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._child.wait()

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """SIGTERM, then SIGKILL after ``grace_s``. Idempotent."""
        for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
            if self.ended:
                return
            send_signal(self._child, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._child.wait()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return f"(its log cannot be read: {error.strerror})"

    def failed(self, problem: str) -> ProcessFailed:
        """An error that says what happened to this process and shows the end of its log."""
        return ProcessFailed(f"{self.name}: {problem}; the end of {self.log}:\n{self.tail()}")


def send_signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal a child that may have ended.

    ``child.send_signal`` would reap one that has, by ``Popen.poll``, and asyncio would lose its exit code.
    """
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)


async def start(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    netns: str = namespaces.OWN,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start ``argv`` inside ``netns``, dying with us, outputs to ``log``. It leads a session of its own:
    Ctrl-C is ours.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            *namespaces.command_in(netns, argv, die_with_parent=True),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    return Process(name, child, log)


async def ready(process: Process, check: Callable[[], Awaitable[bool]], *, timeout_s: float, what: str) -> None:
    """Wait until ``check`` holds; ProcessFailed with the log's end if it ends or time runs out first."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await check():
                if process.ended:
                    raise process.failed(f"ended with code {await process.wait()} before {what}")
                await asyncio.sleep(READY_POLL_S)
    except TimeoutError:
        raise process.failed(f"no {what} after {timeout_s:g} s") from None
