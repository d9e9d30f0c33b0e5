"""NAT44-ED between ends of cables: four pods and an outside host, packets made by hand with right checksums.

``NatWorld`` has pods ``c`` (client) and ``b1`` to ``b3`` (backends), inside and outside both, and ``out`` behind an
uplink with the output feature; the node's address is the pool's. ``play`` sends a packet and tells what left at every
end because of it: behind the packet the same end sends a mark to each of them, which identity mappings exempt from NAT.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from topology import NO_INDEX, Node, loopback, path, until
from wires import GATEWAY4, End

import contiv.vpp
from contiv.vpp.errors import retval_name

ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16
TWICE_NAT, SELF_TWICE_NAT, OUT2IN_ONLY, ADDRESS_ONLY, OUTSIDE, INSIDE, STATIC, VALID = (1 << bit for bit in range(8))
NODE_ADDRESS = "192.168.16.1"
OUTSIDE_HOST = "192.168.16.100"
TWICE_ADDRESS = "10.1.1.254"
VIP = "10.96.0.10"
MARK_PORT = 9
MARK_S = 10.0
SETTLE_S = 0.2
MARK_TAG = "mark"
SESSIONS = 1024
DEFAULTS = {"udp": 300, "tcp_established": 7440, "tcp_transitory": 240, "icmp": 60}


class Ip(NamedTuple):
    """A packet as it was seen: addresses, ports (ICMP: type and code, identifier), payload behind the header."""

    protocol: int
    source: str
    sport: int
    destination: str
    dport: int
    payload: bytes
    flags: int = 0
    raw: bytes = b""

    @property
    def flow(self) -> tuple[str, int, str, int]:
        """Source and destination with their ports."""
        return self.source, self.sport, self.destination, self.dport


class Uplink(End):
    """The cable to the outside: the node's address on its interface, one host behind it."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name, number)
        self.v4 = OUTSIDE_HOST

    async def _wire(self, vpp: contiv.vpp.Vpp, lender: int, *, add: bool) -> None:
        prefix = f"{NODE_ADDRESS}/24"
        await vpp.call("sw_interface_add_del_address", sw_if_index=self.index, is_add=add, prefix=prefix)
        fields = {"sw_if_index": self.index, "flags": 1, "mac_address": self.mac, "ip_address": self.v4}
        await vpp.call("ip_neighbor_add_del", is_add=add, neighbor=fields)


