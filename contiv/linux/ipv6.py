"""IPv6 of one link on or off, in the calling thread's namespace (``/proc/sys/net`` shows the reader's
namespace).

Netlink has no message for it. A kernel without IPv6 has no such file, which is "off" already.
"""

from __future__ import annotations

import errno
from pathlib import Path

from contiv.linux.errors import KernelRefusal


def enabled(name: str) -> bool:
    """Whether the link has IPv6."""
    try:
        return _file(name).read_text().strip() == "0"
    except FileNotFoundError:
        return False


def set_enabled(name: str, on: bool) -> None:
    """Switch IPv6 of the link; switching it on where the kernel has none is refused."""
    place = _file(name)
    try:
        if (place.read_text().strip() == "0") != on:
            place.write_text("0" if on else "1")
    except FileNotFoundError:
        if on:
            raise KernelRefusal(f"link {name}", "ipv6 on", errno.EOPNOTSUPP) from None
    except OSError as error:
        raise KernelRefusal(f"link {name}", f"ipv6 {'on' if on else 'off'}", error.errno or errno.EIO) from error


def _file(name: str) -> Path:
    return Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
