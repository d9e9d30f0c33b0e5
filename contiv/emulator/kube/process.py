"""The emulated API server as a process of its own: its main coroutine and a helper that starts it.

``run`` serves until SIGTERM or SIGINT and prints one ready line, ``ready http://127.0.0.1:34567``, on standard output.
``spawn`` starts ``python -m contiv.emulator.kube``, waits for that line, and the child dies with its parent
(PR_SET_PDEATHSIG), however the parent ends. Refuses to wait longer than ``READY_TIMEOUT_S``.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from contiv.emulator.kube.cluster import SERVICE_CIDR, Settings
from contiv.emulator.kube.emulated import EmulatedKube, parse_listen
from contiv.emulator.kube.store import HISTORY_EVENTS_MAX
from contiv.errors import KubeError

READY_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


class KubeProcess(msgspec.Struct, frozen=True):
    """A running emulator: its process id and the address of its API."""

    pid: int
    url: str


async def run(
    *,
    listen: str = "127.0.0.1:0",
    data: str | None = None,
    service_cidr: str = SERVICE_CIDR,
    write_kubeconfig: str | None = None,
    history_max: int = HISTORY_EVENTS_MAX,
    bookmark_interval_s: float = 10.0,
    die_with_parent: bool = False,
) -> None:
    """Serve until told to stop by a signal."""
    if die_with_parent:
        _die_with_parent()
    host, port = parse_listen(listen)
    settings = Settings(
        service_cidr=service_cidr, history_max=history_max, bookmark_interval_s=bookmark_interval_s, data=data
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with EmulatedKube(settings, host=host, port=port) as kube:
        if write_kubeconfig:
            kube.write_kubeconfig(write_kubeconfig)
        print(f"ready {kube.url}", flush=True)
        await stopped.wait()


def _die_with_parent() -> None:
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise KubeError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # The parent may have gone before prctl took effect.
    if os.getppid() != parent:
        raise KubeError("parent process is gone; not starting")


@asynccontextmanager
async def spawn(*arguments: str) -> AsyncIterator[KubeProcess]:
    """Start the emulator with command-line arguments; it is stopped when the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "contiv.emulator.kube",
        "--die-with-parent",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield KubeProcess(process.pid, await _ready(process))
    finally:
        await _stop(process)


async def _ready(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            line = (await process.stdout.readline()).decode()
    except TimeoutError as error:
        raise KubeError(f"emulated API server: not ready within {READY_TIMEOUT_S} s") from error
    word, _, url = line.strip().partition(" ")
    if word != "ready":
        raise KubeError(f"emulated API server: ended before it was ready, said {line!r}")
    return url


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
