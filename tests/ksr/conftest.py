"""An API server, and KSR as a task or as a process that can be killed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from contiv.ksr import main
from contiv.model import keys, kube
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.ksr import clusters
from tests.ksr.clusters import Cluster, expected

LEASE_TTL_S = 2
WAIT_S = 30.0
ASK_AGAIN_S = 3.0
STATUS_KEYS = frozenset(keys.ksr_status(kind.plural) for kind in kube.KINDS)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[clusters.ScriptedCluster]:
    async with clusters.scripted(tmp_path) as made:
        yield made


class Ksr:
    """Starts instances against one cluster and one etcd."""

    def __init__(self, cluster: Cluster, server: EmbeddedEtcd) -> None:
        self.settings: dict[str, Any] = {
            "kubeconfig": cluster.kubeconfig,
            "etcd_endpoints": [server.endpoint],
            "lease_ttl_s": LEASE_TTL_S,
            "page_limit": 7,
        }

    @asynccontextmanager
    async def task(self, **more: Any) -> AsyncIterator[asyncio.Task[None]]:
        """An instance in this process, stopped in good order."""
        task = asyncio.create_task(main.run(**(self.settings | more)))
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @asynccontextmanager
    async def process(self, **more: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        """An instance in a process of its own, killed at the end without a word."""
        argument = json.dumps(self.settings | more)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.ksr.program", argument, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@pytest.fixture
def ksr(cluster: Cluster, server: EmbeddedEtcd) -> Ksr:
    return Ksr(cluster, server)


Condition = Callable[[dict[str, bytes]], bool]


async def follow(etcd: Etcd, condition: Condition, *, within_s: float) -> tuple[bool, dict[str, bytes]]:
    """Follow everything under the root until ``condition`` holds or the time is over: whether it did, the state."""
    snapshot = await etcd.get_prefix(keys.ROOT)
    state = {key: record.value for key, record in snapshot.records.items()}
    if condition(state):
        return True, state
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            async with etcd.watch(keys.ROOT, start_revision=snapshot.revision + 1) as watch:
                async for batch in watch:
                    if batch.snapshot is not None:
                        state = {key: record.value for key, record in batch.snapshot.records.items()}
                    for event in batch.events:
                        if event.value is None:
                            state.pop(event.key, None)
                        else:
                            state[event.key] = event.value
                    if condition(state):
                        return True, state
    return False, state


async def wait_for(etcd: Etcd, condition: Condition, *, within_s: float = WAIT_S) -> dict[str, bytes]:
    """The first state of everything under the root in which ``condition`` holds."""
    held, state = await follow(etcd, condition, within_s=within_s)
    assert held, f"not within {within_s} s; etcd holds {len(state)} keys: {sorted(state)[:20]}"
    return state


def reflected(state: dict[str, bytes]) -> dict[str, bytes]:
    """The Kubernetes objects among everything that etcd holds."""
    return {key: value for key, value in state.items() if key.startswith(keys.K8S)}


def holds_exactly(objects: dict[str, bytes]) -> Condition:
    """Every kind is complete, and there are these objects and no others."""
    return lambda state: state.keys() >= STATUS_KEYS and reflected(state) == objects


async def converged(etcd: Etcd, cluster: Cluster, *, within_s: float = WAIT_S) -> None:
    """Wait until etcd holds exactly the objects that the API server has, and says that every kind is complete.

    The API server is asked again now and then: a real one goes on making objects of its own after its start.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while True:
        wanted = await expected(cluster)
        equal, state = await follow(etcd, holds_exactly(wanted), within_s=ASK_AGAIN_S)
        if equal:
            return
        different = {key for key, _ in wanted.items() ^ reflected(state).items()}
        missing = STATUS_KEYS - state.keys()
        assert loop.time() < deadline_s, f"after {within_s} s: {sorted(different)[:10]} differ, {missing} lack"


def led_by(name: str) -> Condition:
    return lambda state: state.get(keys.KSR_LEADER) == name.encode()


def synced_by(name: str) -> Condition:
    """Every kind is completely reflected by this instance."""
    return lambda state: all(key in state and json.loads(state[key])["instance"] == name for key in STATUS_KEYS)
