"""Shallow virtual reassembly: later fragments learn the ports of their first one (vnet/ip/reass/ip4_sv_reass.c).

A feature in front of NAT on both IPv4 arcs. What it knows of a fragment stands in ``packet.shallow``; whole packets
pass at the cost of one test, and who needs their ports reads them itself. Fragments that overtake their first one wait
for it, at most ``FRAGMENTS_MAX`` of a packet; fragments of protocols without ports are dropped.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.packet import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    from collections.abc import Callable

    from contiv.emulator.vpp.counters import ErrorCounters
    from contiv.emulator.vpp.packet import Node, Packet

CONTEXTS_MAX: Final = 1024
"""IP4_SV_REASS_MAX_REASSEMBLIES_DEFAULT."""
FRAGMENTS_MAX: Final = 3
"""IP4_SV_REASS_MAX_REASSEMBLY_LENGTH_DEFAULT."""
NAMES: Final = {
    "ip4-unicast": "ip4-sv-reassembly-feature",
    "ip4-output": "ip4-sv-reassembly-output-feature",
}
LIFETIME_S: Final = 0.1
"""IP4_SV_REASS_TIMEOUT_DEFAULT_MS."""
_HEADER: Final = struct.Struct(">BBHHHBBHQI")
_U16: Final = struct.Struct(">H")
_OFFSET: Final = 0x1FFF
_ECHO: Final = frozenset({0, 8})


class Layer4(NamedTuple):
    """What the first fragment told on an arc: ports (first << 16 | second; ICMP: identifier twice), flags or type."""

    arc: str
    ports: int
    kind: int
    is_first: bool


class _Context:
    __slots__ = ("known", "touched_s", "waiting")

    def __init__(self, now: float) -> None:
        self.touched_s = now
        self.known: Layer4 | None = None
        self.waiting: list[Packet] = []


class ShallowReassembly:
    """The feature of one arc. ``resume`` carries a packet through that arc again."""

    def __init__(
        self, arc: str, errors: ErrorCounters, clock: Callable[[], float], *, resume: Callable[[Packet], None]
    ) -> None:
        self._arc = arc
        self.name = NAMES[arc]
        self._errors = errors
        self._clock = clock
        self._resume = resume
        self._contexts: dict[tuple[int, int], _Context] = {}
        self._users: dict[int, int] = {}

    def node(self, packet: Packet) -> Node | None:
        """ip4-sv-reassembly-feature, ip4-sv-reassembly-output-feature."""
        start = packet.start
        buf = packet.buf
        if not (buf[start + 6] & 0x3F or buf[start + 7]):
            packet.shallow = None
            return CONTINUE
        known = packet.shallow
        if known is not None and known.arc == self._arc:
            return CONTINUE
        return self._fragment(packet)

    def use(self, index: int, *, by: int) -> int:
        """One user more or less on an interface (ip4_sv_reass_enable_disable_with_refcnt); how many there are."""
        count = self._users.get(index, 0) + by
        self._users[index] = count
        return count

    def forget(self, index: int) -> None:
        """An interface is gone."""
        self._users.pop(index, None)

    def _fragment(self, packet: Packet) -> Node | None:
        start = packet.start
        first, _, _, ident, fragment, _, protocol, _, addresses, ports = _HEADER.unpack_from(packet.buf, start)
        fib = packet.fib or packet.rx.fib4
        key = (addresses, fib.table_id << 24 | ident << 8 | protocol)
        context = self._context(key)
        if context is None:
            return self._drop(packet, "reassembly limit reached")
        if not fragment & _OFFSET:
            known = self._first(packet, first, protocol, ports)
            if known is None:
                del self._contexts[key]
                return self._drop(packet, "unsupported ip protocol")
            packet.shallow = known
            context.known = known._replace(is_first=False)
            waiting, context.waiting = context.waiting, []
            for later in waiting:
                later.shallow = context.known
                self._resume(later)
            return CONTINUE
        if context.known is None:
            context.waiting.append(self._keep(packet))
            if len(context.waiting) > FRAGMENTS_MAX:
                del self._contexts[key]
                return self._drop(packet, "packet reassembly too many fragments")
            return None
        packet.shallow = context.known
        return CONTINUE

    def _keep(self, packet: Packet) -> Packet:
        kept = packet.clone()
        if self._arc == "ip4-output":
            kept.tx = packet.tx
            kept.adjacency = packet.adjacency
        return kept

    def _context(self, key: tuple[int, int]) -> _Context | None:
        now = self._clock()
        found = self._contexts.get(key)
        if found is None or now - found.touched_s > LIFETIME_S:
            if len(self._contexts) >= CONTEXTS_MAX:
                for stale in [k for k, context in self._contexts.items() if now - context.touched_s > LIFETIME_S]:
                    del self._contexts[stale]
                if len(self._contexts) >= CONTEXTS_MAX:
                    return None
            found = self._contexts[key] = _Context(now)
        found.touched_s = now
        return found

    def _drop(self, packet: Packet, reason: str) -> Node | None:
        self._errors.drop(packet, self.name, reason)
        return None

    def _first(self, packet: Packet, first: int, protocol: int, ports: int) -> Layer4 | None:
        """What a first fragment tells; None for protocols without ports, and for options in it (ip4_get_port)."""
        layer4 = packet.start + 20
        if first != 0x45:
            return None
        if protocol == IPPROTO_TCP and layer4 + 20 <= packet.end:
            kind = packet.buf[layer4 + 13]
        elif protocol == IPPROTO_UDP and layer4 + 8 <= packet.end:
            kind = 0
        elif protocol == IPPROTO_ICMP and layer4 + 8 <= packet.end and packet.buf[layer4] in _ECHO:
            kind = packet.buf[layer4]
            ident = _U16.unpack_from(packet.buf, layer4 + 4)[0]
            ports = ident << 16 | ident
        else:
            return None
        return Layer4(self._arc, ports, kind, is_first=True) if ports >> 16 and ports & 0xFFFF else None
