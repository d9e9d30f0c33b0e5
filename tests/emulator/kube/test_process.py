"""The emulator as a process: ready line, kubeconfig, persistence, and the death of its parent."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest

from contiv.emulator.kube import spawn
from contiv.emulator.kube.emulated import parse_listen
from contiv.errors import KubeError
from tests.emulator.kube.api import CONFIG_MAPS, Api, Refused, config_map

PARENT = """
import asyncio
from contiv.emulator.kube import spawn
async def main():
    async with spawn() as kube:
        print(kube.pid, flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


async def test_objects_and_versions_survive_a_restart(tmp_path: Path):
    data = str(tmp_path / "objects")
    async with spawn("--data", data) as kube, Api(kube.url) as api:
        made = await api.post(CONFIG_MAPS, config_map("kept", a="b"))
        await api.post(CONFIG_MAPS, config_map("lost"))
        await api.delete(f"{CONFIG_MAPS}/lost")
        version = await api.version()
    async with spawn("--data", data) as kube, Api(kube.url) as api:
        assert await api.get(f"{CONFIG_MAPS}/kept") == made
        assert await api.version() == version
        with pytest.raises(Refused):
            await api.get(f"{CONFIG_MAPS}/lost")
        async with api.watch(CONFIG_MAPS, resourceVersion=made["metadata"]["resourceVersion"]) as stream:
            assert (await stream.next())["object"]["code"] == 410
        async with api.watch(CONFIG_MAPS, resourceVersion=version) as stream:
            await api.post(CONFIG_MAPS, config_map("next"))
            assert await stream.take(1) == [("ADDED", "next")]


async def test_a_foreign_file_is_not_overwritten(tmp_path: Path):
    data = tmp_path / "foreign"
    data.write_text("hello\nworld\n")
    with pytest.raises(KubeError):
        async with spawn("--data", str(data)):
            pass
    assert data.read_text() == "hello\nworld\n"


async def test_the_kubeconfig_is_private(tmp_path: Path):
    path = tmp_path / "kubeconfig"
    async with spawn("--write-kubeconfig", str(path)) as kube:
        assert kube.url in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_it_dies_with_its_parent():
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    watch = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(watch, ended.set)
    try:
        parent.kill()
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(watch)
        os.close(watch)
        await parent.wait()


@pytest.mark.parametrize("text", ["localhost", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "name:1"])
def test_addresses_that_cannot_be_listened_on_are_refused(text: str):
    with pytest.raises(KubeError):
        parse_listen(text)


def test_addresses_may_be_of_either_family():
    assert parse_listen("127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_listen("[::1]:6443") == ("::1", 6443)
