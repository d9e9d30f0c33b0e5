"""contiv.agent.reconfiguration: what an agent starts with, and what it makes of a resource that changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from contiv.agent import nics, reconfiguration
from contiv.agent.reconfiguration import KEPT, WAITS, Choice, Reconfiguration, decide
from contiv.config import Config, parse
from contiv.controller.event import Event, HandlerError, QueueFullError
from contiv.errors import ConfigError, ContivError
from contiv.linux.netns import Workers
from contiv.model import keys
from contiv.model.ip import Network
from contiv.model.node import ConfigVerdict
from contiv.network import node_config
from contiv.network.events import NicsChange
from contiv.network.render_nic import Uplink
from contiv.nodeconfig import Interface, NodeConfig, fingerprint
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from contiv.store.mirror import LocalMirror

FILE = parse("nodeConfig: [{nodeName: n, mainVPPInterface: {interfaceName: eth1, ip: 192.168.16.9/24}}]")


def resource(name: str = "", ip: str = "", **more: object) -> NodeConfig:
    main = Interface(interface_name=name, ip=ip)
    return NodeConfig(node_name="n", main_vpp_interface=main, **more)  # type: ignore[arg-type]


MOVED = resource(ip="192.168.16.77/24")
OTHER_NIC = resource("eth2")
MISSING = resource("eth9")
STOLEN = NodeConfig(node_name="n", steal_interface="eth0")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without ``eth9``; nobody looks at the real one."""

    async def choose(config: Config, node: str, _: object) -> nics.Chosen:
        main = config.nics(node).main
        if main.interface_name == "eth9":
            raise ConfigError("nodeConfig.mainVPPInterface.interfaceName", "eth9", "no such link", remedy="another")
        address = Network.parse(main.ip, strict=False) if main.ip else None
        return nics.Chosen(uplink=Uplink(host_if=main.interface_name, mac="", address=address), others=())

    monkeypatch.setattr(nics, "choose", choose)


@pytest.fixture
async def etcd(server: EmbeddedEtcd) -> AsyncIterator[Etcd]:
    """A client that gives up soon, as some of these tests wait for that."""
    async with await Etcd.connect([server.endpoint], timeout_s=1) as client:
        yield client


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[LocalMirror]:
    async with await LocalMirror.open(tmp_path / "mirror.db") as opened:
        yield opened


@pytest.fixture
def workers() -> Workers:
    return Workers()  # threads come with the first work


async def say(etcd: Etcd, wanted: NodeConfig | None) -> None:
    """What crd does."""
    await etcd.put(keys.NODE_CONFIGS_STATUS, b"{}")
    if wanted is None:
        await etcd.delete(keys.node_config("n"))
    else:
        await etcd.put(keys.node_config("n"), msgspec.json.encode(wanted))


async def test_without_a_resource_the_file_counts(etcd: Etcd, mirror: LocalMirror, workers: Workers):
    choice = await decide(FILE, "n", etcd, mirror, workers)
    assert (choice.config, choice.resource, choice.problem) == (FILE, None, None)


async def test_the_resource_counts_over_the_file_and_is_remembered(etcd: Etcd, mirror: LocalMirror, workers: Workers):
    await say(etcd, MOVED)
    choice = await decide(FILE, "n", etcd, mirror, workers)
    assert choice.config.nics("n").main == Interface(interface_name="eth1", ip="192.168.16.77/24")
    assert await node_config.in_force(mirror, "n") == MOVED
    await say(etcd, None)
    assert (await decide(FILE, "n", etcd, mirror, workers)).config == FILE
    assert await node_config.in_force(mirror, "n") is None


async def test_a_file_that_disables_resources_stands_alone(etcd: Etcd, mirror: LocalMirror, workers: Workers):
    await say(etcd, MOVED)
    alone = msgspec.structs.replace(FILE, crd_node_configuration_disabled=True)
    assert (await decide(alone, "n", etcd, mirror, workers)).config == alone


