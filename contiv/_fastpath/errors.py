"""What can go wrong between Python values and VPP's bytes. Raised by the codec, caught by the client's callers.

``SchemaError``: definitions that cannot be used. ``EncodeError``: a value that its field cannot hold, with the path of
the field. ``DecodeError``: bytes that are no such message, with the offset. All are ``VppError`` and ``ValueError``.
"""

from __future__ import annotations

from contiv.errors import VppError


class CodecError(VppError, ValueError):
    """Root of the codec's errors."""


class SchemaError(CodecError):
    """API definitions that are malformed, contradict each other or name what does not exist."""


class EncodeError(CodecError):
    """A value that cannot be sent. ``path`` is the field's path, ``message`` the API message once it is known."""

    def __init__(self, problem: str, *, path: str = "", message: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path
        self.message = message

    def within(self, name: str) -> None:
        """Put the field ``name`` (or an index like ``[3]``) in front of the path."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        self.path = f"{name}{joint}{self.path}"

    def __str__(self) -> str:
        place = f"{self.message}.{self.path}" if self.message and self.path else self.message or self.path
        return f"{place}: {self.problem}" if place else self.problem


class DecodeError(CodecError):
    """Bytes that are no such message: its name and the ``offset`` at which reading them failed."""

    def __init__(self, message: str, offset: int, problem: str = "message ends too early") -> None:
        super().__init__(f"{message}: {problem} at offset {offset}")
        self.message = message
        self.offset = offset
        self.problem = problem
