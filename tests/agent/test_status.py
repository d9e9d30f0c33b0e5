"""contiv.agent.status on a real etcd: the key lives and dies with the agent, whatever etcd does meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from contiv.agent.status import publish
from contiv.model import keys
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.cli.test_netctl import a_status

KEY = keys.node_status("a")


async def appears(etcd: Etcd, *, revision: int = 1) -> None:
    async with asyncio.timeout(20), etcd.watch(KEY, start_revision=revision) as watch:
        async for batch in watch:
            if any(change.value for change in batch.events):
                return
            if batch.snapshot is not None and batch.snapshot.records:
                return


async def test_the_status_goes_with_the_agent(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd:
        task = asyncio.create_task(publish(etcd, lambda: a_status("a", 1, ""), changed=asyncio.Event()))
        await appears(etcd)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        assert await etcd.get(KEY) is None


async def test_what_changes_by_itself_is_told_and_what_does_not_is_not(
    server: EmbeddedEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contiv.agent.status.CHECK_S", 0.05)
    rest = [""]
    async with await Etcd.connect([server.endpoint]) as etcd:
        task = asyncio.create_task(publish(etcd, lambda: a_status("a", 1, rest[0]), changed=asyncio.Event()))
        await appears(etcd)
        await asyncio.sleep(0.2)
        first = await etcd.get(KEY)
        assert first is not None
        assert first.version == 1
        rest[0] = "unix:/elsewhere"
        await appears(etcd, revision=first.mod_revision + 1)
        task.cancel()
        await asyncio.wait([task])


async def test_an_agent_ends_although_etcd_is_away(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd:
        task = asyncio.create_task(publish(etcd, lambda: a_status("a", 1, ""), changed=asyncio.Event()))
        await appears(etcd)
        await server.kill()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
        assert task.cancelled()


async def test_a_status_that_etcd_lost_is_there_again(server: EmbeddedEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contiv.agent.status.LEASE_TTL_S", 1)
    async with await Etcd.connect([server.endpoint]) as etcd:
        task = asyncio.create_task(publish(etcd, lambda: a_status("a", 1, ""), changed=asyncio.Event()))
        await appears(etcd)
        await server.wipe()
        await appears(etcd)
        task.cancel()
        await asyncio.wait([task])
