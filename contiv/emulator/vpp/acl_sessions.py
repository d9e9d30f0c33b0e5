"""Sessions of the ACL plugin: what permit+reflect lets back, and for how long (session_inlines.h, sess_mgmt_node.c).

A session is found by the flow that made it and by the reverse flow, both on the interface that it was made on. It
lives in the queue of its timeout class, ordered by when it was last looked at. VPP's cleaner looks at the heads: twice
per timeout, a session idle for its timeout goes, another one goes to the tail. It clears interfaces likewise, in one
sweep over at most ``SWEEP_MAX`` sessions of each queue, so that on a busy node some survive a change of lists; that is
VPP's behaviour, and kept. In: packets' keys and a clock. Out: sessions. No timers: ``due`` says when ``work`` is.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.acl_flow import SLOW, Addresses, Flow
from contiv.emulator.vpp.packet import IPPROTO_ICMP, IPPROTO_ICMP6, IPPROTO_TCP

if TYPE_CHECKING:
    from collections.abc import Callable

SWEEP_MAX: Final = 100
"""ACL_FA_DEFAULT_MAX_DELETED_SESSIONS_PER_INTERVAL."""
SESSIONS_MAX: Final = 500_000
"""ACL_FA_CONN_TABLE_DEFAULT_MAX_ENTRIES."""
PURGATORY_S: Final = 10e-6
"""How long a deleted session keeps its place (SESSION_PURGATORY_TIMEOUT_USEC)."""
EVERY: Final = -1
"""``clear`` of all interfaces."""

_STATE: Final = 0x17  # RST, FIN, ACK, SYN
_ESTABLISHED: Final = 0x12  # ACK, SYN
_REVERSED: Final[dict[int, dict[int, int]]] = {
    IPPROTO_ICMP: {8: 0, 13: 14, 15: 16, 17: 18},
    IPPROTO_ICMP6: {128: 129, 139: 140},
}
"""Types of ICMP requests that have a reply, and its type (icmp4_invmap, icmp6_invmap); no other lets anything back."""

Key = tuple[Addresses, int, int, int]
"""Addresses, ports, protocol with the SLOW bit, and the place: interface and direction."""


class Timeout(IntEnum):
    """Classes of sessions (acl_timeout_e)."""

    UDP_IDLE = 1
    TCP_IDLE = 2
    TCP_TRANSIENT = 3


TIMEOUTS_S: Final = {Timeout.UDP_IDLE: 600, Timeout.TCP_IDLE: 24 * 3600, Timeout.TCP_TRANSIENT: 120}


class Session:
    """One session. ``seen`` are the TCP flags that passed, by direction (output, input)."""

    __slots__ = ("active_s", "epoch", "interface", "is_input", "key", "queued_s", "reverse", "seen", "timeout")

    def __init__(self, key: Key, reverse: Key | None, *, interface: int, is_input: bool, epoch: int) -> None:
        self.key = key
        self.reverse = reverse
        self.interface = interface
        self.is_input = is_input
        self.epoch = epoch
        self.seen = [0, 0]
        self.active_s = self.queued_s = 0.0
        self.timeout = Timeout.UDP_IDLE


def place(interface: int, *, is_input: bool) -> int:
    """The part of a key that says where; VPP keeps 16 bits of the interface's index."""
    return (interface & 0xFFFF) << 1 | is_input


def key_of(flow: Flow, where: int) -> Key:
    """The key that a packet's session is looked up with."""
    addresses, ports, protocol, _, kind = flow
    return addresses, ports, protocol | (kind & SLOW) << 5, where


def reverse_of(key: Key, *, version: int) -> Key | None:
    """The key of what comes back; None when nothing may (ICMP that is no request)."""
    addresses, ports, protocol, where = key
    back: Addresses
    if isinstance(addresses, int):
        back = addresses >> 32 | (addresses & 0xFFFFFFFF) << 32
    else:
        back = addresses[16:] + addresses[:16]
    number = protocol & 0xFF
    if number != protocol and number == (IPPROTO_ICMP if version == 4 else IPPROTO_ICMP6):
        reply = _REVERSED[number].get(ports >> 16)
        return None if reply is None else (back, reply << 16 | ports & 0xFFFF, protocol, where ^ 1)
    return back, ports >> 16 | (ports & 0xFFFF) << 16, protocol, where ^ 1


