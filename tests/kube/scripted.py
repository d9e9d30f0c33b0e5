"""An API server that does what a test tells it: the wire's good and bad days, byte for byte.

It knows nothing of kinds or validation (``contiv.emulator.kube`` does): any path under /api or /apis is a
collection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

PODS = "/api/v1/pods"


def pod(name: str, *, namespace: str = "default", **labels: str) -> dict[str, Any]:
    """The smallest pod that KSR takes."""
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": {}}


class ScriptedApi:
    """State and switches. Versions are one counter over all collections, as in etcd."""

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.oldest = 0  # watches from before this version get a 410
        self.token_epoch = 0  # continue tokens of another epoch get a 410
        self.expire_tokens = False  # ... all of them do
        self.statuses: list[tuple[int, dict[str, str]]] = []  # answers to the next requests, before anything else
        self.refuse_watches = False  # end each watch at once
        self.required_token: str | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = ""
        self._changed = asyncio.Condition()
        self._raw: dict[str, list[bytes]] = {}
        self._drops = 0

    # ---- what tests do ----

    async def put(self, path: str, value: dict[str, Any]) -> None:
        self.version += 1
        meta = {**value["metadata"], "resourceVersion": str(self.version)}
        value = {**value, "metadata": meta}
        known = self.objects.setdefault(path, {})
        key = (meta.get("namespace", ""), meta["name"])
        self.history.append((self.version, path, "MODIFIED" if key in known else "ADDED", value))
        known[key] = value
        await self._wake()

    async def delete(self, path: str, name: str, *, namespace: str = "default") -> None:
        self.version += 1
        value = self.objects[path].pop((namespace, name))
        value = {**value, "metadata": {**value["metadata"], "resourceVersion": str(self.version)}}
        self.history.append((self.version, path, "DELETED", value))
        await self._wake()

    async def send(self, path: str, line: bytes) -> None:
        """Bytes into the watches of ``path``, now or as soon as there is one."""
        self._raw.setdefault(path, []).append(line)
        await self._wake()

    async def bookmark(self, path: str) -> None:
        self.version += 1
        event = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
        await self.send(path, json.dumps(event).encode() + b"\n")

    async def drop(self) -> None:
        """Reset the connections of all watches."""
        self._drops += 1
        await self._wake()

    async def expire(self) -> None:
        """Forget all history: later watches from older versions get a 410."""
        self.version += 1
        self.oldest = self.version
        self.token_epoch += 1

    def count(self, *, watch: bool, path: str = PODS) -> int:
        return sum(1 for p, q in self.requests if p == path and ("watch" in q) == watch)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # ---- the server ----

    @asynccontextmanager
    async def serve(self, *, ssl_context: Any = None) -> AsyncIterator[ScriptedApi]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        scheme, host = ("https", "localhost") if ssl_context else ("http", "127.0.0.1")
        self.url = f"{scheme}://{host}:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append((request.path, query))
        if self.required_token and request.headers.get("Authorization") != f"Bearer {self.required_token}":
            return failure(401, "Unauthorized")
        if self.statuses:
            status, headers = self.statuses.pop(0)
            return failure(status, "Scripted", headers=headers)
        if "watch" in query:
            return await self._watch(request, query)
        return self._list(request.path, query)

    def _list(self, path: str, query: dict[str, str]) -> web.Response:
        ordered = [value for _, value in sorted(self.objects.get(path, {}).items())]
        limit, start, version = int(query.get("limit", 0)), 0, self.version
        if "continue" in query:
            epoch, start, version = map(int, query["continue"].split("."))
            if self.expire_tokens or epoch != self.token_epoch:
                return failure(410, "Expired")
        end = start + limit if limit else len(ordered)
        meta = {"resourceVersion": str(version)}
        if end < len(ordered):
            meta["continue"] = f"{self.token_epoch}.{end}.{version}"
        return web.json_response({"kind": "List", "metadata": meta, "items": ordered[start:end]})

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        path, position = request.path, int(query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if self.refuse_watches:
            return response
        if position < self.oldest:
            error = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
            await response.write(json.dumps(error).encode() + b"\n")
            return response
        drops = self._drops
        sent = 0
        while True:
            for version, where, kind, value in self.history[sent:]:
                if where == path and version > position:
                    await response.write(json.dumps({"type": kind, "object": value}).encode() + b"\n")
            sent = len(self.history)
            for line in self._raw.pop(path, ()):
                await response.write(line)
            async with self._changed:
                if self._drops == drops and sent == len(self.history) and not self._raw.get(path):
                    await self._changed.wait()
            if self._drops != drops:
                assert request.transport is not None
                request.transport.abort()
                return response


def failure(status: int, reason: str, *, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "code": status, "reason": reason, "message": f"scripted {status}"}
    return web.json_response(body, status=status, headers=headers)
