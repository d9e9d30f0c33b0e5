"""Where the service capability meets the rest of an agent: what the node is to it, and what ``netctl services`` asks.

In: the live ``NetworkState``, the configuration, a connection to VPP. Out: the capability's handler and descriptors
for the composition root, and the route ``/contiv/v1/services``: frontends, faults and, with ``?sessions``, what is
translated at that moment. Sessions are read in bounded numbers: VPP stops forwarding while it lists them. Descriptors
are those of both kinds of translation: what an agent with another ``serviceRenderer`` left in VPP goes with the first
resync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from contiv.agent import cnat
from contiv.config import Config
from contiv.controller import Event
from contiv.errors import VppError
from contiv.linux.ports import Ranges, source_ports
from contiv.model.ip import Address
from contiv.network.render_host import HOST_VPP
from contiv.network.render_nic import UPLINK
from contiv.network.render_node import BVI
from contiv.network.state import NetworkState
from contiv.service.frontends import PROTOCOLS, Kept, NodeView, speaking
from contiv.service.handler import ServiceHandler
from contiv.service.health import HealthServers
from contiv.service.render_cnat import CnatRenderer
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.renderer import Options, Renderer
from contiv.service.state import ServiceState
from contiv.vpp import Vpp
from contiv.vpp.descriptors import Interfaces, cnat_descriptors, nat_descriptors

MINUTE_S: Final = 60
TWICE_NAT: Final = 0x01
"""``vl_api_nat_config_flags_t`` (plugins/nat/lib/nat_types.api)."""
NAMES: Final = {1: "ICMP", 6: "TCP", 17: "UDP"}
TCP: Final = PROTOCOLS["TCP"]
UDP: Final = PROTOCOLS["UDP"]
DHCP_PORT: Final = 68
"""RFC 2131 section 4.1."""


def options_of(config: Config) -> Options:
    """What the configuration decides about services."""
    return Options(
        local_weight=config.service_local_endpoint_weight,
        tcp_session_s=config.tcp_nat_session_timeout * MINUTE_S,
        other_session_s=config.other_nat_session_timeout * MINUTE_S,
    )


def renderer_of(config: Config) -> Renderer:
    """What translates services."""
    options = options_of(config)
    return CnatRenderer(options) if config.service_renderer == "cnat" else Nat44Renderer(options)


def node_view(network: NetworkState, *, rest_listen: str = "", ephemeral: Ranges = ()) -> NodeView:
    """The node as services see it now: a NIC's address may come late and change.

    ``rest_listen`` as in the configuration; ``ephemeral``: the ports that the host's own connections come from.

    Where the uplink itself is not the interface that translates sources (``contiv.network.render_out``), replies to
    what was translated come in by it.
    """
    node, subnets, nics = network.node, network.subnets, network.nics
    uplinks = (network.uplink, *nics) if network.uplink is not None else nics
    leased = [nic.address.address for nic in uplinks if nic.address is not None]
    uplink = network.uplink.address if network.uplink is not None else None
    snat = network.snat_interface
    names = (HOST_VPP, *network.node_interfaces, *(nic.name for nic in uplinks))
    own = [*leased, node.host_linux.address, node.host_vpp.address]
    if BVI in network.node_interfaces:
        own.append(node.vxlan.address)
    return NodeView(
        name=network.me.name,
        uplink=None if uplink is None else uplink.address,
        interfaces=tuple(dict.fromkeys(name for name in names if name != snat)),
        outside=(UPLINK,) if snat not in (None, UPLINK) else (),
        snat_interface=snat,
        own_addresses=tuple(dict.fromkeys(own)),
        kept=(*_listening(network, rest_listen), *speaking(_speakers(network), ephemeral)),
        host=node.host_linux.address,
        hidden=node.nat_loopback,
        pods=subnets.pods,
        own_pods=node.pod_subnet,
        hosts=subnets.hosts,
        services=subnets.services,
        vxlan=subnets.vxlan,
        interconnect=subnets.interconnect,
    )


def _listening(network: NetworkState, rest_listen: str) -> Iterator[Kept]:
    """What is answered behind the node's addresses though no object in Kubernetes says so."""
    nics = (network.uplink, *network.nics) if network.uplink is not None else network.nics
    for nic in nics:
        if nic.dhcp and nic.address is not None:
            use = "is VPP's DHCP client"
            yield Kept(protocols=(UDP,), address=nic.address.address, first=DHCP_PORT, last=DHCP_PORT, use=use)
    listening, _, number = rest_listen.rpartition(":")
    for address in _host_addresses(network):
        if number.isdecimal() and listening in ("", "0.0.0.0", str(address)):
            port = int(number)
            yield Kept(protocols=(TCP,), address=address, first=port, last=port, use="is the agent's own (restListen)")


