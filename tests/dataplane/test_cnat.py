"""What CNAT makes of packets, on VPP: who gets them, seeing whom, and what becomes of connections.

Packets are made by hand between ends of cables, desired objects are those of the renderer. The emulator has no CNAT.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from nat_wires import (
    ACK,
    NODE_ADDRESS,
    OUTSIDE_HOST,
    SCTP,
    SYN,
    TCP,
    UDP,
    VIP,
    Ip,
    NatWorld,
    checksum,
    echo,
    ip4,
    sctp,
    tcp,
    udp,
)
from topology import NO_INDEX, Node, path, until
from wires import DENY, NEW, PERMIT, TOKEN, End, ip6, rule

from contiv.agent.cnat import ANY, UNIMPLEMENTED
from contiv.model import cnat as model
from contiv.model.ip import Address
from contiv.vpp.descriptors import Interfaces
from contiv.vpp.descriptors.cnat import (
    CnatHairpinDescriptor,
    CnatHairpinsDescriptor,
    CnatInterfaceDescriptor,
    CnatSettingsDescriptor,
    Listed,
)
from contiv.vpp.descriptors.cnat_translation import CnatTranslationDescriptor

pytestmark = pytest.mark.root

HIDDEN = "10.1.1.254"
NODE_PORT = 30080
CONNECTIONS = 200
AT_ONCE = 4
UNREACHABLE = 5
SNAT_CLIENTS = "10.1.0.0/16"
WAIT_S = 10.0
MORE_FRAGMENTS = 0x2000


class CnatWorld(NatWorld):
    """The pods and the outside with CNAT for services, and NAT44-ED at the uplink alone."""

    async def build(self, node: Node) -> None:
        await super().build(node)
        route = {"table_id": 0, "prefix": SNAT_CLIENTS, "n_paths": 1, "paths": [path(NO_INDEX, type=UNREACHABLE)]}
        await self.call("ip_route_add_del", is_add=True, is_multipath=False, route=route)

    async def switch_on(self, **_: Any) -> None:
        for end in self.ends:
            end.drain()
        await self.call("nat44_ed_plugin_enable_disable", enable=True, sessions=1024)
        await self.call("nat44_forwarding_enable_disable", enable=True)
        await self.call("nat44_ed_add_del_output_interface", is_add=True, sw_if_index=self.out.index)
        await self.address(NODE_ADDRESS)
        listed, interfaces = Listed(self.vpp), Interfaces()
        self.translations = CnatTranslationDescriptor(self.vpp, listed)
        self.hairpins = CnatHairpinDescriptor(self.vpp, listed)
        await CnatSettingsDescriptor(self.vpp, listed).create("", model.CnatSettings(hidden=Address.parse(HIDDEN)))
        for end in self.ends:
            interfaces.put(end.name, end.index)
            entering = CnatInterfaceDescriptor(self.vpp, interfaces, listed)
            await entering.create("", model.CnatInterface(interface=end.name))
        await CnatHairpinsDescriptor(self.vpp, listed).create("", model.CnatHairpins(interfaces=()))

    async def switch_off(self) -> None:
        for entry in await self.vpp.dump("cnat_translation"):
            await self.call("cnat_translation_del", id=entry.translation.id)
        await super().switch_off()

    async def serve(
        self, backends: Iterable[str], *, at: str = VIP, port: int = 80, protocol: int = TCP, hide: bool = False,
        affinity: bool = False,
    ) -> None:  # fmt: skip
        """A translation, with hairpins of its backends as the renderer would have them."""
        targets = [Address.parse(each) for each in backends]
        value = model.CnatTranslation(
            address=Address.parse(at), port=port, protocol=protocol, affinity=affinity,
            backends=b"".join(sorted(model.record(each.packed, 8080, hidden=hide) for each in targets)),
            source=Address.parse(HIDDEN) if hide else None,
        )  # fmt: skip
        await self.translations.create("", value)
        if protocol == SCTP and hide:
            await self.identity(at, SCTP)
        for each in targets:
            if not hide and each in {Address.parse(end.v4) for end in self.pods}:
                await self.hairpins.create("", model.CnatHairpin(address=each))

    async def play(self, sender: End, *packets: bytes, patience_s: float = 10.0) -> dict[str, list[Ip]]:
        """As with NAT44-ED. CNAT's way through the graph is longer than that of marks: they go twice."""
        first = await super().play(sender, *packets, patience_s=patience_s)
        second = await super().play(sender, patience_s=patience_s)
        return {name: first.get(name, []) + second.get(name, []) for name in {**first, **second}}

    async def shares(self, sports: range) -> Counter[str]:
        """Which backends connections of the client go to; a few at a time, for rings are short."""
        found: Counter[str] = Counter()
        for first in sports[::AT_ONCE]:
            several = range(first, min(first + AT_ONCE, sports.stop))
            seen = await self.play(self.c, *(tcp(self.c.v4, sport, VIP, 80, SYN) for sport in several))
            found.update({name: len(packets) for name, packets in seen.items()})
        return found

    async def round_trip(self, client: End, packet: bytes) -> tuple[End, Ip, Ip]:
        """A packet to a service and the backend's answer: the backend, what it saw, what the client saw."""
        backend, seen = await self.only(client, packet)
        answers = {
            TCP: lambda: tcp(seen.destination, seen.dport, seen.source, seen.sport, SYN | ACK),
            UDP: lambda: udp(seen.destination, seen.dport, seen.source, seen.sport),
        }
        back, answer = await self.only(backend, answers[seen.protocol]())
        assert back is client
        return backend, seen, answer

    async def cli(self, line: str) -> str:
        """What the debug CLI says."""
        return str((await self.call("cli_inband", cmd=line)).reply)


