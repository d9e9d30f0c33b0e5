"""NAT44-ED with packets made by hand, on both data planes: who gets a packet, as what, and what remains of it.

Every expectation is VPP's own behaviour. Where it surprises, the test's name says so: whoever renders services has to
live with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import pytest
from nat_wires import (
    ACK,
    NODE_ADDRESS,
    OUT2IN_ONLY,
    OUTSIDE_HOST,
    SYN,
    TWICE_ADDRESS,
    TWICE_NAT,
    UDP,
    VIP,
    NatWorld,
    tcp,
    udp,
)
from topology import until
from wires import End

pytestmark = pytest.mark.root

CONNECTIONS = 200
TWICE = OUT2IN_ONLY | TWICE_NAT
NODE_PORT = 30080
MORE_FRAGMENTS = 0x2000


async def chosen(nat: NatWorld, client: End, number: int, *, vip: str = VIP, port: int = 80) -> Counter[str]:
    """Which backends get ``number`` new connections."""
    found: Counter[str] = Counter()
    for sport in range(20000, 20000 + number):
        backend, _ = await nat.only(client, tcp(client.v4, sport, vip, port, SYN))
        found[backend.name] += 1
    return found


# -- balancing --------------------------------------------------------------------------------------------------------


async def test_connections_spread_evenly(nat: NatWorld) -> None:
    """Each of three gets a third of 200: 66.7, standard deviation 6.7; four of them on either side."""
    await nat.balance([nat.b1, nat.b2, nat.b3])
    found = await chosen(nat, nat.c, CONNECTIONS)
    assert set(found) == {"n3", "n4", "n5"}
    assert all(40 <= number <= 93 for number in found.values()), found


async def test_weights_are_shares(nat: NatWorld) -> None:
    """A weight of 200 beside 25 and 30: 157 of 200 expected, standard deviation 5.8."""
    await nat.balance([nat.b1, nat.b2, nat.b3], weights=[200, 25, 30])
    found = await chosen(nat, nat.c, CONNECTIONS)
    assert 133 <= found["n3"] <= 181, found
    assert found["n4"] >= 5
    assert found["n5"] >= 5


async def test_backend_of_weight_0_is_never_chosen(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3], weights=[0, 7, 0])
    assert await chosen(nat, nat.c, 30) == {"n4": 30}


async def test_two_equal_backends_behind_twice_nat_are_one(nat: NatWorld) -> None:
    """VPP's generator alternates odd and even, and twice-NAT draws a port after each backend."""
    await nat.balance([nat.b1, nat.b2], weights=[1, 1], flags=TWICE)
    assert len(await chosen(nat, nat.c, 40)) == 1


async def test_two_backends_of_odd_weight_behind_twice_nat_share(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], weights=[85, 85], flags=TWICE)
    found = await chosen(nat, nat.c, 60)
    assert all(15 <= number <= 45 for number in found.values()), found
    assert len(found) == 2


async def test_packets_of_a_connection_stay_together(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3])
    backend = await nat.open(nat.c, 40000)
    for _ in range(5):
        again, seen = await nat.only(nat.c, tcp(nat.c.v4, 40000, VIP, 80, ACK, b"data"))
        assert again is backend
        assert seen.flow == (nat.c.v4, 40000, backend.v4, 8080)
        assert seen.payload == b"data"


async def test_udp_is_balanced_and_answered(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3], protocol=UDP, port=53, target=5353)
    backend, seen = await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 53, b"who?"))
    assert (seen.flow, seen.payload) == ((nat.c.v4, 4000, backend.v4, 5353), b"who?")
    back, reply = await nat.only(backend, udp(backend.v4, 5353, nat.c.v4, 4000, b"me"))
    assert (back, reply.flow, reply.payload) == (nat.c, (VIP, 53, nat.c.v4, 4000), b"me")


async def test_one_backend_is_a_static_mapping(nat: NatWorld) -> None:
    await nat.static(nat.b1)
    assert await nat.open(nat.c, 40000) is nat.b1


async def test_client_stays_with_its_backend_by_affinity(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3], affinity=600)
    assert len(await chosen(nat, nat.c, 20)) == 1
    first, second = await chosen(nat, nat.c, 1), await chosen(nat, nat.c, 1)
    assert first == second


