"""One direction of a NAT44-ED session: which packets it matches and what becomes of them (nat_6t_flow_t).

Keys are tuples of three integers (addresses, ports, table and protocol), so that a packet costs one ``struct`` call and
one dict access. A rewrite costs two slices and the incremental update of two checksums (RFC 1624): what changes in them
is known when the session is made. A checksum that the sender left to a device holds the pseudo header's sum, in which
only the addresses count.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from contiv.emulator.vpp import gso
from contiv.emulator.vpp.checksum import checksum, is_valid, update
from contiv.emulator.vpp.packet import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.packet import Packet

Key = tuple[int, int, int]
"""Source << 32 | destination; source port << 16 | destination port; table << 8 | protocol."""
NO_KEY: Final[Key] = (0, 0, 0)

HEADER: Final = struct.Struct(">BBHHHBBHQI")
"""An IPv4 header with both addresses as one number, and the ports behind it when there are no options."""
_ADDRESSES: Final = struct.Struct(">Q")
_PORTS: Final = struct.Struct(">I")
_U16: Final = struct.Struct(">H")
ECHO: Final = frozenset({0, 8})
ERRORS: Final = frozenset({3, 4, 5, 6, 11, 12})
"""icmp_type_is_error_message: unreachable, source quench, redirect, alternate address, exceeded, parameter problem."""
WITH_PORTS: Final = frozenset({IPPROTO_TCP, IPPROTO_UDP})
_FRAGMENT: Final = 0x3FFF
_ONES: Final = 0xFFFF


class Seen(NamedTuple):
    """What a packet shows. ``kind``: TCP's flags or ICMP's type; ``layer4``: has the header of TCP, UDP or ICMP."""

    addresses: int
    ports: int
    protocol: int
    kind: int
    ttl: int
    layer4: bool

    @property
    def source(self) -> int:
        return self.addresses >> 32

    @property
    def destination(self) -> int:
        return self.addresses & 0xFFFFFFFF

    @property
    def source_port(self) -> int:
        return self.ports >> 16

    @property
    def destination_port(self) -> int:
        return self.ports & 0xFFFF


def look(packet: Packet) -> Seen:
    """Read a packet that starts at its IP header; of a fragment, what shallow reassembly knows."""
    buf = packet.buf
    start = packet.start
    first, _, _, _, fragment, ttl, protocol, _, addresses, ports = HEADER.unpack_from(buf, start)
    if fragment & _FRAGMENT:
        known = packet.shallow
        if known is None:
            return Seen(addresses, 0, protocol, 0, ttl, False)
        return Seen(addresses, known.ports, protocol, known.kind, ttl, known.is_first)
    layer4 = start + (first & 0xF) * 4
    if layer4 + 8 > packet.end:
        return Seen(addresses, 0, protocol, 0, ttl, False)
    if protocol == IPPROTO_TCP:
        if layer4 + 20 > packet.end:
            return Seen(addresses, 0, protocol, 0, ttl, False)
        return Seen(addresses, ports if first == 0x45 else 0, protocol, buf[layer4 + 13], ttl, True)
    if protocol == IPPROTO_UDP:
        return Seen(addresses, ports if first == 0x45 else 0, protocol, 0, ttl, True)
    if protocol == IPPROTO_ICMP:
        kind = buf[layer4]
        ident = _U16.unpack_from(buf, layer4 + 4)[0] if kind in ECHO and first == 0x45 else 0
        return Seen(addresses, ident << 16 | ident, protocol, kind, ttl, True)
    return Seen(addresses, 0, protocol, 0, ttl, True)


def session_key(packet: Packet, seen: Seen, table_id: int) -> Key:
    """The key under which a packet's session is found (nat_get_icmp_session_lookup_values).

    An ICMP error is looked up by the packet that it quotes, turned round; one that quotes a protocol without ports, by
    its addresses.
    """
    if seen.protocol != IPPROTO_ICMP or seen.kind not in ERRORS:
        return seen.addresses, seen.ports, table_id << 8 | seen.protocol
    buf = packet.buf
    inner = packet.start + (buf[packet.start] & 0xF) * 4 + 8
    if inner + 28 > packet.end:
        return NO_KEY
    fields = HEADER.unpack_from(buf, inner)
    protocol, addresses = fields[6], fields[8]
    turned = (addresses & 0xFFFFFFFF) << 32 | addresses >> 32
    layer4 = inner + (fields[0] & 0xF) * 4
    if layer4 + 8 > packet.end:
        return NO_KEY
    ports = 0
    if protocol in WITH_PORTS:
        ports = _PORTS.unpack_from(buf, layer4)[0]
        ports = (ports & 0xFFFF) << 16 | ports >> 16
    elif protocol == IPPROTO_ICMP:
        ident = _U16.unpack_from(buf, layer4 + 4)[0]
        ports = ident << 16 | ident
    return turned, ports, table_id << 8 | protocol


class Flow:
    """A match and its rewrite. What is not given stays as it matched; ``fib`` is where the result is looked up."""

    __slots__ = (
        "_addresses", "_layer3", "_layer4", "_less3", "_less4", "_ports", "addresses", "fib", "icmp_id", "match",
        "ports",
    )  # fmt: skip

    def __init__(
        self,
        match: Key,
        *,
        source: int | None = None,
        destination: int | None = None,
        source_port: int | None = None,
        destination_port: int | None = None,
        icmp_id: int | None = None,
        fib: Fib | None = None,
    ) -> None:
        self.match = match
        addresses, ports, _ = match
        source = addresses >> 32 if source is None else source
        destination = addresses & 0xFFFFFFFF if destination is None else destination
        source_port = ports >> 16 if source_port is None else source_port
        destination_port = ports & 0xFFFF if destination_port is None else destination_port
        self.addresses = source << 32 | destination
        self.ports = source_port << 16 | destination_port
        self.icmp_id = icmp_id
        self.fib = fib
        self._addresses = _ADDRESSES.pack(self.addresses)
        self._ports = _PORTS.pack(self.ports)
        self._layer3 = (self.addresses - addresses) % _ONES
        self._layer4 = (self.ports - ports) % _ONES
        self._less3 = 2 * _ONES - self._layer3
        self._less4 = 2 * _ONES - self._layer3 - self._layer4

    def rewrite_whole(self, packet: Packet, protocol: int) -> None:
        """Translate TCP or UDP that is no fragment and has no IP options: the way of nearly every packet."""
        buf = packet.buf
        start = packet.start
        layer4 = start + 20
        buf[start + 12 : layer4] = self._addresses
        total = (buf[start + 10] << 8 | buf[start + 11]) + self._less3
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        buf[start + 10] = total >> 8
        buf[start + 11] = total & 0xFF
        buf[layer4 : start + 24] = self._ports
        field = start + (36 if protocol == IPPROTO_TCP else 26)
        total = buf[field] << 8 | buf[field + 1]
        if packet.csum_start == layer4:
            total += self._layer3
        elif total or protocol == IPPROTO_TCP:
            total += self._less4
        else:
            return
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        if not total and protocol == IPPROTO_UDP:
            total = _ONES
        buf[field] = total >> 8
        buf[field + 1] = total & 0xFF

    def rewrite(self, packet: Packet, seen: Seen) -> None:
        """Translate TCP, UDP, or a protocol whose header nobody looks into."""
        buf = packet.buf
        start = packet.start
        buf[start + 12 : start + 20] = self._addresses
        _reduce(buf, start + 10, self._layer3)
        if not seen.layer4 or seen.protocol not in WITH_PORTS:
            return
        layer4 = start + (buf[start] & 0xF) * 4
        buf[layer4 : layer4 + 4] = self._ports
        _fix_transport(packet, layer4, seen.protocol, self._layer3, self._layer4)

    def rewrite_icmp(self, packet: Packet, seen: Seen, *, outwards: bool) -> bool:
        """Translate ICMP, for an error also the packet in it; False when it is broken.

        Outwards (in2out) the source is always rewritten. Inwards it stays where it is not the session's: the error
        comes from a router on the way, which goes on to be seen as such.
        """
        buf = packet.buf
        start = packet.start
        keep = not outwards and seen.source != self.addresses >> 32
        if keep:
            buf[start + 16 : start + 20] = self._addresses[4:]
            _U16.pack_into(buf, start + 10, 0)
            head = (buf[start] & 0xF) * 4
            _U16.pack_into(buf, start + 10, checksum(packet.view[start : start + head]))
        else:
            buf[start + 12 : start + 20] = self._addresses
            _reduce(buf, start + 10, self._layer3)
        if not seen.layer4:
            return True
        layer4 = start + (buf[start] & 0xF) * 4
        if packet.csum_start:
            gso.complete_checksum(packet)
        if seen.kind in ERRORS:
            return self._rewrite_quoted(packet, layer4)
        if self.icmp_id is not None:
            _set_ident(buf, layer4, self.icmp_id)
        return True

    def _rewrite_quoted(self, packet: Packet, layer4: int) -> bool:
        """The packet that an error quotes went the other way: its source is our destination."""
        buf = packet.buf
        view = packet.view
        inner = layer4 + 8
        if inner + 28 > packet.end or not is_valid(view[layer4 : packet.end]):
            return False
        head = (buf[inner] & 0xF) * 4
        if head < 20 or inner + head + 8 > packet.end or not is_valid(view[inner : inner + head]):
            return False
        buf[inner + 12 : inner + 16] = self._addresses[4:]
        buf[inner + 16 : inner + 20] = self._addresses[:4]
        _reduce(buf, inner + 10, self._layer3)
        transport = inner + head
        protocol = buf[inner + 9]
        if protocol in WITH_PORTS:
            buf[transport : transport + 2] = self._ports[2:]
            buf[transport + 2 : transport + 4] = self._ports[:2]
            field = transport + (16 if protocol == IPPROTO_TCP else 6)
            if field + 2 <= packet.end and (protocol == IPPROTO_TCP or buf[field] or buf[field + 1]):
                _reduce(buf, field, self._layer3 + self._layer4)
        elif protocol == IPPROTO_ICMP and self.icmp_id is not None:
            _set_ident(buf, transport, self.icmp_id)
        elif protocol != IPPROTO_ICMP:
            return False
        _U16.pack_into(buf, layer4 + 2, 0)
        _U16.pack_into(buf, layer4 + 2, checksum(view[layer4 : packet.end]))
        return True


def _reduce(buf: bytearray, at: int, delta: int) -> None:
    """Fix the checksum at ``at``: what it covers has grown by ``delta`` (one's complement)."""
    if delta:
        total = (buf[at] << 8 | buf[at + 1]) + 2 * _ONES - delta
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        buf[at] = total >> 8
        buf[at + 1] = total & 0xFF


def _fix_transport(packet: Packet, layer4: int, protocol: int, layer3: int, delta4: int) -> None:
    buf = packet.buf
    field = layer4 + (16 if protocol == IPPROTO_TCP else 6)
    total = buf[field] << 8 | buf[field + 1]
    if packet.csum_start == layer4:
        total += layer3
    elif protocol == IPPROTO_UDP and not total:
        return
    else:
        total += 2 * _ONES - layer3 - delta4
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    if protocol == IPPROTO_UDP and not total:
        total = _ONES
    buf[field] = total >> 8
    buf[field + 1] = total & 0xFF


def _set_ident(buf: bytearray, icmp: int, ident: int) -> None:
    """Another identifier for an echo."""
    before = _U16.unpack_from(buf, icmp + 4)[0]
    if before != ident:
        _U16.pack_into(buf, icmp + 2, update(_U16.unpack_from(buf, icmp + 2)[0], before, ident))
        _U16.pack_into(buf, icmp + 4, ident)
