"""A lease: keys that vanish when their owner does.

Granted by ``Etcd.lease``; a task renews it every third of its time to live. ``lost`` is set as soon as etcd
says that the lease is gone, or when our own clock says that it may be: a time to live after the *sending* of
the last renewal that was answered, which is never later than etcd's own opinion. After that nothing renews it
any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import grpc.aio
import structlog
from pyetcd.etcdrpc import rpc_pb2 as rpc

from contiv.store.errors import LeaseLost, StoreFailure, StoreRefused
from contiv.store.transport import Repeat, Transport, backoff_s

log = structlog.get_logger(__name__)

TTL_MIN_S: Final = 1
TTL_MAX_S: Final = 9_000_000_000
"""etcd's own limit (lease/lessor.go)."""
RENEWALS_PER_TTL: Final = 3


class Lease:
    """Use ``Etcd.lease`` to get one. ``id`` goes into puts; ``lost`` is set once, for good."""

    def __init__(self, transport: Transport, lease_id: int, ttl_s: int, granted_at: float) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.lost = asyncio.Event()
        self._transport = transport
        self._expires_at = granted_at + ttl_s
        self._end_callbacks: list[Callable[[Lease], None]] = []
        self._task = asyncio.create_task(self._keep_alive(), name=f"etcd-lease-{lease_id:x}")

    @classmethod
    async def grant(cls, transport: Transport, ttl_s: int, *, timeout_s: float | None = None) -> Self:
        """Ask etcd for a lease. When the answer is lost, nobody renews what was granted: it expires alone."""
        if not TTL_MIN_S <= ttl_s <= TTL_MAX_S:
            raise StoreRefused(
                "lease grant",
                detail=f"time to live of {ttl_s} s",
                remedy=f"choose whole seconds from {TTL_MIN_S} to {TTL_MAX_S}",
            )
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        reply = await transport.call(
            "lease grant",
            rpc.LeaseGrantRequest(TTL=ttl_s),
            lambda c: c.lease.LeaseGrant,
            repeat=Repeat.IDEMPOTENT,
            timeout_s=timeout_s,
        )
        return cls(transport, reply.ID, reply.TTL, asked_at)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.revoke()

    def on_end(self, callback: Callable[[Lease], None]) -> None:
        """Call once the lease is revoked or abandoned."""
        self._end_callbacks.append(callback)

    async def revoke(self, *, timeout_s: float | None = None) -> None:
        """Give it back: its keys are deleted at once. Idempotent. StoreUnavailable: it expires alone."""
        await self.abandon()
        with contextlib.suppress(LeaseLost):
            await self._transport.call(
                "lease revoke",
                rpc.LeaseRevokeRequest(ID=self.id),
                lambda c: c.lease.LeaseRevoke,
                repeat=Repeat.IDEMPOTENT,
                timeout_s=timeout_s,
            )

    async def abandon(self) -> None:
        """Stop renewing; the keys stay until it expires."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.lost.set()
        for callback in self._end_callbacks:
            callback(self)

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            async with asyncio.timeout_at(self._expires_at) as expiry:
                while True:
                    try:
                        await self._renew_over_one_stream(loop, expiry)
                    except StoreFailure as failure:
                        failures += 1
                        log.warning("etcd_lease_renewal_failed", lease=f"{self.id:x}", error=str(failure))
                        await asyncio.sleep(min(backoff_s(failures), self.ttl_s / RENEWALS_PER_TTL))
                    else:
                        return  # etcd said that the lease is gone
        except TimeoutError:
            log.warning("etcd_lease_expired", lease=f"{self.id:x}", ttl_s=self.ttl_s)
        finally:
            self.lost.set()

    async def _renew_over_one_stream(self, loop: asyncio.AbstractEventLoop, expiry: asyncio.Timeout) -> None:
        """Renew until etcd says that the lease is gone (returns) or the stream breaks (StoreFailure)."""
        connection = await self._transport.authenticated("lease renewal", key=f"{self.id:x}")
        token = self._transport.token
        stream: Any = connection.lease.LeaseKeepAlive(metadata=self._transport.metadata())
        try:
            while True:
                sent_at = loop.time()
                await stream.write(rpc.LeaseKeepAliveRequest(ID=self.id))
                reply = await stream.read()
                if reply is grpc.aio.EOF:
                    break
                if reply.TTL <= 0:
                    log.warning("etcd_lease_gone", lease=f"{self.id:x}")
                    return
                expiry.reschedule(sent_at + reply.TTL)
                await asyncio.sleep(self.ttl_s / RENEWALS_PER_TTL)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended; its status says why
        finally:
            stream.cancel()
        await self._transport.stream_failed(connection, stream, "lease renewal", key=f"{self.id:x}", token=token)
