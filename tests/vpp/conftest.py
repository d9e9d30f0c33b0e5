"""A scripted peer for faults, and a real VPP where one is installed (root: it gets a network namespace of its own)."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from peer import Peer
from real import RealVpp

from contiv.vpp import api


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    """A scripted VPP that knows every message of the record."""
    async with Peer(tmp_path / "api.sock", api.builtin_schema()) as server:
        yield server


@pytest.fixture(scope="module")
def real_vpp() -> Iterator[RealVpp]:
    """A running VPP for the tests of one module."""
    prefix = api.find_prefix()
    if prefix is None:
        pytest.skip("no VPP is installed")
    if os.geteuid() != 0:
        pytest.skip("starting VPP needs root")
    with tempfile.TemporaryDirectory(prefix="contiv-vpp-") as folder, RealVpp(prefix, Path(folder)) as vpp:
        yield vpp


@pytest.fixture(autouse=True)
def _loop_policy() -> Iterator[None]:
    yield
    asyncio.set_event_loop(None)
