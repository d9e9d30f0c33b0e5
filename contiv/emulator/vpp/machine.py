"""The machine: interfaces come and go, get addresses, tables, loans and states; the graph's tables follow.

Owns what one change means for everything else: an interface that goes up brings its connected routes, one that is
deleted takes its neighbours, addresses, bridge port and adjacencies along. In: calls of the API's handlers, which have
checked nothing yet. Out: the graph's tables, changed; ``Refusal`` with VPP's reason, and then nothing is changed.
Routes and neighbours themselves are set by the handlers, straight in the tables (``fib.py``, ``neighbor.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp import sources
from contiv.emulator.vpp.adjacency import INCOMPLETE
from contiv.emulator.vpp.fib import Contribution, EntryFlag, Fib, FibFamily, Path, PathType
from contiv.emulator.vpp.graph import Graph
from contiv.emulator.vpp.interface import Interface, InterfaceAddress
from contiv.emulator.vpp.neighbor import NeighbourTable
from contiv.emulator.vpp.refusal import Refusal
from contiv.emulator.vpp.sources import Source, SourceTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from contiv.emulator.vpp.packet import Node, Packet

MTU: Final = 9000
"""What VPP gives every software interface (ethernet/interface.c)."""


class Machine:
    """One emulated VPP without its sockets."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.graph = Graph(clock)
        self.interfaces = self.graph.interfaces
        self.sources = SourceTable()
        self.on_interface: Callable[[Interface, bool], None] = lambda interface, deleted: None
        """Called when an interface's state changed, and with True when it is gone (sw_interface_event)."""
        for family in (self.graph.family4, self.graph.family6):
            family.make(0).api_owned = True
        local0 = self._register("local0", kind="local", dev_type="local", mac=bytes(6), mtu=0)
        local0.transmit = self._no_device

    # -- interfaces -------------------------------------------------------------------------------------------------

    def add_interface(
        self, name: str, *, kind: str, dev_type: str, mac: bytes, transmit: Node, up: bool = False, mtu: int = MTU
    ) -> Interface:
        """A new interface, in tables 0, without addresses; ``up`` makes it so at once, as VPP does with tunnels."""
        interface = self._register(name, kind=kind, dev_type=dev_type, mac=mac, mtu=mtu)
        interface.transmit = transmit
        interface.link_up = up
        if up:
            self.set_admin(interface, up=True)
        return interface

    def interface(self, index: int, *, refusal: str = "INVALID_SW_IF_INDEX") -> Interface:
        """The interface with ``sw_if_index``; Refusal when there is none."""
        found = self.interfaces.get(index)
        if found is None:
            raise Refusal(refusal)
        return found

    def remove_interface(self, interface: Interface) -> None:
        """Delete an interface and everything that stands on it. Routes over it stay and drop, as on VPP."""
        self.graph.nat44.forget(interface)
        if interface.admin_up:
            self.set_admin(interface, up=False)
        if interface.l2 is not None:
            interface.l2.bridge.detach(interface)
        for bridge in self.graph.bridges:
            for mac in [mac for mac, entry in bridge.macs.items() if entry.interface is interface]:
                bridge.forget(mac)
        for borrower in list(self.interfaces):
            if borrower.unnumbered is interface:
                self.set_unnumbered(borrower, None)
        self.set_unnumbered(interface, None)
        for version in (4, 6):
            for address in list(interface.addresses(version)):
                self.remove_address(interface, version, address)
            self.neighbours(version).flush(interface)
            interface.fib(version).bound -= 1
            self._collect(interface.fib(version))
            self.family(version).resolver.forget_interface(interface.index)
        self.graph.acl.forget(interface)
        self.graph.classifier.forget(interface)
        self.graph.features.forget(interface)
        self.interfaces.remove(interface)
        self.on_interface(interface, True)

    def set_admin(self, interface: Interface, *, up: bool) -> None:
        """Switch an interface on or off: connected routes exist while it is on."""
        if interface.admin_up == up:
            return
        interface.admin_up = up
        for version in (4, 6):
            for address in interface.addresses(version):
                self._connect(interface, version, address, add=up)
            self.family(version).invalidate()
        self.on_interface(interface, False)

    def set_link(self, interface: Interface, *, up: bool) -> None:
        """The far side is there or not."""
        if interface.link_up != up:
            interface.link_up = up
            self.on_interface(interface, False)

    def set_mac(self, interface: Interface, mac: bytes) -> None:
        """Give an interface another link address; what it sends carries it from now on."""
        bridge = interface.l2.bridge if interface.l2 is not None else None
        entry = bridge.macs.pop(interface.mac, None) if bridge is not None else None
        interface.mac = mac
        if bridge is not None and entry is not None:
            bridge.macs[mac] = entry
        self.graph.neighbours4.rewrite_all(interface)
        self.graph.neighbours6.rewrite_all(interface)

    def family(self, version: int) -> FibFamily:
        """The tables of IPv4 or IPv6."""
        return self.graph.family4 if version == 4 else self.graph.family6

    def neighbours(self, version: int) -> NeighbourTable:
        """The neighbours of IPv4 or IPv6."""
        return self.graph.neighbours4 if version == 4 else self.graph.neighbours6

    def probe(self, version: int, sw_if_index: int, next_hop: int) -> None:
        """A route names a next hop: ask for its link address now, before the first packet (ip4_neighbor.c)."""
        interface = self.interfaces.get(sw_if_index)
        if version != 4 or interface is None or not next_hop or not interface.admin_up:
            return
        if self.graph.family4.resolver.neighbour(sw_if_index, next_hop).kind == INCOMPLETE:
            self.graph.arp.request(interface, next_hop, interface.source_address(4, next_hop))

    # -- addresses --------------------------------------------------------------------------------------------------

    def add_address(self, interface: Interface, version: int, address: InterfaceAddress) -> None:
        """Put an address on an interface. Refusal ADDRESS_IN_USE when its subnet overlaps another in the table."""
        for other in self.interfaces:
            if other.fib(version) is not interface.fib(version):
                continue
            for present in other.addresses(version):
                if other is interface and present.length == address.length and present.value != address.value:
                    continue
                shift = self.family(version).bits - min(present.length, address.length)
                if present.value >> shift == address.value >> shift:
                    raise Refusal("ADDRESS_IN_USE")
        interface.addresses(version).append(address)
        if version == 4:
            self.graph.nat44.address_changed(interface, address.value, address.length, add=True)
        self._enable(interface, version, by=1)
        if interface.admin_up:
            self._connect(interface, version, address, add=True)
        self.family(version).invalidate()

    def remove_address(self, interface: Interface, version: int, address: InterfaceAddress) -> None:
        """Take an address off an interface. Refusal ADDRESS_NOT_FOUND_FOR_INTERFACE."""
        addresses = interface.addresses(version)
        if address not in addresses:
            raise Refusal("ADDRESS_NOT_FOUND_FOR_INTERFACE")
        addresses.remove(address)
        if version == 4:
            self.graph.nat44.address_changed(interface, address.value, address.length, add=False)
        self._enable(interface, version, by=-1)
        if interface.admin_up:
            self._connect(interface, version, address, add=False)
            for left in addresses:  # two addresses of one subnet share its connected route
                self._connect(interface, version, left, add=True)
        self.family(version).invalidate()

    def set_unnumbered(self, interface: Interface, lender: Interface | None) -> None:
        """Let an interface borrow another's addresses, or end that."""
        if interface.unnumbered is not None:
            self._enable(interface, 4, by=-1)
            self._enable(interface, 6, by=-1)
        interface.unnumbered = lender
        if lender is not None:
            self._enable(interface, 4, by=1)
            self._enable(interface, 6, by=1)
        for version in (4, 6):
            self.family(version).invalidate()

    def set_ip6(self, interface: Interface, *, on: bool) -> None:
        """Switch IPv6 on or off without an address. Refusal IP6_NOT_ENABLED; VALUE_EXIST where it is on already, and
        it then takes one more call to switch it off, as on VPP."""
        locks = interface.ip6_locks
        if not on and not locks:
            raise Refusal("IP6_NOT_ENABLED")
        change = 1 if on else -1
        interface.ip6_explicit += change
        self._enable(interface, 6, by=change)
        if on and locks:
            raise Refusal("VALUE_EXIST")

    # -- tables -----------------------------------------------------------------------------------------------------

    def fib(self, version: int, table_id: int) -> Fib:
        """A table; Refusal NO_SUCH_FIB."""
        found = self.family(version).tables.get(table_id)
        if found is None:
            raise Refusal("NO_SUCH_FIB")
        return found

    def add_table(self, version: int, table_id: int, *, name: str) -> None:
        """Make a table, or claim one that is there."""
        family = self.family(version)
        fib = family.tables.get(table_id) or family.make(table_id, name=name)
        fib.api_owned = True

    def remove_table(self, version: int, table_id: int) -> None:
        """Give a table back; it goes when no interface is bound to it any more. Unknown ones are fine."""
        fib = self.family(version).tables.get(table_id)
        if fib is not None and table_id:
            fib.api_owned = False
            self._collect(fib)

    def bind(self, interface: Interface, version: int, table_id: int) -> None:
        """Look what an interface receives up in another table. Refusal with addresses on it, or without the table."""
        fib = self.fib(version, table_id)
        if (interface.unnumbered or interface).addresses(version):
            raise Refusal("ADDRESS_FOUND_FOR_INTERFACE")
        if fib is interface.fib(version):
            return
        neighbours = self.neighbours(version)
        neighbours.uninstall(interface)
        before = interface.fib(version)
        before.bound -= 1
        fib.bound += 1
        if version == 4:
            interface.fib4 = fib
        else:
            interface.fib6 = fib
        neighbours.reinstall(interface)
        self._collect(before)
        self.family(version).invalidate()

    def add_source(self, name: str, priority: int) -> int:
        """A FIB source of the API's own; its number. Refusal LIMIT_EXCEEDED."""
        made = self.sources.add(name, priority)
        if made is None:
            raise Refusal("LIMIT_EXCEEDED")
        return made.id

    def source(self, number: int) -> Source:
        """A source by VPP's number; 0 means the API's. Refusal NO_SUCH_ENTRY."""
        found = self.sources.get(number) if number else sources.API
        if found is None:
            raise Refusal("NO_SUCH_ENTRY")
        return found

    # -- inside -----------------------------------------------------------------------------------------------------

    def _register(self, name: str, *, kind: str, dev_type: str, mac: bytes, mtu: int) -> Interface:
        index = self.interfaces.next_index()
        interface = Interface(index, name, kind=kind, dev_type=dev_type, mac=mac, mtu=mtu)
        interface.fib4 = self.graph.family4.tables[0]
        interface.fib6 = self.graph.family6.tables[0]
        interface.fib4.bound += 1
        interface.fib6.bound += 1
        self.interfaces.add(interface)
        features = self.graph.features
        features.enable(interface, "ip4-unicast", feature="ip4-not-enabled", node=self.graph.ip4.not_enabled)
        features.enable(interface, "ip6-unicast", feature="ip6-not-enabled", node=self.graph.ip6.not_enabled)
        return interface

    def _enable(self, interface: Interface, version: int, *, by: int) -> None:
        """Count one more or less reason for which the interface speaks IP; the first opens it, the last closes it."""
        features = self.graph.features
        if version == 4:
            interface.ip4_enabled += by
            count, node = interface.ip4_enabled, self.graph.ip4.not_enabled
        else:
            interface.ip6_enabled += by
            count, node = interface.ip6_enabled, self.graph.ip6.not_enabled
        arc, feature = f"ip{version}-unicast", f"ip{version}-not-enabled"
        if count:
            features.disable(interface, arc, feature=feature)
        else:
            features.enable(interface, arc, feature=feature, node=node)

    def _connect(self, interface: Interface, version: int, address: InterfaceAddress, *, add: bool) -> None:
        """The routes that an address on an interface brings (ip4_add_interface_routes)."""
        fib = interface.fib(version)
        bits = fib.bits
        room = bits - address.length
        drop = Contribution((Path(next_hop_version=version, type=PathType.DROP),), EntryFlag.DROP)
        attached = Path(interface.index, 0, version)
        ours = Path(interface.index, address.value, version, type=PathType.LOCAL)
        wanted = [(address.value, bits, Contribution((ours,), EntryFlag.CONNECTED | EntryFlag.LOCAL))]
        if room:
            flags = EntryFlag.CONNECTED | EntryFlag.ATTACHED
            wanted.insert(0, (address.value, address.length, Contribution((attached,), flags)))
        if version == 4 and room > 1:
            first = address.value >> room << room
            last = first | (1 << room) - 1
            wanted[1:1] = [(edge, bits, drop) for edge in (first, last) if edge != address.value]
        elif version == 4 and room == 1:  # two addresses: ours and the other one (RFC 3021)
            other = Path(interface.index, address.value ^ 1, version)
            wanted.append((address.value ^ 1, bits, Contribution((other,), EntryFlag.ATTACHED)))
        for value, length, contribution in wanted:
            if add:
                fib.put(value, length, source=sources.INTERFACE, contribution=contribution)
            else:
                fib.drop_source(value, length, source=sources.INTERFACE)

    def _collect(self, fib: Fib) -> None:
        if fib.table_id and not fib.api_owned and not fib.bound:
            fib.family.remove(fib)

    def _no_device(self, packet: Packet) -> Node | None:
        self.graph.errors.drop(packet, "local0-output", "interface is down")
        return None
