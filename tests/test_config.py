"""contiv.config: defaults, and a table of wrong configurations, each refused with key, value and remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.config import Config, load, node_capacity, parse
from contiv.errors import ConfigError
from contiv.network.ipam import ClusterSubnets

LONG = "/run/" + "d" * 100


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("") == Config()
    assert parse("# nothing\n") == Config()
    assert load(None) == Config()


def test_the_defaults_are_those_of_the_original() -> None:
    ipam = Config().ipam_config
    assert (ipam.pod_subnet_cidr, ipam.vpp_host_subnet_cidr) == ("10.1.0.0/16", "172.30.0.0/16")
    assert (ipam.node_interconnect_cidr, ipam.vxlan_cidr) == ("192.168.16.0/24", "192.168.30.0/24")
    assert ipam.service_cidr == "10.96.0.0/12"


def test_the_defaults_hold_the_nodes_that_the_interconnect_holds() -> None:
    assert node_capacity(Config()) == (254, "ipamConfig.nodeInterconnectCIDR")


def test_sections_and_nodes_are_read() -> None:
    config = parse(
        """
        ipamConfig: {podSubnetCIDR: 10.2.0.0/16, podSubnetOneNodePrefixLen: 25}
        nodeConfig:
          - nodeName: a
            mainVPPInterface: {interfaceName: eth1, ip: 192.168.16.77/24}
            gateway: 192.168.16.254
        etcd: {endpoints: ["https://e:2379"], caFile: /ca, username: u, passwordFile: /p}
        vpp: {dataplane: emulator, hugepages: true}
        """
    )
    assert config.ipam_config.pod_subnet_one_node_prefix_len == 25
    assert config.node("a").main_vpp_interface.ip == "192.168.16.77/24"
    assert config.node("b").main_vpp_interface.interface_name == ""
    assert config.etcd.endpoints == ("https://e:2379",)
    assert config.vpp.hugepages


WRONG: list[tuple[str, str, Any, str]] = [
    # text, key, value, a word of problem or remedy
    ("[1, 2]", "configuration file", [1, 2], "key: value"),
    ("a: {b", "configuration file", "", "not YAML"),
    ("mtuSize: 1400\nmtuSize: 1300", "mtuSize", "line 1", "twice"),
    ("mtusize: 1400", "mtusize", 1400, "did you mean mtuSize"),
    ("ipamConfig: {podSubnetCidr: 10.1.0.0/16}", "ipamConfig.podSubnetCidr", "10.1.0.0/16", "podSubnetCIDR"),
    ("nodeConfig: [{nodeName: a}, {nodeName: b, gw: x}]", "nodeConfig[1].gw", "x", "known here"),
    ("mtuSize: big", "mtuSize", "big", "int"),
    ("mtuSize: 100", "mtuSize", 100, "576"),
    ("vxlanVni: 0", "vxlanVni", 0, "from 1"),
    ("preparedInterfaces: -1", "preparedInterfaces", -1, "from 0"),
    ("podInterface: memif", "podInterface", "memif", "memif"),
    ("nodeToNodeTransport: srv6", "nodeToNodeTransport", "srv6", "srv6"),
    ("linkDriver: xdp", "linkDriver", "xdp", "xdp"),
    ("nodeConfig: [{nodeName: a, linkDriver: ''}]", "nodeConfig[0].linkDriver", "", "enum"),
    ("nodeConfig: [{nodeName: a}, {nodeName: 7}]", "nodeConfig[1].nodeName", 7, "str"),
    ("nodeConfig: [{nodeName: a}, {gateway: 1.2.3.4}]", "nodeConfig[1]", {"gateway": "1.2.3.4"}, "nodeName"),
    ("etcd: {endpoints: ['http://a', 1]}", "etcd.endpoints[1]", 1, "str"),
    ("ipamConfig: {podSubnetCIDR: pods}", "ipamConfig.podSubnetCIDR", "pods", "10.1.0.0/16"),
    ("vpp: {heap: 1G}", "vpp.heap", "1G", "known here"),
    ("ipamConfig: {podSubnetCIDR: 10.1.0.0}", "ipamConfig.podSubnetCIDR", "10.1.0.0/32", "at most 28"),
    ("ipamConfig: {nodeInterconnectCIDR: 192.168.16.0/31}", "ipamConfig.nodeInterconnectCIDR", "192.168.16.0/31", "4"),
    ("etcd: {endpoints: http://127.0.0.1:1}", "etcd.endpoints", "http://127.0.0.1:1", "array"),
    ("vxlanVni: 16777216", "vxlanVni", 16777216, "from 1 to 16777215"),
    ("ipamConfig: {podSubnetCIDR: 10.1.0.1/16}", "ipamConfig.podSubnetCIDR", "10.1.0.1/16", "host bits"),
    ("ipamConfig: {podSubnetCIDR: 'fd00::/48'}", "ipamConfig.podSubnetCIDR", "fd00::/48", "IPv4"),
    ("ipamConfig: {serviceCIDR: 10.1.0.0/24}", "ipamConfig.serviceCIDR", "10.1.0.0/24", "podSubnetCIDR"),
    ("ipamConfig: {vxlanCIDR: 10.96.1.0/24}", "ipamConfig.serviceCIDR", "10.96.0.0/12", "vxlanCIDR"),
    ("ipamConfig: {podSubnetOneNodePrefixLen: 16}", "ipamConfig.podSubnetOneNodePrefixLen", 16, "from 17 to 29"),
    ("ipamConfig: {podSubnetOneNodePrefixLen: 30}", "ipamConfig.podSubnetOneNodePrefixLen", 30, "from 17 to 29"),
    ("ipamConfig: {vppHostSubnetOneNodePrefixLen: 31}", "ipamConfig.vppHostSubnetOneNodePrefixLen", 31, "to 30"),
    ("ipamConfig: {vxlanCIDR: 192.168.30.0/31}", "ipamConfig.vxlanCIDR", "192.168.30.0/31", "at least 4"),
    ("nodeConfig: [{nodeName: a}, {nodeName: a}]", "nodeConfig[1].nodeName", "a", "one section per node"),
    ("nodeConfig: [{nodeName: ''}]", "nodeConfig[0].nodeName", "", "empty"),
    ("etcd: {endpoints: []}", "etcd.endpoints", [], "at least one"),
    ("etcd: {certFile: /c, caFile: /ca}", "etcd.certFile", "/c", "etcd.keyFile"),
    ("etcd: {keyFile: /k}", "etcd.keyFile", "/k", "etcd.certFile"),
    ("etcd: {certFile: /c, keyFile: /k}", "etcd.certFile", "/c", "etcd.caFile"),
    ("etcd: {passwordFile: /p}", "etcd.passwordFile", "/p", "etcd.username"),
    ("etcd: {username: u}", "etcd.username", "u", "etcd.passwordFile"),
    ("vpp: {mainHeapSize: lots}", "vpp.mainHeapSize", "lots", "512M"),
    ("vpp: {buffersPerNuma: 16}", "vpp.buffersPerNuma", 16, "4096"),
    ("vpp: {runDir: run/vpp}", "vpp.runDir", "run/vpp", "begin it with /"),
    ("vpp: {runDir: '/run/my vpp'}", "vpp.runDir", "/run/my vpp", "startup.conf"),
    (f"vpp: {{runDir: {LONG}}}", "vpp.runDir", f"{LONG}/stats.sock", "shorten it by 9 bytes"),
    (f"runDir: {LONG}", "runDir", f"{LONG}/cni.sock", "shorten it by 7 bytes"),
    (f"restListen: unix:{LONG}/rest", "restListen", f"{LONG}/rest", "shorten it by 3 bytes"),
]

WRONG_NODES: list[tuple[str, str, Any, str]] = [
    ("mainVPPInterface: {ip: 192.168.16.5}", "mainVPPInterface.ip", "192.168.16.5", "prefix length"),
    ("mainVPPInterface: {ip: 'fd00::5/64'}", "mainVPPInterface.ip", "fd00::5/64", "IPv4"),
    ("mainVPPInterface: {ip: eth0}", "mainVPPInterface.ip", "eth0", "192.168.16.1/24"),
    ("mainVPPInterface: {ip: 192.168.16.0/24}", "mainVPPInterface.ip", "192.168.16.0/24", "of a network"),
    ("mainVPPInterface: {ip: 192.168.16.255/24}", "mainVPPInterface.ip", "192.168.16.255/24", "all its hosts"),
    ("mainVPPInterface: {ip: 10.1.3.4/24}", "mainVPPInterface.ip", "10.1.3.4/24", "podSubnetCIDR"),
    ("mainVPPInterface: {interfaceName: a-name-too-long1}", "mainVPPInterface.interfaceName", "a-name-too-long1", "15"),
    ("mainVPPInterface: {interfaceName: pci/0}", "mainVPPInterface.interfaceName", "pci/0", "kernel's name"),
    ("gateway: 192.168.17.1", "gateway", "192.168.17.1", "192.168.16.0/24"),
    ("gateway: 192.168.16.0/24", "gateway", "192.168.16.0/24", "one address"),
    ("gateway: 'fd00::1'", "gateway", "fd00::1", "192.168.16.0/24"),
    ("{mainVPPInterface: {ip: 10.7.0.2/24}, gateway: 192.168.16.1}", "gateway", "192.168.16.1", "10.7.0.0/24"),
]


def as_node(text: str) -> str:
    body = text.strip("{}") if text.startswith("{") else text
    return f"nodeConfig: [{{nodeName: a, {body}{'}' * (body.count('{') - body.count('}'))}}}]"


@pytest.mark.parametrize(
    ("text", "key", "value", "words"),
    [*WRONG, *((as_node(text), f"nodeConfig[0].{key}", value, words) for text, key, value, words in WRONG_NODES)],
)
def test_what_is_wrong_is_refused_with_key_value_and_remedy(text: str, key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text)
    error = refused.value
    assert (error.key, error.value) == (key, value)
    assert words in str(error)
    assert error.remedy
    assert "\n" not in str(error)


def test_two_nodes_with_one_address_are_refused() -> None:
    node = "{{nodeName: {}, mainVPPInterface: {{ip: 10.7.0.2/24}}}}"
    with pytest.raises(ConfigError, match="is the address of a too"):
        parse(f"nodeConfig: [{node.format('a')}, {node.format('b')}]")


def test_a_node_outside_the_interconnect_is_allowed_with_a_gateway_that_it_reaches() -> None:
    text = as_node("{mainVPPInterface: {ip: 10.7.0.2/24}, gateway: 10.7.0.1}")
    assert parse(text).node("a").gateway == "10.7.0.1"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config") as refused:
        load(str(tmp_path / "none"))
    assert refused.value.value == str(tmp_path / "none")


@given(pods=st.integers(8, 28), share=st.integers(9, 32), hosts=st.integers(12, 30), nodes=st.integers(16, 30))
def test_an_accepted_configuration_gives_every_node_its_own_subnet(
    pods: int, share: int, hosts: int, nodes: int
) -> None:
    text = (
        f"ipamConfig: {{podSubnetCIDR: 10.0.0.0/{pods}, podSubnetOneNodePrefixLen: {share}, "
        f"vppHostSubnetCIDR: 172.16.0.0/{hosts}, vppHostSubnetOneNodePrefixLen: 30, serviceCIDR: 100.64.0.0/16, "
        f"nodeInterconnectCIDR: 192.168.0.0/{nodes}, vxlanCIDR: 198.18.0.0/{nodes}}}"
    )
    if not (pods < share <= 29 and hosts < 30):
        with pytest.raises(ConfigError):
            parse(text)
        return
    config = parse(text)
    subnets = ClusterSubnets.of(config)
    sample = {1, 2, subnets.node_id_max // 2 or 1, subnets.node_id_max}
    addresses = [subnets.node(number) for number in sorted(sample)]
    assert len({each.pod_subnet for each in addresses}) == len(sample)
    assert len({each.host_subnet for each in addresses}) == len(sample)
    assert len({each.uplink for each in addresses}) == len(sample)
    for each in addresses:
        assert each.pod_gateway in each.pod_subnet
        assert each.pod_gateway != each.nat_loopback


@pytest.mark.parametrize("command", ["agent", "init"])
def test_a_process_with_a_wrong_configuration_does_not_start(command: str, tmp_path: Path) -> None:
    path = tmp_path / "contiv.yaml"
    path.write_text("ipamConfig: {podSubnetCIDR: 10.96.0.0/16}\n")
    argv = [sys.executable, "-m", "contiv.cli.main", command, "--config", str(path), "--node", "a"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "ipamConfig.serviceCIDR = '10.96.0.0/12'" in line
    assert "choose networks that share no address" in line


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("serviceRenderer: cnat\nserviceLocalEndpointWeight: 2", "serviceLocalEndpointWeight"),
        ("serviceRenderer: cnat\nnodeToNodeTransport: nooverlay", "nodeToNodeTransport"),
        ("serviceRenderer: cnat\ntcpNATSessionTimeout: 2000", "tcpNATSessionTimeout"),
        ("serviceRenderer: cnat\nvpp:\n  dataplane: emulator", "serviceRenderer"),
    ],
)
def test_what_cnat_cannot_is_named(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.key == key
    assert "nat44" in str(caught.value)
    assert parse("serviceRenderer: cnat").service_renderer == "cnat"
