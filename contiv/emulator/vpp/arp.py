"""ARP: answers for what is ours, learning from what is said to us, proxying, and our own requests.

Follows vnet/arp/arp.c and arp_proxy.c: the sender must be attached to the receiving interface's table (or the
interface must borrow its address from the one that holds the subnet), the target must be connected; only replies to
our own addresses and gratuitous ARPs of known neighbours teach anything.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp import sources
from contiv.emulator.vpp.fib import EntryFlag
from contiv.emulator.vpp.packet import ETHERNET_LENGTH, make

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Entry, Fib
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet

ARP_LENGTH: Final = 28
REQUEST: Final = 1
REPLY: Final = 2
_ARP: Final = struct.Struct(">HHBBH6sI6sI")
_BROADCAST: Final = b"\xff" * 6
REQUEST_INTERVAL_S: Final = 1e-3
"""At most one request for an address on an interface in this time (ip4_neighbor.c, throttle_init)."""
THROTTLE_MAX: Final = 4_096


class ProxyRange(msgspec.Struct, frozen=True, order=True):
    """Addresses that are answered for on interfaces with proxy ARP switched on."""

    table_id: int
    low: int
    high: int


class _Message(msgspec.Struct, frozen=True):
    """An ARP packet's fields, and the link address that its frame came from."""

    operation: int
    sender_mac: bytes
    sender: int
    target: int
    link_source: bytes


