"""Addresses and networks as integers. Text is parsed once, at the edge, and made again only for people and JSON.

``Address`` and ``Network`` are small frozen values: hashable, ordered, cheap to compare. ``ipaddress`` from the
standard library does the parsing of text; nothing past the edge pays for its objects.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Literal

import msgspec

BITS: Final = {4: 32, 6: 128}
_OCTETS: Final = tuple(map(str, range(256)))
"""Keys are made of addresses by the thousand; numbers take twice the time."""


class Address(msgspec.Struct, frozen=True, order=True, gc=False):
    """One IP address: ``version`` 4 or 6, ``value`` as an unsigned integer in host order."""

    version: Literal[4, 6]
    value: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that ``text`` names; ValueError when it names none."""
        parsed = ipaddress.ip_address(text)
        return cls(parsed.version, int(parsed))

    @property
    def packed(self) -> bytes:
        """The address in network order, 4 or 16 bytes."""
        return self.value.to_bytes(BITS[self.version] // 8, "big")

    @property
    def host_network(self) -> Network:
        """The network of this address alone: /32 or /128."""
        return Network(self.version, self.value, BITS[self.version])

    def __str__(self) -> str:
        value, octets = self.value, _OCTETS
        if self.version == 4:
            return f"{octets[value >> 24]}.{octets[value >> 16 & 255]}.{octets[value >> 8 & 255]}.{octets[value & 255]}"
        return str(ipaddress.IPv6Address(value))


class Network(msgspec.Struct, frozen=True, order=True, gc=False):
    """An IP network, or an interface address with its prefix length: host bits are kept where they are given."""

    version: Literal[4, 6]
    value: int
    length: int

    @classmethod
    def parse(cls, text: str, *, strict: bool = True) -> Network:
        """``text`` as CIDR. ``strict`` refuses host bits (a network); without it they stay (an interface address).

        ValueError when the text is no CIDR, or has host bits under ``strict``.
        """
        if strict:
            parsed = ipaddress.ip_network(text)
            return cls(parsed.version, int(parsed.network_address), parsed.prefixlen)
        interface = ipaddress.ip_interface(text)
        return cls(interface.version, int(interface.ip), interface.network.prefixlen)

    @property
    def address(self) -> Address:
        """The address as it stands, host bits included."""
        return Address(self.version, self.value)

    @property
    def network(self) -> Network:
        """The same network with its host bits cleared."""
        return Network(self.version, self.value & self.mask, self.length)

    @property
    def mask(self) -> int:
        """The netmask as an integer."""
        bits = BITS[self.version]
        return ((1 << self.length) - 1) << (bits - self.length)

    @property
    def size(self) -> int:
        """How many addresses the network holds."""
        return 1 << (BITS[self.version] - self.length)

    def __contains__(self, address: Address) -> bool:
        free = BITS[self.version] - self.length
        return address.version == self.version and address.value >> free == self.value >> free

    def overlaps(self, other: Network) -> bool:
        """Whether the two networks share an address."""
        wider, narrower = (self, other) if self.length <= other.length else (other, self)
        return narrower.address in wider

    def host(self, index: int) -> Address:
        """The address ``index`` places after the network's first; IndexError past its end."""
        if not 0 <= index < self.size:
            raise IndexError(f"{self} has no host number {index}")
        return Address(self.version, (self.value & self.mask) + index)

    def subnet(self, index: int, length: int) -> Network:
        """Subnet number ``index`` of those with prefix ``length``; IndexError when it lies outside."""
        if length < self.length or not 0 <= index < 1 << (length - self.length):
            raise IndexError(f"{self} has no /{length} subnet number {index}")
        base = (self.value & self.mask) | index << (BITS[self.version] - length)
        return Network(self.version, base, length)

    def with_host(self, index: int) -> Network:
        """The interface address of host ``index``: its address with this network's prefix length."""
        return Network(self.version, self.host(index).value, self.length)

    def __str__(self) -> str:
        return f"{self.address}/{self.length}"
