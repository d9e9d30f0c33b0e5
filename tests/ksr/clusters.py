"""API servers for KSR's tests behind one face: write and read objects, make trouble.

``ScriptedCluster`` does any trouble at will but validates nothing; ``HttpCluster`` is for servers that do: the emulated
one here, a real one in ``tests.ksr.apiserver``.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec

from contiv.emulator.kube import EmulatedKube
from contiv.model import kube
from contiv.model.kubewire import reduce
from tests.kube.conftest import write_kubeconfig
from tests.kube.scripted import ScriptedApi

NAMESPACE = "churn"
ATTEMPTS_MAX = 500


class Cluster(Protocol):
    """What a test needs of an API server."""

    kubeconfig: str

    async def put(self, kind: kube.AnyKind, value: dict[str, Any]) -> None:
        """Create the object, or replace it."""

    async def delete(self, kind: kube.AnyKind, name: str) -> None:
        """Delete an object of NAMESPACE, or a cluster-scoped one, at once."""

    async def objects(self, kind: kube.AnyKind) -> list[msgspec.Raw]:
        """Everything of the kind, in all namespaces."""

    async def expire(self) -> None:
        """End all watches; what they would resume from is too old then."""

    async def drop(self) -> None:
        """Reset all connections."""


async def expected(cluster: Cluster) -> dict[str, bytes]:
    """What etcd should hold: every object of every kind, reduced."""
    content: dict[str, bytes] = {}
    for kind in kube.KINDS:
        for raw in await cluster.objects(kind):
            value = reduce(kind, raw)
            content[kind.key_of(value)] = kind.encode(value)  # type: ignore[arg-type]
    return content


class ScriptedCluster:
    """A ``ScriptedApi`` with all six collections."""

    def __init__(self, api: ScriptedApi, kubeconfig: str) -> None:
        self.api = api
        self.kubeconfig = kubeconfig

    async def put(self, kind: kube.AnyKind, value: dict[str, Any]) -> None:
        await self.api.put(kind.collection_path, value)

    async def delete(self, kind: kube.AnyKind, name: str) -> None:
        await self.api.delete(kind.collection_path, name, namespace=NAMESPACE if kind.namespaced else "")

    async def objects(self, kind: kube.AnyKind) -> list[msgspec.Raw]:
        values = self.api.objects.get(kind.collection_path, {}).values()
        return [msgspec.Raw(json.dumps(value).encode()) for value in values]

    async def expire(self) -> None:
        self.api.history.clear()
        await self.api.expire()
        await self.api.drop()

    async def drop(self) -> None:
        await self.api.drop()


class HttpCluster:
    """A server that is written to as any client would: create, or patch what exists; delete without grace.

    ``drop`` and ``expire`` are the business of those who derive from it.
    """

    def __init__(self, url: str, kubeconfig: str, *, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.kubeconfig = kubeconfig
        self._url = url
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True),
        )

    async def close(self) -> None:
        await self._session.close()

    async def put(self, kind: kube.AnyKind, value: dict[str, Any]) -> None:
        collection, name = self._collection(kind), value["metadata"]["name"]
        # Most of a pod's and a node's spec is immutable; their labels and status are what changes.
        change = {"metadata": value["metadata"]} if kind.plural in ("pods", "nodes") else value
        status = await self._send("PATCH", f"{collection}/{name}", change, allowed=(200, 404))
        if status == 404:
            await self._send("POST", collection, value, allowed=(201,))
        if "status" in value:
            await self._send("PATCH", f"{collection}/{name}/status", {"status": value["status"]}, allowed=(200,))

    async def delete(self, kind: kube.AnyKind, name: str) -> None:
        await self._send("DELETE", f"{self._collection(kind)}/{name}", {"gracePeriodSeconds": 0}, allowed=(200, 202))

    async def objects(self, kind: kube.AnyKind) -> list[msgspec.Raw]:
        async with self._session.get(self._url + kind.collection_path) as response:
            assert response.status == 200, await response.text()
            return msgspec.json.decode(await response.read(), type=_Items).items

    def _collection(self, kind: kube.AnyKind) -> str:
        return f"{kind.api_path}/namespaces/{NAMESPACE}/{kind.plural}" if kind.namespaced else kind.collection_path

    async def _send(self, method: str, path: str, body: dict[str, Any], *, allowed: tuple[int, ...]) -> int:
        """Again after a reset (the tests drop these connections too) and while a fresh server is not quite ready."""
        form = "application/merge-patch+json" if method == "PATCH" else "application/json"
        for _ in range(ATTEMPTS_MAX):
            with suppress(aiohttp.ClientConnectionError):
                async with self._session.request(
                    method, self._url + path, data=json.dumps(body), headers={"Content-Type": form}
                ) as response:
                    text = await response.text()
                    if response.status < 500:
                        assert response.status in allowed, f"{method} {path}: {text}"
                        return response.status
            await asyncio.sleep(0.02)
        raise AssertionError(f"{method} {path}: no answer, {ATTEMPTS_MAX} times")


class _Items(msgspec.Struct):
    items: list[msgspec.Raw]


class EmulatedCluster(HttpCluster):
    """``contiv.emulator.kube`` in this process, with its fault switches."""

    def __init__(self, emulated: EmulatedKube, kubeconfig: str) -> None:
        super().__init__(emulated.url, kubeconfig)
        self.emulated = emulated

    async def expire(self) -> None:
        self.emulated.faults.expire_versions()
        self.emulated.faults.drop_connections()

    async def drop(self) -> None:
        self.emulated.faults.drop_connections()


@asynccontextmanager
async def emulated(directory: Path) -> AsyncIterator[EmulatedCluster]:
    async with EmulatedKube() as server:
        cluster = EmulatedCluster(server, str(server.write_kubeconfig(directory / "kubeconfig")))
        try:
            await prepare(cluster)
            yield cluster
        finally:
            await cluster.close()


@asynccontextmanager
async def scripted(directory: Path) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedApi().serve() as api:
        cluster = ScriptedCluster(api, write_kubeconfig(directory / "kubeconfig", api.url))
        await prepare(cluster)
        yield cluster


async def prepare(cluster: Cluster) -> None:
    """The namespace that everything lives in."""
    await cluster.put(kube.NAMESPACES, {"metadata": {"name": NAMESPACE, "labels": {"team": "a"}}})


class Churn:
    """Random creations, changes and deletions of valid objects of every kind but namespaces."""

    def __init__(self, cluster: Cluster, *, seed: int) -> None:
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._serial = 0
        self.alive: set[tuple[str, str]] = set()

    async def run(self, operations: int) -> None:
        for _ in range(operations):
            await self.step()

    async def step(self) -> None:
        kind = self._rng.choice(kube.KINDS[1:])
        known = sorted(name for plural, name in self.alive if plural == kind.plural)
        choice = self._rng.random()
        if known and choice < 0.3:
            name = self._rng.choice(known)
            self.alive.discard((kind.plural, name))
            await self._cluster.delete(kind, name)
            return
        if not known or choice < 0.65:
            name = f"{kind.kind.lower()}-{self._rng.randrange(60)}"
        else:
            name = self._rng.choice(known)
        self.alive.add((kind.plural, name))
        await self._cluster.put(kind, self._object(kind, name))

    def _object(self, kind: kube.AnyKind, name: str) -> dict[str, Any]:
        self._serial += 1
        meta: dict[str, Any] = {"name": name, "labels": {"serial": str(self._serial), "app": name}}
        if kind.namespaced:
            meta["namespace"] = NAMESPACE
        group = kind.api_path.removeprefix("/apis/").removeprefix("/api/")
        return {"apiVersion": group, "kind": kind.kind, "metadata": meta, **self._body(kind, meta)}

    def _body(self, kind: kube.AnyKind, meta: dict[str, Any]) -> dict[str, Any]:
        number = self._rng.randrange(1, 250)
        match kind.plural:
            case "nodes":
                return {"spec": {"podCIDR": f"10.1.{number}.0/24", "podCIDRs": [f"10.1.{number}.0/24"]}}
            case "pods":
                ports = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
                address = f"10.1.1.{number}"
                return {
                    "spec": {"containers": [{"name": "c", "image": "registry.test/i", "ports": ports}]},
                    "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
                }
            case "networkpolicies":
                peer = {"ipBlock": {"cidr": f"10.{number}.0.0/16", "except": [f"10.{number}.1.0/24"]}}
                rule = {"from": [peer, {"podSelector": {}}], "ports": [{"port": number, "protocol": "TCP"}]}
                return {"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule]}}
            case "services":
                port = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}
                return {"spec": {"selector": {"app": meta["name"]}, "ports": [port]}}
            case "endpointslices":
                meta["labels"]["kubernetes.io/service-name"] = "web"
                endpoint = {"addresses": [f"10.1.1.{number}"], "conditions": {"ready": number % 2 == 0}}
                ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
                return {"addressType": "IPv4", "ports": ports, "endpoints": [endpoint]}
        raise AssertionError(kind)