class NatWorld:
    """A data plane with NAT44-ED switched on."""

    def __init__(self) -> None:
        self.c, self.b1, self.b2, self.b3 = (End(f"n{number}", number) for number in (2, 3, 4, 5))
        self.out = Uplink("nout", 100)
        self.pods = (self.c, self.b1, self.b2, self.b3)
        self.ends = (*self.pods, self.out)
        self.vpp: contiv.vpp.Vpp
        self._marks = count(1)

    async def build(self, node: Node) -> None:
        """Once for a data plane: links, addresses, routes."""
        lender = await loopback(self.vpp, 0, "02:fe:00:00:00:01", f"{GATEWAY4}/32")
        for end in self.pods:
            await end.attach(node, self.vpp, lender)
        await self.out.attach(node, self.vpp, lender)
        hop = path(NO_INDEX, type=5)  # services without a mapping: unreachable
        route = {"table_id": 0, "prefix": "10.96.0.0/16", "n_paths": 1, "paths": [hop]}
        await self.vpp.call("ip_route_add_del", is_add=True, is_multipath=False, route=route)
        for end in self.ends:
            await until(partial(self._reaches_all, end))

    async def _reaches_all(self, sender: End) -> bool:
        """Whether what an end sends arrives everywhere: links that have just come up may lose their first packets."""
        try:
            await self.play(sender, patience_s=SETTLE_S)
        except TimeoutError:
            return False
        return True

    async def switch_on(self, *, sessions: int = SESSIONS, pool: bool = True, twice: bool = True) -> None:
        """NAT as the agent sets it up; what still waits at the ends is forgotten."""
        for end in self.ends:
            end.drain()
        await self.call("nat44_ed_plugin_enable_disable", enable=True, sessions=sessions)
        await self.call("nat44_forwarding_enable_disable", enable=True)
        for end in self.pods:
            for flag in (INSIDE, OUTSIDE):
                await self.call("nat44_interface_add_del_feature", is_add=True, sw_if_index=end.index, flags=flag)
        await self.call("nat44_ed_add_del_output_interface", is_add=True, sw_if_index=self.out.index)
        if pool:
            await self.address(NODE_ADDRESS)
        if twice:
            await self.address(TWICE_ADDRESS, flags=TWICE_NAT)
        for end in self.ends:
            await self.identity(end.v4, UDP, MARK_PORT, tag=MARK_TAG)

    async def switch_off(self) -> None:
        """Everything that NAT had goes with it."""
        running = await self.call("nat44_show_running_config")
        if running.sessions:
            await self.call("nat44_ed_plugin_enable_disable", enable=False)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def call(self, name: str, **fields: Any) -> Any:
        """A request that succeeds."""
        return await self.vpp.call(name, **fields)

    async def refused(self, name: str, **fields: Any) -> str:
        """The name of a request's refusal, "" when it succeeds."""
        retval = (await self.vpp.call(name, check=False, **fields)).retval
        return retval_name(retval) if retval else ""

    async def address(self, address: str, *, flags: int = 0, is_add: bool = True) -> None:
        """A pool address, or one of twice-NAT."""
        span = {"first_ip_address": address, "last_ip_address": address}
        await self.call("nat44_add_del_address_range", is_add=is_add, flags=flags, vrf_id=NO_INDEX, **span)

    async def identity(self, address: str, protocol: int = 0, port: int = 0, *, tag: str = "", flags: int = 0) -> None:
        """An exemption from translation."""
        await self.call(
            "nat44_add_del_identity_mapping", is_add=True, flags=flags, ip_address=address, protocol=protocol,
            port=port, sw_if_index=NO_INDEX, vrf_id=0, tag=tag,
        )  # fmt: skip

    async def balance(
        self, backends: Iterable[End], *, vip: str = VIP, port: int = 80, target: int = 8080, protocol: int = TCP,
        weights: Iterable[int] = (), flags: int = OUT2IN_ONLY | SELF_TWICE_NAT, affinity: int = 0, is_add: bool = True,
    ) -> None:  # fmt: skip
        """A balanced mapping."""
        backends = list(backends)
        chosen = list(weights) or [85] * len(backends)
        locals_ = [local(end.v4, target, weight) for end, weight in zip(backends, chosen, strict=True)]
        await self.call(
            "nat44_add_del_lb_static_mapping", is_add=is_add, flags=flags, external_addr=vip, external_port=port,
            protocol=protocol, affinity=affinity, tag="svc", local_num=len(locals_), locals=locals_,
        )  # fmt: skip

    async def change(
        self, end: End, *, is_add: bool, vip: str = VIP, port: int = 80, target: int = 8080, protocol: int = TCP
    ) -> None:
        """One backend more or less."""
        await self.call(
            "nat44_lb_static_mapping_add_del_local", is_add=is_add, external_addr=vip, external_port=port,
            protocol=protocol, local=local(end.v4, target, 85),
        )  # fmt: skip

    async def static(
        self, end: End, *, vip: str = VIP, port: int = 80, target: int = 8080, protocol: int = TCP,
        flags: int = OUT2IN_ONLY, is_add: bool = True, pool: str = "0.0.0.0",
    ) -> None:  # fmt: skip
        """A mapping of one backend."""
        await self.call(
            "nat44_add_del_static_mapping_v2", is_add=is_add, match_pool=pool != "0.0.0.0", flags=flags,
            pool_ip_address=pool, local_ip_address=end.v4, external_ip_address=vip, protocol=protocol,
            local_port=target, external_port=port, external_sw_if_index=NO_INDEX, vrf_id=0, tag="one",
        )  # fmt: skip

    async def timeouts(self, **seconds: int) -> None:
        """Other timeouts than VPP's defaults."""
        await self.call("nat_set_timeouts", **{**DEFAULTS, **seconds})

    async def sessions(self, end: End) -> list[Any]:
        """The sessions whose inside address is an end's."""
        return await self.vpp.dump("nat44_user_session_v3", ip_address=end.v4, vrf_id=0)

    # -- packets ----------------------------------------------------------------------------------------------------

    async def play(self, sender: End, *packets: bytes, patience_s: float = MARK_S) -> dict[str, list[Ip]]:
        """Send packets at one end; what left at each end for them, by its name. Checksums are checked."""
        mark = next(self._marks).to_bytes(8, "big") + b"mark of the test"
        for packet in packets:
            sender.send(packet)
        for end in self.ends:
            sender.send(udp(sender.v4, MARK_PORT, end.v4, MARK_PORT, mark))
        found = await asyncio.gather(*(self._until(end, mark, patience_s) for end in self.ends))
        return {end.name: seen for end, seen in zip(self.ends, found, strict=True) if seen}

    async def only(self, sender: End, *packets: bytes) -> tuple[End, Ip]:
        """The one packet that left for what was sent, and where."""
        found = await self.play(sender, *packets)
        assert [len(seen) for seen in found.values()] == [1], found
        name, (seen,) = next(iter(found.items()))
        return next(end for end in self.ends if end.name == name), seen

    async def _until(self, end: End, mark: bytes, patience_s: float) -> list[Ip]:
        found: list[Ip] = []
        async with asyncio.timeout(patience_s):
            while True:
                packet = await end.receive()
                if packet[0] >> 4 != 4:
                    continue
                seen = parse(packet)
                if seen.payload.endswith(mark):
                    return found
                found.append(seen)

    async def open(self, client: End, sport: int, *, vip: str = VIP, port: int = 80) -> End:
        """A whole TCP handshake through a mapping; the backend."""
        backend, syn = await self.only(client, tcp(client.v4, sport, vip, port, SYN))
        answer = tcp(syn.destination, syn.dport, syn.source, syn.sport, SYN | ACK)
        back, reply = await self.only(backend, answer)
        assert (back, reply.flow) == (client, (vip, port, client.v4, sport))
        again, ack = await self.only(client, tcp(client.v4, sport, vip, port, ACK))
        assert (again, ack.flow) == (backend, syn.flow)
        return backend


