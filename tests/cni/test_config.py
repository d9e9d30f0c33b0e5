"""What the agent reads of the configuration, and what goes over the wire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from contiv.cni import config, convert, model
from contiv.cni import contiv_cni_pb2 as pb
from contiv.errors import CniError
from contiv.model.ip import Address, Network

ROOT = Path(__file__).parents[2]


def decode(**keys: Any) -> Any:
    return config.decode(json.dumps({"name": "contiv", **keys}).encode())


@pytest.mark.parametrize("given", [{}, {"runtimeConfig": None}, {"runtimeConfig": {"unknown": [1]}}], ids=str)
def test_without_capabilities_nothing_is_asked_for(given: dict[str, Any]) -> None:
    assert config.runtime_config(decode(**given)) == model.RuntimeConfig()


def test_addresses_and_mac_can_be_asked_for() -> None:
    runtime = config.runtime_config(
        decode(runtimeConfig={"ips": ["10.1.1.9/24", "fd00::9"], "mac": "02:00:00:00:00:01"})
    )
    assert [str(ip) for ip in runtime.ips] == ["10.1.1.9/24", "fd00::9/128"]
    assert runtime.mac == "02:00:00:00:00:01"


@pytest.mark.parametrize(
    "runtime",
    [
        {"portMappings": [{"hostPort": 65536, "containerPort": 80}]},
        {"portMappings": [{"hostPort": -1, "containerPort": 80}]},
        {"portMappings": [{"hostPort": 80}]},
        {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]},
        {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "host"}]},
        {"ips": ["nonsense"]},
    ],
    ids=str,
)
def test_what_cannot_be_served_is_code_7(runtime: dict[str, Any]) -> None:
    with pytest.raises(CniError, match="runtimeConfig is not valid") as refusal:
        config.runtime_config(decode(runtimeConfig=runtime))
    assert refusal.value.code == model.INVALID_CONFIG
    assert refusal.value.details


def test_a_key_of_the_wrong_shape_is_named() -> None:
    with pytest.raises(CniError) as refusal:
        decode(runtimeConfig={"portMappings": "8080"})
    assert (refusal.value.code, "portMappings" in refusal.value.details) == (model.INVALID_CONFIG, True)


@pytest.mark.parametrize("version", ["4", None])
def test_a_previous_result_of_any_version_is_the_same(version: str | None) -> None:
    ip = {"address": "10.1.1.2/32", "gateway": "10.1.1.1", "interface": 0}
    previous = config.previous_result(
        decode(
            prevResult={
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "mac": "02:fe:00:00:00:01", "sandbox": "/run/netns/a"}],
                "ips": [ip | ({"version": version} if version else {})],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}],
                "dns": {},
            }
        )
    )
    assert previous == model.AddResult(
        interfaces=(model.CniInterface(name="eth0", mac="02:fe:00:00:00:01", sandbox="/run/netns/a"),),
        ips=(model.CniAddress(address=Network.parse("10.1.1.2/32"), gateway=Address.parse("10.1.1.1"), interface=0),),
        routes=(model.CniRoute(dst=Network.parse("0.0.0.0/0"), gw=Address.parse("10.1.1.1")),),
    )


@pytest.mark.parametrize(
    "previous", [5, {"ips": [{"address": "x"}]}, {"routes": [{"dst": "10.0.0.1/8"}]}, {"ips": {}}], ids=str
)
def test_an_unreadable_previous_result_is_code_6(previous: Any) -> None:
    with pytest.raises(CniError) as refusal:
        config.previous_result(decode(prevResult=previous))
    assert refusal.value.code == model.DECODING_FAILURE


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("cni_version", "0.2.0", model.INCOMPATIBLE_VERSION),
        ("network_name", "a/b", model.INVALID_CONFIG),
        ("container_id", "../x", model.INVALID_ENVIRONMENT),
        ("container_id", "a\n", model.INVALID_ENVIRONMENT),
        ("ifname", "..", model.INVALID_ENVIRONMENT),
        ("ifname", "a/b", model.INVALID_ENVIRONMENT),
        ("ifname", "eth0\n", model.INVALID_ENVIRONMENT),
        ("ifname", "eth%d", model.INVALID_ENVIRONMENT),
        ("config", b"{", model.DECODING_FAILURE),
    ],
)
def test_the_agent_checks_again_what_the_plugin_has_checked(field: str, value: Any, code: int) -> None:
    fields: dict[str, Any] = {
        "cni_version": "1.1.0",
        "container_id": "abc",
        "ifname": "eth0",
        "network_name": "contiv",
        "config": b"{}",
    }
    accepted = convert.add_request(pb.Request(**fields), lambda _path: None, None)
    assert accepted.attachment == model.Attachment("abc", "eth0")
    with pytest.raises(CniError) as refusal:
        convert.add_request(pb.Request(**fields | {field: value}), lambda _path: None, None)
    assert refusal.value.code == code


def test_the_generated_module_says_what_the_proto_says(tmp_path: Path) -> None:
    """``make -C cni generate`` was run after the last change."""
    path = tmp_path / "descriptors"
    source = "contiv/cni/contiv_cni.proto"
    assert protoc.main(["protoc", f"--proto_path={ROOT}", f"--descriptor_set_out={path}", source]) == 0
    written = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file[0]
    generated = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(generated)
    for file in (written, generated):
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")  # one compiler writes what the other leaves to be derived
    assert written == generated
