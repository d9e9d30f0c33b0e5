"""Starting a data plane: which one, with which startup.conf, and how to know that it runs.

``find_vpp`` looks where tests and ``contiv init`` look alike: ``CONTIV_VPP_PREFIX``, the configured prefix,
``/opt/vpp``, then PATH. ``startup_conf`` renders VPP's configuration. ``command`` gives the argument vector of VPP or
of the emulator, ``environment`` what it must be started with; both read the same startup.conf. Who supervises the
process is ``contiv.init``'s affair.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from contiv.config import VppConfig
from contiv.errors import ConfigError

PLUGINS: Final = ("acl", "af_packet", "cnat", "dhcp", "nat", "ping", "tap", "vxlan")
"""The plugins that this project uses; everything else stays off."""
AF_XDP: Final = "af_xdp"
"""The plugin of nodes that ask for it; a VPP that was built without libxdp does not have it."""
PLUGIN_PLACES: Final = ("lib*/vpp_plugins", "lib*/*/vpp_plugins")
"""Below an installation's prefix, by distribution."""
DEFAULT_PREFIX: Final = "/opt/vpp"
SEGMENT_PREFIX_MAX: Final = 40
VHOST_NET: Final = "/dev/vhost-net"
PCI_DEVICES: Final = Path("/sys/bus/pci/devices")
VIRTIO_VENDOR: Final = "0x1af4"
"""As sysfs shows it (OASIS virtio 1.2, section 4.1.2)."""
CNAT_SESSIONS: Final = 1 << 18
"""Some 370 bytes each, taken in 65,536s; every connection of a pod that serves something has one."""
CNAT_SCAN_S: Final = 0.004
"""0.1 ms of every 4 are the scanner's: it comes round in a fraction of a second, and deletes thousands in one."""
CNAT_AGE_MAX_S: Final = (1 << 16) - 1
"""``cnat_timestamp_t.lifetime`` has 16 bits."""
CNAT_BUCKETS: Final = 1 << 14

Dataplane = Literal["vpp", "emulator"]


class Sockets(msgspec.Struct, frozen=True, kw_only=True):
    """The sockets of a data plane below its run directory."""

    run_dir: str

    @property
    def api(self) -> str:
        """The binary API (SOCK_STREAM)."""
        return f"{self.run_dir}/api.sock"

    @property
    def cli(self) -> str:
        """The debug CLI, for ``vppctl -s``."""
        return f"{self.run_dir}/cli.sock"

    @property
    def stats(self) -> str:
        """The stats segment (SOCK_SEQPACKET)."""
        return f"{self.run_dir}/stats.sock"


def find_vpp(configured: str = "") -> Path | None:
    """The prefix of an installed VPP, the folder that has ``bin/vpp``; None where there is none."""
    for prefix in (os.environ.get("CONTIV_VPP_PREFIX", ""), configured, DEFAULT_PREFIX):
        if prefix and _holds_vpp(prefix):
            return Path(prefix)
    on_path = shutil.which("vpp")
    return Path(on_path).resolve().parent.parent if on_path else None


def _holds_vpp(prefix: str) -> bool:
    return os.access(Path(prefix) / "bin" / "vpp", os.X_OK)


def choose(config: VppConfig) -> tuple[Dataplane, Path | None]:
    """The data plane that the configuration means: ``auto`` takes VPP where it is installed.

    ConfigError when VPP is asked for and not there, also when it is elsewhere than ``vpp.prefix`` says.
    """
    if config.dataplane == "emulator":
        return "emulator", None
    if config.prefix and not _holds_vpp(config.prefix):
        raise ConfigError(
            "vpp.prefix", config.prefix, "has no bin/vpp", remedy="name the folder that VPP is installed in"
        )
    prefix = find_vpp(config.prefix)
    if config.dataplane == "auto" and prefix is None:
        return "emulator", None
    if prefix is None:
        raise ConfigError(
            "vpp.dataplane",
            config.dataplane,
            "VPP is not installed",
            remedy="install FD.io's packages, or set vpp.prefix or CONTIV_VPP_PREFIX to its prefix",
        )
    return "vpp", prefix


