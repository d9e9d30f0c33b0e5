"""What STN knows of a NIC: the record on disk, and what others are told of it. Frozen values, JSON."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from contiv.linux.snapshot import Snapshot
from contiv.model.ip import Address, Network


class Phase(StrEnum):
    """Where a theft is. Whatever is found in ``TAKING`` or ``RETURNING`` was interrupted and is given back."""

    TAKING = "taking"
    STOLEN = "stolen"
    RETURNING = "returning"


class PciDevice(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A NIC on the PCI bus: its address, the kernel's driver for it (``""``: none), and the one that VPP needs."""

    address: str
    kernel_driver: str
    vpp_driver: str


class Confirmation(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The VPP that was said to carry the node: its process, and when that began, since numbers are used again."""

    pid: int
    started: int


class Record(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A theft: all that giving back needs. ``boot`` is the kernel's boot ID: after a reboot the kernel has made its
    NIC anew, and there is nothing to give back. ``bridge`` is the link that keeps the kernel deaf on the NIC."""

    phase: Phase
    boot: str
    snapshot: Snapshot
    routes: tuple[StolenRoute, ...]
    vpp_socket: str
    bridge: str
    pci: PciDevice | None = None
    confirmed: Confirmation | None = None


class StolenRoute(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A route over the NIC, in words. ``gateway`` and ``source`` are empty where the route had none."""

    destination: str
    gateway: str = ""
    source: str = ""
    metric: int = 0


class NicInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the vswitch needs to know of a NIC to stand in for it. ``addresses`` with prefix length, main one first."""

    interface: str
    stolen: bool
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[StolenRoute, ...]
    pci_address: str = ""
    kernel_driver: str = ""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The addresses, parsed."""
        return tuple(Network.parse(text, strict=False) for text in self.addresses)

    @property
    def gateway(self) -> Address | None:
        """The router of the IPv4 default route, the cheapest one if there are several."""
        ways = [route for route in self.routes if route.destination == "0.0.0.0/0" and route.gateway]
        ways.sort(key=lambda route: route.metric)
        return Address.parse(ways[0].gateway) if ways else None
