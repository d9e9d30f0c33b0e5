"""One demo cluster for all truth cases of a data plane, held up by a task of its own.

NAT44-ED carries TCP, UDP and ICMP alone: it gives every other packet of a pod the node's address as source, whatever
its destination is, and drops it when another pod speaks to the same destination already (nat44_ed_in2out.c,
nat44_ed_in2out_slowpath_unknown_proto). So SCTP is played on a second cluster, whose nodes translate no services.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from contiv.demo.cluster import DemoCluster
from contiv.vpp.lifecycle import find_vpp
from tests.e2e.conftest import print_logs
from tests.e2e.world import World
from tests.truth.player import Player


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def player(dataplane: str, services: str) -> AsyncIterator[Player]:
    """The cast on two nodes. A task group must end in the task that began it, so the cluster lives in one task."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on PATH")
    if dataplane == "vpp" and find_vpp() is None:
        pytest.skip("no VPP is installed")
    if sys.version_info < (3, 12):  # the default watcher keeps a thread for every child
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)
    started: asyncio.Future[Player] = asyncio.get_running_loop().create_future()
    finished = asyncio.Event()
    task = asyncio.create_task(_hold(dataplane, services, started, finished))
    await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    yield started.result()
    finished.set()
    await task
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(None)


async def _hold(dataplane: str, services: str, started: asyncio.Future[Player], finished: asyncio.Event) -> None:
    async with DemoCluster(2, dataplane=dataplane, config={"serviceRenderer": services}) as cluster:
        player = Player(World(cluster))
        try:
            await player.start()
            started.set_result(player)
            await finished.wait()
        except BaseException:
            print_logs(cluster)
            raise
        finally:
            await player.stop()