@pytest.fixture(scope="module")
def cnat_worlds() -> list[CnatWorld]:
    """The world of a data plane: the first test makes it, the others use it."""
    return []


@pytest.fixture
async def cnat(node: Node, kind: str, cnat_worlds: list[CnatWorld]) -> AsyncIterator[CnatWorld]:
    """Four pods and an outside host, CNAT switched on anew."""
    async with node.connect() as client:
        if (await client.call(ANY, check=False)).retval == UNIMPLEMENTED:
            pytest.skip(f"the {kind} has no CNAT")
        made = cnat_worlds[0] if cnat_worlds else CnatWorld()
        made.vpp = client
        if not cnat_worlds:
            await made.build(node)
            cnat_worlds.append(made)
        await made.switch_on()
        yield made
        await made.switch_off()


async def test_a_cluster_ip_keeps_its_clients_and_shares_them_out(cnat: CnatWorld) -> None:
    """Each of three gets a third of 200: 66.7, standard deviation 6.7; four and a half of them on either side."""
    await cnat.serve([cnat.b1.v4, cnat.b2.v4, cnat.b3.v4])
    backend, seen, answer = await cnat.round_trip(cnat.c, tcp(cnat.c.v4, 4000, VIP, 80, SYN))
    assert seen.flow == (cnat.c.v4, 4000, backend.v4, 8080)
    assert answer.flow == (VIP, 80, cnat.c.v4, 4000)
    shares = await cnat.shares(range(20000, 20000 + CONNECTIONS))
    assert shares.total() == CONNECTIONS
    assert all(36 <= shares[end.name] <= 97 for end in (cnat.b1, cnat.b2, cnat.b3)), shares


async def test_affinity_is_by_client(cnat: CnatWorld) -> None:
    await cnat.serve([cnat.b1.v4, cnat.b2.v4, cnat.b3.v4], affinity=True)
    assert list((await cnat.shares(range(21000, 21020))).values()) == [20]


async def test_a_pod_reaches_itself_and_others_see_who_it_is(cnat: CnatWorld) -> None:
    await cnat.serve([cnat.b1.v4])
    _, seen, answer = await cnat.round_trip(cnat.b1, tcp(cnat.b1.v4, 4000, VIP, 80, SYN))
    assert seen.flow == (HIDDEN, 4000, cnat.b1.v4, 8080)
    assert answer.flow == (VIP, 80, cnat.b1.v4, 4000)
    _, seen, _ = await cnat.round_trip(cnat.c, tcp(cnat.c.v4, 4000, VIP, 80, SYN))
    assert seen.source == cnat.c.v4
    end, direct = await cnat.only(cnat.c, tcp(cnat.c.v4, 4001, cnat.b1.v4, 8080, SYN))
    assert (end, direct.source) == (cnat.b1, cnat.c.v4)


