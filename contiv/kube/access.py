"""How to reach the API server and as whom: kubeconfig files and service accounts become ``Access`` values.

In: a kubeconfig's path, KUBECONFIG, the files of a pod's service account, ``~/.kube/config``, in this order.
Out: server URL, TLS context, bearer token, proxy. Static credentials are read here; what needs a program or a
refresh protocol (exec plugins, auth providers, basic auth, several merged files) goes through the official
client, which is imported only then (docs/decisions/kubernetes-credentials.md). Everything is read again after
REREAD_S and after a 401, since bound tokens and certificates rotate.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import os
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import field

from contiv.errors import ConfigError

REREAD_S: Final = 60.0
"""client-go reads rotated token files every minute (transport/token_source.go); tokens live for an hour at
least.
"""
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TLS_CONTEXTS_MAX: Final = 4


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as whom. ``server`` without a trailing slash; ``tls`` None for http; ``authorization`` a
    header or "".

    ``rotates``: worth reading again by age; otherwise only a 401 makes it so.
    """

    server: str
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    authorization: str = ""
    proxy: str = ""
    rotates: bool = True


class AccessSource:
    """The current ``Access``, read again when it is old or was refused. Reading happens in a thread."""

    def __init__(self, kubeconfig: str | None = None, *, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._access: Access | None = None
        self._read_at = 0.0
        self._lock = asyncio.Lock()

    async def current(self) -> Access:
        """The credentials to use now. ConfigError when there are none, or when they cannot be used."""
        async with self._lock:
            age = time.monotonic() - self._read_at
            if self._access is None or (self._access.rotates and age > REREAD_S):
                self._access = await asyncio.to_thread(load_access, self._kubeconfig, context=self._context)
                self._read_at = time.monotonic()
            return self._access

    def refuse(self, access: Access) -> None:
        """The server did not accept ``access``: read again before the next request."""
        if self._access is access:
            self._access = None


def load_access(kubeconfig: str | None = None, *, context: str | None = None) -> Access:
    """Find and read credentials; blocks on files and on exec plugins. ConfigError names what is wrong."""
    path = kubeconfig or os.environ.get("KUBECONFIG")
    if path:
        return _from_kubeconfig(path, context=context)
    if os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").exists():
        return _from_service_account(SERVICE_ACCOUNT)
    default = Path.home() / ".kube" / "config"
    if default.exists():
        return _from_kubeconfig(str(default), context=context)
    raise ConfigError(
        "kubeconfig",
        kubeconfig,
        "no credentials for the Kubernetes API",
        remedy="give --kubeconfig, set KUBECONFIG, or run in a pod with a service account",
    )


# ---- in a pod ----------------------------------------------------------------------------------------------


def _from_service_account(directory: Path) -> Access:
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if ":" in host:
        host = f"[{host}]"
    return Access(
        server=f"https://{host}:{port}",
        tls=_tls(ca=_read(directory / "ca.crt", "serviceaccount.ca.crt")),
        authorization=f"Bearer {_read_text(directory / 'token', 'serviceaccount.token')}",
    )


# ---- kubeconfig --------------------------------------------------------------------------------------------


class _Yaml(msgspec.Struct, frozen=True, rename="kebab"):
    """Kubeconfig spells most of its keys with hyphens."""


class _Cluster(_Yaml, frozen=True):
    server: str
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool | None = None
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _User(_Yaml, frozen=True):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = field(name="tokenFile", default=None)
    exec: Any = None
    auth_provider: Any = None
    username: str | None = None

    @property
    def needs_official_client(self) -> bool:
        return not (self.exec is None and self.auth_provider is None and self.username is None)


class _Context(_Yaml, frozen=True):
    cluster: str
    user: str | None = None


class _NamedCluster(_Yaml, frozen=True):
    name: str
    cluster: _Cluster


class _NamedUser(_Yaml, frozen=True):
    name: str
    user: _User | None = None


class _NamedContext(_Yaml, frozen=True):
    name: str
    context: _Context


class _Kubeconfig(_Yaml, frozen=True):
    clusters: list[_NamedCluster] | None = None
    contexts: list[_NamedContext] | None = None
    users: list[_NamedUser] | None = None
    current_context: str | None = None


def _from_kubeconfig(path: str, *, context: str | None) -> Access:
    if os.pathsep in path:
        return _from_official_client(path, context=context, expects_credentials=False)
    try:
        config = msgspec.yaml.decode(Path(path).read_bytes(), type=_Kubeconfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError("kubeconfig", path, str(error), remedy="give a readable kubeconfig file") from error
    cluster, user = _select(config, path, context=context)
    if user.needs_official_client:
        return _from_official_client(path, context=context, expects_credentials=True)
    base = Path(path).resolve().parent
    server = cluster.server.rstrip("/")
    token = user.token or (_read_text(base / user.token_file, "users.tokenFile") if user.token_file else "")
    return Access(
        server=server,
        tls=None if server.startswith("http://") else _tls_of(cluster, user, base),
        server_name=cluster.tls_server_name or "",
        authorization=f"Bearer {token}" if token else "",
        proxy=cluster.proxy_url or "",
    )


def _select(config: _Kubeconfig, path: str, *, context: str | None) -> tuple[_Cluster, _User]:
    """Cluster and user of the chosen context; an absent user is one without credentials."""
    wanted = context or config.current_context
    chosen = next((c.context for c in config.contexts or () if c.name == wanted), None)
    if chosen is None:
        remedy = "set current-context to one of the file's contexts"
        raise ConfigError("kubeconfig.current-context", wanted, f"no such context in {path}", remedy=remedy)
    cluster = next((c.cluster for c in config.clusters or () if c.name == chosen.cluster), None)
    if cluster is None:
        remedy = "name a cluster that the file defines"
        raise ConfigError("kubeconfig.contexts.cluster", chosen.cluster, f"unknown in {path}", remedy=remedy)
    user = next((u.user for u in config.users or () if u.name == chosen.user), None)
    return cluster, user or _User()


def _tls_of(cluster: _Cluster, user: _User, base: Path) -> ssl.SSLContext:
    return _tls(
        ca=_material(cluster.certificate_authority_data, cluster.certificate_authority, base, "certificate-authority"),
        certificate=_material(user.client_certificate_data, user.client_certificate, base, "client-certificate"),
        key=_material(user.client_key_data, user.client_key, base, "client-key"),
        verify=not cluster.insecure_skip_tls_verify,
    )


def _material(data: str | None, file: str | None, base: Path, name: str) -> bytes:
    """PEM from inline base64, which wins as in client-go, or from a file relative to the kubeconfig; b"" for
    none.
    """
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            remedy = "give the PEM file in base64"
            raise ConfigError(f"kubeconfig.{name}-data", "...", str(error), remedy=remedy) from error
    return _read(base / file, f"kubeconfig.{name}") if file else b""


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(key, str(path), str(error), remedy="make the file readable for this process") from error


def _read_text(path: Path, key: str) -> str:
    return _read(path, key).decode("ascii", "replace").strip()


# ---- TLS ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=TLS_CONTEXTS_MAX)
def _tls(*, ca: bytes = b"", certificate: bytes = b"", key: bytes = b"", verify: bool = True) -> ssl.SSLContext:
    """A client context for this material. Cached, so that reading the same files again keeps connections
    alive.
    """
    try:
        context = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            _load_chain(context, certificate + b"\n" + key)
    except (ssl.SSLError, ValueError) as error:
        remedy = "check certificate-authority, client-certificate and client-key"
        raise ConfigError("kubeconfig", "TLS material", str(error), remedy=remedy) from error
    return context


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Python's ssl loads client certificates from files only; this one is private and gone at once."""
    with tempfile.NamedTemporaryFile(prefix="contiv-", suffix=".pem") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


# ---- the official client -----------------------------------------------------------------------------------


def _from_official_client(path: str, *, context: str | None, expects_credentials: bool) -> Access:
    """Exec plugins, auth providers, basic auth, merged files: what the official client is good at."""
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config

    config = Configuration()
    try:
        load_kube_config(path, context=context, client_configuration=config, persist_config=False)
    except (ConfigException, OSError, ValueError) as error:
        remedy = "see whether kubectl can use the same file"
        raise ConfigError("kubeconfig", path, str(error), remedy=remedy) from error
    # Releases disagree on the entry's name; the alias is the older one.
    authorization = config.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
    if expects_credentials and not authorization and not config.cert_file:
        # The official client only logs why an exec plugin failed, and goes on without credentials.
        remedy = "run the user's exec command by hand; it must print an ExecCredential"
        raise ConfigError("kubeconfig", path, "the user's credentials could not be obtained", remedy=remedy)
    server = str(config.host).rstrip("/")
    tls = None
    if not server.startswith("http://"):
        files = [Path(f).read_bytes() if f else b"" for f in (config.ssl_ca_cert, config.cert_file, config.key_file)]
        tls = _tls(ca=files[0], certificate=files[1], key=files[2], verify=bool(config.verify_ssl))
    return Access(
        server=server,
        tls=tls,
        server_name=config.tls_server_name or "",
        authorization=authorization,
        proxy=config.proxy or "",
        rotates=False,  # running a plugin every minute may ask a person or cost money; a 401 brings us back
    )
