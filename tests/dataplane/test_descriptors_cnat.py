"""CNAT from desired values on VPP: read back as wanted, one message a change, strangers left alone.

The emulator has no CNAT: there, an agent that does not want it must do without a word.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from test_descriptors_nat import Recorded

import contiv.vpp
from contiv.agent import cnat as agent_cnat
from contiv.errors import ConfigError
from contiv.model import cnat as model
from contiv.model import vpp as vpp_model
from contiv.model.ip import Address, Network
from contiv.scheduler import Resync, Scheduler, Settings, Txn, Value
from contiv.vpp.descriptors import FibSource, Interfaces, cnat_descriptors, descriptors

pytestmark = pytest.mark.root

TCP, UDP, SCTP = 6, 17, 132
ROUNDS = 12
NO_INDEX = 0xFFFFFFFF
UPDATE = "cnat_translation_update"
ROUTES = ("10.96.0.0/12", "203.0.113.7/32")


def address(text: str) -> Address:
    return Address.parse(text)


HIDDEN = address("10.1.1.254")
VIP = address("10.96.0.10")


def records(targets: Iterable[str], *, hidden: bool = False) -> bytes:
    """Backends on port 8080."""
    return b"".join(sorted(model.record(address(each).packed, 8080, hidden=hidden) for each in targets))


def several(count: int, first: int = 1) -> bytes:
    return records(f"10.1.{number // 250}.{number % 250 + 1}" for number in range(first, first + count))


def translation(backends: bytes, at: Address = VIP, port: int = 80, **fields: Any) -> model.CnatTranslation:
    return model.CnatTranslation(address=at, port=port, backends=backends, **{"protocol": TCP, **fields})


def a_scheduler(vpp: Any) -> Scheduler:
    interfaces = Interfaces()
    every = [*descriptors(vpp, interfaces, FibSource(vpp)), *cnat_descriptors(vpp, interfaces)]
    return Scheduler(every, settings=Settings(attempts_max=1))


def entries(*values: Any) -> dict[str, Value]:
    return dict(
        vpp_model.entry(value) if isinstance(value, vpp_model.Loopback | vpp_model.Route) else model.entry(value)
        for value in values
    )


@pytest.fixture
async def api(vpp: contiv.vpp.Vpp, kind: str) -> AsyncIterator[Recorded]:
    """A client that counts; CNAT has nothing left afterwards."""
    if (await vpp.call(agent_cnat.ANY, check=False)).retval == agent_cnat.UNIMPLEMENTED:
        pytest.skip(f"the {kind} has no CNAT")
    yield Recorded(vpp)
    for entry in await vpp.dump("cnat_translation"):
        await vpp.call("cnat_translation_del", id=entry.translation.id)


BOTH = records(["10.1.2.5"]) + records(["172.30.1.2"], hidden=True)
UNIVERSE = entries(
    vpp_model.Loopback(name="inner", instance=60, mac="12:2a:00:00:00:01"),
    vpp_model.Loopback(name="outer", instance=61, mac="12:2a:00:00:00:02"),
    model.CnatSettings(hidden=HIDDEN),
    model.CnatInterface(interface="inner"),
    model.CnatInterface(interface="outer"),
    model.CnatHairpins(interfaces=("inner", "outer")),
    model.CnatHairpin(address=address("10.1.1.5")),
    model.CnatHairpin(address=address("10.1.1.6")),
    translation(several(1)),
    translation(several(3), protocol=UDP),
    translation(several(2), protocol=SCTP),
    translation(several(40), address("10.96.0.11"), affinity=True),
    translation(records(["10.1.1.5", "10.1.2.5"], hidden=True), address("192.168.16.1"), 30080, source=HIDDEN),
    translation(BOTH, address("10.96.0.12"), source=HIDDEN),
    translation(several(model.BACKENDS_MAX), address("10.96.0.13")),
    translation(records(["fd01::5", "fd01::6"]), address("fd00::10")),
)
VARIANTS = list(
    entries(
        translation(several(2, first=5)),
        translation(several(2), protocol=UDP),
        translation(several(40, first=3), address("10.96.0.11")),
        translation(records(["10.1.1.5"]), address("192.168.16.1"), 30080),
        translation(records(["10.1.2.5", "172.30.1.2"]), address("10.96.0.12")),
        translation(several(3), address("10.96.0.13"), affinity=True),
        translation(records(["fd01::6"]), address("fd00::10")),
        model.CnatHairpins(interfaces=("inner",)),
    ).items()
)


async def test_any_configuration_turns_into_any_other_and_is_read_back_as_wanted(api: Recorded) -> None:
    dice = random.Random(20260624)
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    for number in range(ROUNDS):
        wanted = {key: value for key, value in UNIVERSE.items() if dice.random() < 0.9}
        wanted |= {key: value for key, value in VARIANTS if key in wanted and dice.random() < 0.35}
        wanted = wanted if number < ROUNDS - 1 else {}
        gone = dict.fromkeys(key for key in scheduler.desired if key not in wanted)
        outcome = await scheduler.commit(Txn(gone | wanted))
        assert not outcome.errors, f"round {number}: {outcome.errors}"
        assert (await scheduler.inspect()).empty, f"round {number}: {(await scheduler.inspect()).operations}"
        read = await a_scheduler(api).commit(Txn(wanted, resync=Resync.FULL))
        assert read.plan.empty, f"round {number}: {read.plan.operations}"
    assert await api.dump("cnat_translation") == []


async def test_a_change_of_backends_is_one_message(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    many = (translation(several(2), port=number) for number in range(1, 60))
    await scheduler.commit(Txn(entries(model.CnatSettings(hidden=HIDDEN), *many), resync=Resync.FULL))
    for before, after in ((1, 2), (2, 90), (90, 1)):
        await scheduler.commit(Txn(entries(translation(several(before)))))
        api.take()
        assert not (await scheduler.commit(Txn(entries(translation(several(after)))))).errors
        assert api.take() == [UPDATE]
    assert (await scheduler.inspect()).empty


async def test_what_vpp_would_not_survive_is_not_sent(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(entries(model.CnatSettings(hidden=HIDDEN), translation(several(2))), resync=Resync.FULL))
    api.take()
    for bad in (b"", several(model.BACKENDS_MAX + 1)):
        for at in (VIP, address("10.96.0.99")):
            value = translation(bad, at)
            outcome = await scheduler.commit(Txn(entries(value)))
            assert [error.key for error in outcome.errors] == [model.key_of(value)]
        await scheduler.commit(Txn({model.key_of(value): None}))
    assert api.take() == []


async def test_the_policy_waits_for_the_address_and_every_interface(api: Recorded) -> None:
    """VPP ends with a policy before an address, and hides everybody who comes in by an interface that it lacks."""
    scheduler = a_scheduler(api)
    wanted = {key: value for key, value in UNIVERSE.items() if not isinstance(value, model.CnatTranslation)}
    late = {key: wanted.pop(key) for key in (model.settings_key(), model.interface_key("outer"))}
    await scheduler.commit(Txn(wanted, resync=Resync.FULL))
    assert not [name for name in api.take() if name.startswith("cnat_")]
    await scheduler.commit(Txn({model.settings_key(): late[model.settings_key()]}))
    sent = [name for name in api.take() if name.startswith("cnat_")]
    assert sent == [UPDATE, "cnat_set_snat_addresses_v2", "cnat_set_snat_policy", "cnat_snat_policy_add_del_if"]
    outcome = await scheduler.commit(Txn(late))
    assert not outcome.errors
    sent = [name for name in api.take() if name.startswith("cnat_")]
    assert sent == ["cnat_snat_policy_add_del_if", "cnat_set_snat_policy", UPDATE, UPDATE, UPDATE]


async def test_a_strangers_translation_stays_and_drift_is_mended(api: Recorded, vpp: contiv.vpp.Vpp) -> None:
    scheduler = a_scheduler(api)
    wanted = entries(model.CnatSettings(hidden=HIDDEN), translation(several(3)), translation(several(2), port=81))
    await scheduler.commit(Txn(wanted, resync=Resync.FULL))
    stranger = {"addr": "10.96.9.9", "sw_if_index": NO_INDEX, "if_af": 0, "port": 80}
    path = {"dst_ep": {**stranger, "addr": "10.9.9.9"}, "src_ep": {**stranger, "addr": "0.0.0.0"}, "flags": 0}
    fields = {"id": NO_INDEX, "ip_proto": TCP, "is_real_ip": 1, "n_paths": 1, "paths": [path]}
    await vpp.call(UPDATE, translation={"vip": stranger, **fields})
    held = {entry.translation.vip.port: entry.translation for entry in await vpp.dump("cnat_translation")}
    await vpp.call("cnat_translation_del", id=held[81].id)
    assert {operation.key for operation in (await scheduler.inspect()).operations} == {
        model.translation_key(VIP, 81, TCP)
    }
    assert not (await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))).errors
    assert (await scheduler.inspect()).empty
    await a_scheduler(api).commit(Txn({}, resync=Resync.FULL))
    assert [str(entry.translation.vip.addr) for entry in await vpp.dump("cnat_translation")] == ["10.96.9.9"]


async def test_our_routes_to_translated_addresses_are_found_and_only_ours(api: Recorded) -> None:
    """VPP lists them as CNAT's, like those that CNAT made of the route around them."""
    network, single = (vpp_model.Route(vrf=0, destination=Network.parse(text), reject=True) for text in ROUTES)
    settings = model.CnatSettings(hidden=HIDDEN)
    covered, alone = translation(several(2)), translation(several(2), address("203.0.113.7"))
    wanted = entries(settings, network, single, covered, alone)
    scheduler = a_scheduler(api)
    assert not (await scheduler.commit(Txn(wanted, resync=Resync.FULL))).errors
    assert (await scheduler.inspect()).empty
    assert (await a_scheduler(api).commit(Txn(wanted, resync=Resync.FULL))).plan.empty
    fewer = entries(settings, network, covered, alone)
    outcome = await a_scheduler(api).commit(Txn(fewer, resync=Resync.FULL))
    assert [operation.key for operation in outcome.plan.operations] == [vpp_model.key_of(single)]
    assert (await a_scheduler(api).commit(Txn(fewer, resync=Resync.FULL))).plan.empty
    inside = vpp_model.Route(vrf=0, destination=VIP.host_network, reject=True)
    outcome = await a_scheduler(api).commit(Txn(fewer | entries(inside), resync=Resync.FULL))
    assert [operation.key for operation in outcome.plan.operations] == [vpp_model.key_of(inside)], "looked like ours"
    assert (await a_scheduler(api).commit(Txn(fewer | entries(inside), resync=Resync.FULL))).plan.empty


