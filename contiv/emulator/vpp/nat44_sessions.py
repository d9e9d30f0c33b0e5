"""Sessions of NAT44-ED: two flows each, in one table; age, TCP state, least recently used lists, limits.

Nobody walks the table for old sessions: one whose time is up goes when its next packet comes, or when a new session
takes the place of the oldest of a list (nat_lru_free_one), as on VPP. Flows overwrite each other where VPP's do, so the
same collisions lose the same connections.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp.nat44_flow import Flow, Key
from contiv.emulator.vpp.packet import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP
from contiv.emulator.vpp.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from contiv.emulator.vpp.fib import Fib

IPPROTO_ICMP6: Final = 58
SESSIONS_DEFAULT: Final = 63 * 1024
"""What nat44_plugin_enable takes for 0."""
FIN, SYN, RST, ACK = 1, 2, 4, 16
_TRACKED: Final = FIN | SYN | RST | ACK
_HANDSHAKE: Final = SYN | ACK
LRU_PERIOD_S: Final = 1.0
"""A session moves up in its list once in this time at most."""


class SessionFlag(IntFlag):
    """SNAT_SESSION_FLAG_*."""

    NONE = 0
    STATIC = 1
    BALANCED = 4
    TWICE_NAT = 8
    BYPASS = 32
    AFFINITY = 64
    EXACT_ADDRESS = 128
    HAIRPIN = 256


class TcpState(IntEnum):
    """nat44_ed_tcp_state_e."""

    CLOSED = 0
    ESTABLISHED = 1
    CLOSING = 2


class Way(IntEnum):
    """The direction of a packet in a session."""

    OUTWARDS = 0
    INWARDS = 1


class Lru(IntEnum):
    """The lists, in the order in which they are searched for a session that is past its time."""

    TCP_TRANSITORY = 0
    UDP = 1
    OTHER = 2
    ICMP = 3
    TCP_ESTABLISHED = 4


_LRU_OF: Final = {IPPROTO_TCP: Lru.TCP_TRANSITORY, IPPROTO_UDP: Lru.UDP, IPPROTO_ICMP: Lru.ICMP}


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds without a packet after which a session is void (plugins/nat/lib/lib.h)."""

    udp: int = 300
    tcp_established: int = 7440
    tcp_transitory: int = 240
    icmp: int = 60


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """An address, a port and the table that it is looked up in."""

    address: int
    port: int
    fib: Fib


class Session:
    """One connection. ``outwards`` (i2o) and ``inwards`` (o2i) are its flows; a bypass has only the first."""

    __slots__ = (
        "bytes", "expired", "external", "external_nat", "flags", "index", "inside", "inwards", "last_heard_s", "lru",
        "lru_moved_s", "outside", "outwards", "packets", "protocol", "state", "tcp_flags",
    )  # fmt: skip

    def __init__(self, protocol: int, inside: Endpoint, now: float) -> None:
        self.protocol = protocol
        self.index = -1
        self.flags = SessionFlag.NONE
        self.inside: Final = inside
        self.outside: Endpoint
        self.external: tuple[int, int] = (0, 0)
        self.external_nat: tuple[int, int] = (0, 0)
        self.outwards: Flow | None = None
        self.inwards: Flow | None = None
        self.expired = False
        self.last_heard_s = 0.0
        self.lru = _LRU_OF.get(protocol, Lru.OTHER)
        self.lru_moved_s = now
        self.packets = 0
        self.bytes = 0
        self.state = TcpState.CLOSED
        self.tcp_flags = [0, 0]


