"""contiv.agent.persistence on a real etcd and a real disk: what is written outlives etcd, agent and either disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contiv.agent import persistence as module
from contiv.agent.persistence import Persistence
from contiv.config import Config
from contiv.model import keys
from contiv.network.ipam import ClusterSubnets
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.mirror import LocalMirror

WAIT_S = 20.0


def key(name: str) -> str:
    return keys.attachment("node1", f"{name}/eth0")


@asynccontextmanager
async def started(server: EmbeddedEtcd, disk: Path) -> AsyncIterator[tuple[Persistence, LocalMirror, Etcd]]:
    """A node's persistence as an agent uses it, sending in the background."""
    config = Config()
    async with (
        await LocalMirror.open(disk / "mirror.db") as mirror,
        await Etcd.connect([server.endpoint], timeout_s=1, wait=False) as etcd,
    ):
        made = Persistence(etcd, mirror, ClusterSubnets.of(config), node="node1", on_moved=lambda: None)
        task = asyncio.create_task(made.settle())
        try:
            yield made, mirror, etcd
        finally:
            task.cancel()
            await asyncio.wait([task])


async def stored(etcd: Etcd) -> dict[str, bytes]:
    return (await etcd.get_prefix(keys.vswitch("node1"))).values


async def attachments(made: Persistence, etcd: Etcd) -> dict[str, bytes]:
    """What an agent that starts now works with."""
    return await made.attachments(await stored(etcd))


async def until_sent(made: Persistence) -> None:
    async with asyncio.timeout(WAIT_S):
        while made.unsent:
            await asyncio.sleep(0.02)


async def test_pods_come_and_go_while_etcd_is_away_and_it_learns_the_last_word(
    server: EmbeddedEtcd, tmp_path: Path
) -> None:
    async with started(server, tmp_path) as (made, _, etcd):
        async with asyncio.timeout(WAIT_S):
            while not etcd.connected:
                await asyncio.sleep(0.01)
        await made.write({key("stays"): b"1", key("leaves"): b"1"})
        assert made.unsent == 0
        await server.kill()
        await made.write({key("comes"): b"1", key("leaves"): None})
        await made.write({key("flits"): b"1"})
        await made.write({key("flits"): None, key("comes"): b"2"})
        assert made.unsent == 3
        await server.restart()
        await until_sent(made)
        assert await stored(etcd) == {key("stays"): b"1", key("comes"): b"2"}


async def test_an_agent_that_restarts_meanwhile_knows_what_etcd_does_not(server: EmbeddedEtcd, tmp_path: Path) -> None:
    async with started(server, tmp_path) as (made, _, etcd):
        await made.write({key("stays"): b"1", key("leaves"): b"1"})
        await until_sent(made)
        await server.kill()
        await made.write({key("comes"): b"1", key("leaves"): None})
    async with started(server, tmp_path) as (made, _, etcd):
        assert await made.attachments(None) == {key("stays"): b"1", key("comes"): b"1"}
        await server.restart()
        await until_sent(made)
        assert await stored(etcd) == {key("stays"): b"1", key("comes"): b"1"}
        assert await attachments(made, etcd) == {key("stays"): b"1", key("comes"): b"1"}


async def test_what_etcd_lost_comes_from_the_mirror_and_what_the_disk_lost_from_etcd(
    server: EmbeddedEtcd, tmp_path: Path
) -> None:
    async with started(server, tmp_path) as (made, _, _):
        await made.write({key("a"): b"1"})
        await until_sent(made)
    await server.wipe()
    async with started(server, tmp_path) as (made, _, etcd):
        assert await attachments(made, etcd) == {key("a"): b"1"}
        await until_sent(made)
        assert await stored(etcd) == {key("a"): b"1"}
    async with started(server, tmp_path / "new disk") as (made, mirror, etcd):
        assert await attachments(made, etcd) == {key("a"): b"1"}
        assert await mirror.load(keys.VSWITCH) == {key("a"): b"1"}


async def test_a_mirror_that_fell_behind_brings_no_pod_back(server: EmbeddedEtcd, tmp_path: Path) -> None:
    async with started(server, tmp_path) as (made, mirror, etcd):
        await made.write({key("a"): b"1", key("b"): b"1"})
        await until_sent(made)
        file = mirror._file
        assert file is not None
        await mirror._in_thread(lambda: file.execute("PRAGMA query_only = ON"))  # a disk that became read-only
        await made.write({key("a"): None})
        assert keys.mirror_behind("node1") in await stored(etcd)
    async with started(server, tmp_path) as (made, mirror, etcd):
        assert await attachments(made, etcd) == {key("b"): b"1"}
        assert await mirror.load(keys.VSWITCH) == {key("b"): b"1"}
        assert await stored(etcd) == {key("b"): b"1"}


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.dictionaries(st.sampled_from("abc"), st.none() | st.sampled_from([b"1", b"2"]), min_size=1),
        ),
        st.tuples(st.sampled_from(["etcd dies", "etcd returns", "agent restarts", "etcd is wiped", "disk is lost"])),
    ),
    max_size=8,
)


@settings(max_examples=12, deadline=None)
@given(steps=STEPS)
def test_any_order_of_outages_keeps_the_last_word(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """One of etcd and disk may be lost at a time, and only what both had can be asked for."""
    directory = tmp_path_factory.mktemp("outages")

    async def run() -> None:
        expected: dict[str, bytes] = {}
        disk, up = 0, True
        async with EmbeddedEtcd(directory / "e") as server:
            context = started(server, directory / str(disk))
            made, _, etcd = await context.__aenter__()
            for name, *arguments in steps:
                if name == "write":
                    changes = {key(pod): value for pod, value in arguments[0].items()}  # type: ignore[attr-defined]
                    await made.write(changes)
                    expected = {k: v for k, v in {**expected, **changes}.items() if v is not None}
                elif name == "etcd dies":
                    await server.kill()
                    up = False
                elif name == "etcd returns" and not up:
                    await server.restart()
                    up = True
                elif name == "etcd is wiped" and up:
                    await server.wipe()
                    await made.write(dict(expected))  # as the network capability does when its keys are gone
                elif name in ("agent restarts", "disk is lost"):
                    if name == "disk is lost":
                        if not up:
                            continue
                        await until_sent(made)
                        disk += 1
                    await context.__aexit__(None, None, None)
                    context = started(server, directory / str(disk))
                    made, _, etcd = await context.__aenter__()
                    assert await made.attachments(await stored(etcd) if up else None) == expected
            if not up:
                await server.restart()
            await until_sent(made)
            assert await stored(etcd) == expected
            await context.__aexit__(None, None, None)

    with mock.patch.object(module, "RETRY_S", 0.05):
        asyncio.run(run())


async def test_who_shows_the_node_s_address_hears_of_another_one_when_the_claim_has_it(
    server: EmbeddedEtcd, tmp_path: Path
) -> None:
    async with started(server, tmp_path) as (made, _, etcd):
        await made.reclaim()
        assert not made.readdressed.is_set()
        await made.readdress("192.0.2.7/24")
        assert made.readdressed.is_set()
        (claim,) = (await etcd.get_prefix(keys.NODE_IDS)).values.values()
        assert b"192.0.2.7/24" in claim