async def test_thousands_of_translations_are_made_and_read_back_at_once(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    every = (
        translation(several(10, first=number), address(f"10.97.{number >> 8}.{number & 255}")) for number in range(3000)
    )
    wanted = entries(model.CnatSettings(hidden=HIDDEN), *every)
    outcome = await scheduler.commit(Txn(wanted, resync=Resync.FULL))
    assert not outcome.errors
    assert (await a_scheduler(api).commit(Txn(wanted, resync=Resync.FULL))).plan.empty
    assert not (await scheduler.commit(Txn(dict.fromkeys(wanted)))).errors
    assert await api.dump("cnat_translation") == []


async def test_without_the_plugin_nothing_is_read_and_the_agent_says_what_to_do(vpp: contiv.vpp.Vpp, kind: str) -> None:
    assert not (await a_scheduler(vpp).commit(Txn({}, resync=Resync.FULL))).errors
    if kind == "vpp":
        await agent_cnat.require(vpp)
        return
    with pytest.raises(ConfigError) as caught:
        await agent_cnat.require(vpp)
    assert caught.value.key == "serviceRenderer"
    assert "nat44" in caught.value.remedy


async def test_other_messages_of_the_same_name_are_refused() -> None:
    other = SimpleNamespace(version="99.01", check=lambda wanted: [SimpleNamespace(name=name) for name in wanted])
    with pytest.raises(ConfigError, match=r"99\.01 has not the CNAT"):
        await agent_cnat.require(other)  # type: ignore[arg-type]
