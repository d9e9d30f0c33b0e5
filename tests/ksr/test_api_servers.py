"""KSR against servers that behave as Kubernetes does, the emulated one everywhere and a real one where there is one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contiv.emulator.kube import EmulatedKube, Settings
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.ksr import apiserver, clusters
from tests.ksr.clusters import Churn, Cluster, expected
from tests.ksr.conftest import Ksr, converged, led_by, reflected, synced_by, wait_for

OPERATIONS = 120


@pytest.fixture(params=["emulated", pytest.param("real", marks=[pytest.mark.kube, pytest.mark.slow, apiserver.needed])])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    make = clusters.emulated if request.param == "emulated" else apiserver.real
    async with make(tmp_path) as made:
        yield made


async def test_all_objects_are_equal_under_churn(cluster: Cluster, etcd: Etcd, ksr: Ksr):
    churn = Churn(cluster, seed=21)
    await churn.run(OPERATIONS)
    async with ksr.task():
        await converged(etcd, cluster)
        await churn.run(OPERATIONS)
        await converged(etcd, cluster)


async def test_killed_meanwhile_it_equals_the_api_server_within_a_second_of_its_list(
    cluster: Cluster, etcd: Etcd, ksr: Ksr
):
    churn = Churn(cluster, seed=22)
    await churn.run(OPERATIONS)
    async with ksr.process(instance="first"):
        await converged(etcd, cluster)
    before = await expected(cluster)
    await churn.run(OPERATIONS)
    wanted = await expected(cluster)
    assert before.keys() - wanted.keys(), "something vanished meanwhile"
    assert wanted.keys() - before.keys(), "something is new"
    async with ksr.process(instance="second"):
        await wait_for(etcd, led_by("second"))
        began_s = time.monotonic()
        state = await wait_for(etcd, synced_by("second"))
        assert reflected(state) == wanted
        assert time.monotonic() - began_s < 1.0


async def test_etcd_restarted_under_churn(cluster: Cluster, etcd: Etcd, server: EmbeddedEtcd, ksr: Ksr):
    churn = Churn(cluster, seed=23)
    async with ksr.task():
        await converged(etcd, cluster)
        await churn.run(20)
        await server.kill()
        await churn.run(20)
        await server.start()
        await converged(etcd, cluster)


async def test_dropped_connections_and_expired_versions(cluster: Cluster, etcd: Etcd, ksr: Ksr):
    churn = Churn(cluster, seed=24)
    async with ksr.task():
        for trouble in (cluster.drop, cluster.expire):
            await churn.run(40)
            await trouble()
            await churn.run(40)
            await converged(etcd, cluster)


async def test_every_fault_of_the_emulator_under_churn(tmp_path: Path, etcd: Etcd, server: EmbeddedEtcd):
    async with clusters.emulated(tmp_path) as cluster:
        churn = Churn(cluster, seed=25)
        faults = cluster.emulated.faults
        async with Ksr(cluster, server).task():
            await converged(etcd, cluster)
            for trouble in (
                lambda: faults.break_watches(3, times=6),
                lambda: faults.gone(3),
                lambda: faults.truncate(4),
                lambda: faults.refuse(0.2, how="reset"),
                lambda: faults.delay(0.02, for_s=0.3),
            ):
                await churn.run(20)
                trouble()
                faults.drop_connections()
                await churn.run(20)
                await converged(etcd, cluster)


async def test_an_api_server_that_starts_anew_with_nothing(tmp_path: Path, etcd: Etcd, server: EmbeddedEtcd):
    async with clusters.emulated(tmp_path) as cluster:
        churn = Churn(cluster, seed=26)
        async with Ksr(cluster, server).task():
            await churn.run(OPERATIONS)
            await converged(etcd, cluster)
            await cluster.emulated.stop()
            settings = Settings(bookmark_interval_s=0.1)
            async with EmulatedKube(settings, port=cluster.emulated.port) as empty:
                assert empty.url == cluster.emulated.url
                await converged(etcd, cluster)