class ArpNodes:
    """The nodes arp-input, arp-reply and arp-proxy, and the requests of ip4-arp and ip4-glean."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._errors = graph.errors
        self._family = graph.family4
        self._neighbours = graph.neighbours4
        self.proxy_ranges: list[ProxyRange] = []
        self._asked: dict[tuple[int, int], float] = {}

    def input(self, packet: Packet) -> Node | None:
        """arp-input, with the packet starting behind the link header."""
        start = packet.start
        if packet.end - start < ARP_LENGTH:
            return self._drop(packet, "arp-input", "L2 type not ethernet")
        fields = _ARP.unpack_from(packet.buf, start)
        hardware, protocol, _, _, operation, sender_mac, sender, _, target = fields
        if hardware != 1:
            return self._drop(packet, "arp-input", "L2 type not ethernet")
        if protocol != 0x0800:
            return self._drop(packet, "arp-input", "L3 type not IP4")
        if not sender:
            return self._drop(packet, "arp-input", "IP4 destination address is unset")
        if not packet.rx.ip4_enabled:
            return self._drop(packet, "arp-disabled", "ARP Disabled")
        link_source = bytes(packet.view[start - 8 : start - 2])
        return self._reply(packet, _Message(operation, sender_mac, sender, target, link_source))

    def request(self, interface: Interface, address: int, source: int | None) -> str:
        """Ask who has ``address``; the reason for which VPP would count the packet that made us ask."""
        if source is None:
            return "no source address for ARP request"
        now = self._graph.clock()
        key = (interface.index, address)
        if now - self._asked.get(key, -1.0) < REQUEST_INTERVAL_S:
            return "ARP requests throttled"
        if len(self._asked) >= THROTTLE_MAX:
            self._asked.clear()
        self._asked[key] = now
        body = _ARP.pack(1, 0x0800, 6, 4, REQUEST, interface.mac, source, bytes(6), address)
        asking = make(_BROADCAST + interface.mac + b"\x08\x06" + body, rx=interface)
        asking.tx = interface
        self._graph.run(self._graph.output.interface_output, asking)
        return "ARP requests sent"

    def _reply(self, packet: Packet, arp: _Message) -> Node | None:
        """arp-reply: judge sender and target by the table, then answer, learn or pass on to the proxy."""
        fib = packet.rx.fib4
        target = fib.match(arp.target)
        connected_on = self._family.resolver.resolving_interface(target)
        sender, problem = self._attached_sender(fib, arp.sender)
        if problem:
            return self._proxy(packet, arp, problem)
        if sender is None and not self._borrows(packet.rx, connected_on):
            return self._drop(packet, "arp-reply", "IP4 source address not local to subnet")
        if sources.ADJACENCY in target.sources:
            reason = self._gratuitous(packet, arp, connected_on)
            return self._proxy(packet, arp, reason)
        flags = _any_flags(target)
        if not flags & EntryFlag.CONNECTED:
            return self._proxy(packet, arp, "IP4 destination address not local to subnet")
        if arp.link_source != arp.sender_mac:
            return self._drop(packet, "arp-reply", "ARP hw addr does not match L2 frame src addr")
        is_local = bool(flags & EntryFlag.LOCAL)
        if arp.operation == REPLY:
            if is_local:
                self._neighbours.learn(packet.rx, arp.sender, arp.sender_mac)
                return self._proxy(packet, arp, "ARP request IP4 source address learned")
            return self._proxy(packet, arp, "IP4 destination address not local to subnet")
        if not is_local:
            return self._proxy(packet, arp, "ARP replies sent")
        if not self._asked_on_its_subnet(packet.rx, connected_on, sender):
            return self._drop(packet, "arp-reply", "RX interface is unnumbered to different subnet")
        if arp.sender == arp.target:
            return self._drop(packet, "arp-reply", "ARP probe or announcement dropped")
        self._neighbours.learn(packet.rx, arp.sender, arp.sender_mac)
        self._errors.count("arp-reply", "ARP replies sent")
        return self._answer(packet, arp)

    def _attached_sender(self, fib: Fib, sender: int) -> tuple[Entry | None, str]:
        """The entry by which the sender is attached, None when it is not; a reason when the sender is ourselves."""
        length = fib.bits
        while True:
            entry = fib.match(sender, length_max=length, installed=False)
            for contribution in entry.sources.values():
                if contribution.flags & EntryFlag.LOCAL:
                    return None, "IP4 source address matches local interface"
                if contribution.flags & (EntryFlag.ATTACHED | EntryFlag.CONNECTED):
                    return entry, ""
            if sources.DEFAULT_ROUTE in entry.sources:
                return None, ""
            length = entry.length - 1

    def _borrows(self, interface: Interface, lender: int) -> bool:
        return interface.unnumbered is not None and interface.unnumbered.index == lender

    def _asked_on_its_subnet(self, interface: Interface, connected_on: int, sender: Entry | None) -> bool:
        sender_on = -1 if sender is None else self._family.resolver.resolving_interface(sender)
        if connected_on == interface.index and sender_on == interface.index:
            return True
        return self._borrows(interface, connected_on)

    def _gratuitous(self, packet: Packet, arp: _Message, connected_on: int) -> str:
        if connected_on != packet.rx.index:
            return "IP4 destination address not local to subnet"
        if arp.sender == arp.target:
            self._neighbours.learn(packet.rx, arp.sender, arp.sender_mac)
            return "ARP request IP4 source address learned"
        return "ARP replies sent"

    def _proxy(self, packet: Packet, arp: _Message, reason: str) -> Node | None:
        """arp-proxy when the interface has it, else the end of the arc with ``reason``."""
        interface = packet.rx
        if interface.proxy_arp and arp.operation == REQUEST:
            for proxied in self.proxy_ranges:
                if proxied.table_id == interface.fib4.table_id and proxied.low <= arp.target <= proxied.high:
                    self._errors.count("arp-proxy", "ARP replies sent")
                    return self._answer(packet, arp)
        return self._drop(packet, "arp-reply", reason)

    def _answer(self, packet: Packet, arp: _Message) -> Node | None:
        """Turn the request into its reply: the target is at the receiving interface's own link address."""
        interface = packet.rx
        body = _ARP.pack(
            1, 0x0800, 6, 4, REPLY, interface.mac, arp.target, arp.sender_mac, arp.sender
        )  # fmt: skip
        start = packet.start - ETHERNET_LENGTH
        packet.buf[start : start + 14] = arp.link_source + interface.mac + b"\x08\x06"
        packet.buf[start + 14 : start + 14 + ARP_LENGTH] = body
        packet.start = start
        packet.tx = interface
        packet.local = True
        return self._graph.output.interface_output

    def _drop(self, packet: Packet, node: str, reason: str) -> Node | None:
        self._errors.drop(packet, node, reason)
        return None


def _any_flags(entry: Entry) -> EntryFlag:
    """Flags of the first source that calls the entry connected, else of the best one."""
    for source in sorted(entry.sources):
        if entry.sources[source].flags & EntryFlag.CONNECTED:
            return entry.sources[source].flags
    return entry.flags
