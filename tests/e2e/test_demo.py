"""``contiv demo`` as a user types it: its exit code and its table, on real data planes."""

from __future__ import annotations

import asyncio
import sys
from typing import get_args

import pytest

from contiv.config import Transport
from contiv.demo.paths import KINDS

pytestmark = pytest.mark.root

TIMEOUT_S = 150.0


@pytest.mark.parametrize("transport", get_args(Transport))
async def test_the_demo_ends_well_and_shows_every_kind_of_path(dataplane: str, transport: str) -> None:
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "contiv.cli.main", "demo", "--dataplane", dataplane, "--transport", transport),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "COLUMNS": "160"},
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await demo.communicate()
    finally:
        if demo.returncode is None:
            demo.terminate()
            await demo.wait()
    text = output.decode()
    assert demo.returncode == 0, text
    assert "every path works" in text
    for kind in (*KINDS, "outside → pod", "pod → outside"):
        assert kind in text
