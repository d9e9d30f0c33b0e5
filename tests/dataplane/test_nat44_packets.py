"""NAT44-ED with packets made by hand, on both data planes: ICMP, protocols without ports, fragments, and sessions.

Every expectation is VPP's own behaviour. Where it surprises, the test's name says so.
"""

from __future__ import annotations

from functools import partial

import pytest
from nat_wires import (
    ACK,
    FIN,
    NODE_ADDRESS,
    OUT2IN_ONLY,
    OUTSIDE_HOST,
    RST,
    SCTP,
    SYN,
    TWICE_NAT,
    UDP,
    VIP,
    NatWorld,
    datagram,
    echo,
    error_about,
    ip4,
    sctp,
    tcp,
    udp,
)
from topology import until
from wires import End

pytestmark = pytest.mark.root

TWICE = OUT2IN_ONLY | TWICE_NAT
NODE_PORT = 30080
MORE_FRAGMENTS = 0x2000


# -- ICMP -------------------------------------------------------------------------------------------------------------


async def test_ping_leaves_with_the_nodes_address(nat: NatWorld) -> None:
    _, seen = await nat.only(nat.c, echo(nat.c.v4, OUTSIDE_HOST, 700))
    assert (seen.source, seen.destination) == (NODE_ADDRESS, OUTSIDE_HOST)
    assert seen.dport != 700, "identifiers below 1,024 are exchanged, as ports are"
    back, reply = await nat.only(nat.out, echo(OUTSIDE_HOST, NODE_ADDRESS, seen.dport, reply=True))
    assert (back, reply.source, reply.destination, reply.raw[24:26]) == (
        nat.c, OUTSIDE_HOST, nat.c.v4, (700).to_bytes(2, "big"),
    )  # fmt: skip


async def test_error_about_a_translated_packet_is_translated_inside_out(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], protocol=UDP)
    backend, seen = await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    back, error = await nat.only(backend, error_about(backend.v4, seen.raw))
    assert (back, error.source, error.destination) == (nat.c, VIP, nat.c.v4)
    quoted = error.raw[28:]
    assert (quoted[12:16], quoted[16:20]) == (_ip(nat.c.v4), _ip(VIP))
    assert (quoted[20:22], quoted[22:24]) == ((4000).to_bytes(2, "big"), (80).to_bytes(2, "big"))


async def test_error_about_source_nat_reaches_the_pod(nat: NatWorld) -> None:
    _, seen = await nat.only(nat.c, udp(nat.c.v4, 4000, OUTSIDE_HOST, 33434))
    back, error = await nat.only(nat.out, error_about("192.168.16.77", seen.raw, kind=11, code=0))
    assert (back, error.source, error.destination) == (nat.c, "192.168.16.77", nat.c.v4)
    assert error.raw[40:44] == _ip(nat.c.v4)


async def test_error_of_a_router_about_a_translated_packet_arrives_broken(nat: NatWorld) -> None:
    """Its source is not the session's, but the checksum is changed as if it were: the client's stack drops it."""
    await nat.balance([nat.b1, nat.b2], protocol=UDP)
    backend, seen = await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    with pytest.raises(AssertionError, match="header's checksum is wrong"):
        await nat.play(backend, error_about("10.7.0.9", seen.raw, kind=3, code=4))


async def test_backends_error_about_a_node_port_does_not_leave(nat: NatWorld) -> None:
    """The output feature looks for a session of ICMP with the quoted ports, finds none, and makes none for errors."""
    await nat.balance([nat.b1, nat.b2], vip=NODE_ADDRESS, port=NODE_PORT, flags=TWICE, protocol=UDP)
    backend, seen = await nat.only(nat.out, udp(OUTSIDE_HOST, 5000, NODE_ADDRESS, NODE_PORT))
    assert await nat.play(backend, error_about(backend.v4, seen.raw)) == {}


