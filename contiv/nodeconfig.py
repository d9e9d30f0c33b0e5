"""What one node has of its own: its NICs, whether one of them is stolen from the kernel, its way out.

The sections are those of the original: ``nodeConfig`` in the file, and the ``NodeConfig`` resource, which ``overlay``
puts over it. ``resolve`` puts a node's section over the cluster-wide keys with the original's precedence and gives
``Nics``, in which nothing is left to decide. What needs a look at the machine (does the NIC exist, is it free) is
``contiv.agent.nics``'s. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from contiv.errors import ConfigError
from contiv.model.ip import Address, Network

LINK_NAME_MAX: Final = 15
"""IFNAMSIZ - 1 (net/if.h)."""
PCI_ADDRESS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]")
"""Domain, bus, device and function, as below /sys/bus/pci/devices."""
FINGERPRINT_LENGTH: Final = 16
INTERCONNECT: Final = "ipamConfig.nodeInterconnectCIDR"
LinkDriver = Literal["af_packet", "af_xdp"]
"""What VPP opens NICs by that stay with the kernel. One for all of a node's: what it means for segments that are larger
than the MTU holds for the whole node (docs/decisions/af-xdp.md)."""


class _Section(
    msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """What all sections share: camelCase, unknown keys refused, absent ones left out when written."""


class Interface(_Section, frozen=True, kw_only=True):
    """A NIC of the data plane. ``interface_name`` is the kernel's name of it, which VPP opens by the node's link
    driver, or a PCI address, which DPDK drives. Without ``ip`` (address with prefix length) the main one's follows from
    the node ID."""

    interface_name: str = ""
    ip: str = ""
    use_dhcp: bool = msgspec.field(default=False, name="useDHCP")

    @property
    def is_pci(self) -> bool:
        """Whether the NIC is named by its place on the PCI bus."""
        return PCI_ADDRESS.fullmatch(self.interface_name) is not None


class NodeConfigSpec(_Section, frozen=True, kw_only=True):
    """What one node has of its own. An absent key leaves the one below in force: the file's, the cluster-wide one."""

    main_vpp_interface: Interface = msgspec.field(default=Interface(), name="mainVPPInterface")
    other_vpp_interfaces: tuple[Interface, ...] = msgspec.field(default=(), name="otherVPPInterfaces")
    steal_interface: str = ""
    gateway: str = ""
    nat_external_traffic: bool | None = None
    link_driver: LinkDriver | None = None


class NodeConfig(NodeConfigSpec, frozen=True, kw_only=True):
    """The same with the node's name: a section of the file, a resource in etcd."""

    node_name: str


def fingerprint(resource: NodeConfig) -> str:
    """What tells two resources apart, in few characters: who reflects one and who applies it mean the same."""
    return hashlib.sha256(msgspec.json.encode(resource, order="deterministic")).hexdigest()[:FINGERPRINT_LENGTH]


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster-wide keys that a node's section stands before."""

    dhcp: bool
    gateway: str
    steal_interface: str
    nat_external: bool
    link_driver: LinkDriver


class Nics(msgspec.Struct, frozen=True, kw_only=True):
    """A node's NICs, decided. ``steal`` is the kernel's name of the NIC that is taken from it, ``""`` for none; then it
    is ``main`` too, and keeps the address that it has."""

    main: Interface
    others: tuple[Interface, ...]
    steal: str
    gateway: str
    nat_external: bool
    link_driver: LinkDriver

    @property
    def by_xdp(self) -> bool:
        """Whether VPP opens NICs of the node's by AF_XDP."""
        return self.link_driver == "af_xdp" and not all(nic.is_pci for nic in (self.main, *self.others))


