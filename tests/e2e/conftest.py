"""Demo clusters for the end-to-end tests, on each data plane that this machine has."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest

from contiv.demo.cluster import DemoCluster
from contiv.demo.node import Node
from contiv.vpp.lifecycle import find_vpp
from tests.e2e.stolen import NicState, nic_state
from tests.e2e.world import World


class Build(Protocol):
    """Builds a cluster of so many nodes; ``config`` has keys of their configuration that differ from the demo's."""

    def __call__(
        self, nodes: int, config: Mapping[str, Any] | None = None, **more: Any
    ) -> AbstractAsyncContextManager[World]:
        """The cluster, as a context; ``more`` goes to ``DemoCluster``."""
        ...


@pytest.fixture(autouse=True, scope="session")
def kubectl() -> None:
    """The objects are made as users make them."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on PATH")


@pytest.fixture(params=[pytest.param("vpp", marks=pytest.mark.vpp), "emulator"])
def dataplane(request: pytest.FixtureRequest) -> str:
    """The data plane of every node."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if request.param == "vpp" and find_vpp() is None:
        pytest.skip("no VPP is installed")
    return str(request.param)


@pytest.fixture
async def build(dataplane: str) -> AsyncIterator[Build]:
    """Builds a cluster of so many nodes; its logs stay in the test's output when it fails."""
    if sys.version_info < (3, 12):  # the default watcher keeps a thread for every child
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)

    @asynccontextmanager
    async def built(nodes: int, config: Mapping[str, Any] | None = None, **more: Any) -> AsyncIterator[World]:
        failure: Exception | None = None
        async with DemoCluster(nodes, dataplane=dataplane, config=config, **more) as cluster:
            try:
                yield World(cluster)
            except Exception as error:  # raised below: the cluster's task group would wrap it
                print_logs(cluster)
                failure = error
        if failure is not None:
            raise failure

    yield built
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(None)


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> dict[str, NicState]:
    """The state of each node's only NIC before anybody touched it, by node."""
    found: dict[str, NicState] = {}
    start_stn = Node.start_stn

    async def recorded(self: Node) -> None:
        if self.name not in found:
            found[self.name] = nic_state(self)
        await start_stn(self)

    monkeypatch.setattr(Node, "start_stn", recorded)
    return found


def print_logs(cluster: DemoCluster, *, lines: int = 40) -> None:
    """What nodes, KSR and crd said last; pytest shows it with a failure."""
    path = cluster.rundir.path
    for log in sorted([path / "ksr.log", path / "crd.log", *path.glob("node-*/**/*.log")]):
        said = log.read_text(errors="replace").splitlines()
        text = [line for line in said if "STATUS" not in line][-lines:]
        print(f"==== {log.relative_to(cluster.rundir.path)}", *text, sep="\n")
