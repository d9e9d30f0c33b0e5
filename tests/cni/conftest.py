"""The plugin driven as a container runtime drives it, a handler that remembers, and peers that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contiv.cni import model, server
from contiv.errors import CniError
from contiv.model.ip import Address, Network

ROOT = Path(__file__).parents[2]
# a namespace that is always there; the server's own check would refuse it, as it is the test's
NETNS = "/proc/self/ns/net"
CONTAINER = "0a1b2c3d4e5f"
EXIT_SANITIZER = 99
ATTACHED = {"ADD", "DEL", "CHECK"}


class Outcome:
    """What a runtime sees of one call."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    @property
    def json(self) -> dict[str, Any]:
        decoded = json.loads(self.stdout)
        assert isinstance(decoded, dict)
        return decoded

    @property
    def result(self) -> dict[str, Any]:
        assert self.status == 0, (self.status, self.stdout, self.stderr)
        return self.json

    @property
    def error(self) -> dict[str, Any]:
        """The error object, after checking that it has the specification's shape."""
        assert self.status not in (0, EXIT_SANITIZER), (self.status, self.stdout, self.stderr)
        error = self.json
        assert set(error) <= {"cniVersion", "code", "msg", "details"}
        assert error["cniVersion"] in model.VERSIONS
        assert isinstance(error["code"], int)
        assert error["code"] > 0
        assert error["msg"]
        return error

    def succeeded_silently(self) -> bool:
        return self.status == 0 and self.stdout == b""


def environment(command: str, **changes: str | None) -> dict[str, str]:
    """The environment of a call as containerd sets it; None leaves a variable out."""
    given: dict[str, str | None] = {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}
    if command in ATTACHED:
        given |= {
            "CNI_CONTAINERID": CONTAINER,
            "CNI_NETNS": NETNS,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;"
            f"K8S_POD_INFRA_CONTAINER_ID={CONTAINER};K8S_POD_UID=11-22",
        }
    given |= changes
    return {name: value for name, value in given.items() if value is not None}


class Runtime:
    """Runs the plugin: environment and standard input in, standard output and exit status out."""

    def __init__(self, binary: Path, socket: Path) -> None:
        self.binary = binary
        self.socket = socket

    def config(self, version: str | None = "1.1.0", **keys: Any) -> bytes:
        given = {"name": "contiv", "type": "contiv-cni", "agentSocket": str(self.socket), **keys}
        if version is not None:
            given["cniVersion"] = version
        return json.dumps(given).encode()

    @asynccontextmanager
    async def start(self, command: str, stdin: bytes, **changes: str | None) -> AsyncIterator[Any]:
        process = await asyncio.create_subprocess_exec(
            self.binary,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(command, **changes),
        )
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def call(
        self, command: str, stdin: bytes | None = None, *, version: str = "1.1.0", **changes: str | None
    ) -> Outcome:
        async with self.start(command, self.config(version) if stdin is None else stdin, **changes) as process:
            async with asyncio.timeout(20):
                stdout, stderr = await process.communicate()
        return Outcome(process.returncode, stdout, stderr)

    def call_alone(self, stdin: bytes, env: dict[str, str] | dict[bytes, bytes]) -> Outcome:
        """For tests without a server in this process."""
        options = {
            "ASAN_OPTIONS": f"exitcode={EXIT_SANITIZER}",
            "UBSAN_OPTIONS": f"exitcode={EXIT_SANITIZER}",
        }
        whole = {os.fsencode(k): os.fsencode(v) for k, v in {**options, **env}.items()}
        done = subprocess.run([self.binary], input=stdin, capture_output=True, env=whole, timeout=20, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)


