"""Access lists in plain Python, from the definitions alone: the tests' oracle and the benchmark's peer.

Sets are lists of ``(first, last)`` numbers by IP version; ports are ranges of ``protocol << 16 | port``. Slow and short
on purpose: everything is worked out over the stretches between the ends of all ranges. ``render`` says byte for byte
what ``Table.build`` must make; ``decide`` is VPP's matching of one rule after another (plugins/acl/public_inlines.h).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

Range = tuple[int, int]
Ranges = list[Range]
BITS = {4: 32, 6: 128}
ALL_KEYS: Ranges = [(0, 0xFFFFFF)]


def merged(ranges: Iterable[Range]) -> Ranges:
    """Sorted, without overlaps, neighbours joined."""
    out: Ranges = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1] + 1:
            if last > out[-1][1]:
                out[-1] = (out[-1][0], last)
        else:
            out.append((first, last))
    return out


def within(ranges: Ranges, first: int, last: int) -> bool:
    """Whether one of the ranges holds all of another."""
    return any(a <= first and last <= b for a, b in ranges)


def cidrs(first: int, last: int, bits: int) -> Iterator[tuple[int, int]]:
    """``(address, length)`` of the prefixes of a range."""
    while first <= last:
        size = first & -first or 1 << bits
        while first + size - 1 > last:
            size >>= 1
        yield first, bits - size.bit_length() + 1
        first += size


# ---- blocks ----


class OracleBlock(NamedTuple):
    """``boxes``: ``(addresses by version, ports)``; ``own``: addresses of the other side by version."""

    action: int
    boxes: Sequence[tuple[dict[int, Ranges], Ranges]]
    destination: bool = False
    own: dict[int, Ranges] | None = None


def stretches(boxes: Sequence[tuple[Ranges, Ranges]]) -> list[tuple[int, int, Ranges]]:
    """``(first, last, ports)`` for every stretch of addresses on which no box begins or ends."""
    if len(boxes) == 1:
        return [(first, last, merged(boxes[0][1])) for first, last in merged(boxes[0][0])]
    cuts = sorted({end for ranges, _ in boxes for first, last in ranges for end in (first, last + 1)})
    out = []
    for first, following in pairwise(cuts):
        ports = merged(key for ranges, keys in boxes if within(ranges, first, following - 1) for key in keys)
        if ports:
            out.append((first, following - 1, ports))
    return out


def reads_ports(protocol: int, version: int) -> bool:
    """Whether VPP knows the ports of a protocol in packets of that version."""
    return protocol in (6, 17) or protocol == (1 if version == 4 else 58)


def intervals(ports: Ranges, version: int, action: int) -> Ranges:
    """What rules can say of ports: one protocol each, whole protocols where VPP reads no ports."""
    if ports == ALL_KEYS:
        return ports
    out = []
    for first, last in ports:
        for protocol in range(first >> 16, (last >> 16) + 1):
            low, high = max(first, protocol << 16), min(last, protocol << 16 | 0xFFFF)
            if not reads_ports(protocol, version):
                if action and not (low & 0xFFFF <= 1 and high & 0xFFFF == 0xFFFF):
                    continue
                low, high = protocol << 16, protocol << 16 | 0xFFFF
            out.append((low, high))
    return sorted(set(out))


def prefix_bytes(version: int, address: int, length: int) -> bytes:
    """``vl_api_prefix_t``."""
    return bytes([version == 6]) + address.to_bytes(BITS[version] // 8, "big").ljust(16, b"\0") + bytes([length])


def block_rules(block: OracleBlock) -> Iterator[bytes]:
    """The rules of one block, in the kernel's order: IPv4 first, then by interval, then by address."""
    for version in (4, 6):
        yield from family_rules(block, version)


def family_rules(block: OracleBlock, version: int) -> Iterator[bytes]:
    bits = BITS[version]
    found = stretches([(addresses.get(version, []), ports) for addresses, ports in block.boxes])
    said = [(first, last, intervals(ports, version, block.action)) for first, last, ports in found]
    own = [(0, (1 << bits) - 1)] if block.own is None else block.own.get(version, [])
    others = [prefix_bytes(version, *prefix) for ends in merged(own) for prefix in cidrs(*ends, bits)]
    for interval in sorted({each for _, _, each_said in said for each in each_said}):
        may = merged((first, last) for first, last, ports in said if within(merged(ports), *interval))
        must = [(first, last) for first, last, ports in said if interval in ports]
        tail = rule_tail(interval)
        for address, length in must_prefixes(may, must, bits):
            here = prefix_bytes(version, address, length)
            for other in others:
                yield bytes([block.action]) + (other + here if block.destination else here + other) + tail