def overlay(resource: NodeConfig, section: NodeConfig) -> NodeConfig:
    """``resource`` over the file's ``section`` of the same node, key by key.

    Two pairs of keys are one choice each, which the resource makes whole or not at all: what names the main NIC
    (``interfaceName``, ``stealInterface``) and what gives its address (``ip``, ``useDHCP``; a stolen NIC brings one).
    """
    upper, lower = resource.main_vpp_interface, section.main_vpp_interface
    names = resource if resource.steal_interface or upper.interface_name else section
    addresses = upper if resource.steal_interface or upper.ip or upper.use_dhcp else lower
    nat = resource.nat_external_traffic
    return NodeConfig(
        node_name=section.node_name,
        main_vpp_interface=Interface(
            interface_name=names.main_vpp_interface.interface_name, ip=addresses.ip, use_dhcp=addresses.use_dhcp
        ),
        other_vpp_interfaces=resource.other_vpp_interfaces or section.other_vpp_interfaces,
        steal_interface=names.steal_interface,
        gateway=resource.gateway or section.gateway,
        nat_external_traffic=section.nat_external_traffic if nat is None else nat,
        link_driver=resource.link_driver or section.link_driver,
    )


def resolve(node: NodeConfig, defaults: Defaults) -> Nics:
    """``node``'s NICs. A key of the node wins over the cluster-wide one; a NIC to steal is the main one."""
    steal = node.steal_interface or defaults.steal_interface
    main = node.main_vpp_interface
    if steal and not main.interface_name:
        main = msgspec.structs.replace(main, interface_name=steal)
    # a main interface named explicitly means that this node has a second NIC and nothing to steal
    if main.interface_name != steal:
        steal = ""
    return Nics(
        main=msgspec.structs.replace(main, use_dhcp=main.use_dhcp or (defaults.dhcp and not main.ip and not steal)),
        others=node.other_vpp_interfaces,
        steal=steal,
        gateway=node.gateway or defaults.gateway,
        nat_external=defaults.nat_external if node.nat_external_traffic is None else node.nat_external_traffic,
        link_driver=node.link_driver or defaults.link_driver,
    )


def check(sections: tuple[NodeConfig, ...], networks: Mapping[str, Network], defaults: Defaults) -> None:
    """Refuse what cannot be meant, by key and value. ``networks`` are the cluster's subnets by dotted key."""
    names: set[str] = set()
    holders: dict[Address, str] = {}
    for number, section in enumerate(sections):
        path = f"nodeConfig[{number}]"
        if not section.node_name or section.node_name in names:
            raise ConfigError(
                f"{path}.nodeName", section.node_name, "empty or given twice", remedy="one section per node name"
            )
        names.add(section.node_name)
        check_section(path, section, networks=networks, holders=holders, defaults=defaults)
        if section.main_vpp_interface.ip:
            holders[Network.parse(section.main_vpp_interface.ip, strict=False).address] = section.node_name


def check_section(
    path: str,
    section: NodeConfig,
    *,
    networks: Mapping[str, Network],
    holders: Mapping[Address, str],
    defaults: Defaults,
) -> None:
    """Refuse what one section, which stands at ``path``, cannot mean. ``holders``: which node has which address."""
    _check_steal(path, section)
    _check_others(path, section, networks)
    _check_main(path, section, networks=networks, holders=holders, defaults=defaults)


def _check_steal(path: str, section: NodeConfig) -> None:
    main, steal = section.main_vpp_interface, section.steal_interface
    if not steal:
        return
    _check_name(f"{path}.stealInterface", steal)
    if PCI_ADDRESS.fullmatch(steal):
        raise ConfigError(
            f"{path}.stealInterface", steal, "is a PCI address", remedy="write the kernel's name of the NIC"
        )
    if main.interface_name not in ("", steal):
        raise ConfigError(
            f"{path}.mainVPPInterface.interfaceName",
            main.interface_name,
            f"is not the NIC to steal, {steal}",
            remedy="name the NIC that is to be stolen in stealInterface alone",
        )
    if main.ip:
        raise ConfigError(
            f"{path}.mainVPPInterface.ip",
            main.ip,
            f"{steal} is stolen and keeps its own address",
            remedy="remove the key; change the address in Linux before VPP takes the NIC",
        )


