"""A node with one NIC in a namespace of its own, and its neighbour on the wire. What the node has is what an operator
sees: the words of ``ip addr``, ``ip route``, ``ip rule``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from contiv.linux import netns

_numbers = count()

NIC = "nic0"
NODE = "192.0.2.7"
NEIGHBOUR = "192.0.2.1"


def run(namespace: str, *argv: str, check: bool = True) -> str:
    """The output of a command inside a namespace."""
    done = subprocess.run(netns.command_in(namespace, list(argv), die_with_parent=True), capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
    return done.stdout


class Node:
    """The node's namespace ``path`` and the neighbour's ``outside``."""

    def __init__(self, path: str, outside: str) -> None:
        self.path = path
        self.outside = outside

    def ip(self, *argv: str) -> str:
        """``ip`` on the node."""
        return run(self.path, "ip", *argv)

    def state(self) -> dict[str, Any]:
        """All that must be equal before and after; ages, which pass, left out."""
        links = json.loads(self.ip("-j", "-d", "addr", "show"))
        for link in links:
            for address in link.get("addr_info", []):
                address.pop("valid_life_time", None)
                address.pop("preferred_life_time", None)
        return {
            "addresses": links,
            "routes": _lines(self.ip("route", "show", "table", "all")),
            "routes6": _lines(self.ip("-6", "route", "show", "table", "all")),
            "rules": self.ip("rule"),
            "rules6": self.ip("-6", "rule"),
            "neighbours": self.ip("neigh", "show", "nud", "permanent"),
        }

    def answers(self, address: str = NODE) -> bool:
        """Whether the neighbour gets a ping back."""
        done = subprocess.run(
            netns.command_in(self.outside, ["ping", "-c1", "-W1", address], die_with_parent=True), capture_output=True
        )
        return done.returncode == 0


def _lines(text: str) -> list[str]:
    return sorted(re.sub(r" (expires|age) \d+sec", "", line).strip() for line in text.splitlines())


@pytest.fixture
def node() -> Iterator[Node]:
    """A NIC with several addresses, a label, IPv6, static routes in two tables, multipath, policy rules."""
    if shutil.which("ip") is None or shutil.which("ping") is None:
        pytest.skip("needs iproute2 and ping")
    names = [f"contiv-stn-{os.getpid()}-{next(_numbers)}" for _ in range(2)]
    here, outside = (netns.create(name) for name in names)
    # without duplicate detection, which would keep each address tentative for more than a second
    run(here, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
    run(here, "ip", "link", "add", "name", NIC, "type", "veth", "peer", "name", "far", "netns", names[1])
    for text in (
        "addr add 192.0.2.1/24 dev far", "addr add 2001:db8::1/64 dev far nodad", "link set far up", "link set lo up",
    ):  # fmt: skip
        run(outside, "ip", *text.split())
    made = Node(here, outside)
    for text in (
        "link set lo up",
        f"link set {NIC} up",
        f"addr add 192.0.2.7/24 brd + dev {NIC}",
        f"addr add 192.0.2.9/24 dev {NIC} label {NIC}:web",
        f"addr add 198.51.100.7/28 dev {NIC} metric 77",
        f"addr add 203.0.113.5/32 dev {NIC} scope link",
        f"addr add 10.9.9.9 peer 10.9.9.1 dev {NIC}",
        f"addr add 2001:db8::7/64 dev {NIC} nodad",
        f"addr add 2001:db8::8/64 dev {NIC} nodad",
        f"route add default via 192.0.2.1 dev {NIC} metric 100",
        f"route add default via 192.0.2.2 dev {NIC} metric 200",
        f"route add 10.50.0.0/16 via 192.0.2.1 dev {NIC} src 192.0.2.9 mtu 1400",
        f"route add 10.51.0.0/16 nexthop via 192.0.2.1 dev {NIC} weight 2 nexthop via 192.0.2.2 dev {NIC}",
        f"route add 10.52.0.0/16 via 10.50.0.1 dev {NIC} onlink",
        f"route add 198.18.0.1 dev {NIC} scope link",
        f"route add default via 192.0.2.1 dev {NIC} table 100",
        f"route add 192.0.2.0/24 dev {NIC} table 100 scope link",
        "rule add from 192.0.2.9 lookup 100 pref 1000",
        f"rule add iif {NIC} lookup 100 pref 1001",
        f"-6 route add default via 2001:db8::1 dev {NIC} metric 300",
        f"-6 route add 2001:db8:5::/48 via 2001:db8::1 dev {NIC} table 100",
        "-6 rule add from 2001:db8::8 lookup 100 pref 1000",
        f"neigh add 192.0.2.20 lladdr 02:00:00:00:00:20 nud permanent dev {NIC}",
    ):
        made.ip(*text.split())
    yield made
    for name in names:
        netns.delete(name)


def program(namespace: str, journal: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``tests/stn/steps.py`` inside the namespace: one call on a ``Theft``, killed where the words say so."""
    script = str(Path(__file__).with_name("steps.py"))
    argv = [sys.executable, script, str(journal), *words]
    return subprocess.run(
        netns.command_in(namespace, argv, die_with_parent=True), capture_output=True, text=True, timeout=30
    )
