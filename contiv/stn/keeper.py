"""When a stolen NIC goes back: as soon as no vswitch has carried the node for the grace time.

A theft is *confirmed* while the VPP that the agent vouched for lives. Without a confirmed VPP a deadline runs: from
the theft, from VPP's end, from the daemon's own start. Nothing but a confirmation moves it, so a vswitch that starts
again and again and never works does not keep the node cut off. A VPP that holds the NIC at the deadline is ended
first, for two stacks with one address serve nobody. For ``HOLD_OFF_S`` afterwards the NIC is not stolen again: the
node is reachable, and somebody may look.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from contiv.errors import ContivError
from contiv.stn import vswitch
from contiv.stn.errors import StnError, StnRefusal
from contiv.stn.model import Confirmation, NicInfo, Phase, Record
from contiv.stn.theft import Theft

log = structlog.get_logger(__name__)

HOLD_OFF_S: Final = 30.0
RETRY_S: Final = 1.0
"""Between attempts to give a NIC back that the kernel refused: they end with success alone, nothing else helps."""


class Keeper:
    """The daemon without its socket. Calls take turns."""

    def __init__(self, theft: Theft, *, grace_s: float, hold_off_s: float = HOLD_OFF_S) -> None:
        self._theft = theft
        self._grace_s = grace_s
        self._hold_off_s = hold_off_s
        self._turn = asyncio.Lock()
        self._guard: asyncio.Task[None] | None = None
        self._confirmation: asyncio.Future[Confirmation] | None = None
        self._given_back_at: float | None = None

    async def start(self) -> None:
        """Undo what was interrupted, take up what stands."""
        record = await asyncio.to_thread(self._theft.record)
        if record is None:
            return
        if record.phase is not Phase.STOLEN:
            log.warning("giving back after an interruption", interface=record.snapshot.name, phase=record.phase)
            await self._insist()
            return
        self._watch(record)

    async def stop(self) -> None:
        """Leave everything as it is: a daemon that is replaced must not cut the vswitch off."""
        await self._unwatch()

    async def info(self, interface: str) -> NicInfo:
        """The NIC as it is, or as it was before it was stolen."""
        async with self._turn:
            return await asyncio.to_thread(self._theft.look, interface)

    async def steal(self, interface: str, *, vpp_socket: str, vpp_driver: str) -> NicInfo:
        """Steal the NIC, the clock running until somebody confirms; StnRefusal soon after a NIC was given back."""
        async with self._turn:
            if self._guard is None and (left_s := self._held_off_s()) > 0:
                raise StnRefusal(
                    f"NIC {interface or '(first)'}: given back moments ago for want of a working vswitch; "
                    f"see the logs of VPP and agent, it can be stolen again in {left_s:.0f} s"
                )
            nic = await asyncio.to_thread(self._theft.take, interface, vpp_socket=vpp_socket, vpp_driver=vpp_driver)
            if self._guard is None:
                record = await asyncio.to_thread(self._theft.record)
                assert record is not None
                self._watch(record)
            return nic

    async def confirm(self) -> NicInfo:
        """The VPP that listens now carries the node. StnError when none does, StnRefusal when nothing is stolen."""
        async with self._turn:
            record = await asyncio.to_thread(self._theft.record)
            if record is None or self._guard is None or self._guard.done():
                raise StnRefusal("no NIC is stolen; steal it first")
            process = await vswitch.behind(record.vpp_socket)
            await asyncio.to_thread(self._theft.confirm, process)
            assert self._confirmation is not None
            if not self._confirmation.done():
                self._confirmation.set_result(process)
                log.info("vswitch confirmed", interface=record.snapshot.name, vpp_pid=process.pid)
            return await asyncio.to_thread(self._theft.look, record.snapshot.name)

    async def release(self) -> None:
        """Give the NIC back now."""
        async with self._turn:
            await self._unwatch()
            await self._give_back("asked for")

    def _held_off_s(self) -> float:
        if self._given_back_at is None:
            return 0.0
        return self._given_back_at + self._hold_off_s - time.monotonic()

    def _watch(self, record: Record) -> None:
        self._confirmation = asyncio.get_running_loop().create_future()
        confirmed = record.confirmed if record.confirmed and vswitch.is_alive(record.confirmed) else None
        if confirmed is not None:
            self._confirmation.set_result(confirmed)
        self._guard = asyncio.create_task(self._watching(), name="stn guard")

    async def _unwatch(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)
            self._guard = None

    async def _watching(self) -> None:
        """Return when the NIC has been given back."""
        loop = asyncio.get_running_loop()
        while True:
            assert self._confirmation is not None
            try:
                async with asyncio.timeout_at(loop.time() + self._grace_s):
                    process = await asyncio.shield(self._confirmation)
            except TimeoutError:
                break
            await vswitch.ended(process)
            self._confirmation = loop.create_future()
            log.warning("vswitch gone", vpp_pid=process.pid, grace_s=self._grace_s)
        async with self._turn:
            if self._confirmation.done():  # at the last moment
                self._guard = asyncio.create_task(self._watching(), name="stn guard")
                return
            await self._give_back(f"no working vswitch for {self._grace_s:g} s")
            self._given_back_at = time.monotonic()
            self._guard = None

    async def _give_back(self, reason: str) -> None:
        record = await asyncio.to_thread(self._theft.record)
        if record is None:
            return
        log.warning("giving the NIC back", interface=record.snapshot.name, reason=reason)
        try:
            await vswitch.kill(await vswitch.behind(record.vpp_socket))
        except StnError as error:
            log.info("no VPP to end", reason=str(error))
        await self._insist()

    async def _insist(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._theft.give_back)
            except (ContivError, OSError) as error:
                log.error("NIC not given back yet", error=str(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                return