async def test_etcd_that_is_away_or_has_lost_its_data_changes_nothing(
    server: EmbeddedEtcd, etcd: Etcd, mirror: LocalMirror, workers: Workers
):
    await say(etcd, MOVED)
    await decide(FILE, "n", etcd, mirror, workers)
    await server.wipe()
    assert (await decide(FILE, "n", etcd, mirror, workers)).resource == MOVED
    await etcd.put(keys.node_config("n"), b'{"nodeName": 7}')
    assert (await decide(FILE, "n", etcd, mirror, workers)).resource == MOVED
    await server.kill()
    assert (await decide(FILE, "n", etcd, mirror, workers)).resource == MOVED


async def test_what_the_machine_refuses_leaves_the_one_before_in_force(
    etcd: Etcd, mirror: LocalMirror, workers: Workers
):
    for before in (None, MOVED):
        await say(etcd, before)
        await decide(FILE, "n", etcd, mirror, workers)
        await say(etcd, MISSING)
        choice = await decide(FILE, "n", etcd, mirror, workers)
        assert choice.resource == before
        assert choice.problem is not None
        assert "no such link" in choice.problem
        assert KEPT in choice.problem


async def test_a_stolen_nic_is_changed_by_a_start_of_init_alone(etcd: Etcd, mirror: LocalMirror, workers: Workers):
    await say(etcd, STOLEN)
    choice = await decide(FILE, "n", etcd, mirror, workers)
    assert (choice.resource, choice.problem) == (None, WAITS)
    await node_config.note_start(mirror, "n", STOLEN)  # init was restarted
    choice = await decide(FILE, "n", etcd, mirror, workers)
    assert (choice.resource, choice.problem) == (STOLEN, None)
    await say(etcd, None)
    choice = await decide(FILE, "n", etcd, mirror, workers)
    assert (choice.resource, choice.problem) == (STOLEN, WAITS)
    await node_config.note_start(mirror, "n", None)
    assert (await decide(FILE, "n", etcd, mirror, workers)).resource is None


async def test_the_driver_of_links_is_changed_by_a_start_of_init_alone(
    etcd: Etcd, mirror: LocalMirror, workers: Workers
):
    by_xdp = NodeConfig(node_name="n", link_driver="af_xdp")
    await say(etcd, by_xdp)
    choice = await decide(FILE, "n", etcd, mirror, workers)
    assert (choice.resource, choice.problem) == (None, WAITS)
    await node_config.note_start(mirror, "n", by_xdp)
    choice = await decide(FILE, "n", etcd, mirror, workers)
    assert (choice.resource, choice.problem) == (by_xdp, None)
    assert choice.config.nics("n").by_xdp


class Running:
    """A ``Reconfiguration`` that runs with the file, what it pushed, and whether it ended the agent."""

    def __init__(self, mirror: LocalMirror, choice: Choice) -> None:
        self.pushed: list[Event] = []
        self.failures: list[ContivError] = []
        self.ended = False
        self.reconfiguration = Reconfiguration(
            FILE, choice, mirror, Workers(), node="n", call=self._call, on_other_nics=self._end
        )
        self.take = self.reconfiguration.take

    async def _call(self, event: Event) -> None:
        self.pushed.append(event)
        if self.failures:
            raise self.failures.pop()

    def _end(self) -> None:
        self.ended = True


@pytest.fixture
async def running(etcd: Etcd, mirror: LocalMirror, workers: Workers) -> Running:
    return Running(mirror, await decide(FILE, "n", etcd, mirror, workers))


async def test_another_address_is_a_resync(running: Running, mirror: LocalMirror):
    await running.take(MOVED)
    (event,) = running.pushed
    assert isinstance(event, NicsChange)
    assert event.uplink is not None
    assert str(event.uplink.address) == "192.168.16.77/24"
    assert event.hide_pods
    assert await node_config.in_force(mirror, "n") == MOVED
    await running.take(MOVED)
    assert len(running.pushed) == 1, "nothing has changed"
    await running.take(resource(nat_external_traffic=False))
    assert [getattr(each, "hide_pods", None) for each in running.pushed] == [True, False]
    await running.take(None)
    assert len(running.pushed) == 3
    assert await node_config.in_force(mirror, "n") is None
    assert not running.ended


