"""The debug CLI's Unix socket, for ``vppctl -s cli.sock show interface`` and for plain lines.

vppctl waits for the server to ask for its terminal type, then sends one command and takes a NUL byte for the end of
the answer (vpp/app/vppctl.c); telnet commands of the client are skipped. ``quit`` closes.
"""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path
from select import EPOLLERR, EPOLLHUP, EPOLLIN
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from contiv.emulator.vpp.serve.cli import Cli
    from contiv.emulator.vpp.serve.loop import Loop

ASK_TERMINAL: Final = bytes((255, 250, 24, 1, 255, 240))
"""IAC SB TERMINAL-TYPE SEND IAC SE (RFC 1091)."""
_TELNET: Final = re.compile(rb"\xff\xfa.*?\xff\xf0|\xff[\xfb-\xfe].", re.DOTALL)
LINE_MAX: Final = 64 * 1024
SESSIONS_MAX: Final = 64
WRITE_TIMEOUT_S: Final = 0.2
"""A reader of the CLI that takes longer loses its session: packets wait meanwhile."""


class CliServer:
    """The listening socket and its sessions."""

    def __init__(self, loop: Loop, cli: Cli) -> None:
        self._loop = loop
        self._cli = cli
        self._listener: socket.socket | None = None
        self._path = Path()
        self._sessions: dict[int, socket.socket] = {}

    def serve(self, path: str) -> None:
        """Listen at ``path``."""
        self._path = Path(path)
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(path)
        self._listener.listen(SESSIONS_MAX)
        self._loop.watch_control(self._listener, self._accept)

    def close(self) -> None:
        """Stop listening, end the sessions, remove the socket."""
        for session in list(self._sessions.values()):
            self._drop(session)
        if self._listener is not None:
            self._loop.forget(self._listener)
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def _accept(self, mask: int) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            session, _ = self._listener.accept()
            if len(self._sessions) >= SESSIONS_MAX:
                session.close()
                return
            session.settimeout(WRITE_TIMEOUT_S)
            self._sessions[session.fileno()] = session
            pending = bytearray()
            self._loop.watch_control(session, lambda mask: self._ready(session, pending, mask))
            self._send(session, ASK_TERMINAL)

    def _ready(self, session: socket.socket, pending: bytearray, mask: int) -> None:
        try:
            data = session.recv(4096) if mask & EPOLLIN else b""
        except OSError:
            data = b""
        if not data or mask & EPOLLERR or len(pending) > LINE_MAX or (mask & EPOLLHUP and not mask & EPOLLIN):
            self._drop(session)
            return
        pending += data
        pending[:] = _TELNET.sub(b"", bytes(pending)).replace(b"\0", b"")
        while b"\n" in pending:
            line, _, rest = bytes(pending).partition(b"\n")
            pending[:] = rest
            if line.strip() in {b"quit", b"q", b"exit"}:
                self._drop(session)
                return
            text, _ = self._cli.answer(line.decode(errors="replace")) if line.strip() else ("", True)
            if not self._send(session, text.encode() + b"\0"):
                return

    def _send(self, session: socket.socket, data: bytes) -> bool:
        try:
            session.sendall(data)
        except OSError:
            self._drop(session)
            return False
        return True

    def _drop(self, session: socket.socket) -> None:
        if self._sessions.pop(session.fileno(), None) is not None:
            self._loop.forget(session)
            session.close()
