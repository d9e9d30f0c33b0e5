"""Shared memory on a real VPP. Each case is a process of its own: VPP's library allows one connection a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from real import RealVpp

pytestmark = [pytest.mark.vpp, pytest.mark.root]
PREAMBLE = """
import asyncio, json, os, signal, sys, time
import numpy as np
import contiv.vpp
path, segment, pid = sys.argv[1], sys.argv[2], int(sys.argv[3])
"""


def run(vpp: RealVpp, body: str, *, segment: str | None = None) -> Any:
    """What the script prints as JSON; it gets ``path``, ``segment`` and VPP's ``pid``."""
    arguments = [vpp.api, vpp.shm_prefix if segment is None else segment, str(vpp.pid)]
    script = PREAMBLE + "async def main():\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\nasyncio.run(main())"
    environment = {**os.environ, "CONTIV_VPP_PREFIX": str(vpp.prefix)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_routes_through_shared_memory_are_those_of_the_socket(real_vpp: RealVpp) -> None:
    result = run(
        real_vpp,
        """
        async with contiv.vpp.connect(path, shared_memory=segment) as vpp:
            loop = (await vpp.call("create_loopback")).sw_if_index
            columns = {
                "route.prefix": (np.arange(3000, dtype=np.uint32) * 256 + (20 << 24), 24),
                "route.paths.sw_if_index": loop,
                "route.paths.nh.address.ip4": np.full(3000, 0x0A090007, np.uint32),
            }
            replies = await vpp.call_many("ip_route_add_del", columns)
            routes = await vpp.dump("ip_route", table={"table_id": 0})
            found = {str(record.route.prefix): record.route.stats_index for record in routes}
            same = all(found[f"20.{i >> 8}.{i & 255}.0/24"] == int(replies["stats_index"][i]) for i in range(3000))
            await vpp.call_many("ip_route_add_del", {"is_add": 0, **columns})
            try:
                await vpp.call_many("sw_interface_set_flags", {"sw_if_index": np.array([loop, 99999])})
            except contiv.vpp.VppApiError as error:
                refused = str(error)
            await vpp.call("delete_loopback", sw_if_index=loop)
            print(json.dumps([vpp.bulk_transport, same, refused]))
        """,
    )
    assert result[:2] == ["shared memory", True]
    assert "INVALID_SW_IF_INDEX" in result[2]


def test_wrong_segment_falls_back_to_the_socket_with_its_reason(real_vpp: RealVpp) -> None:
    result = run(
        real_vpp,
        """
        async with contiv.vpp.connect(path, shared_memory=segment) as vpp:
            replies = await vpp.call_many("control_ping", {}, n=100)
            print(json.dumps([vpp.bulk_transport, int(replies["retval"].sum())]))
        """,
        segment="no-such-prefix",
    )
    assert result[0].startswith("socket: /dev/shm/no-such-prefix-vpe-api is not there")
    assert result[1] == 0


def test_vpp_that_dies_in_the_middle_ends_the_exchange_at_once(real_vpp: RealVpp) -> None:
    result = run(
        real_vpp,
        """
        async with contiv.vpp.connect(path, shared_memory=segment) as vpp:
            before = vpp.bulk_transport
            os.kill(pid, signal.SIGSTOP)
            work = asyncio.create_task(vpp.call_many("control_ping", {}, n=100_000))
            done, _ = await asyncio.wait([work], timeout=0.2)
            assert not done
            os.kill(pid, signal.SIGKILL)
            await vpp.wait_disconnected()
            started = time.perf_counter()
            try:
                await work
            except contiv.vpp.VppDisconnected as error:
                elapsed = time.perf_counter() - started
                print(json.dumps([before, type(error).__name__, elapsed, vpp.connected]), flush=True)
        os._exit(0)  # the abandoned thread of VPP's library waits for a VPP that is no more
        """,
    )
    real_vpp.kill()
    real_vpp.start()
    assert result[:2] == ["shared memory", "VppDisconnected"]
    assert result[2] < 1.0
    assert result[3] is False
