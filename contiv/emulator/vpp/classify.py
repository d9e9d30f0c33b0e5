"""Classify tables as far as input ACLs need them: match bytes of the IP header, look the packet up in another table.

Follows vnet/classify and ip_in_out_acl.c (node ip4-inacl): the first table of a chain whose session matches decides.
Only the action "set the IPv4 table" is there; a packet that nothing matches goes on as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.pool import Pool
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from contiv.emulator.vpp.features import FeatureArcs
    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet

ARC, FEATURE = "ip4-unicast", "ip4-inacl"


class Session(msgspec.Struct, frozen=True):
    """What a match means. ``fib``: where the packet is looked up; None: as it would be anyway."""

    match: bytes
    fib: Fib | None
    opaque_index: int
    advance: int
    hit_next_index: int


class Table(msgspec.Struct):
    """Bytes ``skip``… of the IP header under ``mask``; sessions by what is left."""

    skip: int
    mask: bytes
    buckets: int
    next_table: int
    miss_next_index: int
    sessions: dict[bytes, Session] = msgspec.field(default_factory=dict)

    def masked(self, data: bytes | bytearray | memoryview) -> bytes:
        """What is compared of ``data``, which begins where the table's bytes do."""
        size = len(self.mask)
        if not any(self.mask):
            return bytes(size)
        number = int.from_bytes(bytes(data[:size]).ljust(size, b"\0"), "big") & int.from_bytes(self.mask, "big")
        return number.to_bytes(size, "big")


class Classifier:
    """All tables, and which interface's input goes through which."""

    def __init__(self, features: FeatureArcs) -> None:
        self._features = features
        self.tables: Pool[Table] = Pool()
        self.inputs: dict[int, int] = {}

    def set_input(self, interface: Interface, table: int | None) -> None:
        """Send what the interface receives through a table; None: no more. One that has a table keeps it."""
        if table is None:
            self.inputs.pop(interface.index, None)
            self._features.disable(interface, ARC, feature=FEATURE)
        elif interface.index not in self.inputs:
            self.inputs[interface.index] = table
            self._features.enable(interface, ARC, feature=FEATURE, node=self.input)

    def forget(self, interface: Interface) -> None:
        """The interface is gone."""
        self.inputs.pop(interface.index, None)

    def table(self, index: int) -> Table:
        """A table; Refusal NO_SUCH_TABLE."""
        found = self.tables.get(index)
        if found is None:
            raise Refusal("NO_SUCH_TABLE")
        return found

    def input(self, packet: Packet) -> Node | None:
        """ip4-inacl."""
        table = self.tables.get(self.inputs[packet.rx.index])
        while table is not None:
            start = packet.start + table.skip
            session = table.sessions.get(table.masked(packet.view[start : packet.end]))
            if session is not None:
                if session.fib is not None:
                    packet.fib = session.fib
                break
            table = self.tables.get(table.next_table)
        return CONTINUE
