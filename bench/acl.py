"""``contiv.fastpath.acl`` beside the same work in plain Python, in one run.

    python bench/acl.py [--repeat 5] [-o json]

The peer is ``tests/fastpath/acl_oracle.py`` where tables are made (bytes and names are compared first), and Python's
own sets where sets suffice. Each figure is the best of ``--repeat``; no VPP is needed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from contiv.fastpath import acl
from contiv.model.ip import Address
from tests.fastpath import acl_oracle as oracle

RULES = 5_000
PEERS = 10_000
SETS = 20
PODS = 2_000
POLICIES = 30
PACKETS = 50
HTTP = (acl.TCP << 16 | 80, acl.TCP << 16 | 80)
EVERYTHING = {4: [(0, 2**32 - 1)], 6: [(0, 2**128 - 1)]}


class Row(NamedTuple):
    """One comparison: milliseconds of each side, how many times quicker ours is, and what is wanted (0: nothing)."""

    what: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    wanted: float


def best(work: Callable[[], object], repeat: int) -> float:
    """Shortest milliseconds of ``work``."""
    shortest = float("inf")
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest * 1e3


def compare(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeat: int, *, wanted: float = 0) -> Row:
    """A row; both sides must have the same result."""
    if ours() != theirs():
        raise SystemExit(f"{what}: the two do not agree")
    mine, other = best(ours, 10 * repeat), best(theirs, repeat)
    return Row(what, mine, other, other / mine, wanted)


def rerendered(repeat: int) -> Row:
    """A table of 5,000 rules, one peer more: from the set of peers to bytes and name."""
    values = [0x0A000000 + 256 * i + i * 7 % 250 for i in range(RULES)]
    peers = acl.Peers.of([Address(4, value) for value in values])
    ports = acl.Ports.of([(acl.TCP, 80, 80)])
    mine, other = count(0xAC100001), count(0xAC100001)

    def ours() -> tuple[bytes, str]:
        allowed = acl.Allowed.of([(peers.with_(Address(4, next(mine))), ports)])
        table = acl.Table.build([acl.permit(allowed), acl.deny()])
        return table.wire, table.name

    def theirs() -> tuple[bytes, str]:
        added = next(other)
        ranges = oracle.merged([(value, value) for value in (*values, added)])
        wire = oracle.render(
            [oracle.OracleBlock(2, [({4: ranges}, [HTTP])]), oracle.OracleBlock(0, [(EVERYTHING, oracle.ALL_KEYS)])]
        )
        return wire, oracle.name(wire)

    return compare(f"a table of {RULES} rules re-rendered with one peer added", ours, theirs, repeat, wanted=200)


def many_policies(repeat: int, rng: random.Random) -> Row:
    """One pod under 30 policies of 60 peers each, ports of their own: the table from the sets."""
    pods = [0x0A010000 + i for i in range(PODS)]
    chosen = [(rng.sample(pods, 60), rng.choice((80, 81, 443, 8080))) for _ in range(POLICIES)]
    boxes = [
        (acl.Peers.of([Address(4, value) for value in values]), acl.Ports.of([(acl.TCP, port, port)]))
        for values, port in chosen
    ]
    plain = [
        ({4: [(value, value) for value in values]}, [(acl.TCP << 16 | port, acl.TCP << 16 | port)])
        for values, port in chosen
    ]

    def ours() -> bytes:
        return acl.Table.build([acl.permit(acl.Allowed.of(boxes)), acl.deny()]).wire

    def theirs() -> bytes:
        return oracle.render([oracle.OracleBlock(2, plain), oracle.OracleBlock(0, [(EVERYTHING, oracle.ALL_KEYS)])])

    return compare(f"a table of {POLICIES} policies, 60 peers each, 4 ports", ours, theirs, repeat)


def sets(repeat: int, rng: random.Random) -> list[Row]:
    """Sets of 10,000 addresses, beside sets of integers."""
    drawn = [{rng.getrandbits(32) for _ in range(PEERS)} for _ in range(SETS)]
    made = [acl.Peers.of([Address(4, value) for value in values]) for values in drawn]
    one, two = made[0], made[1]

    def same(peers: acl.Peers, values: set[int]) -> None:
        if peers != acl.Peers.of([Address(4, value) for value in values]):
            raise SystemExit("the two sets do not agree")

    rows = []
    for what, ours, theirs in (
        (f"union of {SETS} sets of {PEERS} addresses", lambda: acl.Peers.union_of(made), lambda: set().union(*drawn)),
        ("intersection of two of them", lambda: one.intersection(two), lambda: drawn[0] & drawn[1]),
        ("one address added to one of them", lambda: one.with_(Address(4, 7)), lambda: drawn[0] | {7}),
    ):
        same(ours(), theirs())
        mine, other = best(ours, 10 * repeat), best(theirs, 10 * repeat)
        rows.append(Row(what, mine, other, other / mine, 0))
    return rows


def packets(repeat: int, rng: random.Random) -> Row:
    """Packets against a table of 5,000 rules, most of which meet the last."""
    values = sorted(rng.sample(range(1 << 32), RULES))
    table = acl.Table.build([acl.permit(acl.Peers.of([Address(4, value) for value in values])), acl.deny()])
    asked = [*rng.sample(values, 5), *(rng.getrandbits(32) for _ in range(PACKETS - 5))]
    many = acl.packets([Address(4, value) for value in asked], "192.0.2.1", destination_port=80)

    def ours() -> list[int]:
        return [int(line) for line in table.evaluate_many(many)[1]]

    def theirs() -> list[int | None]:
        found = (oracle.decide(table.wire, oracle.Packet(4, value, 0xC0000201, 6, 0, 80)) for value in asked)
        return [line for _, line in found]

    return compare(f"{PACKETS} packets against {RULES} rules", ours, theirs, max(1, repeat // 3))


def rows(repeat: int) -> list[Row]:
    """All comparisons."""
    rng = random.Random(1)
    return [rerendered(repeat), many_policies(repeat, rng), *sets(repeat, rng), packets(repeat, rng)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    found = rows(options.repeat)
    if options.output == "json":
        print(json.dumps([row._asdict() for row in found], indent=2))
        return
    print(f"{'what':58} {'fastpath.acl':>14} {'plain Python':>14} {'ratio':>8} {'wanted':>7}")
    for row in found:
        wanted = f"{row.wanted:.0f}" if row.wanted else ""
        print(f"{row.what:58} {row.ours_ms:11.3f} ms {row.theirs_ms:11.3f} ms {row.ratio:8.1f} {wanted:>7}")


if __name__ == "__main__":
    main()
