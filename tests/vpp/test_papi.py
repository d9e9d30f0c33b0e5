"""``fastpath.PapiClient`` and vpp_papi run one script on one VPP."""

from __future__ import annotations

import os
import queue
from pathlib import Path
from typing import Any

import papi_script
import pytest
import vpp_papi
from real import RealVpp

from contiv import fastpath
from contiv.vpp import api

pytestmark = [pytest.mark.vpp, pytest.mark.root]


def run(client: Any, enums: Any) -> dict[str, Any]:
    """The script's results with a client that is connected and disconnected here."""
    client.connect("script")
    try:
        return papi_script.run(client, enums)
    finally:
        client.disconnect()


def test_script_for_vpp_papi_gives_the_same_with_this_client(real_vpp: RealVpp) -> None:
    folder = str(real_vpp.prefix / api.API_DIR)
    theirs = run(vpp_papi.VPPApiClient(apidir=folder, server_address=real_vpp.api), vpp_papi.VppEnum)
    ours = run(fastpath.PapiClient(apidir=folder, server_address=real_vpp.api), fastpath.VppEnum)
    assert ours.keys() == theirs.keys()
    for name, result in theirs.items():
        assert ours[name] == result, name
    assert len(ours) >= 40


def test_definitions_from_the_running_vpp(real_vpp: RealVpp) -> None:
    client = fastpath.PapiClient(bootstrapapi=True, server_address=real_vpp.api)
    assert client.connect("bootstrap") == 0
    assert client.api.show_version().retval == 0
    client.disconnect()
    assert client.connect("again") == 0
    client.disconnect()


def test_async_mode_gives_everything_to_the_callback(real_vpp: RealVpp) -> None:
    got: queue.Queue[tuple[str, Any]] = queue.Queue()
    client = fastpath.PapiClient(apidir=str(real_vpp.prefix / api.API_DIR), server_address=real_vpp.api)
    client.register_event_callback(lambda name, record: got.put((name, record)))
    client.connect("async", do_async=True)
    context = client.api.control_ping()
    name, record = got.get(timeout=5)
    assert (name, record.context) == ("control_ping_reply", context)
    client.disconnect()


def test_errors_have_vpp_papis_names(real_vpp: RealVpp, tmp_path: Path) -> None:
    client = fastpath.PapiClient(apidir=str(real_vpp.prefix / api.API_DIR), server_address=real_vpp.api)
    with pytest.raises(client.VPPApiError):
        _ = client.api
    client.connect("errors")
    with pytest.raises(fastpath.VPPValueError):
        client.api.control_ping(nonsense=1)
    client.disconnect()
    with pytest.raises(client.VPPIOError):
        client.api.control_ping()
    with pytest.raises(client.VPPRuntimeError):
        fastpath.PapiClient(apidir=str(tmp_path))
    with pytest.raises(OSError, match="No such file"):
        fastpath.PapiClient(
            apidir=str(real_vpp.prefix / api.API_DIR), server_address=os.fspath(tmp_path / "x")
        ).connect("x")
