"""Mutated tables and odd values through the Python face of the access lists; run under the sanitizers by ``make fuzz``
and ``make sanitize``. FUZZ_SECONDS says how long (default: half a second)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from contiv._fastpath.acl import (
    PACKET_DTYPE,
    RULE_SIZE,
    Allowed,
    Peers,
    Ports,
    Table,
    deny,
    evaluate_lists_many,
    permit,
)
from contiv.model.ip import Address, Network
from tests.fastpath import acl_oracle as oracle
from tests.fastpath.test_fuzz import mutate, rounds

ODD: list[Any] = [None, -1, 2**130, 1.5, "x", "10.0.0.0/33", b"\0" * 20, [], {}, object(), Address(4, 2**33), (6, 1, 2)]


def table(rng: random.Random) -> Table:
    """A table of a few lines."""
    networks = [
        Network(version, rng.getrandbits(bits), rng.randint(bits - 12, bits)).network
        for version, bits in ((4, 32), (6, 128))
        for _ in range(rng.randint(0, 6))
    ]
    ports = [(rng.randint(1, 255), first, rng.randint(first, 65535)) for first in (0, 80, 443)]
    allowed = Allowed.of([(Peers.of(networks), Ports.of(ports)), (Peers.of(networks[::2]), Ports.ANY)])
    return Table.build([permit(allowed, side=rng.choice(("source", "destination"))), deny()])


def test_mutated_tables_are_matched_or_refused() -> None:
    for rng in rounds():
        data = mutate(table(rng).wire, rng)
        packets = np.frombuffer(rng.randbytes(4 * PACKET_DTYPE.itemsize), PACKET_DTYPE).copy()
        packets["version"] = [rng.choice((4, 6)) for _ in range(4)]
        try:
            made = Table.from_wire(data)
        except ValueError:
            made = Table.EMPTY
        assert len(made) * RULE_SIZE in (0, len(data))
        assert Table.from_rules(made.rules()).name == made.name
        actions, tables, lines = evaluate_lists_many([made, table(rng)], packets)
        assert ((lines >= 0) == (tables >= 0)).all()
        assert ((actions == 0) | (lines >= 0)).all()


def test_odd_values_are_refused_and_change_nothing() -> None:
    kept = Peers.of(["10.0.0.0/8", "fd00::/8"])
    allowed = Allowed.of([(kept, Ports.of([6]))])
    before = Table.build([permit(allowed)]).name
    for rng in rounds():
        odd = rng.choice(ODD)
        calls = [
            lambda odd=odd: Peers.of([kept, "10.0.0.1", odd]),
            lambda odd=odd: kept.with_([odd]),
            lambda odd=odd: kept.union(odd),
            lambda odd=odd: Ports.of([6, (odd, 1, 2)]),
            lambda odd=odd: Ports.of([(17, 1, odd)]),
            lambda odd=odd: Allowed.of([(kept, Ports.ANY), odd]),
            lambda odd=odd: allowed.union(odd),
            lambda odd=odd: allowed.toward(odd),
            lambda odd=odd: Table.build([permit(), odd]),
            lambda odd=odd: Table.from_wire(odd),
            lambda odd=odd: Table.EMPTY.evaluate("10.0.0.1", odd, 6),
            lambda odd=odd: Table.EMPTY.evaluate("10.0.0.1", "10.0.0.2", 6, odd),
        ]
        refused = 0
        for call in rng.sample(calls, 4):
            try:
                call()
            except (ValueError, TypeError):
                refused += 1
        assert refused == 4, odd
        assert Table.build([permit(allowed)]).name == before
        assert oracle.name(Table.build([permit(allowed)]).wire) == before
