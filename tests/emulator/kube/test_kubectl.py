"""The real kubectl against the emulated server, as people use it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contiv.emulator.kube import spawn

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
TIMEOUT_S = 20.0
MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: n1
  containers: [{name: c, image: "nginx:1", ports: [{containerPort: 80, name: http}]}]
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: web}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 80, protocol: TCP}]
endpoints: [{addresses: [10.1.1.2], conditions: {ready: true}, nodeName: n1}]
"""


class Kubectl:
    """Runs kubectl with its own home, so that no cache of another server is used."""

    def __init__(self, directory: Path, config: Path) -> None:
        self._environment = os.environ | {"KUBECONFIG": str(config), "HOME": str(directory)}
        self._manifest = directory / "manifest.yaml"

    async def __call__(self, line: str, *, stdin: str = "", code: int = 0) -> str:
        process = await self.start(line)
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate(stdin.encode())
        text = output.decode()
        assert process.returncode == code, text
        return text

    async def start(self, line: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "kubectl",
            *line.split(),
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    config = tmp_path / "kubeconfig"
    async with spawn("--write-kubeconfig", str(config)):
        yield Kubectl(tmp_path, config)


async def test_apply_get_and_delete(kubectl: Kubectl):
    created = await kubectl("apply -f -", stdin=MANIFEST)
    assert created.count(" created") == 5
    assert (await kubectl("apply -f -", stdin=MANIFEST)).count(" unchanged") == 5
    changed = await kubectl("apply -f -", stdin=MANIFEST.replace("nginx:1", "nginx:2"))
    assert (changed.count(" configured"), changed.count(" unchanged")) == (1, 4)
    wide = await kubectl("get pods,nodes,svc -o wide")
    assert "NOMINATED NODE" in wide
    assert "192.0.2.1" in wide
    assert "80:30" in wide
    assert await kubectl("get pod web -o jsonpath={.spec.containers[0].ports[0].protocol}") == "TCP"
    assert (await kubectl("diff -f -", stdin=MANIFEST.replace("nginx:1", "nginx:3"), code=1)).count("nginx:3") == 1
    await kubectl("delete pod web --force --grace-period=0")
    await kubectl("delete svc,netpol,endpointslices,nodes --all")
    assert "No resources found" in await kubectl("get pods,netpol,nodes")


async def test_create_label_annotate_and_patch(kubectl: Kubectl):
    await kubectl("create namespace team")
    await kubectl("create configmap conf --from-literal=a=b -n team")
    await kubectl("create secret generic hidden --from-literal=a=b -n team")
    await kubectl("create service clusterip inner --tcp=80:8080 -n team")
    await kubectl("run web --image=nginx --port=80 -n team")
    await kubectl("expose pod web --port=90 --name=outer -n team")
    assert await kubectl("get svc outer -n team -o jsonpath={.spec.ports[0].targetPort}") == "90"
    await kubectl("label pod web tier=front -n team")
    await kubectl("annotate pod web note=x -n team")
    await kubectl('patch pod web -n team -p {"spec":{"containers":[{"name":"web","image":"nginx:9"}]}}')
    assert "nginx:9" in await kubectl("get pods -n team -l tier=front -o yaml")
    assert await kubectl("get configmap conf -n team -o jsonpath={.data.a}") == "b"
    await kubectl("delete namespace team")
    assert "not found" in await kubectl("get ns team", code=1)


async def test_server_side_apply_and_conflicts(kubectl: Kubectl):
    await kubectl("apply --server-side -f -", stdin=MANIFEST)
    changed = MANIFEST.replace("nginx:1", "nginx:2")
    refused = await kubectl("apply --server-side --field-manager=other -f -", stdin=changed, code=1)
    assert '.spec.containers[name="c"].image' in refused
    await kubectl("apply --server-side --field-manager=other --force-conflicts -f -", stdin=changed)
    assert await kubectl("get pod web -o jsonpath={.spec.containers[0].image}") == "nginx:2"


async def test_unknown_fields_and_bad_values_are_refused(kubectl: Kubectl):
    odd = await kubectl("apply -f -", stdin=MANIFEST.replace("nodeName: n1\n  con", "nodeNaem: n1\n  con"), code=1)
    assert 'unknown field "spec.nodeNaem"' in odd
    assert "spec.nodeName" not in await kubectl("get pods", code=0)
    assert "is invalid" in await kubectl("create service clusterip Bad_Name --tcp=80", code=1)
    assert "containerPort\t<integer>" in await kubectl("explain pod.spec.containers.ports")


async def test_watch_prints_changes(kubectl: Kubectl):
    watching = await kubectl.start("get configmaps -w --no-headers")
    try:
        assert watching.stdout is not None
        await kubectl("create configmap one")
        async with asyncio.timeout(TIMEOUT_S):
            assert (await watching.stdout.readline()).split()[0] == b"one"
    finally:
        watching.terminate()
        await watching.communicate()


async def test_delete_waits_for_the_kubelet(kubectl: Kubectl):
    await kubectl("apply -f -", stdin=MANIFEST)
    deleting = await kubectl.start("delete pod web")
    async with asyncio.timeout(TIMEOUT_S):
        while "Terminating" not in await kubectl("get pod web"):
            continue
    assert deleting.returncode is None
    await kubectl("delete --raw /api/v1/namespaces/default/pods/web?gracePeriodSeconds=0")
    async with asyncio.timeout(TIMEOUT_S):
        await deleting.communicate()
    assert deleting.returncode == 0
