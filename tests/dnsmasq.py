"""dnsmasq as a network's DHCP server: its command line, and what it has said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

MIN_LEASE_S = 120
"""dnsmasq gives no shorter ones; clients renew when option 58 says (RFC 2132)."""

RENEW_MIN_S = 3
"""It takes less for a mistake and says half of the lease instead (rfc2131.c)."""


def require() -> None:
    """Skip the test where it is not installed."""
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq is not installed")


def command(
    interface: str, *, folder: Path, first: str, last: str, router: str, lease_s: int = MIN_LEASE_S, renew_s: int
) -> list[str]:
    """Lease the addresses from ``first`` to ``last``, remembered in ``folder``, to be renewed after ``renew_s``."""
    assert renew_s >= RENEW_MIN_S
    return [
        "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", f"--interface={interface}", "--bind-interfaces",
        f"--dhcp-range={first},{last},255.255.255.0,{lease_s}", "--dhcp-authoritative", "--no-ping",
        f"--dhcp-leasefile={leases(folder)}", f"--dhcp-option=3,{router}", "--user=root",
        f"--dhcp-option=51,{lease_s}", f"--dhcp-option=58,{renew_s}",
    ]  # fmt: skip


def leases(folder: Path) -> Path:
    """Where it remembers them."""
    return folder / "dnsmasq.leases"


def granted(log: Path) -> list[str]:
    """The addresses that it has granted, in order: one anew for each renewal."""
    return re.findall(r"DHCPACK\(\S+\) (\S+)", log.read_text() if log.exists() else "")