def _host_addresses(network: NetworkState) -> tuple[Address, ...]:
    """The addresses that the host itself has: its end of the interconnect, and those of a stolen NIC."""
    shared = [each.address for each in network.uplink.shared] if network.uplink is not None else []
    return (network.node.host_linux.address, *shared)


def _speakers(network: NetworkState) -> tuple[Address, ...]:
    """The host's addresses that replies to its own connections may come to without a session: it has one of what
    leaves by the uplink, where NAT translates that."""
    own = _host_addresses(network)
    return own[:1] if network.snat_interface == UPLINK else own


class Services:
    """The parts of the capability, wired; the route reads what agent and VPP hold at that moment."""

    def __init__(
        self, config: Config, network: NetworkState, vpp: Vpp, interfaces: Interfaces, push: Callable[[Event], None]
    ) -> None:
        view = partial(node_view, network, rest_listen=config.rest_listen, ephemeral=source_ports())
        self.descriptors = (*nat_descriptors(vpp, interfaces), *cnat_descriptors(vpp, interfaces))
        self._health = HealthServers()
        self._vpp = vpp
        self._sessions = cnat.sessions if config.service_renderer == "cnat" else sessions
        self._state = ServiceState(view(), renderer_of(config))
        self.handler = ServiceHandler(
            self._state, view=view, interfaces=lambda: network.pod_interfaces, health=self._health, push=push
        )

    def routes(self) -> list[web.RouteDef]:
        """The one route."""
        return [web.get("/contiv/v1/services", self.services)]

    async def close(self) -> None:
        """Answer no health checks any more."""
        await self._health.close()

    async def services(self, request: web.Request) -> web.Response:
        """Frontends with their backends, faults, and with ``sessions`` in the query the live translations."""
        told: dict[str, Any] = {"frontends": self._state.services(), "faults": self._state.faults()}
        if "sessions" in request.query:
            try:
                told["sessions"] = await self._sessions(self._vpp)
            except VppError as error:
                raise web.HTTPServiceUnavailable(text=str(error)) from error
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")


async def sessions(vpp: Vpp) -> list[dict[str, Any]]:
    """The sessions of NAT44-ED: who speaks to whom by which frontend. VppError when there are too many to ask for: VPP
    forwards nothing while it lists them."""
    users = await vpp.dump("nat44_user")
    total = sum(user.nsessions + user.nstaticsessions for user in users)
    if total > cnat.SESSIONS_MAX:
        raise VppError(
            f"NAT keeps {total} sessions; more than {cnat.SESSIONS_MAX} are not listed, for VPP forwards nothing"
            " meanwhile; ask for one backend's: vppctl show nat44 sessions filter i2o saddr ADDRESS"
        )
    found: list[dict[str, Any]] = []
    for user in users:
        who = {"ip_address": str(user.ip_address), "vrf_id": user.vrf_id}
        found += [_session(each) for each in await vpp.dump("nat44_user_session_v3", **who)]
    return found


def _session(entry: Any) -> dict[str, Any]:
    hidden = bool(int(entry.flags) & TWICE_NAT)
    seen = f"{entry.ext_host_nat_address}:{entry.ext_host_nat_port}" if hidden else ""
    return {
        "protocol": NAMES.get(entry.protocol, str(entry.protocol)),
        "client": f"{entry.ext_host_address}:{entry.ext_host_port}",
        "frontend": f"{entry.outside_ip_address}:{entry.outside_port}",
        "backend": f"{entry.inside_ip_address}:{entry.inside_port}",
        "seenAs": seen,
        "idle": entry.time_since_last_heard,
        "packets": entry.total_pkts,
        "bytes": entry.total_bytes,
        "timedOut": bool(entry.is_timed_out),
    }
