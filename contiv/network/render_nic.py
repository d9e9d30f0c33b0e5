"""The node's NICs: how VPP opens them, their addresses and ways out, and the host's share of a stolen one. Pure.

VPP opens a NIC of the kernel's by af_packet or AF_XDP, a NIC on PCI through DPDK, which startup.conf has given to it
already. Its address is static or leased by VPP's own DHCP client. A *stolen* NIC was the host's own way to the world:
the host keeps its addresses, on its end of the interconnect and without a subnet, and routes what it routed over the
NIC to VPP; VPP has the same address and hands (punts) to the host whatever it has no use for itself::

    the world ─ uplink(192.0.2.7/24) VPP vpp2 ─ vpp1(192.0.2.7/32) host
"""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.model import linux, vpp
from contiv.model.ip import Address, Network

UPLINK: Final = "uplink"
OTHER_PREFIX: Final = "nic"
MTU: Final = 1500
TX_FRAMES: Final = 256
"""What VPP handles at once (VLIB_FRAME_SIZE), so that no burst is cut short."""
RX_FRAMES: Final = 1024
"""What may wait while VPP is busy elsewhere: 70 MB, once a node."""
DEFAULT_ROUTE: Final = Network(4, 0, 0)

Desired = dict[str, object]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A route that a stolen NIC had: where to, by which router (None: on its link), from which address, how dear."""

    destination: Network
    gateway: Address | None = None
    source: Address | None = None
    metric: int = 0


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """A NIC as VPP opens it. ``name`` is its logical name, ``host_if`` the kernel's, or its PCI address (``is_pci``):
    then VPP's own driver has it if it is a virtio device (``is_virtio``), else DPDK. A kernel's link it opens by
    AF_XDP (``by_xdp``) or af_packet.

    ``address`` is None as long as no DHCP server has leased one (``dhcp``).
    """

    name: str = UPLINK
    host_if: str
    mac: str
    address: Network | None = None
    mtu: int = MTU
    is_pci: bool = False
    is_virtio: bool = False
    by_xdp: bool = False
    dhcp: bool = False


class Uplink(Nic, frozen=True, kw_only=True):
    """The main NIC, which other nodes know this one by.

    ``shared`` are the addresses of a stolen NIC, which the host keeps, and ``ways`` the routes it had; empty for a
    NIC that was VPP's from the beginning. The first of ``shared`` is ``address``.
    """

    gateway: Address | None = None
    shared: tuple[Network, ...] = ()
    ways: tuple[Way, ...] = ()


def logical_name(number: int) -> str:
    """The logical name of another NIC, counted from 1."""
    return f"{OTHER_PREFIX}{number}"


def render(nic: Nic) -> Desired:
    """The NIC itself: opened, addressed, up."""
    interface: vpp.Interface
    if nic.is_virtio:
        interface = vpp.VirtioPci(name=nic.name, pci_address=nic.host_if, mtu=nic.mtu)
    elif nic.is_pci:
        interface = vpp.Dpdk(name=nic.name, mtu=nic.mtu)
    elif nic.by_xdp:
        # VPP does not set the link up, and some drivers give no queue before
        up_first = (linux.interface_key(nic.name),)
        interface = vpp.AfXdp(name=nic.name, host_if=nic.host_if, mac=nic.mac, mtu=nic.mtu, requires=up_first)
    else:
        # Large segments may leave by it as they are, inside VXLAN none ever comes (render_node). Whether the NIC
        # can segment is unknown, so the kernel must be able to help: no qdisc bypass.
        interface = vpp.AfPacket(
            name=nic.name,
            host_if=nic.host_if,
            mac=nic.mac,
            mtu=nic.mtu,
            qdisc_bypass=False,
            rx_frames=RX_FRAMES,
            tx_frames=TX_FRAMES,
        )
    values: list[vpp.Value] = [interface, vpp.AdminUp(interface=nic.name)]
    if nic.dhcp:
        values.append(vpp.DhcpClient(interface=nic.name))
    elif nic.address is not None:
        values.append(vpp.InterfaceAddress(interface=nic.name, address=nic.address))
    desired: Desired = dict(vpp.entry(value) for value in values)
    if not nic.is_pci:
        # the kernel's side: no IPv6 of its own on a NIC that is VPP's
        after = () if nic.by_xdp else (vpp.interface_key(nic.name),)
        kernel_side = linux.Interface(logical=nic.name, name=nic.host_if, requires=after)
        desired[linux.interface_key(nic.name)] = kernel_side
    return desired


def render_uplink(uplink: Uplink, *, host: Address, host_interface: str) -> Desired:
    """The main NIC with its ways out. ``host`` is the host's address on the interconnect ``host_interface``."""
    desired = render(uplink)
    values: list[vpp.Value] = []
    # a leased address has a default route of the server's choice, which VPP's client sets by itself
    if uplink.gateway is not None and not uplink.dhcp:
        values.append(vpp.Route(vrf=0, destination=DEFAULT_ROUTE, gateway=uplink.gateway, interface=uplink.name))
    values += [
        vpp.Route(vrf=0, destination=way.destination, gateway=way.gateway, interface=uplink.name)
        for way in uplink.ways
        if way.gateway is not None and way.destination.version == 4 and way.destination != DEFAULT_ROUTE
    ]
    values += [
        vpp.InterfaceAddress(interface=uplink.name, address=address)
        for address in uplink.shared
        if address.version == 4 and address != uplink.address
    ]
    if uplink.shared:
        values.append(vpp.PuntRedirect(gateway=host, interface=host_interface))
    return desired | dict(vpp.entry(value) for value in values)


def address_keys(nic: Nic) -> tuple[str, ...]:
    """The keys without which the NIC has no address: what uses the address depends on them."""
    if nic.dhcp:
        return (vpp.dhcp_client_key(nic.name),)
    return () if nic.address is None else (vpp.address_key(nic.name, nic.address),)


def host_addresses(uplink: Uplink | None) -> tuple[Network, ...]:
    """What the host keeps of a stolen NIC's addresses: each alone, its subnet is VPP's now."""
    if uplink is None:
        return ()
    return tuple(address.address.host_network for address in uplink.shared if address.version == 4)


def host_routes(uplink: Uplink | None, *, gateway: Address) -> tuple[linux.Route, ...]:
    """The routes of a stolen NIC as the host keeps them: the same destinations, all by VPP's end ``gateway``."""
    if uplink is None or not uplink.shared:
        return ()
    own = next((address.address for address in uplink.shared if address.version == 4), None)
    found: dict[tuple[Network, int], linux.Route] = {}
    for way in uplink.ways:
        if way.destination.version == 4:
            found.setdefault(
                (way.destination, way.metric),
                linux.Route(destination=way.destination, gateway=gateway, source=way.source or own, metric=way.metric),
            )
    return tuple(found.values())
