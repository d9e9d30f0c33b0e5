"""What hands change in VPP is told by ``netctl diff`` and mended by a resync; what is somebody else's stays."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from contiv.model import vpp as model
from contiv.vpp.descriptors.fib import FIB_SOURCE_NAME
from tests.e2e.conftest import Build
from tests.e2e.world import World, address, eventually

pytestmark = pytest.mark.root

NO_INDEX = 0xFFFFFFFF


async def netctl(world: World, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output of ``netctl``."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "contiv.cli.netctl", "--etcd", world.cluster.etcd, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ},
    )
    async with asyncio.timeout(30):
        output, complaint = await child.communicate()
    assert child.returncode in (0, 1), complaint.decode()
    return int(child.returncode or 0), output.decode()


async def differences(world: World) -> set[str]:
    """The keys that ``netctl diff`` names on node 1; its exit code says the same."""
    code, output = await netctl(world, "-o", "json", "diff", "node-1")
    found = {row["key"] for row in json.loads(output)}
    assert code == (1 if found else 0)
    return found


async def test_drift_is_told_and_mended_and_what_is_foreign_stays(build: Build) -> None:
    async with build(2) as world:
        pods = [await world.create_pod(f"pod-{number}", node=1) for number in (1, 2)]
        pods.append(await world.create_pod("far", node=2))
        await world.settled()
        assert await differences(world) == set()
        async with world.vpp(1) as api:
            foreign = await api.call("create_loopback")
            await api.call("sw_interface_tag_add_del", sw_if_index=foreign.sw_if_index, is_add=True, tag="somebody")
            route = {"prefix": "203.0.113.0/24", "n_paths": 1, "paths": [{"type": 2}]}
            await api.call("ip_route_add_del", is_add=True, is_multipath=False, route=route)
            broken = await spoil(api, victim=address(pods[0]))
            found = await differences(world)
            assert found == broken
            code, output = await netctl(world, "resync", "node-1")
            assert (code, output.strip()) == (0, "node-1 is in sync")
            assert await differences(world) == set()
            await world.assert_mesh(pods)
            dumped = await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
            assert {"contiv:stray", "somebody"} & {entry.tag for entry in dumped} == {"somebody"}
            held = await world.held(1)
            assert "203.0.113.0/24" in held.routes
            assert "198.51.100.0/24" not in held.routes


async def spoil(api: Any, *, victim: str) -> set[str]:
    """Remove a pod's route, bring its interface down, add an interface and a route that look like ours; the keys."""
    dumped = await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
    source = next(entry.src.id for entry in await api.dump("fib_source") if entry.src.name == FIB_SOURCE_NAME)
    fib = await api.dump("ip_route_v2", src=source, table={"table_id": 0, "is_ip6": False, "name": ""})
    ours = next(entry.route for entry in fib if str(entry.route.prefix) == f"{victim}/32")
    index = ours.paths[0].sw_if_index
    name = next(entry.tag for entry in dumped if entry.sw_if_index == index).removeprefix("contiv:")
    stray = await api.call("create_loopback")
    await api.call("sw_interface_tag_add_del", sw_if_index=stray.sw_if_index, is_add=True, tag="contiv:stray")
    removed = {"prefix": f"{victim}/32", "src": source, "n_paths": 0, "paths": []}
    await api.call("ip_route_add_del_v2", is_add=False, is_multipath=False, route=removed)
    added = {"prefix": "198.51.100.0/24", "src": source, "n_paths": 1, "paths": [{"type": 2}]}
    await api.call("ip_route_add_del_v2", is_add=True, is_multipath=False, route=added)
    await api.call("sw_interface_set_flags", sw_if_index=index, flags=0)
    return {
        f"{model.ROUTE}0/{victim}/32",
        f"{model.ROUTE}0/198.51.100.0/24",
        model.admin_up_key(name),
        model.interface_key("stray"),
    }


async def test_drift_heals_by_itself_where_that_is_asked_for(build: Build) -> None:
    async with build(1, {"periodicHealingIntervalSeconds": 1}) as world:
        pods = [await world.create_pod(f"pod-{number}", node=1) for number in (1, 2)]
        await world.settled()
        async with world.vpp(1) as api:
            await spoil(api, victim=address(pods[0]))

            async def healed() -> bool:
                return not await differences(world)

            await eventually(healed, "the periodic resync has mended everything")
        await world.assert_mesh(pods)
