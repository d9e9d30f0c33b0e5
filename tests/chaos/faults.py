"""What goes wrong: processes killed and frozen, wires cut, etcd emptied; each fault at random, each counted.

In: a ``World``. Out: ``Monkey``, whose ``strike`` does one fault and is done with it when the victim is back or will be
brought back by those whose job that is (``contiv init`` restarts agents and data planes; etcd and KSR, whose supervisor
in a real cluster is Kubernetes, are started again here).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from contiv.linux import links, netns
from contiv.linux.netlink import Conversation
from tests.e2e.world import World, children

FROZEN_S: Final = (0.1, 3.0)
CUT_S: Final = (0.1, 3.0)
ETCD_DOWN_S: Final = (0.1, 6.0)
KSR_DOWN_S: Final = (0.0, 3.0)


class Monkey:
    """Strikes at the cluster; ``struck`` counts what it did."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.struck: Counter[str] = Counter()
        self._world = world
        self._dice = dice
        self._faults: tuple[tuple[str, int, Callable[[], Awaitable[None]]], ...] = (
            ("agent killed", 6, self._kill_agent),
            ("agent frozen", 4, self._freeze_agent),
            ("data plane killed", 3, self._kill_dataplane),
            ("data plane frozen", 3, self._freeze_dataplane),
            ("KSR killed", 2, self._kill_ksr),
            ("KSR frozen", 2, self._freeze_ksr),
            ("etcd killed", 2, self._kill_etcd),
            ("etcd frozen", 2, self._freeze_etcd),
            ("etcd emptied", 1, self._empty_etcd),
            ("API server frozen", 2, self._freeze_api),
            ("node cut off", 3, self._cut),
        )

    async def strike(self) -> str:
        """One fault, drawn by weight; its name."""
        names, weights, strikes = zip(*self._faults, strict=True)
        (chosen,) = self._dice.choices(range(len(names)), weights)
        self.struck[names[chosen]] += 1
        await strikes[chosen]()
        return str(names[chosen])

    def _node(self) -> int:
        return self._dice.randint(1, len(self._world.cluster.nodes))

    # ---- processes -----------------------------------------------------------------------------------------

    async def _kill_agent(self) -> None:
        number = self._node()
        if self._world.has_agent(number):
            _signal(self._world.agent_pid(number), signal.SIGKILL)

    async def _freeze_agent(self) -> None:
        number = self._node()
        if self._world.has_agent(number):
            await self._freeze(self._world.agent_pid(number))

    async def _kill_dataplane(self) -> None:
        number = self._node()
        if self._world.has_dataplane(number):
            _signal(self._world.dataplane_pid(number), signal.SIGKILL)

    async def _freeze_dataplane(self) -> None:
        number = self._node()
        if self._world.has_dataplane(number):
            await self._freeze(self._world.dataplane_pid(number))

    async def _kill_ksr(self) -> None:
        await self._world.stop_ksr()
        await asyncio.sleep(self._dice.uniform(*KSR_DOWN_S))
        await self._world.start_ksr()

    async def _freeze_ksr(self) -> None:
        await self._freeze(_child(" ksr "))

    async def _freeze_api(self) -> None:
        await self._freeze(_child("contiv.emulator.kube"))

    async def _kill_etcd(self) -> None:
        server = self._world.cluster.etcd_server
        await server.kill()
        await asyncio.sleep(self._dice.uniform(*ETCD_DOWN_S))
        await server.start()

    async def _freeze_etcd(self) -> None:
        await self._freeze(self._world.etcd_pid())

    async def _empty_etcd(self) -> None:
        await self._world.cluster.etcd_server.wipe()

    async def _freeze(self, pid: int) -> None:
        _signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self._dice.uniform(*FROZEN_S))
        finally:
            _signal(pid, signal.SIGCONT)

    # ---- wires ---------------------------------------------------------------------------------------------

    async def _cut(self) -> None:
        """The node's cable is pulled out at the switch, and plugged in again."""
        port = f"port{self._node()}"
        switch = netns.path_of(self._world.cluster.rundir.namespace("wire"))
        workers = self._world.cluster.workers
        await workers.inside(switch, lambda: _plug(port, plugged=False))
        try:
            await asyncio.sleep(self._dice.uniform(*CUT_S))
        finally:
            await workers.inside(switch, lambda: _plug(port, plugged=True))


def _child(word: str) -> int:
    """The process of this one's children whose command line has ``word``."""
    return next(pid for pid, command in children(os.getpid()).items() if word in command)


def _signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to one that may have gone meanwhile."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _plug(port: str, *, plugged: bool) -> None:
    with Conversation() as conversation:
        link = links.find(conversation, port)
        assert link is not None, f"{port} is not in the switch"
        conversation.run([links.set_up(link.index, plugged, name=port)])
