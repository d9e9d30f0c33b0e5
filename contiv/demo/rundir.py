"""The run directory of one demo: its lock, its identifier, and the sweep of what a killed demo left.

In: a directory, or none. Out: a locked directory whose ``tag`` names every namespace of this demo. The lock
is the kernel's (flock(2)), so it ends with its process; a directory whose lock is free belongs to nobody, and
so does all that bears its tag: processes inside its namespaces, the namespaces, the files. Nothing else is
ever touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import select
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from contiv.errors import DemoError
from contiv.linux import netns

BASE: Final = Path("/run")
PREFIX: Final = "contiv-demo-"
LOCK: Final = "lock"
MARK: Final = "contiv-demo"
"""Written into the lock file: a directory without it is not ours and is never emptied."""
KILL_GRACE_S: Final = 2.0


class RunDirectory:
    """An async context manager: swept and locked inside, gone afterwards."""

    def __init__(self, path: Path | None = None) -> None:
        self._wanted = path
        self._lock = -1
        self.path = Path()
        self.tag = ""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(sweep, self.path)
        os.close(self._lock)

    def namespace(self, name: str) -> str:
        """The name of one of this demo's namespaces."""
        return f"contiv-{self.tag}-{name}"

    def _open(self) -> None:
        if self._wanted is None:
            _sweep_abandoned()
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=BASE))
        else:
            self.path = self._wanted.absolute()
            self.path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(self.path)
        self.path.chmod(0o755)
        self.tag = tag_of(self.path)
        lock = _try_lock(self.path)
        if lock is None:
            raise DemoError(f"directory {self.path}: another demo runs in it; stop it or choose another directory")
        self._lock = lock
        sweep(self.path, keep_directory=True)
        os.pwrite(lock, f"{MARK} {os.getpid()}\n".encode(), 0)


def tag_of(path: Path) -> str:
    """Six hexadecimal digits that name the directory: the same after a crash, so leftovers are found."""
    return hashlib.sha256(str(path).encode()).hexdigest()[:6]


def sweep(path: Path, *, keep_directory: bool = False) -> None:
    """Remove what a demo in ``path`` left: processes in its namespaces, the namespaces, the files."""
    prefix = f"contiv-{tag_of(path)}-"
    ours = [name for name in netns.names() if name.startswith(prefix)]
    end_processes({netns.identity(netns.path_of(name)) for name in ours})
    for name in ours:
        netns.delete(name)
    for entry in path.iterdir() if path.exists() else ():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if not keep_directory:
        (path / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files: the directory stays with them
            path.rmdir()


def end_processes(inside: set[tuple[int, int]]) -> None:
    """End every process in the namespaces, each by a descriptor of itself: SIGTERM, a grace, SIGKILL."""
    waiting = _processes(inside)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for descriptor in waiting:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            waiting = _still_running(waiting)
    finally:
        for descriptor in waiting:
            os.close(descriptor)


def _still_running(descriptors: list[int]) -> list[int]:
    """Those that have not ended within the grace; the others are closed."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    running = set(descriptors)
    while running:
        ended = poll.poll(KILL_GRACE_S * 1000)
        if not ended:
            break
        for descriptor, _ in ended:
            poll.unregister(descriptor)
            os.close(descriptor)
            running.discard(descriptor)
    return sorted(running)


def _processes(inside: set[tuple[int, int]]) -> list[int]:
    """A pidfd for each process in one of the namespaces. Opened first, looked at then: a reused pid cannot
    slip in.
    """
    found = []
    for entry in Path("/proc").iterdir() if inside else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended while we looked
            descriptor = os.pidfd_open(int(entry.name))
            status = os.stat(entry / "ns" / "net")
            if (status.st_dev, status.st_ino) in inside:
                found.append(descriptor)
            else:
                os.close(descriptor)
    return found


def _sweep_abandoned() -> None:
    """Clean up after demos that were killed and whose directories nobody names any more."""
    for path in BASE.glob(f"{PREFIX}*"):
        lock = _try_lock(path) if (path / LOCK).exists() else None
        if lock is not None:
            sweep(path)
            os.close(lock)


def _try_lock(path: Path) -> int | None:
    """The lock of the directory, or None when a living demo holds it."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _refuse_foreign(path: Path) -> None:
    """A directory with files that no demo made is somebody's: it is not ours to empty."""
    ours = (path / LOCK).exists() and (path / LOCK).read_text(errors="replace").startswith(MARK)
    if not ours and any(path.iterdir()):
        raise DemoError(f"directory {path}: holds files that are not a demo's; choose an empty directory")
