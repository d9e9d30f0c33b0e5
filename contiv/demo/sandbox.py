"""A pod on its node as the container runtime sees it: a namespace, an address from CNI, a few processes.

In: a pod object. Out: a ``Sandbox`` with its address, or ``CniError``; nothing is left of one that failed.
Images are not pulled: a container with the image ``contiv.vpp/responder`` runs this demo's responder on its
ports, others run nothing (their pod answers pings, as the kernel does that).
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from contiv import processes
from contiv.demo import cni
from contiv.errors import CniError
from contiv.linux import netns

RESPONDER: Final = "contiv.vpp/responder"
NAME_CHARS_MAX: Final = 120
PROCESS_GRACE_S: Final = 1.0
PROCESS_READY_S: Final = 20.0
SERVING: Final = "serving"
"""What the responder prints when its ports are open."""

Object = dict[str, Any]


class Sandbox:
    """One try at one pod: ``set_up``, then ``start_processes``; ``tear_down``. ``addresses`` once it is up."""

    def __init__(
        self, pod: Object, *, attempt: int, network: cni.Network, namespace: Callable[[str], str], logs: Path
    ) -> None:
        meta = pod["metadata"]
        self.pod = pod
        self.container_id = hashlib.sha256(f"{meta['uid']}/{attempt}".encode()).hexdigest()
        label = f"{meta['namespace']}.{meta['name']}"[:NAME_CHARS_MAX]
        self._namespace = namespace(f"{label}.{self.container_id[:4]}")
        self._network = network
        self._logs = logs
        self._result: Object | None = None
        self._processes: list[processes.Process] = []
        self._cni = cni.Sandbox(
            container_id=self.container_id,
            netns=netns.path_of(self._namespace),
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
        )

    @property
    def netns(self) -> str:
        """The path of its namespace."""
        return self._cni.netns

    @property
    def addresses(self) -> tuple[str, ...]:
        """The pod's addresses, without prefix lengths."""
        return tuple(ip["address"].partition("/")[0] for ip in (self._result or {}).get("ips", ()))

    async def set_up(self) -> None:
        """Namespace and network. After a failure the caller tears down."""
        await asyncio.to_thread(netns.create, self._namespace)
        self._result = _with_address(await self._network.add(self._cni))

    async def tear_down(self) -> None:
        """Processes, network, namespace; each step tolerates that there is nothing to do."""
        await self.end_processes()
        try:
            await self._network.remove(self._cni, self._result)
        finally:
            await asyncio.to_thread(netns.delete, self._namespace)

    async def end_processes(self) -> None:
        """End what runs in the pod."""
        for process in self._processes:
            await process.stop(grace_s=PROCESS_GRACE_S)
        self._processes.clear()

    @property
    def containers(self) -> list[Object]:
        """The containers that run something here."""
        containers = self.pod["spec"].get("containers", ())
        return [each for each in containers if each.get("image", "").partition(":")[0] == RESPONDER]

    async def start_processes(self) -> None:
        """Start what runs in the pod, and wait until it serves; ``ProcessFailed`` when it does not."""
        for container in self.containers:
            ports = [
                f"{port.get('protocol', 'TCP').lower()}/{port['containerPort']}"
                for port in container.get("ports", ())
                if port.get("protocol", "TCP") in {"TCP", "UDP"}
            ]
            script = str(Path(__file__).with_name("responder.py"))
            name = f"{self._cni.namespace}.{self._cni.name}.{container['name']}"
            argv = [sys.executable, "-I", "-S", script, self._cni.name, *ports]
            log = self._logs / f"{name}.{self.container_id[:4]}.log"
            process = await processes.start(name, argv, log=log, netns=self.netns)
            self._processes.append(process)

            async def serving(process: processes.Process = process) -> bool:
                return process.tail(1) == SERVING

            await processes.ready(process, serving, timeout_s=PROCESS_READY_S, what="open ports")


def _with_address(result: Object) -> Object:
    if not result.get("ips"):
        raise CniError(cni.UNREADABLE, "the CNI result of ADD has no address; the plugin must give one")
    return result
