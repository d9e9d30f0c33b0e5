"""The ports that the kernel takes for connections of this network namespace, read from where it keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

SYSCTLS: Final = Path("/proc/sys/net/ipv4")
DEFAULT_RANGE: Final = (32768, 60999)
"""Linux' own (ip(7), ip_local_port_range)."""

Ranges = tuple[tuple[int, int], ...]


def source_ports(sysctls: Path = SYSCTLS) -> Ranges:
    """The ranges that source ports come from; those that an administrator has reserved are left out."""
    try:
        first, last = map(int, (sysctls / "ip_local_port_range").read_text().split())
        reserved = (sysctls / "ip_local_reserved_ports").read_text()
    except (OSError, ValueError):  # a container that hides them, or a file that nobody can read
        return (DEFAULT_RANGE,)
    return tuple(_without((first, last), sorted(_read(reserved))))


def _read(text: str) -> Iterator[tuple[int, int]]:
    """``8080,9000-9010`` as ranges."""
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            yield int(first), int(last or first)


def _without(whole: tuple[int, int], reserved: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, end = whole
    for first, last in reserved:
        if start <= min(first - 1, end):
            yield start, min(first - 1, end)
        start = max(start, last + 1)
    if start <= end:
        yield start, end
