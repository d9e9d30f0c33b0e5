"""The deployed definition as users meet it: kubectl against the emulated API server, and a real one where there is."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.crd.conftest import DEFINITION, WAIT_S, Running, eventually, running, stored
from tests.ksr import apiserver, clusters

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
GOOD = {"mainVPPInterface": {"ip": "192.168.16.77/24"}, "gateway": "192.168.16.1"}


class Kubectl:
    """Runs kubectl with its own home, so that no cache of another server is used."""

    def __init__(self, directory: Path, config: str) -> None:
        self._environment = os.environ | {"KUBECONFIG": config, "HOME": str(directory)}

    async def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        process = await self.start(*arguments)
        async with asyncio.timeout(WAIT_S):
            output, _ = await process.communicate(stdin.encode())
        assert process.returncode == code, output.decode()
        return output.decode()

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "kubectl",
            *arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def apply(self, name: str, spec: Any, **more: Any) -> str:
        thing = {"apiVersion": "nodeconfig.contiv.vpp/v1", "kind": "NodeConfig", "metadata": {"name": name}}
        return await self("apply", "-f", "-", stdin=json.dumps(thing | {"spec": spec} | more))


@pytest.fixture(params=["emulated", pytest.param("real", marks=[pytest.mark.kube, pytest.mark.slow, apiserver.needed])])
async def kubeconfig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    make = clusters.emulated if request.param == "emulated" else apiserver.real
    async with make(tmp_path) as cluster:
        yield cluster.kubeconfig


@pytest.fixture
async def kubectl(tmp_path: Path, kubeconfig: str) -> Kubectl:
    made = Kubectl(tmp_path, kubeconfig)
    await made("apply", "-f", str(DEFINITION))
    await made("wait", "--for=condition=Established", "crd/nodeconfigs.nodeconfig.contiv.vpp")
    return made


@pytest.fixture
async def crd(kubectl: Kubectl, kubeconfig: str, server: EmbeddedEtcd) -> AsyncIterator[Running]:
    async with running(kubeconfig, server) as task:
        yield task


async def becomes(kubectl: Kubectl, name: str, state: str) -> str:
    """Wait until the object's status says so; its message."""

    async def said() -> bool:
        return await kubectl("get", "nc", name, "-o", "jsonpath={.status.state}") == state

    await eventually(said, f"{name} is {state}")
    return await kubectl("get", "nc", name, "-o", "jsonpath={.status.message}")


async def test_it_is_applied_patched_shown_and_deleted(kubectl: Kubectl, etcd: Etcd, crd: Running):
    assert "created" in await kubectl.apply("a", GOOD)
    await becomes(kubectl, "a", "Accepted")
    assert "unchanged" in await kubectl.apply("a", GOOD), "the status is not the user's"
    assert (await stored(etcd))["a"] == {"nodeName": "a", **GOOD}
    header, row = (await kubectl("get", "nodeconfigs")).splitlines()
    assert header.split() == ["NAME", "INTERFACE", "IP", "STATE", "AGE"]
    assert row.split()[:3] == ["a", "192.168.16.77/24", "Accepted"]
    assert "MESSAGE" in await kubectl("get", "nc", "-o", "wide")
    await kubectl("patch", "nc", "a", "--type=merge", "-p", '{"spec": {"natExternalTraffic": false}}')
    await eventually(lambda: _holds(etcd, {"nodeName": "a", **GOOD, "natExternalTraffic": False}), "the patch counts")
    await kubectl("patch", "nc", "a", "--type=merge", "-p", '{"spec": {"gateway": "10.9.9.9"}}')
    message = await becomes(kubectl, "a", "Failure")
    assert "spec.gateway" in message
    assert "choose an address in 192.168.16.0/24" in message
    await kubectl("delete", "nc", "a")
    await eventually(lambda: _holds(etcd, None), "it is gone")


async def test_nobody_else_writes_the_status_by_accident(kubectl: Kubectl, crd: Running):
    await kubectl.apply("a", GOOD, status={"state": "Failure", "message": "said by hand"})
    assert (await becomes(kubectl, "a", "Accepted")).startswith("accepted")


async def test_a_watch_shows_the_verdict(kubectl: Kubectl, crd: Running):
    watching = await kubectl.start("get", "nc", "-w", "--no-headers")
    try:
        assert watching.stdout is not None
        await kubectl.apply("a", GOOD)
        async with asyncio.timeout(WAIT_S):
            while b"Accepted" not in await watching.stdout.readline():
                pass
    finally:
        watching.kill()
        await watching.wait()


async def test_what_has_no_place_in_it_is_refused_or_told(kubectl: Kubectl, crd: Running):
    """By a real API server's schema, by kubectl, or by crd: nobody takes it silently."""
    told = await (await kubectl.start("apply", "-f", "-")).communicate(
        json.dumps(
            {
                "apiVersion": "nodeconfig.contiv.vpp/v1",
                "kind": "NodeConfig",
                "metadata": {"name": "a"},
                "spec": {"gatway": "192.168.16.1"},
            }
        ).encode()
    )
    if b"gatway" not in told[0]:
        assert "gatway" in await becomes(kubectl, "a", "Failure")


async def _holds(etcd: Etcd, section: Any) -> bool:
    return (await stored(etcd)).get("a") == section
