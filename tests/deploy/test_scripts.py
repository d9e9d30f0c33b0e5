"""The two scripts of deploy/, and what the image is made of."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import yaml
from cryptography import x509

from contiv.errors import StoreError
from contiv.store.client import Etcd
from contiv.store.embedded import find_etcd
from contiv.store.transport import TlsConfig
from tests.deploy.manifests import DEPLOY, container, containers, of_kind

ROOT = DEPLOY.parent
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def install(plugin: Path, configuration: Path, target: Path) -> None:
    bin_dir, conf_dir = target / "bin", target / "net.d"
    subprocess.run([DEPLOY / "install-cni", plugin, bin_dir, configuration, conf_dir], check=True)


def test_the_cni_plugin_and_its_configuration_are_put_in_place_over_those_of_before(tmp_path: Path):
    plugin, configuration = tmp_path / "contiv-cni", tmp_path / "10-contiv-vpp.conflist"
    configuration.write_text(of_kind("ConfigMap")["contiv"]["data"][configuration.name])
    for directory in ("bin", "net.d"):
        (tmp_path / "node" / directory).mkdir(parents=True)
    for version in ("first", "second"):
        plugin.write_text(f"#!/bin/sh\necho {version}\n")
        install(plugin, configuration, tmp_path / "node")
        ran = subprocess.run([tmp_path / "node" / "bin" / plugin.name], check=True, capture_output=True, text=True)
        assert ran.stdout == f"{version}\n"
    placed = tmp_path / "node" / "net.d" / configuration.name
    assert json.loads(placed.read_text())["name"] == "contiv"
    assert placed.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in placed.parent.iterdir()] == [configuration.name]


def test_an_installation_without_its_directory_fails(tmp_path: Path):
    (tmp_path / "plugin").touch()
    with pytest.raises(subprocess.CalledProcessError):
        install(tmp_path / "plugin", tmp_path / "plugin", tmp_path / "nowhere")


def unpacked(secret: dict[str, dict[str, str]], folder: Path) -> Path:
    folder.mkdir()
    for name, value in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(value))
    return folder


@asynccontextmanager
async def etcd_of_the_manifest(folder: Path, certificates: Path) -> AsyncIterator[str]:
    """etcd with the flags that it is deployed with, on ports of this machine; yields its endpoint."""
    client, peer, figures = (free_port() for _ in range(3))
    here = {
        "CONTROL_PLANE_ADDRESS": "127.0.0.1", "0.0.0.0": "127.0.0.1",
        ":32379": f":{client}", ":32380": f":{peer}", ":32381": f":{figures}",
        "/etc/contiv-etcd": str(certificates), "/var/lib/etcd": str(folder / "data"),
    }  # fmt: skip
    flags = container("contiv-etcd/etcd").command[1:]
    for written, meant in here.items():
        flags = [flag.replace(written, meant) for flag in flags]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(find_etcd(), *flags, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while not await healthy(session, f"http://127.0.0.1:{figures}/health"):
                assert process.returncode is None, (folder / "log").read_text()
                await asyncio.sleep(0.05)
        yield f"https://127.0.0.1:{client}"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def healthy(session: aiohttp.ClientSession, url: str) -> bool:
    with suppress(aiohttp.ClientError):
        async with session.get(url) as answer:
            return answer.status == 200
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
async def test_etcd_starts_as_it_is_deployed_and_takes_nobody_without_a_certificate(tmp_path: Path):
    made = subprocess.run([DEPLOY / "etcd-certificates", "192.0.2.10"], check=True, capture_output=True, text=True)
    secrets = {each["metadata"]["name"]: each for each in yaml.safe_load_all(made.stdout)}
    mounted = {v["secret"]["secretName"] for c in containers() for v in c.mounts.values() if "secret" in v}
    assert secrets.keys() == mounted
    server = unpacked(secrets["contiv-etcd-server"], tmp_path / "server")
    client = unpacked(secrets["contiv-etcd-client"], tmp_path / "client")
    async with etcd_of_the_manifest(tmp_path, server) as endpoint:
        ours = TlsConfig(ca=client / "ca.crt", cert=client / "tls.crt", key=client / "tls.key")
        async with await Etcd.connect([endpoint], tls=ours) as connected:
            await connected.put("/k", b"v")
            assert (await connected.get_prefix("/k")).values == {"/k": b"v"}
        with pytest.raises(StoreError):
            await Etcd.connect([endpoint], tls=TlsConfig(ca=client / "ca.crt"), timeout_s=2)
    certificate = x509.load_pem_x509_certificate((server / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.10", "127.0.0.1"]


def test_the_certificates_want_an_address():
    assert subprocess.run([DEPLOY / "etcd-certificates"], capture_output=True).returncode == 2


def test_the_image_is_made_of_what_is_there_and_let_through():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert all((ROOT / source).exists() for source in sources)
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert sources == {line[1:] for line in ignore if line.startswith("!")}


def test_the_image_has_what_the_manifests_run():
    commands = {each.command[0] for each in containers() if each.spec["image"].startswith("contiv-vpp:")}
    assert commands == {"contiv", "contiv-install-cni"}
    assert "COPY deploy/install-cni /usr/local/bin/contiv-install-cni\n" in DOCKERFILE
    assert os.access(DEPLOY / "install-cni", os.X_OK)
