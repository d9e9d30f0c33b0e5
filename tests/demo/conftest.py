"""Namespaces for the demo's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from contiv.demo.rundir import RunDirectory
from contiv.linux import links, netns
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    pool = Workers()
    yield pool
    pool.close()


@pytest.fixture
async def rundir(tmp_path: Path) -> AsyncIterator[RunDirectory]:
    async with RunDirectory(tmp_path / "run") as directory:
        yield directory


@pytest.fixture
def loopback_netns() -> Iterator[str]:
    """A namespace whose lo is up."""
    name = f"contiv-test-demo-{os.getpid()}"
    path = netns.create(name)

    def up() -> None:
        with Conversation() as conversation:
            conversation.run([links.set_up(links.LOOPBACK, True, name="lo")])

    pool = Workers(1)
    pool._run(path, up)
    pool.close()
    yield path
    netns.delete(name)