async def test_its_verdict_speaks_of_the_resource_that_was_judged(running: Running):
    assert running.reconfiguration.verdict is None
    await running.take(MOVED)
    assert running.reconfiguration.verdict == ConfigVerdict(fingerprint=fingerprint(MOVED))
    await running.take(MISSING)
    told = running.reconfiguration.verdict
    assert told is not None
    assert told.fingerprint == fingerprint(MISSING)
    assert "no such link" in told.problem
    await running.take(OTHER_NIC)
    assert running.reconfiguration.verdict == told, "the next agent will judge"


async def test_a_full_queue_is_waited_for_and_what_failed_is_healed(running: Running, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconfiguration, "RETRY_S", 0.0)
    running.failures = [HandlerError("network", "resync", "NicsChange", OSError()), QueueFullError("NicsChange", 1)]
    await running.take(MOVED)
    assert len(running.pushed) == 2
    assert running.reconfiguration.verdict == ConfigVerdict(fingerprint=fingerprint(MOVED))


async def test_other_nics_end_the_agent_and_are_left_to_the_next(running: Running, mirror: LocalMirror):
    await running.take(OTHER_NIC)
    assert running.ended
    assert "other NICs" in running.reconfiguration.ended
    assert running.pushed == []
    assert await node_config.in_force(mirror, "n") is None


async def test_another_way_to_an_address_ends_the_agent(running: Running):
    await running.take(NodeConfig(node_name="n", main_vpp_interface=Interface(use_dhcp=True)))
    assert running.ended


@pytest.mark.parametrize(
    ("wanted", "words"), [(MISSING, "no such link"), (STOLEN, WAITS), (resource("0000:00:08.0"), WAITS)]
)
async def test_what_cannot_be_applied_is_told_and_changes_nothing(
    running: Running, mirror: LocalMirror, wanted: NodeConfig, words: str
):
    await running.take(wanted)
    assert running.reconfiguration.problem is not None
    assert words in running.reconfiguration.problem
    assert (running.pushed, running.ended) == ([], False)
    assert await node_config.in_force(mirror, "n") is None
    await running.take(None)
    assert running.reconfiguration.problem is None
    assert running.pushed == [], "what runs is what is wanted again"


async def test_it_follows_etcd_over_a_wipe(server: EmbeddedEtcd, etcd: Etcd, mirror: LocalMirror):
    running = Running(mirror, await decide(FILE, "n", etcd, mirror, Workers()))
    following = asyncio.create_task(running.reconfiguration.follow(etcd))

    async def pushed(count: int) -> None:
        async with asyncio.timeout(15):
            while len(running.pushed) < count:
                await asyncio.sleep(0.02)

    try:
        await say(etcd, MOVED)
        await pushed(1)
        await etcd.put(keys.node_config("n-1"), msgspec.json.encode(STOLEN))
        await server.wipe()
        await etcd.put("/elsewhere", b"")
        await asyncio.sleep(0.5)
        assert len(running.pushed) == 1, "an empty etcd says nothing"
        await etcd.put(keys.NODE_CONFIGS_STATUS, b"{}")
        await pushed(2)
        assert running.reconfiguration.problem is None
    finally:
        following.cancel()


def test_it_is_known_which_nics_are_the_same():
    def nics_of(text: str) -> reconfiguration.Nics:
        return parse(f"nodeConfig: [{{nodeName: n, {text}}}]").nics("n")

    base = nics_of("mainVPPInterface: {interfaceName: eth1}, otherVPPInterfaces: [{interfaceName: eth2}]")
    moved = nics_of(
        "mainVPPInterface: {interfaceName: eth1, ip: 192.168.16.7/24}, gateway: 192.168.16.1,"
        "otherVPPInterfaces: [{interfaceName: eth2, ip: 192.0.2.1/24}]"
    )
    fewer = nics_of("mainVPPInterface: {interfaceName: eth1}")
    assert reconfiguration.same_nics(base, moved)
    assert not reconfiguration.same_nics(base, fewer)
