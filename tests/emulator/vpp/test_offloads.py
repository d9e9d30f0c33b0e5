"""Segmentation and fragmentation: every piece stands on its own, and together they are what was sent."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from plane import Plane, frame, ip, ip4, udp4

from contiv.emulator.vpp.checksum import is_valid, ones_sum, pseudo_sum4
from contiv.emulator.vpp.fragment import fragments4
from contiv.emulator.vpp.gso import complete_checksum, segments
from contiv.emulator.vpp.packet import GSO_TCP4, GSO_UDP_L4, Packet, make
from contiv.emulator.vpp.reassembly import Reassembly4

SOURCE, TARGET = "10.1.1.2", "10.1.2.3"
LINK = b"\x02\0\0\0\0\1" + b"\x02\0\0\0\0\2"


def tcp_super_frame(payload: bytes, size: int, *, flags: int = 0x18, options: bytes = b"") -> Packet:
    """A frame as a sender with TSO makes it: pseudo header's sum in the checksum field."""
    header = 20 + len(options)
    pseudo = pseudo_sum4(ip(SOURCE), ip(TARGET), protocol=6, length=header + len(payload))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 0xFFFFFF00, 9, header // 4 << 4, flags, 512, pseudo, 0) + options
    plane = Plane()
    packet = make(
        frame(LINK[:6], LINK[6:], ip4(SOURCE, TARGET, tcp + payload, protocol=6)), rx=plane.port("p", LINK[6:])
    )
    packet.csum_start, packet.csum_offset = packet.start + 34, 16
    packet.gso_type, packet.gso_size = GSO_TCP4, size
    return packet


def l4_sum_holds(packet: bytes, protocol: int) -> bool:
    """Whether a segment with its pseudo header sums up to minus zero."""
    source, target = struct.unpack_from(">II", packet, 12)
    pseudo = pseudo_sum4(source, target, protocol=protocol, length=len(packet) - 20)
    return (ones_sum(packet[20:]) + pseudo) % 0xFFFF == 0


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=2, max_size=9000), st.integers(1, 3000), st.sampled_from([0x10, 0x18, 0x19, 0x98]),
    st.sampled_from([b"", bytes(12)]),
)  # fmt: skip
def test_tcp_segments_are_whole_packets(payload: bytes, size: int, flags: int, options: bytes) -> None:
    packet = tcp_super_frame(payload, size, flags=flags, options=options)
    pieces = [bytes(piece.data) for piece in segments(packet)]
    assert len(pieces) == -(-len(payload) // size)
    joined = b""
    for number, piece in enumerate(pieces):
        packet4 = piece[14:]
        assert piece[:14] == LINK + b"\x08\0"
        assert struct.unpack_from(">H", packet4, 2)[0] == len(packet4)
        assert struct.unpack_from(">H", packet4, 4)[0] == 7 + number
        assert is_valid(packet4[:20])
        assert l4_sum_holds(packet4, 6)
        assert struct.unpack_from(">I", packet4, 24)[0] == (0xFFFFFF00 + len(joined)) & 0xFFFFFFFF
        last = number == len(pieces) - 1
        assert packet4[33] & 0x09 == (flags & 0x09 if last else 0)
        assert packet4[33] & 0x80 == (flags & 0x80 if number == 0 else 0)
        data = packet4[40 + len(options) :]
        assert len(data) == size or last
        joined += data
    assert joined == payload


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=2, max_size=5000), st.integers(8, 1400))
def test_udp_segments_are_whole_datagrams(payload: bytes, size: int) -> None:
    plane = Plane()
    data = udp4(SOURCE, TARGET, payload)
    packet = make(frame(LINK[:6], LINK[6:], data), rx=plane.port("p", LINK[6:]))
    packet.csum_start, packet.csum_offset = packet.start + 34, 6
    packet.gso_type, packet.gso_size = GSO_UDP_L4, size
    joined = b""
    for piece in segments(packet):
        packet4 = bytes(piece.data)[14:]
        assert struct.unpack_from(">H", packet4, 24)[0] == len(packet4) - 20
        assert l4_sum_holds(packet4, 17)
        joined += packet4[28:]
    assert joined == payload


@given(st.binary(min_size=1, max_size=300))
def test_open_checksum_is_completed(payload: bytes) -> None:
    packet = tcp_super_frame(payload, 0)
    packet.gso_type = 0
    complete_checksum(packet)
    assert l4_sum_holds(bytes(packet.data)[14:], 6)
    assert packet.csum_start == 0


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=4000), st.integers(28, 1500), st.randoms())
def test_fragments_fit_and_join_in_any_order(payload: bytes, mtu: int, random: object) -> None:
    plane = Plane()
    port = plane.port("p", LINK[6:])
    whole = ip4(SOURCE, TARGET, payload)
    packet = make(whole, rx=port)
    pieces = [bytes(piece.data) for piece in fragments4(packet, mtu)]
    for piece in pieces:
        assert len(piece) <= mtu
        assert is_valid(piece[:20])
        assert struct.unpack_from(">H", piece, 2)[0] == len(piece)
    assert b"".join(piece[20:] for piece in pieces) == payload
    if len(pieces) > 60 or len(pieces) < 2:
        return
    random.shuffle(pieces)  # type: ignore[attr-defined]
    reassembly = Reassembly4(lambda: 0.0)
    joined = None
    for piece in pieces:
        assert joined is None
        fragment = make(piece, rx=port)
        fragment.adjacency = None  # type: ignore[assignment]
        joined = reassembly.add(fragment)
    assert joined is not None
    assert bytes(joined.data)[20:] == payload


def test_mtu_without_room_gives_no_fragments() -> None:
    packet = make(ip4(SOURCE, TARGET, bytes(100)), rx=Plane().port("p", LINK[6:]))
    assert list(fragments4(packet, 27)) == []