async def test_clients_error_about_a_reply_ends_the_session(nat: NatWorld) -> None:
    """It takes the way out, where only the session's other flow fits: dropped, and the session with it."""
    await nat.balance([nat.b1, nat.b2], protocol=UDP)
    backend, _ = await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    _, reply = await nat.only(backend, udp(backend.v4, 8080, nat.c.v4, 4000))
    assert len(await nat.sessions(backend)) == 1
    assert await nat.play(nat.c, error_about(nat.c.v4, reply.raw)) == {}
    assert await nat.sessions(backend) == []


# -- protocols without ports ------------------------------------------------------------------------------------------


async def test_sctp_between_pods_gets_the_nodes_address(nat: NatWorld) -> None:
    """Forwarding does not count for protocols whose ports NAT does not read."""
    backend, seen = await nat.only(nat.c, sctp(nat.c.v4, 4000, nat.b1.v4, 80))
    assert (backend, seen.source, seen.destination) == (nat.b1, NODE_ADDRESS, nat.b1.v4)
    back, reply = await nat.only(nat.b1, sctp(nat.b1.v4, 80, NODE_ADDRESS, 4000))
    assert (back, reply.source, reply.destination) == (nat.c, nat.b1.v4, nat.c.v4)


async def test_second_sctp_client_takes_the_replies_of_the_first(nat: NatWorld) -> None:
    for client in (nat.c, nat.b2):
        await nat.only(client, sctp(client.v4, 4000, nat.b1.v4, 80))
    back, _ = await nat.only(nat.b1, sctp(nat.b1.v4, 80, NODE_ADDRESS, 4000))
    assert back is nat.b2


async def test_sctp_is_dropped_without_a_pool_address(nat: NatWorld) -> None:
    await nat.address(NODE_ADDRESS, is_add=False)
    assert await nat.play(nat.c, sctp(nat.c.v4, 4000, nat.b1.v4, 80)) == {}


async def test_identity_of_the_protocol_leaves_a_pods_sctp_alone(nat: NatWorld) -> None:
    for pod in (nat.c, nat.b1):
        await nat.identity(pod.v4, SCTP, 0)
    for sender, receiver in ((nat.c, nat.b1), (nat.b1, nat.c)):
        to, seen = await nat.only(sender, sctp(sender.v4, 4000, receiver.v4, 80))
        assert (to, seen.source, seen.destination) == (receiver, sender.v4, receiver.v4)


async def test_balanced_mapping_does_not_take_sctp(nat: NatWorld) -> None:
    """Its port is never read: the packet goes its way, to no route here, with another source."""
    await nat.balance([nat.b1, nat.b2], protocol=SCTP)
    found = await nat.play(nat.c, sctp(nat.c.v4, 4000, VIP, 80))
    assert all(seen.protocol == 1 for packets in found.values() for seen in packets), found


async def test_static_mapping_of_port_0_takes_all_sctp_to_one_backend(nat: NatWorld) -> None:
    await nat.static(nat.b1, port=0, target=0, protocol=SCTP, flags=0)
    backend, seen = await nat.only(nat.c, sctp(nat.c.v4, 4000, VIP, 80))
    assert (backend, seen.source, seen.destination) == (nat.b1, nat.c.v4, nat.b1.v4)
    back, reply = await nat.only(nat.b1, sctp(nat.b1.v4, 80, nat.c.v4, 4000))
    assert (back, reply.source, reply.destination) == (nat.c, VIP, nat.c.v4)


# -- fragments, time to live ------------------------------------------------------------------------------------------


def fragments(source: str, destination: str, dport: int, *, ident: int) -> tuple[bytes, bytes]:
    """A UDP datagram in two pieces."""
    whole = datagram(source, 4000, destination, dport, bytes(range(200)))
    first = ip4(source, destination, UDP, whole[:104], fragment=MORE_FRAGMENTS, ident=ident)
    return first, ip4(source, destination, UDP, whole[104:], fragment=104 >> 3, ident=ident)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "later one first"])
