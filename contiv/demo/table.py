"""What the demo shows: steps while it works, then the pods and the table of paths. Pure layout.

In: outcomes and arrivals. Out: rich renderables; ``verdict`` says whether every path works.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec
from rich.table import Table
from rich.text import Text

from contiv.demo.paths import KINDS, WORLD_KINDS, Outcome


class Arrival(msgspec.Struct, frozen=True):
    """A pod's way into the network; ``reply_s`` counts from its creation to its first reply, None when none
    came.
    """

    pod: str
    node: str
    address: str
    reply_s: float | None


def verdict(outcomes: Sequence[Outcome], arrivals: Sequence[Arrival]) -> bool:
    """Whether every path works, every kind of path was there to be checked, and every pod replied."""
    nodes = {outcome.path.source.node for outcome in outcomes} - {""}
    expected = {kind for kind in KINDS if len(nodes) > 1 or "across" not in kind}
    checked = {outcome.path.kind for outcome in outcomes}
    return (
        expected <= checked
        and all(outcome.works for outcome in outcomes)
        and all(arrival.reply_s is not None for arrival in arrivals)
    )


def paths_table(outcomes: Sequence[Outcome]) -> Table:
    """One row a kind of path."""
    table = Table(title="Paths", title_justify="left", header_style="bold")
    table.add_column("path", no_wrap=True)
    table.add_column("works", justify="right")
    table.add_column("ping, median", justify="right")
    table.add_column("ping, slowest", justify="right")
    table.add_column("TCP", justify="right")
    for kind in (*KINDS, *WORLD_KINDS):
        of_kind = [outcome for outcome in outcomes if outcome.path.kind == kind]
        if not of_kind:
            continue
        good = sum(outcome.works for outcome in of_kind)
        times = [time for outcome in of_kind for time in outcome.pings.times_s]
        rates = [outcome.tcp for outcome in of_kind if outcome.tcp is not None]
        table.add_row(
            kind,
            Text(f"{good}/{len(of_kind)}", style="green" if good == len(of_kind) else "bold red"),
            milliseconds(statistics.median(times) if times else None),
            milliseconds(max(times, default=None)),
            rate(statistics.median(rates) if rates else None),
        )
    return table


def pods_table(arrivals: Sequence[Arrival]) -> Table:
    """One row a pod."""
    table = Table(title="Pods", title_justify="left", header_style="bold")
    table.add_column("pod")
    table.add_column("node")
    table.add_column("address")
    table.add_column("created → first reply", justify="right")
    for arrival in arrivals:
        shown = milliseconds(arrival.reply_s)
        table.add_row(arrival.pod, arrival.node, arrival.address, shown)
    return table


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """One line for every path that does not work."""
    return [
        f"{outcome.path}: {outcome.problem or f'{outcome.pings.lost} of {outcome.pings.sent} pings lost'}"
        for outcome in outcomes
        if not outcome.works
    ]


def milliseconds(seconds: float | None) -> Text:
    """Three digits that matter."""
    if seconds is None or math.isnan(seconds):
        return Text("none", style="bold red")
    value = seconds * 1000
    return Text(f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms")


def rate(bits: float | None) -> Text:
    """Bits per second with a unit that fits."""
    if bits is None:
        return Text("none", style="bold red")
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= size:
            return Text(f"{bits / size:.2f} {unit}" if bits < 10 * size else f"{bits / size:.0f} {unit}")
    return Text(f"{bits / 1e3:.0f} kbit/s", style="yellow")