def _check_main(
    path: str,
    section: NodeConfig,
    *,
    networks: Mapping[str, Network],
    holders: Mapping[Address, str],
    defaults: Defaults,
) -> None:
    nics = resolve(section, defaults)
    main, key = nics.main, f"{path}.mainVPPInterface"
    _check_name(f"{key}.interfaceName", main.interface_name)
    _check_dhcp(key, section.main_vpp_interface)
    uplink = networks[INTERCONNECT]
    if main.ip:
        uplink = _check_address(f"{key}.ip", main.ip, networks)
        if uplink.address in holders:
            raise ConfigError(
                f"{key}.ip",
                str(uplink),
                f"is the address of {holders[uplink.address]} too",
                remedy="give each node its own",
            )
    known = not nics.steal and not main.use_dhcp
    if section.gateway:
        check_gateway(f"{path}.gateway", section.gateway, uplink if known else None)


def _check_others(path: str, section: NodeConfig, networks: Mapping[str, Network]) -> None:
    seen = {section.main_vpp_interface.interface_name or section.steal_interface}
    for number, other in enumerate(section.other_vpp_interfaces):
        key = f"{path}.otherVPPInterfaces[{number}]"
        if not other.interface_name or other.interface_name in seen:
            raise ConfigError(
                f"{key}.interfaceName", other.interface_name, "empty or given twice", remedy="name each NIC once"
            )
        seen.add(other.interface_name)
        _check_name(f"{key}.interfaceName", other.interface_name)
        _check_dhcp(key, other)
        if other.ip:
            _check_address(f"{key}.ip", other.ip, networks)


def _check_name(key: str, name: str) -> None:
    if PCI_ADDRESS.fullmatch(name):
        return
    if len(name) > LINK_NAME_MAX or "/" in name or " " in name or ":" in name:
        raise ConfigError(
            key,
            name,
            "cannot be the name of a link",
            remedy=f"write the kernel's name, at most {LINK_NAME_MAX} characters, or a PCI address as 0000:00:08.0",
        )


def _check_dhcp(key: str, interface: Interface) -> None:
    if interface.use_dhcp and interface.ip:
        raise ConfigError(
            f"{key}.ip", interface.ip, f"means nothing beside {key}.useDHCP", remedy="keep one of the two keys"
        )


def _check_address(key: str, text: str, networks: Mapping[str, Network]) -> Network:
    """An address that a NIC is given. Where it lies is the operator's affair, as long as nothing else of ours lies
    there: nodes may be a router apart."""
    remedy = "write an address with its prefix length, as in 192.168.16.1/24"
    try:
        address = Network.parse(text, strict=False)
    except ValueError as error:
        raise ConfigError(key, text, str(error), remedy=remedy) from error
    host = address.value & ~address.mask
    if address.version != 4:
        raise ConfigError(key, text, "not an IPv4 address", remedy=remedy)
    if "/" not in text:
        raise ConfigError(key, text, "has no prefix length", remedy=remedy)
    if address.size > 2 and host in (0, address.size - 1):
        raise ConfigError(key, text, "is the address of a network or of all its hosts", remedy=remedy)
    for other_key, other in networks.items():
        if other_key != INTERCONNECT and address.address in other:
            raise ConfigError(key, text, f"lies in {other_key} = {other}", remedy="choose an address outside")
    return address


def check_gateway(key: str, text: str, uplink: Network | None) -> Address:
    """The gateway in ``text``; ConfigError when it is none, or ``uplink`` (None: not known yet) does not hold it."""
    try:
        gateway = Address.parse(text)
    except ValueError as error:
        raise ConfigError(key, text, str(error), remedy="write one address, as 192.168.16.254") from error
    if uplink is not None and gateway not in uplink:
        raise ConfigError(
            key, text, f"cannot be reached from {uplink}", remedy=f"choose an address in {uplink.network}"
        )
    return gateway
