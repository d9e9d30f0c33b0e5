"""contiv.agent.nics: what the configuration names is looked up, and refused by key where it cannot be VPP's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest

from contiv.agent import nics
from contiv.config import parse
from contiv.errors import ConfigError, ContivError
from contiv.linux import netns
from contiv.linux.netns import Workers
from contiv.model.ip import Address, Network
from contiv.network.render_nic import UPLINK
from contiv.stn.errors import StnUnreachable
from contiv.stn.model import NicInfo, StolenRoute
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd

_numbers = count()
STOLEN = NicInfo(
    interface="eth0",
    stolen=False,
    mac="02:00:00:00:00:07",
    mtu=1500,
    addresses=("192.0.2.7/24", "192.0.2.9/24", "2001:db8::7/64"),
    routes=(
        StolenRoute(destination="192.0.2.0/24", source="192.0.2.7"),
        StolenRoute(destination="0.0.0.0/0", gateway="192.0.2.2", metric=200),
        StolenRoute(destination="0.0.0.0/0", gateway="192.0.2.1", metric=100),
        StolenRoute(destination="10.50.0.0/16", gateway="192.0.2.3", source="192.0.2.9"),
    ),
)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A host with ``eth0``, its way out, ``eth1``, free, ``eth2``, a port of ``br0``, and ``eth3``, for long frames."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    name = f"contiv-nics-{os.getpid()}-{next(_numbers)}"
    path = netns.create(name)
    monkeypatch.setattr(nics, "OWN", path)
    script = (
        # without duplicate detection, which would change an address's flags some time later
        "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad &&"
        "ip link add name eth0 type veth peer name far0 && ip link add name eth1 type veth peer name far1 &&"
        "ip link add name eth2 type veth peer name far2 && ip link add name br0 type bridge &&"
        "ip link add name eth3 mtu 1775 type veth peer name far3 &&"
        "ip link set eth2 master br0 && ip link set far0 up && ip link set eth0 up &&"
        "ip addr add 192.0.2.7/24 dev eth0 && ip route add default via 192.0.2.1"
    )
    subprocess.run(netns.command_in(path, ["sh", "-c", script], die_with_parent=True), check=True)
    yield path
    netns.delete(name)


async def chosen(text: str) -> nics.Chosen:
    workers = Workers(1)
    try:
        return await nics.choose(parse(text), "n", workers)
    finally:
        workers.close()


def node(text: str, *, more: str = "") -> str:
    return f"{{nodeConfig: [{{nodeName: n, {text}}}]{more}}}"


@pytest.mark.root
@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (node("mainVPPInterface: {interfaceName: eth9}"), "nodeConfig.mainVPPInterface.interfaceName", "no such link"),
        (node("mainVPPInterface: {interfaceName: eth0}"), "nodeConfig.mainVPPInterface.interfaceName", "default route"),
        (node("mainVPPInterface: {interfaceName: eth2}"), "nodeConfig.mainVPPInterface.interfaceName", "bound to br0"),
        (
            node("otherVPPInterfaces: [{interfaceName: eth1}, {interfaceName: eth8}]"),
            "nodeConfig.otherVPPInterfaces[1].interfaceName",
            "no such link",
        ),
        (
            node("mainVPPInterface: {interfaceName: '0000:9f:1f.7'}"),
            "nodeConfig.mainVPPInterface.interfaceName",
            "no such PCI device",
        ),
        (node("mainVPPInterface: {interfaceName: eth1}", more=", mtuSize: 1451"), "mtuSize", "choose at most 1450"),
        (
            node("mainVPPInterface: {interfaceName: eth1}", more=", mtuSize: 1501, nodeToNodeTransport: nooverlay"),
            "mtuSize",
            "choose at most 1500",
        ),
        (
            node("mainVPPInterface: {interfaceName: eth3}, linkDriver: af_xdp"),
            "linkDriver",
            "eth3 has an MTU of 1775",
        ),
    ],
)
async def test_a_nic_that_cannot_be_is_refused_by_key_value_and_remedy(
    host: str, text: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        await chosen(text)
    assert caught.value.key == key
    assert caught.value.remedy


BAD = [
    (
        "agent",
        "mainVPPInterface: {interfaceName: eth9}",
        ("interfaceName = 'eth9'", "no such link", "name a kernel link"),
    ),
    ("agent", "mainVPPInterface: {interfaceName: eth0}", ("'eth0'", "default route", "set stealInterface: eth0")),
    ("agent", "stealInterface: eth0", ("stnSocketFile = ", "no STN daemon answers", "start 'contiv stn'")),
    ("init", "stealInterface: eth0", ("stnSocketFile = ", "no STN daemon answers", "start 'contiv stn'")),
    ("agent", "mainVPPInterface: {interfaceName: eth2}", ("'eth2'", "bound to br0", "take it out of br0")),
    (
        "agent",
        "mainVPPInterface: {interfaceName: '0000:9f:1f.7'}",
        ("'0000:9f:1f.7'", "no such PCI device", "lspci -D"),
    ),
    ("init", "mainVPPInterface: {interfaceName: '0000:9f:1f.7'}", ("'0000:9f:1f.7'", "no such PCI device", "lspci")),
    (
        "agent",
        "mainVPPInterface: {interfaceName: eth1, ip: 198.51.100.7/24}, gateway: 192.0.2.1",
        ("gateway = '192.0.2.1'", "cannot be reached from 198.51.100.7/24", "choose an address in 198.51.100.0/24"),
    ),
]


@pytest.mark.root
@pytest.mark.parametrize(("process", "section", "words"), BAD)
async def test_a_process_with_a_nic_that_cannot_be_says_so_in_one_line_and_changes_nothing(
    host: str, tmp_path: Path, process: str, section: str, words: tuple[str, ...]
) -> None:
    """Neither links, addresses and routes of the host, nor etcd: no node ID is taken for a node that does not come."""
    before = state(host)
    config = tmp_path / "contiv.yaml"
    async with EmbeddedEtcd(tmp_path / "etcd") as server, await Etcd.connect([server.endpoint]) as etcd:
        config.write_text(
            f"{{nodeConfig: [{{nodeName: n, {section}}}], etcd: {{endpoints: ['{server.unix_endpoint}']}},"
            f" runDir: {tmp_path}/run, stateDir: {tmp_path}/state, stnSocketFile: {tmp_path}/stn.sock,"
            f" restListen: 'unix:{tmp_path}/rest', vpp: {{dataplane: emulator, runDir: {tmp_path}/vpp}}}}"
        )
        argv = [sys.executable, "-m", "contiv.cli.main", process, "--node", "n", "--config", str(config)]
        done = subprocess.run(
            netns.command_in(host, argv, die_with_parent=True), capture_output=True, text=True, timeout=60
        )
        assert done.returncode in (1, 2)
        said = done.stderr.splitlines()[-1]
        for word in words:
            assert word in said
        assert "Traceback" not in done.stderr
        assert state(host) == before
        assert not (await etcd.get_prefix("/contiv/")).records
    assert not (tmp_path / "vpp").exists(), "no data plane was started"


def state(host: str) -> list[str]:
    """Links, addresses and routes as an operator sees them."""
    words = ("-d link show", "addr show", "route show table all", "rule show", "neigh show nud permanent")
    return [
        subprocess.run(
            netns.command_in(host, ["ip", *each.split()], die_with_parent=True),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for each in words
    ]


@pytest.mark.root
async def test_the_default_route_s_nic_is_refused_with_the_way_to_steal_it(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await chosen(node("mainVPPInterface: {interfaceName: eth0}"))
    assert "stealInterface: eth0" in caught.value.remedy


@pytest.mark.root
async def test_several_nics_are_taken_with_what_the_kernel_knows_of_them(host: str) -> None:
    found = await chosen(
        node(
            "mainVPPInterface: {interfaceName: eth1, ip: 198.51.100.7/24}, gateway: 198.51.100.1,"
            "otherVPPInterfaces: [{interfaceName: far1, useDHCP: true}]"
        )
    )
    assert found.uplink is not None
    assert (found.uplink.name, found.uplink.host_if, str(found.uplink.address)) == (UPLINK, "eth1", "198.51.100.7/24")
    assert str(found.uplink.gateway) == "198.51.100.1"
    assert found.claimed() == "198.51.100.7/24"
    assert [(nic.name, nic.host_if, nic.dhcp, nic.address) for nic in found.others] == [("nic1", "far1", True, None)]


@pytest.mark.root
async def test_all_links_of_a_node_are_opened_by_its_driver(host: str) -> None:
    links = "mainVPPInterface: {interfaceName: eth1}, otherVPPInterfaces: [{interfaceName: far1}]"
    for text, by_xdp in (
        (node(links), False),
        (node(links, more=", linkDriver: af_xdp"), True),
        (node(f"{links}, linkDriver: af_xdp"), True),
        (node(f"{links}, linkDriver: af_packet", more=", linkDriver: af_xdp"), False),
    ):
        found = await chosen(text)
        assert found.uplink is not None
        assert {nic.by_xdp for nic in (found.uplink, *found.others)} == {by_xdp}, text


def test_a_stolen_nic_is_opened_by_the_node_s_driver_unless_it_is_passed_to_another() -> None:
    config = parse("{stealInterface: eth0, linkDriver: af_xdp}")
    assert nics.stolen_uplink(STOLEN, config.nics("n"), config).by_xdp
    passed = parse("{stealInterface: eth0, linkDriver: af_xdp, vpp: {nicDriver: vfio-pci}}")
    assert not nics.stolen_uplink(STOLEN, passed.nics("n"), passed).by_xdp
    large = msgspec.structs.replace(STOLEN, mtu=9000)
    with pytest.raises(ConfigError, match="eth0 has an MTU of 9000"):
        nics.stolen_uplink(large, config.nics("n"), config)


async def test_without_a_daemon_a_nic_to_steal_is_an_error_that_says_what_to_start() -> None:
    with pytest.raises(StnUnreachable, match="contiv stn"):
        await chosen("{stealInterface: eth0, stnSocketFile: /run/contiv-none/stn.sock}")


def test_a_stolen_nic_keeps_addresses_routes_and_its_cheapest_router() -> None:
    config = parse("stealInterface: eth0")
    uplink = nics.stolen_uplink(STOLEN, config.nics("n"), config)
    assert str(uplink.address) == "192.0.2.7/24"
    assert [str(each) for each in uplink.shared] == ["192.0.2.7/24", "192.0.2.9/24"]
    assert uplink.gateway == Address.parse("192.0.2.1")
    assert {(str(way.destination), str(way.gateway)) for way in uplink.ways} >= {("10.50.0.0/16", "192.0.2.3")}
    assert nics.Chosen(uplink=uplink, others=()).claimed() == "192.0.2.7/24"


def test_a_gateway_outside_of_the_stolen_nic_s_subnet_is_refused() -> None:
    config = parse(node("stealInterface: eth0, gateway: 198.51.100.1"))
    with pytest.raises(ConfigError, match=r"cannot be reached from 192\.0\.2\.7/24") as caught:
        nics.stolen_uplink(STOLEN, config.nics("n"), config)
    assert caught.value.key == "nodeConfig.gateway"


def test_what_an_address_is_before_it_is_known() -> None:
    leased = nics.Uplink(host_if="eth1", mac="", dhcp=True)
    static = nics.Uplink(host_if="eth1", mac="", address=Network.parse("192.0.2.7/24", strict=False))
    by_id = nics.Uplink(host_if="eth1", mac="")
    claims = [nics.Chosen(uplink=each, others=()).claimed() for each in (leased, static, by_id)]
    assert claims == ["", "192.0.2.7/24", None]
    assert nics.Chosen(uplink=None, others=()).claimed() is None


@pytest.mark.parametrize(
    ("text", "steal", "main", "gateway", "dhcp"),
    [
        ("stealInterface: eth0", "eth0", "eth0", "", False),
        (node("stealInterface: eth5", more=", stealInterface: eth0"), "eth5", "eth5", "", False),
        (node("mainVPPInterface: {interfaceName: eth1}", more=", stealInterface: eth0"), "", "eth1", "", False),
        (
            node("gateway: 192.168.16.9", more=", ipamConfig: {defaultGateway: 192.168.16.8}"),
            "",
            "",
            "192.168.16.9",
            False,
        ),
        ("ipamConfig: {defaultGateway: 192.168.16.8, nodeInterconnectDHCP: true}", "", "", "192.168.16.8", True),
        (
            node(
                "mainVPPInterface: {interfaceName: eth1, ip: 192.168.16.7/24}",
                more=", ipamConfig: {nodeInterconnectDHCP: true}",
            ),
            "",
            "eth1",
            "",
            False,
        ),
    ],
)
def test_a_node_s_keys_stand_before_the_cluster_s(text: str, steal: str, main: str, gateway: str, dhcp: bool) -> None:
    found = parse(f"{{{text}}}" if not text.startswith("{") else text).nics("n")
    assert (found.steal, found.main.interface_name, found.gateway, found.main.use_dhcp) == (steal, main, gateway, dhcp)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (node("stealInterface: eth0, mainVPPInterface: {interfaceName: eth1}"), "is not the NIC to steal"),
        (node("stealInterface: eth0, mainVPPInterface: {ip: 192.0.2.7/24}"), "keeps its own address"),
        (node("stealInterface: '0000:00:08.0'"), "is a PCI address"),
        (node("mainVPPInterface: {interfaceName: e, ip: 192.0.2.7/24, useDHCP: true}"), "means nothing beside"),
        (node("otherVPPInterfaces: [{ip: 192.0.2.7/24}]"), "empty or given twice"),
        (node("mainVPPInterface: {interfaceName: e}, otherVPPInterfaces: [{interfaceName: e}]"), "given twice"),
        ("{stealInterface: eth0, stealFirstNIC: true}", "means nothing beside stealInterface"),
        ("{stnGraceSeconds: 0.1}", "out of range"),
        ("{stnSocketFile: stn.sock}", "not an absolute path"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(text: str, words: str) -> None:
    with pytest.raises(ContivError, match=words):
        parse(text)
