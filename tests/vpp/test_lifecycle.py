"""contiv.vpp.lifecycle: which VPP is found, and a startup.conf that the real one takes."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from contiv.config import VppConfig
from contiv.errors import ConfigError
from contiv.processes import ready, start
from contiv.vpp import connect
from contiv.vpp import lifecycle as lifecycle_module
from contiv.vpp.lifecycle import Sockets, choose, command, find_vpp, startup_conf


def install(prefix: Path) -> Path:
    binary = prefix / "bin" / "vpp"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    return prefix


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without VPP: prefixes and PATH are the test's own."""
    monkeypatch.delenv("CONTIV_VPP_PREFIX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "usr" / "bin"))
    monkeypatch.setattr(lifecycle_module, "DEFAULT_PREFIX", str(tmp_path / "opt"))
    return tmp_path


def test_the_environment_goes_before_the_configuration_before_the_default_before_path(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_vpp() is None
    for place in ("usr", "opt", "configured", "environment"):
        prefix = install(machine / place)
        if place == "environment":
            monkeypatch.setenv("CONTIV_VPP_PREFIX", str(prefix))
        assert find_vpp(str(machine / "configured")) == prefix


def test_a_file_that_cannot_be_executed_is_no_vpp(machine: Path) -> None:
    prefix = install(machine / "opt")
    (prefix / "bin" / "vpp").chmod(stat.S_IRUSR)
    assert not os.access(prefix / "bin" / "vpp", os.X_OK)
    assert find_vpp() is None


def test_auto_takes_vpp_where_it_is_installed_and_the_emulator_elsewhere(machine: Path) -> None:
    assert choose(VppConfig()) == ("emulator", None)
    prefix = install(machine / "opt")
    assert choose(VppConfig()) == ("vpp", prefix)
    assert choose(VppConfig(dataplane="emulator")) == ("emulator", None)


def test_a_vpp_that_is_asked_for_and_missing_is_a_wrong_configuration(machine: Path) -> None:
    with pytest.raises(ConfigError, match=r"vpp\.dataplane"):
        choose(VppConfig(dataplane="vpp"))
    install(machine / "opt")
    with pytest.raises(ConfigError, match=r"vpp\.prefix"):
        choose(VppConfig(prefix=str(machine / "elsewhere")))


def test_every_run_directory_has_segments_of_its_own() -> None:
    directories = ["/run/vpp", "/run/a/vpp", *(f"/tmp/{'x' * 50}/{n}/{'y' * 50}" for n in range(3))]
    prefixes = [
        startup_conf(VppConfig(), run_dir=each).partition("  prefix ")[2].partition("\n")[0] for each in directories
    ]
    assert len(set(prefixes)) == len(directories)
    assert all(len(prefix) <= lifecycle_module.SEGMENT_PREFIX_MAX for prefix in prefixes)


@pytest.mark.vpp
@pytest.mark.parametrize("options", [{}, {"workers": 1, "main_heap_size": "256M", "buffers_per_numa": 8192}])
async def test_the_real_vpp_takes_the_startup_conf(tmp_path: Path, options: dict[str, int | str]) -> None:
    prefix = find_vpp()
    if prefix is None:
        pytest.skip("needs VPP: CONTIV_VPP_PREFIX, /opt/vpp or PATH")
    conf = tmp_path / "startup.conf"
    conf.write_text(startup_conf(VppConfig(**options), run_dir=str(tmp_path)))  # type: ignore[arg-type]
    sockets = Sockets(run_dir=str(tmp_path))
    vpp = await start("vpp", command("vpp", prefix, conf=str(conf)), log=tmp_path / "log")
    try:

        async def listens() -> bool:
            return all(Path(path).exists() for path in (sockets.api, sockets.cli, sockets.stats))

        await ready(vpp, listens, timeout_s=30, what="sockets")
        async with asyncio.timeout(10), connect(sockets.api) as api:
            threads = (await api.call("show_threads")).thread_data
            assert len(threads) == 1 + int(options.get("workers", 0))
            lacks = api.check(
                [
                    "tap_create_v3",
                    "af_packet_create_v3",
                    "vxlan_add_del_tunnel_v3",
                    "acl_add_replace",
                    "nat44_ed_plugin_enable_disable",
                ]
            )
            assert lacks == []
    finally:
        await vpp.stop()


def test_devices_that_dpdk_drives_stand_in_startup_conf_with_their_names() -> None:
    devices = {"uplink": "0000:00:08.0", "nic1": "0000:00:09.0"}
    text = lifecycle_module.startup_conf(VppConfig(), run_dir="/run/vpp", devices=devices)
    section = "dpdk {\n  dev 0000:00:09.0 { name nic1 }\n  dev 0000:00:08.0 { name uplink }\n}"
    assert f"plugin dpdk_plugin.so {{ enable }}\n}}\n{section}" in text
    assert text.count("{") == text.count("}")
    assert "dpdk" not in lifecycle_module.startup_conf(VppConfig(), run_dir="/run/vpp")


def test_a_wrong_pci_address_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such PCI device"):
        lifecycle_module.require_pci("k", "0000:00:08.0", devices=tmp_path)
    (tmp_path / "0000:00:08.0" / "net" / "eth7").mkdir(parents=True)
    with pytest.raises(ConfigError, match="the kernel drives it as eth7"):
        lifecycle_module.require_pci("k", "0000:00:08.0", devices=tmp_path)
    (tmp_path / "0000:00:08.0" / "vendor").write_text("0x1af4\n")
    assert lifecycle_module.is_virtio("0000:00:08.0", devices=tmp_path)
    assert not lifecycle_module.is_virtio("0000:00:09.0", devices=tmp_path)


def test_the_af_xdp_plugin_is_switched_on_for_nodes_that_need_it() -> None:
    line = "plugin af_xdp_plugin.so { enable }"
    assert line in startup_conf(VppConfig(), run_dir="/run/vpp", by_xdp=True)
    assert line not in startup_conf(VppConfig(), run_dir="/run/vpp")


@pytest.mark.parametrize("place", ["lib/vpp_plugins", "lib/x86_64-linux-gnu/vpp_plugins", "lib64/vpp_plugins"])
def test_a_vpp_without_the_af_xdp_plugin_is_refused_and_so_is_the_emulator(tmp_path: Path, place: str) -> None:
    for prefix, words in ((tmp_path, f"VPP in {tmp_path} has no af_xdp_plugin.so"), (None, "the emulator")):
        with pytest.raises(ConfigError, match=words) as refused:
            lifecycle_module.require_af_xdp(prefix)
        assert (refused.value.key, refused.value.value) == ("linkDriver", "af_xdp")
        assert "linkDriver: af_packet" in refused.value.remedy
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "af_xdp_plugin.so").touch()
    lifecycle_module.require_af_xdp(tmp_path)
