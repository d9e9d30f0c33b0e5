"""A node whose disk is full or read-only: it says so, serves its pods, and what it wrote before and after is whole."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import Build
from tests.e2e.test_outages import KSR_BACK_S, agree, ids, restart_agent
from tests.e2e.world import World, eventually

pytestmark = pytest.mark.root

DISK_KB = 1024
CHUNK = bytes(4096)


async def test_a_full_disk_is_said_and_costs_nothing(build: Build) -> None:
    async with build(1) as world:
        state = world.node(1).directory / "state"
        with mounted("-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", str(state)):
            await restart_agent(world, 1)  # it now writes to the small disk, and fills it from etcd
            stays, _ = [await world.create_pod(name, node=1) for name in ("stays", "goes")]
            fill(state / "filler")
            comes = await world.create_pod("comes", node=1)
            await world.kubectl("delete", "pod", "goes", "--wait=true")
            await eventually(lambda: complains(world), "the agent says that its mirror is behind")
            problem = (await world.rest(1, "status"))["problems"]["mirror"]
            assert str(state) in problem
            assert "full" in problem
            await world.assert_mesh([stays, comes])

            before = await ids(world)
            status = await restart_agent(world, 1)  # with a disk that is still full: etcd knows what came since
            assert "mirror" in status["problems"]
            assert await ids(world) == before
            await world.assert_mesh([stays, comes])
            assert await agree(world, [stays, comes]), "nothing of the pod that went, all of the one that came"

            (state / "filler").unlink()
            await eventually(lambda: content(world), "the mirror is whole again", timeout_s=KSR_BACK_S)
            await world.cluster.etcd_server.kill()  # from here on the mirror alone knows
            await restart_agent(world, 1)
            assert await ids(world) == before
            await world.assert_mesh([stays, comes])
            await world.cluster.etcd_server.start()
            await eventually(lambda: agree(world, [stays, comes]), "etcd has the attachments", timeout_s=KSR_BACK_S)


async def test_a_read_only_disk_is_said_and_costs_nothing(build: Build) -> None:
    async with build(1) as world:
        state = world.node(1).directory / "state"
        stays = await world.create_pod("stays", node=1)
        with mounted("--bind", str(state), str(state)):
            subprocess.run(["mount", "-o", "remount,bind,ro", str(state)], check=True)
            status = await restart_agent(world, 1)
            assert str(state) in status["problems"]["mirror"]
            comes = await world.create_pod("comes", node=1)
            await world.assert_mesh([stays, comes])
            assert await agree(world, [stays, comes])

        status = await restart_agent(world, 1)  # writable again, and older than what etcd has
        assert "mirror" not in status["problems"]
        await world.assert_mesh([stays, comes])
        assert await agree(world, [stays, comes])


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    """Mount over a directory, whose name comes last."""
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True)


def fill(path: Path) -> None:
    """Leave no block free on the disk of ``path``."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(CHUNK):
            pass
    assert os.statvfs(path).f_bavail == 0


async def complains(world: World) -> bool:
    """Whether the agent has a problem with its mirror."""
    return "mirror" in (await world.rest(1, "status"))["problems"]


async def content(world: World) -> bool:
    """Whether it has none."""
    return not await complains(world)
