"""One conversation with the kernel's routing netlink, synchronous, for a worker thread that is inside the
namespace.

In: requests, each a pyroute2 message with the words for its error. Out: acknowledgements, checked, or decoded
answers. All requests of a conversation go out in one ``sendmsg``; the kernel works through them in order
before it returns (rtnetlink(7)), so a pod costs two or three system calls and no event loop turns. pyroute2's
own sockets spend about 2 ms of CPU on each call; its message classes, which are what is used here, 0.1 ms.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

import msgspec

from contiv.errors import LinuxError
from contiv.linux.errors import KernelRefusal

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_ACK_TLVS = 1, 2, 4, 0x10, 0x200
REPLACE, EXCL, CREATE, DUMP = 0x100, 0x200, 0x400, 0x300  # linux/netlink.h
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
NLMSGERR_ATTR_MSG: Final = 1
BATCH: Final = 64
"""Requests in one ``sendmsg``. An acknowledgement takes under 1 kB of the socket's 208 kB receive buffer."""
RECEIVE: Final = 256 * 1024
TIMEOUT_S: Final = 10.0
"""The kernel answers at once; only a stuck rtnl lock reaches this."""
DUMP_TRIES: Final = 5

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port (struct nlmsghdr)


class Request(msgspec.Struct, frozen=True):
    """One message and the words for its failure; an errno in ``accept`` is success."""

    kind: int
    flags: int
    message: Any
    subject: str
    field: str
    accept: frozenset[int] = frozenset()


class Conversation:
    """A route netlink socket in the calling thread's namespace. Use as a context manager; not shared by
    threads.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(TIMEOUT_S)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, requests: Iterable[Request]) -> None:
        """Send all, in order; raise ``KernelRefusal`` for the first that was refused. Others are applied."""
        refusals = [refusal for refusal in self.attempt(requests) if refusal is not None]
        if refusals:
            raise refusals[0]

    def attempt(self, requests: Iterable[Request]) -> list[KernelRefusal | None]:
        """Send all, in order; what each came to: None, or the refusal."""
        waiting = list(requests)
        outcomes: list[KernelRefusal | None] = []
        for start in range(0, len(waiting), BATCH):
            outcomes += self._batch(waiting[start : start + BATCH])
        return outcomes

    def get(self, request: Request) -> Any | None:
        """The one object that ``request`` names, decoded; None when the errno is accepted."""
        sequence = self._send([request], extra=0)
        for kind, _, seq, data in self._receive():
            if seq != sequence:
                continue
            if kind == NLMSG_ERROR:
                refusal = _outcome(request, data)
                if refusal is not None:
                    raise refusal
                return None
            return _decoded(request, data)
        raise LinuxError(f"{request.subject}: the kernel did not answer; look at dmesg")

    def dump(self, request: Request) -> list[Any]:
        """All objects that ``request`` selects, decoded; repeated when the kernel says that they changed
        meanwhile.
        """
        for _ in range(DUMP_TRIES):
            found, consistent = self._dump_once(request)
            if consistent:
                return found
        return found

    def _dump_once(self, request: Request) -> tuple[list[Any], bool]:
        sequence = self._send([request], extra=DUMP)
        found: list[Any] = []
        consistent = True
        while True:
            for kind, flags, seq, data in self._receive():
                if seq != sequence:
                    continue
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_DONE:
                    return found, consistent
                if kind == NLMSG_ERROR:
                    refusal = _outcome(request, data)
                    if refusal is not None:
                        raise refusal
                    return found, consistent
                found.append(_decoded(request, data))

    def _batch(self, requests: Sequence[Request]) -> list[KernelRefusal | None]:
        first = self._send(requests, extra=NLM_F_ACK)
        outcomes: dict[int, KernelRefusal | None] = {}
        while len(outcomes) < len(requests):
            for kind, _, seq, data in self._receive():
                if kind == NLMSG_ERROR and 0 <= seq - first < len(requests):
                    outcomes[seq] = _outcome(requests[seq - first], data)
        return [outcomes[first + index] for index in range(len(requests))]

    def _send(self, requests: Sequence[Request], *, extra: int) -> int:
        """Send the requests in one system call; the sequence number of the first."""
        first = self._sequence + 1
        parts = []
        for request in requests:
            self._sequence += 1
            message = request.message
            header = message["header"]
            header["type"] = request.kind
            header["flags"] = NLM_F_REQUEST | request.flags | extra
            header["sequence_number"] = self._sequence
            message.reset()
            message.encode()
            parts.append(bytes(message.data))
        self._socket.send(b"".join(parts))
        return first

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """One datagram as (kind, flags, sequence, whole message) tuples."""
        try:
            data = self._socket.recv(RECEIVE)
        except TimeoutError:
            raise LinuxError(f"netlink: no answer within {TIMEOUT_S:.0f} s; look for a stuck task in dmesg") from None
        messages = []
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            messages.append((kind, flags, sequence, data[offset : offset + length]))
            offset += (length + 3) & ~3
        return messages


def _outcome(request: Request, data: bytes) -> KernelRefusal | None:
    """None for success or an accepted errno, else the refusal with the kernel's own words."""
    (code,) = struct.unpack_from("=i", data, _HEADER.size)
    if code == 0 or -code in request.accept:
        return None
    return KernelRefusal(request.subject, request.field, -code, detail=_words(data))


def _words(data: bytes) -> str:
    """The extended acknowledgement's text, if the kernel sent one (NETLINK_EXT_ACK, capped)."""
    (flags,) = struct.unpack_from("=H", data, 6)
    if not flags & NLM_F_ACK_TLVS:
        return ""
    offset = _HEADER.size + 4 + _HEADER.size
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if kind & 0x3FFF == NLMSGERR_ATTR_MSG:
            return data[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max((length + 3) & ~3, 4)
    return ""


def _decoded(request: Request, data: bytes) -> Any:
    message = type(request.message)(data)
    message.decode()
    return message


def gone(*more: int) -> frozenset[int]:
    """The errnos by which the kernel says that what should go is gone already."""
    return frozenset({errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, *more})


def index_name(index: int) -> str:
    """The name of the link with that index in the calling thread's namespace, for errors."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"link {index} ({os.strerror(errno.ENODEV).lower()})"
