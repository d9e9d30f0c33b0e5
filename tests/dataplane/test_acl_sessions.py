"""Sessions of access lists with real packets, on both data planes: what permit+reflect lets back, where, how long.

Every expectation is VPP's own behaviour, with its surprises: identifiers of pings do not count, rules that change in
place leave established connections alone, and a change of lists forgets at most 100 sessions of a kind.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from wires import (
    ACK,
    DENY,
    FIN,
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
OFFSET_1480 = 185
ANYTHING = (rule(REFLECT), rule(REFLECT, "::/0"))
NOTHING = (rule(DENY), rule(DENY, "::/0"))
SWEEP = 100
"""Sessions of one kind that VPP clears at once."""


async def reflecting(world: World, end: End) -> tuple[int, int]:
    """Lists on one end: what comes in there may have its replies, nothing else goes out there."""
    lists = await world.acl(*ANYTHING), await world.acl(*NOTHING)
    await world.apply(end, input=[lists[0]], output=[lists[1]])
    return lists


def there(protocol: int, payload: bytes, **more: int) -> bytes:
    return ip4(A4, B4, protocol, payload, **more)


def back(protocol: int, payload: bytes, **more: int) -> bytes:
    return ip4(B4, A4, protocol, payload, **more)


def there6(protocol: int, payload: bytes) -> bytes:
    return ip6(A6, B6, protocol, payload)


def back6(protocol: int, payload: bytes) -> bytes:
    return ip6(B6, A6, protocol, payload)


REPLIES = {
    "UDP": (there(UDP, udp(5, 53)), back(UDP, udp(53, 5)), True),
    "UDP from another port": (there(UDP, udp(5, 53)), back(UDP, udp(54, 5)), False),
    "UDP to another port": (there(UDP, udp(5, 53)), back(UDP, udp(53, 6)), False),
    "TCP": (there(TCP, tcp(5, 80, SYN)), back(TCP, tcp(80, 5, SYN | ACK)), True),
    "TCP whatever its flags": (there(TCP, tcp(5, 80, ACK)), back(TCP, tcp(80, 5, FIN)), True),
    "TCP for UDP": (there(UDP, udp(5, 80)), back(TCP, tcp(80, 5, SYN | ACK)), False),
    "echo": (there(ICMP, icmp(8)), back(ICMP, icmp(0)), True),
    "echo with another identifier": (there(ICMP, icmp(8, identifier=1)), back(ICMP, icmp(0, identifier=2)), True),
    "echo for echo": (there(ICMP, icmp(8)), back(ICMP, icmp(8)), False),
    "time stamps": (there(ICMP, icmp(13)), back(ICMP, icmp(14)), True),
    "information": (there(ICMP, icmp(15)), back(ICMP, icmp(16)), True),
    "address masks": (there(ICMP, icmp(17)), back(ICMP, icmp(18)), True),
    "an echo reply lets nothing back": (there(ICMP, icmp(0)), back(ICMP, icmp(8)), False),
    "an error lets nothing back": (there(ICMP, icmp(3, 3)), back(ICMP, icmp(3, 3)), False),
    "an error about a session": (there(UDP, udp(5, 53)), back(ICMP, icmp(3, 3)), False),
    "SCTP whatever its ports": (there(SCTP, sctp(5, 80)), back(SCTP, sctp(81, 6)), True),
    "another protocol": (there(200, TOKEN), back(200, TOKEN), True),
    "another protocol for another": (there(200, TOKEN), back(201, TOKEN), False),
    "later fragments have ports 0": (
        there(UDP, TOKEN, fragment=OFFSET_1480),
        back(UDP, TOKEN, fragment=OFFSET_1480),
        True,
    ),
    "a datagram lets no later fragment back": (
        there(UDP, udp(5, 53)),
        back(UDP, TOKEN, fragment=OFFSET_1480),
        False,
    ),
    "v6 UDP": (there6(UDP, udp(5, 53)), back6(UDP, udp(53, 5)), True),
    "v6 UDP from another port": (there6(UDP, udp(5, 53)), back6(UDP, udp(54, 5)), False),
    "v6 TCP": (there6(TCP, tcp(5, 80, SYN)), back6(TCP, tcp(80, 5, SYN | ACK)), True),
    "v6 echo": (there6(ICMP6, icmp(128)), back6(ICMP6, icmp(129)), True),
    "v6 node information": (there6(ICMP6, icmp(139)), back6(ICMP6, icmp(140)), True),
    "v6 an error lets nothing back": (there6(ICMP6, icmp(1)), back6(ICMP6, icmp(1)), False),
    "v6 a reply lets nothing back": (there6(ICMP6, icmp(129)), back6(ICMP6, icmp(128)), False),
    "v6 SCTP": (there6(SCTP, sctp(5, 80)), back6(SCTP, sctp(80, 5)), True),
    "v6 for v4": (there(UDP, udp(5, 53)), back6(UDP, udp(53, 5)), False),
}


@pytest.mark.parametrize("side", ["input", "output"])
async def test_replies(world: World, side: str) -> None:
    """``output``: the session is made where the packet leaves, and the reply comes in there."""
    a, b = world.a, world.b
    open_, shut = await world.acl(*ANYTHING), await world.acl(*NOTHING)
    wrong = []
    for name, (packet, reply, passes) in REPLIES.items():
        if side == "input":
            await world.apply(a, input=[open_], output=[shut])
        else:
            await world.apply(b, input=[shut], output=[open_])
        assert not await world.crosses(b, a, reply), name
        assert await world.crosses(a, b, packet), name
        if await world.crosses(b, a, reply) is not passes:
            wrong.append(name)
        assert await world.sessions() == 1, name
        await world.apply(a)
        await world.apply(b)
        await world.settled(0)
    assert not wrong


async def test_plain_permits_make_no_sessions(world: World) -> None:
    a, b = world.a, world.b
    await world.apply(a, input=[await world.acl(rule(PERMIT))], output=[await world.acl(*NOTHING)])
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert not await world.crosses(b, a, back(UDP, udp(53, 5)))
    assert await world.sessions() == 0


async def test_a_session_belongs_to_its_interface(world: World) -> None:
    a, b = world.a, world.b
    open_, shut = await world.acl(*ANYTHING), await world.acl(*NOTHING)
    await world.apply(a, input=[open_], output=[shut])
    await world.apply(b, input=[shut])
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert not await world.crosses(b, a, back(UDP, udp(53, 5))), "b knows of no session"
    await world.apply(b, input=[shut], output=[open_])
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert await world.crosses(b, a, back(UDP, udp(53, 5)))
    assert await world.sessions() == 2


async def test_a_session_passes_where_its_own_rule_is_gone(world: World) -> None:
    """Replaced in place: what is established goes on, both ways; what is new meets the new rules."""
    a, b = world.a, world.b
    made, _ = await reflecting(world, a)
    await _handshake(world)
    await world.acl(rule(REFLECT, proto=UDP), index=made)
    assert await world.crosses(a, b, there(TCP, tcp(5, 80, ACK)))
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    assert not await world.crosses(a, b, there(TCP, tcp(6, 80, SYN)))
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    await world.acl(*NOTHING, index=made)
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert await world.crosses(a, b, there(TCP, tcp(5, 80, FIN | ACK)))


async def test_sessions_outlive_a_change_of_another_list(world: World) -> None:
    a, b = world.a, world.b
    own, other = await world.acl(rule(REFLECT, proto=TCP)), await world.acl(rule(REFLECT, proto=UDP))
    await world.apply(a, input=[other, own], output=[await world.acl(*NOTHING)])
    await _handshake(world)
    await world.acl(rule(DENY, proto=ICMP), index=other)
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    assert await world.sessions() == 1


async def test_sessions_outlive_another_order(world: World) -> None:
    a, b = world.a, world.b
    first, second = await world.acl(rule(REFLECT, proto=UDP)), await world.acl(*ANYTHING)
    shut = await world.acl(*NOTHING)
    await world.apply(a, input=[first, second], output=[shut])
    await _handshake(world)
    await world.apply(a, input=[second, first], output=[shut])
    await world.apply(a, input=[second, first], output=[shut])
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    assert await world.sessions() == 1


@pytest.mark.parametrize("change", ["one more", "one less", "another", "other side", "none"])
async def test_a_change_of_lists_forgets_sessions(world: World, change: str) -> None:
    """What the lists still let pass makes a new session with its next packet that they judge."""
    a, b = world.a, world.b
    first, second, third = await world.acl(*ANYTHING), await world.acl(*ANYTHING), await world.acl(*ANYTHING)
    shut, too = await world.acl(*NOTHING), await world.acl(*NOTHING)
    await world.apply(a, input=[first, second], output=[shut])
    await _handshake(world)
    inputs = {"one more": [first, second, third], "one less": [second], "another": [first, third], "none": []}
    outputs = {"other side": [shut, too], "none": []}
    await world.apply(a, input=inputs.get(change, [first, second]), output=outputs.get(change, [shut]))
    await world.settled(0)
    await world.apply(a, input=[first, second], output=[shut])
    assert not await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    assert await world.crosses(a, b, there(TCP, tcp(5, 80, ACK)))
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))


async def test_what_new_lists_deny_is_cut(world: World) -> None:
    a, b = world.a, world.b
    await reflecting(world, a)
    await _handshake(world)
    shut = await world.acl(*NOTHING)
    await world.apply(a, input=[shut], output=[shut])
    await world.settled(0)
    assert not await world.crosses(a, b, there(TCP, tcp(5, 80, ACK)))
    assert not await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))


async def test_sessions_of_other_interfaces_stay(world: World) -> None:
    a, b = world.a, world.b
    open_ = await world.acl(*ANYTHING)
    await world.apply(a, input=[open_], output=[open_])
    await world.apply(b, input=[open_], output=[open_])
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert await world.sessions() == 2
    await world.apply(a)
    await world.settled(1)


async def test_one_change_forgets_a_hundred_sessions_of_a_kind(world: World) -> None:
    """VPP's cleaner ends its sweep after the first hundred (sess_mgmt_node.c: n_pending_swipes is never counted)."""
    a, b = world.a, world.b
    open_, _ = await reflecting(world, a)
    for port in range(SWEEP + 30):
        assert await world.crosses(a, b, there(UDP, udp(1000 + port, 53)))
    for port in range(20):
        assert await world.crosses(a, b, there(TCP, tcp(1000 + port, 80, SYN)))
    assert await world.sessions() == SWEEP + 50
    shut = await world.acl(*NOTHING)
    await world.apply(a, input=[shut], output=[shut])
    await world.settled(30)
    assert not await world.crosses(a, b, there(UDP, udp(1000 + SWEEP - 1, 53))), "the oldest hundred are gone"
    assert await world.crosses(a, b, there(UDP, udp(1000 + SWEEP, 53))), "the others still let everything pass"
    await world.apply(a, input=[open_], output=[shut])
    await world.settled(0)


