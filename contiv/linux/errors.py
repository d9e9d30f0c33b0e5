"""From an errno to a sentence: which object, which field, what the kernel means by it, what to do.

In: the object's words and an errno. Out: ``KernelRefusal``, a ``LinuxError``. Used by every verb of this
package.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from contiv.errors import LinuxError

MEANING: Final = {
    errno.EEXIST: ("something of that name is there already", "remove it or choose another name"),
    errno.ENODEV: ("there is no such link", "create the link first"),
    errno.ENOENT: ("it does not exist", "create it first"),
    errno.EPERM: ("permission denied", "run as root, with CAP_NET_ADMIN and CAP_SYS_ADMIN"),
    errno.EACCES: ("permission denied", "run as root, with CAP_NET_ADMIN and CAP_SYS_ADMIN"),
    errno.ENETUNREACH: (
        "the gateway is not on a connected network",
        "add a link-scope route to the gateway first, or set onlink",
    ),
    errno.ENETDOWN: ("the link is down", "bring the link up first"),
    errno.EADDRNOTAVAIL: ("the address is not there", "add the address first"),
    errno.EOPNOTSUPP: (
        "this kernel or driver does not support it",
        "load the module, or leave the field out",
    ),
    errno.EBUSY: ("the link is in use", "bring it down first"),
    errno.EINVAL: ("the value is out of range or contradicts another", "check the field"),
    errno.ERANGE: ("the value is out of range", "check the field"),
    errno.ENOBUFS: ("the kernel has no memory for it", "free memory, or raise net.core.rmem_max"),
    errno.ENFILE: ("too many open files in the system", "raise fs.file-max"),
    errno.EMFILE: ("too many open files in this process", "raise its limit (ulimit -n)"),
}


class KernelRefusal(LinuxError):
    """The kernel refused ``field`` of ``subject``: ``code`` is the errno, ``detail`` its own words."""

    def __init__(self, subject: str, field: str, code: int, *, detail: str = "") -> None:
        said, remedy = MEANING.get(code, (os.strerror(code).lower(), "see errno(3)"))
        name = errno.errorcode.get(code, str(code))
        extra = f" ({detail.strip().rstrip('.').lower()})" if detail else ""
        super().__init__(f"{subject}: {field}: {said}{extra} [{name}]; {remedy}")
        self.subject = subject
        self.field = field
        self.code = code
        self.detail = detail
        self.remedy = remedy


class NamespaceMissing(LinuxError):
    """The network namespace at ``path`` is gone, or what stands there is none."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"network namespace {path}: {problem}; check that its pod or node still runs")
        self.path = path


class LinkMissing(LinuxError):
    """No link ``name`` in the namespace ``netns``."""

    def __init__(self, name: str, netns: str) -> None:
        super().__init__(f"link {name} in {netns or 'the own namespace'}: not there; create it first")
        self.name = name
        self.netns = netns
