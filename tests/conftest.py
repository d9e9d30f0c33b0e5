"""What tests of several packages stand on: a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    """An etcd of one test alone, to be maltreated."""
    async with EmbeddedEtcd(tmp_path / "e") as started:
        yield started


@pytest.fixture
async def etcd(server: EmbeddedEtcd) -> AsyncIterator[Etcd]:
    """A client of the test's etcd."""
    async with await Etcd.connect([server.endpoint]) as client:
        yield client
