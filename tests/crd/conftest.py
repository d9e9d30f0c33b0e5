"""The emulated API server with the definition that is deployed, and crd as a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from contiv.config import parse
from contiv.crd import main
from contiv.crd.nodeconfigs import PATH
from contiv.emulator.kube import EmulatedKube
from contiv.model import keys
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd

DEFINITION = Path(__file__).parents[2] / "deploy" / "crds" / "nodeconfigs.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FILE = "nodeConfig: [{nodeName: a, mainVPPInterface: {interfaceName: eth1}}]"
MERGE = "application/merge-patch+json"
WAIT_S = 15.0
POLL_S = 0.02


class Api:
    """The emulated API server, and a client of it."""

    def __init__(self, emulated: EmulatedKube, session: aiohttp.ClientSession, kubeconfig: str) -> None:
        self.emulated = emulated
        self.kubeconfig = kubeconfig
        self._session = session

    async def define(self) -> None:
        await self._send("POST", DEFINITIONS, yaml.safe_load(DEFINITION.read_text()))

    async def apply(self, name: str, spec: Any) -> None:
        thing = {"apiVersion": "nodeconfig.contiv.vpp/v1", "kind": "NodeConfig", "metadata": {"name": name}}
        if await self._send("POST", PATH, thing | {"spec": spec}, allowed=(201, 409)) == 409:
            known = await self.get(name)
            await self._send("PUT", f"{PATH}/{name}", known | {"spec": spec})

    async def delete(self, name: str) -> None:
        await self._send("DELETE", f"{PATH}/{name}", {})

    async def get(self, name: str) -> dict[str, Any]:
        async with self._session.get(f"{self.emulated.url}{PATH}/{name}") as response:
            return dict(await response.json())

    async def status(self, name: str) -> tuple[str, str]:
        told = (await self.get(name)).get("status") or {}
        return told.get("state", ""), told.get("message", "")

    async def _send(self, method: str, path: str, body: Any, *, allowed: tuple[int, ...] = (200, 201)) -> int:
        for _ in range(50):  # the tests drop connections
            with suppress(aiohttp.ClientConnectionError):
                async with self._session.request(method, self.emulated.url + path, json=body) as response:
                    assert response.status in allowed, await response.text()
                    return response.status
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"{method} {path}: no answer")


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Api]:
    """Without the definition."""
    async with EmulatedKube() as emulated, aiohttp.ClientSession() as session:
        yield Api(emulated, session, str(emulated.write_kubeconfig(tmp_path / "kubeconfig")))


@pytest.fixture
async def api(bare: Api) -> Api:
    await bare.define()
    return bare


Running = asyncio.Task[None]
Crd = Callable[..., AbstractAsyncContextManager[Running]]


@asynccontextmanager
async def running(kubeconfig: str, server: EmbeddedEtcd, *, file: str = FILE, **more: Any) -> AsyncIterator[Running]:
    """An instance in this process, stopped in good order."""
    settings = {"kubeconfig": kubeconfig, "etcd_endpoints": [server.endpoint], "lease_ttl_s": 2, "page_limit": 2}
    task = asyncio.create_task(main.run(parse(file), **(settings | more)))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def crd(bare: Api, server: EmbeddedEtcd) -> Crd:
    """Starts instances against the emulated API server."""
    return partial(running, bare.kubeconfig, server)


async def stored(etcd: Etcd) -> dict[str, Any]:
    """The sections that agents read, by node."""
    found = (await etcd.get_prefix(keys.NODE_CONFIGS)).values
    return {key.removeprefix(keys.NODE_CONFIGS): json.loads(value) for key, value in found.items()}


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            while not await holds():
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_S} s: {what}") from None
