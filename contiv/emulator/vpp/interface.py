"""Interfaces of the emulated VPP: software interfaces by ``sw_if_index``, their addresses, state and counters.

Owns the table and its numbering: like VPP's pool, the index freed last is given out first. Devices
(``af_packet``, ``tap``, ``loopback``, ``vxlan``) set ``transmit`` to the node that carries a packet off; the graph asks
for nothing else. Feature arcs hang on the interface as tuples of nodes in VPP's order (``features.py``).
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contiv.emulator.vpp.bridge import BridgePort
    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.packet import Node

NO_INTERFACE: Final = 0xFFFFFFFF
"""``~0``: VPP's "no interface" in every message."""

MTU_L3: Final = 0
MTU_IP4: Final = 1
MTU_IP6: Final = 2
MTU_MPLS: Final = 3


class InterfaceFlag(IntFlag):
    """``if_status_flags`` of VPP's API."""

    ADMIN_UP = 1
    LINK_UP = 2


class InterfaceAddress(msgspec.Struct, frozen=True, order=True):
    """An address on an interface with its prefix length, as configured (host bits kept)."""

    value: int
    length: int


class Interface:
    """One software interface; what the data plane reads for each packet and the API shows in dumps."""

    __slots__ = (
        "addresses4",
        "addresses6",
        "admin_up",
        "can_csum",
        "can_gso",
        "dev_type",
        "drops",
        "fib4",
        "fib6",
        "index",
        "input_arc4",
        "input_arc6",
        "ip4_enabled",
        "ip6_enabled",
        "ip6_explicit",
        "is_ethernet",
        "kind",
        "l2",
        "link_mtu",
        "link_up",
        "mac",
        "mtu",
        "mtu4",
        "mtu6",
        "name",
        "output_arc4",
        "output_arc6",
        "proxy_arp",
        "rx_bytes",
        "rx_mode",
        "rx_packets",
        "tag",
        "transmit",
        "tx_bytes",
        "tx_errors",
        "tx_packets",
        "unnumbered",
    )  # fmt: skip

    transmit: Node
    mtu: list[int]
    mtu4: int
    mtu6: int

    def __init__(self, index: int, name: str, *, kind: str, dev_type: str, mac: bytes, mtu: int) -> None:
        self.index = index
        self.name = name
        self.kind = kind
        self.dev_type = dev_type
        self.mac = mac
        self.is_ethernet = True
        self.admin_up = False
        self.link_up = False
        self.link_mtu = mtu
        self.set_mtu((mtu, 0, 0, 0))
        self.tag = ""
        self.rx_mode = 0
        self.addresses4: list[InterfaceAddress] = []
        self.addresses6: list[InterfaceAddress] = []
        self.unnumbered: Interface | None = None
        self.fib4: Fib
        self.fib6: Fib
        self.ip4_enabled = 0
        self.ip6_enabled = 0
        self.ip6_explicit = 0
        self.proxy_arp = False
        self.l2: BridgePort | None = None
        self.input_arc4: tuple[Node, ...] = ()
        self.input_arc6: tuple[Node, ...] = ()
        self.output_arc4: tuple[Node, ...] = ()
        self.output_arc6: tuple[Node, ...] = ()
        self.can_csum = False
        self.can_gso = False
        self.rx_packets = self.rx_bytes = self.tx_packets = self.tx_bytes = 0
        self.tx_errors = self.drops = 0

    @property
    def flags(self) -> InterfaceFlag:
        """What sw_interface_details and events carry."""
        up = InterfaceFlag.ADMIN_UP if self.admin_up else InterfaceFlag(0)
        return up | (InterfaceFlag.LINK_UP if self.link_up else InterfaceFlag(0))

    @property
    def usable(self) -> bool:
        """Whether packets leave here: admin up (VPP asks no more of it than that for forwarding)."""
        return self.admin_up

    def set_mtu(self, mtu: Sequence[int]) -> None:
        """MTUs by protocol (L3, IP4, IP6, MPLS); one that is 0 follows L3 (vnet_sw_interface_get_mtu)."""
        self.mtu = list(mtu)
        self.mtu4 = self.mtu[MTU_IP4] or self.mtu[MTU_L3] or self.link_mtu
        self.mtu6 = self.mtu[MTU_IP6] or self.mtu[MTU_L3] or self.link_mtu

    @property
    def ip6_locks(self) -> int:
        """For how many reasons the interface is on an IPv6 link: its addresses, and calls that said so (ip6_link.c)."""
        return self.ip6_explicit + len(self.addresses6)

    def addresses(self, version: int) -> list[InterfaceAddress]:
        """The interface's own addresses of one family, in the order in which they came."""
        return self.addresses4 if version == 4 else self.addresses6

    def fib(self, version: int) -> Fib:
        """The table that packets received here are looked up in."""
        return self.fib4 if version == 4 else self.fib6

    def source_address(self, version: int, destination: int) -> int | None:
        """An address to send from: the one with the longest prefix in common (ip_sas.c); None without any."""
        addresses = (self.unnumbered or self).addresses(version)
        if not addresses:
            return None
        return min(addresses, key=lambda address: (address.value ^ destination).bit_length()).value


class InterfaceTable:
    """All interfaces by index and by name."""

    def __init__(self) -> None:
        self._by_index: dict[int, Interface] = {}
        self._free: list[int] = []
        self._instances: dict[str, set[int]] = {}

    def __iter__(self) -> Iterator[Interface]:
        return iter([self._by_index[index] for index in sorted(self._by_index)])

    def __len__(self) -> int:
        return len(self._by_index)

    def get(self, index: int) -> Interface | None:
        """The interface with ``sw_if_index`` ``index``."""
        return self._by_index.get(index)

    def named(self, name: str) -> Interface | None:
        """The interface called ``name``."""
        return next((itf for itf in self._by_index.values() if itf.name == name), None)

    def next_index(self) -> int:
        """The index that the next ``add`` will use."""
        return self._free[-1] if self._free else len(self._by_index)

    def add(self, interface: Interface) -> None:
        """Register an interface made with ``next_index()``."""
        if self._free:
            self._free.pop()
        self._by_index[interface.index] = interface

    def remove(self, interface: Interface) -> None:
        """Forget an interface; its index is the next to be given out."""
        del self._by_index[interface.index]
        self._free.append(interface.index)

    def take_instance(self, kind: str, wanted: int | None) -> int | None:
        """A number for ``kind``: ``wanted`` or the lowest free one; None when ``wanted`` is in use."""
        used = self._instances.setdefault(kind, set())
        if wanted is None:
            wanted = next(number for number in range(len(used) + 1) if number not in used)
        elif wanted in used:
            return None
        used.add(wanted)
        return wanted

    def free_instance(self, kind: str, instance: int) -> None:
        """Give a number of ``take_instance`` back."""
        self._instances[kind].discard(instance)
