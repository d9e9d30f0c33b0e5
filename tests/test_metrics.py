"""The small server beside a process: figures, probes, addresses that work and addresses that do not."""

from __future__ import annotations

import stat
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import Counter

from contiv.errors import ConfigError
from contiv.metrics import Health, registry, serve


async def fetch(address: str, path: str) -> tuple[int, str]:
    unix = address.startswith("unix:")
    connector = aiohttp.UnixConnector(address.removeprefix("unix:")) if unix else None
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(f"http://{'localhost' if unix else address}{path}") as response:
            return response.status, await response.text()


async def test_metrics_of_the_process_and_its_parts_are_shown():
    metrics = registry()
    Counter("contiv_test_things", "things", registry=metrics).inc(3)
    async with serve("127.0.0.1:0", metrics) as address:
        status, text = await fetch(address, "/metrics")
    assert status == 200
    assert "contiv_test_things_total 3.0" in text
    assert "process_cpu_seconds_total" in text


async def test_probes_ask_the_checks_at_each_request():
    health = Health()
    problem: list[str | None] = [None]
    health.add_readiness("etcd", lambda: problem[0])
    async with serve("127.0.0.1:0", registry(), health) as address:
        assert (await fetch(address, "/readiness"))[0] == 200
        problem[0] = "not connected"
        status, text = await fetch(address, "/readiness")
        assert (status, "not connected" in text) == (503, True)
        assert (await fetch(address, "/liveness"))[0] == 200
        health.add_liveness("loop", lambda: "stuck")
        assert (await fetch(address, "/liveness"))[0] == 503


async def test_a_unix_socket_is_private_and_replaces_a_stale_one(tmp_path: Path):
    address = f"unix:{tmp_path}/metrics.sock"
    for _ in range(2):  # the second time over the file that a killed process would leave
        async with serve(address, registry()) as bound:
            assert bound == address
            assert stat.S_IMODE((tmp_path / "metrics.sock").stat().st_mode) == 0o600
            assert (await fetch(address, "/liveness"))[0] == 200


@pytest.mark.parametrize("address", ["", "host", "host:", "host:port", "host:70000", "fd00::1:80", "unix:/no/such/x"])
async def test_an_address_that_cannot_be_used_is_refused(address: str):
    with pytest.raises(ConfigError, match=r"metrics\.address"):
        async with serve(address, registry()):
            pass


async def test_an_address_in_use_is_refused():
    async with serve("127.0.0.1:0", registry()) as address:
        with pytest.raises(ConfigError, match="in use"):
            async with serve(address, registry()):
                pass