async def test_affinity_lasts_its_time_after_the_last_connection(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3], affinity=2, protocol=UDP)
    clients = [f"10.7.0.{number}" for number in range(30)]
    first = await by_client(nat, clients, 4000)
    again = await by_client(nat, clients[:5], 4001)
    assert again == {client: first[client] for client in again}
    await asyncio.sleep(2.1)  # the time itself is under test
    assert await by_client(nat, clients, 4002) != first


async def by_client(nat: NatWorld, clients: list[str], sport: int) -> dict[str, str]:
    """Which backend each of some addresses gets with one connection that ends at once."""
    found = {}
    for client in clients:
        backend, _ = await nat.only(nat.c, udp(client, sport, VIP, 80))
        found[client] = backend.name
        wanted = {"address": client, "port": sport, "ext_host_address": VIP, "ext_host_port": 80}
        await nat.call("nat44_del_session", protocol=UDP, vrf_id=0, flags=0, **wanted)
    return found


# -- changes of backends ----------------------------------------------------------------------------------------------


async def test_backend_that_left_gets_no_new_connection(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3])
    await nat.change(nat.b2, is_add=False)
    assert set(await chosen(nat, nat.c, 40)) == {"n3", "n5"}
    await nat.change(nat.b2, is_add=True)
    assert set(await chosen(nat, nat.b1, 60)) >= {"n4"}


async def test_established_connections_end_with_their_backend_and_only_those(nat: NatWorld) -> None:
    """No reset: what is sent on afterwards is dropped in silence."""
    await nat.balance([nat.b1, nat.b2, nat.b3])
    backends: dict[str, int] = {}
    for sport in range(40000, 40040):
        backends.setdefault((await nat.open(nat.c, sport)).name, sport)
    await nat.change(nat.b2, is_add=False)
    gone, stays = backends["n4"], backends["n3"]
    assert await nat.play(nat.c, tcp(nat.c.v4, gone, VIP, 80, ACK, b"on")) == {}
    backend, _ = await nat.only(nat.c, tcp(nat.c.v4, stays, VIP, 80, ACK, b"on"))
    assert backend is nat.b1


async def test_udp_moves_on_when_its_backend_left(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3], protocol=UDP)
    before, _ = await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    await nat.change(before, is_add=False, protocol=UDP)
    after, _ = await nat.only(nat.c, udp(nat.c.v4, 4000, VIP, 80))
    assert after is not before


async def test_leaving_one_mapping_ends_the_connections_of_all_others(nat: NatWorld) -> None:
    """Sessions are found by the backend's address and port alone."""
    other = "10.96.0.11"
    await nat.balance([nat.b1, nat.b2, nat.b3])
    await nat.balance([nat.b1, nat.b2, nat.b3], vip=other)
    backend = await nat.open(nat.c, 40000, vip=other)
    await nat.change(backend, is_add=False)
    assert await nat.play(nat.c, tcp(nat.c.v4, 40000, other, 80, ACK, b"on")) == {}


async def test_deleted_balanced_mapping_ends_its_connections(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2, nat.b3])
    backend = await nat.open(nat.c, 40000)
    assert len(await nat.sessions(backend)) == 1
    await nat.balance([nat.b1, nat.b2, nat.b3], is_add=False)
    assert await nat.sessions(backend) == []


async def test_deleted_static_mapping_ends_one_connection_of_several(nat: NatWorld) -> None:
    await nat.static(nat.b1)
    for sport in (40000, 40001, 40002):
        await nat.open(nat.c, sport)
    await nat.static(nat.b1, is_add=False)
    assert len(await nat.sessions(nat.b1)) == 2


async def test_affinity_leads_to_a_backend_that_left(nat: NatWorld) -> None:
    """The client's place in the list is remembered, and still holds the backend that is gone."""
    await nat.balance([nat.b1, nat.b2, nat.b3], affinity=600)
    before, _ = await nat.only(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN))
    await nat.change(before, is_add=False)
    after, _ = await nat.only(nat.c, tcp(nat.c.v4, 40001, VIP, 80, SYN))
    assert after is before


