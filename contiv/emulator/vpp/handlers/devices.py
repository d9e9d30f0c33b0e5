"""Interfaces made and deleted: loopbacks, BVIs, af_packet, TAP, VXLAN (each plugin's or vnet's own api file).

Devices with a descriptor are announced to the loop by ``watch`` and ``unwatch``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from contiv.emulator.vpp.devices.af_packet import AfPacketDevice
from contiv.emulator.vpp.devices.tap import HostSide, TapDevice
from contiv.emulator.vpp.handlers.convert import address, interface_prefix, mac_bytes
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.refusal import Refusal
from contiv.emulator.vpp.vxlan import Tunnel, TunnelKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.machine import Machine
    from contiv.emulator.vpp.packet import Node, Packet

AF_PACKET_BYPASS, AF_PACKET_GSO = 1, 2  # af_packet.api
TAP_GSO, TAP_CSUM = 1, 2  # tapv2.api
L2_INPUT_NEXT: Final = 1
"""How vxlan_tunnel_v2_details shows a decapsulation into a bridge domain (vxlan.h, VXLAN_INPUT_NEXT_L2_INPUT)."""
INSTANCES_MAX: Final = 16 * 1024
"""Numbers of loopbacks and tunnels (ethernet/interface.c, LOOPBACK_MAX_INSTANCE; vxlan.c, VXLAN_MAX_INSTANCE)."""

Device = AfPacketDevice | TapDevice


class DeviceHandlers:
    """Handlers that make and delete interfaces."""

    def __init__(self, machine: Machine, *, watch: Callable[[Device], None], unwatch: Callable[[Device], None]) -> None:
        self._machine = machine
        self._watch = watch
        self._unwatch = unwatch
        self._instances: dict[int, int] = {}
        self.hosts: dict[int, AfPacketDevice] = {}
        self._taps: dict[int, TapDevice] = {}

    def close(self) -> None:
        """Close every device, at the end of the process."""
        devices: list[Device] = [*self.hosts.values(), *self._taps.values()]
        for device in devices:
            self._unwatch(device)
            device.close()

    # -- loopbacks and BVIs -----------------------------------------------------------------------------------------

    def create_loopback(self, message: Any) -> Fields:
        return self._loopback("loop", mac_bytes(message.mac_address), wanted=None)

    def create_loopback_instance(self, message: Any) -> Fields:
        wanted = message.user_instance if message.is_specified else None
        return self._loopback("loop", mac_bytes(message.mac_address), wanted=wanted)

    def bvi_create(self, message: Any) -> Fields:
        wanted = None if message.user_instance == NO_INTERFACE else message.user_instance
        return self._loopback("bvi", mac_bytes(message.mac), wanted=wanted)

    def delete_loopback(self, message: Any) -> None:
        self._delete_numbered(message.sw_if_index, kind="loopback")

    def bvi_delete(self, message: Any) -> None:
        self._delete_numbered(message.sw_if_index, kind="bvi")

    def _loopback(self, prefix: str, mac: bytes, *, wanted: int | None) -> Fields:
        kind = "loopback" if prefix == "loop" else "bvi"
        if wanted is not None and wanted >= INSTANCES_MAX:
            raise Refusal("INVALID_REGISTRATION")
        instance = self._machine.interfaces.take_instance(kind, wanted)
        if instance is None:
            raise Refusal("INVALID_REGISTRATION")
        first = b"\xde\xad\0\0" if prefix == "loop" else b"\xb0\xb0\0\0"
        interface = self._machine.add_interface(
            f"{prefix}{instance}", kind=kind, dev_type="Loopback" if prefix == "loop" else "BVI",
            mac=mac if any(mac) else first + instance.to_bytes(2, "big"),
            transmit=self._machine.graph.l2.bvi_output,
        )  # fmt: skip
        interface.can_csum = interface.can_gso = True  # what a BVI sends is finished where it leaves the bridge
        self._instances[interface.index] = instance
        return {"sw_if_index": interface.index}

    def _delete_numbered(self, sw_if_index: int, *, kind: str) -> None:
        interface = self._of_kind(sw_if_index, kind)
        self._machine.remove_interface(interface)
        self._machine.interfaces.free_instance(kind, self._instances.pop(sw_if_index))

    def _of_kind(self, sw_if_index: int, kind: str) -> Interface:
        interface = self._machine.interface(sw_if_index)
        if interface.kind != kind:
            raise Refusal("INVALID_SW_IF_INDEX")
        return interface

    # -- af_packet --------------------------------------------------------------------------------------------------

    def af_packet_create_v3(self, message: Any) -> Fields:
        name = message.host_if_name
        if any(device.host_if == name for device in self.hosts.values()):
            raise Refusal("IF_ALREADY_EXISTS")
        flags = int(message.flags)
        device = AfPacketDevice(
            self._machine.graph, name, offload=bool(flags & AF_PACKET_GSO), qdisc_bypass=bool(flags & AF_PACKET_BYPASS)
        )
        mac = random_mac() if message.use_random_hw_addr else mac_bytes(message.hw_addr)
        interface = self._machine.add_interface(
            f"host-{name}", kind="af_packet", dev_type="af-packet", mac=mac, transmit=device.transmit
        )
        interface.can_csum = interface.can_gso = device.offload
        interface.link_up = True
        device.interface = interface
        self.hosts[interface.index] = device
        self._watch(device)
        return {"sw_if_index": interface.index}

    def af_packet_delete(self, message: Any) -> None:
        for index, device in self.hosts.items():
            if device.host_if == message.host_if_name:
                self._unwatch(device)
                device.close()
                del self.hosts[index]
                self._machine.remove_interface(device.interface)
                return
        raise Refusal("SYSCALL_ERROR_1")

    def af_packet_dump(self, message: Any) -> Iterable[Fields]:
        return [{"sw_if_index": index, "host_if_name": device.host_if} for index, device in sorted(self.hosts.items())]

    # -- TAP --------------------------------------------------------------------------------------------------------

    def tap_create_v3(self, message: Any) -> Fields:
        wanted = None if message.id == NO_INTERFACE else message.id
        instance = self._machine.interfaces.take_instance("tap", wanted)
        if instance is None:
            raise Refusal("INVALID_ARGUMENT")
        flags = int(message.tap_flags)
        host = HostSide(
            name=message.host_if_name if message.host_if_name_set else f"tap{instance}",
            mac=str(message.host_mac_addr) if message.host_mac_addr_set else "",
            mtu=message.host_mtu_size if message.host_mtu_set else 0,
            namespace=message.host_namespace if message.host_namespace_set else "",
            bridge=message.host_bridge if message.host_bridge_set else "",
        )
        gso, csum = bool(flags & TAP_GSO), bool(flags & TAP_CSUM)
        try:
            device = TapDevice(self._machine.graph, host, number=instance, gso=gso, csum=csum)
        except BaseException:
            self._machine.interfaces.free_instance("tap", instance)
            raise
        mac = random_mac() if message.use_random_mac else mac_bytes(message.mac_address)
        interface = self._machine.add_interface(
            f"tap{instance}", kind="tap", dev_type="virtio", mac=mac, transmit=device.transmit
        )
        interface.can_gso = gso
        interface.can_csum = csum or gso
        interface.link_up = True
        interface.tag = message.tag
        device.interface = interface
        self._instances[interface.index] = instance
        self._taps[interface.index] = device
        device.flags = flags
        self._watch(device)
        return {"sw_if_index": interface.index}

    def tap_delete_v2(self, message: Any) -> None:
        interface = self._of_kind(message.sw_if_index, "tap")
        device = self._taps.pop(interface.index)
        self._unwatch(device)
        device.close()
        self._delete_numbered(interface.index, kind="tap")

    def sw_interface_tap_v2_dump(self, message: Any) -> Iterable[Fields]:
        for index, device in sorted(self._taps.items()):
            if message.sw_if_index not in {NO_INTERFACE, index}:
                continue
            host = device.host
            yield {
                "sw_if_index": index, "id": self._instances[index], "tx_ring_sz": 256, "rx_ring_sz": 256,
                "host_mtu_size": host.mtu, "host_mac_addr": host.mac or bytes(6), "tap_flags": device.flags,
                "host_ip4_prefix": interface_prefix(4, 0, 0), "host_ip6_prefix": interface_prefix(6, 0, 0),
                "dev_name": device.interface.name, "host_if_name": host.name, "host_namespace": host.namespace,
                "host_bridge": host.bridge,
            }  # fmt: skip

    # -- VXLAN ------------------------------------------------------------------------------------------------------

    def vxlan_add_del_tunnel_v3(self, message: Any) -> Fields:
        source, destination = message.src_address, message.dst_address
        fib = self._machine.family(source.version).tables.get(message.encap_vrf_id)
        if fib is None:
            raise Refusal("NO_SUCH_FIB")
        if source.version != destination.version:
            raise Refusal("INVALID_VALUE")
        if source == destination:
            raise Refusal("SAME_SRC_DST")
        if destination.is_multicast:
            self._machine.interface(message.mcast_sw_if_index)
        if source.version != 4 or destination.is_multicast:
            raise Refusal("UNSUPPORTED")
        key = TunnelKey(fib.table_id, int(source), int(destination), message.src_port or 4789, message.vni)
        present = self._machine.graph.vxlan.find(key)
        if not message.is_add:
            return {"sw_if_index": self._delete_tunnel(present)}
        if present is not None:
            raise Refusal("TUNNEL_EXIST")
        decap_next = L2_INPUT_NEXT if message.decap_next_index == NO_INTERFACE else message.decap_next_index
        if decap_next > L2_INPUT_NEXT:
            raise Refusal("INVALID_DECAP_NEXT")
        interface, instance = self._tunnel_interface(message.instance, is_l3=bool(message.is_l3))
        tunnel = Tunnel(
            interface=interface, instance=instance, source=key.local, destination=key.remote, source_port=key.port,
            destination_port=message.dst_port or 4789, fib=fib, vni=key.vni, decap_next=decap_next,
            is_l3=bool(message.is_l3), mcast_sw_if_index=message.mcast_sw_if_index,
        )  # fmt: skip
        fib.bound += 1
        self._machine.graph.vxlan.add(tunnel)
        return {"sw_if_index": interface.index}

    def _tunnel_interface(self, wanted: int, *, is_l3: bool) -> tuple[Interface, int]:
        """An interface for a tunnel, with its number. One for layer 3 alone has no link address and names no MTU."""
        if wanted != NO_INTERFACE and wanted >= INSTANCES_MAX:
            raise Refusal("INSTANCE_IN_USE")
        instance = self._machine.interfaces.take_instance("vxlan", None if wanted == NO_INTERFACE else wanted)
        if instance is None:
            raise Refusal("INSTANCE_IN_USE")
        interface = self._machine.add_interface(
            f"vxlan_tunnel{instance}", kind="vxlan", dev_type="VXLAN", mac=bytes(6) if is_l3 else random_mac(),
            transmit=self._nowhere, up=True,
        )  # fmt: skip
        if is_l3:
            interface.is_ethernet = False
            interface.link_mtu = 0
            interface.mtu = [0, 0, 0, 0]
        self._instances[interface.index] = instance
        return interface, instance

    def vxlan_tunnel_v2_dump(self, message: Any) -> Iterable[Fields]:
        for tunnel in self._machine.graph.vxlan.tunnels():
            if message.sw_if_index in {NO_INTERFACE, tunnel.interface.index}:
                yield {
                    "sw_if_index": tunnel.interface.index, "instance": tunnel.instance,
                    "src_address": address(4, tunnel.source), "dst_address": address(4, tunnel.destination),
                    "src_port": tunnel.source_port, "dst_port": tunnel.destination_port,
                    "mcast_sw_if_index": tunnel.mcast_sw_if_index, "encap_vrf_id": tunnel.fib.table_id,
                    "decap_next_index": tunnel.decap_next, "vni": tunnel.vni,
                }  # fmt: skip

    def _delete_tunnel(self, tunnel: Tunnel | None) -> int:
        if tunnel is None:
            raise Refusal("NO_SUCH_ENTRY")
        index = tunnel.interface.index
        self._machine.graph.vxlan.remove(tunnel)
        tunnel.fib.bound -= 1
        self._delete_numbered(index, kind="vxlan")
        return index

    def _nowhere(self, packet: Packet) -> Node | None:
        self._machine.graph.errors.drop(packet, "vxlan4-encap", "no such tunnel packets")
        return None


def random_mac() -> bytes:
    """A link address as VPP makes them up: 02:fe and four random bytes (ethernet/mac_address.h)."""
    return b"\x02\xfe" + os.urandom(4)