async def test_sessions_outlive_their_interface(world: World) -> None:
    """The cleaner passes over interfaces that are gone; the next lists on the same index are what clears them."""
    a, b = world.a, world.b
    open_, shut = await reflecting(world, a)
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    before = a.index
    await a.leave(world.vpp, world.lender)
    await a.join(world.vpp, world.lender)
    assert a.index == before
    assert await world.crosses(b, a, back(UDP, udp(54, 5))), "its lists are gone"
    await world.vpp.call("acl_del", acl_index=open_)
    assert await world.sessions() == 1
    await world.apply(a, output=[shut])
    await world.settled(0)
    assert not await world.crosses(b, a, back(UDP, udp(53, 5)))


async def test_reclassified_sessions_meet_changed_lists(world: World) -> None:
    """``reclassify-sessions``: the next packet in the session's own direction is judged anew, a reply is not."""
    a, b = world.a, world.b
    await world.cli("set acl-plugin reclassify-sessions 1")
    made, shut = await reflecting(world, a)
    await _handshake(world)
    await world.acl(rule(DENY, proto=UDP), rule(REFLECT), index=made)
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    assert await world.crosses(a, b, there(TCP, tcp(5, 80, ACK)))
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    await world.acl(rule(DENY, proto=TCP), index=made)
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    assert not await world.crosses(a, b, there(TCP, tcp(5, 80, ACK)))
    assert not await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    await world.acl(*ANYTHING, index=made)
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    other = await world.acl(*NOTHING)
    await world.apply(a, input=[other], output=[shut])
    assert await world.crosses(b, a, back(UDP, udp(53, 5))), "no sweep: the session waits for its next packet"
    assert not await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert not await world.crosses(b, a, back(UDP, udp(53, 5)))


