"""Whole packets through the graph without a socket: routing, VXLAN there and back, bridging, ARP, and noise."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st
from plane import Plane, frame, ip, ip4, udp4

from contiv.emulator.vpp.bridge import Bridge, MacEntry, PortType
from contiv.emulator.vpp.checksum import is_valid
from contiv.emulator.vpp.fib import Path
from contiv.emulator.vpp.interface import Interface, InterfaceAddress
from contiv.emulator.vpp.vxlan import Tunnel

US, A, B, C = (bytes((2, 0, 0, 0, 0, number)) for number in (1, 2, 3, 4))


def router() -> tuple[Plane, Interface, Interface]:
    """Two subnets and a host in each."""
    plane = Plane()
    left = plane.port("left", US, address="10.1.1.1/24")
    right = plane.port("right", US, address="10.1.2.1/24")
    plane.neighbour(left, "10.1.1.2", A)
    plane.neighbour(right, "10.1.2.2", B)
    return plane, left, right


def test_packet_is_routed_with_one_hop_less() -> None:
    plane, left, _ = router()
    ((name, sent),) = plane.receive(left, frame(US, A, udp4("10.1.1.2", "10.1.2.2", b"hello", ttl=9)))
    assert name == "right"
    assert sent[:14] == B + US + b"\x08\0"
    assert sent[22] == 8
    assert is_valid(sent[14:34])
    assert sent[34:] == udp4("10.1.1.2", "10.1.2.2", b"hello")[20:]


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 255), st.integers(0, 0xFFFF))
def test_header_checksum_holds_after_every_hop(ttl: int, ident: int) -> None:
    plane, left, _ = router()
    packet = bytearray(ip4("10.1.1.2", "10.1.2.2", b"", ttl=ttl))
    packet[4:6] = ident.to_bytes(2, "big")
    packet[10:12] = b"\0\0"
    total = 0xFFFF - (int.from_bytes(packet[:20], "big") % 0xFFFF)
    packet[10:12] = total.to_bytes(2, "big")
    ((_, sent),) = plane.receive(left, frame(US, A, bytes(packet)))
    assert is_valid(sent[14:34])


def test_unknown_next_hop_is_asked_for_once_a_millisecond() -> None:
    plane, left, _ = router()
    ((name, asked),) = plane.receive(left, frame(US, A, udp4("10.1.1.2", "10.1.2.9", b"")))
    assert (name, asked[:6], asked[12:14]) == ("right", b"\xff" * 6, b"\x08\x06")
    assert plane.receive(left, frame(US, A, udp4("10.1.1.2", "10.1.2.9", b""))) == []
    plane.now += 0.002
    assert len(plane.receive(left, frame(US, A, udp4("10.1.1.2", "10.1.2.9", b"")))) == 1


def test_answer_to_a_request_opens_the_way() -> None:
    plane, left, right = router()
    plane.receive(left, frame(US, A, udp4("10.1.1.2", "10.1.2.9", b"")))
    reply = struct.pack(">HHBBH6sI6sI", 1, 0x800, 6, 4, 2, C, ip("10.1.2.9"), US, ip("10.1.2.1"))
    assert plane.receive(right, frame(US, C, reply, ethertype=0x806)) == []
    ((_, sent),) = plane.receive(left, frame(US, A, udp4("10.1.1.2", "10.1.2.9", b"")))
    assert sent[:6] == C


def test_request_for_our_address_is_answered_and_teaches() -> None:
    plane, left, _ = router()
    asking = struct.pack(">HHBBH6sI6sI", 1, 0x800, 6, 4, 1, C, ip("10.1.1.7"), bytes(6), ip("10.1.1.1"))
    ((name, sent),) = plane.receive(left, frame(b"\xff" * 6, C, asking, ethertype=0x806))
    assert (name, sent[:6]) == ("left", C)
    assert struct.unpack(">HHBBH6sI6sI", sent[14:42])[4:7] == (2, US, ip("10.1.1.1"))
    assert plane.machine.neighbours(4).get(left.index, ip("10.1.1.7")) is not None


def test_static_neighbour_is_not_overwritten() -> None:
    plane, left, _ = router()
    asking = struct.pack(">HHBBH6sI6sI", 1, 0x800, 6, 4, 1, C, ip("10.1.1.2"), bytes(6), ip("10.1.1.1"))
    plane.receive(left, frame(b"\xff" * 6, C, asking, ethertype=0x806))
    known = plane.machine.neighbours(4).get(left.index, ip("10.1.1.2"))
    assert known is not None
    assert known.mac == A


def overlay(plane: Plane, mine: int, other: int) -> tuple[Interface, Interface, Interface]:
    """A node with uplink, pod side, BVI and a tunnel to the other one."""
    uplink = plane.port("uplink", bytes((2, 0, 0, 1, 0, mine)), address=f"192.168.16.{mine}/24")
    plane.neighbour(uplink, f"192.168.16.{other}", bytes((2, 0, 0, 1, 0, other)))
    pod = plane.port("pod", US, address=f"10.1.{mine}.1/24")
    plane.neighbour(pod, f"10.1.{mine}.2", bytes((2, 0, 0, 2, 0, mine)))
    bvi = plane.machine.add_interface(
        "bvi", kind="test", dev_type="", mac=bytes((2, 0, 0, 3, 0, mine)), transmit=plane.graph.l2.bvi_output, up=True
    )
    plane.machine.add_address(bvi, 4, InterfaceAddress(ip(f"192.168.30.{mine}"), 24))
    bvi.can_csum = bvi.can_gso = True
    bridge = Bridge(
        1, flood=True, uu_flood=False, forward=True, learn=False, arp_term=False, arp_ufwd=False, mac_age=0, tag=""
    )
    plane.graph.bridges.add(bridge)
    bridge.attach(bvi, shg=0, port_type=PortType.BVI)
    plane.route(f"10.1.{other}.0/24", Path(bvi.index, ip(f"192.168.30.{other}")))
    plane.neighbour(bvi, f"192.168.30.{other}", bytes((2, 0, 0, 3, 0, other)))
    tunnel = plane.machine.add_interface(
        "tunnel", kind="vxlan", dev_type="", mac=bytes(6), transmit=plane.graph.ethernet.input, up=True
    )
    plane.graph.vxlan.add(
        Tunnel(
            interface=tunnel, instance=0, source=ip(f"192.168.16.{mine}"), destination=ip(f"192.168.16.{other}"),
            source_port=4789, destination_port=4789, fib=plane.machine.fib(4, 0), vni=10, decap_next=1, is_l3=False,
        )
    )  # fmt: skip
    bridge.attach(tunnel, shg=1, port_type=PortType.NORMAL)
    bridge.macs[bytes((2, 0, 0, 3, 0, other))] = MacEntry(tunnel, static=True)
    return uplink, pod, bvi


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=1400))
@example(b"")
def test_packet_goes_through_a_tunnel_and_arrives_as_it_was(data: bytes) -> None:
    first, second = Plane(), Plane()
    _, pod1, _ = overlay(first, 1, 2)
    uplink2, _, _ = overlay(second, 2, 1)
    ((name, outer),) = first.receive(pod1, frame(US, A, udp4("10.1.1.2", "10.1.2.2", data)))
    assert name == "uplink"
    assert struct.unpack_from(">H", outer, 36)[0] == 4789
    assert outer[22] == 253  # VPP's 254, less the hop through its own lookup
    assert is_valid(outer[14:34])
    assert struct.unpack_from(">I", outer, 46)[0] >> 8 == 10
    ((name, sent),) = second.receive(uplink2, outer)
    assert name == "pod"
    assert sent[:6] == bytes((2, 0, 0, 2, 0, 2))
    assert sent[22] == 62
    assert sent[34:] == udp4("10.1.1.2", "10.1.2.2", data)[20:]


def test_what_came_out_of_a_tunnel_never_enters_another() -> None:
    plane = Plane()
    overlay(plane, 1, 2)
    bridge = plane.graph.bridges.get(1)
    assert bridge is not None
    second = plane.port("tunnel-3", C)
    bridge.attach(second, shg=1, port_type=PortType.NORMAL)
    tunnel = plane.machine.interfaces.named("tunnel")
    assert tunnel is not None
    assert plane.receive(tunnel, frame(b"\xff" * 6, B, bytes(40), ethertype=0x88B5)) == []
    open_port = plane.port("open", C)
    bridge.attach(open_port, shg=0, port_type=PortType.NORMAL)
    assert [name for name, _ in plane.receive(tunnel, frame(b"\xff" * 6, B, bytes(40), ethertype=0x88B5))] == ["open"]


def test_bridge_learns_ages_and_forgets() -> None:
    plane = Plane()
    bridge = Bridge(
        1, flood=True, uu_flood=True, forward=True, learn=True, arp_term=False, arp_ufwd=False, mac_age=1, tag=""
    )
    plane.graph.bridges.add(bridge)
    ports = [plane.port(name, US) for name in ("one", "two", "three")]
    for port in ports:
        bridge.attach(port, shg=0, port_type=PortType.NORMAL)
    towards_b = frame(B, A, bytes(46), ethertype=0x88B5)
    assert {name for name, _ in plane.receive(ports[0], towards_b)} == {"two", "three"}
    assert [name for name, _ in plane.receive(ports[1], frame(A, B, bytes(46), ethertype=0x88B5))] == ["one"]
    assert [name for name, _ in plane.receive(ports[0], towards_b)] == ["two"]
    plane.now += 61
    plane.graph.bridges.age(plane.now)
    assert {name for name, _ in plane.receive(ports[0], towards_b)} == {"two", "three"}
    plane.machine.remove_interface(ports[1])
    assert [name for name, _ in plane.receive(ports[0], towards_b)] == ["three"]


def _truncated(whole: bytes) -> Callable[[int], bytes]:
    return lambda length: whole[: length % (len(whole) + 1)]


VALID = frame(US, A, udp4("10.1.1.2", "10.1.2.2", bytes(64)))
VXLAN = frame(
    bytes((2, 0, 0, 1, 0, 1)), bytes((2, 0, 0, 1, 0, 2)),
    udp4("192.168.16.2", "192.168.16.1", b"")[:20]
    + struct.pack(">HHHH", 5, 4789, 8 + 8 + len(VALID), 0) + struct.pack(">II", 0x08000000, 10 << 8) + VALID,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.integers(0, 400).map(_truncated(VALID)),
        st.tuples(st.sampled_from([VALID, VXLAN]), st.integers(0, 200), st.binary(min_size=1, max_size=6)).map(
            lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :]
        ),
        st.binary(max_size=120).map(lambda tail: US + A + b"\x08\0\x45\0" + tail),
        st.binary(max_size=120).map(lambda tail: US + A + b"\x86\xdd\x60\0" + tail),
        st.binary(max_size=60).map(lambda tail: b"\xff" * 6 + A + b"\x08\x06\0\1\x08\0" + tail),
    ),
    st.sampled_from(["uplink", "pod", "bvi", "tunnel"]),
    st.sampled_from([(0, 0, 0), (1, 1448, 16), (4, 1, 16), (5, 7, 6), (3, 100, 6)]),
    st.integers(0, 80),
)
def test_no_bytes_raise(data: bytes, where: str, offload: tuple[int, int, int], csum_start: int) -> None:
    plane = Plane()
    overlay(plane, 1, 2)
    interface = plane.machine.interfaces.named(where)
    assert interface is not None
    gso_type, gso_size, csum_offset = offload
    more: dict[str, int] = {}
    if gso_type and csum_start + csum_offset + 2 <= len(data):
        more = {"gso_type": gso_type, "gso_size": gso_size, "csum_start": 192 + csum_start, "csum_offset": csum_offset}
    plane.receive(interface, data, **more)
