"""How bytes get to etcd: endpoints, TLS, the token of the user, deadlines, and what may be sent twice.

In: requests as generated messages. Out: their replies, or one of ``contiv.store.errors``. One gRPC channel an
endpoint, one endpoint in use at a time; a monitor keeps it connected and moves to the next one when it fails.

What is sent again (``Repeat``): reads whenever the connection breaks; writes that are idempotent by nature
the same way, but not after a timeout, when the first may still be on its way; everything else only while it
is certain that nothing was sent or applied. Callers choose, ``contiv.store.client`` says which is which.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import grpc
import grpc.aio
import msgspec
import structlog
from pyetcd.etcdrpc import rpc_pb2 as rpc
from pyetcd.etcdrpc import rpc_pb2_grpc as rpc_grpc

from contiv.errors import ConfigError
from contiv.store.errors import (
    REACH_REMEDY,
    StoreDenied,
    StoreFailure,
    StoreUnavailable,
    stream_end,
    translate,
)

log = structlog.get_logger(__name__)

ATTEMPTS_MAX: Final = 20
"""Of one call. The call's timeout normally ends it first."""
TOKEN_RENEWALS_MAX: Final = 2
"""Of one call."""
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 2.0
"""For one endpoint when there are others to try."""
ROUND_PAUSE_S: Final = 0.2
"""Between rounds over endpoints that all fail."""
RECEIVE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one reply. Pages and fragments keep replies far below; a page that is larger is asked for in halves."""
KEEPALIVE_S: Final = 10
"""Ping interval of a connection with open calls; etcd tolerates one in 5 s (--grpc-keepalive-min-time)."""
KEEPALIVE_TIMEOUT_S: Final = 5
DIAGNOSIS_TIMEOUT_S: Final = 0.5
CLOSE_GRACE_S: Final = 0.0

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", int(BACKOFF_MIN_S * 1000)),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", int(BACKOFF_MAX_S * 1000)),
    ("grpc.use_local_subchannel_pool", 1),  # another client's backoff is not ours
    ("grpc.enable_http_proxy", 0),  # etcd is infrastructure: a proxy of the environment is never meant for it
)


class TlsConfig(msgspec.Struct, frozen=True):
    """PEM files. ``ca`` None: the system's authorities. ``cert`` and ``key`` together, when etcd asks for a
    client's.

    ``server_name`` replaces the endpoint's host in the check of the server's certificate.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""


class AuthConfig(msgspec.Struct, frozen=True):
    """A user of etcd's own authentication."""

    user: str
    password: str


