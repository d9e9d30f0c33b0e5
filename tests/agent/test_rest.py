"""contiv.agent.rest over HTTP: views of a node that runs, and what is answered when something cannot be had."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from contiv import metrics
from contiv.agent.rest import Views
from contiv.errors import VppError
from contiv.network.events import AddPod
from tests.cli.test_netctl import a_status
from tests.network.test_handler import Everything, Memory, Node
from tests.network.test_state import request


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node(Memory(), {})
    running = asyncio.create_task(made.controller.run())
    await made.resync()
    yield made
    await made.controller.stop()
    await running


@pytest.fixture
async def http(node: Node, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    views = Views(a_status("node1", 1, ""), node.state, node.controller, dict)
    path = tmp_path / "rest"
    async with (
        metrics.serve(f"unix:{path}", metrics.registry(), routes=views.routes()),
        aiohttp.ClientSession("http://agent", connector=aiohttp.UnixConnector(str(path))) as session,
    ):
        yield session


async def ask(http: aiohttp.ClientSession, path: str, *, method: str = "GET") -> tuple[int, str]:
    async with http.request(method, f"/contiv/v1/{path}") as reply:
        return reply.status, await reply.text()


async def test_the_views_show_a_pod_in_words(node: Node, http: aiohttp.ClientSession) -> None:
    attached = await node.controller.call(AddPod(request=request(1)))
    code, text = await ask(http, "ipam")
    assert code == 200
    assert json.loads(text)["allocations"] == {attached.address: "c1/eth0"}  # type: ignore[attr-defined]
    assert json.loads((await ask(http, "pods"))[1])[0]["podName"] == "p1"
    desired = json.loads((await ask(http, "desired"))[1])
    assert f"vpp/route/0/{attached.address}/32" in desired  # type: ignore[attr-defined]
    told = json.loads((await ask(http, "status"))[1])
    assert (told["synced"], told["pods"], told["unsettled"]) == (True, 1, {})
    assert json.loads((await ask(http, "diff"))[1]) == {"operations": [], "pending": {}}
    assert [each["name"] for each in json.loads((await ask(http, "events?last=1"))[1])] == ["AddPod"]


@pytest.mark.parametrize("last", ["many", "-1", "1.5", ""])
async def test_a_number_that_is_none_is_the_askers_fault(http: aiohttp.ClientSession, last: str) -> None:
    code, text = await ask(http, f"events?last={last}")
    assert code == 400
    assert "last" in text


async def test_a_data_plane_that_cannot_be_read_is_said_so(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> list[object]:
        raise VppError("VPP is gone")

    monkeypatch.setattr(Everything, "retrieve", gone)
    for path, method in (("diff", "GET"), ("resync", "POST")):
        code, text = await ask(http, path, method=method)
        assert code == 503
        assert "VPP is gone" in text
        assert "\n" not in text


async def test_a_resync_mends_what_drifted(node: Node, http: aiohttp.ClientSession) -> None:
    lost = "vpp/interface/vpp2"
    del node.holds[lost]
    told = json.loads((await ask(http, "diff"))[1])
    assert lost in [each["key"] for each in told["operations"]]
    assert (await ask(http, "resync", method="POST"))[0] == 200
    assert lost in node.holds
