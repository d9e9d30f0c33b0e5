"""One node as its container runtime sees it: the C plugin run with environment and standard input, and its effects."""

from __future__ import annotations

from typing import Any

from contiv.demo import commands, probe
from contiv.linux import netns
from contiv.model import keys
from tests.cni.conftest import Outcome, Runtime
from tests.e2e.world import World


class Node:
    """Node 1 of a cluster, seen by its container runtime."""

    def __init__(self, world: World) -> None:
        self.world = world
        directory = world.node(1).directory
        self._runtime = Runtime(commands.plugin_directories()[0] / commands.PLUGIN, commands.cni_socket(directory))

    async def call(
        self,
        command: str,
        container: str = "",
        *,
        pod: str = "",
        more: dict[str, Any] | None = None,
        **changes: str | None,
    ) -> Outcome:
        """Run the plugin; the pod's namespace is called as the container, unless given.

        ``more`` are keys of the configuration, ``changes`` variables of the environment.
        """
        environment: dict[str, str | None] = {
            "CNI_CONTAINERID": container,
            "CNI_NETNS": self.netns(container),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={pod or container}",
            **changes,
        }
        if command in ("STATUS", "GC", "VERSION"):
            environment = dict(changes)
        return await self._runtime.call(command, self._runtime.config(**more or {}), **environment)

    def netns(self, container: str) -> str:
        """Where the container's namespace is, or would be."""
        return netns.path_of(self.world.cluster.rundir.namespace(container))

    def make(self, container: str) -> str:
        """Make the container's namespace; the cluster's end removes it."""
        return netns.create(self.world.cluster.rundir.namespace(container))

    async def attached(self, container: str) -> dict[str, Any]:
        """A new namespace, and the result of ADD for it."""
        self.make(container)
        return (await self.call("ADD", container)).result

    async def state(self) -> object:
        """All that an attachment changes: VPP, Linux, etcd, IPAM, what the agent wants."""
        await self.world.settled()
        held = await self.world.held(1)
        etcd = await self.world.etcd(keys.VSWITCH)
        ipam = (await self.world.rest(1, "ipam"))["allocations"]
        assert (await self.world.rest(1, "diff"))["operations"] == []
        return held, etcd, ipam

    async def ping(self, result: dict[str, Any]) -> probe.Pings:
        """From the host to the address of a result."""
        address = result["ips"][0]["address"].partition("/")[0]
        return await probe.ping(self.world.cluster.workers, self.world.node(1).netns, address, count=3)


def names(state: object) -> dict[str, object]:
    """A state without what differs between two interfaces of one name: a pair made anew has another index."""
    held, etcd, ipam = state  # type: ignore[misc]
    return {
        "interfaces": set(held.interfaces),
        "up": held.up,
        "routes": held.routes,
        "neighbours": held.neighbours,
        "links": held.links,
        "etcd": etcd,
        "ipam": ipam,
    }
