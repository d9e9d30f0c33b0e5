"""Bridge domains: their ports and their table of link addresses, static or learned, with ageing."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contiv.emulator.vpp.interface import Interface

BD_ID_MAX: Final = (1 << 24) - 1
LEARN_MAX: Final = 16_777_216 // 1_024
"""Link addresses learned per bridge. VPP's default is far above what any node needs; memory is ours to bound."""


class PortType(IntEnum):
    """``l2_port_type`` of VPP's API."""

    NORMAL = 0
    BVI = 1
    UU_FWD = 2


class BridgePort(msgspec.Struct, frozen=True):
    """An interface's membership in a bridge domain."""

    interface: Interface
    bridge: Bridge
    shg: int
    type: PortType


class MacEntry(msgspec.Struct):
    """Where a link address is. ``seen_s`` moves while a learned address is heard of; provisioned ones do not age."""

    interface: Interface | None
    static: bool = False
    filter: bool = False
    bvi: bool = False
    learned: bool = False
    seen_s: float = 0.0


class Bridge:
    """One bridge domain."""

    __slots__ = (
        "arp_term", "arp_ufwd", "bd_id", "bvi", "flood", "forward", "learn", "learned", "mac_age", "macs", "ports",
        "tag", "uu_flood", "uu_fwd",
    )  # fmt: skip

    def __init__(
        self, bd_id: int, *, flood: bool, uu_flood: bool, forward: bool, learn: bool, arp_term: bool, arp_ufwd: bool,
        mac_age: int, tag: str,
    ) -> None:  # fmt: skip
        self.bd_id = bd_id
        self.flood = flood
        self.uu_flood = uu_flood
        self.forward = forward
        self.learn = learn
        self.arp_term = arp_term
        self.arp_ufwd = arp_ufwd
        self.mac_age = mac_age
        self.tag = tag
        self.ports: list[BridgePort] = []
        self.bvi: Interface | None = None
        self.uu_fwd: Interface | None = None
        self.macs: dict[bytes, MacEntry] = {}
        self.learned = 0

    def attach(self, interface: Interface, *, shg: int, port_type: PortType) -> None:
        """Make ``interface`` a port; the BVI's own address becomes a static entry."""
        port = BridgePort(interface, self, shg, port_type)
        interface.l2 = port
        if port_type is PortType.BVI:
            self.bvi = interface
            self.macs[interface.mac] = MacEntry(interface, static=True, bvi=True)
        elif port_type is PortType.UU_FWD:
            self.uu_fwd = interface
        if port_type is PortType.BVI:
            self.ports.insert(0, port)  # VPP floods to the BVI last and walks its members backwards
        elif port_type is PortType.NORMAL:
            self.ports.append(port)

    def detach(self, interface: Interface) -> None:
        """Take a port out, and with it what was learned on it."""
        interface.l2 = None
        self.ports = [port for port in self.ports if port.interface is not interface]
        if self.bvi is interface:
            self.bvi = None
            self.macs.pop(interface.mac, None)
        if self.uu_fwd is interface:
            self.uu_fwd = None
        for mac in [mac for mac, entry in self.macs.items() if entry.interface is interface and entry.learned]:
            self.forget(mac)

    def learn_mac(self, mac: bytes, interface: Interface, now_s: float) -> str:
        """A frame from ``mac`` came in on ``interface``; a reason to drop the frame, empty when there is none."""
        entry = self.macs.get(mac)
        if entry is None:
            if self.learned < LEARN_MAX and any(mac):
                self.macs[mac] = MacEntry(interface, learned=True, seen_s=now_s)
                self.learned += 1
            return ""
        if entry.interface is interface:
            entry.seen_s = now_s
            return ""
        if entry.filter:
            return "L2 filter mac drops"
        if entry.static:
            return "L2 mac move violations"
        if not entry.learned:
            self.learned += 1
        self.macs[mac] = MacEntry(interface, learned=True, seen_s=now_s)
        return ""

    def forget(self, mac: bytes) -> bool:
        """Remove an entry; False when there is none."""
        entry = self.macs.pop(mac, None)
        if entry is not None and entry.learned:
            self.learned -= 1
        return entry is not None

    def age(self, now_s: float) -> None:
        """Forget what was learned and not heard of for ``mac_age`` minutes (0: never)."""
        if not self.mac_age:
            return
        oldest = now_s - self.mac_age * 60
        for mac in [mac for mac, entry in self.macs.items() if entry.learned and entry.seen_s < oldest]:
            self.forget(mac)


class BridgeTable:
    """All bridge domains by number."""

    def __init__(self) -> None:
        self._by_id: dict[int, Bridge] = {}

    def __iter__(self) -> Iterator[Bridge]:
        return iter(list(self._by_id.values()))

    def get(self, bd_id: int) -> Bridge | None:
        """The bridge domain numbered ``bd_id``."""
        return self._by_id.get(bd_id)

    def unused_id(self) -> int:
        """The lowest free number."""
        return next(number for number in range(1, len(self._by_id) + 2) if number not in self._by_id)

    def add(self, bridge: Bridge) -> None:
        """Register a new bridge domain."""
        self._by_id[bridge.bd_id] = bridge

    def remove(self, bridge: Bridge) -> None:
        """Delete a bridge domain without ports."""
        del self._by_id[bridge.bd_id]

    def age(self, now_s: float) -> None:
        """Age every bridge domain's learned addresses."""
        for bridge in self._by_id.values():
            bridge.age(now_s)
