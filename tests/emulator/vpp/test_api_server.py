"""The API server against hostile clients: whatever bytes come, it goes on answering."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contiv.emulator.vpp.handlers import collect
from contiv.emulator.vpp.handlers.acl import AclHandlers
from contiv.emulator.vpp.handlers.devices import DeviceHandlers
from contiv.emulator.vpp.handlers.interfaces import InterfaceHandlers
from contiv.emulator.vpp.handlers.ip import IpHandlers
from contiv.emulator.vpp.handlers.l2 import L2Handlers
from contiv.emulator.vpp.handlers.system import SystemHandlers
from contiv.emulator.vpp.machine import Machine
from contiv.emulator.vpp.serve.api import FIXED_IDS, ApiServer, Client
from contiv.emulator.vpp.serve.cli import Cli
from contiv.emulator.vpp.serve.loop import Loop
from contiv.vpp.api import builtin_schema

TOUCHES_THE_KERNEL = {"tap_create_v3", "af_packet_create_v3"}
SCHEMA = builtin_schema()
UNDECODED = {"trace_plugin_msg_ids"}  # VPP's own definition of it names a type that is none
NAMES = sorted(set(SCHEMA.messages) - TOUCHES_THE_KERNEL - UNDECODED - {"sockclnt_delete"})


class Setting:
    """A server with every handler and one client, whose other end is ``peer``."""

    def __init__(self) -> None:
        self.loop = Loop()
        machine = Machine(lambda: 0.0)
        devices = DeviceHandlers(machine, watch=lambda device: None, unwatch=lambda device: None)
        parts = (
            SystemHandlers(Cli(machine)),
            devices,
            InterfaceHandlers(machine, devices.hosts),
            IpHandlers(machine),
            L2Handlers(machine),
            AclHandlers(machine),
        )
        handlers = collect(parts, SCHEMA.messages)
        self.handlers = {name: handler for name, handler in handlers.items() if name not in TOUCHES_THE_KERNEL}
        self.server = ApiServer(self.loop)
        self.server.serve_handlers(self.handlers)
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(2)
        ours.setblocking(False)
        self.client = Client(self.server, self.loop, ours, 1 << 31)
        self.loop.watch_control(ours, self.client.ready)

    def send(self, data: bytes) -> bytes:
        """Hand a message over; what is answered."""
        self.server.dispatch(self.client, memoryview(data))
        return self.client.take()

    def close(self) -> None:
        self.peer.close()
        self.client.socket.close()
        self.loop.close()


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.close()


def test_fixed_numbers_are_vpps(setting: Setting) -> None:
    ids = setting.server.ids
    assert [ids[name] for name in FIXED_IDS if name in ids] == [
        15 + place for place, name in enumerate(FIXED_IDS) if name in ids
    ]
    assert len(set(ids.values())) == len(ids)


def test_request_without_a_handler_is_unimplemented(setting: Setting) -> None:
    name = "macip_acl_del"
    assert name not in setting.handlers
    data = SCHEMA.encode(name, msg_id=setting.server.ids[name], context=7, acl_index=1)
    answer = setting.send(data)
    assert SCHEMA.decode(f"{name}_reply", answer[16:]).retval == -9


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NAMES), st.binary(max_size=300))
def test_no_message_ends_the_server(setting: Setting, name: str, tail: bytes) -> None:
    size = SCHEMA.program(name).size
    data = (
        setting.server.ids[name].to_bytes(2, "big") + (tail * (size // max(1, len(tail)) + 1))[: max(size, len(tail))]
    )
    setting.send(data)
    ping = SCHEMA.encode("control_ping", msg_id=setting.server.ids["control_ping"], context=5)
    answer = SCHEMA.decode("control_ping_reply", setting.send(ping)[16:])
    assert (answer.context, answer.retval) == (5, 0)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_no_stream_ends_the_server(setting: Setting, data: bytes) -> None:
    setting.server.dispatch(setting.client, memoryview(data + b"\0\0"))
    setting.client.take()
