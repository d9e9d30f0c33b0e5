"""What a VPP is wanted to hold: one frozen value a kind of object, and the key under which it stands.

Renderers make these values, ``contiv.vpp.descriptors`` turn them into binary API calls. Interfaces are named by
logical names (at most ``NAME_MAX`` characters) that are also their tag in VPP, so that whose an object is, and
which, can be read back. ``requires`` lists keys of other objects, of Linux for example, that must exist first.
Terms are VPP's own: sw_if_index stays inside the descriptors, bd_id, bvi, shg, vni.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from contiv.model.ip import Address, Network

NAME_MAX: Final = 15
"""Logical names double as Linux interface names: IFNAMSIZ - 1."""
AF_XDP_MTU_MAX: Final = 1774
"""A VPP buffer has 2,304 bytes; of these VPP's header and XDP's headroom take 256 each, Ethernet and a VLAN tag 18."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all desired values: frozen, compared field by field."""


class AfPacket(_Value, frozen=True, kw_only=True, tag=True):
    """An interface over a kernel link in VPP's own namespace, usually one end of a veth pair.

    ``mtu`` in bytes of layer 3; ``gso`` lets segments larger than the MTU pass (the peer must take them) and leaves
    checksums to who is last. ``large`` off keeps the latter alone: the rings have room for single frames, larger ones
    of the link are dropped, and VPP must hold none to send. VPP drops what does not fit into a ring: ``tx_frames``
    bounds what it can send to the link at once, ``rx_frames`` what may wait for it. ``qdisc_bypass`` is quicker, and
    only for links that take large segments themselves: the kernel drops on that way what it would have to segment
    (net/core/dev.c, __dev_direct_xmit).
    """

    name: str
    host_if: str
    mac: str
    mtu: int
    gso: bool = True
    large: bool = True
    qdisc_bypass: bool = True
    rx_frames: int = 16
    tx_frames: int = 16
    requires: tuple[str, ...] = ()


class AfXdp(_Value, frozen=True, kw_only=True, tag=True):
    """An interface over a kernel link in VPP's own namespace, by AF_XDP sockets on all of the link's queues.

    Frames are no larger than the link's MTU either way: it must at most be ``AF_XDP_MTU_MAX``, and nobody may hand VPP
    segments to send by it that are larger.
    """

    name: str
    host_if: str
    mac: str
    mtu: int
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


class Dpdk(_Value, frozen=True, kw_only=True, tag=True):
    """A NIC that VPP drives itself: startup.conf names its PCI address and calls it ``name``. Nobody else makes it; its
    MAC address is its own."""

    name: str
    mtu: int
    requires: tuple[str, ...] = ()


class VirtioPci(_Value, frozen=True, kw_only=True, tag=True):
    """A virtio NIC that VPP's own driver has, by its PCI address (``0000:00:03.0``). Its MAC address is its own."""

    name: str
    pci_address: str
    mtu: int
    requires: tuple[str, ...] = ()


Interface = AfPacket | AfXdp | Tap | Loopback | VxlanTunnel | Dpdk | VirtioPci


class AdminUp(_Value, frozen=True, kw_only=True):
    """The interface is up. ``requires`` names what must be in place before the first packet."""

    interface: str
    requires: tuple[str, ...] = ()


class InterfaceAddress(_Value, frozen=True, kw_only=True):
    """An address with its prefix length on an interface."""

    interface: str
    address: Network


class DhcpClient(_Value, frozen=True, kw_only=True):
    """VPP's DHCP client runs on the interface; the address, and the default route, are what the server says."""

    interface: str


class PuntRedirect(_Value, frozen=True, kw_only=True):
    """IPv4 packets for VPP's own addresses that nothing in VPP takes go on to ``gateway`` by ``interface``, from
    whichever interface they came: TCP, and UDP to ports without a listener."""

    gateway: Address
    interface: str


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


class Diversion(_Value, frozen=True, kw_only=True):
    """IPv4 packets that enter by the interface are looked up in table ``table_id``, while the interface itself, its
    neighbours and NAT's sessions stay in its own table."""

    interface: str
    table_id: int


class Route(_Value, frozen=True, kw_only=True):
    """A route with one path: by ``gateway``, by ``interface``, or both; neither means drop.

    With neither, ``reject``: whoever sends there is told by ICMP that the destination is unreachable; ``main``: the
    main table (0) says where to.
    """

    vrf: int
    destination: Network
    gateway: Address | None = None
    interface: str = ""
    reject: bool = False
    main: bool = False


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


ACL_RULE_SIZE: Final = 48
"""Bytes of one ``vl_api_acl_rule_t`` on the wire (plugins/acl/acl_types.api)."""


