"""``python -m tests.vm``: build the machine, boot it under emulation, talk to it, and judge what it says.

Needs qemu-system-x86_64, busybox-static, cpio, e2fsprogs and VPP; no KVM: the processor is emulated, AVX2 included,
and slow. Takes some minutes. Prints what the machine says and, at the end, each expectation with what was seen; exit
code 1 when one is not met.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

from contiv.vpp.lifecycle import find_vpp
from tests.vm import guest, halfway, image

RUN_TIMEOUT_S: Final = 3600.0
"""From power-on to power-off, on however busy a machine."""
LINE_TIMEOUT_S: Final = 120.0
"""For a line to come back while the NIC changes hands: TCP waits ever longer before it tries again."""
RETRY_S: Final = 0.5
SMP: Final = "2"
MEMORY_MB: Final = "3072"
_BACK: Final = r"left with \S+ \S+; answers after [1-5]?\d\.\d s, as it was"
"""Within the grace time of 60 s."""
EXPECTED: Final = {
    "driver-before": r"\S+ virtio-pci",
    **{f"killed-taking-{write}": _BACK for write in halfway.WRITES},
    **{f"killed-giving-back-{write}": _BACK for write in halfway.WRITES},
    "driver-stolen": r"\S+ uio_pci_generic",
    "vpp-interfaces": r".*virtio-[^=]*=contiv:uplink.*",
    "pod-to-pod": "works",
    "host-to-pod": "works",
    "pod-to-outside": "works",
    "host-to-outside": "works",
    "pod-link": "tun",
    "vhost-threads": r"[3-9]",  # the host's interconnect and two pods
    "session-through-the-theft": "goes on",
    "node-port": "answers",
    "session-through-vpps-death": "goes on",
    "driver-after-vpps-death": r"\S+ uio_pci_generic",
    "release-exit-code": "0",
    "driver-after": r"\S+ virtio-pci",
    "addresses-equal": "True",
    "routes-equal": "True",
    "rules-equal": "True",
    "kernel-to-outside": "works",
    "session-through-the-release": "goes on",
    "done": "yes",
}


class Outside:
    """The host as the machine's neighbour: a session that stays open, and a client of the NodePort."""

    def __init__(self, echo: int, node_port: int) -> None:
        self._echo = echo
        self._node_port = node_port
        self._session: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.facts: dict[str, str] = {}

    async def open_session(self) -> None:
        """Connect to the node's own echo service and exchange a line."""
        self._session = await asyncio.open_connection("127.0.0.1", self._echo)
        await self._exchange()
        await self._tell(guest.OPENED)

    async def _tell(self, word: str) -> None:
        """Say on the session what the machine waits for."""
        assert self._session is not None
        self._session[1].write(f"{word}\n".encode())
        await self._session[1].drain()

    async def _exchange(self) -> float:
        """Seconds until a line comes back on the session."""
        assert self._session is not None
        reader, writer = self._session
        started = time.monotonic()
        line = f"{started}\n".encode()
        async with asyncio.timeout(LINE_TIMEOUT_S):
            writer.write(line)
            await writer.drain()
            while await reader.readline() != line:
                pass
        return time.monotonic() - started

    async def check_session(self, name: str) -> None:
        """Whether the session that was opened before the theft goes on."""
        try:
            took_s = await self._exchange()
        except (OSError, TimeoutError) as error:
            self.facts[name] = f"broken: {error!r}"
        else:
            self.facts[name] = "goes on"
            say(f"{name}: a line took {took_s:.2f} s")

    async def after_the_theft(self) -> None:
        """Session and NodePort; then the machine may go on."""
        await self.check_session("session-through-the-theft")
        await self.check_node_port()
        await self._tell(guest.CHECKED)

    async def after_vpps_death(self) -> None:
        """The session goes on by another VPP."""
        await self.check_session("session-through-vpps-death")
        await self._tell(guest.CHECKED)

    async def after_the_release(self) -> None:
        """The session once more; then the machine may end."""
        await self.check_session("session-through-the-release")
        await self._tell(guest.CHECKED)

    async def check_node_port(self) -> None:
        """Connect to the NodePort and hear the pod's name; it is refused until the service has its endpoint."""
        deadline = time.monotonic() + LINE_TIMEOUT_S
        seen = "never tried"
        while seen != "answers" and time.monotonic() < deadline:
            seen = await self._ask_node_port()
            await asyncio.sleep(RETRY_S)
        self.facts["node-port"] = seen

    async def _ask_node_port(self) -> str:
        try:
            async with asyncio.timeout(LINE_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._node_port)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                answer = await reader.read(100)
                writer.close()
        except (OSError, TimeoutError) as error:
            return f"fails: {error!r}"
        return "answers" if answer else "closed without an answer"


