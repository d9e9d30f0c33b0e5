"""An emulated API server and a plain HTTP client of it, per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contiv.emulator.kube import EmulatedKube
from tests.emulator.kube.api import Api


@pytest.fixture
async def kube() -> AsyncIterator[EmulatedKube]:
    async with EmulatedKube() as server:
        yield server


@pytest.fixture
async def api(kube: EmulatedKube) -> AsyncIterator[Api]:
    async with Api(kube.url) as client:
        yield client
