"""The scheduler stand-in: pods without a node go round robin to Ready nodes of the demo, by the binding
subresource.

In: nodes and unbound pods, watched. Out: bindings. It honours ``nodeSelector`` and leaves pods alone that
name another scheduler. It is no scheduler: resources, taints and affinity mean nothing to it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

from contiv.demo.api import Api, ApiRefusal, Object, pod_path
from contiv.log import get_logger

OURS: Final = "default-scheduler"

log = get_logger(__name__)


class Placement:
    """``run`` until cancelled."""

    def __init__(self, api: Api, nodes: frozenset[str]) -> None:
        self._api = api
        self._ours = nodes
        self._ready: dict[str, Object] = {}
        self._waiting: dict[str, Object] = {}
        self._bound: set[str] = set()
        self._next = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch and place for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_nodes())
            tasks.create_task(self._watch_pods())
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._place()

    async def _watch_nodes(self) -> None:
        async with aclosing(self._api.watch("/api/v1/nodes")) as nodes:
            async for known in nodes:
                self._ready = {n: node for n, node in known.items() if n in self._ours and is_ready(node)}
                self._changed.set()

    async def _watch_pods(self) -> None:
        selector = {"fieldSelector": "spec.nodeName="}
        async with aclosing(self._api.watch("/api/v1/pods", selector)) as pods:
            async for known in pods:
                self._waiting = dict(known)
                self._bound &= {pod["metadata"]["uid"] for pod in known.values()}
                self._changed.set()

    async def _place(self) -> None:
        for _, pod in sorted(self._waiting.items(), key=lambda item: _natural(item[0])):
            if pod["metadata"]["uid"] in self._bound or not is_ours(pod):
                continue
            node = self._choose(pod)
            if node is not None:
                await self._bind(pod, node)

    def _choose(self, pod: Object) -> str | None:
        """The next Ready node in turn that the pod's selector fits."""
        wanted = (pod["spec"].get("nodeSelector") or {}).items()
        names = sorted(self._ready, key=_natural)
        for step in range(len(names)):
            name = names[(self._next + step) % len(names)]
            if wanted <= (self._ready[name]["metadata"].get("labels") or {}).items():
                self._next = (self._next + step + 1) % len(names)
                return name
        return None

    async def _bind(self, pod: Object, node: str) -> None:
        meta = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._api.request("POST", pod_path(pod, "binding"), body=binding)
        except ApiRefusal as refusal:
            if refusal.status not in {404, 409}:
                raise
            log.info("pod was bound or deleted by somebody else", pod=meta["name"], answer=str(refusal))
        self._bound.add(meta["uid"])


def is_ready(node: Object) -> bool:
    """Whether the Node's Ready condition holds."""
    conditions = node.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def is_ours(pod: Object) -> bool:
    """Whether the pod waits for the default scheduler."""
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and spec.get("schedulerName", OURS) == OURS
        and not pod["metadata"].get("deletionTimestamp")
    )


def _natural(name: str) -> tuple[str, int, str]:
    """Orders web-2 before web-10."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0), name
