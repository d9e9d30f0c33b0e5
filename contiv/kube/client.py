"""HTTP to the API server: one session, GETs of whole bodies and of streams, merge patches, failures as
``contiv.kube.errors``.

In: an ``AccessSource``. Out: bytes. It retries exactly one thing, a 401, once with credentials read anew;
every other failure goes to the caller, who knows what it was for. Compression is not asked for: KSR sits
beside the API server, and inflating a list costs more than decoding it. Next: ``listing`` and ``watching``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import aiohttp

from contiv.errors import ConfigError
from contiv.kube.access import Access, AccessSource
from contiv.kube.errors import KubeGarbled, KubeUnavailable, from_status

CONNECT_TIMEOUT_S: Final = 5.0
BODY_TIMEOUT_S: Final = 60.0
"""The API server's own limit for requests that are no watch (--request-timeout)."""
BODY_BYTES_MAX: Final = 1 << 30
"""An unpaged list of 150,000 pods of 5 kB is 750 MB; more is refused before it fills the memory."""
ERROR_BYTES_MAX: Final = 64 * 1024
CHUNK_BYTES: Final = 256 * 1024
"""Read buffer of a connection: watches hand on what has arrived, up to twice this, as one batch."""
MERGE_PATCH: Final = "application/merge-patch+json"
"""RFC 7396."""


class KubeClient:
    """A session with the API server; an async context manager."""

    def __init__(self, source: AccessSource, *, user_agent: str = "contiv") -> None:
        self._source = source
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # Lists and watches of six kinds; no limit here would only hide a leak.
            connector=aiohttp.TCPConnector(limit=64, ttl_dns_cache=10),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": self._user_agent,
            },
            read_bufsize=CHUNK_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, *, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a GET, at most BODY_BYTES_MAX within BODY_TIMEOUT_S. KubeFailure when there is none."""
        async with self.stream(path, params=params, read_timeout_s=BODY_TIMEOUT_S) as content:
            body = bytearray()
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    async for chunk in content.iter_any():
                        body += chunk
                        if len(body) > BODY_BYTES_MAX:
                            detail = f"more than {BODY_BYTES_MAX} bytes"
                            raise KubeGarbled(f"GET {path}", detail=detail, remedy="lower the page limit")
            except TimeoutError as error:
                detail = f"no complete answer in {BODY_TIMEOUT_S:g} s"
                raise KubeUnavailable(f"GET {path}", detail=detail, remedy="retried with backoff") from error
            return bytes(body)

    async def patch(self, path: str, change: bytes) -> None:
        """Merge ``change``, JSON, into the object at ``path``; KubeFailure when the server does not take it."""
        async with self._answered("PATCH", path, {}, body=change, read_timeout_s=BODY_TIMEOUT_S) as content:
            await content.read()

    @asynccontextmanager
    async def stream(
        self, path: str, *, params: Mapping[str, str] | None = None, read_timeout_s: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a GET as it arrives; silence longer than ``read_timeout_s`` is KubeUnavailable.

        Failures of the connection inside the ``async with`` come out as KubeUnavailable too.
        """
        async with self._answered("GET", path, params or {}, read_timeout_s=read_timeout_s) as content:
            yield content

    @asynccontextmanager
    async def _answered(
        self, method: str, path: str, params: Mapping[str, str], *, body: bytes | None = None, read_timeout_s: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a good answer; KubeFailure for any other, and for a connection that fails before its end."""
        request = f"{method} {path}"
        try:
            response = await self._open(method, path, params, body=body, read_timeout_s=read_timeout_s)
            async with response:
                if response.status != 200:
                    body = await response.content.read(ERROR_BYTES_MAX)
                    failure = from_status(request, body, status=response.status)
                    if isinstance(failure, KubeUnavailable):
                        failure.retry_after_s = _retry_after_s(response)
                    raise failure
                yield response.content
        except aiohttp.ClientError as error:
            detail = f"{type(error).__name__}: {error}"
            raise KubeUnavailable(request, detail=detail, remedy="retried with backoff") from error
        except (TimeoutError, OSError) as error:
            detail = str(error) or type(error).__name__
            raise KubeUnavailable(request, detail=detail, remedy="retried with backoff") from error

    async def _open(
        self, method: str, path: str, params: Mapping[str, str], *, body: bytes | None, read_timeout_s: float
    ) -> aiohttp.ClientResponse:
        request = f"{method} {path}"
        access = await self._access(request)
        response = await self._send(access, method, path, params, body=body, read_timeout_s=read_timeout_s)
        if response.status != 401:
            return response
        response.release()
        self._source.refuse(access)
        access = await self._access(request)
        return await self._send(access, method, path, params, body=body, read_timeout_s=read_timeout_s)

    async def _access(self, request: str) -> Access:
        """Credentials that could be read at the start may be half written when they are read again."""
        try:
            return await self._source.current()
        except ConfigError as error:
            raise KubeUnavailable(request, detail=str(error), remedy="retried with backoff") from error

    async def _send(
        self,
        access: Access,
        method: str,
        path: str,
        params: Mapping[str, str],
        *,
        body: bytes | None,
        read_timeout_s: float,
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "use the client as an async context manager"
        headers = {"Authorization": access.authorization} if access.authorization else {}
        if body is not None:
            headers["Content-Type"] = MERGE_PATCH
        return await self._session.request(
            method,
            access.server + path,
            params=params,
            data=body,
            headers=headers,
            ssl=access.tls if access.tls is not None else True,
            server_hostname=access.server_name or None,
            proxy=access.proxy or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s),
        )


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """The Retry-After header in seconds; 0 when absent or a date."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0
