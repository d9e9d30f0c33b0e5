"""Which NICs this node's VPP has: what the configuration names, looked up in the kernel and at the STN daemon.

In: the node's resolved configuration. Out: ``Chosen``, from which the network capability renders. Refused, with key,
value and remedy, before anything is changed: a NIC that does not exist, that carries the host's default route and is
not to be stolen, that belongs to another link, a PCI address without a device, an MTU that does not fit, a gateway
outside of the NIC's subnet.
"""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.config import VXLAN_OVERHEAD, Config
from contiv.errors import ConfigError
from contiv.linux import links, snapshot
from contiv.linux.netlink import Conversation
from contiv.linux.netns import OWN, Workers
from contiv.model.ip import Address, Network
from contiv.model.vpp import AF_XDP_MTU_MAX
from contiv.network.render_nic import UPLINK, Nic, Uplink, Way, logical_name
from contiv.nodeconfig import Interface, Nics, check_gateway
from contiv.stn.client import StnClient
from contiv.stn.model import NicInfo
from contiv.vpp.lifecycle import is_virtio, require_pci

MAIN: Final = "nodeConfig.mainVPPInterface"
GATEWAY: Final = "nodeConfig.gateway"


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The node's NICs. ``stolen`` is the STN daemon's word on the main one, None where the kernel keeps nothing.

    ``uplink`` has no address where that follows from the node's ID or a DHCP server gives it.
    """

    uplink: Uplink | None
    others: tuple[Nic, ...]
    stolen: NicInfo | None = None

    def claimed(self) -> str | None:
        """The address that the node's claim shows; None where it follows from the ID."""
        if self.uplink is None:
            return None
        if self.uplink.address is not None:
            return str(self.uplink.address)
        return "" if self.uplink.dhcp else None


async def choose(config: Config, node: str, workers: Workers) -> Chosen:
    """Look the node's NICs up; ConfigError for one that cannot be VPP's, StnError when the daemon refuses."""
    nics = config.nics(node)
    others = []
    for number, other in enumerate(nics.others, start=1):
        key = f"nodeConfig.otherVPPInterfaces[{number - 1}]"
        others.append(await _nic(key, logical_name(number), other, by_xdp=nics.by_xdp, config=config, workers=workers))
    if nics.steal or (config.steal_first_nic and not nics.main.interface_name):
        info = await StnClient(config.stn_socket_file).info(nics.steal)
        return Chosen(uplink=stolen_uplink(info, nics, config), others=tuple(others), stolen=info)
    if not nics.main.interface_name:
        return Chosen(uplink=None, others=tuple(others))
    main = await _nic(MAIN, UPLINK, nics.main, by_xdp=nics.by_xdp, config=config, workers=workers)
    _check_mtu(config, main.host_if, main.mtu)
    gateway = Address.parse(nics.gateway) if nics.gateway else None
    if gateway is not None and main.address is not None:
        check_gateway(GATEWAY, nics.gateway, main.address)
    uplink = Uplink(gateway=gateway, **{field: getattr(main, field) for field in main.__struct_fields__})
    return Chosen(uplink=uplink, others=tuple(others))


def stolen_uplink(info: NicInfo, nics: Nics, config: Config) -> Uplink:
    """The main NIC as VPP takes it over from the kernel: same MAC address, same addresses, same routes."""
    _check_mtu(config, info.interface, info.mtu)
    shared = tuple(network for network in info.networks if network.version == 4)
    if nics.gateway:
        check_gateway(GATEWAY, nics.gateway, shared[0])
    driven = bool(config.vpp.nic_driver)
    if nics.by_xdp and not driven:
        _check_xdp_mtu(info.interface, info.mtu)
    return Uplink(
        host_if=info.pci_address if driven else info.interface,
        is_pci=driven,
        is_virtio=driven and is_virtio(info.pci_address),
        by_xdp=nics.by_xdp and not driven,
        mac=info.mac,
        mtu=info.mtu,
        address=shared[0],
        gateway=Address.parse(nics.gateway) if nics.gateway else info.gateway,
        shared=shared,
        ways=tuple(
            Way(
                destination=Network.parse(route.destination),
                gateway=Address.parse(route.gateway) if route.gateway else None,
                source=Address.parse(route.source) if route.source else None,
                metric=route.metric,
            )
            for route in info.routes
        ),
    )


async def _nic(key: str, name: str, wanted: Interface, *, by_xdp: bool, config: Config, workers: Workers) -> Nic:
    address = Network.parse(wanted.ip, strict=False) if wanted.ip else None
    if wanted.is_pci:
        require_pci(f"{key}.interfaceName", wanted.interface_name)
        return Nic(
            name=name,
            host_if=wanted.interface_name,
            is_pci=True,
            is_virtio=is_virtio(wanted.interface_name),
            mac="",
            mtu=config.mtu_size + VXLAN_OVERHEAD,
            address=address,
            dhcp=wanted.use_dhcp,
        )
    link = await workers.inside(OWN, lambda: _look(f"{key}.interfaceName", wanted.interface_name))
    if by_xdp:
        _check_xdp_mtu(link.name, link.mtu)
    return Nic(
        name=name,
        host_if=link.name,
        by_xdp=by_xdp,
        mac=link.mac,
        mtu=link.mtu,
        address=address,
        dhcp=wanted.use_dhcp,
    )


def _look(key: str, name: str) -> links.Link:
    with Conversation() as conversation:
        link = links.find(conversation, name)
        if link is None:
            raise ConfigError(key, name, "there is no such link", remedy="name a kernel link")
        if link.master:
            every = links.every(conversation)
            master = next((each.name for each in every if each.index == link.master), "another link")
            raise ConfigError(
                key, name, f"bound to {master} already", remedy=f"take it out of {master}, or name another"
            )
        for route in snapshot.plain_routes(conversation, name):
            if route.version == 4 and route.length == 0:
                raise ConfigError(
                    key,
                    name,
                    "carries this host's default route, which would be lost",
                    remedy=f"set stealInterface: {name} and start 'contiv stn', or name another NIC",
                )
    return link


def _check_xdp_mtu(name: str, mtu: int) -> None:
    if mtu > AF_XDP_MTU_MAX:
        raise ConfigError(
            "linkDriver",
            "af_xdp",
            f"{name} has an MTU of {mtu}, larger frames than fit into VPP's buffers by AF_XDP",
            remedy=f"set the link's MTU to at most {AF_XDP_MTU_MAX}, or linkDriver: af_packet",
        )


def _check_mtu(config: Config, name: str, mtu: int) -> None:
    overhead = 0 if config.node_to_node_transport == "nooverlay" else VXLAN_OVERHEAD
    if config.mtu_size + overhead > mtu:
        around = f"with {overhead} bytes of VXLAN around it " if overhead else ""
        raise ConfigError(
            "mtuSize",
            config.mtu_size,
            f"{around}does not fit into {name}'s MTU of {mtu}",
            remedy=f"choose at most {mtu - overhead}, or raise the link's MTU",
        )