async def test_reclassified_sessions_of_an_interface_that_was(world: World) -> None:
    a, b = world.a, world.b
    await world.cli("set acl-plugin reclassify-sessions 1")
    _, shut = await reflecting(world, a)
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    await a.leave(world.vpp, world.lender)
    await a.join(world.vpp, world.lender)
    await world.apply(a, input=[shut], output=[shut])
    assert await world.crosses(b, a, back(UDP, udp(53, 5))), "inherited"
    assert not await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert not await world.crosses(b, a, back(UDP, udp(53, 5)))


async def test_idle_sessions_end(world: World) -> None:
    """Idle for its timeout, a session ends within half of it more, and the half second between two looks."""
    a, b = world.a, world.b
    await world.timeouts(udp_idle=1)
    await reflecting(world, a)
    assert await world.crosses(a, b, there(UDP, udp(5, 53)))
    started = time.monotonic()
    while await world.crosses(b, a, back(UDP, udp(53, 5))):
        if time.monotonic() - started > 1.8:
            break
        await asyncio.sleep(0.1)
    assert time.monotonic() - started > 1.8, "a session in use stays"
    started = time.monotonic()
    while await world.sessions():
        await asyncio.sleep(0.05)
        assert time.monotonic() - started < 3.5
    assert time.monotonic() - started > 0.9
    assert not await world.crosses(b, a, back(UDP, udp(53, 5)))


