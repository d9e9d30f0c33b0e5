"""contiv.crd.nodeconfigs: which resources count, over which section, and what is said of each. No I/O."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from contiv.config import Config, parse
from contiv.crd.nodeconfigs import NodeConfigs
from contiv.model import keys
from contiv.model.kubewire import ObjectError
from contiv.model.node import NodeClaim
from contiv.nodeconfig import Interface, NodeConfig, overlay

FILE = """
nodeConfig:
- {nodeName: a, mainVPPInterface: {interfaceName: eth1, ip: 192.168.16.11/24}, gateway: 192.168.16.254}
- {nodeName: b, stealInterface: eth0}
"""


def raw(name: str, spec: Any, *, status: Any = None) -> msgspec.Raw:
    thing = {"metadata": {"name": name, "uid": "u"}, "spec": spec}
    return msgspec.Raw(json.dumps(thing if status is None else thing | {"status": status}).encode())


def never(error: ObjectError) -> None:
    raise AssertionError(error)


@pytest.fixture
def configs() -> NodeConfigs:
    made = NodeConfigs(parse(FILE))
    made.begin({})
    return made


def accept(configs: NodeConfigs, name: str, spec: Any) -> dict[str, Any]:
    key, value = configs.read(raw(name, spec), never)
    assert key == keys.node_config(name)
    return json.loads(value)


def refuse(configs: NodeConfigs, name: str, spec: Any) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        configs.read(raw(name, spec), never)
    return caught.value


def test_etcd_gets_what_the_resource_says_and_no_more(configs: NodeConfigs):
    spec = {"mainVPPInterface": {"ip": "192.168.16.77/24"}, "natExternalTraffic": False}
    assert accept(configs, "a", spec) == {"nodeName": "a", **spec}
    assert accept(configs, "c", {}) == {"nodeName": "c"}
    assert {status.state for status in configs.untold().values()} == {"Accepted"}


@pytest.mark.parametrize(
    ("name", "spec", "field", "words"),
    [
        ("a", {"mainVPPInterface": {"ip": "192.168.16.77"}}, "spec.mainVPPInterface.ip", "prefix length"),
        ("a", {"mainVPPInterface": {"ip": "10.1.1.1/24"}}, "spec.mainVPPInterface.ip", "podSubnetCIDR"),
        ("a", {"mainVPPInterface": {"useDHCP": "yes"}}, "spec.mainVPPInterface.useDHCP", "expected"),
        ("a", {"mainVPPInterface": {"dhcp": True}}, "spec.mainVPPInterface", "unknown field"),
        ("a", {"gateway": 7}, "spec.gateway", "expected"),
        ("a", {"gateway": "10.9.9.9"}, "spec.gateway", "cannot be reached from 192.168.16.11/24"),
        ("a", {"otherVPPInterfaces": [{"interfaceName": "eth1"}]}, "spec.otherVPPInterfaces[0].interfaceName", "twice"),
        ("b", {"mainVPPInterface": {"ip": "192.168.16.12/24"}}, "spec.mainVPPInterface.ip", "keeps its own address"),
        ("c", {"mainVPPInterface": {"ip": "192.168.16.11/24"}}, "spec.mainVPPInterface.ip", "the address of a too"),
        ("c", "eth0", "spec", "expected"),
        ("c", {"stealInterface": "eth 0"}, "spec.stealInterface", "name of a link"),
        ("", {}, "metadata.name", "no node's name"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_field(
    configs: NodeConfigs, name: str, spec: Any, field: str, words: str
):
    error = refuse(configs, name, spec)
    assert error.field == field
    assert words in error.problem.lower() or words in error.problem
    status = configs.untold()[name]
    assert status.state == "Failure"
    assert field in status.message
    assert "stays in force" not in status.message


def test_a_bad_change_says_that_the_former_one_stays(configs: NodeConfigs):
    accept(configs, "a", {"natExternalTraffic": False})
    refuse(configs, "a", {"gateway": "nowhere"})
    assert configs.untold()["a"].message.endswith("; what it said before stays in force")


def test_a_status_that_says_it_already_is_not_written_again(configs: NodeConfigs):
    accept(configs, "a", {})
    told = msgspec.to_builtins(configs.untold()["a"])
    configs.read(raw("a", {}, status=told), never)
    assert configs.untold() == {}
    configs.read(raw("a", {}, status=told | {"state": "Failure"}), never)
    assert set(configs.untold()) == {"a"}


def test_an_address_is_free_again_when_its_holder_changes_or_leaves(configs: NodeConfigs):
    wanted = {"mainVPPInterface": {"interfaceName": "eth1", "ip": "192.168.16.77/24"}}
    accept(configs, "c", wanted)
    assert configs.to_judge_again() == [], "nothing is refused"
    refuse(configs, "d", wanted)
    assert configs.to_judge_again() == [], "nothing has changed"
    configs.deleted(keys.node_config("c"))
    assert configs.to_judge_again() == [raw("d", wanted)]
    accept(configs, "d", wanted)
    refuse(configs, "c", wanted)


def test_a_file_address_is_free_when_the_resource_moves_its_node(configs: NodeConfigs):
    accept(configs, "a", {"mainVPPInterface": {"ip": "192.168.16.77/24"}})
    accept(configs, "c", {"mainVPPInterface": {"interfaceName": "eth1", "ip": "192.168.16.11/24"}})


def test_an_address_that_follows_from_a_nodes_id_is_taken_unless_the_node_has_another_one(configs: NodeConfigs):
    claims = {name: NodeClaim(id=number, name=name, uplink="") for number, name in enumerate("abcd", start=1)}
    configs.nodes(claims.values())
    own, other = "192.168.16.4/24", "192.168.16.3/24"
    refuse(configs, "d", {"mainVPPInterface": {"ip": other}})
    accept(configs, "d", {"mainVPPInterface": {"ip": own}})
    accept(configs, "c", {"mainVPPInterface": {"useDHCP": True}})
    accept(configs, "d", {"mainVPPInterface": {"ip": other}})
    accept(configs, "e", {"mainVPPInterface": {"ip": "192.168.16.1/24"}})  # a has its address from the file
    accept(configs, "f", {"mainVPPInterface": {"ip": "192.168.16.2/24"}})  # b brings that of its stolen NIC


def test_what_etcd_has_is_in_force_before_its_object_is_seen(configs: NodeConfigs):
    stored = NodeConfig(node_name="c", main_vpp_interface=Interface(ip="192.168.16.77/24"))
    configs.begin({keys.node_config("c"): msgspec.json.encode(stored), keys.node_config("d"): b"{"})
    assert "the address of c too" in refuse(configs, "d", {"mainVPPInterface": {"ip": "192.168.16.77/24"}}).problem


@pytest.mark.parametrize(
    ("resource", "section", "merged"),
    [
        ({}, {"gateway": "1.1.1.1"}, {"gateway": "1.1.1.1"}),
        ({"gateway": "2.2.2.2"}, {"gateway": "1.1.1.1"}, {"gateway": "2.2.2.2"}),
        ({"natExternalTraffic": False}, {"natExternalTraffic": True}, {"natExternalTraffic": False}),
        ({}, {"natExternalTraffic": False}, {"natExternalTraffic": False}),
        ({"linkDriver": "af_packet"}, {"linkDriver": "af_xdp"}, {"linkDriver": "af_packet"}),
        ({}, {"linkDriver": "af_xdp"}, {"linkDriver": "af_xdp"}),
        (
            {"mainVPPInterface": {"ip": "10.7.0.1/24"}},
            {"mainVPPInterface": {"interfaceName": "eth1", "useDHCP": True}},
            {"mainVPPInterface": {"interfaceName": "eth1", "ip": "10.7.0.1/24"}},
        ),
        (
            {"mainVPPInterface": {"interfaceName": "eth2"}},
            {"mainVPPInterface": {"interfaceName": "eth1", "ip": "10.7.0.1/24"}},
            {"mainVPPInterface": {"interfaceName": "eth2", "ip": "10.7.0.1/24"}},
        ),
        (
            {"stealInterface": "eth0"},
            {"mainVPPInterface": {"interfaceName": "eth1", "ip": "10.7.0.1/24"}},
            {"mainVPPInterface": {}, "stealInterface": "eth0"},
        ),
        (
            {"mainVPPInterface": {"interfaceName": "eth1"}},
            {"stealInterface": "eth0"},
            {"mainVPPInterface": {"interfaceName": "eth1"}},
        ),
        (
            {"otherVPPInterfaces": [{"interfaceName": "eth3"}]},
            {"otherVPPInterfaces": [{"interfaceName": "eth4"}, {"interfaceName": "eth5"}]},
            {"otherVPPInterfaces": [{"interfaceName": "eth3"}]},
        ),
    ],
)
def test_the_resource_stands_over_the_file_key_by_key(resource: Any, section: Any, merged: Any):
    upper, lower, wanted = (
        msgspec.convert({"nodeName": "n", **each}, NodeConfig) for each in (resource, section, merged)
    )
    assert overlay(upper, lower) == wanted


def test_the_file_stands_over_the_cluster_wide_keys_below_the_resource():
    config = parse("natExternalTraffic: false\nipamConfig: {defaultGateway: 192.168.16.250}\n" + FILE)
    resource = NodeConfig(node_name="a", main_vpp_interface=Interface(ip="192.168.16.77/24"))
    nics = config.under(resource).nics("a")
    assert (nics.main, nics.gateway, nics.nat_external) == (
        Interface(interface_name="eth1", ip="192.168.16.77/24"),
        "192.168.16.254",
        False,
    )
    assert config.under(NodeConfig(node_name="c")).nics("c").gateway == "192.168.16.250"
    assert config.under(resource).nics("b") == config.nics("b")
    assert Config().under(None) == Config()
