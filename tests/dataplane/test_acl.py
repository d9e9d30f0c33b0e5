"""Access lists with real packets, on both data planes: which rule decides about which packet.

Every expectation is VPP's own behaviour; where it surprises (SCTP has no ports, later fragments match by protocol,
ports do not count in rules without a protocol) the test says so.
"""

from __future__ import annotations

import struct

import pytest
from wires import (
    ACK,
    DENY,
    FIN,
    GATEWAY4,
    GATEWAY6,
    ICMP,
    ICMP6,
    PERMIT,
    REFLECT,
    SCTP,
    SYN,
    TCP,
    TOKEN,
    UDP,
    End,
    World,
    icmp,
    ip4,
    ip6,
    rule,
    sctp,
    tcp,
    udp,
)

pytestmark = pytest.mark.root

A4, B4, A6, B6 = "10.1.1.2", "10.1.1.3", "2001:db8:1::2", "2001:db8:1::3"
MORE_FRAGMENTS, OFFSET_1480 = 0x2000, 185
HOP_BY_HOP, AUTHENTICATION, FRAGMENT, DESTINATION = 0, 51, 44, 60
SOLICITATION = 135


def a_to_b(protocol: int, payload: bytes, **more: int) -> bytes:
    return ip4(A4, B4, protocol, payload, **more)


def a_to_b6(protocol: int, payload: bytes) -> bytes:
    return ip6(A6, B6, protocol, payload)


def headers(*chain: tuple[int, bytes], last: int, payload: bytes) -> bytes:
    """IPv6 from a to b with extension headers: (number, everything behind its first byte)."""
    numbers = [number for number, _ in chain[1:]] + [last]
    body = b"".join(bytes((following,)) + rest for following, (_, rest) in zip(numbers, chain, strict=True))
    return ip6(A6, B6, chain[0][0], body + payload)


OPTIONS = bytes((0, 1, 4, 0, 0, 0, 0))  # one unit: PadN of 4
LATER = struct.pack(">BHI", 0, 185 << 3, 77)
FIRST = struct.pack(">BHI", 0, 1, 77)
AUTH = bytes((4,)) + bytes(22)

