"""healthCheckNodePort: load balancers ask this node whether it has endpoints of a service (traffic policy Local).

In: the checks by port, from ``ServiceState``. Out: HTTP on every address of the node, 200 while there is a ready
endpoint here, 503 while there is none, with the words of kube-proxy (pkg/proxy/healthcheck/service_health.go). A port
that somebody else listens on is reported and tried again with the next change; the others are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import msgspec
import structlog
from aiohttp import web

from contiv.service.state import HealthCheck

log = structlog.get_logger(__name__)


class HealthServers:
    """One server a port. ``apply`` brings them to what is wanted; ``close`` ends them all."""

    def __init__(self, host: str | None = None) -> None:
        self._host = host
        self._checks: Mapping[int, HealthCheck] = {}
        self._servers: dict[int, web.AppRunner] = {}
        self._turn = asyncio.Lock()

    @property
    def ports(self) -> frozenset[int]:
        """Where somebody is answered."""
        return frozenset(self._servers)

    async def apply(self, checks: Mapping[int, HealthCheck]) -> None:
        """Serve these and no others; answers change with the mapping, without another call, while ports stay."""
        async with self._turn:
            self._checks = checks
            for port in self._servers.keys() - checks.keys():
                await self._servers.pop(port).cleanup()
            for port in sorted(checks.keys() - self._servers.keys()):
                await self._open(port)

    async def close(self) -> None:
        """End all servers."""
        await self.apply({})

    async def _open(self, port: int) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", partial(self._answer, port))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, port).start()
        except OSError as error:
            await runner.cleanup()
            service = self._checks[port].service
            log.error("health check port not served", service=service, port=port, error=str(error))
        else:
            self._servers[port] = runner

    async def _answer(self, port: int, _: web.Request) -> web.Response:
        check = self._checks.get(port)
        if check is None:
            return web.Response(status=503)
        namespace, _slash, name = check.service.partition("/")
        body = {
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": check.endpoints,
            "serviceProxyHealthy": True,
        }
        return web.Response(
            status=200 if check.endpoints else 503,
            body=msgspec.json.encode(body),
            content_type="application/json",
            headers={"X-Load-Balancing-Endpoint-Weight": str(check.endpoints)},
        )