async def test_fragments_go_where_their_first_one_goes(nat: NatWorld, order: tuple[int, int]) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3], protocol=UDP)
    for ident in range(100, 106):
        pieces = fragments(nat.c.v4, VIP, 80, ident=ident)
        found = await nat.play(nat.c, *(pieces[place] for place in order))
        assert len(found) == 1, found
        seen = next(iter(found.values()))
        assert len({packet.destination for packet in seen}) == 1
        assert sorted(packet.raw[6:8] for packet in seen) == [b"\0\x0d", b"\x20\0"]


async def test_packet_without_time_to_live_is_answered_before_translation(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2])
    back, seen = await nat.only(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN, ttl=1))
    assert (back, seen.protocol, seen.sport >> 8) == (nat.c, 1, 11)
    assert seen.raw[44:48] == _ip(VIP)


# -- sessions ---------------------------------------------------------------------------------------------------------


async def test_syn_alone_has_the_transitory_time(nat: NatWorld) -> None:
    await nat.timeouts(tcp_transitory=1)
    await nat.static(nat.b1)
    await nat.only(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN))
    await until(lambda: timed_out(nat, nat.b1), timeout_s=5.0)


async def test_established_connection_has_the_long_time_until_it_closes(nat: NatWorld) -> None:
    await nat.timeouts(tcp_transitory=1)
    await nat.static(nat.b1)
    await nat.open(nat.c, 40000)
    await nat.only(nat.c, tcp(nat.c.v4, 40001, VIP, 80, SYN))
    await until(lambda: timed_out(nat, nat.b1, port=40001), timeout_s=5.0)
    assert not await timed_out(nat, nat.b1, port=40000)
    await nat.only(nat.c, tcp(nat.c.v4, 40000, VIP, 80, FIN | ACK))
    await until(lambda: timed_out(nat, nat.b1, port=40000), timeout_s=5.0)


async def test_reset_makes_a_connection_transitory(nat: NatWorld) -> None:
    await nat.timeouts(tcp_transitory=1)
    await nat.static(nat.b1)
    await nat.open(nat.c, 40000)
    await nat.only(nat.b1, tcp(nat.b1.v4, 8080, nat.c.v4, 40000, RST))
    await until(lambda: timed_out(nat, nat.b1), timeout_s=5.0)


async def test_packet_after_the_time_makes_a_new_session(nat: NatWorld) -> None:
    await nat.timeouts(udp=1)
    await nat.static(nat.b1, protocol=UDP)
    for _ in range(3):
        await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    (session,) = await nat.sessions(nat.b1)
    assert session.total_pkts == 3
    await until(lambda: timed_out(nat, nat.b1), timeout_s=5.0)
    await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    (session,) = await nat.sessions(nat.b1)
    assert session.total_pkts == 1


async def test_session_is_deleted_by_either_flow(nat: NatWorld) -> None:
    await nat.static(nat.b1, protocol=UDP)
    for address, port, other, other_port in ((nat.b1.v4, 8080, nat.c.v4, 4000), (nat.c.v4, 4000, VIP, 80)):
        await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
        wanted = {"address": address, "port": port, "ext_host_address": other, "ext_host_port": other_port}
        await nat.call("nat44_del_session", protocol=UDP, vrf_id=0, flags=0, **wanted)
        assert await nat.sessions(nat.b1) == []
        assert await nat.refused("nat44_del_session", protocol=UDP, vrf_id=0, flags=0, **wanted) == "NO_SUCH_ENTRY"


async def test_full_table_drops_new_connections_until_an_old_one_comes_back(nat: NatWorld) -> None:
    """Nobody leaves for a connection to a mapping; one past its time makes room when its own next packet comes."""
    await nat.timeouts(udp=1)
    await nat.static(nat.b1, protocol=UDP)
    await nat.call("nat44_set_session_limit", session_limit=2, vrf_id=0)
    for sport in (4000, 4001):
        nat.c.send(udp(nat.c.v4, sport, VIP, 80))
    await until(lambda: heard(nat, {4000, 4001}))
    for _ in range(2):
        before = await exceeded(nat)
        nat.c.send(udp(nat.c.v4, 4002, VIP, 80))
        await until(partial(more_exceeded, nat, before))
        assert await heard(nat, {4000, 4001})
        await until(lambda: timed_out(nat, nat.b1), timeout_s=5.0)
    nat.c.send(udp(nat.c.v4, 4000, VIP, 80))
    await until(lambda: fresh(nat, 4000))


