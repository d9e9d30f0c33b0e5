"""A real kube-apiserver on an etcd of its own, from the directory that KUBEBUILDER_ASSETS names.

No controllers and no admission that needs them: what is written stays as it is. Trouble is made by restarts: after one
the server's cache of events is empty, so that a version from before it is too old once etcd is compacted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.ksr.clusters import HttpCluster, prepare
from tests.kube.conftest import write_kubeconfig

READY_TIMEOUT_S = 60.0
BINARY = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent")) / "kube-apiserver"
needed = pytest.mark.skipif(not BINARY.exists(), reason="no kube-apiserver: set KUBEBUILDER_ASSETS")


class RealCluster(HttpCluster):
    """A kube-apiserver process; ``drop`` and ``expire`` restart it."""

    def __init__(self, directory: Path, etcd: EmbeddedEtcd) -> None:
        self._directory = directory
        self._etcd = etcd
        self._port = _free_port()
        self._token = secrets.token_hex(16)
        self._process: asyncio.subprocess.Process | None = None
        url = f"https://127.0.0.1:{self._port}"
        path = directory / "kubeconfig"
        path_text = write_kubeconfig(
            path, url, cluster=", insecure-skip-tls-verify: true", user=f"{{token: {self._token}}}"
        )
        # Self-signed by the server at its first start: these tests are about reflection, tests.kube about TLS.
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        super().__init__(url, path_text, token=self._token, tls=tls)

    async def start(self) -> None:
        key, tokens = self._directory / "sa.key", self._directory / "tokens.csv"
        if not key.exists():
            key.write_bytes(_private_key())
            tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        with (self._directory / "kube-apiserver.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                BINARY,
                f"--etcd-servers={self._etcd.endpoint}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",  # else it looks for a default route
                f"--secure-port={self._port}",
                f"--cert-dir={self._directory / 'certs'}",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=RBAC",
                "--allow-privileged=true",  # as kubeadm has it: a vswitch is
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        await self._wait_ready()

    async def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def drop(self) -> None:
        await self.stop()
        await self.start()

    async def expire(self) -> None:
        async with await Etcd.connect([self._etcd.endpoint]) as client:
            await client.compact((await client.status()).revision, physical=True)
        await self.drop()

    async def _wait_ready(self) -> None:
        assert self._process is not None
        async with asyncio.timeout(READY_TIMEOUT_S):
            while self._process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with self._session.get(f"{self._url}/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.2)
        raise AssertionError((self._directory / "kube-apiserver.log").read_text()[-2000:])


@asynccontextmanager
async def real(directory: Path) -> AsyncIterator[RealCluster]:
    async with EmbeddedEtcd(directory / "kube-etcd") as etcd:
        cluster = RealCluster(directory, etcd)
        try:
            await cluster.start()
            await prepare(cluster)
            yield cluster
        finally:
            await cluster.stop()
            await cluster.close()


def _private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