class Acl(_Value, frozen=True, kw_only=True):
    """An access list, named by what it says: ``name`` is the fingerprint of ``rules``.

    ``rules`` are ``vl_api_acl_rule_t`` records in wire layout, ``ACL_RULE_SIZE`` bytes each, in order; the first that
    matches decides. ``contiv.fastpath.acl.Table`` makes and reads them.
    """

    name: str
    rules: bytes


class AclInterface(_Value, frozen=True, kw_only=True):
    """The access lists of one interface by name, in order; both empty: the interface is open.

    Packets that no rule of a non-empty side matches are dropped.
    """

    interface: str
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()


NAT_LOCAL_SIZE: Final = 11
"""Bytes of one ``vl_api_nat44_lb_addr_port_t`` on the wire (plugins/nat/nat44-ed/nat44_ed.api)."""
NAT_WEIGHT_MAX: Final = 255
"""Most that the weights of one mapping may sum up to, and so the most backends that it may have: VPP adds the weights
up in 8 bits (nat44_ed.h, nat44_lb_addr_port_t), and a sum that wraps to 0 is a division by zero."""
NAT_BACKENDS_MAX: Final = 254
"""Most backends of one mapping: VPP counts them in 8 bits (nat44_ed_api.c, unformat_nat44_lb_addr_port), and its
descriptor needs one for itself."""


class NatSettings(_Value, frozen=True, kw_only=True):
    """NAT44-ED is on, with forwarding of what no mapping matches. Timeouts in seconds; ``sessions`` per thread."""

    sessions: int
    udp_s: int
    tcp_established_s: int
    tcp_transitory_s: int
    icmp_s: int


class NatInterface(_Value, frozen=True, kw_only=True):
    """NAT44-ED's features on an interface. ``output``: what leaves by it gets a pool address (source NAT), and replies
    that come in by it are translated back, unless it is ``one_way``.

    ``classified``: what comes in by an interface that is inside is looked at as if it were outside, too. It is not:
    VPP keeps a FIB entry for each mapping on each outside interface, and finds them by a linear search."""

    interface: str
    inside: bool = False
    outside: bool = False
    classified: bool = False
    output: bool = False
    one_way: bool = False


class NatAddress(_Value, frozen=True, kw_only=True):
    """An address that NAT44-ED translates sources to: of the pool, or (``twice``) of twice-NAT."""

    address: Address
    twice: bool = False


class NatMapping(_Value, frozen=True, kw_only=True):
    """A load-balancing static mapping, out2in-only: connections to ``address``, ``port`` go to one of ``backends``.

    ``protocol`` is IP's number. ``backends`` are ``vl_api_nat44_lb_addr_port_t`` records in wire layout,
    ``NAT_LOCAL_SIZE`` bytes each (address, port, weight, VRF), sorted, never empty, at most ``NAT_BACKENDS_MAX``, with
    weights that sum up to 1 at least and ``NAT_WEIGHT_MAX`` at most; those of weight 0 keep the connections that they
    have and get no new ones. ``affinity_s`` is how long
    a client keeps its backend, 0 for not at all. ``hide_client``: the backend sees the twice-NAT address always
    (twice-NAT), else only where it is its own client (self-twice-NAT). ``label`` says whose it is, for dumps.
    """

    address: Address
    port: int
    protocol: int
    backends: bytes
    affinity_s: int = 0
    hide_client: bool = False
    label: str = ""


class NatIdentity(_Value, frozen=True, kw_only=True):
    """What is addressed to ``address``, ``port`` is never translated. Protocol and port 0: all of the address."""

    address: Address
    protocol: int = 0
    port: int = 0


PREFIX: Final = "vpp/"
"""Of everything that VPP holds."""
INTERFACE: Final = "vpp/interface/"
ADMIN_UP: Final = "vpp/admin-up/"
ADDRESS: Final = "vpp/address/"
UNNUMBERED: Final = "vpp/unnumbered/"
DHCP_CLIENT: Final = "vpp/dhcp-client/"
PUNT_REDIRECT: Final = "vpp/punt-redirect/"
VRF: Final = "vpp/vrf/"
INTERFACE_VRF: Final = "vpp/interface-vrf/"
DIVERSION: Final = "vpp/diversion/"
ROUTE: Final = "vpp/route/"
NEIGHBOUR: Final = "vpp/neighbour/"
BRIDGE_DOMAIN: Final = "vpp/bridge-domain/"
BRIDGE_MEMBER: Final = "vpp/bridge-member/"
L2FIB: Final = "vpp/l2fib/"
ACL: Final = "vpp/acl/"
ACL_INTERFACE: Final = "vpp/acl-interface/"
NAT_SETTINGS: Final = "vpp/nat-settings/"
NAT_INTERFACE: Final = "vpp/nat-interface/"
NAT_ADDRESS: Final = "vpp/nat-address/"
NAT_MAPPING: Final = "vpp/nat-mapping/"
NAT_IDENTITY: Final = "vpp/nat-identity/"


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


