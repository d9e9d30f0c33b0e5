"""Access lists from desired values: any configuration turns into any other, and only what changed is sent."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest

import contiv.vpp
from contiv.model import vpp as model
from contiv.model.ip import Network
from contiv.scheduler import Resync, Scheduler, Settings, Txn, Value
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors

pytestmark = pytest.mark.root

NO_INDEX = 0xFFFFFFFF
ROUNDS = 10
DENY, PERMIT, REFLECT = 0, 1, 2


class Recorded:
    """A client that notes the requests that change something."""

    def __init__(self, vpp: contiv.vpp.Vpp) -> None:
        self._vpp = vpp
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vpp, name)

    def call(self, name: str, /, **fields: Any) -> Any:
        if name.startswith("acl_"):
            self.sent.append(name)
        return self._vpp.call(name, **fields)

    def take(self) -> list[str]:
        """What was sent since the last time."""
        taken, self.sent = self.sent, []
        return taken


def rule(action: int, source: str, destination: str, *, protocol: int = 0, first: int = 0, last: int = 65535) -> bytes:
    """One ``vl_api_acl_rule_t``, written by hand."""

    def prefix(text: str) -> bytes:
        network = Network.parse(text)
        return bytes((network.version == 6,)) + network.address.packed.ljust(16, b"\0") + bytes((network.length,))

    ports = bytes((0, 0, 255, 255)) + first.to_bytes(2, "big") + last.to_bytes(2, "big")
    return bytes((action,)) + prefix(source) + prefix(destination) + bytes((protocol,)) + ports + bytes(2)


def acl(*rules: bytes) -> model.Acl:
    joined = b"".join(rules)
    return model.Acl(name=hashlib.sha256(joined).hexdigest()[:32], rules=joined)


ANY = (rule(REFLECT, "0.0.0.0/0", "0.0.0.0/0"), rule(REFLECT, "::/0", "::/0"))
OPEN = acl(*ANY)
WEB = acl(rule(REFLECT, "10.1.0.0/16", "10.1.1.2/32", protocol=6, first=80, last=80), rule(DENY, "::/0", "fd00::/8"))
NARROW = acl(*(rule(PERMIT, f"10.1.{n // 256}.{n % 256}/32", "10.1.1.3/32", protocol=17) for n in range(700)))
EMPTY = acl()
LISTS = (OPEN, WEB, NARROW, EMPTY)
LOOPS = tuple(model.Loopback(name=f"loop{n}", instance=80 + n, mac=f"12:2a:00:00:00:{n:02x}") for n in range(4))


def on(number: int, inputs: tuple[model.Acl, ...] = (), outputs: tuple[model.Acl, ...] = ()) -> model.AclInterface:
    return model.AclInterface(
        interface=f"loop{number}", input=tuple(a.name for a in inputs), output=tuple(a.name for a in outputs)
    )


def entries(*values: Value) -> dict[str, Value]:
    return dict(model.entry(value) for value in values)  # type: ignore[arg-type]


def a_scheduler(vpp: Any) -> Scheduler:
    return Scheduler(descriptors(vpp, Interfaces(), FibSource(vpp)), settings=Settings(attempts_max=1))


@pytest.fixture
def api(vpp: contiv.vpp.Vpp) -> Recorded:
    """A client that counts."""
    return Recorded(vpp)


async def index_of(vpp: contiv.vpp.Vpp, number: int) -> int:
    details = await vpp.dump("sw_interface", sw_if_index=NO_INDEX)
    return next(int(entry.sw_if_index) for entry in details if entry.tag == f"contiv:loop{number}")


async def test_any_configuration_turns_into_any_other_and_is_read_back_as_wanted(api: Recorded) -> None:
    dice = random.Random(20260624)
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    for number in range(ROUNDS):
        chosen = [each for each in LISTS if dice.random() < 0.8]
        wanted = entries(*chosen, *LOOPS[: dice.randint(2, 4)])
        for loop in range(dice.randint(0, 4)):
            sides = [tuple(dice.sample(chosen, dice.randint(0, len(chosen)))) for _ in range(2)]
            wanted |= entries(on(loop, *sides))
        wanted = wanted if number < ROUNDS - 1 else {}
        gone = dict.fromkeys(key for key in scheduler.desired if key not in wanted)
        outcome = await scheduler.commit(Txn(gone | wanted))
        assert not outcome.errors, f"round {number}: {outcome.errors}"
        assert (await scheduler.inspect()).empty, f"round {number}: {(await scheduler.inspect()).operations}"
        api.take()
        read = await a_scheduler(api).commit(Txn(wanted, resync=Resync.FULL))
        assert read.plan.empty, f"round {number}: {read.plan.operations}"
        assert api.take() == []


async def test_a_change_of_lists_is_one_message_and_no_lists_are_none(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(entries(*LOOPS, OPEN, WEB, on(0)), resync=Resync.FULL))
    assert sorted(api.take()) == ["acl_add_replace"] * 2
    changes: list[tuple[model.AclInterface | None, int]] = [
        (on(0, (OPEN, WEB), (WEB,)), 1), (on(0, (WEB, OPEN), (WEB,)), 1), (on(0, (WEB, OPEN), (WEB,)), 0),
        (on(0), 1), (None, 0), (on(0, (), (OPEN,)), 1), (None, 1),
    ]  # fmt: skip
    for value, messages in changes:
        outcome = await scheduler.commit(Txn({model.acl_interface_key("loop0"): value}))
        assert not outcome.errors
        assert api.take() == ["acl_interface_set_acl_list"] * messages, value
        assert (await scheduler.inspect()).empty


async def test_a_list_goes_after_those_who_used_it_and_comes_before_them(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(entries(*LOOPS, OPEN, on(0, (OPEN,)), on(1, (), (OPEN,))), resync=Resync.FULL))
    api.take()
    changes = {**entries(WEB, on(0, (WEB,)), on(1)), model.acl_key(OPEN.name): None}
    assert not (await scheduler.commit(Txn(changes))).errors
    sent = api.take()
    assert sorted(sent[:3]) == ["acl_add_replace", "acl_interface_set_acl_list", "acl_interface_set_acl_list"]
    assert sent[3:] == ["acl_del"]
    outcome = await scheduler.commit(Txn({model.acl_key(WEB.name): None}))
    assert not outcome.errors
    assert [key for key, status in outcome.states.items() if status.unmet] == [model.acl_interface_key("loop0")]
    assert [entry.tag for entry in await api.dump("acl", acl_index=NO_INDEX)] == []


async def test_lists_of_others_stay_and_interfaces_of_ours_lose_them(api: Recorded, vpp: contiv.vpp.Vpp) -> None:
    scheduler = a_scheduler(api)
    await scheduler.commit(Txn(entries(*LOOPS, OPEN, on(0, (OPEN,))), resync=Resync.FULL))
    other = {"acl_index": NO_INDEX, "tag": "somebody", "count": 0, "r": []}
    foreign = (await vpp.call("acl_add_replace", **other)).acl_index
    ours = [await index_of(vpp, number) for number in (0, 1)]
    theirs = (await vpp.call("create_loopback_instance", is_specified=True, user_instance=99)).sw_if_index
    for index in (*ours, theirs):
        await vpp.call("acl_interface_set_acl_list", sw_if_index=index, count=1, n_input=1, acls=[foreign])
    planned = {operation.key for operation in (await scheduler.inspect()).operations}
    assert planned == {model.acl_interface_key("loop0"), model.acl_interface_key("loop1")}
    api.take()
    assert not (await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))).errors
    assert api.take() == ["acl_interface_set_acl_list"] * 2
    assert (await scheduler.inspect()).empty
    held = {e.sw_if_index: list(e.acls) for e in await vpp.dump("acl_interface_list", sw_if_index=NO_INDEX)}
    assert held[theirs] == [foreign]
    assert held[ours[1]] == []
    assert not (await scheduler.commit(Txn({}, resync=Resync.FULL))).errors
    assert [entry.tag for entry in await vpp.dump("acl", acl_index=NO_INDEX)] == ["somebody"]
    await vpp.call("acl_interface_set_acl_list", sw_if_index=theirs, count=0, n_input=0, acls=[])
    await vpp.call("acl_del", acl_index=foreign)


async def test_a_second_list_of_one_name_and_changed_rules_are_put_right(api: Recorded, vpp: contiv.vpp.Vpp) -> None:
    scheduler = a_scheduler(api)
    wanted = entries(*LOOPS, WEB, on(0, (WEB,)))
    await scheduler.commit(Txn(wanted, resync=Resync.FULL))
    first = next(e.acl_index for e in await vpp.dump("acl", acl_index=NO_INDEX))
    changed = {"tag": f"contiv:{WEB.name}", "count": 0, "r": []}
    await vpp.call("acl_add_replace", acl_index=first, **changed)
    second = (await vpp.call("acl_add_replace", acl_index=NO_INDEX, **changed)).acl_index
    await vpp.call("acl_interface_set_acl_list", sw_if_index=await index_of(vpp, 0), count=1, n_input=1, acls=[second])
    outcome = await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))
    assert not outcome.errors
    (left,) = await vpp.dump("acl", acl_index=NO_INDEX)
    assert left.count == 2
    assert (await a_scheduler(api).commit(Txn(wanted, resync=Resync.FULL))).plan.empty


async def test_rules_that_are_no_records_or_that_vpp_refuses_fail_with_the_lists_name(api: Recorded) -> None:
    scheduler = a_scheduler(api)
    broken = model.Acl(name="broken", rules=b"x" * 47)
    mixed = model.Acl(name="mixed", rules=rule(PERMIT, "10.0.0.0/8", "fd00::/8"))
    outcome = await scheduler.commit(Txn(entries(broken, mixed, OPEN), resync=Resync.FULL))
    assert {error.key for error in outcome.errors} == {"vpp/acl/broken", "vpp/acl/mixed"}
    assert "no records of 48 bytes" in str(outcome.error_of("vpp/acl/broken"))
    assert "INVALID_SRC_ADDRESS" in str(outcome.error_of("vpp/acl/mixed"))
    assert set(scheduler.actual) == {model.acl_key(OPEN.name)}
