"""The CNI plugin as a runtime runs it, against a real agent: what comes of each command, and what is left over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from contiv.linux import links, netns
from contiv.linux.netlink import Conversation
from tests.e2e.conftest import Build
from tests.e2e.runtime import Node, names
from tests.e2e.world import eventually

pytestmark = pytest.mark.root

IN_USE: Final = 101
DATA_PLANE: Final = 100
TRY_AGAIN_LATER: Final = 11
UNKNOWN_CONTAINER: Final = 3
INVALID_ENVIRONMENT: Final = 4


@asynccontextmanager
async def node_of(build: Build) -> AsyncIterator[Node]:
    """A cluster of one node and nothing on it."""
    async with build(1) as world:
        yield Node(world)


async def test_commands_answer_as_the_specification_says(build: Build) -> None:
    async with node_of(build) as node:
        assert (await node.call("STATUS")).succeeded_silently()
        empty = await node.state()
        result = await node.attached("one")
        assert (await node.ping(result)).lost == 0
        assert (await node.call("ADD", "one")).result == result, "a repeated ADD answers the same"
        again = await asyncio.gather(*(node.call("ADD", "one") for _ in range(4)))
        assert [outcome.result for outcome in again] == [result] * 4
        assert (await node.call("CHECK", "one", more={"prevResult": result})).succeeded_silently()
        wrong = {**result, "ips": [{**result["ips"][0], "address": "10.1.1.250/32"}]}
        assert (await node.call("CHECK", "one", more={"prevResult": wrong})).error["code"] == DATA_PLANE
        unknown = await node.call("CHECK", "nobody", more={"prevResult": result})
        assert unknown.error["code"] in (UNKNOWN_CONTAINER, INVALID_ENVIRONMENT)

        assert (await node.call("DEL", "nobody")).succeeded_silently()
        assert (await node.call("DEL", "one")).succeeded_silently()
        assert (await node.call("DEL", "one")).succeeded_silently()
        assert await node.state() == empty


async def test_gc_removes_what_the_runtime_does_not_know_and_nothing_else(build: Build) -> None:
    async with node_of(build) as node:
        kept = await node.attached("kept")
        before = await node.state()
        await node.attached("stray")
        await node.attached("gone")
        netns.delete(node.world.cluster.rundir.namespace("gone"))
        valid = [{"containerID": "kept", "ifname": "eth0"}]
        assert (await node.call("GC", more={"cni.dev/valid-attachments": valid})).succeeded_silently()
        after = await node.state()
        assert names(after) == names(before)
        assert (await node.ping(kept)).lost == 0


async def test_what_is_refused_leaves_nothing_over(build: Build) -> None:
    async with node_of(build) as node:
        result = await node.attached("taken")
        node.make("other")
        before = await node.state()
        refused = [
            (await node.call("ADD", "nowhere"), "CNI_NETNS"),
            (await node.call("ADD", "taken", CNI_NETNS=node.netns("other")), "attached already"),
            (await node.call("ADD", "taken", pod="impostor"), "attached already"),
            (await node.call("ADD", "other", CNI_NETNS=node.world.node(1).netns), "namespace"),
            (await node.call("ADD", "other", CNI_IFNAME="../../etc/x"), ""),
            (await node.call("ADD", "other", CNI_IFNAME="a" * 16), ""),
            (await node.call("ADD", "other", CNI_IFNAME="lo"), ""),
            (await node.call("ADD", "other", CNI_IFNAME="e th"), ""),
            (await node.call("ADD", "other", CNI_CONTAINERID="../x"), ""),
        ]
        for outcome, words in refused:
            assert words in outcome.error["msg"] + outcome.error.get("details", ""), outcome.stdout
        assert await node.state() == before
        assert (await node.ping(result)).lost == 0


async def test_an_add_that_fails_in_the_pods_namespace_is_rolled_back(build: Build) -> None:
    async with node_of(build) as node:
        neighbour = await node.attached("neighbour")
        before = await node.state()
        await node.world.cluster.workers.inside(node.make("broken"), occupy)
        outcomes = await asyncio.gather(node.call("ADD", "broken"), node.call("ADD", "broken"))
        for outcome in outcomes:
            assert outcome.error["code"] == DATA_PLANE
            assert "eth0" in outcome.error["msg"] + outcome.error.get("details", "")
        assert names(await node.state()) == names(before)
        assert (await node.ping(neighbour)).lost == 0

        assert (await node.call("DEL", "broken")).succeeded_silently()
        fresh = await node.attached("fresh")
        assert (await node.ping(fresh)).lost == 0


async def test_pods_that_fail_do_not_take_those_along_that_came_at_the_same_time(build: Build) -> None:
    async with node_of(build) as node:
        for number in range(8):
            place = node.make(f"pod{number}")
            if number % 2:
                await node.world.cluster.workers.inside(place, occupy)
        outcomes = await asyncio.gather(*(node.call("ADD", f"pod{number}") for number in range(8)))
        for number, outcome in enumerate(outcomes):
            if number % 2:
                assert outcome.error["code"] == DATA_PLANE
            else:
                assert (await node.ping(outcome.result)).lost == 0
        await node.state()
        assert len((await node.world.rest(1, "ipam"))["allocations"]) == 4


async def test_pods_come_and_go_while_etcd_is_frozen(build: Build) -> None:
    """What they ask of etcd is kept in the mirror, and told when etcd answers again."""
    async with node_of(build) as node:
        before = await node.state()
        await node.attached("goes")
        stays = await node.attached("stays")
        node.make("comes")
        etcd = node.world.etcd_pid()
        os.kill(etcd, signal.SIGSTOP)
        try:
            added, deleted = await asyncio.gather(node.call("ADD", "comes"), node.call("DEL", "goes"))
            assert deleted.succeeded_silently()
            for there in (stays, added.result):
                assert (await node.ping(there)).lost == 0
        finally:
            os.kill(etcd, signal.SIGCONT)

        async def told() -> bool:
            return "etcd" not in (await node.world.rest(1, "status"))["problems"]

        await eventually(told, "etcd has heard of the attachments")
        for container in ("comes", "stays"):
            assert (await node.call("DEL", container)).succeeded_silently()
        assert names(await node.state()) == names(before)


async def test_without_an_agent_the_plugin_says_so_within_a_second(build: Build) -> None:
    async with node_of(build) as node:
        await node.attached("one")
        agent = node.world.agent_pid(1)
        os.kill(agent, signal.SIGKILL)
        async with asyncio.timeout(1):
            outcome = await node.call("DEL", "one")
        assert outcome.error["code"] == TRY_AGAIN_LATER


def occupy() -> None:
    """Take the name that the pod's interface is to have."""
    with Conversation() as conversation:
        conversation.run([links.create_bridge("eth0", mtu=1500)])
