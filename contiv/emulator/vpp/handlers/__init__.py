"""Handlers of the binary API, one module for each of VPP's: message in, changes to the machine, reply fields out.

A handler is a method named as its message. A request's handler returns its reply's fields (None: retval alone) or
raises ``Refusal``; a dump's returns the fields of its details. ``collect`` finds all of them for the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Fields = Mapping[str, Any]
Handler = Callable[[Any], Fields | Iterable[Fields] | None]


def collect(parts: Iterable[object], names: Iterable[str]) -> dict[str, Handler]:
    """The handlers among the methods of ``parts`` for the messages in ``names``."""
    known = set(names)
    found: dict[str, Handler] = {}
    for part in parts:
        for name in dir(part):
            if name in known:
                found[name] = getattr(part, name)
    return found
