"""NAT44-ED from desired values: read back as wanted, one message a backend, and what real connections make of it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

import contiv.vpp
from contiv.model import vpp as model
from contiv.model.ip import Address
from contiv.scheduler import Resync, Scheduler, Settings, Txn, Value
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors, nat_descriptors
from contiv.vpp.errors import VppApiError

pytestmark = pytest.mark.root

GATEWAY = "10.1.1.1"
TWICE = "10.1.1.254"
VIP = Address.parse("10.96.0.10")
PORT = 80
TARGET = 8080
TCP, UDP = 6, 17
WAIT_S = 2.0
SILENCE_S = 0.4
ROUNDS = 12
SETTINGS = model.NatSettings(sessions=4096, udp_s=300, tcp_established_s=7440, tcp_transitory_s=240, icmp_s=60)


def address(text: str) -> Address:
    return Address.parse(text)


def backends(weights: Mapping[str, int]) -> bytes:
    """Wire records, sorted."""
    port = TARGET.to_bytes(2, "big")
    return b"".join(sorted(address(ip).packed + port + bytes((n, 0, 0, 0, 0)) for ip, n in weights.items()))


def mapping(weights: Mapping[str, int], **fields: Any) -> model.NatMapping:
    given: dict[str, Any] = {"address": VIP, "port": PORT, "protocol": TCP, "label": "default/web", **fields}
    return model.NatMapping(backends=backends(weights), **given)


def several(count: int, first: int = 1) -> dict[str, int]:
    return {f"10.1.{number // 250}.{number % 250 + 1}": 1 for number in range(first, first + count)}


class Recorded:
    """A client that notes the messages that go through it, dumps apart."""

    def __init__(self, vpp: contiv.vpp.Vpp) -> None:
        self._vpp = vpp
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vpp, name)

    def call(self, name: str, /, **fields: Any) -> Any:
        self.sent.append(name)
        return self._vpp.call(name, **fields)

    async def batch(self, requests: Any, /, **options: Any) -> list[Any]:
        self.sent += [name for name, _ in requests]
        return await self._vpp.batch(requests, **options)

    async def call_many(self, name: str, columns: Mapping[str, Any], /, **options: Any) -> Any:
        self.sent += [name] * len(columns["tag"])
        return await self._vpp.call_many(name, columns, **options)

    def take(self) -> list[str]:
        """What was sent since the last time."""
        taken, self.sent = self.sent, []
        return taken


def a_scheduler(vpp: Any) -> Scheduler:
    interfaces = Interfaces()
    every = [*descriptors(vpp, interfaces, FibSource(vpp)), *nat_descriptors(vpp, interfaces)]
    return Scheduler(every, settings=Settings(attempts_max=1))


@pytest.fixture
async def api(vpp: contiv.vpp.Vpp) -> AsyncIterator[Recorded]:
    """A client that counts; NAT is off again afterwards."""
    if (await vpp.call("nat44_show_running_config", check=False)).retval:
        pytest.skip("this data plane has no NAT44-ED")
    yield Recorded(vpp)
    with contextlib.suppress(VppApiError):
        await vpp.call("nat44_ed_plugin_enable_disable", enable=False)


def entries(*values: Value) -> dict[str, Value]:
    return dict(model.entry(value) for value in values)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what is wanted and what is read back

UNIVERSE = entries(
    SETTINGS,
    model.Loopback(name="inner", instance=60, mac="12:2a:00:00:00:01"),
    model.Loopback(name="outer", instance=61, mac="12:2a:00:00:00:02"),
    model.NatInterface(interface="inner", inside=True, outside=True),
    model.NatInterface(interface="outer", output=True),
    model.NatAddress(address=address("192.168.16.1")),
    model.NatAddress(address=address(TWICE), twice=True),
    model.NatIdentity(address=address("192.168.16.1"), protocol=UDP, port=4789),
    model.NatIdentity(address=address("192.168.16.9")),
    mapping(several(1)),
    mapping(several(3), protocol=UDP, label=""),
    mapping(several(40), address=address("10.96.0.11"), affinity_s=10800),
    mapping({"10.1.1.2": 3, "10.1.1.3": 1}, address=address("192.168.16.1"), hide_client=True),
    mapping(several(model.NAT_BACKENDS_MAX), address=address("10.96.0.12"), label="n" * 60 + "/" + "s" * 63 + ":http"),
)
VARIANTS = [
    *entries(
        model.NatSettings(sessions=4096, udp_s=30, tcp_established_s=70, tcp_transitory_s=24, icmp_s=6),
        model.NatInterface(interface="inner", outside=True),
        model.NatInterface(interface="outer", inside=True),
        mapping(several(2, first=5)),
        mapping(several(2), protocol=UDP, label=""),
        mapping(several(40, first=3), address=address("10.96.0.11"), affinity_s=10800),
        mapping({"10.1.1.2": 1, "10.1.1.3": 2}, address=address("192.168.16.1"), hide_client=True),
        mapping(several(7), address=address("10.96.0.12"), label="n" * 60 + "/" + "s" * 63 + ":http"),
    ).items(),
    *entries(
        model.NatSettings(sessions=8192, udp_s=300, tcp_established_s=7440, tcp_transitory_s=240, icmp_s=60),
        model.NatInterface(interface="inner", inside=True),
        mapping(several(1), hide_client=True),
        mapping(several(39), address=address("10.96.0.11"), affinity_s=10800),
        mapping({"10.1.1.9": 9}, address=address("192.168.16.1"), hide_client=True, label="another"),
        mapping(several(200, first=30), address=address("10.96.0.12"), affinity_s=5),
    ).items(),
    *entries(model.NatInterface(interface="inner", inside=True, classified=True)).items(),
]


async def test_any_configuration_turns_into_any_other_and_is_read_back_as_wanted(api: Recorded) -> None:
    dice = random.Random(20260624)
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    for number in range(ROUNDS):
        wanted = {key: value for key, value in UNIVERSE.items() if dice.random() < 0.85}
        wanted |= {key: value for key, value in VARIANTS if key in wanted and dice.random() < 0.35}
        wanted = wanted if number < ROUNDS - 1 else {}
        gone = dict.fromkeys(key for key in scheduler.desired if key not in wanted)
        outcome = await scheduler.commit(Txn(gone | wanted))
        assert not outcome.errors, f"round {number}: {outcome.errors}"
        assert (await scheduler.inspect()).empty, f"round {number}: {(await scheduler.inspect()).operations}"
        read = await a_scheduler(api).commit(Txn(wanted, resync=Resync.FULL))
        assert read.plan.empty, f"round {number}: {read.plan.operations}"


async def test_interfaces_that_come_late_leave_nothing_of_a_mapping_that_goes(
    api: Recorded, vpp: contiv.vpp.Vpp
) -> None:
    web = mapping(several(2))
    pod = entries(
        model.Loopback(name="inner", instance=60, mac="12:2a:00:00:00:01"),
        model.NatInterface(interface="inner", inside=True, classified=True),
    )
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(entries(SETTINGS, web), resync=Resync.FULL))
    before = await routes(vpp)
    (await scheduler.commit(Txn(pod))).raise_for_errors()
    assert await routes(vpp) == before, "an outside interface would have a route to each mapping"
    await scheduler.commit(Txn(dict.fromkeys(entries(web))))
    assert str(VIP) + "/32" not in await routes(vpp)
    assert (await scheduler.inspect()).empty


async def routes(vpp: contiv.vpp.Vpp) -> set[str]:
    return {str(entry.route.prefix) for entry in await vpp.dump("ip_route", table={"table_id": 0})}


async def test_drift_made_by_hand_is_mended_by_a_resync(api: Recorded, vpp: contiv.vpp.Vpp) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(dict(UNIVERSE), resync=Resync.FULL))
    web = {"external_addr": str(VIP), "external_port": PORT, "protocol": TCP}
    stray = {"addr": "10.9.9.9", "port": 1, "probability": 1, "vrf_id": 0}
    await vpp.call("nat44_lb_static_mapping_add_del_local", is_add=True, **web, local=stray)
    fields = {**web, "external_addr": "10.96.0.11", "flags": 6, "local_num": 0, "locals": []}
    await vpp.call("nat44_add_del_lb_static_mapping", is_add=False, **fields)
    await vpp.call("nat44_forwarding_enable_disable", enable=False)
    inner = next(
        e.sw_if_index for e in await vpp.dump("sw_interface", sw_if_index=0xFFFFFFFF) if e.tag.endswith("inner")
    )
    await vpp.call("nat44_interface_add_del_feature", sw_if_index=inner, is_add=False, flags=0x20)
    planned = {operation.key for operation in (await scheduler.inspect()).operations}
    assert planned == {
        model.nat_mapping_key(VIP, PORT, TCP), model.nat_mapping_key(address("10.96.0.11"), PORT, TCP),
        model.nat_settings_key(), model.nat_interface_key("inner"),
    }  # fmt: skip
    outcome = await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))
    assert not outcome.errors
    assert (await scheduler.inspect()).empty
    assert (await vpp.call("nat44_show_running_config")).forwarding_enabled


async def test_a_change_of_backends_is_one_message_for_each(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(
        Txn(entries(SETTINGS, *(mapping(several(1), port=p) for p in range(1, 60))), resync=Resync.FULL)
    )
    local = "nat44_lb_static_mapping_add_del_local"
    ways = [(1, 2, 1), (2, 10, 8), (10, 9, 1), (9, 1, 8), (1, 1, 0)]
    for before, after, messages in ways:
        await scheduler.commit(Txn(entries(mapping(several(before)))))
        api.take()
        outcome = await scheduler.commit(Txn(entries(mapping(several(after)))))
        assert not outcome.errors
        assert api.take() == [local] * messages, (before, after)
    await scheduler.commit(Txn(entries(mapping(several(1, first=100)))))
    assert api.take() == [local] * 2
    assert (await scheduler.inspect()).empty


async def test_what_vpp_would_not_survive_is_not_sent(api: Recorded, vpp: contiv.vpp.Vpp) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(entries(SETTINGS, mapping(several(2))), resync=Resync.FULL))
    api.take()
    for bad in (
        mapping(several(255)),
        mapping({"10.1.1.2": 128, "10.1.1.3": 128}),
        mapping({"10.1.1.2": 0}),
        mapping({}),
    ):
        outcome = await scheduler.commit(Txn(entries(bad)))
        assert [error.key for error in outcome.errors] == [model.key_of(bad)]
        another = msgspec.structs.replace(bad, address=address("10.96.0.99"))
        outcome = await scheduler.commit(Txn(entries(another)))
        assert [error.key for error in outcome.errors] == [model.key_of(another)]
        await scheduler.commit(Txn({model.key_of(another): None}))
    outcome = await scheduler.commit(Txn(entries(mapping(several(1), address=address("fd00::1")))))
    assert "IPv4" in str(outcome.errors[0])
    assert api.take() == []
    assert [(str(e.external_addr), e.local_num) for e in await vpp.dump("nat44_lb_static_mapping")] == [(str(VIP), 3)]


async def test_a_strangers_mapping_stays_and_an_own_leftover_is_replaced(api: Recorded, vpp: contiv.vpp.Vpp) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(entries(SETTINGS), resync=Resync.FULL))
    two = [{"addr": f"10.9.9.{n}", "port": 1, "probability": 1, "vrf_id": 0} for n in (1, 2)]
    fields = {"external_port": PORT, "protocol": TCP, "flags": 6, "local_num": 2, "locals": two}
    for text, tag in ((str(VIP), "somebody"), ("10.96.0.11", "contiv:0:old"), ("10.96.0.12", "contiv:0:old")):
        await vpp.call("nat44_add_del_lb_static_mapping", is_add=True, external_addr=text, tag=tag, **fields)
    wanted = [mapping(several(3), address=address(text)) for text in (str(VIP), "10.96.0.11", "10.96.0.13")]
    outcome = await scheduler.commit(Txn(entries(*wanted)))
    assert [error.key for error in outcome.errors] == [model.key_of(wanted[0])]
    held = {str(e.external_addr): e for e in await vpp.dump("nat44_lb_static_mapping")}
    assert {text: entry.local_num for text, entry in held.items()} == {
        str(VIP): 2, "10.96.0.11": 4, "10.96.0.12": 2, "10.96.0.13": 4,
    }  # fmt: skip
    await scheduler.commit(Txn(entries(SETTINGS), resync=Resync.FULL))
    assert [str(e.external_addr) for e in await vpp.dump("nat44_lb_static_mapping")] == [str(VIP)]


async def test_thousands_of_mappings_are_made_and_read_back_at_once(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    wanted = entries(SETTINGS, *(mapping(several(10, first=port), port=port) for port in range(1, 3001)))
    outcome = await scheduler.commit(Txn(wanted, resync=Resync.FULL))
    assert not outcome.errors
    assert (await a_scheduler(api).commit(Txn(wanted, resync=Resync.FULL))).plan.empty
    gone = dict.fromkeys(key for key in wanted if key.startswith(model.NAT_MAPPING))
    assert not (await scheduler.commit(Txn(gone))).errors
    assert await api.dump("nat44_lb_static_mapping") == []
