"""The ClusterRoles against what ksr and crd ask of an API server when they run."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from contiv.config import parse
from contiv.crd import main as crd
from contiv.crd.nodeconfigs import PATH
from contiv.emulator.kube import EmulatedKube
from contiv.ksr import main as ksr
from contiv.kube.client import KubeClient
from contiv.model import keys, kube
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.deploy.conftest import Real, needs_real
from tests.deploy.manifests import DEPLOY, NAMESPACE, of_kind

WAIT_S = 20.0
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
COLLECTION = re.compile(r"/(?:api|apis/(?P<group>[^/]+))/[^/]+/(?P<plural>[^/]+)(?P<name>/[^/]+)?(?P<sub>/[^/]+)?")
NODE_CONFIG = {"apiVersion": "nodeconfig.contiv.vpp/v1", "kind": "NodeConfig", "metadata": {"name": "a"}, "spec": {}}
Right = tuple[str, str, str]
"""API group, resource, verb."""


def right(method: str, path: str, params: Mapping[str, str]) -> Right:
    """What an API server wants to see granted (Kubernetes: Authorization, "Determine the request verb")."""
    match = COLLECTION.fullmatch(path)
    assert match is not None, path
    verb = {"PATCH": "patch", "GET": "get" if match["name"] else "watch" if "watch" in params else "list"}[method]
    return match["group"] or "", match["plural"] + (match["sub"] or ""), verb


def granted(role: str) -> set[Right]:
    rules = of_kind("ClusterRole")[role]["rules"]
    assert all(rule.keys() == {"apiGroups", "resources", "verbs"} for rule in rules)
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[Right]:
    """The rights that requests have needed so far."""
    needed: set[Right] = set()
    send = KubeClient._send

    async def remember(self: KubeClient, access: Any, method: str, path: str, params: Any, **more: Any) -> Any:
        needed.add(right(method, path, params))
        return await send(self, access, method, path, params, **more)

    monkeypatch.setattr(KubeClient, "_send", remember)
    return needed


@pytest.fixture
async def candidate(server: EmbeddedEtcd, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """How one reaches etcd and an API server that has a ``NodeConfig``."""
    async with EmulatedKube() as emulated, aiohttp.ClientSession(emulated.url, raise_for_status=True) as session:
        await session.post(DEFINITIONS, json=yaml.safe_load((DEPLOY / "crds" / "nodeconfigs.yaml").read_text()))
        await session.post(PATH, json=NODE_CONFIG)
        yield {
            "kubeconfig": str(emulated.write_kubeconfig(tmp_path / "kubeconfig")),
            "etcd_endpoints": [server.endpoint],
        }


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def comes_to(asked: set[Right], expected: set[Right]) -> None:
    """Wait for all that is expected, and a little for more than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            while not expected <= asked:
                await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert asked == expected


async def test_ksr_may_do_exactly_what_it_does(candidate: dict[str, Any], asked: set[Right]):
    async with running(ksr.run(**candidate)):
        await comes_to(asked, granted("contiv-ksr"))


async def test_crd_may_do_exactly_what_it_does(candidate: dict[str, Any], asked: set[Right]):
    async with running(crd.run(parse(""), **candidate)):
        await comes_to(asked, granted("contiv-crd"))


@needs_real
async def test_their_rights_are_enough_for_a_real_api_server(real: Real, server: EmbeddedEtcd, etcd: Etcd):
    real.apply("crds/nodeconfigs.yaml")
    real.apply("rbac.yaml")
    real.kubectl("wait", "--for=condition=Established", "crd/nodeconfigs.nodeconfig.contiv.vpp")
    complete = {keys.NODE_CONFIGS_STATUS, *(keys.ksr_status(kind.plural) for kind in kube.KINDS)}
    async with (
        running(ksr.run(kubeconfig=real.kubeconfig_of("contiv-ksr"), etcd_endpoints=[server.endpoint])),
        running(crd.run(parse(""), kubeconfig=real.kubeconfig_of("contiv-crd"), etcd_endpoints=[server.endpoint])),
        asyncio.timeout(WAIT_S),
    ):
        while not complete <= (await etcd.get_prefix(keys.ROOT)).values.keys():
            await asyncio.sleep(0.05)
        real.kubectl("create", "-f", "-", stdin=json.dumps(NODE_CONFIG))
        while "Accepted" not in real.kubectl("get", "nodeconfig", "a", "-o", "jsonpath={.status.state}"):
            await asyncio.sleep(0.2)


@needs_real
async def test_nobody_may_write_pods_or_read_secrets(real: Real):
    real.apply("rbac.yaml")
    for name in ("contiv-ksr", "contiv-crd", "contiv-node"):
        account = f"--as=system:serviceaccount:{NAMESPACE}:{name}"
        for verb, resource in (("list", "secrets"), ("create", "pods"), ("patch", "nodes"), ("get", "configmaps")):
            assert real.kubectl("auth", "can-i", verb, resource, account, code=1) == "no\n"


def test_each_role_is_that_of_its_own_account():
    for name, binding in of_kind("ClusterRoleBinding").items():
        assert binding["roleRef"]["name"] == name
        assert [subject["name"] for subject in binding["subjects"]] == [name]
    assert of_kind("ClusterRoleBinding").keys() == of_kind("ClusterRole").keys()
