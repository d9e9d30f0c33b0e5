"""A real API server with kubectl at hand, and accounts that work against it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, NAMESPACE
from tests.ksr import apiserver
from tests.kube.conftest import write_kubeconfig

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")


def needs_real(test: Any) -> Any:
    """A test that is of a real API server alone."""
    return pytest.mark.kube(apiserver.needed(needs_kubectl(test)))


class Real:
    """kubectl as the administrator of an API server that has Contiv's namespace."""

    def __init__(self, kubeconfig: str, directory: Path) -> None:
        self._kubeconfig = kubeconfig
        self._directory = directory

    def kubectl(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        command = ["kubectl", f"--kubeconfig={self._kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout

    def apply(self, file: str) -> None:
        self.kubectl("apply", "--server-side", f"--filename={DEPLOY / file}")

    def kubeconfig_of(self, account: str) -> str:
        """The kubeconfig of one of our service accounts."""
        token = self.kubectl("create", "token", account, f"--namespace={NAMESPACE}").strip()
        server = yaml.safe_load(Path(self._kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
        path = self._directory / f"kubeconfig-{account}"
        return write_kubeconfig(path, server, cluster=", insecure-skip-tls-verify: true", user=f"{{token: {token}}}")


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with apiserver.real(tmp_path) as cluster:
        made = Real(cluster.kubeconfig, tmp_path)
        made.apply("namespace.yaml")
        yield made
