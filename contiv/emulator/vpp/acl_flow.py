"""What the ACL plugin sees of a packet: addresses, protocol, ports where it reads any, TCP flags (acl_fill_5tuple).

Ports are read of TCP and UDP; of ICMP the type and the code stand in their place; every other protocol, SCTP among
them, has 0 and 0. The layer above IP counts as there when 8 bytes of it are. Fragments behind the first have none.
IPv6 extension headers are skipped, except those that the plugin cannot read (ESP, authentication).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.packet import IPPROTO_ICMP, IPPROTO_ICMP6, IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    from contiv.emulator.vpp.packet import Packet

VALID: Final = 1
"""The layer above IP is there."""
TCP: Final = 2
"""... and has TCP's flags."""
NONFIRST: Final = 4
"""A fragment behind the first."""
SLOW: Final = 8
"""Neither TCP nor UDP; part of a session's key (FA_SK_L4_FLAG_IS_SLOWPATH)."""

Addresses = int | bytes
"""Source and destination as they stand in the packet: 8 bytes of IPv4 as an integer, 32 bytes of IPv6."""
Flow = tuple[Addresses, int, int, int, int]
"""Addresses, ports (first << 16 | second), protocol, TCP flags, and what else is known (VALID, ...)."""

HEADERS_SKIPPED: Final = frozenset({0, 43, 44, 60, 135, 139, 140, 253, 254})
"""foreach_acl_eh: hop-by-hop, routing, fragment, destination options, mobility, HIP, SHIM6, two for experiments."""
FRAGMENT: Final = 44
ROOM: Final = 8
"""Bytes behind an offset that make it "within the packet" (offset_within_packet)."""
_IP4: Final = struct.Struct(">BBHHHBBHQI")
_PORTS: Final = struct.Struct(">I")
_OFFSET: Final = 0x1FFF
_TCP_FLAGS: Final = 13


def flow4(packet: Packet) -> Flow:
    """The flow of an IPv4 packet that starts at its header."""
    buf = packet.buf
    start = packet.start
    first, _, _, _, fragment, _, protocol, _, addresses, ports = _IP4.unpack_from(buf, start)
    if fragment & _OFFSET:
        return addresses, 0, protocol, 0, NONFIRST
    layer4 = start + (first & 0xF) * 4
    if layer4 + ROOM > packet.end:
        return addresses, 0, protocol, 0, 0
    if protocol == IPPROTO_TCP:
        if first != 0x45:
            ports = _PORTS.unpack_from(buf, layer4)[0]
        return addresses, ports, protocol, buf[layer4 + _TCP_FLAGS], VALID | TCP
    if protocol == IPPROTO_UDP:
        if first != 0x45:
            ports = _PORTS.unpack_from(buf, layer4)[0]
        return addresses, ports, protocol, 0, VALID
    ports = buf[layer4] << 16 | buf[layer4 + 1] if protocol == IPPROTO_ICMP else 0
    return addresses, ports, protocol, 0, VALID | SLOW


def flow6(packet: Packet) -> Flow:
    """The flow of an IPv6 packet that starts at its header."""
    buf = packet.buf
    start = packet.start
    last = packet.end - ROOM
    addresses = bytes(buf[start + 8 : start + 40])
    protocol = buf[start + 6]
    layer4 = start + 40
    while protocol in HEADERS_SKIPPED and layer4 <= last:
        here, protocol = protocol, buf[layer4]
        if here != FRAGMENT:
            layer4 += 8 * (1 + buf[layer4 + 1])
        elif buf[layer4 + 2] << 8 | buf[layer4 + 3] & 0xF8:
            return addresses, 0, protocol, 0, NONFIRST
        else:
            layer4 += 8
    if layer4 > last:
        return addresses, 0, protocol, 0, 0
    if protocol == IPPROTO_TCP:
        return addresses, _PORTS.unpack_from(buf, layer4)[0], protocol, buf[layer4 + _TCP_FLAGS], VALID | TCP
    if protocol == IPPROTO_UDP:
        return addresses, _PORTS.unpack_from(buf, layer4)[0], protocol, 0, VALID
    ports = buf[layer4] << 16 | buf[layer4 + 1] if protocol == IPPROTO_ICMP6 else 0
    return addresses, ports, protocol, 0, VALID | SLOW
