"""What must not crash the plugin: environment and input that are wrong, by accident or on purpose."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contiv.cni import model

NETNS = "/proc/self/ns/net"
BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def environment(command: str, **changes: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "eth0",
        **changes,
    }


@pytest.mark.parametrize("command", [None, "", "add", "ADD ", "ADDX", "\x01"])
async def test_unknown_commands_are_refused(runtime: Any, command: str | None) -> None:
    error = (await runtime.call("ADD", CNI_COMMAND=command)).error
    assert (error["code"], error["details"]) == (model.INVALID_ENVIRONMENT, "CNI_COMMAND")


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        *(("ADD", name) for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")),
        *(("CHECK", name) for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")),
        *(("DEL", name) for name in ("CNI_CONTAINERID", "CNI_IFNAME")),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
async def test_missing_variables_are_named(runtime: Any, command: str, variable: str, value: str | None) -> None:
    error = (await runtime.call(command, **{variable: value})).error
    assert (error["code"], error["details"]) == (model.INVALID_ENVIRONMENT, variable)
    assert variable in error["msg"]


@pytest.mark.parametrize("value", ["/nonexistent", "/dev/null", "/", "/proc/self/ns/mnt", "relative", "x" * 5000])
async def test_what_is_no_network_namespace_is_refused(runtime: Any, value: str) -> None:
    error = (await runtime.call("ADD", CNI_NETNS=value)).error
    assert (error["code"], error["details"]) == (model.INVALID_ENVIRONMENT, "CNI_NETNS")


async def test_a_fifo_as_namespace_does_not_hold_the_call_up(runtime: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    error = (await runtime.call("ADD", CNI_NETNS=str(tmp_path / "fifo"))).error
    assert error["code"] == model.INVALID_ENVIRONMENT


@pytest.mark.parametrize("value", ["-a", ".a", "a b", "a/b", "../../etc", "a\n", "é", "a" * 256, "a;b", "$(id)"])
async def test_hostile_container_ids_are_refused(runtime: Any, value: str) -> None:
    error = (await runtime.call("DEL", CNI_CONTAINERID=value)).error
    assert (error["code"], error["details"]) == (model.INVALID_ENVIRONMENT, "CNI_CONTAINERID")


@pytest.mark.parametrize(
    "value", [".", "..", "a/b", "a:b", "a b", "a\tb", "a\n", "é", "a" * 16, "eth%d", "\x7f", "../x"]
)
async def test_hostile_interface_names_are_refused(runtime: Any, value: str) -> None:
    error = (await runtime.call("ADD", CNI_IFNAME=value)).error
    assert (error["code"], error["details"]) == (model.INVALID_ENVIRONMENT, "CNI_IFNAME")


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "K8S_POD_NAME=web-0;nonsense",
        "UNKNOWN=1",
        "IgnoreUnknown=0;UNKNOWN=1",
        "IgnoreUnknown=1;K8S_POD_NAME=../../etc",
        "K8S_POD_NAME=" + "a" * 256,
    ],
)
async def test_malformed_arguments_are_refused(runtime: Any, value: str) -> None:
    error = (await runtime.call("ADD", CNI_ARGS=value)).error
    assert (error["code"], error["details"]) == (model.INVALID_ENVIRONMENT, "CNI_ARGS")


@pytest.mark.parametrize("value", [None, "", ";", "IgnoreUnknown=true;A=b=c;;", "K8S_POD_NAME="])
async def test_sparse_arguments_are_taken(runtime: Any, cni_server: Any, agent: Any, value: str | None) -> None:
    assert (await runtime.call("ADD", CNI_ARGS=value)).result
    assert agent.requests[0].pod == model.PodRef()


VARIABLES = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"]
VALUES = st.binary(max_size=300).map(lambda value: value.replace(b"\0", b""))


@BOUNDED
@given(changes=st.dictionaries(st.sampled_from(VARIABLES), VALUES, min_size=1))
def test_any_environment_gets_an_answer(sanitized: Any, changes: dict[str, bytes]) -> None:
    """There is no agent: what is accepted ends with code 11, the rest is the environment's fault."""
    env = {os.fsencode(name): os.fsencode(value) for name, value in environment("ADD").items()}
    env |= {os.fsencode(name): value for name, value in changes.items()}
    outcome = sanitized.call_alone(sanitized.config(), env)
    assert outcome.error["code"] in (model.INVALID_ENVIRONMENT, model.TRY_AGAIN_LATER)


CONFIG = b'{"cniVersion":"1.1.0","name":"contiv","type":"contiv-cni"}'


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b" ",
        b"garbage",
        b"null",
        b"[]",
        b'"text"',
        CONFIG[:-1],
        CONFIG[:20],
        CONFIG + b"x",
        b"\xef\xbb\xbf" + CONFIG,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":"\xff"}',
        b'{"a":"\xc0\x80"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\n"}',
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":1,}',
        b"\0" * 1000,
        b'{"name":"' + b"x" * (1 << 20) + b'"}',
        CONFIG[:-1] + b',"name":"twice"}',
        CONFIG[:-1] + b',"cniVersion":"1.0.0"}',
    ],
    ids=lambda stdin: repr(stdin[:24]),
)
async def test_what_is_no_configuration_is_code_6(sanitized: Any, stdin: bytes) -> None:
    error = sanitized.call_alone(stdin, environment("ADD")).error
    assert error["code"] == model.DECODING_FAILURE


