"""What is wrong, in one line for operators: how many of it, and the first few by name. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SHOWN: Final = 3
"""Of many names in one line."""


def counted(what: str, names: Sequence[str], *, see: str) -> str:
    """``4 × what: a, b, c, and 1 more: see ...``."""
    more = f", and {len(names) - SHOWN} more: see {see}" if len(names) > SHOWN else ""
    return f"{len(names)} × {what}: {', '.join(names[:SHOWN])}{more}"
