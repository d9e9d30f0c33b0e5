"""An ordinary client of the Kubernetes API: create, read, patch, bind, delete, and a watched collection.

In: a kubeconfig. Out: objects as plain dictionaries, since the demo passes most of them on unread.
Credentials, lists and watches come from ``contiv.kube``; the verbs that change something are here, for nobody
else needs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import msgspec

from contiv.errors import DemoError
from contiv.kube.access import AccessSource
from contiv.kube.client import KubeClient
from contiv.kube.errors import KubeFailure
from contiv.kube.observation import Changes, ListBegun, ListEnded
from contiv.kube.watching import observe
from contiv.log import get_logger

Object = dict[str, Any]

log = get_logger(__name__)

REQUEST_TIMEOUT_S: Final = 30.0
READY_POLL_S: Final = 0.05
CONNECTIONS: Final = 64
MERGE: Final = "application/merge-patch+json"
DETAIL_CHARS: Final = 300


class ApiRefusal(DemoError):
    """The API server answered ``status``; ``reason`` is its word for it (NotFound, AlreadyExists, …)."""

    def __init__(self, request: str, status: int, *, reason: str, message: str) -> None:
        super().__init__(f"{request}: {status} {reason}: {message[:DETAIL_CHARS]}")
        self.status = status
        self.reason = reason


class Api:
    """One session; an async context manager."""

    def __init__(self, kubeconfig: str) -> None:
        self._source = AccessSource(kubeconfig)
        self._reader = KubeClient(self._source)
        self._session: aiohttp.ClientSession | None = None
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}

    async def __aenter__(self) -> Self:
        await self._reader.__aenter__()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        await self._reader.__aexit__(kind, error, trace)

    async def ready(self) -> None:
        """Wait until the server says that it is ready; the caller sets the limit."""
        while True:
            if await self._answers():
                return
            await asyncio.sleep(READY_POLL_S)

    async def _answers(self) -> bool:
        try:
            await self.request("GET", "/readyz", raw=True)
        except (ApiRefusal, aiohttp.ClientError, TimeoutError, OSError):
            return False
        return True

    async def create(self, thing: Object, *, namespace: str = "") -> Object:
        """Create the object; ``ApiRefusal`` with reason AlreadyExists when there is one of that name."""
        return await self.request("POST", await self.collection(thing, namespace=namespace), body=thing)

    async def collection(self, thing: Object, *, namespace: str = "") -> str:
        """The path of the collection that an object belongs to, found by the server's own discovery."""
        version, kind = str(thing.get("apiVersion", "")), str(thing.get("kind", ""))
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._plurals:
            found = await self.request("GET", group)
            for resource in found.get("resources", ()):
                if "/" not in resource["name"]:
                    self._plurals[version, resource["kind"]] = (resource["name"], resource["namespaced"])
        try:
            plural, namespaced = self._plurals[version, kind]
        except KeyError:
            raise DemoError(
                f"kind {kind} of {version}: the API server does not know it; correct the manifest"
            ) from None
        place = namespace or thing["metadata"].get("namespace") or "default"
        return f"{group}/namespaces/{place}/{plural}" if namespaced else f"{group}/{plural}"

    async def patch(self, path: str, change: Object) -> Object:
        """A merge patch (RFC 7386): lists are replaced, for nobody else owns those that the demo patches."""
        return await self.request("PATCH", path, body=change, content_type=MERGE)

    async def delete(self, path: str, *, grace_s: int | None = None, uid: str = "") -> None:
        """Delete the object, that of ``uid`` alone when given; gone already is fine."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", path, body=options)
        except ApiRefusal as refusal:
            if refusal.status not in {404, 409}:
                raise

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        content_type: str = "application/json",
        raw: bool = False,
    ) -> Object:
        """One request; the decoded answer. ``ApiRefusal`` for every status from 400 up."""
        assert self._session is not None, "use the client as an async context manager"
        access = await self._source.current()
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        if access.authorization:
            headers["Authorization"] = access.authorization
        async with self._session.request(
            method,
            access.server + path,
            data=None if body is None else msgspec.json.encode(body),
            headers=headers,
            ssl=access.tls if access.tls is not None else True,
            server_hostname=access.server_name or None,
            proxy=access.proxy or None,
        ) as response:
            answer = await response.read()
            if response.status >= 400:
                raise _refusal(f"{method} {path}", response.status, answer)
        decoded: Object = {} if raw else msgspec.json.decode(answer)
        return decoded

    async def watch(
        self, path: str, selector: Mapping[str, str] | None = None
    ) -> AsyncGenerator[dict[str, Object], None]:
        """The collection as it is, again after every change: name (namespace/name) to object.

        Survives what ``contiv.kube.watching`` survives. The same dictionary is given each time, brought up to
        date.
        """
        query = f"?{urlencode(selector)}" if selector else ""
        known: dict[str, Object] = {}
        listed: dict[str, Object] = {}
        listing = False
        async with aclosing(observe(self._reader, path + query, report=_report)) as observations:
            async for seen in observations:
                match seen:
                    case ListBegun():
                        listed, listing = {}, True
                    case ListEnded():
                        known.clear()
                        known.update(listed)
                        listing = False
                    case Changes():
                        _apply(known, seen)
                    case _:
                        listed |= {key_of(thing): thing for thing in map(msgspec.json.decode, seen.items)}
                if not listing:
                    yield known


def key_of(thing: Object) -> str:
    """``namespace/name`` or ``name``."""
    meta = thing["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def pod_path(pod: Object, subresource: str = "") -> str:
    """The path of a pod, or of one of its subresources."""
    meta = pod["metadata"]
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
    return f"{path}/{subresource}" if subresource else path


def _apply(known: dict[str, Object], changes: Changes) -> None:
    for event in changes.events:
        thing = msgspec.json.decode(event.raw)
        if event.type == "DELETED":
            known.pop(key_of(thing), None)
        else:
            known[key_of(thing)] = thing


def _report(failure: KubeFailure) -> None:
    log.warning("watch failed, trying again", error=str(failure))


def _refusal(request: str, status: int, answer: bytes) -> ApiRefusal:
    try:
        said = msgspec.json.decode(answer)
        return ApiRefusal(request, status, reason=said.get("reason", ""), message=said.get("message", ""))
    except (msgspec.DecodeError, AttributeError):
        return ApiRefusal(request, status, reason="", message=answer.decode(errors="replace"))
