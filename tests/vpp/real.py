"""A real VPP as a child process: own folder, own network namespace, own shared-memory prefix, no hugepages."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

PLUGINS = ("acl", "af_packet", "cnat", "dhcp", "linux_cp", "nat", "ping", "tap", "vxlan")
START_S = 20.0


class RealVpp:
    """Context manager: VPP runs inside it. ``kill`` and ``start`` make it die and come back."""

    def __init__(self, prefix: Path, folder: Path, *, extra: str = "") -> None:
        self.prefix = prefix
        self.folder = folder
        self.api = str(folder / "api.sock")
        self.stats = str(folder / "stats.sock")
        self.shm_prefix = folder.name.replace(".", "-")
        self.extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RealVpp:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        for leftover in Path("/dev/shm").glob(f"{self.shm_prefix}-*"):
            leftover.unlink()

    @property
    def pid(self) -> int:
        """Process ID of VPP."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start VPP and wait until its sockets are there."""
        plugins = " ".join(f"plugin {name}_plugin.so {{ enable }}" for name in PLUGINS)
        config = self.folder / "startup.conf"
        config.write_text(
            f"unix {{ nodaemon cli-listen {self.folder}/cli.sock runtime-dir {self.folder} }}\n"
            f"api-segment {{ prefix {self.shm_prefix} }}\n"
            f"socksvr {{ socket-name {self.api} }}\nstatseg {{ socket-name {self.stats} }}\n"
            "memory { main-heap-size 512M main-heap-page-size 4k }\n"
            "buffers { page-size 4k buffers-per-numa 8192 }\n"
            f"plugins {{ plugin default {{ disable }} {plugins} }}\n{self.extra}\n"
        )
        with (self.folder / "vpp.log").open("ab") as log:
            command = ["unshare", "-n", str(self.prefix / "bin" / "vpp"), "-c", str(config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._await_sockets()

    def _await_sockets(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while not (Path(self.api).exists() and Path(self.stats).exists()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"VPP did not start: {(self.folder / 'vpp.log').read_text()[-2000:]}")
            time.sleep(0.02)  # VPP tells nobody that it is ready

    def kill(self) -> None:
        """SIGKILL, and its sockets removed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for path in (self.api, self.stats):
            Path(path).unlink(missing_ok=True)
