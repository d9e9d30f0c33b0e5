"""contiv.store.election: never two leaders, always one in the end."""

from __future__ import annotations

import asyncio

import pytest

from contiv.store.client import Etcd
from contiv.store.election import Election
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.errors import StoreConflict


async def test_a_leader_that_resigns_is_followed_at_once(etcd: Etcd, prefix: str) -> None:
    key = prefix + "leader"
    one, two = Election(etcd, key, name="one"), Election(etcd, key, name="two")
    first = await one.campaign()
    waiting = asyncio.create_task(two.campaign())
    await asyncio.sleep(0.05)
    assert await two.leader() == "one"
    assert not waiting.done()
    await first.resign()
    assert first.lost.is_set()
    async with asyncio.timeout(2):
        second = await waiting
    assert await one.leader() == "two"
    assert second.revision > first.revision
    await second.resign()
    assert await one.leader() is None


async def test_of_many_candidates_one_leads_at_a_time_and_all_in_the_end(etcd: Etcd, prefix: str) -> None:
    leading: list[str] = []
    led: list[str] = []

    async def candidate(name: str) -> None:
        async with await Election(etcd, prefix + "leader", name=name).campaign():
            leading.append(name)
            assert leading == [name]
            await asyncio.sleep(0.01)
            led.append(leading.pop())

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for n in range(8):
            group.create_task(candidate(str(n)))
    assert sorted(led) == [str(n) for n in range(8)]


async def test_a_leader_that_dies_is_followed_within_its_time_to_live(
    shared_etcd: EmbeddedEtcd, etcd: Etcd, prefix: str
) -> None:
    dying = await Etcd.connect([shared_etcd.endpoint])
    first = await Election(dying, prefix + "leader", name="dying", ttl_s=2).campaign()
    waiting = asyncio.create_task(Election(etcd, prefix + "leader", name="heir").campaign())
    await dying.close()
    async with asyncio.timeout(5):
        heir = await waiting
    assert first.lost.is_set()
    with pytest.raises(StoreConflict):
        await etcd.write({prefix + "x": b"by the dead"}, guard=[first.guard])
    await etcd.write({prefix + "x": b"by the heir"}, guard=[heir.guard])
    await heir.resign()


async def test_a_leader_whose_key_is_deleted_knows_it(etcd: Etcd, prefix: str) -> None:
    async with await Election(etcd, prefix, name="me").campaign() as leadership:
        await etcd.delete(prefix)
        async with asyncio.timeout(2):
            await leadership.lost.wait()


async def test_leadership_survives_a_restart_and_ends_with_the_data(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.endpoint]) as etcd:
        election = Election(etcd, "/leader", name="me")
        leadership = await election.campaign()
        await server.restart()
        assert await election.leader() == "me"
        assert not leadership.lost.is_set()
        await server.wipe()
        async with asyncio.timeout(5):
            await leadership.lost.wait()
        async with asyncio.timeout(5), await election.campaign():
            assert await election.leader() == "me"


async def test_a_candidate_waits_for_etcd_to_come_back(server: EmbeddedEtcd) -> None:
    async with await Etcd.connect([server.unix_endpoint], timeout_s=0.3) as etcd:
        await server.kill()
        campaign = asyncio.create_task(Election(etcd, "/leader", name="me").campaign())
        await asyncio.sleep(0.5)
        assert not campaign.done()
        await server.start()
        async with asyncio.timeout(10):
            leadership = await campaign
        assert not leadership.lost.is_set()
        await leadership.resign()


async def test_giving_up_a_campaign_leaves_nothing_behind(etcd: Etcd, prefix: str) -> None:
    async with await Election(etcd, prefix, name="leader").campaign() as leadership:
        campaign = asyncio.create_task(Election(etcd, prefix, name="late").campaign())
        await asyncio.sleep(0.05)
        campaign.cancel()
        with pytest.raises(asyncio.CancelledError):
            await campaign
        assert not leadership.lost.is_set()
    record = await etcd.get(prefix)
    assert record is None


async def test_observers_see_every_change(etcd: Etcd, prefix: str) -> None:
    seen: list[str | None] = []

    async def observe() -> None:
        async for name in Election(etcd, prefix, name="observer").observe():
            seen.append(name)
            if seen[-3:] == [None, "two", None]:
                return

    observing = asyncio.create_task(observe())
    await asyncio.sleep(0.05)
    for name in ("one", "two"):
        async with await Election(etcd, prefix, name=name).campaign():
            pass
    async with asyncio.timeout(5):
        await observing
    assert seen == [None, "one", None, "two", None]
