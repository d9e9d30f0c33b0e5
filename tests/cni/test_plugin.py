"""Every command of the plugin in every version, against a server in this process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from contiv.cni import model, server
from contiv.errors import CniError
from contiv.model.ip import Address, Network

VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def normalize(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what only its version says."""
    return {
        **{key: value for key, value in result.items() if key != "cniVersion"},
        "ips": [{k: v for k, v in ip.items() if k != "version"} for ip in result["ips"]],
    }


async def test_version_lists_what_is_supported_without_an_agent(runtime: Any) -> None:
    outcome = await runtime.call("VERSION", b'{"cniVersion":"1.0.0"}')
    assert outcome.result == {"cniVersion": "1.0.0", "supportedVersions": VERSIONS}


@pytest.mark.parametrize("stdin", [b"", b" \n", b"{}"])
async def test_version_without_a_version_answers_in_the_newest(runtime: Any, stdin: bytes) -> None:
    assert (await runtime.call("VERSION", stdin)).result["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("version", VERSIONS)
async def test_add_prints_the_result_in_the_version_asked_for(runtime: Any, cni_server: Any, version: str) -> None:
    result = (await runtime.call("ADD", version=version)).result
    old = version.startswith("0.")
    assert result == {
        "cniVersion": version,
        "interfaces": [
            {"name": "eth0", "mac": "02:fe:00:00:00:01", "sandbox": "/proc/self/ns/net"},
            {"name": "tap-0a1b2c3d"},
        ],
        "ips": [
            {"address": "10.1.1.2/32", "gateway": "10.1.1.1", "interface": 0} | ({"version": "4"} if old else {}),
            {"address": "fd00::2/128", "interface": 0} | ({"version": "6"} if old else {}),
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}],
        "dns": {"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"], "options": ["ndots:5"]},
    }


@pytest.mark.parametrize("version", VERSIONS)
async def test_newer_fields_appear_in_1_1_alone(runtime: Any, cni_server: Any, agent: Any, version: str) -> None:
    agent.result = model.AddResult(
        interfaces=(model.CniInterface(name="eth0", mtu=1450, socket_path="/s", pci_id="0000:00:01.0"),),
        routes=(model.CniRoute(dst=Network.parse("::/0"), mtu=1400, advmss=1360, priority=0, table=7, scope=0),),
    )
    result = (await runtime.call("ADD", version=version)).result
    if version == "1.1.0":
        assert result["interfaces"] == [{"name": "eth0", "mtu": 1450, "socketPath": "/s", "pciID": "0000:00:01.0"}]
        assert result["routes"] == [{"dst": "::/0", "mtu": 1400, "advmss": 1360, "priority": 0, "table": 7, "scope": 0}]
    else:
        assert result["interfaces"] == [{"name": "eth0"}]
        assert result["routes"] == [{"dst": "::/0"}]
    assert result["ips"] == []
    assert result["dns"] == {}


async def test_add_hands_the_handler_everything(runtime: Any, cni_server: Any, agent: Any) -> None:
    config = runtime.config(
        "1.0.0",
        runtimeConfig={
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.1"},
                {"hostPort": 0, "containerPort": 81, "protocol": "udp"},
            ],
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000},
        },
        dns={"nameservers": ["10.96.0.10"], "domain": "cluster.local"},
        somethingUnknown={"nested": [1, 2, None]},
    )
    assert (await runtime.call("ADD", config)).result
    (request,) = agent.requests
    assert request.attachment == model.Attachment("0a1b2c3d4e5f", "eth0")
    assert request.pod == model.PodRef(
        namespace="default", name="web-0", uid="11-22", infra_container_id="0a1b2c3d4e5f"
    )
    assert (request.cni_version, request.network, request.path) == ("1.0.0", "contiv", "/opt/cni/bin")
    assert request.netns == "/proc/self/ns/net"
    assert request.runtime == model.RuntimeConfig(
        port_mappings=(
            model.PortMapping(host_port=8080, container_port=80, protocol="tcp", host_ip=Address.parse("192.0.2.1")),
        ),
        bandwidth=model.Bandwidth(ingress_rate=1000, ingress_burst=2000),
    )
    assert request.dns == model.Dns(nameservers=("10.96.0.10",), domain="cluster.local")
    assert request.raw_config == config
    assert 0 < request.deadline_s <= 60


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_sequence_that_a_runtime_runs(runtime: Any, cni_server: Any, agent: Any, version: str) -> None:
    added = (await runtime.call("ADD", version=version)).result
    again = (await runtime.call("ADD", version=version)).result
    assert again == added
    with_result = runtime.config(version, prevResult=added)
    if version != "0.3.1":
        assert (await runtime.call("CHECK", with_result)).succeeded_silently()
    assert (await runtime.call("DEL", with_result)).succeeded_silently()
    assert agent.attached == {}
    assert (await runtime.call("DEL", with_result)).succeeded_silently()
    assert (await runtime.call("DEL", version=version, CNI_NETNS=None)).succeeded_silently()
    if version != "0.3.1":
        assert (await runtime.call("CHECK", with_result)).error["code"] == 100


