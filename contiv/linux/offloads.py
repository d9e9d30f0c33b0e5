"""Offload settings of a link by ethtool's ioctl, in the calling thread's namespace.

The single-value commands (linux/ethtool.h) are old and exactly what ``ethtool -K`` falls back to; they need
no tables of feature strings. Why they matter: segmentation offload in a pod collapses TCP over VXLAN on
af_packet to kilobits.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable
from typing import Final

from contiv.errors import LinuxError
from contiv.linux.errors import KernelRefusal, LinkMissing
from contiv.model.linux import Offloads

SIOCETHTOOL: Final = 0x8946
IFNAMSIZ: Final = 16
COMMANDS: Final = {  # name: (get, set), linux/ethtool.h
    "rx-checksum": (0x14, 0x15),
    "tx-checksum": (0x16, 0x17),
    "sg": (0x18, 0x19),
    "tso": (0x1E, 0x1F),
    "gso": (0x23, 0x24),
    "gro": (0x2B, 0x2C),
}


def apply(name: str, offloads: Offloads) -> None:
    """Set what differs, in the order given; ``tx-checksum`` off takes ``tso`` with it."""
    for offload, wanted in offloads:
        if read(name, [offload]) != ((offload, wanted),):
            _call(name, offload, _command(offload)[1], int(wanted))


def read(name: str, which: Iterable[str]) -> Offloads:
    """The state of each offload in ``which``."""
    return tuple((offload, bool(_call(name, offload, _command(offload)[0], 0))) for offload in which)


def _command(offload: str) -> tuple[int, int]:
    try:
        return COMMANDS[offload]
    except KeyError:
        known = ", ".join(sorted(COMMANDS))
        raise LinuxError(f"offload {offload!r}: unknown; choose from {known}") from None


def _call(name: str, offload: str, command: int, value: int) -> int:
    """One ``struct ethtool_value`` behind one ``struct ifreq``."""
    data = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    request = struct.pack(f"{IFNAMSIZ}sP16x", name.encode(), ctypes.addressof(data))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            fcntl.ioctl(channel, SIOCETHTOOL, request)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise LinkMissing(name, "its namespace") from None
            raise KernelRefusal(f"link {name}", f"offload {offload}", error.errno or errno.EIO) from error
    return int(struct.unpack("=II", data.raw)[1])
