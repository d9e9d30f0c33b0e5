"""``contiv stn`` that waits at one step of taking or giving back, so that a test can kill whom it likes there.

As a program: ``held.py DIRECTORY --config FILE …``. As long as ``DIRECTORY/hold`` is there, the daemon stays where it
has done the step that the file names, and says so by ``DIRECTORY/held``. ``Held`` is the test's side.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from pathlib import Path

POLL_S = 0.005
WAIT_S = 30.0
HOLD, HELD = "hold", "held"


class Held:
    """The daemon that was started with this directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def argv(self, config: Path) -> list[str]:
        """The daemon's command line."""
        return [sys.executable, str(Path(__file__)), str(self._directory), "--config", str(config)]

    def at(self, step: str) -> None:
        """Let the daemon wait once it has done this step."""
        (self._directory / HELD).unlink(missing_ok=True)
        (self._directory / HOLD).write_text(step)

    async def reached(self) -> None:
        """Wait until it has."""
        async with asyncio.timeout(WAIT_S):
            while not (self._directory / HELD).exists():
                await asyncio.sleep(POLL_S)

    def go_on(self) -> None:
        """Let it go on."""
        (self._directory / HOLD).unlink()


def serve(directory: Path, arguments: list[str]) -> None:
    from contiv.cli.main import contiv
    from contiv.stn import main
    from contiv.stn.theft import Theft

    def checkpoint(step: str) -> None:
        while wanted(directory) == step:
            (directory / HELD).touch()
            time.sleep(POLL_S)

    main.Theft = functools.partial(Theft, checkpoint=checkpoint)  # type: ignore[assignment,misc]
    contiv(["stn", *arguments])


def wanted(directory: Path) -> str:
    try:
        return (directory / HOLD).read_text()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
