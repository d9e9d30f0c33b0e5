"""contiv/vpp/descriptors/nat_sessions.py: which sessions end, on both data planes."""

from __future__ import annotations

import pytest
from nat_wires import NODE_ADDRESS, OUT2IN_ONLY, SYN, TCP, TWICE_NAT, UDP, VIP, NatWorld, tcp, udp
from wires import End

from contiv.model import vpp as model
from contiv.model.ip import Address
from contiv.vpp.descriptors.nat_sessions import end_sessions

pytestmark = pytest.mark.root

OTHER_VIP = "10.96.0.11"
TARGET = 8080
NODE_PORT = 30080
Told = tuple[int, str, int, str, int]
"""Protocol, the client, its port, what it speaks to, and the port of that."""


def mapping(vip: str = VIP, port: int = 80, protocol: int = UDP) -> model.NatMapping:
    """What the sessions were made by; nobody asks for its backends."""
    return model.NatMapping(address=Address.parse(vip), port=port, protocol=protocol, backends=b"", label="t/s")


async def told(nat: NatWorld, backend: End) -> set[Told]:
    """The sessions of a backend."""
    return {
        (each.protocol, str(each.ext_host_address), each.ext_host_port, str(each.outside_ip_address), each.outside_port)
        for each in await nat.sessions(backend)
    }


async def clients_of_everything(nat: NatWorld) -> None:
    """Clients of four mappings that have the same two backends."""
    for vip in (VIP, OTHER_VIP):
        await nat.balance([nat.b1, nat.b2], vip=vip, protocol=UDP)
    await nat.balance([nat.b1, nat.b2], protocol=TCP)
    await nat.balance([nat.b1, nat.b2], vip=NODE_ADDRESS, port=NODE_PORT, protocol=UDP, flags=OUT2IN_ONLY | TWICE_NAT)
    for sport in range(4000, 4016):
        for vip in (VIP, OTHER_VIP):
            await nat.only(nat.c, udp(nat.c.v4, sport, vip, 80))
        await nat.only(nat.c, tcp(nat.c.v4, sport, VIP, 80, SYN))
        await nat.only(nat.out, udp(nat.out.v4, sport, NODE_ADDRESS, NODE_PORT))
        await nat.only(nat.b1, udp(nat.b1.v4, sport, VIP, 80))  # reaches itself, under another address, or b2


@pytest.mark.parametrize(
    "ended",
    [mapping(), mapping(OTHER_VIP), mapping(NODE_ADDRESS, NODE_PORT), mapping(protocol=TCP)],
    ids=["UDP", "the other service", "node port", "TCP"],
)
async def test_only_sessions_by_that_mapping_to_that_backend_end(nat: NatWorld, ended: model.NatMapping) -> None:
    await clients_of_everything(nat)
    first, second = await told(nat, nat.b1), await told(nat, nat.b2)
    named = {each for each in first if (each[0], *each[3:]) == (ended.protocol, str(ended.address), ended.port)}
    assert named, "somebody was sent to this backend"

    await end_sessions(nat.vpp, ended, Address.parse(nat.b1.v4), TARGET)

    assert await told(nat, nat.b1) == first - named
    assert await told(nat, nat.b2) == second


async def test_nobody_there_is_no_error(nat: NatWorld) -> None:
    await nat.balance([nat.b1, nat.b2], protocol=UDP)
    await end_sessions(nat.vpp, mapping(), Address.parse(nat.b1.v4), TARGET)
    assert await told(nat, nat.b1) == set()
