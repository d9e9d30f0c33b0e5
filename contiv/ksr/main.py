"""KSR's composition root: credentials, etcd, election, one reflector a kind, metrics; runs until cancelled.

Every instance connects and campaigns; only the one that won reflects. A leadership that is lost ends all
reflectors at once, and the instance campaigns again. What cannot be used (kubeconfig, endpoints, address)
ends ``run`` at the start with ConfigError; what may heal (etcd away, API server away, RBAC) is retried for
ever, logged and counted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from prometheus_client import CollectorRegistry

from contiv import metrics as process_metrics
from contiv.errors import ContivError, StoreError
from contiv.ksr.metrics import KsrMetrics
from contiv.ksr.reflector import Reflector
from contiv.kube.access import AccessSource
from contiv.kube.backoff import Backoff
from contiv.kube.client import KubeClient
from contiv.kube.listing import PAGE_LIMIT
from contiv.log import get_logger
from contiv.model import keys, kube
from contiv.store.client import Etcd
from contiv.store.election import TTL_S, Election, Leadership
from contiv.store.errors import StoreConflict
from contiv.store.transport import AuthConfig, TlsConfig

ETCD_TIMEOUT_S: Final = 5.0

log = get_logger(__name__)


class Deposed(ContivError):
    """This instance leads no more; another one does, or will."""


def instance_name() -> str:
    """A name that no other instance has: host, process, and a random part for containers that share both."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


async def run(
    *,
    kubeconfig: str | None,
    etcd_endpoints: Sequence[str],
    etcd_tls: TlsConfig | None = None,
    etcd_auth: AuthConfig | None = None,
    context: str | None = None,
    metrics_address: str | None = None,
    instance: str | None = None,
    lease_ttl_s: int = TTL_S,
    page_limit: int = PAGE_LIMIT,
    kinds: Sequence[kube.AnyKind] = kube.KINDS,
    registry: CollectorRegistry | None = None,
) -> None:
    """Reflect while leading, for ever.

    ``kubeconfig`` None: KUBECONFIG, the pod's service account, or ~/.kube/config. ``metrics_address``:
    host:port, :port or unix:/path, None for no server. ``lease_ttl_s``: how long a dead leader blocks its
    successor.
    """
    name = instance or instance_name()
    source = AccessSource(kubeconfig, context=context)
    await source.current()
    registry = registry or process_metrics.registry()
    health = process_metrics.Health()
    figures = KsrMetrics(registry)
    async with AsyncExitStack() as stack:
        if metrics_address:
            await stack.enter_async_context(process_metrics.serve(metrics_address, registry, health))
        etcd = await stack.enter_async_context(
            await Etcd.connect(etcd_endpoints, tls=etcd_tls, auth=etcd_auth, timeout_s=ETCD_TIMEOUT_S, wait=False)
        )
        health.add_readiness("etcd", lambda: None if etcd.connected else "not connected")
        client = await stack.enter_async_context(KubeClient(source))
        election = Election(etcd, keys.KSR_LEADER, name=name, ttl_s=lease_ttl_s)
        log.info("ksr_started", instance=name, etcd=list(etcd_endpoints))
        backoff = Backoff()
        while True:
            try:
                async with await election.campaign() as leadership:
                    backoff.reset()
                    reflectors = [
                        Reflector(
                            kind,
                            client=client,
                            etcd=etcd,
                            guard=[leadership.guard],
                            instance=name,
                            metrics=figures,
                            page_limit=page_limit,
                        )
                        for kind in kinds
                    ]
                    await _lead(leadership, reflectors, health=health, figures=figures)
            except StoreError as error:
                log.warning("campaign_failed", instance=name, error=str(error))
                await asyncio.sleep(backoff.next_s())


async def _lead(
    leadership: Leadership,
    reflectors: Sequence[Reflector],
    *,
    health: process_metrics.Health,
    figures: KsrMetrics,
) -> None:
    """Reflect until the leadership ends; then everything here has stopped."""

    def unsynced() -> str | None:
        waiting = [reflector.kind.plural for reflector in reflectors if not reflector.synced]
        return f"not yet reflected: {', '.join(waiting)}" if waiting else None

    health.add_readiness("reflection", unsynced)
    figures.leader.set(1)
    try:
        async with asyncio.TaskGroup() as group:
            for reflector in reflectors:
                group.create_task(reflector.run(), name=f"ksr-{reflector.kind.plural}")
            group.create_task(_until_lost(leadership), name="ksr-leadership")
    except* (Deposed, StoreConflict) as errors:
        log.warning("leadership_ended", instance=leadership.name, reason=str(errors.exceptions[0]))
    finally:
        figures.leader.set(0)
        health.add_readiness("reflection", lambda: None)


async def _until_lost(leadership: Leadership) -> None:
    await leadership.lost.wait()
    raise Deposed("the lease of the leader's key ended")