# -- client addresses -------------------------------------------------------------------------------------------------


async def test_pod_reaches_itself_as_the_twice_nat_address(nat: NatWorld) -> None:
    await nat.balance([nat.c, nat.b1])
    for sport in range(40000, 40020):
        backend, seen = await nat.only(nat.c, tcp(nat.c.v4, sport, VIP, 80, SYN))
        if backend is nat.c:
            break
    else:
        pytest.fail("never chose itself")
    assert (seen.source, seen.destination, seen.dport) == (TWICE_ADDRESS, nat.c.v4, 8080)
    assert seen.sport >= 1024
    back, reply = await nat.only(nat.c, tcp(nat.c.v4, 8080, TWICE_ADDRESS, seen.sport, SYN | ACK))
    assert (back, reply.flow) == (nat.c, (VIP, 80, nat.c.v4, sport))


async def test_node_port_hides_the_client(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], vip=NODE_ADDRESS, port=NODE_PORT, flags=TWICE)
    backend, seen = await nat.only(nat.out, tcp(OUTSIDE_HOST, 5000, NODE_ADDRESS, NODE_PORT, SYN))
    assert (seen.source, seen.destination, seen.dport) == (TWICE_ADDRESS, backend.v4, 8080)
    back, reply = await nat.only(backend, tcp(backend.v4, 8080, TWICE_ADDRESS, seen.sport, SYN | ACK))
    assert (back, reply.flow) == (nat.out, (NODE_ADDRESS, NODE_PORT, OUTSIDE_HOST, 5000))
    (session,) = await nat.sessions(backend)
    assert (str(session.ext_host_nat_address), session.ext_host_nat_port) == (TWICE_ADDRESS, seen.sport)


async def test_node_port_shows_the_client_without_twice_nat(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], vip=NODE_ADDRESS, port=NODE_PORT)
    backend, seen = await nat.only(nat.out, tcp(OUTSIDE_HOST, 5000, NODE_ADDRESS, NODE_PORT, SYN))
    assert seen.flow == (OUTSIDE_HOST, 5000, backend.v4, 8080)
    back, reply = await nat.only(backend, tcp(backend.v4, 8080, OUTSIDE_HOST, 5000, SYN | ACK))
    assert (back, reply.flow) == (nat.out, (NODE_ADDRESS, NODE_PORT, OUTSIDE_HOST, 5000))


async def test_pod_reaches_the_node_port_of_its_node(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], vip=NODE_ADDRESS, port=NODE_PORT, flags=TWICE)
    backend, seen = await nat.only(nat.c, tcp(nat.c.v4, 5000, NODE_ADDRESS, NODE_PORT, SYN))
    assert (seen.source, seen.destination) == (TWICE_ADDRESS, backend.v4)


async def test_mapping_pins_its_twice_nat_address(nat: NatWorld) -> None:
    await nat.address("10.1.1.253", flags=TWICE_NAT)
    for pool in ("10.1.1.253", TWICE_ADDRESS):
        await nat.static(nat.b1, flags=TWICE, pool=pool)
        _, seen = await nat.only(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN))
        assert seen.source == pool
        await nat.static(nat.b1, flags=TWICE, pool=pool, is_add=False)


async def test_twice_nat_without_an_address_drops(nat: NatWorld) -> None:
    await nat.address(TWICE_ADDRESS, flags=TWICE_NAT, is_add=False)
    await nat.balance([nat.b1, nat.b2], flags=TWICE)
    assert await nat.play(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN)) == {}


async def test_backend_speaks_for_itself_when_the_mapping_is_out2in_only(nat: NatWorld) -> None:
    await nat.static(nat.b1)
    _, seen = await nat.only(nat.b1, udp(nat.b1.v4, 8080, nat.c.v4, 7))
    assert seen.flow == (nat.b1.v4, 8080, nat.c.v4, 7)


# -- source NAT -------------------------------------------------------------------------------------------------------


