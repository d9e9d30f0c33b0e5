"""What an agent tells the cluster of itself: one key under a lease, so that it disappears with the agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from contiv.errors import StoreError
from contiv.model import keys
from contiv.model.node import NodeStatus
from contiv.store.client import Etcd

log = structlog.get_logger(__name__)

LEASE_TTL_S: Final = 10
RETRY_S: Final = 2.0
REVOKE_TIMEOUT_S: Final = 1.0
CHECK_S: Final = 1.0
"""Between looks whether there is something else to say, where nobody has said so."""


async def publish(etcd: Etcd, status: Callable[[], NodeStatus], *, changed: asyncio.Event) -> None:
    """Keep the status in etcd as it is until cancelled: looked at now and then and when it ``changed``. A lost lease is
    taken anew."""
    while True:
        try:
            await _hold(etcd, status, changed)
        except StoreError as error:
            log.warning("status not published", error=str(error), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)


async def _hold(etcd: Etcd, status: Callable[[], NodeStatus], changed: asyncio.Event) -> None:
    """Return when the lease is lost."""
    lease = await etcd.lease(LEASE_TTL_S)
    lost = asyncio.create_task(lease.lost.wait())
    try:
        told = None
        while not lost.done():
            changed.clear()
            now = status()
            if now != told:
                await etcd.put(keys.node_status(now.name), msgspec.json.encode(now), lease=lease)
                told = now
            other = asyncio.create_task(changed.wait())
            await asyncio.wait([lost, other], timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED)
            other.cancel()
    finally:
        lost.cancel()
        # an error here would take a cancellation's place, and publish would go on; the lease expires alone
        with contextlib.suppress(StoreError):
            await lease.revoke(timeout_s=REVOKE_TIMEOUT_S)
