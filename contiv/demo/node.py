"""One node: a namespace on the wire, the data plane and the agent in it, a kubelet stand-in for it.

In: a number. Out: a ``Node`` whose processes run in its namespace. Its data plane takes ``uplink``; the
addresses are the agent's business. The kubelet finds the host's address as a real one does, on the node's own
interfaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from contiv import processes
from contiv.demo import cni, commands
from contiv.demo.api import Api
from contiv.demo.kubelet import Kubelet
from contiv.demo.rundir import RunDirectory
from contiv.demo.wire import UPLINK, Wire
from contiv.linux import addresses, links, netns, routes
from contiv.linux.errors import LinkMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.model.ip import Address, Network
from contiv.model.linux import Route

HOST_INTERFACE: Final = "vpp1"
NODES: Final = Network.parse("192.168.16.0/24")
DEFAULT_ROUTE: Final = Network(4, 0, 0)
STN_READY_S: Final = 20.0


def name_of(number: int) -> str:
    """The name of node ``number`` in Kubernetes."""
    return f"node-{number}"


class Node:
    """``start`` it, run its ``kubelet``, ``stop`` it."""

    def __init__(self, number: int, *, rundir: RunDirectory, workers: Workers) -> None:
        self.number = number
        self.name = name_of(number)
        self.directory = rundir.path / self.name
        self._namespace = rundir.namespace(self.name)
        self._rundir = rundir
        self._workers = workers
        self._init: processes.Process | None = None
        self.stn: processes.Process | None = None
        self.sections: list[dict[str, Any]] = []
        """The node's own ones of its configuration."""

    @property
    def netns(self) -> str:
        """The path of the node's namespace."""
        return netns.path_of(self._namespace)

    @property
    def init(self) -> processes.Process:
        """The process that keeps data plane and agent running."""
        assert self._init is not None, "start the node first"
        return self._init

    async def start(
        self,
        wire: Wire,
        *,
        etcd: str,
        dataplane: str,
        nics: str = "two",
        gateway: Address | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the namespace, plug it in, start data plane and agent with ``config`` over the demo's defaults.

        With one NIC it is the host's first, which has its address and its default route by ``gateway``, and the STN
        daemon lends it to the data plane.
        """
        await asyncio.to_thread(netns.create, self._namespace)
        await wire.plug(self.number, self.netns, finished=(config or {}).get("linkDriver") == "af_xdp")
        for place in ("vpp", "run", "state"):
            (self.directory / place).mkdir(parents=True)
        file = self.directory / "contiv.yaml"
        content = commands.node_config(
            self.directory,
            node=self.name,
            etcd=etcd,
            dataplane=dataplane,
            nics=nics,
            gateway="" if gateway is None else str(gateway),
        )
        content |= config or {}
        self.sections = content["nodeConfig"]
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        if nics == "one":
            assert gateway is not None, "a node with one NIC needs its router"
            await self._workers.inside(self.netns, lambda: _own_nic(self.nic, gateway))
            await self.start_stn()
        await self.start_init()

    async def start_init(self) -> None:
        """Start what keeps data plane and agent running."""
        self._init = await processes.start(
            self.name,
            commands.init(config=self.directory / "contiv.yaml", node=self.name),
            log=self.directory / "init.log",
            netns=self.netns,
        )

    @property
    def nic(self) -> Network:
        """The address of the NIC that the node has as a host with one."""
        return Network(4, NODES.value + self.number, NODES.length)

    async def start_stn(self) -> None:
        """Start the STN daemon."""
        argv = commands.stn(config=self.directory / "contiv.yaml")
        socket = self.directory / "run" / "stn.sock"
        self.stn = await processes.start("stn", argv, log=self.directory / "stn.log", netns=self.netns)

        async def serves() -> bool:
            return socket.exists()

        await processes.ready(self.stn, serves, timeout_s=STN_READY_S, what="socket")

    async def stop(self) -> None:
        """Stop agent and data plane; namespace and files go with the run directory."""
        for process in (self._init, self.stn):
            if process is not None:
                await process.stop()

    def kubelet(self, api: Api, plugins: list[Path]) -> Kubelet:
        """The node's kubelet stand-in."""
        return Kubelet(
            api,
            self.name,
            network=cni.Network(commands.conflist(self.directory), plugins),
            namespace=self._rundir.namespace,
            address=self.host_address,
            logs=self.directory / "pods",
        )

    async def host_address(self) -> str | None:
        """The host stack's address on the interconnect, once the agent has given it one."""
        return await self._workers.inside(self.netns, _host_address)


def _own_nic(address: Network, gateway: Address) -> None:
    """The NIC as an operating system's installer leaves it."""
    with Conversation() as conversation:
        link = links.find(conversation, UPLINK)
        if link is None:
            raise LinkMissing(UPLINK, "the node's namespace")
        conversation.run([addresses.add(link.index, address, name=UPLINK)])
        routes.add(conversation, link.index, (Route(destination=DEFAULT_ROUTE, gateway=gateway),), name=UPLINK)


def _host_address() -> str | None:
    with Conversation() as conversation:
        link = links.find(conversation, HOST_INTERFACE)
        if link is None or not link.up:
            return None
        found = [each for each in addresses.of_link(conversation, link.index) if each.version == 4]
    return str(found[0].address) if found else None
