"""Network namespaces: made, found, entered. The only place that calls ``setns`` and ``unshare``.

A namespace belongs to a thread, not to a process, so nothing here ever changes the namespace of the caller:
work runs on threads of ``Workers``, which enter the namespace that a job names before it and go home after
it. Every job enters, also those for the own namespace, so that a thread that could not go home can do no
harm. A child process enters by ``command_in``: a launcher of a few lines, because code between fork and exec
is unsafe in a process with threads.

Namespaces with a name are bind mounts under ``/var/run/netns``, as iproute2 makes them (ip-netns(8)).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from contiv.errors import LinuxError
from contiv.linux.errors import KernelRefusal, NamespaceMissing

NAMED: Final = Path("/var/run/netns")
OWN: Final = ""
CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h
MS_BIND, MS_REC, MS_SHARED = 0x1000, 0x4000, 0x100000  # linux/mount.h
MNT_DETACH: Final = 2
WORKERS: Final = 8
"""Threads that wait for the kernel. Netlink work holds one lock in the kernel (rtnl), so more would only
queue there.
"""

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> str:
    """The path of the namespace called ``name``."""
    if not name or "/" in name or name in {".", ".."}:
        raise LinuxError(f"network namespace {name!r}: not a name; use letters, digits, '-' and '_'")
    return str(NAMED / name)


def open_namespace(path: str) -> int:
    """A descriptor of the network namespace at ``path`` (``""``: the process's own); the caller closes it.

    ``NamespaceMissing`` when nothing is there or when it is no network namespace.
    """
    place = path or "/proc/self/ns/net"
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        raise NamespaceMissing(path, "not there") from None
    except OSError as error:
        raise KernelRefusal(f"network namespace {path}", "path", error.errno or errno.EIO) from error
    try:
        kind = fcntl.ioctl(descriptor, NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(descriptor)
        raise NamespaceMissing(path, "no network namespace stands there")
    return descriptor


def identity(path: str) -> tuple[int, int]:
    """Device and inode of the namespace: equal for two paths exactly when they are one namespace
    (ioctl_ns(2)).
    """
    descriptor = open_namespace(path)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_dev, status.st_ino


def exists(path: str) -> bool:
    """Whether a network namespace stands at ``path``."""
    try:
        os.close(open_namespace(path))
    except NamespaceMissing:
        return False
    return True


def names() -> list[str]:
    """The named namespaces, sorted. Files that are not mounted namespaces (leftovers) are no namespaces."""
    try:
        entries = sorted(entry.name for entry in NAMED.iterdir())
    except FileNotFoundError:
        return []
    return [name for name in entries if exists(str(NAMED / name))]


def create(name: str) -> str:
    """Make a named namespace, unless it is there, and return its path. ``lo`` stays down."""
    path = path_of(name)
    if exists(path):
        return path
    _share_directory()
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o444))
    failures: list[OSError] = []
    thread = threading.Thread(target=_unshare_onto, args=(path, failures), name=f"netns-{name}")
    thread.start()
    thread.join()
    if failures:
        Path(path).unlink(missing_ok=True)
        raise KernelRefusal(f"network namespace {path}", "creation", failures[0].errno or errno.EIO)
    return path


def delete(name: str) -> None:
    """Take the name away; the namespace itself goes when its last process, socket and descriptor do."""
    path = path_of(name)
    if _libc.umount2(path.encode(), MNT_DETACH) != 0:
        code = ctypes.get_errno()
        if code not in {errno.EINVAL, errno.ENOENT}:
            raise KernelRefusal(f"network namespace {path}", "unmount", code)
    Path(path).unlink(missing_ok=True)


def command_in(netns: str, argv: Sequence[str], *, die_with_parent: bool = False) -> list[str]:
    """The command line that runs ``argv`` inside ``netns``.

    With ``die_with_parent`` the kernel kills it when the thread that started it ends (prctl(2),
    PR_SET_PDEATHSIG): start such children from the main thread.
    """
    launcher = str(Path(__file__).with_name("launch.py"))
    options = ["--die-with-parent"] if die_with_parent else []
    return [sys.executable, "-I", "-S", launcher, *options, netns or "-", *argv]


class Workers:
    """A bounded pool of threads for work in namespaces. One per process is enough; ``close`` waits for what
    runs.
    """

    def __init__(self, threads: int = WORKERS) -> None:
        self._home = open_namespace(OWN)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="netns")

    async def inside(self, netns: str, work: Callable[[], T]) -> T:
        """The result of ``work()`` run on a thread that is inside ``netns``. Cancelling does not stop the
        thread.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, netns, work)

    async def in_turn(self, first: tuple[str, Callable[[], object]], then: tuple[str, Callable[[], T]]) -> T:
        """Two pieces of work, each with its namespace, one after the other on one thread: the result of the second.

        A thread that is woken costs a busy event loop more than both pieces of netlink work.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run_in_turn, first, then)

    def close(self) -> None:
        """End the threads and give back the descriptor."""
        self._pool.shutdown()
        os.close(self._home)

    def _run(self, netns: str, work: Callable[[], T]) -> T:
        with self._entered(netns):
            return work()

    def _run_in_turn(self, first: tuple[str, Callable[[], object]], then: tuple[str, Callable[[], T]]) -> T:
        self._run(*first)
        return self._run(*then)

    @contextmanager
    def _entered(self, netns: str) -> Iterator[None]:
        target = self._home if netns == OWN else open_namespace(netns)
        try:
            _setns(target, netns)
        finally:
            if target != self._home:
                os.close(target)
        try:
            yield
        finally:
            if netns != OWN:
                _setns(self._home, OWN)


def _setns(descriptor: int, netns: str) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise KernelRefusal(f"network namespace {netns or '(own)'}", "setns", ctypes.get_errno())


def _unshare_onto(path: str, failures: list[OSError]) -> None:
    """In a thread of its own, which ends with the new namespace: unshare, then mount it onto ``path``."""
    try:
        _unshare()
        _mount(f"/proc/self/task/{threading.get_native_id()}/ns/net", path, MS_BIND)
    except OSError as error:
        failures.append(error)


def _unshare() -> None:
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _share_directory() -> None:
    """Make the directory a shared mount of its own, so that other mount namespaces see its mounts."""
    NAMED.mkdir(parents=True, exist_ok=True)
    place = str(NAMED.resolve())
    try:
        _mount("", place, MS_SHARED | MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise KernelRefusal(f"directory {place}", "mount", error.errno or errno.EIO) from error
        _mount(place, place, MS_BIND | MS_REC)
        _mount("", place, MS_SHARED | MS_REC)


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), b"none", flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")