def local(address: str, port: int, weight: int) -> dict[str, Any]:
    """A backend for the API."""
    return {"addr": address, "port": port, "probability": weight, "vrf_id": 0}


def checksum(data: bytes, initial: int = 0) -> int:
    """The Internet checksum."""
    padded = data + b"\0" * (len(data) % 2)
    total = initial + sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip4(
    source: str, destination: str, protocol: int, payload: bytes, *, ttl: int = 64, fragment: int = 0, ident: int = 7
) -> bytes:
    """An IPv4 packet with its checksum; ``fragment`` is the field of flags and offset."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), ident, fragment, ttl, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def _pseudo(source: str, destination: str, protocol: int, length: int) -> int:
    words = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack(">HH", protocol, length)
    return sum(int(word) for word in struct.unpack(">6H", words))


def udp(source: str, sport: int, destination: str, dport: int, data: bytes = b"hello", **more: int) -> bytes:
    """A UDP datagram over IPv4."""
    return ip4(source, destination, UDP, datagram(source, sport, destination, dport, data), **more)


def datagram(source: str, sport: int, destination: str, dport: int, data: bytes) -> bytes:
    """A UDP datagram with its checksum."""
    head = struct.pack(">HHHH", sport, dport, 8 + len(data), 0)
    total = checksum(head + data, _pseudo(source, destination, UDP, 8 + len(data)))
    return head[:6] + struct.pack(">H", total or 0xFFFF) + data


def tcp(source: str, sport: int, destination: str, dport: int, flags: int, data: bytes = b"", **more: int) -> bytes:
    """A TCP segment over IPv4."""
    head = struct.pack(">HHIIBBHHH", sport, dport, 100, 200, 5 << 4, flags, 1000, 0, 0)
    total = checksum(head + data, _pseudo(source, destination, TCP, 20 + len(data)))
    return ip4(source, destination, TCP, head[:16] + struct.pack(">HH", total, 0) + data, **more)


def icmp(source: str, destination: str, kind: int, rest: bytes, *, code: int = 0, **more: int) -> bytes:
    """An ICMP message over IPv4; ``rest`` begins behind its checksum."""
    head = struct.pack(">BBH", kind, code, 0)
    total = checksum(head + rest)
    return ip4(source, destination, ICMP, head[:2] + struct.pack(">H", total) + rest, **more)


def echo(source: str, destination: str, ident: int, *, reply: bool = False) -> bytes:
    """A ping, or its answer."""
    return icmp(source, destination, 0 if reply else 8, struct.pack(">HH", ident, 1) + b"ping")


def error_about(source: str, packet: bytes, *, kind: int = 3, code: int = 3) -> bytes:
    """The ICMP error that ``source`` sends about a packet."""
    return icmp(source, socket.inet_ntoa(packet[12:16]), kind, bytes(4) + packet[:28], code=code)


def sctp(source: str, sport: int, destination: str, dport: int) -> bytes:
    """An SCTP packet without chunks."""
    return ip4(source, destination, SCTP, struct.pack(">HHII", sport, dport, 1, 0) + b"sctp")


def parse(packet: bytes) -> Ip:
    """Read a packet; wrong checksums fail the test."""
    head = (packet[0] & 15) * 4
    length, fragment = struct.unpack_from(">H", packet, 2)[0], struct.unpack_from(">H", packet, 6)[0]
    packet = packet[:length]
    assert checksum(packet[:head]) == 0, "the header's checksum is wrong"
    source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    protocol, body = packet[9], packet[head:]
    if fragment & 0x1FFF or protocol not in {ICMP, TCP, UDP}:
        return Ip(protocol, source, 0, destination, 0, body, raw=packet)
    whole = not fragment & 0x2000
    if protocol == ICMP:
        assert not whole or checksum(body) == 0, "ICMP's checksum is wrong"
        return Ip(protocol, source, body[0] << 8 | body[1], destination, struct.unpack_from(">H", body, 4)[0], body[8:],
                  raw=packet)  # fmt: skip
    sport, dport = struct.unpack_from(">HH", body)
    if whole:
        assert checksum(body, _pseudo(source, destination, protocol, len(body))) == 0, "the transport checksum is wrong"
    data = body[8:] if protocol == UDP else body[20:]
    return Ip(protocol, source, sport, destination, dport, data, 0 if protocol == UDP else body[13], raw=packet)