def dhcp_client_key(name: str) -> str:
    """Key of an interface's DHCP client."""
    return f"{DHCP_CLIENT}{name}"


def punt_redirect_key() -> str:
    """Key of the way to the host for what VPP does not take: there is one."""
    return f"{PUNT_REDIRECT}ip4"


def vrf_key(table_id: int, version: int) -> str:
    """Key of a VRF in one address family."""
    return f"{VRF}{table_id}/ip{version}"


def interface_vrf_key(name: str, version: int) -> str:
    """Key of an interface's table in one address family."""
    return f"{INTERFACE_VRF}{name}/ip{version}"


def diversion_key(name: str) -> str:
    """Key of where an interface's packets are looked up instead of its own table."""
    return f"{DIVERSION}{name}"


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


def acl_key(name: str) -> str:
    """Key of an access list."""
    return f"{ACL}{name}"


def acl_interface_key(interface: str) -> str:
    """Key of an interface's access lists."""
    return f"{ACL_INTERFACE}{interface}"


def nat_settings_key() -> str:
    """Key of NAT44-ED itself: there is one."""
    return f"{NAT_SETTINGS}nat44-ed"


def nat_interface_key(interface: str) -> str:
    """Key of an interface's NAT features."""
    return f"{NAT_INTERFACE}{interface}"


def nat_address_key(address: Address, *, twice: bool) -> str:
    """Key of an address that sources are translated to."""
    return f"{NAT_ADDRESS}{'twice' if twice else 'pool'}/{address}"


def nat_mapping_key(address: Address, port: int, protocol: int) -> str:
    """Key of a mapping: an address, port and protocol have one."""
    return f"{NAT_MAPPING}{protocol}/{address}/{port}"


def nat_identity_key(address: Address, port: int, protocol: int) -> str:
    """Key of an exemption from translation."""
    return f"{NAT_IDENTITY}{protocol}/{address}/{port}"


Value = (
    Interface
    | AdminUp
    | InterfaceAddress
    | Unnumbered
    | DhcpClient
    | PuntRedirect
    | Vrf
    | InterfaceVrf
    | Diversion
    | Route
    | Neighbour
    | BridgeDomain
    | BridgeMember
    | L2FibEntry
    | Acl
    | AclInterface
    | NatSettings
    | NatInterface
    | NatAddress
    | NatMapping
    | NatIdentity
)


def entry(value: Value) -> tuple[str, Value]:
    """``value`` with the key that it stands under."""
    return key_of(value), value


_KEY_OF: Final[dict[type[_Value], Callable[[Any], str]]] = {
    AfPacket: lambda v: interface_key(v.name),
    AfXdp: lambda v: interface_key(v.name),
    Tap: lambda v: interface_key(v.name),
    Loopback: lambda v: interface_key(v.name),
    VxlanTunnel: lambda v: interface_key(v.name),
    Dpdk: lambda v: interface_key(v.name),
    VirtioPci: lambda v: interface_key(v.name),
    AdminUp: lambda v: admin_up_key(v.interface),
    InterfaceAddress: lambda v: address_key(v.interface, v.address),
    Unnumbered: lambda v: unnumbered_key(v.interface),
    DhcpClient: lambda v: dhcp_client_key(v.interface),
    PuntRedirect: lambda v: punt_redirect_key(),
    Vrf: lambda v: vrf_key(v.table_id, v.version),
    InterfaceVrf: lambda v: interface_vrf_key(v.interface, v.version),
    Diversion: lambda v: diversion_key(v.interface),
    Route: lambda v: route_key(v.vrf, v.destination),
    Neighbour: lambda v: neighbour_key(v.interface, v.address),
    BridgeDomain: lambda v: bridge_domain_key(v.bd_id),
    BridgeMember: lambda v: bridge_member_key(v.interface),
    L2FibEntry: lambda v: l2fib_key(v.bd_id, v.mac),
    Acl: lambda v: acl_key(v.name),
    AclInterface: lambda v: acl_interface_key(v.interface),
    NatSettings: lambda v: nat_settings_key(),
    NatInterface: lambda v: nat_interface_key(v.interface),
    NatAddress: lambda v: nat_address_key(v.address, twice=v.twice),
    NatMapping: lambda v: nat_mapping_key(v.address, v.port, v.protocol),
    NatIdentity: lambda v: nat_identity_key(v.address, v.port, v.protocol),
}


def key_of(value: Value) -> str:
    """The key that ``value`` stands under."""
    return _KEY_OF[type(value)](value)
