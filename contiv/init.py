"""``contiv init``: the first process of a vswitch. Starts the data plane, then the agent; restarts either.

In comes the checked configuration; out go two children in this node's namespace: VPP (or its emulator) with a
generated startup.conf, and ``contiv agent``. The node's resource counts as it is when init starts (``node_config``).
Before VPP starts, the STN daemon is asked whether a NIC that is to be
stolen can be; one that VPP drives itself is stolen then and there, any other by the agent, when it is ready to carry
the node. A data plane that already answers on its socket is attached to: who
started it keeps it running. A child that ends, or does not come up, is started again with backoff; the agent notices a
new VPP by itself. Only the very first start must succeed: a data plane that never ran is a wrong configuration, and
the error with the end of its log is what an operator should see. SIGTERM, at any moment, ends the agent first, so that
its running transaction finishes, then the data plane.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from contiv.config import Config
from contiv.credentials import credentials
from contiv.errors import ContivError, StoreError
from contiv.linux import rcu
from contiv.network import node_config
from contiv.network.render_nic import UPLINK, logical_name
from contiv.processes import Process, ready, start
from contiv.stn.client import StnClient
from contiv.store.client import Etcd
from contiv.store.mirror import LocalMirror, mirror_path
from contiv.vpp.lifecycle import (
    Sockets,
    choose,
    command,
    environment,
    is_virtio,
    require_af_xdp,
    require_pci,
    startup_conf,
)

log = structlog.get_logger(__name__)

MINUTE_S: Final = 60
READY_TIMEOUT_S: Final = 30.0
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 10.0
LAST_LINES: Final = 3
"""Of a child's log, repeated in ours when it ends: the log itself may be gone by then, as in the demo."""
STABLE_S: Final = 30.0
"""A child that lived this long did start well: the next restart is quick again."""
GRACE_S: Final = 15.0
"""From SIGTERM to SIGKILL; both children together stay within kubelet's default of 30 s."""


async def run(config: Config, *, config_path: str | None, node: str) -> None:
    """Run data plane and agent until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    children = await _children(config, config_path=config_path, node=node)
    supervising = asyncio.create_task(_supervise(children))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([supervising, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        supervising.cancel()
        await asyncio.wait([supervising])
        for child in reversed(children):
            await child.stop(GRACE_S)
    if not supervising.cancelled():
        supervising.result()


async def _children(config: Config, *, config_path: str | None, node: str) -> list[_Child]:
    """What is to run, in the order of starting."""
    run_dir = Path(config.run_dir)
    logs = run_dir / "log"
    sockets = Sockets(run_dir=config.vpp.run_dir)
    agent = _Agent(config_path, node, logs / "agent.log", run_dir)
    if await answers(sockets.api):
        log.info("attaching to the data plane that runs", api=sockets.api)
        return [agent]
    started_with = await _under_resource(config, node, vpp_socket=sockets.api)
    return [_Dataplane(started_with, node, sockets, logs / "dataplane.log"), agent]


async def _under_resource(config: Config, node: str, *, vpp_socket: str) -> Config:
    """The configuration with the node's resource over it, as etcd has it now or as it was last in force: what is stolen
    and what DPDK drives is as it says there until the next start. One that the machine refuses does not count."""
    if config.crd_node_configuration_disabled:
        return config
    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(await LocalMirror.open(mirror_path(config.state_dir)))
        etcd = await stack.enter_async_context(
            await Etcd.connect(config.etcd.endpoints, **credentials(config.etcd), wait=False)
        )
        before = await node_config.in_force(mirror, node)
        try:
            wanted = await node_config.fetch(etcd, node, otherwise=before, timeout_s=node_config.PATIENCE_S)
            check_driver(config.under(wanted), node)
            await pci_devices(config.under(wanted), node, vpp_socket=vpp_socket)
        except StoreError as error:
            log.warning("etcd does not tell this node's configuration, the last one counts", error=str(error))
            wanted = before
        except ContivError as error:
            if wanted == before:
                raise
            log.error("node configuration not applied, the last one counts", error=str(error))
            wanted = before
        await node_config.note_start(mirror, node, wanted)
    return config.under(wanted)


async def _supervise(children: list[_Child]) -> None:
    """Start all, then keep each of them running, for ever; raises what the first start of one raises."""
    for child in children:
        await child.start()
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.keep_running())


def check_driver(config: Config, node: str) -> None:
    """ConfigError when the data plane cannot open the node's NICs as it is to."""
    if config.nics(node).by_xdp:
        _, prefix = choose(config.vpp)
        require_af_xdp(prefix)


