"""Where the policy capability meets the rest of an agent: what the node is to it, and what ``netctl policies`` asks.

In: the live ``NetworkState``, and the service capability when there is one. Out: the capability's handler, and the
route ``/contiv/v1/policies``: what each pod's access lists are and which policies are behind them, what is wrong with
objects, and with ``?lines`` the lists line by line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from contiv.agent.problems import counted
from contiv.controller import Event
from contiv.network.render_host import HOST_VPP
from contiv.network.render_node import BVI
from contiv.network.state import NetworkState
from contiv.policy.handler import PolicyHandler, Services
from contiv.policy.tables import NodeView

OVERLAY_ALONE: Final = "vxlan"
"""The transport with which no pod of another node is ever reached by the uplink."""


def node_view(network: NetworkState) -> NodeView:
    """The node as policies see it now: a NIC's address may come late and change."""
    node, subnets, nics = network.node, network.subnets, network.nics
    outward = (network.uplink, *nics) if network.uplink is not None else nics
    leased = [nic.address.address for nic in outward if nic.address is not None]
    shared = [each.address for each in network.uplink.shared] if network.uplink is not None else []
    own = [node.pod_gateway, node.host_vpp.address, node.host_linux.address, node.vxlan.address, *leased, *shared]
    everywhere = network.options.transport == OVERLAY_ALONE
    return NodeView(
        name=network.me.name,
        addresses=tuple(dict.fromkeys(own)),
        hairpin=(node.nat_loopback,),
        services=(subnets.services,),
        judged=(subnets.pods, subnets.hosts) if everywhere else (node.pod_subnet, node.host_subnet),
        overlay=BVI if BVI in network.node_interfaces else "",
        host=HOST_VPP,
        uplinks=tuple(nic.name for nic in outward),
    )


class Policies:
    """The parts of the capability, wired."""

    def __init__(
        self, network: NetworkState, services: Services | None = None, *, push: Callable[[Event], None]
    ) -> None:
        self.handler = PolicyHandler(
            partial(node_view, network), attachments=lambda: network.attachments, push=push, services=services
        )

    @property
    def problem(self) -> str | None:
        """What operators must know: who is isolated or open by want of knowledge, and which objects are wrong."""
        state = self.handler.state
        if not state.complete:
            return "KSR has not reflected pods, namespaces and policies completely yet: every pod is isolated"
        unknown = [local for local in state.locals() if local.pod is None and any(local.name)]
        told = [
            counted(f"pod {what}", ["/".join(local.name) for local in those], see="netctl policies")
            for what, those in (
                ("isolated, its object not known yet", [local for local in unknown if not local.presumed]),
                ("open, its object not known and no policy in its namespace", [pod for pod in unknown if pod.presumed]),
            )
            if those
        ]
        faults = self.handler.faults
        if faults:
            told.append(counted("bad field", [str(fault) for fault in faults], see="netctl policies --faults"))
        return "; ".join(told) or None

    def routes(self) -> list[web.RouteDef]:
        """The one route."""
        return [web.get("/contiv/v1/policies", self.policies)]

    async def policies(self, request: web.Request) -> web.Response:
        """Pods, faults and lists as they are at this moment."""
        told = self.handler.report(lines="lines" in request.query)
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")