async def test_results_differ_between_versions_in_form_only(runtime: Any, cni_server: Any) -> None:
    results = [(await runtime.call("ADD", version=version)).result for version in VERSIONS]
    assert all(normalize(result) == normalize(results[0]) for result in results)


async def test_status_succeeds_silently(runtime: Any, cni_server: Any) -> None:
    assert (await runtime.call("STATUS")).succeeded_silently()


async def test_status_tells_why_the_node_is_not_ready(runtime: Any, cni_server: Any, agent: Any) -> None:
    agent.fails = CniError(model.LIMITED_CONNECTIVITY, "no VPP", details="it restarts")
    assert (await runtime.call("STATUS")).error == {
        "cniVersion": "1.1.0",
        "code": 51,
        "msg": "no VPP",
        "details": "it restarts",
    }


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
async def test_gc_removes_what_is_not_listed(runtime: Any, cni_server: Any, agent: Any, key: str) -> None:
    for container in ("keep", "drop"):
        assert (await runtime.call("ADD", CNI_CONTAINERID=container)).result
    config = runtime.config(**{key: [{"containerID": "keep", "ifname": "eth0"}]})
    assert (await runtime.call("GC", config)).succeeded_silently()
    assert set(agent.attached) == {model.Attachment("keep", "eth0")}


async def test_gc_takes_null_for_an_empty_list(runtime: Any, cni_server: Any, agent: Any) -> None:
    assert (await runtime.call("ADD")).result
    assert (await runtime.call("GC", runtime.config(**{"cni.dev/valid-attachments": None}))).succeeded_silently()
    assert agent.attached == {}


async def test_gc_without_a_list_removes_nothing(runtime: Any, cni_server: Any, agent: Any) -> None:
    assert (await runtime.call("ADD")).result
    assert (await runtime.call("GC")).error["code"] == model.INVALID_CONFIG
    assert len(agent.attached) == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_errors_of_the_handler_reach_standard_output(
    runtime: Any, cni_server: Any, agent: Any, version: str
) -> None:
    agent.fails = CniError(112, 'no "address"\n left', details="pool 10.1.1.0/24 – full")
    assert (await runtime.call("ADD", version=version)).error == {
        "cniVersion": version,
        "code": 112,
        "msg": 'no "address"\n left',
        "details": "pool 10.1.1.0/24 – full",
    }


async def test_a_fault_of_the_handler_is_999(runtime: Any, cni_server: Any, agent: Any) -> None:
    agent.fails = RuntimeError("unexpected")
    error = (await runtime.call("ADD")).error
    assert (error["code"], error["msg"]) == (model.INTERNAL, "unexpected")


@pytest.mark.parametrize(
    ("command", "version"),
    [("CHECK", "0.3.1"), *((c, v) for c in ("STATUS", "GC") for v in ("0.3.1", "0.4.0", "1.0.0"))],
)
async def test_commands_are_refused_in_versions_without_them(runtime: Any, command: str, version: str) -> None:
    error = (await runtime.call(command, version=version)).error
    assert (error["code"], error["cniVersion"]) == (model.INCOMPATIBLE_VERSION, version)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "", None, "1.1.0 "])
async def test_other_versions_are_refused_with_the_supported_ones(runtime: Any, version: str | None) -> None:
    error = (await runtime.call("ADD", runtime.config(version))).error
    assert error["code"] == model.INCOMPATIBLE_VERSION
    assert all(supported in error["details"] for supported in VERSIONS)


async def test_the_highest_of_several_versions_is_taken(runtime: Any, cni_server: Any) -> None:
    config = runtime.config(None, cniVersions=["0.4.0", "1.0.0", "7.0.0"])
    assert (await runtime.call("ADD", config)).result["cniVersion"] == "1.0.0"


