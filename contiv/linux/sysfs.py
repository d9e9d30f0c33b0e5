"""Attributes of a link that only sysfs offers, read and written in the calling thread's network namespace.

``/sys`` of a mount namespace shows the links of the network namespace that it was mounted in, which need not be the
caller's. So each call opens a sysfs of its own, attached nowhere (fsopen(2), Linux 5.2 and later), and drops it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from contiv.linux.errors import KernelRefusal, LinkMissing

SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 430, 431, 432  # asm-generic/unistd.h: the same on every architecture
CLOEXEC: Final = 1
FSCONFIG_CMD_CREATE: Final = 6  # linux/mount.h

_libc: Final = ctypes.CDLL(None, use_errno=True)


def read(link: str, attribute: str) -> int:
    """The number in ``/sys/class/net/<link>/<attribute>``."""
    with _opened(link, attribute, os.O_RDONLY) as descriptor:
        return int(os.read(descriptor, 64))


def write(link: str, attribute: str, value: int) -> None:
    """Write a number there. ``LinkMissing`` without the link, ``KernelRefusal`` when the kernel does not want it."""
    with _opened(link, attribute, os.O_WRONLY) as descriptor:
        try:
            os.write(descriptor, str(value).encode())
        except OSError as error:
            raise KernelRefusal(f"link {link}", f"{attribute} {value}", error.errno or errno.EIO) from error


@contextmanager
def _opened(link: str, attribute: str, flags: int) -> Iterator[int]:
    root = _mounted()
    try:
        descriptor = os.open(f"class/net/{link}/{attribute}", flags | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        raise LinkMissing(link, "its namespace") from None
    except OSError as error:
        raise KernelRefusal(f"link {link}", attribute, error.errno or errno.EIO) from error
    finally:
        os.close(root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _mounted() -> int:
    """A descriptor of the root of a sysfs for this thread's network namespace."""
    context = _call("fsopen", SYS_FSOPEN, b"sysfs", CLOEXEC)
    try:
        _call("fsconfig", SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _call("fsmount", SYS_FSMOUNT, context, CLOEXEC, 0)
    finally:
        os.close(context)


def _call(what: str, number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise KernelRefusal("sysfs", what, ctypes.get_errno())
    return result
