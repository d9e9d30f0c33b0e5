"""What an agent tells the cluster of itself: one key under a lease, so that it disappears with the agent."""

from __future__ import annotations

import asyncio
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


async def publish(etcd: Etcd, status: NodeStatus) -> None:
    """Keep the status in etcd until cancelled; a lease that was lost is taken anew."""
    while True:
        try:
            async with await etcd.lease(LEASE_TTL_S) as lease:
                await etcd.put(keys.node_status(status.name), msgspec.json.encode(status), lease=lease)
                await lease.lost.wait()
        except StoreError as error:
            log.warning("status not published", error=str(error), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
