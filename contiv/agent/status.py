"""What an agent tells the cluster of itself: one key under a lease, so that it disappears with the agent."""

from __future__ import annotations

import asyncio
import contextlib
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


async def publish(etcd: Etcd, status: NodeStatus) -> None:
    """Keep the status in etcd until cancelled; a lease that was lost is taken anew."""
    while True:
        try:
            await _hold(etcd, status)
        except StoreError as error:
            log.warning("status not published", error=str(error), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)


async def _hold(etcd: Etcd, status: NodeStatus) -> None:
    """Return when the lease is lost."""
    lease = await etcd.lease(LEASE_TTL_S)
    try:
        await etcd.put(keys.node_status(status.name), msgspec.json.encode(status), lease=lease)
        await lease.lost.wait()
    finally:
        # an error here would take a cancellation's place, and publish would go on; the lease expires alone
        with contextlib.suppress(StoreError):
            await lease.revoke(timeout_s=REVOKE_TIMEOUT_S)