async def pci_devices(config: Config, node: str, *, vpp_socket: str) -> dict[str, str]:
    """The NICs that DPDK is to drive, PCI addresses by name; a NIC to steal is stolen now if it is one of them, so that
    VPP finds it when it starts. VPP's driver for virtio takes NICs later, when the agent says so.

    ConfigError for an address without a device; StnError when the NIC cannot be stolen or no daemon answers.
    """
    nics = config.nics(node)
    found = {}
    for number, other in enumerate(nics.others, start=1):
        if other.is_pci:
            require_pci(f"nodeConfig.otherVPPInterfaces[{number - 1}].interfaceName", other.interface_name)
            found[logical_name(number)] = other.interface_name
    if nics.steal or (config.steal_first_nic and not nics.main.interface_name):
        client, driver = StnClient(config.stn_socket_file), config.vpp.nic_driver
        nic = await client.info(nics.steal)
        if driver and not is_virtio(nic.pci_address):
            nic = await client.steal(nics.steal, vpp_socket=vpp_socket, vpp_driver=driver)
            found[UPLINK] = nic.pci_address
    elif nics.main.is_pci:
        require_pci("nodeConfig.mainVPPInterface.interfaceName", nics.main.interface_name)
        found[UPLINK] = nics.main.interface_name
    return {name: address for name, address in found.items() if not is_virtio(address)}


async def answers(path: str) -> bool:
    """Whether somebody accepts connections on the Unix socket at ``path``."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        await asyncio.get_running_loop().sock_connect(probe, path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


class _Child:
    """A process that must run: started, watched, started again with backoff."""

    name = ""

    def __init__(self, log_path: Path) -> None:
        self._log = log_path
        self._process: Process | None = None
        self._backoff_s = BACKOFF_FIRST_S
        self._started_at = 0.0

    def argv(self) -> list[str]:
        """The command line."""
        raise TypeError(f"{type(self).__name__} has no command line")

    def environment(self) -> dict[str, str]:
        """What its environment has beside ours."""
        return {}

    async def prepare(self) -> None:
        """What must be there before the process starts."""

    async def wait_ready(self, process: Process) -> None:
        """Return when the process serves."""

    def tidy_up(self) -> None:
        """Put right what a process that was killed may have left."""

    async def start(self) -> None:
        """Start the process and wait until it serves."""
        self._started_at = time.monotonic()
        await self.prepare()
        self._process = await start(self.name, self.argv(), log=self._log, environment=self.environment())
        log.info("started", process=self.name, pid=self._process.pid)
        await self.wait_ready(self._process)

    async def keep_running(self) -> None:
        """Start the process again whenever it ends."""
        while True:
            assert self._process is not None
            code = await self._process.wait()
            self.tidy_up()
            lived_s = time.monotonic() - self._started_at
            self._backoff_s = BACKOFF_FIRST_S if lived_s > STABLE_S else min(self._backoff_s * 2, BACKOFF_MAX_S)
            said = self._process.tail(LAST_LINES)
            log.error("ended", process=self.name, code=code, lived_s=round(lived_s, 1), log=str(self._log), said=said)
            await asyncio.sleep(self._backoff_s)
            try:
                await self.start()
            except (ContivError, OSError) as error:
                log.error("did not start", process=self.name, error=str(error))
                await self._process.stop(grace_s=GRACE_S)  # one that runs and does not serve would be waited for

    async def stop(self, grace_s: float) -> None:
        """End the process."""
        if self._process is not None:
            await self._process.stop(grace_s=grace_s)
            self.tidy_up()


class _Dataplane(_Child):
    name = "dataplane"

    def __init__(self, config: Config, node: str, sockets: Sockets, log_path: Path) -> None:
        super().__init__(log_path)
        self._config = config
        self._node = node
        self._sockets = sockets
        self._kind, self._prefix = choose(config.vpp)

    def argv(self) -> list[str]:
        return command(self._kind, self._prefix, conf=f"{self._sockets.run_dir}/startup.conf")

    def environment(self) -> dict[str, str]:
        return environment(self._kind)

    async def prepare(self) -> None:
        check_driver(self._config, self._node)
        devices = await pci_devices(self._config, self._node, vpp_socket=self._sockets.api)
        run_dir = Path(self._sockets.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        conf = startup_conf(
            self._config.vpp,
            run_dir=str(run_dir),
            devices=devices,
            by_xdp=self._config.nics(self._node).by_xdp,
            tcp_idle_s=self._config.tcp_nat_session_timeout * MINUTE_S,
            other_idle_s=self._config.other_nat_session_timeout * MINUTE_S,
        )
        (run_dir / "startup.conf").write_text(conf)
        for path in (self._sockets.api, self._sockets.cli, self._sockets.stats):
            Path(path).unlink(missing_ok=True)

    async def wait_ready(self, process: Process) -> None:
        async def serving() -> bool:
            return await answers(self._sockets.api)

        await ready(process, serving, timeout_s=READY_TIMEOUT_S, what="API socket")


class _Agent(_Child):
    name = "agent"

    def __init__(self, config_path: str | None, node: str, log_path: Path, run_dir: Path) -> None:
        super().__init__(log_path)
        self._config_path = config_path
        self._node = node
        self._run_dir = run_dir

    def argv(self) -> list[str]:
        config = ["--config", self._config_path] if self._config_path else []
        return [sys.executable, "-m", "contiv.cli.main", "agent", "--node", self._node, *config]

    def tidy_up(self) -> None:
        rcu.settle(self._run_dir)
