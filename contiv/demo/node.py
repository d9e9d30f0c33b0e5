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
from contiv.demo.wire import Wire
from contiv.linux import addresses, links, netns
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers

HOST_INTERFACE: Final = "vpp1"


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

    @property
    def netns(self) -> str:
        """The path of the node's namespace."""
        return netns.path_of(self._namespace)

    @property
    def init(self) -> processes.Process:
        """The process that keeps data plane and agent running."""
        assert self._init is not None, "start the node first"
        return self._init

    async def start(self, wire: Wire, *, etcd: str, dataplane: str, config: Mapping[str, Any] | None = None) -> None:
        """Make the namespace, plug it in, start data plane and agent with ``config`` over the demo's defaults."""
        await asyncio.to_thread(netns.create, self._namespace)
        await wire.plug(self.number, self.netns)
        for place in ("vpp", "run", "state"):
            (self.directory / place).mkdir(parents=True)
        file = self.directory / "contiv.yaml"
        content = commands.node_config(self.directory, node=self.name, etcd=etcd, dataplane=dataplane)
        content |= config or {}
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        self._init = await processes.start(
            self.name,
            commands.init(config=file, node=self.name),
            log=self.directory / "init.log",
            netns=self.netns,
        )

    async def stop(self) -> None:
        """Stop agent and data plane; namespace and files go with the run directory."""
        if self._init is not None:
            await self._init.stop()

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


def _host_address() -> str | None:
    with Conversation() as conversation:
        link = links.find(conversation, HOST_INTERFACE)
        if link is None or not link.up:
            return None
        found = [each for each in addresses.of_link(conversation, link.index) if each.version == 4]
    return str(found[0].address) if found else None
