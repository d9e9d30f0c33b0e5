"""The network face: HTTP requests to verbs, lists, watches and discovery documents, and back.

Comes in: an aiohttp low-level request. Goes out: JSON, or a chunked stream for watches. Plain HTTP on a loopback
address; every credential is accepted, nothing is authorised: an emulator guards nothing. Refuses protobuf bodies
(415) and whatever the verbs refuse, as Status objects. Faults are consulted here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from contiv.emulator.kube import discovery, lists, openapi, requests
from contiv.emulator.kube.cluster import Cluster
from contiv.emulator.kube.errors import ApiError, Json, bad_request, method_not_allowed, page_not_found
from contiv.emulator.kube.faults import Faults, Reset
from contiv.emulator.kube.requests import Target
from contiv.emulator.kube.store import Record
from contiv.emulator.kube.verbs import PATCH_TYPES
from contiv.emulator.kube.views import View, negotiate
from contiv.emulator.kube.watch import Watch

BODY_BYTES_MAX = 3 * 1024 * 1024
"""Largest request body, as the real server limits it (MaxRequestBodyBytes)."""

_HEALTH = ("/healthz", "/livez", "/readyz")


class Handler:
    """Answers the requests of one cluster."""

    def __init__(self, cluster: Cluster, *, faults: Faults) -> None:
        self._cluster = cluster
        self._faults = faults
        self.requests_total = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests_total += 1
        try:
            if request.path == "/_faults":
                return await self._control(request)
            self._faults.check_request()
            return await self._route(request)
        except ApiError as error:
            return await self._refusal(error)
        except Reset:
            return _abort(request)

    async def _control(self, request: web.BaseRequest) -> web.Response:
        if request.method == "POST":
            self._faults.order(await request.read())
        return _json(self._faults.state())

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        if path.startswith(("/api/", "/apis/")):
            document = self._discover(path) if request.method in ("GET", "HEAD") else None
            if document is None:
                return await self._serve(request, requests.target(self._cluster.kinds, path))
            return await self._answer(_encode(document))
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed()
        if path in _HEALTH or path.startswith(tuple(f"{each}/" for each in _HEALTH)):
            return web.Response(text="ok")
        if path in ("/api", "/apis"):
            return self._roots(request, core=path == "/api")
        return await self._answer(_encode(self._document(path, request)))

    def _document(self, path: str, request: web.BaseRequest) -> Json:
        kinds = self._cluster.kinds
        if path == "/":
            return discovery.paths(kinds)
        if path == "/version":
            return discovery.version()
        if path == "/openapi/v3":
            return openapi.index(kinds, stamp=str(len(tuple(kinds))))
        if path.startswith("/openapi/v3/"):
            steps = path.split("/")[3:]
            group = steps[1] if len(steps) == 3 else ""
            document = openapi.document(kinds, group, steps[-1])
            if document is not None:
                return document
        raise page_not_found()

    def _discover(self, path: str) -> Json | None:
        """The discovery document at a path, None when the path names objects."""
        steps = path.split("/")[1:]
        kinds = self._cluster.kinds
        if steps[0] == "api" and len(steps) == 2:
            return discovery.resources(kinds, "", steps[1])
        if steps[0] == "apis" and len(steps) == 2:
            return discovery.group(kinds, steps[1])
        if steps[0] == "apis" and len(steps) == 3:
            return discovery.resources(kinds, steps[1], steps[2])
        return None

    def _roots(self, request: web.BaseRequest, *, core: bool) -> web.Response:
        kinds = self._cluster.kinds
        form = discovery.wants_aggregated(request.headers.get("Accept", ""))
        if form is not None:
            document, media_type = discovery.aggregated(kinds, core=core, form=form)
            return web.Response(body=_encode(document), headers={"Content-Type": media_type})
        return _json(discovery.api_versions(request.host) if core else discovery.groups(kinds))

    async def _serve(self, request: web.BaseRequest, where: Target) -> web.StreamResponse:
        """An object or a collection."""
        method = request.method
        if method in ("GET", "HEAD"):
            return await self._read(request, where)
        body = await request.read()
        view = _view(request)
        if method == "POST":
            return await self._create(request, where, body, view)
        if method == "DELETE":
            return await self._delete(request, where, body, view)
        if not where.name or method not in ("PUT", "PATCH"):
            raise method_not_allowed()
        options = requests.write_options(request.query, user_agent=request.headers.get("User-Agent", ""))
        verbs, media_type = self._cluster.verbs, request.content_type
        if method == "PUT":
            document = requests.decode(body, media_type=media_type)
            record = verbs.update(
                where.kind, where.key, document=document, subresource=where.subresource, options=options
            )
            return await self._answer(view.single(where.kind, record), warnings=options.warnings)
        if media_type not in PATCH_TYPES:
            raise bad_request(f"unsupported patch type {media_type}")
        record, created = verbs.patch(
            where.kind,
            where.key,
            media_type=media_type,
            body=requests.decode(body, media_type=media_type),
            subresource=where.subresource,
            options=options,
        )
        return await self._answer(
            view.single(where.kind, record), code=201 if created else 200, warnings=options.warnings
        )

    async def _read(self, request: web.BaseRequest, where: Target) -> web.StreamResponse:
        view = _view(request)
        if requests.flag(request.query, "watch"):
            return await self._watch(request, where, view)
        if where.name:
            record = self._cluster.verbs.get(where.kind, where.key)
            return await self._answer(view.single(where.kind, record))
        query = requests.list_query(where, request.query)
        return await self._answer(view.page(where.kind, lists.page(self._cluster.store, where.kind, query=query)))

    async def _create(self, request: web.BaseRequest, where: Target, body: bytes, view: View) -> web.Response:
        document = requests.decode(body, media_type=request.content_type)
        verbs = self._cluster.verbs
        if where.subresource == "binding":
            verbs.bind(where.key, document=document)
            return await self._answer(_encode(_success()), code=201)
        if where.subresource == "eviction":
            options = requests.delete_options({}, body=_encode(document.get("deleteOptions") or {}), media_type="")
            verbs.delete(where.kind, where.key, options=options)
            return await self._answer(_encode(_success()), code=201)
        if where.name or (where.kind.namespaced and not where.namespace):
            raise method_not_allowed()
        write = requests.write_options(request.query, user_agent=request.headers.get("User-Agent", ""))
        record = verbs.create(where.kind, where.namespace, document=document, options=write)
        return await self._answer(view.single(where.kind, record), code=201, warnings=write.warnings)

    async def _delete(self, request: web.BaseRequest, where: Target, body: bytes, view: View) -> web.Response:
        options = requests.delete_options(request.query, body=body, media_type=request.content_type)
        verbs, kind = self._cluster.verbs, where.kind
        if where.subresource or (kind.namespaced and not where.namespace):
            raise method_not_allowed()
        if not where.name:
            selector = requests.list_query(where, request.query).selector
            records = verbs.delete_collection(kind, where.namespace, selector=selector, options=options)
            answer = lists.Page(records, self._cluster.store.revision)
            return await self._answer(view.page(kind, answer))
        deletion = verbs.delete(kind, where.key, options=options)
        if deletion.gone and not kind.returns_deleted:
            return await self._answer(_encode(_deleted(where, deletion.record)))
        return await self._answer(view.single(kind, deletion.record))

    async def _watch(self, request: web.BaseRequest, where: Target, view: View) -> web.StreamResponse:
        self._faults.check_watch()
        watch = Watch(
            self._cluster.store,
            where.kind,
            query=requests.watch_query(where, request.query),
            view=view,
            bookmark_interval_s=self._cluster.settings.bookmark_interval_s,
        )
        await self._hold()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent = 0
        async for frames in watch.frames():
            if not frames:
                continue
            await self._hold()
            data, cut = self._faults.cut(frames, sent=sent)
            sent += len(frames)
            try:
                await response.write(data)
            except ConnectionError:
                return response
            if cut:
                return _abort(request, response)
        await response.write_eof()
        return response

    async def _hold(self) -> None:
        delay_s = self._faults.answer_delay_s()
        if delay_s:
            await asyncio.sleep(delay_s)

    async def _answer(self, body: bytes, *, code: int = 200, warnings: Sequence[str] | None = None) -> web.Response:
        await self._hold()
        response = web.Response(status=code, body=body, content_type="application/json")
        for text in warnings or ():
            quoted = text.replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{quoted}"')
        return response

    async def _refusal(self, error: ApiError) -> web.Response:
        await self._hold()
        if error.reason == "PageNotFound":
            return web.Response(status=404, text="404 page not found\n")
        response = _json(error.status(), code=error.code)
        retry_after = (error.details or {}).get("retryAfterSeconds")
        if retry_after:
            response.headers["Retry-After"] = str(retry_after)
        return response


def _view(request: web.BaseRequest) -> View:
    return negotiate(request.headers.get("Accept", ""), include=request.query.get("includeObject", ""))


def _encode(document: Any) -> bytes:
    return msgspec.json.encode(document) + b"\n"


def _json(document: Json, *, code: int = 200) -> web.Response:
    return web.Response(status=code, body=_encode(document), content_type="application/json")


def _abort(request: web.BaseRequest, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Cut the connection; the answer that aiohttp needs goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return response if response is not None else web.Response()


def _success() -> Json:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _deleted(where: Target, record: Record) -> Json:
    """What delete answers for kinds that do not return the object."""
    details: Json = {"name": where.name}
    if where.kind.group:
        details["group"] = where.kind.group
    details |= {"kind": where.kind.plural, "uid": record.content["metadata"]["uid"]}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }
