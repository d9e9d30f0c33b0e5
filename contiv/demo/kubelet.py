"""The kubelet stand-in of one node: an ordinary client of the API server that makes pods real.

In: pods bound to its node, watched. Out: sandboxes (``sandbox``), their status patched back; the Node object,
Ready when the CNI plugin's STATUS says so. Each pod has one task: set up, wait until it is doomed, tear down,
delete the object. A failed sandbox is tried again with a new container ID and backoff, as kubelet does; at
most ``CONCURRENCY`` at once.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from contiv.demo import cni
from contiv.demo.api import Api, ApiRefusal, Object, pod_path
from contiv.demo.sandbox import Sandbox
from contiv.demo.traces import NODE_LABEL
from contiv.errors import CniError, ContivError
from contiv.kube.backoff import Backoff
from contiv.log import get_logger
from contiv.processes import ProcessFailed

CONCURRENCY: Final = 50
STATUS_POLL_S: Final = 0.1
RETRY_FIRST_S: Final = 0.2
RETRY_LAST_S: Final = 5.0

log = get_logger(__name__)


class _Pod:
    """One pod of this node. ``doomed`` is set when it is to go, or has gone from the API."""

    def __init__(self, thing: Object) -> None:
        self.thing = thing
        self.doomed = asyncio.Event()


class Kubelet:
    """``run`` until cancelled. ``problems`` holds the last error of each pod that is not up.

    ``ready`` is set once the node is. ``host_ip`` is the host's address once the network has given it one;
    ``sandboxes`` is what is up, by the pod's UID.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        *,
        network: cni.Network,
        namespace: Callable[[str], str],
        address: Callable[[], Awaitable[str | None]],
        logs: Path,
    ) -> None:
        self._api = api
        self._node = node
        self._network = network
        self._namespace = namespace
        self._address = address
        self._logs = logs
        self.host_ip = ""
        self.ready = asyncio.Event()
        self._room = asyncio.Semaphore(CONCURRENCY)
        self._pods: dict[str, _Pod] = {}
        self.problems: dict[str, str] = {}
        self.sandboxes: dict[str, Sandbox] = {}

    async def run(self) -> None:
        """Register the node, wait for its network, then serve its pods for ever."""
        await self._register()
        await self._network_ready()
        await self._set_node_status(ready=True, reason="KubeletReady", message="the network is ready")
        self.ready.set()
        selector = {"fieldSelector": f"spec.nodeName={self._node}"}
        async with asyncio.TaskGroup() as tasks, aclosing(self._api.watch("/api/v1/pods", selector)) as pods:
            async for known in pods:
                self._sync(known, tasks)

    # ---- the node ----------------------------------------------------------------------------------------

    async def _register(self) -> None:
        labels = {
            NODE_LABEL: "",
            "kubernetes.io/hostname": self._node,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._node, "labels": labels}}
        try:
            await self._api.create(node)
        except ApiRefusal as refusal:
            if refusal.reason != "AlreadyExists":
                raise
            await self._api.patch(f"/api/v1/nodes/{self._node}", {"metadata": {"labels": labels}})
        await self._set_node_status(ready=False, reason="NetworkNotReady", message="the network starts")

    async def _network_ready(self) -> None:
        """Wait until the plugin says that it can serve and the host has its address; who waits for us has a
        limit.
        """
        while True:
            try:
                await self._network.status()
                self.host_ip = await self._address() or ""
                if self.host_ip:
                    return
            except CniError as error:
                self.problems[self._node] = _words(error)
            await asyncio.sleep(STATUS_POLL_S)

    async def _set_node_status(self, *, ready: bool, reason: str, message: str) -> None:
        self.problems.pop(self._node, None)
        addresses = [{"type": "Hostname", "address": self._node}]
        if self.host_ip:
            addresses.insert(0, {"type": "InternalIP", "address": self.host_ip})
        condition = _condition("Ready", ready, reason=reason, message=message)
        capacity = {"cpu": "2", "memory": "4Gi", "pods": "250"}
        status = {
            "addresses": addresses,
            "conditions": [{**condition, "lastHeartbeatTime": _now()}],
            "capacity": capacity,
            "allocatable": capacity,
            "nodeInfo": _node_info(),
        }
        await self._api.patch(f"/api/v1/nodes/{self._node}/status", {"status": status})

    def _complain(self, event: str, pod: str, error: ContivError) -> None:
        """Keep the error for whoever waits for the pod; log it unless it is the last one again."""
        words = _words(error)
        if self.problems.get(pod) != words:
            log.warning(event, pod=pod, node=self._node, error=words)
        self.problems[pod] = words

    # ---- pods --------------------------------------------------------------------------------------------

    def _sync(self, known: dict[str, Object], tasks: asyncio.TaskGroup) -> None:
        """Start a task for each new pod; doom those that are to go or have gone."""
        present: dict[str, Object] = {thing["metadata"]["uid"]: thing for thing in known.values()}
        for uid, pod in self._pods.items():
            if uid not in present:
                pod.doomed.set()
        for uid, thing in present.items():
            if uid not in self._pods:
                if thing.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
                    continue
                self._pods[uid] = _Pod(thing)
                tasks.create_task(self._serve(uid, self._pods[uid]), name=f"pod {thing['metadata']['name']}")
            if thing["metadata"].get("deletionTimestamp"):
                self._pods[uid].doomed.set()

    async def _serve(self, uid: str, pod: _Pod) -> None:
        """One pod from its first sight to its end."""
        try:
            if pod.thing["spec"].get("hostNetwork"):
                await self._report(pod, (self.host_ip,))
                await pod.doomed.wait()
            else:
                await self._serve_sandbox(uid, pod)
            await self._api.delete(pod_path(pod.thing), grace_s=0, uid=uid)
        finally:
            del self._pods[uid]

    async def _serve_sandbox(self, uid: str, pod: _Pod) -> None:
        sandbox = await self._set_up(pod)
        if sandbox is None:
            return
        self.sandboxes[uid] = sandbox
        try:
            await self._start_processes(pod, sandbox)
            await pod.doomed.wait()
            async with self._room:
                await self._tear_down(pod, sandbox)
        finally:
            # also when the demo ends: then the pod is not torn down, but its processes must not stay
            await sandbox.end_processes()
            del self.sandboxes[uid]

    async def _start_processes(self, pod: _Pod, sandbox: Sandbox) -> None:
        """Report the addresses at once, and that the pod is ready when what runs in it is."""
        if sandbox.containers:
            await self._report(pod, sandbox.addresses, ready=False)
        try:
            await sandbox.start_processes()
        except ProcessFailed as error:
            self._complain("a container did not start", pod.thing["metadata"]["name"], error)
            return
        await self._report(pod, sandbox.addresses)

    async def _set_up(self, pod: _Pod) -> Sandbox | None:
        """A sandbox that is up; None when the pod was doomed before."""
        name = pod.thing["metadata"]["name"]
        backoff = Backoff(first_s=RETRY_FIRST_S, last_s=RETRY_LAST_S)
        while not pod.doomed.is_set():
            sandbox = Sandbox(
                pod.thing,
                attempt=backoff.failures,
                network=self._network,
                namespace=self._namespace,
                logs=self._logs,
            )
            try:
                async with self._room:
                    await sandbox.set_up()
                self.problems.pop(name, None)
                return sandbox
            except ContivError as error:
                self._complain("sandbox failed, trying again", name, error)
            async with self._room:  # an ADD without an answer may have been done
                await self._tear_down(pod, sandbox)
            await _wait(pod.doomed, backoff.next_s())
        return None

    async def _tear_down(self, pod: _Pod, sandbox: Sandbox) -> None:
        """Until it worked: what is not taken down would leak an address."""
        backoff = Backoff(first_s=RETRY_FIRST_S, last_s=RETRY_LAST_S)
        while True:
            try:
                await sandbox.tear_down()
                return
            except ContivError as error:
                self._complain("tear-down failed, trying again", pod.thing["metadata"]["name"], error)
                await asyncio.sleep(backoff.next_s())

    async def _report(self, pod: _Pod, addresses: tuple[str, ...], *, ready: bool = True) -> None:
        """Patch the pod's status: its addresses, and running when it is ready."""
        status = {
            "phase": "Running" if ready else "Pending",
            "hostIP": self.host_ip,
            "hostIPs": [{"ip": self.host_ip}],
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "startTime": _now(),
            "conditions": [
                *(_condition(kind, True) for kind in ("PodScheduled", "Initialized")),
                *(_condition(kind, ready) for kind in ("ContainersReady", "Ready")),
            ],
            "containerStatuses": [_container(each, ready=ready) for each in pod.thing["spec"]["containers"]],
        }
        try:
            await self._api.patch(pod_path(pod.thing, "status"), {"status": status})
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
            pod.doomed.set()


def _words(error: ContivError) -> str:
    """The error's text, with the details of a CNI error."""
    return f"{error} ({error.details})" if isinstance(error, CniError) and error.details else str(error)


def _container(container: Object, *, ready: bool) -> Object:
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "containerID": "",
        "ready": ready,
        "started": ready,
        "restartCount": 0,
        "state": {"running": {"startedAt": _now()}} if ready else {"waiting": {"reason": "ContainerCreating"}},
    }


def _condition(kind: str, holds: bool, *, reason: str = "", message: str = "") -> dict[str, Any]:
    condition = {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": _now()}
    return condition | ({"reason": reason, "message": message} if reason else {})


def _node_info() -> Object:
    return {
        "architecture": platform.machine(),
        "bootID": "",
        "containerRuntimeVersion": "contiv-demo://0",
        "kernelVersion": platform.release(),
        "kubeProxyVersion": "",
        "kubeletVersion": "v1.0.0-contiv-demo",
        "machineID": "",
        "operatingSystem": "linux",
        "osImage": "network namespace",
        "systemUUID": "",
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event, at most that long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
