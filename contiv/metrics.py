"""What a process shows of itself over HTTP: ``/metrics`` for Prometheus, ``/liveness`` and ``/readiness`` for
probes.

In: a registry that the parts of a process put their metrics into, and a ``Health`` into which they put their
checks. Out: a small server on TCP or a Unix socket, for as long as its context lasts. One registry a process,
never Prometheus' global one, so that tests run several instances side by side.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from contiv.errors import ConfigError

SHUTDOWN_TIMEOUT_S: Final = 1.0
LATENCY_BUCKETS_S: Final = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.010, 0.012, 0.015, 0.020, 0.030, 0.050, 0.075),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Seconds. Fine below 20 ms, where an event's way through the system is decided."""

Check = Callable[[], str | None]
"""What is wrong at this moment, in words; None when nothing is."""


def registry() -> CollectorRegistry:
    """A registry of its own with the usual figures of process, garbage collector and platform."""
    made = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


class Health:
    """Checks by name. Liveness: restart me when it fails. Readiness: do not count on me while it fails."""

    def __init__(self) -> None:
        self._liveness: dict[str, Check] = {}
        self._readiness: dict[str, Check] = {}

    def add_liveness(self, name: str, check: Check) -> None:
        """Ask ``check`` at each liveness probe; a second one of the same name replaces the first."""
        self._liveness[name] = check

    def add_readiness(self, name: str, check: Check) -> None:
        """Ask ``check`` at each readiness probe; a second one of the same name replaces the first."""
        self._readiness[name] = check

    def dead(self) -> dict[str, str]:
        """Failing liveness checks with their words."""
        return _failing(self._liveness)

    def unready(self) -> dict[str, str]:
        """Failing readiness checks with their words, liveness included."""
        return _failing(self._liveness) | _failing(self._readiness)


def _failing(checks: dict[str, Check]) -> dict[str, str]:
    results = {name: check() for name, check in checks.items()}
    return {name: problem for name, problem in results.items() if problem is not None}


@asynccontextmanager
async def serve(
    address: str,
    metrics: CollectorRegistry,
    health: Health | None = None,
    *,
    routes: Sequence[web.RouteDef] = (),
) -> AsyncIterator[str]:
    """Serve at ``address`` while the context lasts; yields the address in use, with the port that was chosen
    for 0.

    ``host:port``, ``:port`` (every address), ``[v6]:port`` or ``unix:/path`` (mode 0600, a stale socket is
    replaced). ConfigError when it cannot be used. ``routes`` are the process's own, beside the three.
    """
    checks = health or Health()

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def liveness(_: web.Request) -> web.Response:
        return _verdict(checks.dead())

    async def readiness(_: web.Request) -> web.Response:
        return _verdict(checks.unready())

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", show_metrics),
            web.get("/liveness", liveness),
            web.get("/readiness", readiness),
            *routes,
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        yield await _listen(runner, address)
    finally:
        await runner.cleanup()


def _verdict(problems: dict[str, str]) -> web.Response:
    if problems:
        return web.json_response({"status": "failing", "problems": problems}, status=503)
    return web.json_response({"status": "ok"})


async def _listen(runner: web.AppRunner, address: str) -> str:
    remedy = "give host:port, :port or unix:/path, and let no other process use it"
    try:
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            _remove_stale(path)
            await web.UnixSite(runner, path).start()
            os.chmod(path, 0o600)
            return address
        host, port = split_address(address)
        await web.TCPSite(runner, host or None, port).start()
    except OSError as error:
        raise ConfigError("metrics.address", address, str(error), remedy=remedy) from error
    bound = runner.addresses[0][1]
    return f"{f'[{host}]' if ':' in host else host}:{bound}"


def _remove_stale(path: Path) -> None:
    """A socket file outlives a process that was killed; anything else at the path stays and makes binding
    fail.
    """
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of ``host:port``, ``:port`` or ``[v6]:port``; ConfigError for anything else."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not port.isdigit() or int(port) > 65535:
        remedy = "write host:port, :port or [v6]:port"
        raise ConfigError("metrics.address", address, "no address with a port", remedy=remedy)
    return host, int(port)
