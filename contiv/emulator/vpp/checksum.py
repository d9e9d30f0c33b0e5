"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624), over plain bytes.

The one's complement sum of 16-bit words is congruent to the whole string read as one big-endian number modulo
65,535. CPython does that division at memory speed, which no loop over words in Python comes near.
"""

from __future__ import annotations

from typing import Final

_MODULUS: Final = 0xFFFF


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """One's complement sum of ``data`` as 16-bit words, 0 only for data that is all zero; odd data is padded."""
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    if not number:
        return 0
    return number % _MODULUS or _MODULUS


def checksum(data: bytes | bytearray | memoryview, *, initial: int = 0) -> int:
    """The checksum to write into a header whose checksum field is zero; ``initial`` is a pseudo header's sum."""
    total = ones_sum(data) + initial
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def is_valid(data: bytes | bytearray | memoryview) -> bool:
    """Whether ``data``, its checksum field included, sums up to minus zero."""
    return ones_sum(data) == _MODULUS


def update(current: int, old: int, new: int) -> int:
    """The checksum ``current`` after one 16-bit word changed from ``old`` to ``new`` (RFC 1624, equation 3)."""
    total = (~current & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def update32(current: int, old: int, new: int) -> int:
    """The checksum after one 32-bit word (an IPv4 address) changed from ``old`` to ``new``."""
    return update(update(current, old >> 16, new >> 16), old & 0xFFFF, new & 0xFFFF)


def pseudo_sum4(source: int, destination: int, *, protocol: int, length: int) -> int:
    """Folded sum of the IPv4 pseudo header of TCP and UDP (RFC 793, RFC 768)."""
    total = (source >> 16) + (source & 0xFFFF) + (destination >> 16) + (destination & 0xFFFF) + protocol + length
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def pseudo_sum6(source: int, destination: int, *, protocol: int, length: int) -> int:
    """Folded sum of the IPv6 pseudo header (RFC 8200, section 8.1)."""
    words = source.to_bytes(16, "big") + destination.to_bytes(16, "big")
    total = ones_sum(words) + (length >> 16) + (length & 0xFFFF) + protocol
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)