class SessionTable:
    """All sessions of one machine."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.timeouts_s: dict[Timeout, int] = dict(TIMEOUTS_S)
        self.sessions_max = SESSIONS_MAX
        self.due = float("inf")
        """When ``work`` has something to do."""
        self.added: Counter[int] = Counter()
        self.deleted: Counter[int] = Counter()
        self.restarted: Counter[int] = Counter()
        """Sessions by interface: made, given back, deleted because their list had changed (epoch)."""
        self.deactivated = 0
        self._by_key: dict[Key, Session] = {}
        self._queues: dict[Timeout, OrderedDict[Session, None]] = {timeout: OrderedDict() for timeout in Timeout}
        self._purgatory: deque[tuple[float, Session]] = deque()
        self._clearing: set[int] = set()
        self.find = self._by_key.get
        """The session of a key."""

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def passed(self, session: Session, *, is_input: bool, tcp_flags: int, now: float) -> bool:
        """A packet of the session went by; whether that changed its timeout class."""
        session.active_s = now
        if not tcp_flags & ~session.seen[is_input]:
            return False
        session.seen[is_input] |= tcp_flags
        if session.key[2] != IPPROTO_TCP:
            return False
        outward, inward = session.seen
        established = outward & _STATE == _ESTABLISHED and inward & _STATE == _ESTABLISHED
        timeout = Timeout.TCP_IDLE if established else Timeout.TCP_TRANSIENT
        if timeout is session.timeout:
            return False
        del self._queues[session.timeout][session]
        session.timeout = timeout
        self._enqueue(session, now)
        return True

    def add(self, session: Session, *, now: float) -> bool:
        """Remember a new session; False when there are too many.

        A table that is full gives up its oldest unfinished TCP session, whose place is free a moment later.
        """
        if self._full() and not self._recycled(now):
            return False
        session.timeout = Timeout.TCP_TRANSIENT if session.key[2] == IPPROTO_TCP else Timeout.UDP_IDLE
        session.active_s = now
        self._enqueue(session, now)
        if session.reverse is not None:
            self._by_key[session.reverse] = session
        self._by_key[session.key] = session
        self.added[session.interface] += 1
        return True

    def delete(self, session: Session, *, now: float) -> None:
        """Forget a session: its packets meet the lists again."""
        del self._queues[session.timeout][session]
        self._deactivate(session, now)

    def clear(self, interface: int) -> None:
        """Forget the sessions of an interface, or of all (EVERY), at the next ``work``."""
        self._clearing.add(interface)
        self.due = 0.0

    def set_timeout(self, timeout: Timeout, seconds: int) -> None:
        """How long a session of a class may be idle."""
        self.timeouts_s[timeout] = seconds
        self.due = 0.0

    def work(self, now: float) -> None:
        """What the cleaner does: look at sessions whose turn it is, clear interfaces, give places back."""
        clearing, self._clearing = self._clearing, set()
        for timeout, queue in self._queues.items():
            self._sweep(queue, self.timeouts_s[timeout], now=now, clearing=clearing)
        self._purge(now)
        heads = ((next(iter(queue)), self.timeouts_s[timeout]) for timeout, queue in self._queues.items() if queue)
        self.due = min((head.queued_s + seconds / 2 for head, seconds in heads), default=float("inf"))

    def _sweep(self, queue: OrderedDict[Session, None], seconds: int, *, now: float, clearing: set[int]) -> None:
        looked_at: list[Session] = []
        while queue and len(looked_at) < SWEEP_MAX:
            head = next(iter(queue))
            if not clearing and head.queued_s + seconds / 2 >= now:
                break
            del queue[head]
            looked_at.append(head)
        for session in looked_at:
            if session.active_s + seconds <= now or session.interface in clearing or EVERY in clearing:
                self._deactivate(session, now)
            else:
                self._enqueue(session, now)

    def _enqueue(self, session: Session, now: float) -> None:
        session.queued_s = now
        self._queues[session.timeout][session] = None
        self.due = min(self.due, now + self.timeouts_s[session.timeout] / 2)

    def _deactivate(self, session: Session, now: float) -> None:
        self._by_key.pop(session.key, None)
        if session.reverse is not None:
            self._by_key.pop(session.reverse, None)
        self.deactivated += 1
        self._purgatory.append((now, session))

    def _purge(self, now: float) -> None:
        while self._purgatory and self._purgatory[0][0] + PURGATORY_S < now:
            _, session = self._purgatory.popleft()
            self.deleted[session.interface] += 1

    def _full(self) -> bool:
        return len(self) + len(self._purgatory) + 1 >= self.sessions_max

    def _recycled(self, now: float) -> bool:
        """acl_fa_try_recycle_session: what waits in purgatory goes, and the oldest transient session goes there."""
        self._purge(now)
        transient = self._queues[Timeout.TCP_TRANSIENT]
        if transient:
            self.delete(next(iter(transient)), now=now)
        return not self._full()
