"""Bridge domains, their ports and forwarding entries (vnet/l2/l2.api)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contiv.emulator.vpp.bridge import BD_ID_MAX, Bridge, MacEntry, PortType
from contiv.emulator.vpp.handlers.convert import mac_bytes
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.machine import Machine


class L2Handlers:
    """Handlers about bridging."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._bridges = machine.graph.bridges

    def bridge_domain_add_del_v2(self, message: Any) -> Fields:
        bd_id = message.bd_id
        if bd_id == NO_INTERFACE and message.is_add:
            bd_id = self._bridges.unused_id()
        if bd_id == 0:
            raise Refusal("BD_ALREADY_EXISTS" if message.is_add else "BD_NOT_MODIFIABLE")
        present = self._bridges.get(bd_id)
        if not message.is_add:
            if present is None:
                raise Refusal("NO_SUCH_ENTRY")
            if present.ports or present.uu_fwd is not None:
                raise Refusal("BD_IN_USE")
            self._bridges.remove(present)
            return {"bd_id": bd_id}
        if present is not None:
            raise Refusal("BD_ALREADY_EXISTS")
        if bd_id > BD_ID_MAX:
            raise Refusal("BD_ID_EXCEED_MAX")
        self._bridges.add(
            Bridge(
                bd_id, flood=bool(message.flood), uu_flood=bool(message.uu_flood), forward=bool(message.forward),
                learn=bool(message.learn), arp_term=bool(message.arp_term), arp_ufwd=bool(message.arp_ufwd),
                mac_age=message.mac_age, tag=message.bd_tag,
            )
        )  # fmt: skip
        return {"bd_id": bd_id}

    def bridge_domain_dump(self, message: Any) -> Iterable[Fields]:
        if message.sw_if_index != NO_INTERFACE:
            return
        for bridge in self._bridges:
            if message.bd_id in {NO_INTERFACE, bridge.bd_id}:
                ports = [{"sw_if_index": port.interface.index, "shg": port.shg} for port in bridge.ports]
                yield {
                    "bd_id": bridge.bd_id, "flood": bridge.flood, "uu_flood": bridge.uu_flood,
                    "forward": bridge.forward, "learn": bridge.learn, "arp_term": bridge.arp_term,
                    "arp_ufwd": bridge.arp_ufwd, "mac_age": bridge.mac_age, "bd_tag": bridge.tag,
                    "bvi_sw_if_index": _index(bridge.bvi), "uu_fwd_sw_if_index": _index(bridge.uu_fwd),
                    "n_sw_ifs": len(ports), "sw_if_details": ports,
                }  # fmt: skip

    def sw_interface_set_l2_bridge(self, message: Any) -> None:
        interface = self._machine.interface(message.rx_sw_if_index)
        if not message.enable:
            if interface.l2 is not None:
                interface.l2.bridge.detach(interface)
            return
        if int(message.port_type) > PortType.UU_FWD:
            raise Refusal("INVALID_VALUE")
        port_type = PortType(int(message.port_type))
        bridge = self._bridges.get(message.bd_id)
        if bridge is None:
            bridge = self._implied(message.bd_id)
        if port_type is PortType.BVI and bridge.bvi not in {None, interface}:
            raise Refusal("BD_ALREADY_HAS_BVI")
        if interface.l2 is not None:
            interface.l2.bridge.detach(interface)
        bridge.attach(interface, shg=message.shg, port_type=port_type)

    def _implied(self, bd_id: int) -> Bridge:
        """VPP makes a bridge domain that a port asks for (bd_find_or_add_bd_index)."""
        if not 0 < bd_id <= BD_ID_MAX:
            raise Refusal("BD_ID_EXCEED_MAX")
        bridge = Bridge(
            bd_id,
            flood=True,
            uu_flood=True,
            forward=True,
            learn=True,
            arp_term=False,
            arp_ufwd=False,
            mac_age=0,
            tag="",
        )
        self._bridges.add(bridge)
        return bridge

    def bridge_flags(self, message: Any) -> Fields:
        bridge = self._bridges.get(message.bd_id)
        if bridge is None:
            raise Refusal("NO_SUCH_ENTRY")
        flags, on = int(message.flags), bool(message.is_set)
        for bit, name in ((1, "learn"), (2, "forward"), (4, "flood"), (8, "uu_flood"), (16, "arp_term")):
            if flags & bit:
                setattr(bridge, name, on)
        return {"resulting_feature_bitmap": 0}

    def l2fib_add_del(self, message: Any) -> None:
        bridge = self._bridges.get(message.bd_id)
        if bridge is None:
            raise Refusal("NO_SUCH_ENTRY")
        mac = mac_bytes(message.mac)
        if not message.is_add:
            entry = bridge.macs.get(mac)
            if entry is None or message.sw_if_index not in {0, _index(entry.interface)}:
                raise Refusal("NO_SUCH_ENTRY")
            bridge.forget(mac)
            return
        interface = None
        if not message.filter_mac:
            interface = self._machine.interface(message.sw_if_index)
            if interface.l2 is None:  # a port of another bridge domain will do
                raise Refusal("INVALID_SW_IF_INDEX")
        bridge.forget(mac)
        static = bool(message.static_mac or message.filter_mac or message.bvi_mac)
        bridge.macs[mac] = MacEntry(
            interface, static=static, filter=bool(message.filter_mac), bvi=bool(message.bvi_mac)
        )

    def l2_fib_table_dump(self, message: Any) -> Iterable[Fields]:
        for bridge in self._bridges:
            if message.bd_id not in {NO_INTERFACE, bridge.bd_id}:
                continue
            for mac, entry in sorted(bridge.macs.items()):
                yield {
                    "bd_id": bridge.bd_id, "mac": mac, "sw_if_index": _index(entry.interface),
                    "static_mac": entry.static, "filter_mac": entry.filter, "bvi_mac": entry.bvi,
                }  # fmt: skip

    def l2fib_flush_bd(self, message: Any) -> None:
        bridge = self._bridges.get(message.bd_id)
        if bridge is None:
            raise Refusal("NO_SUCH_ENTRY")
        for mac in [mac for mac, entry in bridge.macs.items() if entry.learned]:
            bridge.forget(mac)


def _index(interface: Interface | None) -> int:
    return NO_INTERFACE if interface is None else interface.index
