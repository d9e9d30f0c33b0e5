"""What a VPP is wanted to hold: one frozen value a kind of object, and the key under which it stands.

Renderers make these values, ``contiv.vpp.descriptors`` turn them into binary API calls. Interfaces are named by
logical names (at most ``NAME_MAX`` characters) that are also their tag in VPP, so that whose an object is, and
which, can be read back. ``requires`` lists keys of other objects, of Linux for example, that must exist first.
Terms are VPP's own: sw_if_index stays inside the descriptors, bd_id, bvi, shg, vni.
"""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.model.ip import Address, Network

NAME_MAX: Final = 15
"""Logical names double as Linux interface names: IFNAMSIZ - 1."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all desired values: frozen, compared field by field."""


class AfPacket(_Value, frozen=True, kw_only=True, tag=True):
    """An interface over a kernel link in VPP's own namespace, usually one end of a veth pair.

    ``mtu`` in bytes of layer 3; ``gso`` lets segments larger than the MTU pass (the peer must take them). VPP drops
    what does not fit into a ring: ``tx_frames`` bounds what it can send to the link at once, ``rx_frames`` what may
    wait for it. ``qdisc_bypass`` is quicker, and only for links that take large segments themselves: the kernel drops
    on that way what it would have to segment (net/core/dev.c, __dev_direct_xmit).
    """

    name: str
    host_if: str
    mac: str
    mtu: int
    gso: bool = True
    qdisc_bypass: bool = True
    rx_frames: int = 16
    tx_frames: int = 16
    requires: tuple[str, ...] = ()


class Tap(_Value, frozen=True, kw_only=True, tag=True):
    """A TAP whose host side VPP puts into ``netns`` (a path) as ``host_if``."""

    name: str
    host_if: str
    netns: str
    mac: str
    host_mac: str
    mtu: int
    gso: bool = True
    requires: tuple[str, ...] = ()


class Loopback(_Value, frozen=True, kw_only=True, tag=True):
    """A loopback; as bridge-domain member with ``bvi`` it is the domain's way into IP."""

    name: str
    instance: int
    mac: str
    mtu: int = 9000
    requires: tuple[str, ...] = ()


class VxlanTunnel(_Value, frozen=True, kw_only=True, tag=True):
    """A VXLAN tunnel (RFC 7348) whose inner frames are layer 2. ``vrf`` is that of the outer packets."""

    name: str
    instance: int
    vni: int
    source: Address
    destination: Address
    vrf: int = 0
    requires: tuple[str, ...] = ()


Interface = AfPacket | Tap | Loopback | VxlanTunnel


class AdminUp(_Value, frozen=True, kw_only=True):
    """The interface is up. ``requires`` names what must be in place before the first packet."""

    interface: str
    requires: tuple[str, ...] = ()


class InterfaceAddress(_Value, frozen=True, kw_only=True):
    """An address with its prefix length on an interface."""

    interface: str
    address: Network


class Unnumbered(_Value, frozen=True, kw_only=True):
    """An interface that borrows the addresses of another one."""

    interface: str
    lender: str


class Vrf(_Value, frozen=True, kw_only=True):
    """An IPv4 or IPv6 table beside the main one (0, which always exists)."""

    table_id: int
    version: int
    label: str


class InterfaceVrf(_Value, frozen=True, kw_only=True):
    """An interface's table; set before any address."""

    interface: str
    table_id: int
    version: int


class Route(_Value, frozen=True, kw_only=True):
    """A route with one path: by ``gateway``, by ``interface``, or both; neither means drop."""

    vrf: int
    destination: Network
    gateway: Address | None = None
    interface: str = ""


class Neighbour(_Value, frozen=True, kw_only=True):
    """A static entry of the neighbour table: ARP or neighbour discovery is not asked."""

    interface: str
    address: Address
    mac: str


class BridgeDomain(_Value, frozen=True, kw_only=True):
    """A layer 2 broadcast domain. No learning: the forwarding entries are all known."""

    bd_id: int
    label: str
    flood: bool = True
    unknown_unicast_flood: bool = True
    forward: bool = True
    learn: bool = False
    arp_term: bool = False


