"""A demo node whose only NIC is stolen: its STN daemon, what the kernel has of the NIC, and the world's view of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys

from contiv.demo.node import HOST_INTERFACE, Node
from contiv.demo.wire import UPLINK
from contiv.linux import netns
from contiv.stn.client import StnClient
from contiv.stn.errors import StnError
from contiv.stn.model import NicInfo
from tests.e2e.session import Reachable, Session
from tests.e2e.world import WAIT_S, World, eventually

GRACE_S = 8.0
"""A VPP that is started anew and programmed on two busy cores takes half of it."""
GIVE_BACK_S = 3.0
"""From the end of the grace time until the NIC is the kernel's and a connection has succeeded."""
STN_SOCKET = "stn.sock"

NicState = dict[str, list[str]]


def run(node: Node, *argv: str) -> list[str]:
    """The lines that a command prints on the node."""
    command = netns.command_in(node.netns, argv, die_with_parent=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.splitlines()


def nic_state(node: Node) -> NicState:
    """What an operator sees of the NIC and of all ways out, but for the agent's own interconnect; ages left out."""

    def lines(*words: str) -> list[str]:
        found = (re.sub(r" (expires|age) \d+sec", "", line).strip() for line in run(node, "ip", *words))
        return [line for line in found if f"dev {HOST_INTERFACE}" not in line]

    return {
        "addresses": run(node, "ip", "addr", "show", "dev", UPLINK),
        "routes": sorted(lines("route", "show", "table", "all")),
        "routes6": sorted(line for line in lines("-6", "route", "show", "table", "all") if f"dev {UPLINK}" in line),
        "default": lines("route", "show", "default"),
        "rules": lines("rule"),
        "rules6": lines("-6", "rule"),
        "neighbours": lines("neigh", "show", "dev", UPLINK, "nud", "permanent"),
    }


def differences(before: NicState, after: NicState) -> list[str]:
    """Lines that are gone, with a minus, and lines that are new, with a plus."""
    found = []
    for part, lines in before.items():
        found += [f"- {part}: {line}" for line in lines if line not in after[part]]
        found += [f"+ {part}: {line}" for line in after[part] if line not in lines]
    return found


class Stolen:
    """Node 1 and its STN daemon."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.node(1)
        self.client = StnClient(str(self.node.directory / "run" / STN_SOCKET))
        assert world.cluster.outside is not None
        self.outside = world.cluster.outside

    @property
    def address(self) -> str:
        """The node's own, which VPP and the host share."""
        return str(self.node.nic.address)

    async def info(self) -> NicInfo | None:
        """What the daemon says; None while it does not answer."""
        try:
            return await self.client.info("")
        except StnError:
            return None

    async def is_stolen(self) -> bool:
        """Whether VPP has the NIC."""
        found = await self.info()
        return found is not None and found.stolen

    async def confirmed(self, *, timeout_s: float = WAIT_S) -> None:
        """Wait until VPP carries the node: the world reaches it, which would not last otherwise."""

        async def holds() -> bool:
            place = self.node.directory / "state" / "stn"
            record = place.read_bytes() if place.exists() else b""
            return (
                b'"confirmed":{' in record
                and self.world.has_dataplane(1)
                and str(self.world.dataplane_pid(1)).encode() in record
            )

        await eventually(holds, "the vswitch is confirmed", timeout_s=timeout_s)

    async def returned(self, before: NicState, *, timeout_s: float = WAIT_S) -> None:
        """Wait until the kernel has its NIC back, with everything that it had."""

        async def holds() -> bool:
            return not await self.is_stolen() and nic_state(self.node) == before

        try:
            await eventually(holds, "the kernel has its NIC back", timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {differences(before, nic_state(self.node))}") from None

    def session(self, port: int = 7100) -> Session:
        """A TCP connection from the world to the node's own address."""
        return Session(self.outside.netns, self.node.netns, self.address, port=port)

    def reachable(self) -> Reachable:
        """Whether the world reaches the host at the node's own address."""
        return Reachable(self.outside.netns, self.node.netns, self.address)

    def forget_guard(self) -> None:
        """The test ends init itself."""
        for task in self.world.cluster._tasks:
            if task.get_name() == f"guard {self.node.name}":
                task.cancel()

    async def kill_init(self) -> None:
        """SIGKILL for init; its children go with it."""
        self.forget_guard()
        os.kill(self.node.init.pid, signal.SIGKILL)
        await self.node.init.wait()

    async def kill_stn(self) -> None:
        """SIGKILL for the daemon."""
        assert self.node.stn is not None
        os.kill(self.node.stn.pid, signal.SIGKILL)
        await self.node.stn.wait()

    async def start_stn(self) -> None:
        """Another daemon, when none runs."""
        (self.node.directory / "run" / STN_SOCKET).unlink(missing_ok=True)
        await self.node.start_stn()

    async def release(self) -> None:
        """``contiv stn --release``, as an uninstallation runs it."""
        config = self.node.directory / "contiv.yaml"
        argv = [sys.executable, "-m", "contiv.cli.main", "stn", "--release", "--config", str(config)]
        child = await asyncio.create_subprocess_exec(*netns.command_in(self.node.netns, argv, die_with_parent=True))
        assert await child.wait() == 0
