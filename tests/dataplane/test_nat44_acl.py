"""Access lists beside NAT44-ED on both data planes: which addresses and ports each list sees.

On input lists come before NAT, on output behind it: a client's list sees the service, a backend's the backend and
whoever NAT makes of the client, the uplink's sees the node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from nat_wires import (
    ACK,
    MARK_PORT,
    NODE_ADDRESS,
    OUT2IN_ONLY,
    OUTSIDE_HOST,
    SYN,
    TCP,
    TWICE_ADDRESS,
    TWICE_NAT,
    UDP,
    VIP,
    NatWorld,
    tcp,
    udp,
)
from wires import DENY, NEW, PERMIT, REFLECT, End, rule

pytestmark = pytest.mark.root


@pytest.fixture(name="nat")
async def with_lists(nat: NatWorld) -> AsyncIterator[NatWorld]:
    """A service of one backend, b1; no lists afterwards."""
    await nat.static(nat.b1)
    yield nat
    for end in nat.ends:
        await lists(nat, end)
    for entry in await nat.vpp.dump("acl", acl_index=NEW):
        await nat.call("acl_del", acl_index=entry.acl_index)


async def lists(
    nat: NatWorld, end: End, *, input: list[dict[str, Any]] | None = None, output: list[dict[str, Any]] | None = None
) -> None:
    """One list on each side of an end that has rules, in which marks pass first."""
    indices = []
    for rules in (input, output):
        if rules is not None:
            whole = [rule(PERMIT, proto=UDP, dport=(MARK_PORT, MARK_PORT)), *rules]
            reply = await nat.call("acl_add_replace", acl_index=NEW, tag="t", count=len(whole), r=whole)
            indices.append(int(reply.acl_index))
    await nat.call(
        "acl_interface_set_acl_list", sw_if_index=end.index, count=len(indices), n_input=int(input is not None),
        acls=indices,
    )  # fmt: skip


def to(address: str, port: int, action: int = REFLECT) -> dict[str, Any]:
    """A rule for TCP to an address and port."""
    return rule(action, destination=f"{address}/32", proto=TCP, dport=(port, port))


async def test_clients_input_list_sees_the_service(nat: NatWorld) -> None:
    await lists(nat, nat.c, input=[to(VIP, 80)])
    backend, _ = await nat.only(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN))
    assert backend is nat.b1
    assert await nat.play(nat.c, tcp(nat.c.v4, 40001, nat.b1.v4, 8080, SYN)) == {}
    await lists(nat, nat.c, input=[to(nat.b1.v4, 8080)])
    assert await nat.play(nat.c, tcp(nat.c.v4, 40002, VIP, 80, SYN)) == {}


async def test_reply_of_a_service_passes_by_the_clients_session(nat: NatWorld) -> None:
    await lists(nat, nat.c, input=[to(VIP, 80)], output=[rule(DENY)])
    assert await nat.open(nat.c, 40000) is nat.b1
    assert await nat.play(nat.b1, tcp(nat.b1.v4, 8080, nat.c.v4, 40001, SYN | ACK)) == {}


@pytest.mark.parametrize("allowed", [True, False])
async def test_backends_output_list_sees_the_pod_and_its_own_port(nat: NatWorld, allowed: bool) -> None:
    source = nat.c.v4 if allowed else nat.b2.v4
    wanted = rule(REFLECT, f"{source}/32", f"{nat.b1.v4}/32", proto=TCP, dport=(8080, 8080))
    await lists(nat, nat.b1, output=[wanted])
    found = await nat.play(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN))
    assert set(found) == ({nat.b1.name} if allowed else set())


async def test_backends_list_lets_its_replies_out(nat: NatWorld) -> None:
    """The session is of what passed its output, which NAT has not turned back yet when the reply enters."""
    wanted = rule(REFLECT, f"{nat.c.v4}/32", proto=TCP, dport=(8080, 8080))
    await lists(nat, nat.b1, input=[rule(DENY)], output=[wanted])
    assert await nat.open(nat.c, 40000) is nat.b1


async def test_backends_list_sees_the_twice_nat_address(nat: NatWorld) -> None:
    await nat.static(nat.b1, vip=NODE_ADDRESS, port=30080, flags=OUT2IN_ONLY | TWICE_NAT)
    packet = tcp(OUTSIDE_HOST, 5000, NODE_ADDRESS, 30080, SYN)
    await lists(nat, nat.b1, output=[rule(REFLECT, f"{OUTSIDE_HOST}/32")])
    assert await nat.play(nat.out, packet) == {}
    await lists(nat, nat.b1, output=[rule(REFLECT, f"{TWICE_ADDRESS}/32")])
    backend, _ = await nat.only(nat.out, packet)
    assert backend is nat.b1


async def test_uplinks_input_list_sees_the_client_and_the_node_port(nat: NatWorld) -> None:
    await nat.static(nat.b1, vip=NODE_ADDRESS, port=30080, flags=OUT2IN_ONLY | TWICE_NAT)
    node_port = rule(DENY, f"{OUTSIDE_HOST}/32", f"{NODE_ADDRESS}/32", proto=TCP, dport=(30080, 30080))
    await lists(nat, nat.out, input=[node_port, rule(PERMIT)])
    assert await nat.play(nat.out, tcp(OUTSIDE_HOST, 5000, NODE_ADDRESS, 30080, SYN)) == {}
    backend, _ = await nat.only(nat.out, tcp("192.168.16.101", 5000, NODE_ADDRESS, 30080, SYN))
    assert backend is nat.b1


async def test_uplinks_output_list_sees_the_node(nat: NatWorld) -> None:
    await lists(nat, nat.out, output=[rule(DENY, f"{nat.c.v4}/32"), rule(PERMIT)])
    _, seen = await nat.only(nat.c, udp(nat.c.v4, 4000, OUTSIDE_HOST, 53))
    assert seen.source == NODE_ADDRESS
    await lists(nat, nat.out, output=[rule(DENY, f"{NODE_ADDRESS}/32"), rule(PERMIT)])
    assert await nat.play(nat.c, udp(nat.c.v4, 4001, OUTSIDE_HOST, 53)) == {}


async def test_denied_packet_makes_no_session(nat: NatWorld) -> None:
    await lists(nat, nat.c, input=[rule(DENY)])
    assert await nat.play(nat.c, tcp(nat.c.v4, 40000, VIP, 80, SYN)) == {}
    assert await nat.sessions(nat.b1) == []
