"""Ends of cables with no IP stack behind them: packets made by hand go in at one, what comes out at another is read.

``World`` is a data plane with two such ends, ``a`` and ``b``, both with IPv4 and IPv6, and the access lists on their
interfaces. Whether a packet crosses is told by what follows it: a marked packet of protocol ``MARK``, which every list
lets through first and which takes the same way, so a refusal is seen as soon as the mark arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import struct
from itertools import count
from typing import Any

from topology import NO_INDEX, Node, loopback, open_link, path, until

import contiv.vpp
from contiv.linux import interfaces
from contiv.model.linux import Interface

DENY, PERMIT, REFLECT = 0, 1, 2
ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16
MARK = 250
"""A protocol number that nobody uses."""
NEW = 0xFFFFFFFF
ETH_P_ALL = 3
MARK_S = 30.0
ATTEMPTS = 150
GATEWAY4, GATEWAY6 = "10.1.1.1", "2001:db8:1::1"
ANY4, ANY6 = "0.0.0.0/0", "::/0"
ANY_PORT = (0, 65535)
TOKEN = b"0123456789abcdef"
_ACTIVE = re.compile(r"Sessions active: add \d+ - deact \d+ = (\d+)")
_SWEEPS = re.compile(r"(\d+): delete_by_sw_index events")
_SWEEPING = re.compile(r"clear in progress: [^0]")
_ANEW = "Reclassify sessions: 1"


class End:
    """One end: its addresses, its interface in the data plane and the socket on the far side."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.v4 = f"10.1.1.{number}"
        self.v6 = f"2001:db8:1::{number}"
        self.mac = f"02:fe:00:01:00:{number:02x}"
        self.vpp_mac = f"02:fe:00:02:00:{number:02x}"
        self.index = NO_INDEX
        self.socket: socket.socket

    async def attach(self, node: Node, vpp: contiv.vpp.Vpp, lender: int) -> None:
        """Make the cable and the interface, with neighbours and routes for both families."""
        namespace = await node.namespace(self.name)
        link = f"v{self.name}"
        await node.veth(link, peer="eth0", peer_netns=namespace, peer_mac=self.mac, mtu=1500)

        def far_side() -> socket.socket:
            interfaces.configure(f"linux/interface/{self.name}", Interface(self.name, "eth0", netns=namespace))
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            made.bind(("eth0", ETH_P_ALL))
            return made

        self.socket = await node.inside(namespace, far_side)
        self.socket.setblocking(False)
        await self.join(vpp, lender)

    async def join(self, vpp: contiv.vpp.Vpp, lender: int) -> None:
        """The data plane's side of the cable."""
        self.index = await open_link(vpp, f"v{self.name}", self.vpp_mac, gso=False)
        await self._wire(vpp, lender, add=True)

    async def leave(self, vpp: contiv.vpp.Vpp, lender: int) -> None:
        """Delete the interface, as the agent does: what stands on it goes first. The cable stays."""
        await self._wire(vpp, lender, add=False)
        await vpp.call("af_packet_delete", host_if_name=f"v{self.name}")

    async def _wire(self, vpp: contiv.vpp.Vpp, lender: int, *, add: bool) -> None:
        loan = {"sw_if_index": lender, "unnumbered_sw_if_index": self.index}
        await vpp.call("sw_interface_set_unnumbered", is_add=add, **loan)
        for address, prefix in ((self.v4, f"{self.v4}/32"), (self.v6, f"{self.v6}/128")):
            hop = path(self.index)
            hop["nh"] = {"address": {"ip6" if ":" in address else "ip4": address}}
            hop["proto"] = int(":" in address)
            route = {"table_id": 0, "prefix": prefix, "n_paths": 1, "paths": [hop]}
            await vpp.call("ip_route_add_del", is_add=add, is_multipath=False, route=route)
            fields = {"sw_if_index": self.index, "flags": 1, "mac_address": self.mac, "ip_address": address}
            await vpp.call("ip_neighbor_add_del", is_add=add, neighbor=fields)

    def send(self, packet: bytes) -> None:
        """Put a packet on the cable."""
        ethertype = 0x86DD if packet[0] >> 4 == 6 else 0x0800
        head = bytes.fromhex((self.vpp_mac + self.mac).replace(":", ""))
        self.socket.send(head + struct.pack(">H", ethertype) + packet)

    def drain(self) -> None:
        """Read and forget what has come off the cable."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(65536)

    async def receive(self) -> bytes:
        """The next packet off the cable."""
        while True:
            frame = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            if frame[12:14] in {b"\x08\x00", b"\x86\xdd"}:
                return frame[14:]


class World:
    """A data plane with two ends."""

    def __init__(self) -> None:
        self.a = End("wa", 2)
        self.b = End("wb", 3)
        self.vpp: contiv.vpp.Vpp
        self.lender = NO_INDEX
        self._marks = count(1)
        self._mark_list = NEW
        self._members: dict[str, tuple[int, frozenset[int], frozenset[int]]] = {}
        """The lists of each end, and the index of its interface."""

    async def build(self, node: Node) -> None:
        """Once for a data plane; packets cross when this returns."""
        self.lender = await loopback(self.vpp, 0, "02:fe:00:00:00:01", f"{GATEWAY4}/32")
        await self.vpp.call(
            "sw_interface_add_del_address", sw_if_index=self.lender, is_add=True, prefix=f"{GATEWAY6}/128"
        )
        for end in (self.a, self.b):
            await end.attach(node, self.vpp, self.lender)
        await self.cli("set acl-plugin reclassify-sessions 0")  # VPP's default, which our startup.conf changes
        for end in (self.a, self.b):
            await self._reached(end)

    async def _reached(self, end: End) -> None:
        """Wait until packets cross to ``end``: what a cable is given while it comes up is lost."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(TimeoutError):
                await self.until_mark(end, within_s=MARK_S / ATTEMPTS)
                return
        raise TimeoutError(f"nothing reaches {end.name}")

    async def acl(self, *rules: dict[str, Any], index: int = NEW, tag: str = "test") -> int:
        """Make a list or replace one; its index."""
        reply = await self.vpp.call("acl_add_replace", acl_index=index, tag=tag, count=len(rules), r=list(rules))
        return int(reply.acl_index)

    async def apply(self, end: End, *, input: list[int] | None = None, output: list[int] | None = None) -> None:
        """Set the lists of an end, behind the one that lets marks pass.

        Returns when the sessions that other lists forget are forgotten: VPP answers before (its cleaner is a process of
        its own, sess_mgmt_node.c), and a session that a packet makes in between would be forgotten too.
        """
        if self._mark_list == NEW:
            self._mark_list = await self.acl(rule(PERMIT, proto=MARK), rule(PERMIT, ANY6, ANY6, proto=MARK), tag="mark")
        inputs, outputs = ([self._mark_list, *lists] if lists else [] for lists in (input or [], output or []))
        lists, members = inputs + outputs, (end.index, frozenset(inputs), frozenset(outputs))
        before = await self.cli("show acl-plugin sessions")
        await self.vpp.call(
            "acl_interface_set_acl_list", sw_if_index=end.index, count=len(lists), n_input=len(inputs), acls=lists
        )
        if self._members.get(end.name, (end.index, frozenset(), frozenset())) != members and _ANEW not in before:
            await self._swept(before)
        self._members[end.name] = members

    async def _swept(self, before: str) -> None:
        """Wait until the cleaner has seen a change since ``before``, which its report was then."""
        seen = _SWEEPS.search(before)
        if seen is None:
            return  # the emulator sweeps before the next packet

        async def check() -> bool:
            now = await self.cli("show acl-plugin sessions")
            count = _SWEEPS.search(now)
            return count is not None and int(count[1]) > int(seen[1]) and _SWEEPING.search(now) is None

        await until(check, timeout_s=MARK_S)

    async def clean(self) -> None:
        """No lists, no sessions, usual timeouts."""
        for end in (self.a, self.b):
            await self.apply(end)
        for entry in await self.vpp.dump("acl", acl_index=NEW):
            await self.vpp.call("acl_del", acl_index=entry.acl_index)
        self._mark_list = NEW
        await self.timeouts(udp_idle=600, tcp_idle=86400, tcp_transient=120)
        await self.cli("set acl-plugin reclassify-sessions 0")
        await self.cli("set acl-plugin session table max-entries 500000")
        while await self.sessions():
            await self.cli("clear acl-plugin sessions")
            await asyncio.sleep(0.01)

    async def cli(self, line: str) -> str:
        """What the debug CLI says."""
        return str((await self.vpp.call("cli_inband", cmd=line)).reply)

    async def timeouts(self, **seconds: int) -> None:
        """Set timeouts of sessions."""
        for name, value in seconds.items():
            await self.cli(f"set acl-plugin session timeout {name.replace('_', ' ')} {value}")

    async def sessions(self) -> int:
        """How many sessions there are."""
        found = _ACTIVE.search(await self.cli("show acl-plugin sessions"))
        assert found is not None
        return int(found[1])

    async def settled(self, number: int) -> None:
        """Wait until there are ``number`` sessions: lists that change clear them a moment later."""

        async def check() -> bool:
            return await self.sessions() == number

        await until(check)

    async def crosses(self, first: End, second: End, packet: bytes) -> bool:
        """Whether a packet that enters at ``first`` leaves at ``second``."""
        six = packet[0] >> 4 == 6
        first.send(packet)
        return _core(packet) in [_core(found) for found in await self.until_mark(second, sender=first, six=six)]

    async def until_mark(
        self, end: End, *, sender: End | None = None, six: bool = False, within_s: float = MARK_S
    ) -> list[bytes]:
        """What leaves at ``end`` before a mark that ``sender`` (the other end) sends there now."""
        sender = sender or (self.b if end is self.a else self.a)
        mark = next(self._marks).to_bytes(8, "big") + TOKEN
        sender.send(ip6(sender.v6, end.v6, MARK, mark) if six else ip4(sender.v4, end.v4, MARK, mark))
        found = []
        async with asyncio.timeout(within_s):
            while True:
                packet = await end.receive()
                if packet[40 if packet[0] >> 4 == 6 else 20 :].startswith(mark):
                    return found
                found.append(packet)


