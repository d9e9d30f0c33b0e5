"""The machine's one NIC and what the kernel has of it; how to wait, and how to tell the host."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any, Final

NIC: Final = "eth0"
ADDRESS, SECOND, GATEWAY = "10.0.2.15", "10.0.2.77", "10.0.2.2"
"""What qemu's user network gives its guest (-netdev user), and one more."""
VPP_DRIVER: Final = "uio_pci_generic"
WAIT_S: Final = 480.0
"""An emulated processor is slow."""


def fact(name: str, value: object) -> None:
    """Tell the host."""
    print(f"fact {name} {value}", flush=True)


def shell(*command: str) -> str:
    """The output of a command."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernel_state() -> dict[str, str]:
    """What the kernel knows of addresses, routes and rules."""
    state = {name: shell("ip", *words) for name, words in (
        ("addresses", ("-o", "addr", "show", "dev", NIC)), ("routes", ("route", "show", "table", "all")),
        ("rules", ("rule", "show")),
    )}  # fmt: skip
    # an interface's index and the lifetimes count on
    state["addresses"] = "\n".join(
        sorted(line.split(": ", 1)[1].split("\\")[0] for line in state["addresses"].splitlines())
    )
    state["routes"] = "\n".join(sorted(line for line in state["routes"].splitlines() if NIC in line))
    return state


def driver() -> str:
    """Who drives the NIC on the PCI bus."""
    for device in Path("/sys/bus/pci/devices").iterdir():
        if (device / "class").read_text().startswith("0x0200"):
            bound = device / "driver"
            return f"{device.name} {bound.resolve().name if bound.exists() else 'nobody'}"
    return "no network device"


async def addresses_stand() -> bool:
    """Whether the kernel has looked for duplicates of its addresses."""
    return "tentative" not in shell("ip", "addr", "show", "dev", NIC)


async def eventually(check: Any, what: str) -> Any:
    """The first true answer of ``check``."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            if answer := await check():
                return answer
        except (OSError, AssertionError):
            pass
        await asyncio.sleep(0.2)
    raise AssertionError(f"not within {WAIT_S:g} s: {what}")