class SessionTable:
    """Every session of a machine, found by either flow and by its inside address and port."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.flows: dict[Key, Session] = {}
        self.pool: Pool[Session] = Pool()
        self.timeouts = Timeouts()
        self.sessions_max = SESSIONS_DEFAULT
        self.limits: dict[int, int] = {}
        """Most sessions while a packet of this table makes one; others follow table 0."""
        self.on_delete: Callable[[Session], None] = lambda session: None
        self._lru: tuple[OrderedDict[Session, None], ...] = tuple(OrderedDict() for _ in Lru)
        self._inside: dict[int, dict[int, dict[Session, None]]] = {}
        """By address and port."""

    def clear(self, *, sessions_max: int) -> None:
        """Start anew with room for ``sessions_max``."""
        self.flows.clear()
        self.pool.clear()
        self._inside.clear()
        self.limits = {0: sessions_max}
        self.sessions_max = sessions_max
        for members in self._lru:
            members.clear()

    # -- one session ------------------------------------------------------------------------------------------------

    def find(self, key: Key) -> Session | None:
        """The session of a flow, past its time or not."""
        return self.flows.get(key)

    def alive(self, key: Key, now: float) -> Session | None:
        """The session of a flow; one that is past its time, or whose table has gone, is deleted instead."""
        session = self.flows.get(key)
        if session is None:
            return None
        if now >= session.last_heard_s + self.timeout(session) or session.expired:
            self.delete(session)
            return None
        return session

    def timeout(self, session: Session) -> int:
        """Seconds that a session may be silent now (nat44_session_get_timeout)."""
        timeouts = self.timeouts
        protocol = session.protocol
        if protocol == IPPROTO_TCP:
            established = session.state is TcpState.ESTABLISHED
            return timeouts.tcp_established if established else timeouts.tcp_transitory
        return timeouts.icmp if protocol in {IPPROTO_ICMP, IPPROTO_ICMP6} else timeouts.udp

    def of_inside(self, address: int, port: int | None = None) -> list[Session]:
        """The sessions of an inside address, or of one of its ports, in the pool's order."""
        ports = self._inside.get(address, {})
        members = ports.get(port, {}) if port is not None else [session for each in ports.values() for session in each]
        return sorted(members, key=lambda session: session.index)

    def make(self, protocol: int, inside: Endpoint, now: float) -> Session:
        """A session without flows. The oldest one that is past its time goes for it."""
        self.free_one(now)
        session = Session(protocol, inside, now)
        session.index = self.pool.put(session)
        self._inside.setdefault(inside.address, {}).setdefault(inside.port, {})[session] = None
        self._lru[session.lru][session] = None
        return session

    def is_full(self, table_id: int) -> bool:
        """Whether a packet of a table may make no further session (nat44_ed_maximum_sessions_exceeded)."""
        limit = self.limits.get(table_id)
        return len(self.pool) >= (self.limits[0] if limit is None else limit)

    def free_one(self, now: float) -> bool:
        """Delete the first session that is past its time among the oldest of the lists."""
        for members in self._lru:
            oldest = next(iter(members), None)
            if oldest is not None and now >= oldest.last_heard_s + self.timeout(oldest):
                self.delete(oldest)
                return True
        return False

    def set_outwards(self, session: Session, flow: Flow) -> None:
        """Give a session its flow from the inside; one of the same match loses its own."""
        session.outwards = flow
        self.flows[flow.match] = session

    def set_inwards(self, session: Session, flow: Flow) -> None:
        """Give a session its flow from the outside; one of the same match loses its own."""
        session.inwards = flow
        self.flows[flow.match] = session

    def delete(self, session: Session) -> None:
        """End a session: its next packet makes a new one, or is dropped."""
        for flow in (session.outwards, session.inwards):
            if flow is not None:
                self.flows.pop(flow.match, None)
        self._lru[session.lru].pop(session, None)
        self.pool.remove(session.index)
        self._leave(session)
        self.on_delete(session)

    def _leave(self, session: Session) -> None:
        address, port = session.inside.address, session.inside.port
        ports = self._inside[address]
        members = ports[port]
        del members[session]
        if not members:
            del ports[port]
            if not ports:
                del self._inside[address]

    def delete_all(self, sessions: Iterable[Session]) -> None:
        """End several."""
        for session in list(sessions):
            self.delete(session)

    # -- packets ----------------------------------------------------------------------------------------------------

    def count(self, session: Session, size: int, now: float) -> None:
        """A packet of a session has passed."""
        session.last_heard_s = now
        session.packets += 1
        session.bytes += size
        if now > session.lru_moved_s + LRU_PERIOD_S:
            members = self._lru[session.lru]
            members.pop(session, None)
            members[session] = None
            session.lru_moved_s = now

    def track(self, session: Session, flags: int, way: Way, now: float) -> None:
        """What TCP's flags make of a session (nat44_set_tcp_session_state; RFC 7857, without its way back from RST)."""
        seen = session.tcp_flags
        before = seen[way]
        after = before | flags & _TRACKED
        if before == after:
            return
        seen[way] = after
        both = seen[0] & seen[1]
        if session.state is TcpState.ESTABLISHED:
            if after & (FIN | RST):
                session.tcp_flags = [0, 0]
                session.last_heard_s = now
                self._become(session, TcpState.CLOSING, Lru.TCP_TRANSITORY, now)
        elif both == _HANDSHAKE:
            if session.state is TcpState.CLOSING:
                session.packets = session.bytes = 0
            self._become(session, TcpState.ESTABLISHED, Lru.TCP_ESTABLISHED, now)

    def _become(self, session: Session, state: TcpState, lru: Lru, now: float) -> None:
        session.state = state
        self._lru[session.lru].pop(session, None)
        session.lru = lru
        self._lru[lru][session] = None
        session.lru_moved_s = now