async def test_pod_leaves_with_the_nodes_address_and_its_own_port(nat: NatWorld) -> None:
    _, seen = await nat.only(nat.c, tcp(nat.c.v4, 40000, OUTSIDE_HOST, 443, SYN))
    assert seen.flow == (NODE_ADDRESS, 40000, OUTSIDE_HOST, 443)
    back, reply = await nat.only(nat.out, tcp(OUTSIDE_HOST, 443, NODE_ADDRESS, 40000, SYN | ACK))
    assert (back, reply.flow) == (nat.c, (OUTSIDE_HOST, 443, nat.c.v4, 40000))


async def test_second_pod_with_the_same_port_gets_another(nat: NatWorld) -> None:
    _, first = await nat.only(nat.c, udp(nat.c.v4, 4000, OUTSIDE_HOST, 53))
    _, second = await nat.only(nat.b1, udp(nat.b1.v4, 4000, OUTSIDE_HOST, 53))
    assert (first.source, first.sport, second.source) == (NODE_ADDRESS, 4000, NODE_ADDRESS)
    assert second.sport != 4000
    for seen, pod in ((first, nat.c), (second, nat.b1)):
        back, reply = await nat.only(nat.out, udp(OUTSIDE_HOST, 53, NODE_ADDRESS, seen.sport))
        assert (back, reply.flow) == (pod, (OUTSIDE_HOST, 53, pod.v4, 4000))


async def test_port_of_a_mapping_is_never_taken_for_source_nat(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], vip=NODE_ADDRESS, port=NODE_PORT, protocol=UDP)
    _, seen = await nat.only(nat.c, udp(nat.c.v4, NODE_PORT, OUTSIDE_HOST, 53))
    assert seen.source == NODE_ADDRESS
    assert seen.sport != NODE_PORT


async def test_tcp_that_begins_in_the_middle_does_not_leave(nat: NatWorld) -> None:
    assert await nat.play(nat.c, tcp(nat.c.v4, 40000, OUTSIDE_HOST, 443, ACK)) == {}


async def test_reply_to_an_outside_client_leaves_as_it_is(nat: NatWorld) -> None:
    """A connection that came in without a mapping has a bypass session."""
    _, request = await nat.only(nat.out, udp(OUTSIDE_HOST, 6000, nat.b1.v4, 7))
    assert request.flow == (OUTSIDE_HOST, 6000, nat.b1.v4, 7)
    _, reply = await nat.only(nat.b1, udp(nat.b1.v4, 7, OUTSIDE_HOST, 6000))
    assert reply.flow == (nat.b1.v4, 7, OUTSIDE_HOST, 6000)


async def test_identity_exempts_from_source_nat(nat: NatWorld) -> None:
    await nat.identity(nat.c.v4, flags=8)
    _, seen = await nat.only(nat.c, udp(nat.c.v4, 4000, OUTSIDE_HOST, 53))
    assert seen.flow == (nat.c.v4, 4000, OUTSIDE_HOST, 53)


async def test_without_pool_address_nothing_leaves(nat: NatWorld) -> None:
    await nat.address(NODE_ADDRESS, is_add=False)
    assert await nat.play(nat.c, udp(nat.c.v4, 4000, OUTSIDE_HOST, 53)) == {}


async def test_pods_among_themselves_are_left_alone(nat: NatWorld) -> None:
    _, seen = await nat.only(nat.c, udp(nat.c.v4, 4000, nat.b1.v4, 7))
    assert seen.flow == (nat.c.v4, 4000, nat.b1.v4, 7)
    assert await nat.sessions(nat.c) == []


async def test_what_no_mapping_matches_is_unreachable(nat: NatWorld) -> None:
    """The route of the service subnet decides, after NAT has left the packet alone."""
    await nat.balance([nat.b1, nat.b2])
    found = await until(partial(nat.play, nat.c, udp(nat.c.v4, 4000, VIP, 81)))
    assert [(seen.protocol, seen.sport >> 8) for seen in found.pop(nat.c.name)] == [(1, 3)]
    assert not found


async def test_sender_is_told_once_in_a_while_that_there_is_no_way(nat: NatWorld) -> None:
    """VPP answers one packet of a source and destination in 100 ms, and at most four of all."""
    packets = [udp(nat.c.v4, 4000 + number, "10.96.7.7", 81) for number in range(8)]
    for _ in range(2):
        found = await until(partial(nat.play, nat.c, *packets))
        assert [len(answers) for answers in found.values()] == [1]