CASES = {
    "port": ([rule(PERMIT, proto=UDP, dport=(53, 53))], a_to_b(UDP, udp(1, 53)), True),
    "other port": ([rule(PERMIT, proto=UDP, dport=(53, 53))], a_to_b(UDP, udp(1, 54)), False),
    "other protocol": ([rule(PERMIT, proto=UDP, dport=(53, 53))], a_to_b(TCP, tcp(1, 53, SYN)), False),
    "range begins": ([rule(PERMIT, proto=TCP, dport=(80, 90))], a_to_b(TCP, tcp(1, 80, SYN)), True),
    "range ends": ([rule(PERMIT, proto=TCP, dport=(80, 90))], a_to_b(TCP, tcp(1, 90, SYN)), True),
    "below the range": ([rule(PERMIT, proto=TCP, dport=(80, 90))], a_to_b(TCP, tcp(1, 79, SYN)), False),
    "above the range": ([rule(PERMIT, proto=TCP, dport=(80, 90))], a_to_b(TCP, tcp(1, 91, SYN)), False),
    "source port": ([rule(PERMIT, proto=TCP, sport=(7, 7))], a_to_b(TCP, tcp(7, 80, SYN)), True),
    "not the source port": ([rule(PERMIT, proto=TCP, sport=(7, 7))], a_to_b(TCP, tcp(8, 80, SYN)), False),
    "source": ([rule(PERMIT, f"{A4}/32")], a_to_b(UDP, udp(1, 2)), True),
    "another source": ([rule(PERMIT, f"{B4}/32")], a_to_b(UDP, udp(1, 2)), False),
    "destination": ([rule(PERMIT, destination=f"{B4}/32")], a_to_b(UDP, udp(1, 2)), True),
    "another destination": ([rule(PERMIT, destination=f"{A4}/32")], a_to_b(UDP, udp(1, 2)), False),
    "prefix": ([rule(PERMIT, "10.1.1.2/31", "10.1.0.0/16")], a_to_b(UDP, udp(1, 2)), True),
    "another prefix": ([rule(PERMIT, "10.1.1.4/30")], a_to_b(UDP, udp(1, 2)), False),
    "the first rule decides": ([rule(DENY, proto=UDP), rule(PERMIT)], a_to_b(UDP, udp(1, 2)), False),
    "a later rule does not": ([rule(PERMIT), rule(DENY, proto=UDP)], a_to_b(UDP, udp(1, 2)), True),
    "ports count only with a protocol": ([rule(PERMIT, dport=(80, 80))], a_to_b(UDP, udp(1, 2)), True),
    "no rules at all": ([], a_to_b(UDP, udp(1, 2)), False),
    "the other family": ([rule(PERMIT, "::/0")], a_to_b(UDP, udp(1, 2)), False),
    "SYN alone": ([rule(PERMIT, proto=TCP, flags=(SYN | ACK, SYN))], a_to_b(TCP, tcp(1, 2, SYN)), True),
    "SYN and ACK": ([rule(PERMIT, proto=TCP, flags=(SYN | ACK, SYN))], a_to_b(TCP, tcp(1, 2, SYN | ACK)), False),
    "flags that no rule looks at": ([rule(PERMIT, proto=TCP, flags=(SYN, 0))], a_to_b(TCP, tcp(1, 2, FIN | ACK)), True),
    "flags are TCP's": ([rule(PERMIT, proto=UDP, flags=(SYN, SYN))], a_to_b(UDP, udp(1, 2)), True),
    "flags of any protocol": ([rule(PERMIT, flags=(SYN, SYN))], a_to_b(TCP, tcp(1, 2, ACK)), True),
    "echo": ([rule(PERMIT, proto=ICMP, sport=(8, 8), dport=(0, 0))], a_to_b(ICMP, icmp(8)), True),
    "no echo": ([rule(PERMIT, proto=ICMP, sport=(8, 8), dport=(0, 0))], a_to_b(ICMP, icmp(0)), False),
    "code": ([rule(PERMIT, proto=ICMP, sport=(3, 3), dport=(1, 4))], a_to_b(ICMP, icmp(3, 4)), True),
    "another code": ([rule(PERMIT, proto=ICMP, sport=(3, 3), dport=(1, 4))], a_to_b(ICMP, icmp(3, 0)), False),
    "ICMPv6 in IPv4 has no type": ([rule(PERMIT, proto=ICMP6, sport=(0, 0))], a_to_b(ICMP6, icmp(128)), True),
    "SCTP": ([rule(PERMIT, proto=SCTP)], a_to_b(SCTP, sctp(7, 80)), True),
    "SCTP's ports are not read": ([rule(PERMIT, proto=SCTP, dport=(80, 80))], a_to_b(SCTP, sctp(7, 80)), False),
    "SCTP's ports are 0": ([rule(PERMIT, proto=SCTP, dport=(0, 0))], a_to_b(SCTP, sctp(7, 80)), True),
    "SCTP denied by a port passes": (
        [rule(DENY, proto=SCTP, dport=(80, 80)), rule(PERMIT)], a_to_b(SCTP, sctp(7, 80)), True,
    ),
    "protocol": ([rule(PERMIT, proto=200)], a_to_b(200, TOKEN), True),
    "no protocol without 8 bytes of it": ([rule(PERMIT, proto=200)], a_to_b(200, TOKEN[:7]), False),
    "without a protocol 7 bytes do": ([rule(PERMIT)], a_to_b(200, TOKEN[:7]), True),
    "first fragment has ports": (
        [rule(PERMIT, proto=UDP, dport=(53, 53))], a_to_b(UDP, udp(1, 53), fragment=MORE_FRAGMENTS), True,
    ),
    "first fragment to another port": (
        [rule(PERMIT, proto=UDP, dport=(53, 53))], a_to_b(UDP, udp(1, 54), fragment=MORE_FRAGMENTS), False,
    ),
    "later fragment passes by protocol": (
        [rule(PERMIT, proto=UDP, dport=(53, 53))], a_to_b(UDP, TOKEN, fragment=OFFSET_1480), True,
    ),
    "later fragment is denied by protocol": (
        [rule(DENY, proto=UDP, dport=(53, 53)), rule(PERMIT)], a_to_b(UDP, TOKEN, fragment=OFFSET_1480), False,
    ),
    "later fragment of another protocol": (
        [rule(PERMIT, proto=TCP)], a_to_b(UDP, TOKEN, fragment=OFFSET_1480), False,
    ),
    "later fragment and flags": (
        [rule(PERMIT, proto=TCP, flags=(SYN, SYN))], a_to_b(TCP, TOKEN, fragment=OFFSET_1480), True,
    ),
    "v6 port": ([rule(PERMIT, "::/0", proto=UDP, dport=(53, 53))], a_to_b6(UDP, udp(1, 53)), True),
    "v6 other port": ([rule(PERMIT, "::/0", proto=UDP, dport=(53, 53))], a_to_b6(UDP, udp(1, 54)), False),
    "v6 prefixes": ([rule(PERMIT, "2001:db8:1::/64", f"{B6}/128")], a_to_b6(TCP, tcp(1, 2, SYN)), True),
    "v6 another prefix": ([rule(PERMIT, "2001:db8:1::8/125")], a_to_b6(TCP, tcp(1, 2, SYN)), False),
    "v6 odd prefix": ([rule(PERMIT, "2001:db8:1::2/127")], a_to_b6(TCP, tcp(1, 2, SYN)), True),
    "v6 echo": ([rule(PERMIT, "::/0", proto=ICMP6, sport=(128, 128))], a_to_b6(ICMP6, icmp(128)), True),
    "v6 no echo": ([rule(PERMIT, "::/0", proto=ICMP6, sport=(128, 128))], a_to_b6(ICMP6, icmp(129)), False),
    "v6 the other family": ([rule(PERMIT)], a_to_b6(UDP, udp(1, 2)), False),
    "v6 behind options": (
        [rule(PERMIT, "::/0", proto=UDP, dport=(53, 53))],
        headers((DESTINATION, OPTIONS), (DESTINATION, OPTIONS), last=UDP, payload=udp(1, 53)), True,
    ),
    "v6 behind options, another port": (
        [rule(PERMIT, "::/0", proto=UDP, dport=(53, 53))],
        headers((DESTINATION, OPTIONS), last=UDP, payload=udp(1, 54)), False,
    ),
    "v6 first fragment": (
        [rule(PERMIT, "::/0", proto=UDP, dport=(53, 53))], headers((FRAGMENT, FIRST), last=UDP, payload=udp(1, 53)),
        True,
    ),
    "v6 later fragment passes by protocol": (
        [rule(PERMIT, "::/0", proto=UDP, dport=(53, 53))], headers((FRAGMENT, LATER), last=UDP, payload=TOKEN), True,
    ),
    "v6 later fragment of another protocol": (
        [rule(PERMIT, "::/0", proto=TCP)], headers((FRAGMENT, LATER), last=UDP, payload=TOKEN), False,
    ),
    "v6 behind authentication nothing is seen": (
        [rule(PERMIT, "::/0", proto=UDP)], headers((AUTHENTICATION, AUTH), last=UDP, payload=udp(1, 53)), False,
    ),
    "v6 authentication is a protocol": (
        [rule(PERMIT, "::/0", proto=AUTHENTICATION)], headers((AUTHENTICATION, AUTH), last=UDP, payload=udp(1, 53)),
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("side", ["input", "output"])
async def test_rules(world: World, side: str) -> None:
    wrong = []
    for name, (rules, packet, passes) in CASES.items():
        made = await world.acl(*rules)
        if side == "input":
            await world.apply(world.a, input=[made])
        else:
            await world.apply(world.b, output=[made])
        found = [await world.crosses(world.a, world.b, packet) for _ in ("asked", "remembered")]
        if found != [passes, passes]:
            wrong.append((name, found))
        await world.apply(world.a)
        await world.apply(world.b)
    assert not wrong


async def test_no_list_no_check(world: World) -> None:
    a, b = world.a, world.b
    assert await world.crosses(a, b, a_to_b(UDP, udp(1000, 53)))
    assert await world.crosses(b, a, ip4(b.v4, a.v4, TCP, tcp(80, 1000, SYN)))


async def test_ip_options_go_nowhere(world: World) -> None:
    """VPP punts IPv4 packets with options before any list sees them, and nobody takes them."""
    for options in (b"\1\1\1\1", b"\x94\4\0\0", bytes((7, 7, 4, 0, 0, 0, 0, 0))):
        packet = ip4(A4, B4, UDP, udp(1000, 53), options=options)
        assert not await world.crosses(world.a, world.b, packet)


async def test_a_list_is_for_one_direction(world: World) -> None:
    a, b = world.a, world.b
    nothing = await world.acl(rule(DENY))
    await world.apply(a, input=[nothing])
    assert not await world.crosses(a, b, a_to_b(UDP, udp(1000, 53)))
    assert await world.crosses(b, a, ip4(b.v4, a.v4, UDP, udp(53, 1000)))
    await world.apply(a, output=[nothing])
    assert await world.crosses(a, b, a_to_b(UDP, udp(1000, 53)))
    assert not await world.crosses(b, a, ip4(b.v4, a.v4, UDP, udp(53, 1000)))


async def test_lists_are_asked_in_order(world: World) -> None:
    a, b = world.a, world.b
    no_dns = await world.acl(rule(DENY, proto=UDP, dport=(53, 53)))
    some_udp = await world.acl(rule(PERMIT, proto=UDP, dport=(50, 60)))
    await world.apply(a, input=[no_dns, some_udp])
    assert [await world.crosses(a, b, a_to_b(UDP, udp(1, port))) for port in (53, 54, 61)] == [False, True, False]
    await world.apply(a, input=[some_udp, no_dns])
    assert [await world.crosses(a, b, a_to_b(UDP, udp(1, port))) for port in (53, 54, 61)] == [True, True, False]


async def test_an_empty_list_leaves_it_to_the_next(world: World) -> None:
    a, b = world.a, world.b
    empty, open_ = await world.acl(), await world.acl(rule(PERMIT))
    await world.apply(a, input=[empty, open_])
    assert await world.crosses(a, b, a_to_b(UDP, udp(1, 2)))


async def test_a_list_replaced_in_place_counts_at_once(world: World) -> None:
    a, b = world.a, world.b
    other = await world.acl(rule(PERMIT, proto=TCP))
    made = await world.acl(rule(PERMIT, proto=UDP))
    await world.apply(a, input=[made, other])
    assert await world.crosses(a, b, a_to_b(UDP, udp(1, 2)))
    assert await world.acl(rule(DENY, proto=UDP, dport=(2, 2)), rule(PERMIT, proto=UDP), index=made) == made
    assert not await world.crosses(a, b, a_to_b(UDP, udp(1, 2)))
    assert await world.crosses(a, b, a_to_b(UDP, udp(1, 3)))
    assert await world.crosses(a, b, a_to_b(TCP, tcp(1, 2, SYN)))


async def test_many_rules_many_lists(world: World) -> None:
    """More rules of one shape than VPP keeps in one partition of its hash, and the first match still decides."""
    a, b = world.a, world.b
    odd = [rule(DENY, f"10.1.{n % 256}.{n // 256}/32", proto=UDP, dport=(n, n)) for n in range(1, 600, 2)]
    even = [rule(PERMIT, f"{A4}/32", f"{B4}/32", proto=UDP, dport=(n, n + 1)) for n in range(0, 600, 2)]
    own = [rule(DENY, f"{A4}/32", proto=UDP, dport=(n, n)) for n in range(7, 600, 14)]
    await world.apply(a, input=[await world.acl(*odd), await world.acl(*own), await world.acl(*even)])
    for port in (0, 6, 7, 8, 21, 22, 301, 593, 595, 599, 600, 601):
        expected = port < 600 and port % 14 != 7
        assert await world.crosses(a, b, a_to_b(UDP, udp(9, port))) is expected, port


async def test_what_the_data_plane_answers_is_checked_on_output(world: World) -> None:
    a = world.a
    nothing = await world.acl(rule(DENY), rule(DENY, "::/0"))
    reflect = await world.acl(rule(REFLECT), rule(REFLECT, "::/0"))
    request = ip4(A4, GATEWAY4, ICMP, _with_sum(icmp(8)))
    assert await _answered(world, a, request)
    await world.apply(a, output=[nothing])
    assert not await _answered(world, a, request)
    await world.apply(a, input=[reflect], output=[nothing])
    assert await _answered(world, a, request)


async def test_neighbour_discovery_by_multicast_is_not_checked(world: World) -> None:
    """IPv6 multicast takes an arc of its own; a solicitation to the address itself is checked like any packet."""
    a = world.a
    assert not await _answered(world, a, _solicit(a, "ff02::1:ff00:1")), "a borrower of addresses joins no group"
    await world.vpp.call("sw_interface_ip6_enable_disable", sw_if_index=a.index, enable=True)
    nothing = await world.acl(rule(DENY), rule(DENY, "::/0"))
    await world.apply(a, input=[nothing], output=[nothing])
    assert await _answered(world, a, _solicit(a, "ff02::1:ff00:1"))
    assert not await _answered(world, a, _solicit(a, GATEWAY6))
    await world.apply(a, output=[nothing])
    assert await _answered(world, a, _solicit(a, GATEWAY6)), "an advertisement leaves unchecked"
    await world.vpp.call("sw_interface_ip6_enable_disable", sw_if_index=a.index, enable=False)


async def _answered(world: World, end: End, packet: bytes) -> bool:
    """Whether the data plane itself answers a packet; what it sends elsewhere afterwards marks the end of waiting."""
    six = packet[0] >> 4 == 6
    number = 58 if six else 1
    end.send(packet)
    found = False
    for _ in range(2):  # two marks: an answer takes another turn through the graph than what is forwarded
        found = found or any(answer[6 if six else 9] == number for answer in await world.until_mark(end))
    return found


def _solicit(end: End, destination: str) -> bytes:
    body = struct.pack(">BBHI", SOLICITATION, 0, 0, 0) + ip6("::", GATEWAY6, 0, b"")[24:40]
    option = bytes((1, 1)) + bytes.fromhex(end.mac.replace(":", ""))
    return ip6(end.v6, destination, ICMP6, _with_sum(body + option, end.v6, destination), hops=255)


def _with_sum(message: bytes, *addresses: str) -> bytes:
    """An ICMP message with its checksum; ICMPv6 with the addresses of its packet."""
    pseudo = ip6(*addresses, 0, b"")[8:40] + struct.pack(">II", len(message), ICMP6) if addresses else b""
    data = pseudo + message
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return message[:2] + struct.pack(">H", ~total & 0xFFFF) + message[4:]
