"""What the demo leaves in an API server that outlives it, nodes, pods, what it created: removed before and after.

In: node names, paths of created objects. Out: an API server as it was. A node of a demo says so by a label; a node of
that name that is somebody else's is refused, never touched. The emulated server needs none of this: it ends with us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from contiv.demo.api import Api, ApiRefusal, Object, pod_path
from contiv.errors import DemoError

NODE_LABEL: Final = "demo.contiv.vpp/node"
"""Marks the Node objects of demos."""
POLL_S: Final = 0.1
POLLS: Final = 30
"""So often a deleted namespace is looked for; then no controller is there that would finish it."""
NAMESPACE_SLASHES: Final = "/api/v1/namespaces/name".count("/")


async def remove_nodes(api: Api, names: Iterable[str]) -> None:
    """Remove the Node objects of demos and the pods bound to them; DemoError for a node that is no demo's."""
    for name in names:
        path = f"/api/v1/nodes/{name}"
        node = await _get(api, path)
        if node is None:
            continue
        if NODE_LABEL not in (node["metadata"].get("labels") or {}):
            raise DemoError(f"node {name}: the API server has one of that name that is no demo's; use another server")
        pods = await api.request("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")
        await asyncio.gather(*(api.delete(pod_path(pod), grace_s=0) for pod in pods["items"]))
        await api.delete(path)


async def remove_objects(api: Api, paths: Sequence[str]) -> None:
    """Remove what was created, last first; a namespace that no controller finishes is finished here."""
    for path in reversed(paths):
        await api.delete(path, grace_s=0)
    await asyncio.gather(*(_finish(api, path) for path in paths if path.startswith("/api/v1/namespaces/")))


async def _finish(api: Api, path: str) -> None:
    """``path`` has been deleted. A namespace then waits for a controller, which a bare API server does not have."""
    if path.count("/") != NAMESPACE_SLASHES:
        return
    for _ in range(POLLS):
        if await _get(api, path) is None:
            return
        await asyncio.sleep(POLL_S)
    namespace = await _get(api, path)
    if namespace is None:
        return
    namespace["spec"]["finalizers"] = []
    try:
        await api.request("PUT", f"{path}/finalize", body=namespace)
    except ApiRefusal as refusal:
        if refusal.status not in {404, 409}:
            raise


async def _get(api: Api, path: str) -> Object | None:
    try:
        return await api.request("GET", path)
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
        return None