class Agent:
    """A handler that attaches nothing but remembers, with ways to make it slow or fail."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.attached: dict[model.Attachment, model.AddResult] = {}
        self.fails: Exception | None = None
        self.entered = asyncio.Event()
        self.proceed = asyncio.Event()
        self.proceed.set()
        self.at_work = 0
        self.at_work_max = 0
        self.finished: list[str] = []
        self.result: model.AddResult | None = None

    async def _work(self, request: Any) -> None:
        self.requests.append(request)
        self.at_work += 1
        self.at_work_max = max(self.at_work_max, self.at_work)
        self.entered.set()
        try:
            await self.proceed.wait()
            if self.fails is not None:
                raise self.fails
            self.finished.append(type(request).__name__)
        finally:
            self.at_work -= 1

    async def add(self, request: model.AddRequest, /) -> model.AddResult:
        await self._work(request)
        made = self.result or pod_result(request)
        return self.attached.setdefault(request.attachment, made)

    async def delete(self, request: model.DelRequest, /) -> None:
        await self._work(request)
        self.attached.pop(request.attachment, None)

    async def check(self, request: model.CheckRequest, /) -> None:
        await self._work(request)
        if self.attached.get(request.attachment) != request.previous:
            raise CniError(100, "the attachment is not as it was made")

    async def status(self, request: model.StatusRequest, /) -> None:
        await self._work(request)

    async def gc(self, request: model.GcRequest, /) -> None:
        await self._work(request)
        for attachment in set(self.attached) - request.valid:
            del self.attached[attachment]


def pod_result(request: model.AddRequest) -> model.AddResult:
    """The result that the real agent gives, in shape."""
    return model.AddResult(
        interfaces=(
            model.CniInterface(name=request.ifname, mac="02:fe:00:00:00:01", sandbox=request.netns),
            model.CniInterface(name="tap-0a1b2c3d"),
        ),
        ips=(
            model.CniAddress(address=Network.parse("10.1.1.2/32"), gateway=Address.parse("10.1.1.1"), interface=0),
            model.CniAddress(address=Network.parse("fd00::2/128"), interface=0),
        ),
        routes=(model.CniRoute(dst=Network.parse("0.0.0.0/0"), gw=Address.parse("10.1.1.1")),),
        dns=model.Dns(nameservers=("10.96.0.10",), search=("svc.cluster.local",), options=("ndots:5",)),
    )


@pytest.fixture(scope="session")
def plugin() -> Path:
    """The release build."""
    subprocess.run(["make", "-s", "-C", ROOT / "cni"], check=True, timeout=120)
    return ROOT / "cni" / "contiv-cni"


@pytest.fixture(scope="session")
def sanitized_plugin() -> Path:
    """The build with AddressSanitizer and UndefinedBehaviorSanitizer."""
    subprocess.run(["make", "-s", "-C", ROOT / "cni", "sanitized"], check=True, timeout=120)
    return ROOT / "cni" / "build" / "contiv-cni-sanitized"


@pytest.fixture
def runtime(plugin: Path, tmp_path: Path) -> Runtime:
    return Runtime(plugin, tmp_path / "cni.sock")


@pytest.fixture
def sanitized(sanitized_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(sanitized_plugin, tmp_path_factory.mktemp("cni") / "cni.sock")


@pytest.fixture
async def agent() -> Agent:
    return Agent()


@pytest.fixture
async def records() -> list[server.CallRecord]:
    return []


@pytest.fixture
async def cni_server(
    agent: Agent, runtime: Runtime, records: list[server.CallRecord]
) -> AsyncIterator[server.CniServer]:
    limits = server.Limits(stop_grace_s=0.1)
    serving = server.serve(
        agent, socket=runtime.socket, limits=limits, check_netns=lambda _path: None, observe=records.append
    )
    async with serving as running:
        yield running


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def peer(runtime: Runtime) -> Any:
    """Start a peer in the agent's place: ``async with peer(callback)``."""

    @asynccontextmanager
    async def listen(callback: Peer, socket: Path = runtime.socket) -> AsyncIterator[None]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await callback(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                return  # the plugin hung up first
            finally:
                writer.close()

        listening = await asyncio.start_unix_server(serve, socket)
        try:
            yield
        finally:
            listening.close()
            socket.unlink(missing_ok=True)

    return listen


@pytest.fixture
def netns() -> Iterator[str]:
    """A fresh network namespace's path; needs root."""
    name = f"contiv-cni-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "del", name], check=True)
