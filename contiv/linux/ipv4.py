"""Whether the host's own IPv4 stack takes part in what a link receives, in the calling thread's namespace.

A link that only carries frames for somebody else (a data plane that reads it by a packet socket) still hands them to
the kernel's stack, which answers what is for one of its addresses and, where it forwards, sends copies of all the
rest. Deaf, the link forwards nothing, and strict reverse path filtering (RFC 3704) drops what would be for the host:
its sources are reached by other links. The kernel takes the larger of this filter's mode and that of ``all``
(Documentation/networking/ip-sysctl.rst), so a host that sets ``all`` to 2, loose, goes on to answer.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from contiv.linux.errors import KernelRefusal

DEAF: Final = {"rp_filter": "1", "forwarding": "0"}


def is_deaf(name: str) -> bool:
    """Whether the link's settings keep the host's stack out."""
    try:
        return all(_file(name, setting).read_text().strip() == value for setting, value in DEAF.items())
    except FileNotFoundError:
        return False


def make_deaf(name: str) -> None:
    """Keep the host's stack out."""
    try:
        for setting, value in DEAF.items():
            _file(name, setting).write_text(value)
    except OSError as error:
        raise KernelRefusal(f"link {name}", "deaf to IPv4", error.errno or errno.EIO) from error


def _file(name: str, setting: str) -> Path:
    return Path(f"/proc/sys/net/ipv4/conf/{name}/{setting}")