async def boot(machine: image.Machine, outside: Outside, *, echo: int, node_port: int) -> dict[str, str]:
    """Run the machine to its end; the facts that it and the outside found."""
    forward = f"hostfwd=tcp:127.0.0.1:{echo}-:{guest.ECHO_PORT},hostfwd=tcp:127.0.0.1:{node_port}-:{guest.NODE_PORT}"
    qemu = await asyncio.create_subprocess_exec(
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", SMP, "-m", MEMORY_MB, "-nographic", "-no-reboot"),
        *("-monitor", "none", "-kernel", str(machine.kernel), "-initrd", str(machine.initrd)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 hugepages=320"),
        *("-drive", f"file={machine.disk},format=raw,if=virtio"),
        *("-netdev", f"user,id=n0,ipv6=off,{forward}", "-device", "virtio-net-pci,netdev=n0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert qemu.stdout is not None
    facts: dict[str, str] = {}
    checks: list[asyncio.Task[None]] = []
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            async for raw in qemu.stdout:
                line = raw.decode(errors="replace").strip()
                if not line:
                    continue
                say(line)
                found = re.fullmatch(r".*?fact (\S+) (.*)", line)
                if found:
                    facts[found[1]] = found[2]
                    if (work := reaction(found[1], outside)) is not None:
                        checks.append(asyncio.create_task(work()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            qemu.kill()
        await qemu.wait()
        for check in checks:
            check.cancel()
        for result in await asyncio.gather(*checks, return_exceptions=True):
            if isinstance(result, Exception):
                say(f"the outside failed: {result!r}")
    return facts | outside.facts


def reaction(name: str, outside: Outside) -> Callable[[], Coroutine[None, None, None]] | None:
    """What the outside does when the machine has said something."""
    return {
        "ready-to-steal": outside.open_session,
        "ready-for-the-outside": outside.after_the_theft,
        "vpp-killed": outside.after_vpps_death,
        "kernel-to-outside": outside.after_the_release,
    }.get(name)


def say(text: str) -> None:
    """One line for who watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def main() -> None:
    """Build, boot, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--directory", type=Path, default=None, help="keep the machine's files here")
    asked = parser.parse_args()
    vpp = find_vpp()
    if shutil.which("qemu-system-x86_64") is None or vpp is None:
        sys.exit("qemu-system-x86_64 and VPP must be installed")
    place = asked.directory or Path(tempfile.mkdtemp(prefix="contiv-vm-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        say("building the machine")
        machine = image.build(place, vpp=vpp)
        ports = free_port(), free_port()
        say("booting it")
        facts = asyncio.run(boot(machine, Outside(*ports), echo=ports[0], node_port=ports[1]))
    finally:
        if asked.directory is None:
            shutil.rmtree(place)
    met = True
    for name, pattern in EXPECTED.items():
        seen = facts.get(name, "nothing was said")
        good = re.fullmatch(pattern, seen) is not None
        met = met and good
        print(f"{'ok' if good else 'NOT MET':8} {name}: {seen}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
