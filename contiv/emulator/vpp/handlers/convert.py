"""Between the codec's values (``ipaddress`` objects, MAC addresses) and the machine's integers and bytes."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Entry

AnyAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def address(version: int, value: int) -> AnyAddress:
    """An address for the codec."""
    return ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)


def interface_prefix(version: int, value: int, length: int) -> Any:
    """An address with its prefix length, host bits kept, for the codec."""
    pair = (value, length)
    return ipaddress.IPv4Interface(pair) if version == 4 else ipaddress.IPv6Interface(pair)


def network(version: int, value: int, length: int) -> Any:
    """A prefix for the codec."""
    pair = (value, length)
    return ipaddress.IPv4Network(pair, strict=False) if version == 4 else ipaddress.IPv6Network(pair, strict=False)


def entry_prefix(entry: Entry) -> Any:
    """The prefix of a table's entry for the codec."""
    return network(entry.fib.family.version, entry.value, entry.length)


def prefix_parts(prefix: Any) -> tuple[int, int, int]:
    """Version, value and length of a decoded prefix; Refusal for one that is none (the codec leaves it undecoded)."""
    if not isinstance(prefix, ipaddress.IPv4Network | ipaddress.IPv6Network):
        raise Refusal("INVALID_PREFIX_LENGTH")
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def interface_parts(prefix: Any) -> tuple[int, int, int]:
    """Version, value with its host bits and length of a decoded interface address; Refusal for one that is none."""
    if not isinstance(prefix, ipaddress.IPv4Interface | ipaddress.IPv6Interface):
        raise Refusal("INVALID_PREFIX_LENGTH")
    return prefix.version, int(prefix.ip), prefix.network.prefixlen


def mac_bytes(mac: Any) -> bytes:
    """A decoded MAC address as bytes."""
    return bytes(mac.packed)