class BridgeMember(_Value, frozen=True, kw_only=True):
    """An interface in a bridge domain. Members of one split-horizon group (``shg`` > 0) never talk to each other."""

    bd_id: int
    interface: str
    bvi: bool = False
    shg: int = 0


class L2FibEntry(_Value, frozen=True, kw_only=True):
    """A static forwarding entry: frames to ``mac`` leave by ``interface``."""

    bd_id: int
    mac: str
    interface: str


INTERFACE: Final = "vpp/interface/"
ADMIN_UP: Final = "vpp/admin-up/"
ADDRESS: Final = "vpp/address/"
UNNUMBERED: Final = "vpp/unnumbered/"
VRF: Final = "vpp/vrf/"
INTERFACE_VRF: Final = "vpp/interface-vrf/"
ROUTE: Final = "vpp/route/"
NEIGHBOUR: Final = "vpp/neighbour/"
BRIDGE_DOMAIN: Final = "vpp/bridge-domain/"
BRIDGE_MEMBER: Final = "vpp/bridge-member/"
L2FIB: Final = "vpp/l2fib/"


def interface_key(name: str) -> str:
    """Key of an interface of whatever kind."""
    return f"{INTERFACE}{name}"


def admin_up_key(name: str) -> str:
    """Key of an interface's admin state."""
    return f"{ADMIN_UP}{name}"


def address_key(name: str, address: Network) -> str:
    """Key of one address of an interface."""
    return f"{ADDRESS}{name}/{address}"


def unnumbered_key(name: str) -> str:
    """Key of an interface's loan of another one's addresses."""
    return f"{UNNUMBERED}{name}"


def vrf_key(table_id: int, version: int) -> str:
    """Key of a VRF in one address family."""
    return f"{VRF}{table_id}/ip{version}"


def interface_vrf_key(name: str, version: int) -> str:
    """Key of an interface's table in one address family."""
    return f"{INTERFACE_VRF}{name}/ip{version}"


def route_key(vrf: int, destination: Network) -> str:
    """Key of a route: one destination has one route in a VRF."""
    return f"{ROUTE}{vrf}/{destination}"


def neighbour_key(name: str, address: Address) -> str:
    """Key of a static neighbour on an interface."""
    return f"{NEIGHBOUR}{name}/{address}"


def bridge_domain_key(bd_id: int) -> str:
    """Key of a bridge domain."""
    return f"{BRIDGE_DOMAIN}{bd_id}"


def bridge_member_key(name: str) -> str:
    """Key of an interface's membership: an interface is in one bridge domain at most."""
    return f"{BRIDGE_MEMBER}{name}"


def l2fib_key(bd_id: int, mac: str) -> str:
    """Key of a static forwarding entry."""
    return f"{L2FIB}{bd_id}/{mac}"


Value = (
    Interface
    | AdminUp
    | InterfaceAddress
    | Unnumbered
    | Vrf
    | InterfaceVrf
    | Route
    | Neighbour
    | BridgeDomain
    | BridgeMember
    | L2FibEntry
)


def entry(value: Value) -> tuple[str, Value]:
    """``value`` with the key that it stands under."""
    return key_of(value), value


def key_of(value: Value) -> str:
    """The key that ``value`` stands under."""
    match value:
        case AfPacket() | Tap() | Loopback() | VxlanTunnel():
            return interface_key(value.name)
        case AdminUp():
            return admin_up_key(value.interface)
        case InterfaceAddress():
            return address_key(value.interface, value.address)
        case Unnumbered():
            return unnumbered_key(value.interface)
        case Vrf():
            return vrf_key(value.table_id, value.version)
        case InterfaceVrf():
            return interface_vrf_key(value.interface, value.version)
        case Route():
            return route_key(value.vrf, value.destination)
        case Neighbour():
            return neighbour_key(value.interface, value.address)
        case BridgeDomain():
            return bridge_domain_key(value.bd_id)
        case BridgeMember():
            return bridge_member_key(value.interface)
        case L2FibEntry():
            return l2fib_key(value.bd_id, value.mac)
