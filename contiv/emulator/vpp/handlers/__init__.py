"""Handlers of the binary API, one module for each of VPP's: message in, changes to the machine, reply fields out.

A handler is a method named as its message. A request's handler returns its reply's fields (None: retval alone) or
raises ``Refusal``; a dump's returns the fields of its details. ``collect`` finds all of them for the server.
A handler marked ``from_wire`` gets its message as it came, for arrays that are better read by the thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

Fields = Mapping[str, Any]
Handler = Callable[[Any], Fields | Iterable[Fields] | None]
H = TypeVar("H", bound=Callable[..., Any])


class WireMessage(NamedTuple):
    """A request that nobody has decoded: the bytes of the message from its number on."""

    context: int
    data: bytes


def from_wire(handler: H) -> H:
    """Mark a handler that takes a ``WireMessage``."""
    handler.from_wire = True  # type: ignore[attr-defined]  # functions take attributes
    return handler


def collect(parts: Iterable[object], names: Iterable[str]) -> dict[str, Handler]:
    """The handlers among the methods of ``parts`` for the messages in ``names``."""
    known = set(names)
    found: dict[str, Handler] = {}
    for part in parts:
        for name in dir(part):
            if name in known:
                found[name] = getattr(part, name)
    return found
