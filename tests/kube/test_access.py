"""Credentials from every place that they may stand in, read again when they rotate."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from contiv.errors import ConfigError
from contiv.kube import access
from contiv.kube.access import AccessSource, load_access
from contiv.kube.client import KubeClient
from contiv.kube.errors import KubeDenied, KubeUnavailable
from tests.kube.conftest import write_kubeconfig
from tests.kube.scripted import PODS, ScriptedApi


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path: Path):
    """Nothing of the machine that runs the tests."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[ScriptedApi]:
    """A server that demands client certificates of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with ScriptedApi().serve(ssl_context=context) as api:
        yield api


def encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()


async def test_inline_certificates_open_a_tls_connection(secure: ScriptedApi, authority: trustme.CA, tmp_path: Path):
    me = authority.issue_cert("ksr@example.test")
    path = write_kubeconfig(
        tmp_path / "config",
        secure.url,
        cluster=f", certificate-authority-data: {encoded(authority.cert_pem.bytes())}",
        user=f"{{client-certificate-data: {encoded(me.cert_chain_pems[0].bytes())}, "
        f"client-key-data: {encoded(me.private_key_pem.bytes())}}}",
    )
    async with KubeClient(AccessSource(path)) as client:
        assert b"resourceVersion" in await client.get(PODS)


async def test_certificate_files_are_relative_to_the_kubeconfig(
    secure: ScriptedApi, authority: trustme.CA, tmp_path: Path, monkeypatch
):
    me = authority.issue_cert("ksr@example.test")
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "pki" / "me.crt").write_bytes(me.cert_chain_pems[0].bytes())
    (tmp_path / "pki" / "me.key").write_bytes(me.private_key_pem.bytes())
    path = write_kubeconfig(
        tmp_path / "config",
        secure.url.replace("localhost", "127.0.0.1"),
        cluster=", certificate-authority: pki/ca.crt, tls-server-name: localhost",
        user="{client-certificate: pki/me.crt, client-key: pki/me.key}",
    )
    monkeypatch.setenv("KUBECONFIG", path)
    async with KubeClient(AccessSource()) as client:
        assert b"resourceVersion" in await client.get(PODS)


async def test_a_server_of_another_authority_is_refused(secure: ScriptedApi, tmp_path: Path):
    stranger = encoded(trustme.CA().cert_pem.bytes())
    path = write_kubeconfig(tmp_path / "config", secure.url, cluster=f", certificate-authority-data: {stranger}")
    async with KubeClient(AccessSource(path)) as client:
        with pytest.raises(KubeUnavailable, match="certificate"):
            await client.get(PODS)


async def test_a_token_file_is_read_again_when_the_token_is_refused(api: ScriptedApi, tmp_path: Path):
    (tmp_path / "token").write_text("old\n")
    path = write_kubeconfig(tmp_path / "config", api.url, user="{tokenFile: token}")
    api.required_token = "old"
    async with KubeClient(AccessSource(path)) as client:
        await client.get(PODS)
        api.required_token = "new"
        with pytest.raises(KubeDenied, match="401"):
            await client.get(PODS)
        (tmp_path / "token").write_text("new\n")
        await client.get(PODS)


async def test_a_rotating_token_is_read_again_before_it_is_refused(api: ScriptedApi, tmp_path: Path, monkeypatch):
    (tmp_path / "token").write_text("old")
    source = AccessSource(write_kubeconfig(tmp_path / "config", api.url, user="{tokenFile: token}"))
    assert (await source.current()).authorization == "Bearer old"
    (tmp_path / "token").write_text("new")
    assert (await source.current()).authorization == "Bearer old", "not with each request"
    monkeypatch.setattr(access, "REREAD_S", 0.0)
    assert (await source.current()).authorization == "Bearer new"


def test_a_service_account_is_found_in_a_pod(authority: trustme.CA, tmp_path: Path, monkeypatch):
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "token").write_text("bound\n")
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    found = load_access()
    assert (found.server, found.authorization) == ("https://[fd00::1]:6443", "Bearer bound")
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED


def test_the_users_own_kubeconfig_is_the_last_resort(tmp_path: Path):
    (tmp_path / "home" / ".kube").mkdir(parents=True)
    write_kubeconfig(tmp_path / "home" / ".kube" / "config", "http://10.0.0.1:8080/", user="{token: t}")
    found = load_access()
    assert (found.server, found.authorization, found.tls) == ("http://10.0.0.1:8080", "Bearer t", None)


def test_unchanged_material_keeps_its_tls_context(tmp_path: Path):
    path = write_kubeconfig(tmp_path / "config", "https://x", cluster=", insecure-skip-tls-verify: true")
    first, second = load_access(path), load_access(path)
    assert first.tls is second.tls
    assert first.tls is not None
    assert first.tls.verify_mode is ssl.CERT_NONE


def test_an_exec_plugin_is_run_by_the_official_client(tmp_path: Path):
    plugin = tmp_path / "plugin"
    plugin.write_text(
        '#!/bin/sh\necho \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
        ' "status": {"token": "from-plugin"}}\'\n'
    )
    plugin.chmod(0o755)
    user = f"{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}}}}}"
    found = load_access(write_kubeconfig(tmp_path / "config", "http://10.0.0.1", user=user))
    assert (found.server, found.authorization, found.rotates) == (
        "http://10.0.0.1",
        "Bearer from-plugin",
        False,
    )


def test_an_exec_plugin_that_fails_is_an_error_and_not_anonymous_access(tmp_path: Path):
    user = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: /nonexistent, interactiveMode: Never}}"
    with pytest.raises(ConfigError, match="credentials could not be obtained"):
        load_access(write_kubeconfig(tmp_path / "config", "http://10.0.0.1", user=user))


def test_merged_files_are_left_to_the_official_client(tmp_path: Path):
    first = write_kubeconfig(tmp_path / "a", "http://10.0.0.1", user="{token: t}")
    second = write_kubeconfig(tmp_path / "b", "http://10.0.0.2")
    found = load_access(f"{first}{os.pathsep}{second}")
    assert (found.server, found.authorization) == ("http://10.0.0.1", "Bearer t")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expected `object`, got `null`"),
        ("- a list", "Expected `object`"),
        ("clusters: 3", "clusters"),
        ("{current-context: x}", "no such context"),
        ("{current-context: x, contexts: [{name: x, context: {cluster: y}}]}", "unknown in"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: y}}], clusters: [{name: y, cluster:"
            " {server: 'https://h', certificate-authority-data: '***'}}]}",
            "certificate-authority-data",
        ),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: y}}], clusters: [{name: y, cluster:"
            " {server: 'https://h', certificate-authority: missing.pem}}]}",
            "missing.pem",
        ),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: y}}], clusters: [{name: y, cluster:"
            " {server: 'https://h', certificate-authority-data: bm90IGEgcGVt}}]}",
            "TLS material",
        ),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, words: str):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words.replace("*", r"\*")):
        load_access(str(path))


def test_no_credentials_at_all_says_what_to_give():
    with pytest.raises(ConfigError, match="--kubeconfig"):
        load_access()
    with pytest.raises(ConfigError, match="/nonexistent"):
        load_access("/nonexistent")


def test_a_plain_kubeconfig_does_not_import_the_official_client(tmp_path: Path):
    path = write_kubeconfig(tmp_path / "config", "http://10.0.0.1", user="{token: t}")
    code = (
        "import sys; from contiv.kube.access import load_access; load_access(sys.argv[1]);"
        "sys.exit(any(name.partition('.')[0] == 'kubernetes' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60).returncode == 0
