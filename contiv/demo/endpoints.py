"""The endpoint slice controller's stand-in: ready pods of a service become an EndpointSlice.

In: services and pods, watched. Out: for each service with a selector one slice per set of port numbers, for named
target ports may mean different numbers in different pods. Conditions as Kubernetes gives them: a pod that is being
deleted is not ready, and serves while it is Ready. It is no controller for real clusters: it rewrites a slice as a
whole, knows IPv4 alone, no topology hints, and leaves services without a selector to those who write slices by hand.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from typing import Any, Final

import aiohttp
import msgspec

from contiv.demo.api import Api, ApiRefusal, Object, key_of
from contiv.errors import ContivError
from contiv.log import get_logger

MANAGER: Final = "endpointslice.demo.contiv.vpp"
GROUP: Final = "/apis/discovery.k8s.io/v1"
RETRY_S: Final = 1.0

log = get_logger(__name__)

Ports = tuple[tuple[str, str, int], ...]
"""Name, protocol and number of each port."""


class EndpointSlices:
    """``run`` until cancelled."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._services: dict[str, Object] = {}
        self._pods: dict[str, Object] = {}
        self._written: dict[str, Object] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch and write for ever."""
        self._written = {key_of(each): each for each in await self._ours()}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch("/api/v1/services", "_services"))
            tasks.create_task(self._watch("/api/v1/pods", "_pods"))
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._reconcile()
                except (ContivError, aiohttp.ClientError, TimeoutError) as error:
                    log.warning("endpoint slices not written, trying again", error=str(error), retry_s=RETRY_S)
                    await asyncio.sleep(RETRY_S)
                    self._changed.set()

    async def _ours(self) -> list[Object]:
        selector = f"?labelSelector=endpointslice.kubernetes.io%2Fmanaged-by%3D{MANAGER}"
        return list((await self._api.request("GET", f"{GROUP}/endpointslices{selector}")).get("items") or ())

    async def _watch(self, path: str, name: str) -> None:
        async with aclosing(self._api.watch(path)) as collection:
            async for known in collection:
                setattr(self, name, dict(known))
                self._changed.set()

    async def _reconcile(self) -> None:
        wanted = {key_of(each): each for service in self._services.values() for each in slices_of(service, self._pods)}
        for key in self._written.keys() - wanted.keys():
            await self._api.delete(_path(self._written[key]))
            del self._written[key]
        for key, each in wanted.items():
            if not _same(self._written.get(key), each):
                await self._write(each)
                self._written[key] = each

    async def _write(self, slice_: Object) -> None:
        try:
            await self._api.create(slice_)
        except ApiRefusal as refusal:
            if refusal.reason != "AlreadyExists":
                raise
            await self._api.patch(_path(slice_), {"endpoints": slice_["endpoints"], "ports": slice_["ports"]})


def slices_of(service: Object, pods: dict[str, Object]) -> list[Object]:
    """The slices that a service should have, pods being what they are."""
    spec = service["spec"]
    selector = (spec.get("selector") or {}).items()
    if not selector or spec.get("type") == "ExternalName":
        return []
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    groups: dict[Ports, list[Object]] = {}
    for key in sorted(pods):
        pod = pods[key]
        meta = pod["metadata"]
        if meta["namespace"] == namespace and selector <= (meta.get("labels") or {}).items() and _is_endpoint(pod):
            groups.setdefault(_ports(service, pod), []).append(_endpoint(service, pod))
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace,
                "name": f"{name}-{_suffix(ports)}",
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": MANAGER,
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": port, "protocol": protocol, "port": number} for port, protocol, number in ports],
            "endpoints": endpoints,
        }
        for ports, endpoints in sorted(groups.items())
    ]


def _is_endpoint(pod: Object) -> bool:
    status = pod.get("status") or {}
    return bool(status.get("podIP")) and status.get("phase") not in ("Succeeded", "Failed")


def _ports(service: Object, pod: Object) -> Ports:
    """The service's ports as this pod serves them; a named target port that it lacks is left out."""
    named = {
        (port.get("name"), port.get("protocol", "TCP")): port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or ()
    }
    found = []
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol", "TCP")
        target: Any = port.get("targetPort", port["port"])
        number = named.get((target, protocol)) if isinstance(target, str) else target
        if number is not None:
            found.append((port.get("name") or "", protocol, number))
    return tuple(found)


def _endpoint(service: Object, pod: Object) -> Object:
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or ())
    leaving = bool(pod["metadata"].get("deletionTimestamp"))
    published = bool(service["spec"].get("publishNotReadyAddresses"))
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": published or (ready and not leaving), "serving": ready, "terminating": leaving},
        "nodeName": pod["spec"].get("nodeName"),
        "targetRef": {"kind": "Pod", "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"]},
    }


def _suffix(ports: Ports) -> str:
    return hashlib.blake2b(msgspec.json.encode(ports), digest_size=3).hexdigest()


def _same(written: Object | None, wanted: Object) -> bool:
    return written is not None and all(written.get(part) == wanted[part] for part in ("endpoints", "ports"))


def _path(slice_: Object) -> str:
    meta = slice_["metadata"]
    return f"{GROUP}/namespaces/{meta['namespace']}/endpointslices/{meta['name']}"
