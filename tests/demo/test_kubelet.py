"""The stand-ins for kubelet and scheduler against the emulated API server, with a recording CNI plugin."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from contiv import processes
from contiv.demo import cni, commands
from contiv.demo.api import Api, ApiRefusal, Object, pod_path
from contiv.demo.kubelet import Kubelet
from contiv.demo.placement import Placement, is_ready
from contiv.demo.rundir import RunDirectory
from contiv.linux import netns

pytestmark = pytest.mark.root

WAIT_S = 15.0


class World:
    """An API server, and kubelets with the recording plugin."""

    def __init__(self, api: Api, rundir: RunDirectory, plugins: Path) -> None:
        self.api = api
        self.rundir = rundir
        self.plugins = plugins

    def kubelet(self, name: str) -> Kubelet:
        async def address() -> str:
            return "172.30.1.2"

        conflist = {"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "plugin"}]}
        return Kubelet(
            self.api,
            name,
            network=cni.Network(conflist, [self.plugins]),
            namespace=self.rundir.namespace,
            address=address,
            logs=self.rundir.path / name,
        )

    def calls(self, command: str) -> list[dict[str, str]]:
        lines = (self.plugins / "calls").read_text().splitlines() if (self.plugins / "calls").exists() else []
        environments = [json.loads(line)["env"] for line in lines]
        return [each for each in environments if each["CNI_COMMAND"] == command]

    async def until(self, path: str, condition: Callable[[dict[str, Object]], bool]) -> dict[str, Object]:
        """The collection as soon as the condition holds."""
        async with asyncio.timeout(WAIT_S), aclosing(self.api.watch(path)) as watched:
            async for known in watched:
                if condition(known):
                    return dict(known)
        raise AssertionError("the watch ended")

    def namespaces(self) -> list[str]:
        return [name for name in netns.names() if name.startswith(self.rundir.namespace("demo."))]


@pytest.fixture
async def world(rundir: RunDirectory) -> AsyncIterator[World]:
    plugins = rundir.path / "plugins"
    plugins.mkdir()
    shutil.copy(Path(__file__).with_name("plugin.py"), plugins / "plugin")
    (plugins / "plugin").chmod(0o755)
    kubeconfig = rundir.path / "kubeconfig"
    server = await processes.start("kube", commands.emulated_api(kubeconfig=kubeconfig), log=rundir.path / "kube.log")

    async def written() -> bool:
        return kubeconfig.exists()

    await processes.ready(server, written, timeout_s=WAIT_S, what="kubeconfig")
    async with Api(str(kubeconfig)) as api:
        await api.ready()
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}})
        yield World(api, rundir, plugins)
    await server.stop()


def pod(name: str, **spec: object) -> Object:
    container = {"name": "c", "image": "contiv.vpp/responder", "ports": [{"containerPort": 8080}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


def running(*names: str) -> Callable[[dict[str, Object]], bool]:
    def condition(known: dict[str, Object]) -> bool:
        return all(known.get(f"demo/{name}", {}).get("status", {}).get("phase") == "Running" for name in names)

    return condition


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_pod_lives_from_its_binding_to_its_last_trace(world: World) -> None:
    kubelet = world.kubelet("n1")
    task = asyncio.create_task(kubelet.run())
    nodes = await world.until("/api/v1/nodes", lambda known: "n1" in known and is_ready(known["n1"]))
    addresses = {each["type"]: each["address"] for each in nodes["n1"]["status"]["addresses"]}
    assert addresses == {"InternalIP": "172.30.1.2", "Hostname": "n1"}
    created = await world.api.create(pod("web", nodeName="n1"))
    status = (await world.until("/api/v1/pods", running("web")))["demo/web"]["status"]
    assert (status["podIP"], status["podIPs"], status["hostIP"]) == (
        "10.1.0.2",
        [{"ip": "10.1.0.2"}],
        "172.30.1.2",
    )
    assert {"Ready", "PodScheduled"} <= {each["type"] for each in status["conditions"]}
    (added,) = world.calls("ADD")
    assert added["CNI_NETNS"] == kubelet.sandboxes[created["metadata"]["uid"]].netns
    assert f"K8S_POD_UID={created['metadata']['uid']}" in added["CNI_ARGS"]
    inside = netns.command_in(
        added["CNI_NETNS"],
        [sys.executable, "-c", "import socket; socket.create_server(('', 8080))"],
    )
    child = await asyncio.create_subprocess_exec(*inside, stderr=asyncio.subprocess.PIPE)
    assert b"in use" in (await child.communicate())[1], "the responder does not hold its port"

    await world.api.delete(pod_path(created))
    await world.until("/api/v1/pods", lambda known: "demo/web" not in known)
    assert [each["CNI_CONTAINERID"] for each in world.calls("DEL")] == [added["CNI_CONTAINERID"]]
    assert world.namespaces() == []
    await _cancel(task)


async def test_a_plugin_that_says_try_again_is_tried_again_with_a_new_container(world: World) -> None:
    (world.plugins / "refuse-ADD").write_text("11 2")
    (world.plugins / "refuse-STATUS").write_text("50 2")
    task = asyncio.create_task(world.kubelet("n1").run())
    await world.api.create(pod("web", nodeName="n1"))
    await world.until("/api/v1/pods", running("web"))
    assert len({each["CNI_CONTAINERID"] for each in world.calls("ADD")}) == 3
    assert len(world.calls("DEL")) == 2
    assert len(world.namespaces()) == 1
    await _cancel(task)


async def test_a_pod_deleted_by_force_is_torn_down(world: World) -> None:
    task = asyncio.create_task(world.kubelet("n1").run())
    created = await world.api.create(pod("web", nodeName="n1"))
    await world.until("/api/v1/pods", running("web"))
    await world.api.delete(pod_path(created), grace_s=0)
    async with asyncio.timeout(WAIT_S):
        while world.namespaces() or not world.calls("DEL"):
            await asyncio.sleep(0.02)
    await _cancel(task)


async def test_pods_go_round_robin_to_ready_nodes_and_honour_selectors(world: World) -> None:
    tasks = [asyncio.create_task(world.kubelet(name).run()) for name in ("n1", "n2")]
    tasks.append(asyncio.create_task(Placement(world.api, frozenset({"n1", "n2"})).run()))
    await world.until("/api/v1/nodes", lambda known: sum(map(is_ready, known.values())) == 2)
    await asyncio.gather(*(world.api.create(pod(f"web-{number}")) for number in range(1, 5)))
    pinned = {"nodeSelector": {"kubernetes.io/hostname": "n2"}}
    await asyncio.gather(*(world.api.create(pod(f"pin-{number}", **pinned)) for number in range(2)))
    await world.api.create(pod("foreign", schedulerName="another"))
    names = [*(f"web-{number}" for number in range(1, 5)), "pin-0", "pin-1"]
    known = await world.until("/api/v1/pods", running(*names))
    placed = {key.removeprefix("demo/"): thing["spec"].get("nodeName") for key, thing in known.items()}
    assert sorted(placed[f"web-{number}"] for number in range(1, 5)) == ["n1", "n1", "n2", "n2"]
    assert (placed["pin-0"], placed["pin-1"], placed["foreign"]) == ("n2", "n2", None)
    await _cancel(*tasks)


async def test_a_burst_of_pods_comes_and_goes(world: World) -> None:
    task = asyncio.create_task(world.kubelet("n1").run())
    names = [f"b-{number}" for number in range(20)]
    created = await asyncio.gather(*(world.api.create(pod(name, nodeName="n1")) for name in names))
    known = await world.until("/api/v1/pods", running(*names))
    assert len(world.namespaces()) == 20
    assert len(known) == 20
    await asyncio.gather(*(world.api.delete(pod_path(thing)) for thing in created))
    await world.until("/api/v1/pods", lambda left: not left)
    assert world.namespaces() == []
    assert {each["CNI_CONTAINERID"] for each in world.calls("DEL")} == {
        each["CNI_CONTAINERID"] for each in world.calls("ADD")
    }
    await _cancel(task)


async def test_a_refusal_says_status_and_reason(world: World) -> None:
    with pytest.raises(ApiRefusal, match="AlreadyExists") as caught:
        await world.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}})
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
