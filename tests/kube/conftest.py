"""A scripted API server and a client of it, per test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contiv.kube.access import AccessSource
from contiv.kube.client import KubeClient
from tests.kube.scripted import ScriptedApi


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi().serve() as server:
        yield server


def write_kubeconfig(path: Path, server: str, *, cluster: str = "", user: str = "{}") -> str:
    """A kubeconfig with one context; ``cluster`` adds to its cluster, ``user`` is the whole user."""
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: c, cluster: {{server: "{server}"{cluster}}}}}]
users: [{{name: u, user: {user}}}]
contexts: [{{name: test, context: {{cluster: c, user: u}}}}]
"""
    )
    return str(path)


@pytest.fixture
def kubeconfig(api: ScriptedApi, tmp_path: Path) -> str:
    return write_kubeconfig(tmp_path / "kubeconfig", api.url)


@pytest.fixture
async def client(kubeconfig: str) -> AsyncIterator[KubeClient]:
    async with KubeClient(AccessSource(kubeconfig)) as made:
        yield made
