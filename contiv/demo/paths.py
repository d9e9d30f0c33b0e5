"""Which paths the table checks, and what came of them.

In: endpoints, pods and hosts with their node, namespace and address. Out: an ``Outcome`` for every path.
Every kind is checked on every pair of nodes, every pair of pods up to ``PODS_PER_NODE`` a node; TCP is
measured on a few paths of each kind, one after the other, so that they do not share the machine.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from contiv.demo import probe
from contiv.demo.probe import Pings
from contiv.errors import DemoError
from contiv.linux.netns import Workers

PINGS: Final = 5
PODS_PER_NODE: Final = 3
MEASURED_PER_KIND: Final = 2
MEASURE_S: Final = 0.6
TCP_FLOOR: Final = 1e6
"""Bits per second. Less is no slow path but a broken one: large segments that do not get through, so that only what is
sent again in small pieces arrives (250 kbit/s were seen with segmentation offload over VXLAN)."""
RESOLVE_S: Final = 2.0
"""For nodes and the host outside to know each other's link addresses; all others are static."""
AT_ONCE: Final = 2
"""Pings that run at a time: enough to be quick, few enough not to measure each other."""

KINDS: Final = (
    "pod → pod, same node",
    "pod → pod, across nodes",
    "host → pod, same node",
    "host → pod, across nodes",
    "pod → host, same node",
    "pod → host, across nodes",
)
"""What every cluster has."""
WORLD_KINDS: Final = (
    "outside → pod",
    "pod → outside",
    "outside → nic",
    "nic → outside",
    "nic → nic, across nodes",
)
"""What a cluster with a host outside has; "nic" is a host by the address that it shares with VPP."""


class Endpoint(msgspec.Struct, frozen=True):
    """A pod, a node's host stack, the same by its NIC's own address, or a host outside of the cluster."""

    kind: Literal["pod", "host", "nic", "outside"]
    name: str
    node: str
    netns: str
    address: str


class Path(msgspec.Struct, frozen=True):
    """From ``source`` to ``target``."""

    source: Endpoint
    target: Endpoint

    @property
    def kind(self) -> str:
        """Its row of the table."""
        if "outside" in (self.source.kind, self.target.kind):
            return f"{self.source.kind} → {self.target.kind}"
        where = "same node" if self.source.node == self.target.node else "across nodes"
        return f"{self.source.kind} → {self.target.kind}, {where}"

    def __str__(self) -> str:
        ends = (f"{end.name} ({end.address} on {end.node})" for end in (self.source, self.target))
        return " → ".join(ends)


class Outcome(msgspec.Struct, frozen=True):
    """Pings, and where it was measured TCP in bits per second; ``problem`` says why that failed."""

    path: Path
    pings: Pings
    tcp: float | None = None
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether every ping came back and TCP, where tried, carried data."""
        return self.pings.lost == 0 and not self.problem


def between(endpoints: Sequence[Endpoint]) -> list[Path]:
    """Every path between two endpoints that the table knows, at most ``PODS_PER_NODE`` pods a node taking
    part.
    """
    chosen: list[Endpoint] = []
    for endpoint in endpoints:
        same = sum(1 for other in chosen if (other.kind, other.node) == (endpoint.kind, endpoint.node))
        if endpoint.kind != "pod" or same < PODS_PER_NODE:
            chosen.append(endpoint)
    paths = [Path(source, target) for source, target in itertools.permutations(chosen, 2)]
    return [path for path in paths if path.kind in (*KINDS, *WORLD_KINDS)]


def measured(paths: Sequence[Path]) -> list[Path]:
    """The paths on which TCP is measured: of each kind the first of different pairs of nodes."""
    chosen = []
    for kind in (*KINDS, *WORLD_KINDS):
        pairs: set[frozenset[str]] = set()
        for path in paths:
            pair = frozenset((path.source.node, path.target.node))
            if path.kind == kind and pair not in pairs and len(pairs) < MEASURED_PER_KIND:
                pairs.add(pair)
                chosen.append(path)
    return chosen


async def check(workers: Workers, paths: Sequence[Path], *, advance: Callable[[], None]) -> list[Outcome]:
    """Ping all, then measure some; ``advance`` is called after each step, ``steps(paths)`` times."""
    room = asyncio.Semaphore(AT_ONCE)

    async def pinged(path: Path) -> Outcome:
        async with room:
            if path.source.node != path.target.node:  # VPP drops what makes it ask a neighbour by ARP (ip4-glean)
                await probe.first_reply(workers, path.source.netns, path.target.address, timeout_s=RESOLVE_S)
            pings = await probe.ping(workers, path.source.netns, path.target.address, count=PINGS)
        advance()
        return Outcome(path, pings)

    outcomes = {outcome.path: outcome for outcome in await asyncio.gather(*map(pinged, paths))}
    for path in measured(paths):
        if outcomes[path].pings.times_s:  # where no ping comes back TCP would only take its time to fail
            outcomes[path] = await _with_tcp(outcomes[path])
        advance()
    return list(outcomes.values())


def steps(paths: Sequence[Path]) -> int:
    """How often ``check`` advances."""
    return len(paths) + len(measured(paths))


async def _with_tcp(outcome: Outcome) -> Outcome:
    source, target = outcome.path.source, outcome.path.target
    try:
        rate = await probe.throughput(source.netns, target.netns, target.address, seconds=MEASURE_S)
    except DemoError as error:
        return msgspec.structs.replace(outcome, problem=str(error))
    collapsed = f"TCP collapsed to {rate / 1e3:.0f} kbit/s" if rate < TCP_FLOOR else ""
    return msgspec.structs.replace(outcome, tcp=rate, problem=collapsed)