def rule(
    action: int, source: str = ANY4, destination: str = "", *, proto: int = 0, sport: tuple[int, int] = ANY_PORT,
    dport: tuple[int, int] = ANY_PORT, flags: tuple[int, int] = (0, 0),
) -> dict[str, Any]:  # fmt: skip
    """A rule for the API. Ports are type and code for ICMP; ``flags`` are mask and value."""
    return {
        "is_permit": action, "src_prefix": source, "dst_prefix": destination or (ANY6 if ":" in source else ANY4),
        "proto": proto, "srcport_or_icmptype_first": sport[0], "srcport_or_icmptype_last": sport[1],
        "dstport_or_icmpcode_first": dport[0], "dstport_or_icmpcode_last": dport[1],
        "tcp_flags_mask": flags[0], "tcp_flags_value": flags[1],
    }  # fmt: skip


def ip4(
    source: str, destination: str, protocol: int, payload: bytes, *, fragment: int = 0, options: bytes = b""
) -> bytes:
    """An IPv4 packet; ``fragment`` is the field of flags and offset, ``options`` are whole words."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    words = 5 + len(options) // 4
    length = 4 * words + len(payload)
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, length, 77, fragment, 64, protocol, 0) + addresses + options
    total = sum(struct.unpack(f">{2 * words}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:] + payload


def ip6(source: str, destination: str, protocol: int, payload: bytes, *, hops: int = 64) -> bytes:
    """An IPv6 packet; ``protocol`` names its first header behind the fixed one."""
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, hops) + addresses + payload


def tcp(source: int, destination: int, flags: int) -> bytes:
    """A TCP segment. Checksums are left out everywhere: nobody here computes them."""
    return struct.pack(">HHIIBBHHH", source, destination, 1, 1, 5 << 4, flags, 1000, 0, 0) + TOKEN


def udp(source: int, destination: int) -> bytes:
    """A UDP datagram."""
    return struct.pack(">HHHH", source, destination, 8 + len(TOKEN), 0) + TOKEN


def icmp(kind: int, code: int = 0, *, identifier: int = 1) -> bytes:
    """An ICMP message of either version."""
    return struct.pack(">BBHHH", kind, code, 0, identifier, 1) + TOKEN


def sctp(source: int, destination: int) -> bytes:
    """An SCTP packet without chunks that anybody would read."""
    return struct.pack(">HHII", source, destination, 1, 0) + TOKEN


def _core(packet: bytes) -> bytes:
    """A packet without what forwarding changes."""
    if packet[0] >> 4 == 6:
        return packet[:7] + packet[8:]
    return packet[:8] + packet[9:10] + packet[12 : struct.unpack(">H", packet[2:4])[0]]
