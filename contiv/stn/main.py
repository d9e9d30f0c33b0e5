"""The STN daemon's composition root: journal, keeper, socket. Ends at SIGTERM and leaves a theft as it is; the one that
starts next takes it up. ``release`` is what an uninstallation runs: by the daemon if it lives, else without it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

import structlog

from contiv.config import Config
from contiv.stn import server
from contiv.stn.client import StnClient
from contiv.stn.errors import StnUnreachable
from contiv.stn.journal import Journal
from contiv.stn.keeper import Keeper
from contiv.stn.theft import Theft

log = structlog.get_logger(__name__)

RECORD: Final = "stn"
"""The record's file in ``stateDir``."""


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    keeper = Keeper(_theft(config), grace_s=config.stn_grace_s)
    await keeper.start()
    try:
        async with server.serve(keeper, socket=Path(config.stn_socket_file)):
            await stop.wait()
    finally:
        await keeper.stop()


async def release(config: Config) -> None:
    """Give a stolen NIC back."""
    try:
        await StnClient(config.stn_socket_file).release()
    except StnUnreachable as error:
        log.info("giving back without the daemon", reason=str(error))
        await asyncio.to_thread(_theft(config).give_back)


def _theft(config: Config) -> Theft:
    return Theft(Journal(Path(config.state_dir) / RECORD))
