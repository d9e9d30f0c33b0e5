"""crd against a real etcd and the emulated API server: what is accepted reaches etcd, and every object hears of it."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from prometheus_client import CollectorRegistry

from contiv.crd.nodeconfigs import PATH
from contiv.model import keys, kube
from contiv.model.node import ConfigVerdict
from contiv.nodeconfig import NodeConfig, fingerprint
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.cli.test_netctl import a_status
from tests.crd.conftest import DEFINITION, Api, Crd, eventually, stored

GOOD = {"mainVPPInterface": {"ip": "192.168.16.77/24"}}
OTHER = {"mainVPPInterface": {"ip": "192.168.16.78/24"}, "natExternalTraffic": False}
BAD = {"mainVPPInterface": {"ip": "10.1.0.1/24"}}


async def holds(etcd: Etcd, **sections: object) -> None:
    async def equal() -> bool:
        return await stored(etcd) == {name: {"nodeName": name, **spec} for name, spec in sections.items()}

    await eventually(equal, f"etcd holds {sections}")


async def says(api: Api, name: str, state: str, *words: str) -> None:
    async def said() -> bool:
        found, message = await api.status(name)
        return found == state and all(word in message for word in words)

    await eventually(said, f"{name} is {state}: {words}")


async def test_a_resource_is_stored_changed_and_removed(api: Api, etcd: Etcd, crd: Crd):
    async with crd(instance="one"):
        await api.apply("a", GOOD)
        await holds(etcd, a=GOOD)
        await says(api, "a", "Accepted", "accepted")
        await api.apply("a", OTHER)
        await holds(etcd, a=OTHER)
        await api.delete("a")
        await holds(etcd)
        record = await etcd.get(keys.NODE_CONFIGS_STATUS)
    assert record is not None
    assert msgspec.json.decode(record.value, type=kube.KsrStatus).instance == "one"


async def test_a_bad_one_is_told_why_and_changes_nothing(api: Api, etcd: Etcd, crd: Crd):
    async with crd():
        await api.apply("a", GOOD)
        await api.apply("b", BAD)
        await says(api, "b", "Failure", "spec.mainVPPInterface.ip", "podSubnetCIDR", "choose an address outside")
        await holds(etcd, a=GOOD)
        await api.apply("a", BAD)
        await says(api, "a", "Failure", "stays in force")
        await holds(etcd, a=GOOD)
        await api.apply("a", OTHER)
        await says(api, "a", "Accepted")
        await holds(etcd, a=OTHER)


async def test_what_changed_while_nobody_looked_is_marked_and_swept(api: Api, etcd: Etcd, crd: Crd):
    async with crd():
        for name, spec in (("a", GOOD), ("b", OTHER), ("c", {})):
            await api.apply(name, spec)
        await holds(etcd, a=GOOD, b=OTHER, c={})
        await says(api, "c", "Accepted")
    await api.delete("b")
    await api.apply("c", {"gateway": "192.168.16.254"})
    await api.apply("a", BAD)
    before = (await etcd.get_prefix(keys.NODE_CONFIGS)).records[keys.node_config("a")]
    async with crd():
        await holds(etcd, a=GOOD, c={"gateway": "192.168.16.254"})
        await says(api, "a", "Failure", "stays in force")
    assert (await etcd.get_prefix(keys.NODE_CONFIGS)).records[keys.node_config("a")] == before


async def test_an_address_that_becomes_free_is_given_to_who_waited(api: Api, etcd: Etcd, crd: Crd):
    async with crd():
        await api.apply("a", GOOD)
        await says(api, "a", "Accepted")
        await api.apply("b", GOOD)
        await says(api, "b", "Failure", "the address of a too")
        await api.delete("a")
        await holds(etcd, b=GOOD)
        await says(api, "b", "Accepted")


async def test_an_object_hears_whether_its_node_s_agent_applied_it(api: Api, etcd: Etcd, crd: Crd):
    def status_of(spec: Any, problem: str = "") -> bytes:
        section = msgspec.convert({"nodeName": "a", **spec}, NodeConfig)
        verdict = ConfigVerdict(fingerprint=fingerprint(section), problem=problem)
        return msgspec.json.encode(msgspec.structs.replace(a_status("a", 1, ""), node_config=verdict))

    await etcd.put(keys.node_status("a"), status_of(GOOD))
    async with crd():
        await api.apply("a", GOOD)
        await says(api, "a", "Success", "applied")
        await api.apply("a", OTHER)
        await says(api, "a", "Accepted", "not applied it yet")
        await etcd.put(keys.node_status("a"), status_of(OTHER, "eth9: there is no such link"))
        await says(api, "a", "Failure", "not applied: eth9: there is no such link")
        await holds(etcd, a=OTHER)
        await etcd.put(keys.node_status("a"), status_of(OTHER))
        await says(api, "a", "Success")
        await etcd.delete(keys.node_status("a"))
        await says(api, "a", "Accepted")
        for other in (b"{", b'{"name": "a"}', b'{"nodeConfig": null}'):
            await etcd.put(keys.node_status("a"), other)
        await api.apply("b", BAD)
        await says(api, "b", "Failure")
        await says(api, "a", "Accepted")


async def test_broken_connections_and_expired_versions_lose_nothing(api: Api, etcd: Etcd, crd: Crd):
    async with crd():
        await api.apply("a", GOOD)
        await holds(etcd, a=GOOD)
        api.emulated.faults.expire_versions()
        api.emulated.faults.drop_connections()
        await api.apply("b", OTHER)
        await holds(etcd, a=GOOD, b=OTHER)
        await says(api, "b", "Accepted")


async def test_etcd_that_lost_everything_is_filled_again(api: Api, etcd: Etcd, server: EmbeddedEtcd, crd: Crd):
    async with crd():
        await api.apply("a", GOOD)
        await holds(etcd, a=GOOD)
        await server.wipe()
        await holds(etcd, a=GOOD)


async def test_one_leads_and_another_one_follows_it(api: Api, etcd: Etcd, crd: Crd):
    active, standby = CollectorRegistry(), CollectorRegistry()
    async with crd(instance="standby-later", registry=standby):
        async with crd(instance="other", registry=active):
            await api.apply("a", GOOD)
            await holds(etcd, a=GOOD)
            led = [each.get_sample_value("contiv_crd_leader") for each in (active, standby)]
            assert sorted(led) == [0, 1]
        await api.apply("b", OTHER)
        await holds(etcd, a=GOOD, b=OTHER)


async def test_it_waits_for_the_definition(bare: Api, etcd: Etcd, crd: Crd):
    registry = CollectorRegistry()

    async def asked() -> bool:
        return bool(registry.get_sample_value("contiv_crd_errors_total", {"kind": "nodeconfigs", "source": "api"}))

    async with crd(registry=registry):
        await eventually(asked, "crd has asked for the kind")
        await bare.define()
        await bare.apply("a", GOOD)
        await holds(etcd, a=GOOD)
        await says(bare, "a", "Accepted")


def test_the_definition_serves_what_crd_reads():
    spec = yaml.safe_load(DEFINITION.read_text())["spec"]
    assert f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}" == PATH
