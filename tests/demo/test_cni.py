"""The runtime's side of CNI, with a plugin that records how it was called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from contiv.demo.cni import Network, Sandbox
from contiv.errors import CniError

SANDBOX = Sandbox(container_id="c1", netns="/var/run/netns/x", namespace="ns", name="pod", uid="u-1")
CONFLIST = {"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "plugin", "agentSocket": "/run/a.sock"}]}


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    place = shutil.copy(Path(__file__).with_name("plugin.py"), tmp_path / "plugin")
    Path(place).chmod(0o755)
    return tmp_path


def calls(place: Path) -> list[dict[str, dict[str, object]]]:
    return [json.loads(line) for line in (place / "calls").read_text().splitlines()]


async def test_add_gives_environment_and_configuration_as_the_specification_says(plugins: Path) -> None:
    result = await Network(CONFLIST, [plugins]).add(SANDBOX)
    assert result["ips"] == [{"address": "10.1.0.2/32"}]
    (call,) = calls(plugins)
    assert call["config"] == {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "plugin",
        "agentSocket": "/run/a.sock",
    }
    assert call["env"] == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/var/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugins),
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;"
        "K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1",
    }


async def test_the_result_goes_to_the_next_plugin_and_to_del_and_check(plugins: Path) -> None:
    chain = {**CONFLIST, "plugins": [{"type": "plugin", "n": 1}, {"type": "plugin", "n": 2}]}
    network = Network(chain, [plugins])
    result = await network.add(SANDBOX)
    await network.check(SANDBOX, result)
    await network.remove(SANDBOX, result)
    seen = [(call["env"]["CNI_COMMAND"], call["config"]["n"]) for call in calls(plugins)]
    assert seen == [("ADD", 1), ("ADD", 2), ("CHECK", 1), ("CHECK", 2), ("DEL", 2), ("DEL", 1)]
    previous = [call["config"].get("prevResult") for call in calls(plugins)]
    assert previous[0] is None
    assert previous[1]["ips"] == [{"address": "10.1.0.2/32"}]  # type: ignore[index]
    assert previous[2:] == [result] * 4


async def test_a_refusal_carries_the_plugins_code_and_words(plugins: Path) -> None:
    (plugins / "refuse-STATUS").write_text("50 1")
    network = Network(CONFLIST, [plugins])
    with pytest.raises(CniError, match="plugin: not now") as caught:
        await network.status()
    assert (caught.value.code, caught.value.details) == (50, "told to")
    await network.status()


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("#!/bin/sh\necho garbage", "no JSON"),
        ("#!/bin/sh\necho '[1]'", "no JSON"),
        ("#!/bin/sh\necho broken >&2; exit 3", "broken"),
        ("#!/bin/sh\nexit 3", "exit code 3"),
    ],
)
async def test_a_plugin_that_breaks_the_protocol_is_an_error(tmp_path: Path, script: str, complaint: str) -> None:
    (tmp_path / "plugin").write_text(script)
    (tmp_path / "plugin").chmod(0o755)
    with pytest.raises(CniError, match=complaint):
        await Network(CONFLIST, [tmp_path]).add(SANDBOX)


async def test_a_missing_plugin_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CniError, match=f"plugin plugin: not in {tmp_path}"):
        await Network(CONFLIST, [tmp_path]).add(SANDBOX)