def startup_conf(
    config: VppConfig,
    *,
    run_dir: str,
    devices: Mapping[str, str] | None = None,
    by_xdp: bool = False,
    tcp_idle_s: int = 180 * 60,
    other_idle_s: int = 5 * 60,
) -> str:
    """VPP's startup.conf. Without hugepages heap and buffers live on pages of 4 kB. ``devices`` are the PCI addresses
    of the NICs that DPDK drives, by the names that VPP is to call them; ``by_xdp``: it opens kernel links by AF_XDP.

    Access lists reclassify sessions: after a change of lists the next packet of whoever opened a connection is judged
    anew. Otherwise VPP clears a hundred sessions of the interface and leaves the others as they are
    (plugins/acl/sess_mgmt_node.c), so that some connections would be cut and some forbidden pings would go on.

    CNAT forgets connections after ``tcp_idle_s`` and ``other_idle_s``, which no API message can tell it. Its scanner
    reads for 0.1 ms at a time: with VPP's own sizes, once a second through 2^24 buckets, it would be hours behind.
    """
    sockets = Sockets(run_dir=run_dir)
    page = "default-hugepage" if config.hugepages else "4k"
    wanted = (*PLUGINS, AF_XDP) if by_xdp else PLUGINS
    plugins = "\n".join(f"  plugin {name}_plugin.so {{ enable }}" for name in wanted)
    dpdk = _dpdk(devices) if devices else ""
    workers = f"\n  workers {config.workers}" if config.workers else ""
    return f"""\
unix {{
  nodaemon
  runtime-dir {run_dir}
  cli-listen {sockets.cli}
  log {run_dir}/vpp.log
  full-coredump
  coredump-size 0
}}
api-segment {{
  prefix {_segment_prefix(run_dir)}
}}
socksvr {{
  socket-name {sockets.api}
}}
statseg {{
  socket-name {sockets.stats}
  size 64M
}}
memory {{
  main-heap-size {config.main_heap_size}
  main-heap-page-size {page}
}}
buffers {{
  buffers-per-numa {config.buffers_per_numa}
  page-size {page}
}}
cpu {{{workers}
}}
acl-plugin {{
  reclassify sessions 1
}}
cnat {{
  session-max {CNAT_SESSIONS}
  session-cleanup-timeout {CNAT_SCAN_S}
  session-max-age {min(other_idle_s, CNAT_AGE_MAX_S)}
  tcp-max-age {min(tcp_idle_s, CNAT_AGE_MAX_S)}
  translation-db-buckets {CNAT_BUCKETS}
  client-db-buckets {CNAT_BUCKETS}
}}
plugins {{
  plugin default {{ disable }}
{plugins}{dpdk}
}}
"""


def _dpdk(devices: Mapping[str, str]) -> str:
    """The end of the plugins section and the start of DPDK's, which the template closes."""
    lines = "\n".join(f"  dev {address} {{ name {name} }}" for name, address in sorted(devices.items()))
    return f"\n  plugin dpdk_plugin.so {{ enable }}\n}}\ndpdk {{\n{lines}"


def require_af_xdp(prefix: Path | None) -> None:
    """Refuse what cannot open links by AF_XDP: a VPP in ``prefix`` without the plugin, or the emulator (None)."""
    if prefix is None:
        problem = "the emulator opens links by af_packet alone"
    elif not has_plugin(prefix, AF_XDP):
        problem = f"VPP in {prefix} has no {AF_XDP}_plugin.so"
    else:
        return
    raise ConfigError(
        "linkDriver", AF_XDP, problem, remedy="install a VPP that was built with libxdp, or set linkDriver: af_packet"
    )


def has_plugin(prefix: Path, name: str) -> bool:
    """Whether the VPP installed in ``prefix`` has the plugin."""
    return any(any(prefix.glob(f"{place}/{name}_plugin.so")) for place in PLUGIN_PLACES)


def require_pci(key: str, address: str, *, devices: Path = PCI_DEVICES) -> None:
    """Refuse a PCI address behind which there is no device, or one that the kernel drives."""
    device = devices / address
    if not device.exists():
        raise ConfigError(key, address, "there is no such PCI device", remedy="write an address that lspci -D shows")
    if (device / "net").exists():
        names = ", ".join(sorted(each.name for each in (device / "net").iterdir()))
        raise ConfigError(
            key,
            address,
            f"the kernel drives it as {names}",
            remedy="bind it to vfio-pci or uio_pci_generic, or name the link and let VPP open that",
        )


def is_virtio(address: str, *, devices: Path = PCI_DEVICES) -> bool:
    """Whether the device at a PCI address is a virtio one, for which VPP has a driver of its own."""
    try:
        return (devices / address / "vendor").read_text().strip() == VIRTIO_VENDOR
    except OSError:
        return False


def _segment_prefix(run_dir: str) -> str:
    """Several VPPs on one machine share /dev/shm: the run directory tells them apart."""
    prefix = run_dir.strip("/").replace("/", "-")
    if len(prefix) <= SEGMENT_PREFIX_MAX:
        return prefix
    digest = hashlib.sha256(run_dir.encode()).hexdigest()[:12]  # two long paths may well end alike
    return f"{digest}-{prefix[-SEGMENT_PREFIX_MAX + len(digest) + 1 :]}"


def command(dataplane: Dataplane, prefix: Path | None, *, conf: str) -> list[str]:
    """The argument vector that starts the data plane with the startup.conf at ``conf``."""
    if dataplane == "vpp":
        assert prefix is not None
        return [str(prefix / "bin" / "vpp"), "-c", conf]
    return [sys.executable, "-m", "contiv.emulator.vpp", "-c", conf]


def environment(dataplane: Dataplane) -> dict[str, str]:
    """What the data plane's environment needs beside ours: for VPP the guard of ``csrc/vpp_epoll_guard.c``.

    ConfigError when the guard was not built: a VPP without it stops for good once 16 pods speak at the same time.
    """
    if dataplane != "vpp":
        return {}
    here = Path(__file__).parent
    guard = next(iter(sorted(here.glob("epoll_guard*.so"))), None)
    if guard is None:
        raise ConfigError(
            "vpp.dataplane", dataplane, f"no epoll_guard library in {here}", remedy="build it with 'make install'"
        )
    return {"LD_PRELOAD": str(guard)}


def has_vhost_net() -> bool:
    """Whether the kernel can back VPP's TAPs."""
    return Path(VHOST_NET).exists()