async def test_unfinished_connections_end_sooner(world: World) -> None:
    """Established is what has sent SYN and ACK both ways and neither FIN nor RST."""
    a, b = world.a, world.b
    await world.timeouts(tcp_transient=1)
    await reflecting(world, a)
    await _handshake(world)
    assert await world.crosses(a, b, there(TCP, tcp(6, 80, SYN)))
    assert await world.crosses(a, b, there(TCP, tcp(7, 80, ACK))), "begun before the lists were there"
    assert await world.sessions() == 3
    await world.settled(1)
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
    assert not await world.crosses(b, a, back(TCP, tcp(80, 6, SYN | ACK)))
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, FIN | ACK)))
    await world.settled(0)


async def test_a_full_table_gives_up_unfinished_connections(world: World) -> None:
    a, b = world.a, world.b
    await reflecting(world, a)
    await world.cli("set acl-plugin session table max-entries 4")
    for port in (1, 2):
        assert await world.crosses(a, b, there(UDP, udp(port, 53)))
    assert await world.crosses(a, b, there(TCP, tcp(3, 80, SYN)))
    assert not await world.crosses(a, b, there(UDP, udp(4, 53))), "full; the TCP session is given up"
    assert await world.crosses(a, b, there(UDP, udp(4, 53)))
    assert not await world.crosses(b, a, back(TCP, tcp(80, 3, SYN | ACK)))
    assert not await world.crosses(a, b, there(UDP, udp(5, 53)))
    assert not await world.crosses(a, b, there(UDP, udp(5, 53))), "nothing left to give up"
    assert await world.crosses(a, b, there(UDP, udp(1, 53))), "what is known goes on"


async def _handshake(world: World) -> None:
    a, b = world.a, world.b
    assert await world.crosses(a, b, there(TCP, tcp(5, 80, SYN)))
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, SYN | ACK)))
    assert await world.crosses(a, b, there(TCP, tcp(5, 80, ACK)))
    assert await world.crosses(b, a, back(TCP, tcp(80, 5, ACK)))