def must_prefixes(may: Ranges, must: Ranges, bits: int) -> Iterator[tuple[int, int]]:
    """The prefixes of ``may`` that hold anything of ``must``."""
    at = 0
    for ends in may:
        for address, length in cidrs(*ends, bits):
            last = address | (1 << (bits - length)) - 1
            while at < len(must) and must[at][1] < address:
                at += 1
            if at < len(must) and must[at][0] <= last:
                yield address, length


def rule_tail(interval: Range) -> bytes:
    """Protocol, ports and flags."""
    first, last = interval
    if interval == ALL_KEYS[0]:
        return struct.pack(">BHHHHBB", 0, 0, 0xFFFF, 0, 0xFFFF, 0, 0)
    return struct.pack(">BHHHHBB", first >> 16, 0, 0xFFFF, first & 0xFFFF, last & 0xFFFF, 0, 0)


def render(blocks: Sequence[OracleBlock]) -> bytes:
    """The table of ``blocks`` as bytes."""
    joined: list[OracleBlock] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if not any(any(addresses.values()) and ports for addresses, ports in block.boxes):
            continue
        if block.own is not None and not any(block.own.values()):
            continue
        if last is not None and last._replace(boxes=()) == block._replace(boxes=()):
            joined[-1] = last._replace(boxes=[*last.boxes, *block.boxes])
        else:
            joined.append(block)
    out: list[bytes] = []
    known: set[bytes] = set()
    closed: set[int] = set()
    for number, block in enumerate(joined):
        for rule in block_rules(block):
            if rule[1] in closed or (number and rule[1:] in known):
                continue
            if rule[18] == rule[36] == rule[37] == 0:
                closed.add(rule[1])
            known.add(rule[1:])
            out.append(rule)
    return b"".join(out)


def name(wire: bytes) -> str:
    """The fingerprint: BLAKE2b over what differs from rule to rule."""
    out, before = bytearray(), bytes(48)
    for at in range(0, len(wire), 48):
        rule = wire[at : at + 48]
        differs, parts = 0, b""
        for half in range(24):
            if rule[2 * half : 2 * half + 2] != before[2 * half : 2 * half + 2]:
                differs |= 1 << half
                parts += rule[2 * half : 2 * half + 2]
        out += differs.to_bytes(3, "little") + parts
        before = rule
    return hashlib.blake2b(out, digest_size=16).hexdigest()


# ---- packets ----


class Packet(NamedTuple):
    """Addresses as numbers; for ICMP the ports are type and code."""

    version: int
    source: int
    destination: int
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    tcp_flags: int = 2
    fragment: bool = False
    truncated: bool = False


def decide(wire: bytes, packet: Packet) -> tuple[int, int | None]:
    """``(action, line)`` as VPP's linear match decides; ``(0, None)`` without a match."""
    for line in range(len(wire) // 48):
        if rule_matches(wire[48 * line : 48 * line + 48], packet):
            return wire[48 * line], line
    return 0, None


def rule_matches(rule: bytes, packet: Packet) -> bool:
    bits = BITS[packet.version]
    if rule[1] != (packet.version == 6):
        return False
    for address, at in ((packet.source, 2), (packet.destination, 20)):
        shift = bits - rule[at + 16]
        if address >> shift != int.from_bytes(rule[at : at + bits // 8], "big") >> shift:
            return False
    protocol, *ports, mask, value = struct.unpack(">BHHHHBB", rule[37:])
    if protocol == 0:
        return True
    if protocol != packet.protocol:
        return False
    if packet.fragment:
        return True
    if packet.truncated:
        return False
    read = reads_ports(protocol, packet.version)
    source_port, destination_port = (packet.source_port, packet.destination_port) if read else (0, 0)
    if not ports[0] <= source_port <= ports[1] or not ports[2] <= destination_port <= ports[3]:
        return False
    return protocol != 6 or packet.tcp_flags & mask == value


def meant(blocks: Sequence[OracleBlock], packet: Packet) -> tuple[int, ...]:
    """The actions that the blocks' sets themselves allow for a whole packet: the first block that holds it."""
    for block in blocks:
        here, there = packet.source, packet.destination
        if block.destination:
            here, there = there, here
        if block.own is not None and not within(block.own.get(packet.version, []), there, there):
            continue
        for addresses, ports in block.boxes:
            if within(addresses.get(packet.version, []), here, here) and ports_hold(ports, packet, block.action):
                return (block.action,)
    return (0,)


def ports_hold(ports: Ranges, packet: Packet, action: int) -> bool:
    """Ports of protocols that VPP does not read: permits want them all, denies take any of them."""
    key = packet.protocol << 16
    if ports == ALL_KEYS:
        return True
    if reads_ports(packet.protocol, packet.version):
        return within(ports, key | packet.destination_port, key | packet.destination_port)
    if action:
        return within(ports, key | 1, key | 0xFFFF)
    return any(first <= (key | 0xFFFF) and last >= key for first, last in ports)


def as_any(value: Any) -> Any:
    """``value`` without its type: for what the public functions must refuse."""
    return value