async def heard(nat: NatWorld, ports: set[int]) -> bool:
    """Whether b1 has sessions with these ports of clients, and no others."""
    return {session.ext_host_port for session in await nat.sessions(nat.b1)} == ports


async def fresh(nat: NatWorld, port: int) -> bool:
    """Whether the session with a client's port has not run out."""
    return any(s.ext_host_port == port and not s.is_timed_out for s in await nat.sessions(nat.b1))


async def exceeded(nat: NatWorld) -> int:
    """How many packets were dropped because the table was full."""
    text = str((await nat.call("cli_inband", cmd="show errors")).reply)
    return sum(int(line.split()[0]) for line in text.splitlines() if "maximum sessions exceeded" in line)


async def more_exceeded(nat: NatWorld, before: int) -> bool:
    return await exceeded(nat) > before


async def test_users_and_their_sessions(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], protocol=UDP, weights=[1, 0])
    await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80, b"12345"))
    await nat.only(nat.c, udp(nat.c.v4, 4000, OUTSIDE_HOST, 53))
    await nat.only(nat.out, udp(OUTSIDE_HOST, 6000, nat.b2.v4, 7))
    users = {str(u.ip_address): (u.nsessions, u.nstaticsessions) for u in await nat.vpp.dump("nat44_user")}
    assert users == {nat.b1.v4: (0, 1), nat.c.v4: (1, 0), nat.b2.v4: (1, 0)}
    (session,) = await nat.sessions(nat.b1)
    assert (str(session.outside_ip_address), session.outside_port) == (VIP, 80)
    assert (str(session.inside_ip_address), session.inside_port) == (nat.b1.v4, 8080)
    assert (str(session.ext_host_address), session.ext_host_port) == (nat.c.v4, 4000)
    assert (session.protocol, session.total_pkts, session.total_bytes) == (UDP, 1, 33)
    assert int(session.flags) == 0xC0
    (source,) = await nat.sessions(nat.c)
    assert (str(source.outside_ip_address), source.outside_port, int(source.flags)) == (NODE_ADDRESS, 4000, 0x80)
    assert source.total_bytes == 14 + 33
    (bypass,) = await nat.sessions(nat.b2)
    assert (str(bypass.outside_ip_address), bypass.outside_port, bypass.total_bytes) == (nat.b2.v4, 7, 0)


async def test_removed_pool_address_ends_what_left_with_it(nat: NatWorld) -> None:
    await nat.static(nat.b1, protocol=UDP)
    await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    await nat.only(nat.c, udp(nat.c.v4, 4000, OUTSIDE_HOST, 53))
    await nat.address(NODE_ADDRESS, is_add=False)
    assert await nat.sessions(nat.c) == []
    assert len(await nat.sessions(nat.b1)) == 1


async def test_forwarding_off_drops_what_no_mapping_matches(nat: NatWorld) -> None:
    await nat.static(nat.b1, protocol=UDP)
    await nat.only(nat.out, udp(OUTSIDE_HOST, 6000, nat.b2.v4, 7))
    await nat.call("nat44_forwarding_enable_disable", enable=False)
    assert await nat.sessions(nat.b2) == [], "bypass sessions go"
    assert await nat.play(nat.out, udp(OUTSIDE_HOST, 6001, nat.b2.v4, 7)) == {}
    to, _ = await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    assert to is nat.b1


async def timed_out(nat: NatWorld, end: End, *, port: int = 0) -> bool:
    """Whether a session of ``end`` is past its time: the one with the client's port, or all."""
    return all(s.is_timed_out for s in await nat.sessions(end) if port in {0, s.ext_host_port})


def _ip(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))