class Repeat(enum.Enum):
    """When a call may be sent again; see the module's text."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    IF_UNSENT = "if unsent"

    def allows(self, failure: StoreUnavailable) -> bool:
        """Whether a call that failed so may be sent again."""
        if not failure.uncertain or self is Repeat.READ:
            return True
        return self is Repeat.IDEMPOTENT and not failure.timed_out


class Connection:
    """One endpoint: its channel and the stubs over it."""

    def __init__(self, endpoint: str, tls: TlsConfig | None) -> None:
        self.endpoint = endpoint
        self.channel = _open_channel(endpoint, tls)
        self.kv: Any = rpc_grpc.KVStub(self.channel)
        self.watch: Any = rpc_grpc.WatchStub(self.channel)
        self.lease: Any = rpc_grpc.LeaseStub(self.channel)
        self.maintenance: Any = rpc_grpc.MaintenanceStub(self.channel)
        self.auth: Any = rpc_grpc.AuthStub(self.channel)


ConnectionCallback = Callable[[bool], Awaitable[None] | None]


class Transport:
    """The endpoints of one cluster. ``start`` before use, ``close`` at the end; made by ``Etcd.connect``."""

    def __init__(
        self, endpoints: Sequence[str], *, tls: TlsConfig | None, auth: AuthConfig | None, timeout_s: float
    ) -> None:
        if not endpoints:
            raise ConfigError("etcd.endpoints", list(endpoints), "is empty", remedy="name at least one URL")
        self.timeout_s = timeout_s
        self.closed = False
        self.repeats = 0
        self.connects = 0
        self._auth = auth
        self._token: str | None = None
        self._auth_lock = asyncio.Lock()
        self._connections = tuple(Connection(endpoint, tls) for endpoint in endpoints)
        self._current = self._connections[0]
        self._ready = asyncio.Event()
        self._abandoned = asyncio.Event()
        self._callbacks: list[ConnectionCallback] = []
        self._monitor_task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the endpoint in use has a connection."""
        return self._ready.is_set()

    @property
    def endpoint(self) -> str:
        """The endpoint in use."""
        return self._current.endpoint

    def start(self) -> None:
        """Begin to connect."""
        self._monitor_task = asyncio.create_task(self._monitor(), name="etcd-connection")

    async def close(self) -> None:
        """Close every channel. Calls in flight fail with ``StoreUnavailable``."""
        self.closed = True
        if self._monitor_task is not None:
            self._monitor_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._monitor_task
        self._ready.clear()
        for connection in self._connections:
            await connection.channel.close(CLOSE_GRACE_S)

    def on_connection(self, callback: ConnectionCallback) -> None:
        """Call ``callback(connected)`` at each change; an awaitable that it returns is awaited."""
        self._callbacks.append(callback)

    async def call(
        self,
        operation: str,
        request: Any,
        method: Callable[[Connection], Any],
        *,
        key: str = "",
        repeat: Repeat = Repeat.READ,
        timeout_s: float | None = None,
    ) -> Any:
        """Send ``request`` by ``method(connection)`` and return the reply; again where ``repeat`` allows.

        ``timeout_s`` (default the client's) is for all attempts together. Raises a ``StoreFailure``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.timeout_s if timeout_s is None else timeout_s)
        renewals = 0
        for attempt in range(1, ATTEMPTS_MAX + 1):
            connection = await self.connection(operation, key=key, deadline=deadline)
            attempt_s = max(deadline - loop.time(), 0.001)
            if repeat is Repeat.READ and len(self._connections) > 1:
                attempt_s /= 2  # an endpoint that hangs must leave time for the next one
            token = self._token
            try:
                if self._auth is not None and token is None:
                    await self.renew_token(None)
                return await self._send(method(connection), request, attempt_s)
            except grpc.aio.AioRpcError as error:
                failure: StoreFailure = translate(error, operation, key=key, endpoint=connection.endpoint)
                failure.__cause__ = error
            except StoreUnavailable as unavailable:  # while authenticating, or the client is closed
                failure = unavailable
            if isinstance(failure, StoreDenied) and failure.token_expired and renewals < TOKEN_RENEWALS_MAX:
                renewals += 1
                await self.renew_token(token)
                continue
            if not isinstance(failure, StoreUnavailable):
                raise failure
            self.abandon(connection)
            pause = backoff_s(attempt)
            again = repeat.allows(failure) and attempt < ATTEMPTS_MAX and not self.closed
            if not again or loop.time() + pause >= deadline:
                raise failure
            self.repeats += 1
            await asyncio.sleep(pause)
        raise StoreUnavailable(
            operation, key=key, endpoint=self.endpoint, detail="too many attempts", remedy=REACH_REMEDY
        )

    async def connection(self, operation: str, *, key: str = "", deadline: float | None = None) -> Connection:
        """The connected endpoint; waits until ``deadline`` (loop time; None: without limit)."""
        if self.closed:
            raise self._closed_failure(operation, key)
        try:
            async with asyncio.timeout_at(deadline):
                await self._ready.wait()
        except TimeoutError:
            raise await self._diagnose(operation, key) from None
        return self._current

    async def authenticated(self, operation: str, *, key: str = "", deadline: float | None = None) -> Connection:
        """As ``connection``, with a token when there is a user. For streams; ``call`` sees to it itself."""
        connection = await self.connection(operation, key=key, deadline=deadline)
        if self._auth is not None and self._token is None:
            await self.renew_token(None)
        return connection

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """gRPC metadata of a call: the token, when there is a user."""
        return (("token", self._token),) if self._token else ()

    @property
    def token(self) -> str | None:
        """The token in use; give it to ``renew_token`` when etcd refused it."""
        return self._token

    def abandon(self, connection: Connection) -> None:
        """This endpoint answered badly: try the next one, where there is one."""
        if connection is self._current and len(self._connections) > 1:
            self._abandoned.set()

    async def stream_failed(
        self, connection: Connection, stream: Any, operation: str, *, key: str, token: str | None
    ) -> NoReturn:
        """A stream has ended: renew the token or leave the endpoint where that helps, and raise why."""
        failure = await stream_end(stream, operation, key=key, endpoint=connection.endpoint)
        if isinstance(failure, StoreDenied) and failure.token_expired:
            await self.renew_token(token)
        elif isinstance(failure, StoreUnavailable):
            self.abandon(connection)
        raise failure

    async def renew_token(self, stale: str | None) -> None:
        """Authenticate, unless another call did so since ``stale`` was read."""
        if self._auth is None:
            raise StoreDenied(
                "authenticate",
                endpoint=self.endpoint,
                detail="etcd wants a user",
                remedy="configure user and password",
            )
        async with self._auth_lock:
            if self._token != stale:
                return
            request = rpc.AuthenticateRequest(name=self._auth.user, password=self._auth.password)
            connection = self._current
            try:
                reply = await self._send(connection.auth.Authenticate, request, self.timeout_s, token=False)
            except grpc.aio.AioRpcError as error:
                if "authentication is not enabled" in (error.details() or ""):
                    log.warning("etcd_auth_disabled", endpoint=connection.endpoint, user=self._auth.user)
                    self._token = ""
                    return
                raise translate(error, "authenticate", key=self._auth.user, endpoint=connection.endpoint) from error
            self._token = reply.token

    async def _send(self, method: Any, request: Any, timeout_s: float, *, token: bool = True) -> Any:
        """One attempt. A channel closed under it raises CancelledError in grpc.aio: tell the two apart."""
        try:
            return await method(request, timeout=timeout_s, metadata=self.metadata() if token else ())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closed and not (task is not None and task.cancelling()):
                raise self._closed_failure("call", "") from None
            raise
        except grpc.aio.UsageError:
            raise self._closed_failure("call", "") from None

    def _closed_failure(self, operation: str, key: str) -> StoreUnavailable:
        failure = StoreUnavailable(
            operation, key=key, endpoint=self.endpoint, detail="the client is closed", remedy="connect again"
        )
        failure.uncertain = True
        return failure

    async def _diagnose(self, operation: str, key: str) -> StoreFailure:
        """Why nothing connects, in gRPC's words: a call that fails at once carries them."""
        connection = self._current
        detail = "no connection"
        try:
            await connection.maintenance.Status(
                rpc.StatusRequest(), timeout=DIAGNOSIS_TIMEOUT_S, metadata=self.metadata()
            )
        except grpc.aio.AioRpcError as error:
            detail = error.details() or detail
        endpoints = ", ".join(c.endpoint for c in self._connections)
        return StoreUnavailable(operation, key=key, endpoint=endpoints, detail=detail, remedy=REACH_REMEDY)

    async def _monitor(self) -> None:
        """Keep one endpoint connected; go to the next when it fails."""
        index = 0
        while True:
            self._current = self._connections[index]
            self._abandoned.clear()
            await self._follow(self._current)
            await self._announce(False)
            index = (index + 1) % len(self._connections)
            if index == 0:
                await asyncio.sleep(ROUND_PAUSE_S)

    async def _follow(self, connection: Connection) -> None:
        """Mirror the channel's state in ``connected``, until it should be given up for another endpoint."""
        alone = len(self._connections) == 1
        while not self._abandoned.is_set():
            state = connection.channel.get_state(try_to_connect=True)
            ready = state is grpc.ChannelConnectivity.READY
            await self._announce(ready)
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and not alone:
                return
            limit = None if ready or alone else CONNECT_TIMEOUT_S
            try:
                async with asyncio.timeout(limit):
                    await self._state_change(connection, state)
            except TimeoutError:
                return

    async def _state_change(self, connection: Connection, state: grpc.ChannelConnectivity) -> None:
        """Wait until the channel leaves ``state`` or somebody abandons it."""
        changed = asyncio.ensure_future(connection.channel.wait_for_state_change(state))
        abandoned = asyncio.ensure_future(self._abandoned.wait())
        try:
            await asyncio.wait((changed, abandoned), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in (changed, abandoned):
                waiter.cancel()
            await asyncio.gather(changed, abandoned, return_exceptions=True)

    async def _announce(self, connected: bool) -> None:
        if connected == self._ready.is_set():
            return
        if connected:
            self.connects += 1
            self._ready.set()
        else:
            self._ready.clear()
        log.info("etcd_connection", endpoint=self.endpoint, connected=connected)
        for callback in self._callbacks:
            try:
                result = callback(connected)
                if result is not None:
                    await result
            except Exception:  # a listener's defect must not end the connection
                log.exception("etcd_connection_callback_failed", connected=connected)


def backoff_s(attempt: int) -> float:
    """Pause after the n-th failure (from 1): doubles up to BACKOFF_MAX_S, its upper half random."""
    ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(attempt - 1, 16))
    return ceiling * random.uniform(0.5, 1.0)


def _open_channel(endpoint: str, tls: TlsConfig | None) -> grpc.aio.Channel:
    parts = urlsplit(endpoint)
    remedy = "write http://host:port, https://host:port or unix:///path"
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise ConfigError("etcd.endpoints", endpoint, "a unix endpoint needs an absolute path", remedy=remedy)
        return grpc.aio.insecure_channel(f"unix:{parts.path}", options=_CHANNEL_OPTIONS)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise ConfigError("etcd.endpoints", endpoint, "is no URL of an etcd", remedy=remedy)
    target = parts.netloc if ":" in parts.netloc.rpartition("]")[2] else f"{parts.netloc}:2379"
    if parts.scheme == "http":
        return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
    tls = tls or TlsConfig()
    credentials = grpc.ssl_channel_credentials(
        _read(tls.ca, "etcd.tls.ca"), _read(tls.key, "etcd.tls.key"), _read(tls.cert, "etcd.tls.cert")
    )
    names = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    return grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS + names)


def _read(path: Path | None, field: str) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(field, str(path), f"cannot be read ({error.strerror})", remedy="give a PEM file") from error
