"""KSR against a real etcd: whatever happens to it, to etcd or to the API server, all objects are equal afterwards."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from contiv.errors import ConfigError
from contiv.ksr import main
from contiv.ksr.objects import Objects
from contiv.kube.access import AccessSource
from contiv.kube.client import KubeClient
from contiv.model import keys, kube
from contiv.reflection.metrics import ReflectionMetrics
from contiv.reflection.reflector import Reflector
from contiv.reflection.seat import Seat
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.errors import StoreConflict
from contiv.store.records import Compare
from tests.ksr.clusters import NAMESPACE, Churn, ScriptedCluster, expected
from tests.ksr.conftest import WAIT_S, Ksr, converged, led_by, reflected, synced_by, wait_for
from tests.kube.scripted import pod

OPERATIONS = 120
COUNTED = {
    "adds_total": "2.0",
    "updates_total": "1.0",
    "deletes_total": "1.0",
    "events_total": "4.0",
    "resyncs_total": "1.0",
    "objects": "1.0",
    "synced": "1.0",
}


async def test_everything_is_reflected_and_followed(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    churn = Churn(cluster, seed=1)
    await churn.run(OPERATIONS)
    async with ksr.task():
        await converged(etcd, cluster)
        await churn.run(OPERATIONS)
        await converged(etcd, cluster)
        state = await wait_for(etcd, lambda _: True)
    for key, value in reflected(state).items():
        assert kube.parse(key, value), "what is stored can be read back"


async def test_status_tells_version_and_number_of_objects(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    async with ksr.task(instance="one"):
        state = await wait_for(etcd, synced_by("one"))
    status = msgspec.json.decode(state[keys.ksr_status("namespaces")], type=kube.KsrStatus)
    assert (status.objects, status.resource_version, status.instance) == (1, str(cluster.api.version), "one")


async def test_a_restart_writes_nothing_that_is_right(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    await Churn(cluster, seed=3).run(OPERATIONS)
    async with ksr.task(instance="first"):
        await converged(etcd, cluster)
    before = (await etcd.get_prefix(keys.K8S)).records
    async with ksr.task(instance="second"):
        await wait_for(etcd, synced_by("second"))
    assert (await etcd.get_prefix(keys.K8S)).records == before, "not even a revision changed"


async def test_killed_again_and_again_under_churn_it_converges(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    churn = Churn(cluster, seed=4)
    for number in range(2):
        async with ksr.process(instance=f"mortal-{number}", lease_ttl_s=1):
            await wait_for(etcd, led_by(f"mortal-{number}"))
            await churn.run(20)  # it dies somewhere in the middle of list, sweep or changes
    async with ksr.task(instance="last"):
        await churn.run(20)
        await wait_for(etcd, synced_by("last"))
        await converged(etcd, cluster)


async def test_etcd_restarted_under_churn(cluster: ScriptedCluster, etcd: Etcd, server: EmbeddedEtcd, ksr: Ksr):
    churn = Churn(cluster, seed=5)
    async with ksr.task():
        await converged(etcd, cluster)
        for end in (server.restart, server.kill):
            await churn.run(20)
            await end()
            await churn.run(20)
            await server.start()
            await churn.run(20)
            await converged(etcd, cluster)


async def test_etcd_away_for_longer_than_the_lease(
    cluster: ScriptedCluster, etcd: Etcd, server: EmbeddedEtcd, ksr: Ksr
):
    churn = Churn(cluster, seed=6)
    registry = CollectorRegistry()
    async with ksr.task(lease_ttl_s=1, registry=registry):
        await converged(etcd, cluster)
        await server.kill()
        async with asyncio.timeout(10):
            while registry.get_sample_value("contiv_ksr_leader") == 1:
                await churn.step()
                await asyncio.sleep(0.05)
        await server.start()
        await converged(etcd, cluster)


async def test_etcd_that_lost_everything_is_filled_again(
    cluster: ScriptedCluster, etcd: Etcd, server: EmbeddedEtcd, ksr: Ksr
):
    await Churn(cluster, seed=7).run(OPERATIONS)
    async with ksr.task():
        await converged(etcd, cluster)
        await server.wipe()
        await converged(etcd, cluster)


async def test_versions_that_expire_and_connections_that_drop(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    churn = Churn(cluster, seed=8)
    async with ksr.task():
        for trouble in (cluster.drop, cluster.expire, cluster.drop, cluster.expire):
            await churn.run(30)
            await trouble()
            await churn.run(30)
            await converged(etcd, cluster)


async def test_an_api_server_that_fails_for_a_while(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    await Churn(cluster, seed=9).run(30)
    cluster.api.statuses = [(503, {})] * 20 + [(410, {})] * 5 + [(403, {})] * 5
    async with ksr.task():
        await converged(etcd, cluster)


async def test_the_standby_takes_over_and_only_one_ever_leads(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    churn = Churn(cluster, seed=10)
    active, standby = CollectorRegistry(), CollectorRegistry()
    async with ksr.task(instance="active", registry=active):
        await wait_for(etcd, led_by("active"))
        async with ksr.task(instance="standby", registry=standby):
            await churn.run(30)
            await converged(etcd, cluster)
            assert [r.get_sample_value("contiv_ksr_leader") for r in (active, standby)] == [1, 0]
            assert cluster.api.count(watch=False) == 1, "the standby leaves the API server alone"
            await etcd.delete(keys.KSR_LEADER)
            await wait_for(etcd, lambda state: keys.KSR_LEADER in state)
            await churn.run(30)
            await converged(etcd, cluster)
        await wait_for(etcd, led_by("active"))
        await churn.run(30)
        await converged(etcd, cluster)


async def test_a_killed_leader_is_replaced_after_its_lease(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    churn = Churn(cluster, seed=11)
    async with ksr.process(instance="mortal", lease_ttl_s=1) as mortal:
        await wait_for(etcd, led_by("mortal"))
        async with ksr.task(instance="heir", lease_ttl_s=1):
            await converged(etcd, cluster)
            mortal.kill()
            await churn.run(30)
            await wait_for(etcd, synced_by("heir"), within_s=5)
            await converged(etcd, cluster)


async def test_what_a_deposed_leader_still_sends_is_refused_by_etcd(
    cluster: ScriptedCluster, etcd: Etcd, server: EmbeddedEtcd, ksr: Ksr
):
    """A leader that was stopped (SIGSTOP) past its lease wakes up and finds another one."""
    async with ksr.process(instance="sleeper", lease_ttl_s=1) as sleeper:
        await wait_for(etcd, synced_by("sleeper"))
        sleeper.send_signal(signal.SIGSTOP)
        async with ksr.task(instance="heir", lease_ttl_s=1):
            await wait_for(etcd, synced_by("heir"))
            await cluster.put(kube.PODS, pod("late", namespace=NAMESPACE, v="1"))
            await converged(etcd, cluster)
            await cluster.api.delete(kube.PODS.collection_path, "late", namespace=NAMESPACE)
            await converged(etcd, cluster)
            sleeper.send_signal(signal.SIGCONT)  # its socket still holds the event that added the pod
            await Churn(cluster, seed=12).run(30)
            await converged(etcd, cluster)
            state = await wait_for(etcd, led_by("heir"))
            assert keys.k8s_object("pods", "late", namespace=NAMESPACE) not in state


async def test_no_write_gets_through_without_the_leaders_key(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    """The guard alone holds, whatever an instance believes of itself."""
    revision = await etcd.put(keys.KSR_LEADER, b"another")
    stale = Compare(keys.KSR_LEADER, "create_revision", "==", revision - 1)
    async with KubeClient(AccessSource(cluster.kubeconfig)) as client:
        metrics = ReflectionMetrics(CollectorRegistry(), "ksr")
        seat = Seat(client=client, etcd=etcd, guard=stale, instance="deposed", metrics=metrics)
        reflector = Reflector(Objects(kube.NAMESPACES), seat)
        with pytest.raises(StoreConflict):
            async with asyncio.timeout(5):
                await reflector.run()
    assert (await etcd.get_prefix(keys.ROOT)).records.keys() == {keys.KSR_LEADER}


async def test_bad_objects_are_skipped_counted_and_harm_no_other(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr):
    await Churn(cluster, seed=13).run(60)
    good = await expected(cluster)
    bad = {"metadata": {"name": "bad", "namespace": NAMESPACE}, "spec": {"containers": "none"}}
    await cluster.put(kube.PODS, bad)
    await cluster.put(kube.SERVICES, {"metadata": {"name": "bad", "namespace": NAMESPACE}, "spec": None})
    registry = CollectorRegistry()

    def skipped(plural: str) -> float | None:
        return registry.get_sample_value("contiv_ksr_errors_total", {"kind": plural, "source": "object"})

    async with ksr.task(instance="one", registry=registry):
        state = await wait_for(etcd, synced_by("one"))
        assert reflected(state) == good
        assert (skipped("pods"), skipped("services")) == (1, 1)
        await cluster.put(kube.PODS, bad)
        await cluster.put(kube.PODS, pod("good", namespace=NAMESPACE))
        good_key = keys.k8s_object("pods", "good", namespace=NAMESPACE)
        await wait_for(etcd, lambda state: good_key in state)
        assert skipped("pods") == 2
        await cluster.put(kube.PODS, pod("bad", namespace=NAMESPACE))
        await cluster.delete(kube.SERVICES, "bad")
        await converged(etcd, cluster)


async def test_metrics_count_what_was_done(cluster: ScriptedCluster, etcd: Etcd, ksr: Ksr, tmp_path):
    address = f"unix:{tmp_path}/ksr.sock"
    async with ksr.task(metrics_address=address):
        await converged(etcd, cluster)
        await cluster.put(kube.PODS, pod("a", namespace=NAMESPACE))
        await cluster.put(kube.PODS, pod("b", namespace=NAMESPACE))
        await converged(etcd, cluster)
        await cluster.put(kube.PODS, pod("a", namespace=NAMESPACE, v="2"))
        await cluster.delete(kube.PODS, "b")
        await converged(etcd, cluster)
        wanted = {f'contiv_ksr_{name}{{kind="pods"}} {value}' for name, value in COUNTED.items()}
        wanted.add("contiv_ksr_leader 1.0")
        connector = aiohttp.UnixConnector(address.removeprefix("unix:"))
        async with aiohttp.ClientSession(connector=connector) as session:
            missing = wanted
            async with asyncio.timeout(WAIT_S):
                while missing:  # etcd has the objects a moment before they are counted
                    async with session.get("http://localhost/metrics") as response:
                        missing = wanted - set((await response.text()).splitlines())
            async with session.get("http://localhost/readiness") as response:
                assert response.status == 200, await response.text()


async def test_settings_that_cannot_be_used_end_it_at_once(server: EmbeddedEtcd, ksr: Ksr):
    with pytest.raises(ConfigError, match="kubeconfig"):
        await main.run(**(ksr.settings | {"kubeconfig": "/nonexistent"}))
    with pytest.raises(ConfigError, match="endpoints"):
        await main.run(**(ksr.settings | {"etcd_endpoints": ["ftp://x"]}))
    with pytest.raises(ConfigError, match=r"metrics\.address"):
        await main.run(**(ksr.settings | {"metrics_address": "nowhere"}))
