"""TLS and etcd's own authentication, against a real etcd with certificates made for the test."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from pyetcd.etcdrpc import auth_pb2
from pyetcd.etcdrpc import rpc_pb2 as rpc

from contiv.errors import ConfigError
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd, ServerTls
from contiv.store.errors import StoreDenied, StoreUnavailable
from contiv.store.records import prefix_range
from contiv.store.transport import AuthConfig, Repeat, TlsConfig


class Certificates(msgspec.Struct):
    """Paths of PEM files: an authority, a server and a client certified by it, and an authority of nobody."""

    ca: Path
    server: ServerTls
    client: TlsConfig
    stranger: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    for name, host in (("server", "127.0.0.1"), ("client", "agent")):
        issued = authority.issue_cert(host)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for pem in issued.cert_chain_pems:
            pem.write_to_path(folder / f"{name}.pem", append=True)
    ca = folder / "ca.pem"
    return Certificates(
        ca=ca,
        server=ServerTls(folder / "server.pem", folder / "server.key", client_ca=ca),
        client=TlsConfig(ca=ca, cert=folder / "client.pem", key=folder / "client.key"),
        stranger=folder / "stranger.pem",
    )


async def test_tls_with_client_certificates(tmp_path: Path, certificates: Certificates) -> None:
    async with EmbeddedEtcd(tmp_path, tls=certificates.server) as server:
        assert server.endpoint.startswith("https://")
        async with await Etcd.connect([server.endpoint], tls=certificates.client) as etcd:
            revision = await etcd.put("/k", b"secret")
            async with etcd.watch("/k", start_revision=revision) as watch:
                async for batch in watch:
                    assert batch.events[0].value == b"secret"
                    break
        refused = (
            TlsConfig(ca=certificates.ca),  # shows no certificate
            msgspec.structs.replace(certificates.client, ca=certificates.stranger),
            msgspec.structs.replace(certificates.client, server_name="elsewhere"),
        )
        for tls in refused:
            with pytest.raises(StoreUnavailable, match="CA, certificate and key"):
                await connect_and_read(server.endpoint, tls)
        with pytest.raises(StoreUnavailable):
            await connect_and_read(server.endpoint.replace("https", "http"), None)


async def connect_and_read(
    endpoint: str, tls: TlsConfig | None, *, auth: AuthConfig | None = None, timeout_s: float = 0.4
) -> None:
    """With TLS 1.3 a missing client certificate shows only after the handshake: at the first call."""
    async with await Etcd.connect([endpoint], tls=tls, auth=auth, timeout_s=timeout_s) as etcd:
        await etcd.get("/agent/k")


async def test_a_certificate_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"etcd\.tls\.ca.*nowhere"):
        await Etcd.connect(["https://127.0.0.1:1"], tls=TlsConfig(ca=tmp_path / "nowhere"))


ROOT = AuthConfig("root", "root password")
AGENT = AuthConfig("agent", "agent password")


async def enable_auth(etcd: Etcd) -> None:
    """Users root and agent; agent may use /agent/ alone."""

    async def call(method: str, request: Any) -> None:
        await etcd.transport.call(method, request, lambda c: getattr(c.auth, method), repeat=Repeat.IF_UNSENT)

    key, end = prefix_range("/agent/")
    permission = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=key, range_end=end)
    for user in (ROOT, AGENT):
        await call("UserAdd", rpc.AuthUserAddRequest(name=user.user, password=user.password))
        await call("RoleAdd", rpc.AuthRoleAddRequest(name=user.user))
        await call("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=user.user, role=user.user))
    await call("RoleGrantPermission", rpc.AuthRoleGrantPermissionRequest(name="agent", perm=permission))
    await call("AuthEnable", rpc.AuthEnableRequest())


@pytest.fixture
async def guarded(server: EmbeddedEtcd) -> EmbeddedEtcd:
    async with await Etcd.connect([server.endpoint]) as etcd:
        await enable_auth(etcd)
    return server


async def test_a_user_reaches_its_own_keys_and_no_others(guarded: EmbeddedEtcd) -> None:
    async with await Etcd.connect([guarded.endpoint], auth=AGENT) as etcd:
        revision = await etcd.put("/agent/k", b"v")
        with pytest.raises(StoreDenied, match="roles grant"):
            await etcd.put("/other", b"v")
        with pytest.raises(StoreDenied):
            await etcd.get_prefix("/")
        async with asyncio.timeout(5), etcd.watch("/agent/", start_revision=revision) as watch:
            async for batch in watch:
                assert batch.events[0].value == b"v"
                break
        async with asyncio.timeout(5), etcd.watch("/", start_revision=revision) as watch:
            with pytest.raises(StoreDenied):
                await anext(aiter(watch))


@pytest.mark.parametrize("auth", [None, AuthConfig("agent", "wrong"), AuthConfig("nobody", "x")])
async def test_without_a_valid_user_everything_is_denied(guarded: EmbeddedEtcd, auth: AuthConfig | None) -> None:
    with pytest.raises(StoreDenied):
        await connect_and_read(guarded.endpoint, None, auth=auth, timeout_s=5)  # bcrypt takes its time


async def test_a_token_that_etcd_forgot_is_renewed_for_calls_watches_and_leases(
    guarded: EmbeddedEtcd,
) -> None:
    """etcd's simple tokens live in its memory: a restart invalidates them all."""
    async with await Etcd.connect([guarded.endpoint], auth=AGENT, timeout_s=15) as etcd:
        lease = await etcd.lease(3)
        revision = await etcd.put("/agent/a", b"", lease=lease)
        async with asyncio.timeout(15), etcd.watch("/agent/", start_revision=revision + 1) as watch:
            token = etcd.transport.token
            await guarded.restart()
            await etcd.put("/agent/b", b"")
            assert etcd.transport.token != token
            async for batch in watch:
                assert [event.key for event in batch.events] == ["/agent/b"]
                break
        await asyncio.sleep(1.2)
        assert not lease.lost.is_set()


async def test_a_user_is_harmless_while_etcd_has_no_authentication_and_used_once_it_has(
    server: EmbeddedEtcd,
) -> None:
    async with await Etcd.connect([server.endpoint], auth=AGENT) as etcd:
        await etcd.put("/agent/k", b"1")
        async with await Etcd.connect([server.endpoint]) as administrator:
            await enable_auth(administrator)
        await etcd.put("/agent/k", b"2")
        with pytest.raises(StoreDenied):
            await etcd.put("/other", b"")