async def test_chaining_after_another_plugin_is_refused(runtime: Any, cni_server: Any, agent: Any) -> None:
    error = (await runtime.call("ADD", runtime.config(prevResult={"ips": []}))).error
    assert error["code"] == model.UNSUPPORTED_FIELD
    assert "prevResult" in error["msg"]
    assert agent.requests == []


async def test_check_needs_the_previous_result(runtime: Any, cni_server: Any) -> None:
    error = (await runtime.call("CHECK")).error
    assert (error["code"], error["details"]) == (model.INVALID_CONFIG, "prevResult")


async def test_delete_goes_on_with_an_unreadable_previous_result(runtime: Any, cni_server: Any, agent: Any) -> None:
    assert (await runtime.call("ADD")).result
    config = runtime.config(prevResult={"ips": [{"address": "nonsense"}]}, runtimeConfig={"mac": 5})
    assert (await runtime.call("DEL", config)).succeeded_silently()
    assert agent.attached == {}


async def test_a_large_result_arrives_whole(runtime: Any, cni_server: Any, agent: Any) -> None:
    """More than HTTP/2's first window and its frame size."""
    routes = tuple(
        model.CniRoute(dst=Network(4, 0x0A000000 + (n << 8), 24), gw=Address.parse("10.1.1.1")) for n in range(20_000)
    )
    agent.result = model.AddResult(routes=routes)
    result = (await runtime.call("ADD")).result
    assert [route["dst"] for route in result["routes"]] == [str(route.dst) for route in routes]


async def test_a_large_configuration_arrives_whole(runtime: Any, cni_server: Any, agent: Any) -> None:
    config = runtime.config(padding="x" * 1_000_000)
    assert (await runtime.call("ADD", config)).result
    assert agent.requests[0].raw_config == config


async def test_concurrent_calls_all_succeed(runtime: Any, cni_server: Any, agent: Any) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(runtime.call("ADD", CNI_CONTAINERID=f"c{n}")) for n in range(50)]
    assert all(call.result().result for call in calls)
    assert len(agent.attached) == 50


class TestLog:
    """The log file: one line a call, never in the call's way."""

    async def test_one_line_a_call(self, runtime: Any, cni_server: Any, agent: Any, tmp_path: Path) -> None:
        path = tmp_path / "cni.log"
        config = runtime.config(logFile=str(path))
        await runtime.call("ADD", config)
        agent.fails = CniError(112, 'full\nforged="line"')
        await runtime.call("DEL", config)
        added, deleted = path.read_text().splitlines()
        assert 'command="ADD"' in added
        assert 'pod="web-0"' in added
        assert " info " in added
        assert " error " in deleted
        assert "code=112" in deleted
        assert json.dumps('full\nforged="line"') not in added

    async def test_level_error_keeps_failures_only(self, runtime: Any, cni_server: Any, tmp_path: Path) -> None:
        path = tmp_path / "cni.log"
        assert (await runtime.call("ADD", runtime.config(logFile=str(path), logLevel="error"))).result
        assert not path.exists()
        bad = runtime.config(logFile=str(path), logLevel="error", timeoutSeconds=0)
        assert (await runtime.call("ADD", bad)).error["code"] == model.INVALID_CONFIG
        assert "timeoutSeconds" in path.read_text()

    @pytest.mark.parametrize("path", ["/nowhere/cni.log", "/dev/full", "/"])
    async def test_a_log_that_cannot_be_written_does_not_matter(self, runtime: Any, cni_server: Any, path: str) -> None:
        outcome = await runtime.call("ADD", runtime.config(logFile=path))
        assert outcome.result
        assert b"cannot log to" in outcome.stderr


async def test_whole_calls_are_clean_under_the_sanitizers(sanitized: Any, agent: Any) -> None:
    """Leaks included, on the way of success and on the way of failure."""
    options = {"ASAN_OPTIONS": "exitcode=99", "UBSAN_OPTIONS": "exitcode=99"}
    async with server.serve(agent, socket=sanitized.socket, check_netns=lambda _path: None):
        added = (await sanitized.call("ADD", **options)).result
        config = sanitized.config(prevResult=added)
        assert (await sanitized.call("CHECK", config, **options)).succeeded_silently()
        agent.fails = CniError(112, "full")
        assert (await sanitized.call("DEL", config, **options)).error["code"] == 112
        agent.fails = None
        assert (await sanitized.call("DEL", config, **options)).succeeded_silently()
