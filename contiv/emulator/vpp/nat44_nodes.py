"""The nodes of NAT44-ED on packets: inside to outside, outside to inside, both on one interface, and on the way out.

A packet of a session costs its header's ``struct`` call, one dict access and one rewrite; whatever has no session goes
the slow path (``nat44_slow.py``). Names, order of checks and drops are those of nat44_ed_in2out.c, nat44_ed_out2in.c
and nat44_ed_classify.c. A node returns CONTINUE (translated or left alone), the ICMP error node, or None (dropped).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.ip4 import TIME_EXCEEDED
from contiv.emulator.vpp.nat44_flow import ECHO, ERRORS, HEADER, NO_KEY, Flow, Key, Seen, look, session_key
from contiv.emulator.vpp.nat44_sessions import Session, SessionFlag, Way
from contiv.emulator.vpp.nat44_slow import LEFT_ALONE, OUTWARDS_INSTEAD, Mark, SlowPath
from contiv.emulator.vpp.packet import ETHERNET_LENGTH, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    from contiv.emulator.vpp.nat44 import Nat44
    from contiv.emulator.vpp.packet import Node, Packet

IN2OUT: Final = "nat44-ed-in2out"
OUT2IN: Final = "nat44-ed-out2in"
OUTPUT: Final = "nat44-ed-in2out-output"
_FRAGMENT: Final = 0x3FFF
_ROOM: Final = {IPPROTO_TCP: 40, IPPROTO_UDP: 28}
"""Bytes that a packet with its transport header has at least."""


class Nat44Nodes:
    """nat44-ed-in2out, nat44-ed-out2in, nat44-ed-classify and nat44-ed-in2out-output."""

    def __init__(self, nat: Nat44) -> None:
        self._nat = nat
        self._sessions = nat.sessions
        self._flows = nat.sessions.flows
        self._clock = nat.graph.clock
        self._errors = nat.graph.errors
        self._slow = SlowPath(nat)

    def classify(self, packet: Packet) -> Node | None:
        """nat44-ed-classify: an interface that is inside and outside. Sessions tell the direction, then mappings."""
        start = packet.start
        first, _, _, _, fragment, ttl, protocol, _, addresses, ports = HEADER.unpack_from(packet.buf, start)
        whole = first == 0x45 and not fragment & _FRAGMENT and packet.end - start >= _ROOM.get(protocol, 1 << 16)
        if whole and ttl != 1:
            key = (addresses, ports, packet.rx.fib4.table_id << 8 | protocol)
            session = self._flows.get(key)
            if session is not None:
                if self._pass(packet, session, key):
                    return CONTINUE
            elif self._is_nobodys(addresses, ports, protocol, packet.rx.fib4.table_id):
                return CONTINUE
        seen = look(packet)
        if protocol != IPPROTO_ICMP:
            key = (addresses, seen.ports, packet.rx.fib4.table_id << 8 | protocol)
            session = self._flows.get(key)
            if session is not None:
                outwards = session.outwards is not None and session.outwards.match == key
                return self._in2out(packet, seen, IN2OUT) if outwards else self._out2in(packet, seen)
        if self._is_for_outside(seen):
            return self._out2in(packet, seen)
        return self._in2out(packet, seen, IN2OUT)

    def _pass(self, packet: Packet, session: Session, key: Key) -> bool:
        """Carry a whole packet through the session that it belongs to; False when that takes a closer look."""
        sessions = self._sessions
        now = self._clock()
        if now >= session.last_heard_s + sessions.timeout(session) or session.expired:
            return False
        flow = session.outwards
        way = Way.OUTWARDS
        if flow is None or flow.match != key:
            flow = session.inwards
            way = Way.INWARDS
            if flow is None or flow.match != key:
                return False
        protocol = key[2] & 0xFF
        if flow.fib is not None:
            packet.fib = flow.fib
        packet.flow_hash = 0
        if protocol == IPPROTO_TCP:
            sessions.track(session, packet.buf[packet.start + 33], way, now)
        flow.rewrite_whole(packet, protocol)
        sessions.count(session, packet.end - packet.start, now)
        return True

    def _is_nobodys(self, addresses: int, ports: int, protocol: int, table_id: int) -> bool:
        """Whether NAT has nothing to do with a packet without a session: forwarding is on, no mapping is addressed
        and nobody waits for an answer. What in2out's slow path finds after longer thought."""
        nat = self._nat
        destination = addresses & 0xFFFFFFFF
        if not nat.forwarding or destination in nat.pool_addresses:
            return False
        by_external = nat.mappings.by_external
        if (destination, ports & 0xFFFF, protocol) in by_external or (destination, 0, 0) in by_external:
            return False
        turned = destination << 32 | addresses >> 32
        back = (turned, (ports & 0xFFFF) << 16 | ports >> 16, nat.config.outside_vrf << 8 | protocol)
        return back not in self._flows

    def in2out(self, packet: Packet) -> Node | None:
        """nat44-ed-in2out: an interface that is inside alone."""
        return self._in2out(packet, look(packet), IN2OUT)

    def out2in(self, packet: Packet) -> Node | None:
        """nat44-ed-out2in: an interface that is outside alone, or has the output feature."""
        return self._out2in(packet, look(packet))

    def output(self, packet: Packet) -> Node | None:
        """nat44-ed-in2out-output: what leaves by an interface that has the output feature."""
        seen = look(packet)
        if self._is_bypassed(packet, seen):
            return CONTINUE
        return self._in2out(packet, seen, OUTPUT)

    # -- inside to outside ------------------------------------------------------------------------------------------

    def _in2out(self, packet: Packet, seen: Seen, node: str) -> Node | None:
        output = node is OUTPUT
        if seen.ttl == 1 and not output:
            return self._expired(packet)
        if seen.protocol == IPPROTO_ICMP and seen.kind not in ECHO and seen.kind not in ERRORS:
            return self._drop(packet, node, "unsupported ICMP type")
        key = session_key(packet, seen, packet.rx.fib4.table_id)
        now = self._clock()
        session = self._sessions.alive(key, now)
        if session is None:
            made = self._slow.outwards(packet, seen, key, output=output, now=now)
            if not isinstance(made, Session):
                return self._without(packet, made, node)
            session = made
            flow = session.outwards
        else:
            flow = session.outwards
            if flow is None or flow.match != key:
                flow = session.inwards if session.flags & SessionFlag.HAIRPIN else None
            if flow is None:
                self._sessions.delete(session)
                return self._drop(packet, node, "couldn't translate packet")
        assert flow is not None
        if not self._translate(packet, seen, flow, outwards=True, output=output):
            self._sessions.delete(session)
            return self._drop(packet, node, "couldn't translate packet")
        self._account(packet, seen, session, Way.OUTWARDS, output=output, now=now)
        return CONTINUE

    # -- outside to inside ------------------------------------------------------------------------------------------

    def _out2in(self, packet: Packet, seen: Seen) -> Node | None:
        if seen.ttl == 1:
            return self._expired(packet)
        if seen.protocol == IPPROTO_ICMP and seen.kind not in ECHO and seen.kind not in ERRORS:
            return self._drop(packet, OUT2IN, "unsupported ICMP type")
        key = session_key(packet, seen, packet.rx.fib4.table_id)
        now = self._clock()
        session = self._sessions.alive(key, now)
        if session is None:
            made = self._slow.inwards(packet, seen, key, now=now)
            if made is OUTWARDS_INSTEAD:
                return self._in2out(packet, seen, IN2OUT)
            if not isinstance(made, Session):
                return self._without(packet, made, OUT2IN)
            session = made
            flow = session.inwards
        else:
            flow = session.inwards
            if flow is None or flow.match != key:
                flow = session.outwards
                if not (session.flags & SessionFlag.TWICE_NAT or self._nat.forwarding):
                    return self._drop(packet, OUT2IN, "no translation")
        assert flow is not None
        if not self._translate(packet, seen, flow, outwards=False, output=False):
            return self._drop(packet, OUT2IN, "couldn't translate packet")
        self._account(packet, seen, session, Way.INWARDS, output=False, now=now)
        return CONTINUE

    # -- inside -----------------------------------------------------------------------------------------------------

    def _without(self, packet: Packet, made: Mark | str, node: str) -> Node | None:
        """No session came of a packet: it goes on as it is, or is dropped."""
        if made is LEFT_ALONE:
            return CONTINUE
        return self._drop(packet, node, made if isinstance(made, str) else "couldn't translate packet")

    def _translate(self, packet: Packet, seen: Seen, flow: Flow, *, outwards: bool, output: bool) -> bool:
        if not output and flow.fib is not None:
            packet.fib = flow.fib
        packet.flow_hash = 0
        if seen.protocol == IPPROTO_ICMP:
            return flow.rewrite_icmp(packet, seen, outwards=outwards)
        flow.rewrite(packet, seen)
        return True

    def _account(self, packet: Packet, seen: Seen, session: Session, way: Way, *, output: bool, now: float) -> None:
        """Counters, age and TCP state; bytes count from the link header on where there is one."""
        if seen.protocol == IPPROTO_TCP:
            self._sessions.track(session, seen.kind, way, now)
        size = packet.end - packet.start
        self._sessions.count(session, size + ETHERNET_LENGTH if output else size, now)

    def _is_for_outside(self, seen: Seen) -> bool:
        """Whether a packet without a session is for what we translate: a pool address, or a mapping, identities not."""
        destination = seen.destination
        if destination in self._nat.pool_addresses:
            return True
        by_external = self._nat.mappings.by_external
        mapping = by_external.get((destination, 0, 0))
        if mapping is None:
            mapping = by_external.get((destination, seen.destination_port, seen.protocol))
        return mapping is not None and mapping.local_address != mapping.external[0]

    def _is_bypassed(self, packet: Packet, seen: Seen) -> bool:
        """The reply of a connection that was let in without a mapping leaves as it is."""
        if not self._nat.forwarding:
            return False
        key = session_key(packet, seen, 0)
        session = self._flows.get(key)
        if key == NO_KEY or session is None or not session.flags & SessionFlag.BYPASS:
            return False
        self._account(packet, seen, session, Way.OUTWARDS, output=True, now=self._clock())
        return True

    def _expired(self, packet: Packet) -> Node | None:
        packet.icmp_type = TIME_EXCEEDED
        packet.icmp_code = 0
        packet.icmp_data = 0
        return self._nat.graph.icmp4.error

    def _drop(self, packet: Packet, node: str, reason: str) -> Node | None:
        self._errors.drop(packet, node, reason)
        return None
