"""A client with no opinion: documents in, status and document out; watches as lists of events."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp

Doc = dict[str, Any]
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"

PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
SERVICES = "/api/v1/namespaces/default/services"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


class Refused(Exception):
    """An answer of 400 or more, with its Status object."""

    def __init__(self, code: int, status: Doc) -> None:
        super().__init__(f"{code}: {status.get('message')}")
        self.code = code
        self.status = status
        self.reason = status.get("reason")

    @property
    def fields(self) -> list[tuple[str, str]]:
        """(reason, field) of every cause."""
        return [(each["reason"], each["field"]) for each in self.status["details"]["causes"]]


class Stream:
    """Events of a watch, one at a time."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Doc:
        line = await self.response.content.readline()
        if not line:
            raise EOFError
        event: Doc = json.loads(line)
        return event

    async def take(self, count: int) -> list[tuple[str, str]]:
        """(type, name) of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(each["type"], each["object"]["metadata"].get("name", "")) for each in events]


class Api:
    """One server's address."""

    def __init__(self, url: str, *, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True),
            timeout=aiohttp.ClientTimeout(total=30),
            read_bufsize=2**22,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        form: str = "application/json",
        accept: str = "",
        **query: Any,
    ) -> Doc:
        headers = {"Content-Type": form} | ({"Accept": accept} if accept else {})
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, self.url + path, data=data, headers=headers, params=query) as response:
            text = await response.text()
            document: Doc = json.loads(text) if text.startswith("{") else {"text": text}
            if response.status >= 400:
                raise Refused(response.status, document)
            return document

    async def get(self, path: str, **query: Any) -> Doc:
        return await self.call("GET", path, **query)

    async def post(self, path: str, body: Any, **query: Any) -> Doc:
        return await self.call("POST", path, body, **query)

    async def put(self, path: str, body: Any, **query: Any) -> Doc:
        return await self.call("PUT", path, body, **query)

    async def patch(self, path: str, body: Any, *, form: str = MERGE, **query: Any) -> Doc:
        return await self.call("PATCH", path, body, form=form, **query)

    async def delete(self, path: str, body: Any = None, **query: Any) -> Doc:
        return await self.call("DELETE", path, body, **query)

    @asynccontextmanager
    async def watch(self, path: str, *, accept: str = "", **query: Any) -> AsyncIterator[Stream]:
        headers = {"Accept": accept} if accept else {}
        async with self._session.get(self.url + path, params={"watch": "1", **query}, headers=headers) as response:
            if response.status >= 400:
                raise Refused(response.status, await response.json())
            yield Stream(response)

    async def version(self) -> str:
        """The current version of the cluster."""
        listed = await self.get(CONFIG_MAPS, limit=1)
        return str(listed["metadata"]["resourceVersion"])


def pod(name: str, *, node: str = "", labels: dict[str, str] | None = None) -> Doc:
    spec: Doc = {"containers": [{"name": "main", "image": "demo:1", "ports": [{"containerPort": 80}]}]}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def config_map(name: str, **data: str) -> Doc:
    return {"metadata": {"name": name}, "data": data}


def service(name: str, *, ports: list[Doc] | None = None, **spec: Any) -> Doc:
    return {"metadata": {"name": name}, "spec": {"ports": ports or [{"port": 80}], **spec}}


def policy(name: str, **spec: Any) -> Doc:
    return {"metadata": {"name": name}, "spec": {"podSelector": {}, **spec}}
