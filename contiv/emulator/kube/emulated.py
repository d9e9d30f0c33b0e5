"""``EmulatedKube``: an emulated API server on a loopback port, inside this process.

Comes in: settings and an address to listen on. Goes out: ``url``, a kubeconfig, the fault switches and the cluster
itself, for tests that look inside or load many objects without HTTP. For a process of its own see ``process``.

::

    async with EmulatedKube() as kube:
        kube.write_kubeconfig(path)
        kube.faults.expire_versions()
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from aiohttp import web

from contiv.emulator.kube.cluster import DEFAULTS, Cluster, Settings
from contiv.emulator.kube.faults import Faults
from contiv.emulator.kube.server import BODY_BYTES_MAX, Handler
from contiv.errors import KubeError

SHUTDOWN_TIMEOUT_S = 2.0


class EmulatedKube:
    """One server. ``start`` and ``stop`` may alternate: the objects and the port stay."""

    def __init__(self, settings: Settings = DEFAULTS, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.cluster = Cluster(settings)
        self.host = host
        self.port = port
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self.faults = Faults(
            clock=lambda: asyncio.get_running_loop().time(),
            drop=self._drop_connections,
            expire=self.cluster.store.compact,
        )

    @property
    def url(self) -> str:
        """Base address of the API, without a slash at the end."""
        if not self.port:
            raise KubeError("emulated API server: not started, no port yet")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. A free port is chosen the first time and kept."""
        handler = Handler(self.cluster, faults=self.faults)
        self._server = web.Server(
            handler,
            request_factory=_request_factory,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=600,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, self.host, self.port, backlog=1024, reuse_address=True)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listening socket and every connection; the objects stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._drop_connections()
        if self._server is not None:
            await self._server.shutdown(SHUTDOWN_TIMEOUT_S)
            self._server = None

    def _drop_connections(self) -> int:
        connections = list(self._server.connections) if self._server is not None else []
        for connection in connections:
            if connection.transport is not None:
                connection.transport.abort()
        return len(connections)

    def kubeconfig(self) -> str:
        """A kubeconfig (YAML) that kubectl and the project's client accept."""
        return kubeconfig(self.url)

    def write_kubeconfig(self, path: str | os.PathLike[str]) -> Path:
        """Write the kubeconfig with mode 0600; returns its path."""
        return write_kubeconfig(path, url=self.url)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        self.cluster.close()


def _request_factory(*arguments: object) -> web.BaseRequest:
    message, payload, protocol, writer, task = arguments[:5]
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_BYTES_MAX)  # type: ignore[arg-type]


def kubeconfig(url: str) -> str:
    """A kubeconfig for an API server without authentication."""
    name = "contiv-emulated"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
        "users": [{"name": name, "user": {"token": "emulated"}}],
        "current-context": name,
    }
    return yaml.safe_dump(document, sort_keys=False)


def write_kubeconfig(path: str | os.PathLike[str], *, url: str) -> Path:
    """Write a kubeconfig with mode 0600, readable by its owner alone from the first byte."""
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_text(kubeconfig(url))
    fresh.replace(target)
    return target


def parse_listen(text: str) -> tuple[str, int]:
    """``host:port`` with a numeric host; port 0 picks a free one."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError as error:
        raise KubeError(f"listen address {text!r}: not address:port; write for example 127.0.0.1:0") from error
    if not 0 <= number <= 65535:
        raise KubeError(f"listen address {text!r}: port out of range; write 0 to 65535")
    return host, number