async def test_who_comes_from_outside_is_hidden_and_replies_keep_the_nodes_address_and_port(cnat: CnatWorld) -> None:
    await cnat.serve([cnat.b2.v4], at=NODE_ADDRESS, port=NODE_PORT, hide=True)
    sources = set()
    for sport in (5000, 5001):
        _, seen, answer = await cnat.round_trip(cnat.out, tcp(OUTSIDE_HOST, sport, NODE_ADDRESS, NODE_PORT, SYN))
        assert (seen.source, seen.destination) == (HIDDEN, cnat.b2.v4)
        assert answer.flow == (NODE_ADDRESS, NODE_PORT, OUTSIDE_HOST, sport)
        sources.add(seen.sport)
    assert len(sources) == 2
    end, reply = await cnat.only(cnat.out, echo(OUTSIDE_HOST, NODE_ADDRESS, 7))
    assert (end, reply.source) == (cnat.out, NODE_ADDRESS), "the node's other uses stay"
    end, left = await cnat.only(cnat.c, tcp(cnat.c.v4, 4100, OUTSIDE_HOST, 80, SYN))
    assert (end, left.source) == (cnat.out, NODE_ADDRESS), "source NAT, beside it"


async def test_without_hiding_the_backend_sees_the_outside(cnat: CnatWorld) -> None:
    await cnat.serve([cnat.b2.v4], at=NODE_ADDRESS, port=NODE_PORT)
    _, seen, answer = await cnat.round_trip(cnat.out, tcp(OUTSIDE_HOST, 5100, NODE_ADDRESS, NODE_PORT, SYN))
    assert seen.source == OUTSIDE_HOST
    assert answer.flow == (NODE_ADDRESS, NODE_PORT, OUTSIDE_HOST, 5100)


async def test_other_ports_of_a_cluster_ip_are_refused_and_the_black_hole_is_silent(cnat: CnatWorld) -> None:
    await cnat.serve([cnat.b1.v4])
    end, refusal = await cnat.only(cnat.c, tcp(cnat.c.v4, 4000, VIP, 81, SYN))
    assert (end, refusal.sport >> 8) == (cnat.c, 3)
    await cnat.serve([str(model.BLACK_HOLE[4])], port=82)
    assert await cnat.play(cnat.c, tcp(cnat.c.v4, 4000, VIP, 82, SYN)) == {}


@pytest.mark.parametrize("hide", [False, True])
async def test_sctp_is_translated_with_its_ports_and_checksum(cnat: CnatWorld, hide: bool) -> None:
    at, client = (NODE_ADDRESS, cnat.out) if hide else (VIP, cnat.c)
    await cnat.serve([cnat.b2.v4], at=at, port=NODE_PORT, protocol=SCTP, hide=hide)
    end, seen = await cnat.only(client, checked(sctp(client.v4, 6000, at, NODE_PORT)))
    assert (end, seen.source, ports(seen)) == (cnat.b2, HIDDEN if hide else client.v4, (6000, 8080))
    assert checked(seen.raw) == seen.raw
    end, back = await cnat.only(cnat.b2, checked(sctp(cnat.b2.v4, 8080, seen.source, 6000)))
    assert (end, back.source, ports(back)) == (client, at, (NODE_PORT, 6000))


def ports(packet: Ip) -> tuple[int, int]:
    """SCTP's, which ``parse`` leaves alone."""
    first, second = struct.unpack_from(">HH", packet.payload)
    return first, second


def checked(packet: bytes) -> bytes:
    """An SCTP packet with its checksum."""
    head, tail = packet[:28], packet[32:]
    return head + struct.pack("<I", crc32c(head[20:] + bytes(4) + tail)) + tail


