"""What the machine boots: Debian's cloud kernel, an initramfs with its modules, a disk with all that runs there.

In: an empty directory. Out: ``Machine`` with three files. The kernel is the package ``linux-image-cloud-amd64``'s, by
``apt-get download``; everything else is copied from what is installed here, libraries found by ``ldd``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from contiv.demo import commands

PROJECT: Final = Path(__file__).parents[2]
KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
MODULES: Final = ("virtio_blk", "virtio_pci", "virtio_net", "vhost_net", "tun", "veth", "macvlan", "uio_pci_generic")
DISK: Final = "1400M"
BUSYBOX: Final = "/bin/busybox"
APPLETS: Final = ("sh", "mount", "ip", "modprobe", "poweroff", "mkdir", "sleep", "cat", "ls")
LEFT_OUT: Final = frozenset(
    {"test", "idlelib", "site-packages", "__pycache__", "kubernetes", "mypy", "mypyc", "Cython", "pip", "setuptools",
     "hypothesis", "ruff", "grimp", "importlinter", "ensurepip", "lib2to3", "tkinter"}
)  # fmt: skip
LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x")

INIT: Final = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in {modules}; do modprobe $module; done
while [ ! -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /disk
for place in proc sys dev; do mount -o move /$place /disk/$place; done
exec /bin/busybox switch_root /disk /bin/sh /start
"""

START: Final = """#!/bin/sh
# not the first process itself: whoever's parent is that one counts as orphaned
export PYTHONPATH=/project:/site PATH=/bin HOME=/root CONTIV_VPP_PREFIX={vpp}
{python} /project/tests/vm/guest.py
poweroff -f
"""


class Machine(NamedTuple):
    """What qemu is given."""

    kernel: Path
    initrd: Path
    disk: Path


def build(place: Path, *, vpp: Path) -> Machine:
    """Make the three files in ``place``; ``vpp`` is the prefix of the VPP that goes in."""
    kernel_files = _kernel(place / "kernel")
    (kernel,) = (kernel_files / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    python = Path(os.path.realpath(sys.executable))
    initrd = _initrd(place, kernel_files, release=release)
    disk = _disk(place, vpp=vpp, python=python)
    return Machine(kernel, initrd, disk)


def _kernel(place: Path) -> Path:
    place.mkdir()
    told = subprocess.run(
        ["apt-cache", "depends", "--important", KERNEL_PACKAGE], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"Depends: (linux-image-\S+)", told)
    assert found is not None, f"{KERNEL_PACKAGE} is not in the package lists; run apt-get update"
    subprocess.run(["apt-get", "-q", "download", found[1]], check=True, cwd=place, stdout=subprocess.DEVNULL)
    (package,) = place.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True)
    return place


def _initrd(place: Path, kernel: Path, *, release: str) -> Path:
    root = place / "initrd"
    for name in ("bin", "proc", "sys", "dev", "disk", "lib"):
        (root / name).mkdir(parents=True)
    _busybox(root)
    shutil.copytree(kernel / "lib" / "modules", root / "lib" / "modules")
    subprocess.run([BUSYBOX, "depmod", "-b", str(root), release], check=True)
    init = root / "init"
    init.write_text(INIT.format(modules=" ".join(MODULES)))
    init.chmod(0o755)
    target = place / "initrd.img"
    with target.open("wb") as stream:
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=stream, cwd=root, check=True
        )
    return target


def _busybox(root: Path) -> None:
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy2(BUSYBOX, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")


def _disk(place: Path, *, vpp: Path, python: Path) -> Path:
    root = place / "disk"
    for name in ("proc", "sys", "dev", "run", "tmp", "etc", "var/run", "project", "site", "root"):
        (root / name).mkdir(parents=True)
    _busybox(root)
    (root / "start").write_text(START.format(python=python, vpp=vpp))
    (root / "etc" / "group").write_text("root:x:0:\n")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    _copy(root, python)
    _copy_tree(Path(sysconfig.get_path("stdlib")), root / sysconfig.get_path("stdlib").lstrip("/"))
    _copy_tree(Path(sysconfig.get_path("purelib")), root / "site")
    for package in ("contiv", "cni", "tests"):
        _copy_tree(PROJECT / package, root / "project" / package)
    _copy_tree(vpp, root / str(vpp).lstrip("/"))
    for directory in commands.plugin_directories():
        plugin = directory / commands.PLUGIN
        if plugin.exists():
            _copy(root, plugin)
    for library in _libraries(_binaries(root)):
        _copy(root, library)
    disk = place / "disk.img"
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-d", str(root), str(disk), DISK], check=True)
    return disk


def _copy_tree(source: Path, target: Path) -> None:
    def left_out(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in LEFT_OUT or name.startswith("config-")}

    shutil.copytree(source, target, symlinks=True, ignore=left_out, dirs_exist_ok=True)


def _copy(root: Path, file: Path) -> None:
    target = root / str(file).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(os.path.realpath(file), target)


def _binaries(root: Path) -> Iterable[Path]:
    """Everything in the image that the loader may be asked for."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and (".so" in path.name or os.access(path, os.X_OK)):
            with path.open("rb") as stream:
                if stream.read(4) == b"\x7fELF":
                    yield path


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """What they are linked with, loader included."""
    found: set[Path] = set()
    for binary in binaries:
        told = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout
        found.update(Path(match) for match in LIBRARY.findall(told) if "/disk/" not in match)
    return found
