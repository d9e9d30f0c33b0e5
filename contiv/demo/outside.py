"""A host outside of the cluster, on the nodes' wire: their router, their DHCP server, and somebody to talk to.

In: the wire. Out: a namespace with an address beside the nodes', and routes to their pods once it has learned them
from etcd, as a router with a routing protocol would.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contiv import processes
from contiv.config import Config
from contiv.demo.wire import UPLINK, Wire
from contiv.linux import addresses, links, netns, routes
from contiv.linux.errors import LinkMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.model import keys
from contiv.model.ip import Network
from contiv.model.linux import Route
from contiv.network.ipam import ClusterSubnets
from contiv.network.node_id import parse_claims
from contiv.processes import Process
from contiv.store.client import Etcd

PORT: Final = 254
ADDRESS: Final = Network.parse("192.168.16.254/24", strict=False)
POOL: Final = tuple(f"192.168.16.{number}" for number in range(101, 165))
"""Other addresses than those that follow from node IDs."""
LEASE_S: Final = 60
READY_S: Final = 10.0


class Outside:
    """``build`` it, ``serve_dhcp`` where nodes ask for addresses, ``learn`` the way to their pods, ``stop``."""

    def __init__(self, workers: Workers, namespace: str, directory: Path) -> None:
        self._workers = workers
        self._namespace = namespace
        self._terms = directory / "dhcp.json"
        self.log = directory / "dhcp.log"
        """What its DHCP server says."""
        self._server: Process | None = None

    @property
    def netns(self) -> str:
        """The path of its namespace."""
        return netns.path_of(self._namespace)

    @property
    def address(self) -> str:
        """Its address."""
        return str(ADDRESS.address)

    async def build(self, wire: Wire) -> None:
        """Make it and plug it in."""
        netns.create(self._namespace)
        await wire.plug(PORT, self.netns)
        await self._workers.inside(self.netns, _configure)

    async def serve_dhcp(self) -> None:
        """Lease addresses from now on."""
        self.lease(POOL)
        await self.serve([sys.executable, "-m", "contiv.demo.dhcp", UPLINK, str(self._terms)], until="listening")

    async def serve(self, argv: Sequence[str], *, until: str) -> None:
        """Run a DHCP server, whose log says ``until`` once it listens."""
        self._server = await processes.start("dhcp", argv, log=self.log, netns=self.netns)

        async def listening() -> bool:
            return until in self.log.read_text()

        await processes.ready(self._server, listening, timeout_s=READY_S, what="socket")

    def lease(self, pool: tuple[str, ...], *, seconds: int = LEASE_S) -> None:
        """Lease these addresses, the first to the first client; clients learn of it when they renew."""
        terms = {
            "server": self.address,
            "length": ADDRESS.length,
            "router": self.address,
            "lease_s": seconds,
            "pool": pool,
        }
        temporary = self._terms.with_suffix(".new")
        temporary.write_text(json.dumps(terms))
        temporary.rename(self._terms)

    async def learn(self, etcd: Etcd) -> int:
        """Route each node's pods to the node, by the addresses that the nodes have claimed; how many have one."""
        claims = parse_claims(
            {key: record.value for key, record in (await etcd.get_prefix(keys.NODE_IDS)).records.items()}
        )
        subnets = ClusterSubnets.of(Config())
        ways = tuple(
            Route(destination=subnets.node(claim.id).pod_subnet, gateway=claim.uplink_address)
            for claim in claims.values()
            if claim.uplink
        )
        await self._workers.inside(self.netns, lambda: _route(ways))
        return len(ways)

    async def stop(self) -> None:
        """End the DHCP server; the namespace goes with the run directory."""
        if self._server is not None:
            await self._server.stop()


def _configure() -> None:
    with Conversation() as conversation:
        conversation.run([addresses.add(_index(conversation), ADDRESS, name=UPLINK)])


def _route(ways: tuple[Route, ...]) -> None:
    with Conversation() as conversation:
        routes.add(conversation, _index(conversation), ways, name=UPLINK)


def _index(conversation: Conversation) -> int:
    link = links.find(conversation, UPLINK)
    if link is None:
        raise LinkMissing(UPLINK, "the outside host's namespace")
    return link.index
