"""Who VPP is and whether it lives, asked of the kernel: whoever accepts on VPP's API socket is VPP (SO_PEERCRED), and a
process's end is an event on its pidfd. Both must be in the daemon's PID namespace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from pathlib import Path
from typing import Final

from contiv.stn.errors import StnError
from contiv.stn.model import Confirmation

CONNECT_TIMEOUT_S: Final = 2.0
START_FIELD: Final = 19
"""``starttime`` in /proc/PID/stat, counted from the field behind the parenthesised name (proc(5))."""
_UCRED: Final = struct.Struct("3i")


async def behind(path: str) -> Confirmation:
    """The process that listens on the Unix socket at ``path``; StnError when none does."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        probe.setblocking(False)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(probe, path)
        pid = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
    except (OSError, TimeoutError) as error:
        raise StnError(f"VPP at {path}: does not answer ({error or 'timeout'}); see its log") from error
    finally:
        probe.close()
    started = _started(pid)
    if started is None:
        raise StnError(f"VPP at {path}: its process {pid} cannot be seen; run it and this daemon in one PID namespace")
    return Confirmation(pid=pid, started=started)


def is_alive(process: Confirmation) -> bool:
    """Whether that very process still runs."""
    return _started(process.pid) == process.started


async def ended(process: Confirmation) -> None:
    """Return when the process has ended, at once if it has already."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(process):  # the number belongs to another process now
            return
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


async def kill(process: Confirmation) -> None:
    """End the process at once and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if is_alive(process):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    await ended(process)


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[START_FIELD])
