"""The two scripts of deploy/, and what the image is made of."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from contiv.errors import StoreError
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd, ServerTls
from contiv.store.transport import TlsConfig
from tests.deploy.manifests import DEPLOY, containers, of_kind

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


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
async def test_etcd_takes_the_certificates_and_nobody_without_one(tmp_path: Path):
    made = subprocess.run([DEPLOY / "etcd-certificates", "192.0.2.10"], check=True, capture_output=True, text=True)
    secrets = {each["metadata"]["name"]: each for each in yaml.safe_load_all(made.stdout)}
    mounted = {v["secret"]["secretName"] for c in containers() for v in c.mounts.values() if "secret" in v}
    assert secrets.keys() == mounted
    server = unpacked(secrets["contiv-etcd-server"], tmp_path / "server")
    client = unpacked(secrets["contiv-etcd-client"], tmp_path / "client")
    listening = ServerTls(server / "tls.crt", server / "tls.key", client_ca=server / "ca.crt")
    async with EmbeddedEtcd(tmp_path / "e", tls=listening) as etcd:
        ours = TlsConfig(ca=client / "ca.crt", cert=client / "tls.crt", key=client / "tls.key")
        async with await Etcd.connect([etcd.endpoint], tls=ours) as connected:
            await connected.put("/k", b"v")
            assert (await connected.get_prefix("/k")).values == {"/k": b"v"}
        with pytest.raises(StoreError):
            await Etcd.connect([etcd.endpoint], tls=TlsConfig(ca=client / "ca.crt"), timeout_s=2)
    names = subprocess.run(
        ["openssl", "x509", "-in", server / "tls.crt", "-noout", "-ext", "subjectAltName"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "IP Address:192.0.2.10" in names


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
