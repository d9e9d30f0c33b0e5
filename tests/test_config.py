"""A wrong configuration is refused whole, with key, value and remedy, before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contiv import config
from contiv.errors import ConfigError

WRONG = [
    ("mtuSiz: 1400", "mtuSiz", "1400", "did you mean mtuSize"),
    ("ipamConfig: {podSubnetCidr: 10.1.0.0/16}", "ipamConfig.podSubnetCidr", "10.1.0.0/16", "podSubnetCIDR"),
    ("vpp: {heap: 1G}", "vpp.heap", "1G", "known here"),
    ("nodeConfig: [{nodeName: a, adress: x}]", "nodeConfig[0].adress", "x", "known here"),
    ("ipamConfig: {podSubnetCIDR: 10.96.0.0/16}", "ipamConfig.serviceCIDR", "10.96.0.0/12", "share no address"),
    ("ipamConfig: {vxlanCIDR: 192.168.16.0/25}", "ipamConfig.vxlanCIDR", "192.168.16.0/25", "share no address"),
    ("ipamConfig: {podSubnetCIDR: 10.1.0.0}", "ipamConfig.podSubnetCIDR", "10.1.0.0/32", "at most 28"),
    ("ipamConfig: {podSubnetCIDR: 10.1.2.3/16}", "ipamConfig.podSubnetCIDR", "10.1.2.3/16", "10.1.0.0/16"),
    ("ipamConfig: {podSubnetCIDR: 'fd00::/48'}", "ipamConfig.podSubnetCIDR", "fd00::/48", "IPv4"),
    ("ipamConfig: {podSubnetCIDR: nonsense}", "ipamConfig.podSubnetCIDR", "nonsense", "address/length"),
    (
        "ipamConfig: {podSubnetOneNodePrefixLen: 16}",
        "ipamConfig.podSubnetOneNodePrefixLen",
        "16",
        "from 17 to 29",
    ),
    (
        "ipamConfig: {podSubnetOneNodePrefixLen: 31}",
        "ipamConfig.podSubnetOneNodePrefixLen",
        "31",
        "from 17 to 29",
    ),
    (
        "ipamConfig: {vppHostSubnetOneNodePrefixLen: 12}",
        "ipamConfig.vppHostSubnetOneNodePrefixLen",
        "12",
        "from 17 to 30",
    ),
    ("ipamConfig: {nodeInterconnectCIDR: 192.168.16.0/31}", "ipamConfig.nodeInterconnectCIDR", "/31", "4 addresses"),
    ("mtuSize: large", "mtuSize", "large", "of that type"),
    ("mtuSize: 100", "mtuSize", "100", "from 576 to 9216"),
    ("vxlanVni: 16777216", "vxlanVni", "16777216", "from 1 to 16777215"),
    ("podInterface: memif", "podInterface", "memif", "of that type"),
    ("etcd: {endpoints: http://127.0.0.1:1}", "etcd.endpoints", "http://127.0.0.1:1", "of that type"),
    ("nodeConfig: [{nodeName: a}, {nodeName: a}]", "nodeConfig[1].nodeName", "a", "one section"),
    ("nodeConfig: [{nodeName: a, gateway: 1.2.3}]", "nodeConfig[0].gateway", "1.2.3", "192.168.16.254"),
    ("nodeConfig: [{nodeName: a, mainVPPInterface: {ip: x/24}}]", "nodeConfig[0].mainVPPInterface.ip", "x/24", "/24"),
    ("- a list", "configuration file", "a list", "key: value"),
    ("mtuSize: [", "configuration file", "not YAML", "syntax"),
]


@pytest.mark.parametrize(("text", "key", "value", "remedy"), WRONG)
def test_what_is_wrong_is_named_with_its_value_and_a_remedy(text: str, key: str, value: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    said = str(caught.value)
    assert said.startswith(key), said
    assert value in said
    assert remedy in said


def test_the_defaults_are_valid_and_those_of_the_original() -> None:
    read = config.parse("")
    assert read == config.Config()
    assert read.ipam_config.pod_subnet_cidr == "10.1.0.0/16"
    assert read.ipam_config.vpp_host_subnet_cidr == "172.30.0.0/16"
    assert read.ipam_config.node_interconnect_cidr == "192.168.16.0/24"
    assert read.ipam_config.vxlan_cidr == "192.168.30.0/24"
    assert read.ipam_config.service_cidr == "10.96.0.0/12"


@pytest.mark.parametrize("command", ["agent", "init"])
def test_a_process_with_a_wrong_configuration_does_not_start(command: str, tmp_path: Path) -> None:
    path = tmp_path / "contiv.yaml"
    path.write_text("ipamConfig: {podSubnetCIDR: 10.96.0.0/16}\n")
    ended = run(command, path)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "ipamConfig.serviceCIDR" in line
    assert "10.96.0.0/12" in line
    assert "choose networks that share no address" in line


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    ended = run("agent", tmp_path / "nowhere.yaml")
    assert ended.returncode == 2
    assert "nowhere.yaml" in ended.stderr
    assert "--config" in ended.stderr


def run(command: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Start a process of the node and wait for its end."""
    argv = [sys.executable, "-m", "contiv.cli.main", command, "--config", str(path), "--node", "a"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
