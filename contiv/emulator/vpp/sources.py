"""FIB sources: who gave a prefix its paths. The best one present forwards; clients may add sources of their own.

Numbers, priorities and names are those of vnet/fib/fib_source.h; the API shows them.
"""

from __future__ import annotations

from typing import Final

import msgspec

SOURCES_MAX: Final = 255
"""``fib_source`` is one byte."""


class Source(msgspec.Struct, frozen=True, order=True):
    """One source; sources order by priority, best first."""

    priority: int
    id: int
    name: str


INVALID: Final = Source(255, 0, "invalid")
SPECIAL: Final = Source(0x00, 1, "special")
PROXY: Final = Source(0x02, 3, "proxy")
INTERFACE: Final = Source(0x03, 4, "interface")
API: Final = Source(0x80, 8, "API")
CLI: Final = Source(0x81, 9, "CLI")
ADJACENCY: Final = Source(0xD0, 15, "adjacency")
RECURSION: Final = Source(0xFB, 18, "recursive-resolution")
DEFAULT_ROUTE: Final = Source(0xFD, 20, "default-route")
NAT_LOW: Final = Source(0xD0, 24, "nat-low")

_BUILTIN: Final = (
    INVALID,
    SPECIAL,
    Source(0x01, 2, "classify"),
    PROXY,
    INTERFACE,
    Source(0x10, 5, "SR"),
    Source(0x20, 6, "BIER"),
    Source(0x30, 7, "6RD"),
    API,
    CLI,
    Source(0x90, 10, "LISP"),
    Source(0xA0, 11, "MAP"),
    Source(0xB0, 12, "DHCP"),
    Source(0xC0, 13, "IPv6-proxy-nd"),
    Source(0xC1, 14, "IPv6-nd"),
    ADJACENCY,
    Source(0xE0, 16, "mpls"),
    Source(0xF0, 17, "attached_export"),
    RECURSION,
    Source(0xFC, 19, "urpf-exempt"),
    DEFAULT_ROUTE,
    Source(0xFE, 21, "interpose"),
    Source(0x10, 22, "path-mtu"),
    Source(0x02, 23, "cnat"),
    NAT_LOW,
    Source(0x10, 25, "nat-hi"),
)


class SourceTable:
    """The sources by number."""

    def __init__(self) -> None:
        self._by_id = {source.id: source for source in _BUILTIN}

    def all(self) -> list[Source]:
        """Every source, by number."""
        return [self._by_id[number] for number in sorted(self._by_id)]

    def get(self, number: int) -> Source | None:
        """The source with this number."""
        return self._by_id.get(number)

    def add(self, name: str, priority: int) -> Source | None:
        """A source of a client's own; None when there is no number left."""
        number = len(self._by_id)
        if number > SOURCES_MAX:
            return None
        made = self._by_id[number] = Source(priority, number, name)
        return made
