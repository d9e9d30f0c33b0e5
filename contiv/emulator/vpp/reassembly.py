"""Reassembly of IPv4 fragments that are for ourselves (ip4-local-full-reassembly): bounded in number, size and time."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.checksum import checksum
from contiv.emulator.vpp.packet import Packet, make

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXTS_MAX: Final = 256
FRAGMENTS_MAX: Final = 64
LIFETIME_S: Final = 0.2
"""VPP gives up after 200 ms (ip4_full_reass.c, IP4_REASS_TIMEOUT_DEFAULT_MS)."""
_U16: Final = struct.Struct(">H")


class _Context:
    __slots__ = ("born_s", "pieces", "total")

    def __init__(self, born_s: float) -> None:
        self.born_s = born_s
        self.pieces: dict[int, bytes] = {}
        self.total: int | None = None


class Reassembly4:
    """Fragments that wait for the rest of their packet."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._contexts: dict[bytes, _Context] = {}

    def add(self, packet: Packet) -> Packet | None:
        """Keep a fragment; the whole packet when this was the last missing one."""
        view = packet.view
        start = packet.start
        header = (packet.buf[start] & 0xF) * 4
        flags = _U16.unpack_from(packet.buf, start + 6)[0]
        offset = (flags & 0x1FFF) * 8
        payload = bytes(view[start + header : packet.end])
        key = bytes(view[start + 4 : start + 6]) + bytes(view[start + 9 : start + 10])
        context = self._context(key + bytes(view[start + 12 : start + 20]))
        if context is None or len(context.pieces) >= FRAGMENTS_MAX:
            return None
        context.pieces[offset] = payload
        if not flags & 0x2000:
            context.total = offset + len(payload)
        whole = _join(context)
        if whole is None or len(whole) + 20 > 65_535:
            return None
        del self._contexts[key + bytes(view[start + 12 : start + 20])]
        head = bytearray(view[start : start + 20])
        head[0] = 0x45
        _U16.pack_into(head, 2, 20 + len(whole))
        _U16.pack_into(head, 6, 0)
        _U16.pack_into(head, 10, 0)
        _U16.pack_into(head, 10, checksum(head))
        made = make(bytes(head) + whole, rx=packet.rx)
        made.fib = packet.fib
        made.adjacency = packet.adjacency
        return made

    def _context(self, key: bytes) -> _Context | None:
        now = self._clock()
        found = self._contexts.get(key)
        if found is not None and now - found.born_s <= LIFETIME_S:
            return found
        if len(self._contexts) >= CONTEXTS_MAX:
            old = [k for k, context in self._contexts.items() if now - context.born_s > LIFETIME_S]
            for stale in old:
                del self._contexts[stale]
            if not old:
                return None
        made = self._contexts[key] = _Context(now)
        return made


def _join(context: _Context) -> bytes | None:
    if context.total is None:
        return None
    joined = bytearray()
    while len(joined) < context.total:
        piece = context.pieces.get(len(joined))
        if not piece:
            return None
        joined += piece
    return bytes(joined)
