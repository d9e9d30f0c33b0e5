"""A machine without sockets for the tests: interfaces that keep what they are given, frames made by hand."""

from __future__ import annotations

import struct

from contiv.emulator.vpp.checksum import checksum, pseudo_sum4
from contiv.emulator.vpp.fib import Contribution, Path
from contiv.emulator.vpp.interface import Interface, InterfaceAddress
from contiv.emulator.vpp.machine import Machine
from contiv.emulator.vpp.neighbor import NeighbourFlag
from contiv.emulator.vpp.packet import Node, Packet, make
from contiv.emulator.vpp.sources import API


class Plane:
    """A machine with a clock that stands still until it is told, and recording interfaces."""

    def __init__(self) -> None:
        self.now = 0.0
        self.machine = Machine(lambda: self.now)
        self.graph = self.machine.graph
        self.sent: list[tuple[str, bytes]] = []

    def port(self, name: str, mac: bytes, *, address: str = "", offload: bool = False) -> Interface:
        """An interface that records; up."""

        def transmit(packet: Packet) -> Node | None:
            self.sent.append((name, bytes(packet.data)))
            return None

        made = self.machine.add_interface(name, kind="test", dev_type="test", mac=mac, transmit=transmit)
        made.can_csum = made.can_gso = offload
        self.machine.set_admin(made, up=True)
        if address:
            value, _, length = address.partition("/")
            self.machine.add_address(made, 4, InterfaceAddress(ip(value), int(length)))
        return made

    def neighbour(self, interface: Interface, address: str, mac: bytes) -> None:
        """A static neighbour."""
        self.machine.neighbours(4).add(interface, ip(address), mac, flags=NeighbourFlag.STATIC)

    def route(self, prefix: str, *paths: Path) -> None:
        """A route of the API's."""
        value, _, length = prefix.partition("/")
        fib = self.machine.fib(4, 0)
        fib.put(ip(value), int(length), source=API, contribution=Contribution(paths))

    def receive(self, interface: Interface, frame: bytes, **offload: int) -> list[tuple[str, bytes]]:
        """Hand a frame in; what left the machine for it."""
        self.sent = []
        packet = make(frame, rx=interface)
        for name, value in offload.items():
            setattr(packet, name, value)
        self.graph.run(self.graph.ethernet.input, packet)
        return self.sent


def ip(text: str) -> int:
    """An address as an integer."""
    return int.from_bytes(bytes(int(part) for part in text.split(".")), "big")


def ip4(source: str, destination: str, payload: bytes, *, protocol: int = 17, ttl: int = 64, flags: int = 0) -> bytes:
    """An IPv4 packet."""
    head = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(payload), 7, flags, ttl, protocol, 0, ip(source), ip(destination)
    )
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def udp4(source: str, destination: str, data: bytes, **more: int) -> bytes:
    """A UDP datagram over IPv4 with its checksum."""
    head = struct.pack(">HHHH", 1000, 2000, 8 + len(data), 0)
    pseudo = pseudo_sum4(ip(source), ip(destination), protocol=17, length=8 + len(data))
    total = checksum(head + data, initial=pseudo) or 0xFFFF
    return ip4(source, destination, head[:6] + struct.pack(">H", total) + data, **more)


def frame(to: bytes, source: bytes, packet: bytes, *, ethertype: int = 0x0800) -> bytes:
    """An Ethernet frame."""
    return to + source + struct.pack(">H", ethertype) + packet
