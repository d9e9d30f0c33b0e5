"""Software interfaces: list, state, names, addresses, tables, loans (vnet/interface.api, ip.api for unnumbered)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from contiv.emulator.vpp.arp import ProxyRange
from contiv.emulator.vpp.handlers.convert import address, interface_parts, interface_prefix, mac_bytes
from contiv.emulator.vpp.interface import NO_INTERFACE, InterfaceAddress
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.devices.af_packet import AfPacketDevice
    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.machine import Machine

ADMIN_UP: Final = 1
FAMILIES: Final = (4, 6)
FRAME_OVERHEAD: Final = 22
"""Link header and two tags; VPP adds them twice for a kernel's link (af_packet_eth_set_max_frame_size)."""


class InterfaceHandlers:
    """Handlers about interfaces of every kind. ``hosts`` is shared with ``devices.py``: links that follow the state."""

    def __init__(self, machine: Machine, hosts: dict[int, AfPacketDevice]) -> None:
        self._machine = machine
        self._hosts = hosts

    def sw_interface_dump(self, message: Any) -> Iterable[Fields]:
        wanted = message.name_filter.lower() if message.name_filter_valid else ""
        only = message.sw_if_index
        for interface in self._machine.interfaces:
            if only not in {0, NO_INTERFACE, interface.index}:
                continue
            if wanted in interface.name.lower():
                yield details(interface)

    def sw_interface_set_flags(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        up = bool(int(message.flags) & ADMIN_UP)
        host = self._hosts.get(interface.index)
        if host is not None:
            host.set_host_up(up)
        if interface.kind in {"loopback", "bvi", "vxlan", "af_packet", "tap"}:
            interface.link_up = up
        self._machine.set_admin(interface, up=up)

    def sw_interface_set_mtu(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        interface.set_mtu(message.mtu)
        for version in FAMILIES:
            self._machine.family(version).invalidate()

    def hw_interface_set_mtu(self, message: Any) -> None:
        """Only a VXLAN tunnel and a link of the kernel's can (vnet_hw_interface_set_max_frame_size)."""
        interface = self._machine.interface(message.sw_if_index)
        if not interface.is_ethernet or interface.kind == "local":
            raise Refusal("FEATURE_DISABLED")
        host = self._hosts.get(interface.index)
        if host is None and interface.kind != "vxlan":
            raise Refusal("UNSUPPORTED")
        if host is not None and message.mtu != interface.link_mtu:
            host.set_host_mtu(message.mtu + 2 * FRAME_OVERHEAD)
        interface.link_mtu = message.mtu
        interface.set_mtu((message.mtu, *interface.mtu[1:]))
        for version in FAMILIES:
            self._machine.family(version).invalidate()

    def sw_interface_set_mac_address(self, message: Any) -> None:
        self._machine.set_mac(self._machine.interface(message.sw_if_index), mac_bytes(message.mac_address))

    def sw_interface_get_mac_address(self, message: Any) -> Fields:
        return {"mac_address": self._machine.interface(message.sw_if_index).mac}

    def sw_interface_tag_add_del(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        if message.is_add and not message.tag:
            raise Refusal("INVALID_VALUE")
        interface.tag = message.tag if message.is_add else ""

    def sw_interface_set_interface_name(self, message: Any) -> None:
        self._machine.interface(message.sw_if_index).name = message.name

    def sw_interface_set_promisc(self, message: Any) -> None:
        self._machine.interface(message.sw_if_index)

    def sw_interface_set_rx_mode(self, message: Any) -> None:
        self._machine.interface(message.sw_if_index).rx_mode = int(message.mode)

    # -- addresses --------------------------------------------------------------------------------------------------

    def sw_interface_add_del_address(self, message: Any) -> None:
        machine = self._machine
        interface = machine.interface(message.sw_if_index)
        if message.del_all:
            for version in FAMILIES:
                for present in list(interface.addresses(version)):
                    machine.remove_address(interface, version, present)
            return
        version, value, length = interface_parts(message.prefix)
        if message.is_add:
            machine.add_address(interface, version, InterfaceAddress(value, length))
        else:
            machine.remove_address(interface, version, InterfaceAddress(value, length))

    def sw_interface_ip6_enable_disable(self, message: Any) -> None:
        self._machine.set_ip6(self._machine.interface(message.sw_if_index), on=bool(message.enable))

    def ip_address_dump(self, message: Any) -> Iterable[Fields]:
        version = 6 if message.is_ipv6 else 4
        interface = self._machine.interfaces.get(message.sw_if_index)
        if interface is None:
            return
        for present in interface.addresses(version):
            prefix = interface_prefix(version, present.value, present.length)
            yield {"sw_if_index": interface.index, "prefix": prefix}

    def ip_dump(self, message: Any) -> Iterable[Fields]:
        return [{"sw_if_index": interface.index, "is_ipv6": message.is_ipv6} for interface in self._machine.interfaces]

    def sw_interface_set_unnumbered(self, message: Any) -> None:
        machine = self._machine
        borrower = machine.interface(message.unnumbered_sw_if_index)
        if not message.is_add:
            machine.set_unnumbered(borrower, None)
            return
        lender = machine.interface(message.sw_if_index, refusal="INVALID_SW_IF_INDEX_2")
        if borrower.fib4 is not lender.fib4 or borrower.fib6 is not lender.fib6:
            raise Refusal("UNEXPECTED_INTF_STATE")
        machine.set_unnumbered(borrower, lender)

    def ip_unnumbered_dump(self, message: Any) -> Iterable[Fields]:
        for interface in self._machine.interfaces:
            lender = interface.unnumbered
            if lender is not None and message.sw_if_index in {NO_INTERFACE, interface.index}:
                yield {"sw_if_index": interface.index, "ip_sw_if_index": lender.index}

    # -- tables -----------------------------------------------------------------------------------------------------

    def sw_interface_set_table(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        self._machine.bind(interface, 6 if message.is_ipv6 else 4, message.vrf_id)

    def sw_interface_get_table(self, message: Any) -> Fields:
        interface = self._machine.interface(message.sw_if_index)
        return {"vrf_id": interface.fib(6 if message.is_ipv6 else 4).table_id}

    # -- ARP proxy (vnet/arp/arp.api) -------------------------------------------------------------------------------

    def proxy_arp_add_del(self, message: Any) -> None:
        wanted = message.proxy
        table = self._machine.fib(4, wanted.table_id)
        proxied = ProxyRange(table.table_id, int(wanted.low), int(wanted.hi))
        ranges = self._machine.graph.arp.proxy_ranges
        if message.is_add:
            if proxied not in ranges:
                ranges.append(proxied)
        elif proxied in ranges:
            ranges.remove(proxied)
        else:
            raise Refusal("NO_SUCH_ENTRY")

    def proxy_arp_intfc_enable_disable(self, message: Any) -> None:
        self._machine.interface(message.sw_if_index).proxy_arp = bool(message.enable)

    def proxy_arp_intfc_dump(self, message: Any) -> Iterable[Fields]:
        return [{"sw_if_index": interface.index} for interface in self._machine.interfaces if interface.proxy_arp]

    def proxy_arp_dump(self, message: Any) -> Iterable[Fields]:
        for proxied in self._machine.graph.arp.proxy_ranges:
            low, high = address(4, proxied.low), address(4, proxied.high)
            yield {"proxy": {"table_id": proxied.table_id, "low": low, "hi": high}}


def details(interface: Interface) -> Fields:
    """What sw_interface_details says of an interface."""
    return {
        "sw_if_index": interface.index,
        "sup_sw_if_index": interface.index,
        "l2_address": interface.mac,
        "flags": int(interface.flags),
        "link_mtu": interface.link_mtu,
        "mtu": interface.mtu,
        "interface_name": interface.name,
        "interface_dev_type": interface.dev_type,
        "tag": interface.tag,
    }
