"""A process that reflects while it leads: credentials, etcd, election, metrics, one reflector a collection.

Every instance connects and campaigns; only the one that won reflects. A leadership that is lost ends all
reflectors at once, and the instance campaigns again. What cannot be used (kubeconfig, endpoints, address)
ends ``lead`` at the start with ConfigError; what may heal (etcd away, API server away, RBAC) is retried for
ever, logged and counted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from contiv import metrics as process_metrics
from contiv.errors import ContivError, StoreError
from contiv.kube.access import AccessSource
from contiv.kube.backoff import Backoff
from contiv.kube.client import KubeClient
from contiv.log import get_logger
from contiv.reflection.metrics import ReflectionMetrics
from contiv.reflection.reflector import Reflector
from contiv.reflection.seat import Seat
from contiv.store.client import Etcd
from contiv.store.election import TTL_S, Election, Leadership
from contiv.store.errors import StoreConflict
from contiv.store.transport import AuthConfig, TlsConfig

ETCD_TIMEOUT_S: Final = 5.0

log = get_logger(__name__)


class Deposed(ContivError):
    """This instance leads no more; another one does, or will."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One process of several that may lead. ``process`` names its metrics and logs, ``key`` the leader in etcd.

    ``kubeconfig`` None: KUBECONFIG, the pod's service account, or ~/.kube/config. ``metrics_address``:
    host:port, :port or unix:/path, None for no server. ``lease_ttl_s``: how long a dead leader blocks its
    successor.
    """

    process: str
    key: str
    kubeconfig: str | None
    etcd_endpoints: Sequence[str]
    etcd_tls: TlsConfig | None = None
    etcd_auth: AuthConfig | None = None
    context: str | None = None
    metrics_address: str | None = None
    instance: str | None = None
    lease_ttl_s: int = TTL_S
    registry: CollectorRegistry | None = None


def instance_name() -> str:
    """A name that no other instance has: host, process, and a random part for containers that share both."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


async def lead(candidate: Candidate, reflectors: Callable[[Seat], Sequence[Reflector]]) -> None:
    """Reflect while leading, for ever, by ``reflectors`` made anew for each leadership."""
    name = candidate.instance or instance_name()
    source = AccessSource(candidate.kubeconfig, context=candidate.context)
    await source.current()
    registry = candidate.registry or process_metrics.registry()
    health = process_metrics.Health()
    figures = ReflectionMetrics(registry, candidate.process)
    async with AsyncExitStack() as stack:
        if candidate.metrics_address:
            await stack.enter_async_context(process_metrics.serve(candidate.metrics_address, registry, health))
        etcd = await stack.enter_async_context(
            await Etcd.connect(
                candidate.etcd_endpoints,
                tls=candidate.etcd_tls,
                auth=candidate.etcd_auth,
                timeout_s=ETCD_TIMEOUT_S,
                wait=False,
            )
        )
        health.add_readiness("etcd", lambda: None if etcd.connected else "not connected")
        client = await stack.enter_async_context(KubeClient(source, user_agent=f"contiv-{candidate.process}"))
        election = Election(etcd, candidate.key, name=name, ttl_s=candidate.lease_ttl_s)
        log.info("started", process=candidate.process, instance=name, etcd=list(candidate.etcd_endpoints))
        backoff = Backoff()
        while True:
            try:
                async with await election.campaign() as leadership:
                    backoff.reset()
                    seat = Seat(client=client, etcd=etcd, guard=leadership.guard, instance=name, metrics=figures)
                    await _lead(leadership, seat, reflectors(seat), health=health)
            except StoreError as error:
                log.warning("campaign_failed", instance=name, error=str(error))
                await asyncio.sleep(backoff.next_s())


async def _lead(
    leadership: Leadership, seat: Seat, reflectors: Sequence[Reflector], *, health: process_metrics.Health
) -> None:
    """Reflect until the leadership ends; then everything here has stopped."""

    def unsynced() -> str | None:
        waiting = [reflector.collection.plural for reflector in reflectors if not reflector.synced]
        return f"not yet reflected: {', '.join(waiting)}" if waiting else None

    health.add_readiness("reflection", unsynced)
    seat.metrics.leader.set(1)
    try:
        async with asyncio.TaskGroup() as group:
            for reflector in reflectors:
                group.create_task(reflector.run(), name=f"reflect-{reflector.collection.plural}")
            group.create_task(_until_lost(leadership), name="leadership")
    except* (Deposed, StoreConflict) as errors:
        log.warning("leadership_ended", instance=seat.instance, reason=str(_first(errors)))
    finally:
        seat.metrics.leader.set(0)
        health.add_readiness("reflection", lambda: None)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _until_lost(leadership: Leadership) -> None:
    await leadership.lost.wait()
    raise Deposed("the lease of the leader's key ended")
