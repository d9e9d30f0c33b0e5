"""Taking a NIC from the kernel, and giving it back. Synchronous; the process must be in the NIC's namespace.

Both directions are a fixed sequence of steps, each of which may be done again without harm. The record is on disk
before the first step, and gone after the last one of giving back, so a process that ends anywhere between leaves
behind enough to undo everything. ``checkpoint`` is called with the name of each step that is done.

A NIC that stays with the kernel (VPP opens it by af_packet) becomes the port of a bridge that is down: packet sockets
see every frame before the bridge drops it, so VPP receives and the kernel's own stack is deaf. Without that both would
answer, since the host has the same address elsewhere. A NIC on PCI is passed to another driver (``pci``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from contiv.linux import links, snapshot
from contiv.linux.links import Link
from contiv.linux.netlink import Conversation
from contiv.linux.snapshot import Snapshot
from contiv.model.ip import Address, Network
from contiv.stn.errors import StnError, StnRefusal
from contiv.stn.journal import Journal
from contiv.stn.model import Confirmation, NicInfo, PciDevice, Phase, Record, StolenRoute
from contiv.stn.pci import Bus

log = structlog.get_logger(__name__)

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
BRIDGE_PREFIX: Final = "stn"
MARK: Final = "stn"
STEPS_OF_TAKING: Final = ("recorded", "deafened", "stripped", "unbound", "stolen")
STEPS_OF_RETURNING: Final = ("returning", "bound", "hearing", "restored", "forgotten")


class Theft:
    """The NIC of one node: stolen or not, by its journal."""

    def __init__(
        self, journal: Journal, *, bus: Bus | None = None, checkpoint: Callable[[str], None] = lambda step: None
    ) -> None:
        self._journal = journal
        self._bus = bus or Bus()
        self._checkpoint = checkpoint
        self._boot = BOOT_ID.read_text().strip()

    def record(self) -> Record | None:
        """The theft that stands; None when the kernel has its NIC. One of an earlier boot is forgotten: the kernel
        made its NIC anew."""
        record = self._journal.read()
        if record is not None and record.boot != self._boot:
            log.info("forgetting the theft of an earlier boot", interface=record.snapshot.name)
            self._journal.remove()
            return None
        return record

    def look(self, interface: str) -> NicInfo:
        """What ``interface`` is now, or was before it was stolen. An empty name means the stolen NIC, else the one
        that the default route leaves by. StnError when it could not be stolen, with the reason."""
        record = self.record()
        if record is not None and interface in ("", record.snapshot.name):
            return info_of(record)
        with Conversation() as conversation:
            name = interface or _first(conversation)
            link = _takeable(conversation, name)
            routes = _routes(conversation, name)
            taken = snapshot.capture(conversation, link.name)
        return _info(taken, routes, stolen=False, pci=self._device(name, ""))

    def take(self, interface: str, *, vpp_socket: str, vpp_driver: str = "") -> NicInfo:
        """Steal ``interface`` (empty: as for ``look``); stolen already, nothing happens. ``vpp_driver`` passes a NIC on
        PCI to that driver, otherwise the kernel keeps it and VPP opens it by af_packet."""
        record = self.record()
        if record is not None:
            if interface not in ("", record.snapshot.name):
                raise StnRefusal(f"NIC {interface}: {record.snapshot.name} is stolen already; release that one first")
            if record.phase is Phase.STOLEN:
                return info_of(record)
            self.give_back()
        record = self._plan(interface, vpp_socket, vpp_driver)
        self._journal.write(record)
        self._checkpoint("recorded")
        try:
            self._take(record)
        except Exception:
            # nothing else would: an error is answered, and the node must not stay half without its NIC
            self.give_back()
            raise
        done = msgspec.structs.replace(record, phase=Phase.STOLEN)
        self._journal.write(done)
        self._checkpoint("stolen")
        log.info("NIC stolen", interface=record.snapshot.name)
        return info_of(done)

    def give_back(self) -> bool:
        """Give the kernel everything that it had; whether there was anything to give back."""
        record = self.record()
        if record is None:
            return False
        self._journal.write(msgspec.structs.replace(record, phase=Phase.RETURNING, confirmed=None))
        self._checkpoint("returning")
        name = record.snapshot.name
        if record.pci is not None:
            self._bus.hand_back(record.pci, name)
        self._checkpoint("bound")
        with Conversation() as conversation:
            bridge = links.find(conversation, record.bridge)
            if bridge is not None:
                conversation.run([links.remove(bridge.index, name=bridge.name)])
            self._checkpoint("hearing")
            snapshot.restore(conversation, record.snapshot)
        self._checkpoint("restored")
        self._journal.remove()
        self._checkpoint("forgotten")
        log.info("NIC given back", interface=name)
        return True

    def confirm(self, confirmation: Confirmation) -> None:
        """Record which VPP carries the node. StnRefusal when nothing is stolen."""
        record = self.record()
        if record is None or record.phase is not Phase.STOLEN:
            raise StnRefusal("no NIC is stolen; steal it first")
        self._journal.write(msgspec.structs.replace(record, confirmed=confirmation))

    def _plan(self, interface: str, vpp_socket: str, vpp_driver: str) -> Record:
        with Conversation() as conversation:
            name = interface or _first(conversation)
            link = _takeable(conversation, name)
            return Record(
                phase=Phase.TAKING,
                boot=self._boot,
                snapshot=snapshot.capture(conversation, name),
                routes=_routes(conversation, name),
                vpp_socket=vpp_socket,
                bridge=f"{BRIDGE_PREFIX}{link.index}",
                pci=self._device(name, vpp_driver) if vpp_driver else None,
            )

    def _device(self, name: str, vpp_driver: str) -> PciDevice | None:
        address = self._bus.address_of(name)
        if not address:
            if vpp_driver:
                raise StnError(f"NIC {name}: on no PCI bus; leave nicDriver empty, so that VPP opens it by af_packet")
            return None
        return PciDevice(address=address, kernel_driver=self._bus.driver(address), vpp_driver=vpp_driver)

    def _take(self, record: Record) -> None:
        with Conversation() as conversation:
            if record.pci is None:
                _deafen(conversation, record)
            self._checkpoint("deafened")
            snapshot.strip(conversation, record.snapshot)
        self._checkpoint("stripped")
        if record.pci is not None:
            self._bus.hand_over(record.pci)
        self._checkpoint("unbound")


def info_of(record: Record) -> NicInfo:
    """What others are told of a theft."""
    return _info(record.snapshot, record.routes, stolen=record.phase is Phase.STOLEN, pci=record.pci)


def _info(taken: Snapshot, routes: tuple[StolenRoute, ...], *, stolen: bool, pci: PciDevice | None) -> NicInfo:
    addresses = [
        Network(6 if version == 6 else 4, int.from_bytes(value, "big"), length)
        for version, value, length in snapshot.readable(taken)
    ]
    return NicInfo(
        interface=taken.name,
        stolen=stolen,
        mac=taken.mac,
        mtu=taken.mtu,
        addresses=tuple(str(address) for address in _main_first(addresses, routes)),
        routes=routes,
        pci_address="" if pci is None else pci.address,
        kernel_driver="" if pci is None else pci.kernel_driver,
    )


def _main_first(addresses: list[Network], routes: tuple[StolenRoute, ...]) -> list[Network]:
    """IPv4 before IPv6, and in front the address beside the cheapest router: what others know the node by. The kernel
    lists addresses by scope and age, which says nothing of that."""
    ways = sorted((route.metric, route.gateway) for route in routes if route.gateway and ":" not in route.gateway)
    router = Address.parse(ways[0][1]) if ways else None

    def rank(address: Network) -> tuple[bool, bool, bool]:
        beside = address.version == 4 and router is not None and router in address
        return (not beside, address.version != 4, address.version == 4 and address.length == 32)

    return sorted(addresses, key=rank)


def _deafen(conversation: Conversation, record: Record) -> None:
    conversation.run([links.create_bridge(record.bridge, mtu=record.snapshot.mtu)])
    bridge = links.find(conversation, record.bridge)
    if bridge is None:
        raise StnError(f"bridge {record.bridge}: gone right after it was made; who removes links here?")
    alias = links.with_owner("", f"{MARK}/{record.snapshot.name}")
    conversation.run(
        [
            links.set_alias(bridge.index, alias, name=bridge.name),
            links.set_master(record.snapshot.index, bridge.index, name=record.snapshot.name),
        ]
    )


def _takeable(conversation: Conversation, name: str) -> Link:
    """The link, if it can be stolen; StnError with the reason where it cannot."""
    link = links.find(conversation, name)
    if link is None:
        raise StnError(f"NIC {name}: the kernel has no such link; name one that 'ip link' shows")
    if link.master:
        master = next((each.name for each in links.every(conversation) if each.index == link.master), "another link")
        raise StnError(f"NIC {name}: bound to {master} already; steal that one, or take the NIC out of it")
    if not link.up:
        raise StnError(f"NIC {name}: it is down; bring it up and give it its address first")
    if not any(version == 4 for version, _, _ in snapshot.readable(snapshot.capture(conversation, name))):
        raise StnError(f"NIC {name}: it has no IPv4 address for VPP to take over; configure it in Linux first")
    return link


def _first(conversation: Conversation) -> str:
    """The link that the IPv4 default route leaves by, the cheapest if there are several."""
    found = [
        (route.metric, link.name)
        for link in links.every(conversation)
        for route in snapshot.plain_routes(conversation, link.name)
        if route.version == 4 and route.length == 0 and route.gateway is not None
    ]
    if not found:
        raise StnError("stealFirstNIC: no link has a default route with a gateway; name the NIC in stealInterface")
    return min(found)[1]


def _routes(conversation: Conversation, name: str) -> tuple[StolenRoute, ...]:
    def text(version: int, value: bytes | None) -> str:
        return "" if value is None else str(Address(6 if version == 6 else 4, int.from_bytes(value, "big")))

    return tuple(
        StolenRoute(
            destination=f"{text(route.version, route.destination)}/{route.length}",
            gateway=text(route.version, route.gateway),
            source=text(route.version, route.source),
            metric=route.metric,
        )
        for route in snapshot.plain_routes(conversation, name)
    )
