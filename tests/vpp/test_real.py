"""The client on a real VPP: dumps equal to vpp_papi's, death with requests in flight, bulk."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from typing import Any

import numpy as np
import pytest
import vpp_papi
from papi_script import plain
from real import RealVpp

import contiv.vpp
from contiv.vpp import VppDisconnected, VppError, api

pytestmark = [pytest.mark.vpp, pytest.mark.root]
# dumps that list nothing without arguments or whose output changes by itself
UNEQUAL = {"sw_interface_rx_placement_dump"}


async def test_dumps_equal_vpp_papis(real_vpp: RealVpp) -> None:
    folder = str(real_vpp.prefix / api.API_DIR)
    other = vpp_papi.VPPApiClient(apidir=folder, server_address=real_vpp.api)
    other.connect("oracle")
    compared = listed = 0
    try:
        async with contiv.vpp.connect(real_vpp.api) as vpp:
            loops = await vpp.batch([("create_loopback", {})] * 5)
            for i, loop in enumerate(loops):
                index = loop.sw_if_index
                await vpp.call("sw_interface_add_del_address", sw_if_index=index, is_add=1, prefix=f"10.{i}.0.1/24")
                await vpp.call(
                    "sw_interface_add_del_address", sw_if_index=index, is_add=1, prefix=f"2001:db8:{i}::1/64"
                )
            for name, message in vpp.schema.messages.items():
                if message.kind != "dump" or name in UNEQUAL or message.key not in vpp.table:
                    continue
                # vpp_papi carries the default of one message's sw_if_index over to others: name it
                fields = {field.name: 0xFFFFFFFF for field in message.fields if field.name == "sw_if_index"}
                theirs = getattr(other.api, name)(**fields)
                ours = await vpp.dump(name, **fields)
                assert plain(ours) == plain(theirs), name
                compared += 1
                listed += bool(ours)
            for loop in loops:
                await vpp.call("delete_loopback", sw_if_index=loop.sw_if_index)
    finally:
        other.disconnect()
    assert compared > 60
    assert listed > 10
    print(f"{compared} dumps equal vpp_papi's, {listed} of them not empty")


async def test_definitions_come_from_vpp_when_asked_for(real_vpp: RealVpp) -> None:
    async with contiv.vpp.connect(real_vpp.api, schema=api.builtin_schema()) as vpp:
        text = (await vpp.call("get_api_json")).json
        schema = api.reported_schema(text)
        assert api.unexplained(schema, vpp.table) == 0
        assert vpp.version.startswith("26.06") or vpp.version


async def test_routes_by_columns_are_in_the_table(real_vpp: RealVpp) -> None:
    async with contiv.vpp.connect(real_vpp.api) as vpp:
        loop = (await vpp.call("create_loopback")).sw_if_index
        columns = {
            "route.prefix": (np.arange(2000, dtype=np.uint32) * 256 + (20 << 24), 24),
            "route.paths.sw_if_index": loop,
            "route.paths.nh.address.ip4": np.full(2000, 0x0A090007, np.uint32),
        }
        await vpp.call_many("ip_route_add_del", columns)
        routes = await vpp.dump("ip_route", table={"table_id": 0})
        ours = [record.route.prefix for record in routes if str(record.route.prefix).startswith("20.")]
        assert len(ours) == 2000
        await vpp.call_many("ip_route_add_del", {"is_add": 0, **columns})
        await vpp.call("delete_loopback", sw_if_index=loop)


async def test_vpp_killed_with_ten_thousand_in_flight(real_vpp: RealVpp) -> None:
    async with contiv.vpp.connect(real_vpp.api, reconnect=True) as vpp:
        pid = real_vpp.pid
        os.kill(pid, signal.SIGSTOP)
        calls = [vpp.call("control_ping") for _ in range(10_000)]
        done, _ = await asyncio.wait(calls, timeout=0.05)
        assert not done
        real_vpp.kill()
        started = time.perf_counter()  # the kernel has taken VPP apart and closed its sockets
        await vpp.wait_disconnected()
        results = await asyncio.gather(*calls, return_exceptions=True)
        elapsed = time.perf_counter() - started
        assert {type(result) for result in results} == {VppDisconnected}
        print(f"10,000 calls failed {elapsed * 1000:.0f} ms after the kill")
        assert elapsed < 0.5  # 100 ms are asked for and held on an idle machine
        await asyncio.to_thread(real_vpp.start)
        await vpp.wait_connected(10)
        assert (await vpp.call("control_ping")).retval == 0


async def test_memory_is_level_after_a_hundred_thousand_calls(real_vpp: RealVpp) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    async def mix(vpp: Any, rounds: int) -> None:
        for _ in range(rounds):
            calls = [vpp.call("control_ping") for _ in range(400)]
            calls += [vpp.call("sw_interface_set_flags", sw_if_index=99_999) for _ in range(100)]
            late = [vpp.call("control_ping", timeout_s=0.0) for _ in range(50)]
            cancelled = [vpp.call("control_ping") for _ in range(50)]
            for call in cancelled:
                call.cancel()
            results = await asyncio.gather(*calls, *late, return_exceptions=True)
            assert sum(isinstance(result, VppError) for result in results) >= 100

    async with contiv.vpp.connect(real_vpp.api) as vpp:
        await mix(vpp, 20)
        gc.collect()
        before = resident()
        await mix(vpp, 170)
        gc.collect()
        grown = resident() - before
        await vpp.call("control_ping")  # the last cancelled calls have been answered before it
        assert vpp.in_flight == 0
        print(f"resident memory grew by {grown / 1024:.0f} KiB")
        assert grown < 4 << 20