def crc32c(data: bytes) -> int:
    """RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


async def test_connections_of_a_backend_that_is_gone_are_forgotten_and_the_others_live(cnat: CnatWorld) -> None:
    await cnat.serve([cnat.b1.v4], protocol=UDP)
    assert (await cnat.only(cnat.c, udp(cnat.c.v4, 7000, VIP, 80)))[0] is cnat.b1
    await cnat.serve([cnat.b1.v4, cnat.b2.v4], protocol=UDP)
    assert (await cnat.only(cnat.c, udp(cnat.c.v4, 7000, VIP, 80)))[0] is cnat.b1, "one more changes nothing"
    await cnat.serve([cnat.b2.v4], protocol=UDP)

    async def moved() -> bool:
        return (await cnat.only(cnat.c, udp(cnat.c.v4, 7000, VIP, 80)))[0] is cnat.b2

    await until(moved)


async def test_who_spoke_before_there_was_a_translation_stays_untranslated(cnat: CnatWorld) -> None:
    """So there must be one from the beginning: an address that CNAT has led once keeps a session of what it met."""
    await cnat.serve([cnat.b1.v4], port=90, protocol=UDP)
    end, _ = await cnat.only(cnat.c, udp(cnat.c.v4, 7100, VIP, 91))
    assert end is cnat.c, "refused"
    await cnat.serve([cnat.b1.v4], port=91, protocol=UDP)
    assert cnat.b1.name not in await cnat.play(cnat.c, udp(cnat.c.v4, 7100, VIP, 91)), "still"
    assert (await cnat.only(cnat.c, udp(cnat.c.v4, 7101, VIP, 91)))[0] is cnat.b1, "another socket"


async def test_of_a_datagram_in_fragments_the_first_gets_there(cnat: CnatWorld) -> None:
    """CNAT reads ports where the others have data. Straight to a pod that serves they all get through."""
    await cnat.serve([cnat.b1.v4], protocol=UDP)
    for target, port, arrived in ((VIP, 80, 1), (cnat.b1.v4, 8080, 2)):
        whole = udp(cnat.c.v4, 7200, target, port, bytes(32))
        first = ip4(cnat.c.v4, target, UDP, whole[20:44], fragment=MORE_FRAGMENTS)
        second = ip4(cnat.c.v4, target, UDP, whole[44:], fragment=24 // 8)
        found = await cnat.play(cnat.c, first, second)
        assert len(found.get(cnat.b1.name, [])) == arrived, target


async def test_lists_see_the_service_on_input_and_the_backend_on_output(cnat: CnatWorld) -> None:
    """As with NAT44-ED, so that the same policies hold; the second number of a case is whether the packet arrives."""
    await cnat.serve([cnat.b1.v4])
    await cnat.serve([cnat.b1.v4], at=NODE_ADDRESS, port=NODE_PORT, hide=True)
    at_node = tcp(OUTSIDE_HOST, 5000, NODE_ADDRESS, NODE_PORT, SYN)
    at_vip = tcp(cnat.c.v4, 4000, VIP, 80, SYN)
    pod, vip, backend = (f"{each}/32" for each in (cnat.c.v4, VIP, cnat.b1.v4))
    cases = [
        (cnat.c, "input", (pod, vip), at_vip, False), (cnat.c, "input", (pod, backend), at_vip, True),
        (cnat.b1, "output", (pod, backend), at_vip, False), (cnat.b1, "output", (pod, vip), at_vip, True),
        (cnat.out, "input", (f"{OUTSIDE_HOST}/32", f"{NODE_ADDRESS}/32"), at_node, False),
        (cnat.b1, "output", (f"{HIDDEN}/32", backend), at_node, False),
        (cnat.b1, "output", (f"{OUTSIDE_HOST}/32", backend), at_node, True),
    ]  # fmt: skip
    for number, (where, side, (source, destination), packet, arrives) in enumerate(cases):
        rules = [rule(DENY, source, destination, proto=TCP), rule(PERMIT)]
        index = (await cnat.call("acl_add_replace", acl_index=NEW, tag="t", count=2, r=rules)).acl_index
        applied = {"sw_if_index": where.index, "n_input": int(side == "input")}
        await cnat.call("acl_interface_set_acl_list", count=1, acls=[index], **applied)
        fresh = packet[:20] + struct.pack(">H", 9000 + number) + packet[22:]
        found = await cnat.play(cnat.out if packet is at_node else cnat.c, with_checksum(fresh))
        assert (list(found) == [cnat.b1.name]) == arrives, number
        await cnat.call("acl_interface_set_acl_list", sw_if_index=where.index, count=0, n_input=0, acls=[])
        await cnat.call("acl_del", acl_index=index)


def with_checksum(packet: bytes) -> bytes:
    """The same SYN with the checksum that its ports want."""
    source, destination = (".".join(map(str, packet[at : at + 4])) for at in (12, 16))
    sport, dport = struct.unpack_from(">HH", packet, 20)
    return tcp(source, sport, destination, dport, SYN)


async def test_errors_of_vpps_own_leave_cnat_as_it_is(cnat: CnatWorld) -> None:
    """A packet that has come too far; with CNAT's features on interfaces the next test's happens."""
    await cnat.serve([cnat.b1.v4])
    for sender, packet in (
        (cnat.out, udp(OUTSIDE_HOST, 7000, cnat.b1.v4, 9999, ttl=1)),
        (cnat.b1, tcp(cnat.b1.v4, 7000, VIP, 80, SYN, ttl=1)),
    ):
        await cnat.play(sender, packet)
    assert await entry_zero(cnat) == []


async def entry_zero(cnat: CnatWorld) -> list[str]:
    """What CNAT rewrites in packets that it has not met."""
    lines = (await cnat.cli("show cnat timestamp verbose 1")).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("[0] "))
    end = next((number for number, line in enumerate(lines) if number > start and line.startswith("[")), len(lines))
    return [line for line in lines[start + 1 : end] if line.startswith("  [")]


async def test_a_cluster_ip_of_ipv6(cnat: CnatWorld) -> None:
    """No pod has IPv6; addresses here are of this test."""
    client, backend = ("2001:db8:7::2", cnat.c), ("2001:db8:7::3", cnat.b1)
    for text, end in (client, backend):
        await cnat.call("sw_interface_ip6_enable_disable", sw_if_index=end.index, enable=True)
        hop = path(end.index)
        hop |= {"nh": {"address": {"ip6": text}}, "proto": 1}
        route = {"table_id": 0, "prefix": f"{text}/128", "n_paths": 1, "paths": [hop]}
        await cnat.call("ip_route_add_del", is_add=True, is_multipath=False, route=route)
        fields = {"sw_if_index": end.index, "flags": 1, "mac_address": end.mac, "ip_address": text}
        await cnat.call("ip_neighbor_add_del", is_add=True, neighbor=fields)
    route = {"table_id": 0, "prefix": "fd00::10/128", "n_paths": 1, "paths": [path(NO_INDEX, type=5, proto=1)]}
    await cnat.call("ip_route_add_del", is_add=True, is_multipath=False, route=route)
    await cnat.serve([backend[0]], at="fd00::10", protocol=UDP)
    cnat.c.send(udp6(client[0], 4000, "fd00::10", 80))
    there = await next_ip6(cnat.b1)
    assert endpoints6(there) == (client[0], 4000, backend[0], 8080)
    cnat.b1.send(udp6(backend[0], 8080, client[0], 4000))
    assert endpoints6(await next_ip6(cnat.c)) == ("fd00::10", 80, client[0], 4000)


async def next_ip6(end: End) -> bytes:
    """The next UDP datagram over IPv6 that leaves at an end."""
    async with asyncio.timeout(WAIT_S):
        while True:
            packet = await end.receive()
            if packet[0] >> 4 == 6 and packet[6] == UDP:
                return packet


def udp6(source: str, sport: int, destination: str, dport: int) -> bytes:
    """A UDP datagram with its checksum."""
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    data = struct.pack(">HHHH", sport, dport, 8 + len(TOKEN), 0) + TOKEN
    total = checksum(addresses + struct.pack(">IHBB", len(data), 0, 0, UDP) + data)
    return ip6(source, destination, UDP, data[:6] + struct.pack(">H", total) + data[8:])


def endpoints6(packet: bytes) -> tuple[str, int, str, int]:
    """Addresses and ports; a wrong checksum fails the test."""
    length = struct.unpack_from(">H", packet, 4)[0]
    body = packet[40 : 40 + length]
    assert checksum(packet[8:40] + struct.pack(">IHBB", length, 0, 0, UDP) + body) == 0
    sport, dport = struct.unpack_from(">HH", body)
    source, destination = (str(ipaddress.IPv6Address(packet[at : at + 16])) for at in (8, 24))
    return source, sport, destination, dport


async def test_with_features_on_interfaces_an_error_of_vpps_own_ends_in_the_entry_of_everybody(cnat: CnatWorld) -> None:
    """Why the renderer does without them: what has no session of its own, as VXLAN's outer packets, finds entry 0."""
    await cnat.call("feature_cnat_enable_disable", sw_if_index=cnat.out.index, enable_disable=True)
    await cnat.call("cnat_snat_policy_add_del_if", sw_if_index=cnat.out.index, is_add=0, table=2)
    try:
        assert await entry_zero(cnat) == []
        await cnat.play(cnat.out, udp(OUTSIDE_HOST, 7001, "10.96.9.9", 9999))
        assert OUTSIDE_HOST in "".join(await entry_zero(cnat))
    finally:
        await cnat.call("feature_cnat_enable_disable", sw_if_index=cnat.out.index, enable_disable=False)