@pytest.mark.parametrize(
    "keys",
    [
        {"name": None},
        {"name": ""},
        {"name": "a/b"},
        {"name": 5},
        {"name": "a\0b"},
        {"type": 5},
        {"agentSocket": "relative"},
        {"agentSocket": "/" + "x" * 107},
        {"agentSocket": 5},
        {"logFile": "relative"},
        {"logFile": 5},
        {"logLevel": "loud"},
        {"timeoutSeconds": 0},
        {"timeoutSeconds": 601},
        {"timeoutSeconds": -1},
        {"timeoutSeconds": 1.5},
        {"timeoutSeconds": "30"},
        {"timeoutSeconds": 10**30},
    ],
    ids=str,
)
async def test_wrong_keys_are_named(runtime: Any, keys: dict[str, Any]) -> None:
    error = (await runtime.call("ADD", runtime.config(**keys))).error
    assert error["code"] == model.INVALID_CONFIG
    assert next(iter(keys)) in error["msg"]
    assert not Path("relative").exists(), "nothing is logged to a path that is refused"


@pytest.mark.parametrize(
    "listed", [5, "x", {}, [5], [{}], [{"containerID": "a"}], [{"containerID": 5, "ifname": "eth0"}]], ids=str
)
async def test_malformed_attachments_are_refused(runtime: Any, listed: Any) -> None:
    error = (await runtime.call("GC", runtime.config(**{"cni.dev/valid-attachments": listed}))).error
    assert error["code"] == model.INVALID_CONFIG


def is_strict_json_object(text: bytes) -> bool:
    """The oracle: Python's reader, made as strict as RFC 8259 and our depth limit."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        decoded = json.loads(text.decode(), parse_constant=refuse, parse_int=float)
        json.dumps(decoded, ensure_ascii=False).encode()  # lone surrogates
    except (ValueError, RecursionError):
        return False
    return isinstance(decoded, dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=5)


@BOUNDED
@given(document=OBJECTS, ascii_only=st.booleans(), data=st.data())
def test_the_reader_accepts_exactly_what_json_is(
    sanitized: Any, document: dict[str, Any], ascii_only: bool, data: Any
) -> None:
    text = bytearray(json.dumps(document, ensure_ascii=ascii_only).encode())
    if data.draw(st.booleans(), label="damage"):
        at = data.draw(st.integers(0, len(text) - 1), label="at")
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"}", b",", b"\\u", b"0", b"-", b"e", b"\xc3"])
        )
    outcome = sanitized.call_alone(bytes(text), environment("STATUS"))
    assert (outcome.error["code"] != model.DECODING_FAILURE) == is_strict_json_object(bytes(text))


@BOUNDED
@given(stdin=st.binary(max_size=2000))
def test_any_input_gets_an_answer(sanitized: Any, stdin: bytes) -> None:
    assert sanitized.call_alone(stdin, environment("DEL")).error["code"] == model.DECODING_FAILURE


@BOUNDED
@given(
    document=st.dictionaries(
        st.sampled_from(
            [
                "name",
                "type",
                "cniVersion",
                "cniVersions",
                "agentSocket",
                "logFile",
                "logLevel",
                "timeoutSeconds",
                "prevResult",
                "cni.dev/valid-attachments",
            ]
        ),
        JSON,
    ),
    command=st.sampled_from(["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"]),
)
def test_any_values_of_known_keys_get_an_answer(sanitized: Any, document: dict[str, Any], command: str) -> None:
    base = {"cniVersion": "1.1.0", "name": "contiv", "agentSocket": str(sanitized.socket)}
    outcome = sanitized.call_alone(json.dumps(base | document).encode(), environment(command))
    if command == "VERSION" and outcome.status == 0:
        assert outcome.json["supportedVersions"] == list(model.VERSIONS)
    else:
        assert outcome.error["code"] in (1, 2, 5, 6, 7, 11, 50)


def test_closed_standard_descriptors_are_survived(sanitized: Any) -> None:
    """The agent's socket must not become standard output."""
    pid = os.posix_spawn(
        sanitized.binary,
        [sanitized.binary],
        environment("ADD"),
        file_actions=[(os.POSIX_SPAWN_CLOSE, 0), (os.POSIX_SPAWN_CLOSE, 1), (os.POSIX_SPAWN_CLOSE, 2)],
    )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


async def test_a_result_that_cannot_be_written_is_a_failure(runtime: Any, cni_server: Any) -> None:
    with Path("/dev/full").open("wb") as full:
        process = await asyncio.create_subprocess_exec(
            runtime.binary, stdin=asyncio.subprocess.PIPE, stdout=full, env=environment("ADD")
        )
        await process.communicate(runtime.config())
    assert process.returncode == 1
