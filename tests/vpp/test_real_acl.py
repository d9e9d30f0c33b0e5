"""Tables on a real VPP: it takes the wire as it stands, gives the rules back, refuses what ``from_wire`` refuses."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from real import RealVpp

import contiv.vpp
from contiv._fastpath.acl import RULE_DTYPE, RULE_SIZE, Allowed, Peers, Ports, Table, deny, permit
from contiv.vpp import VppApiError

pytestmark = [pytest.mark.vpp, pytest.mark.root]
NEW = 0xFFFFFFFF


def table(rng: random.Random) -> Table:
    """A table of both families with every kind of line that is rendered."""
    peers = Peers.of([f"10.{rng.randrange(256)}.{rng.randrange(256)}.0/{rng.randrange(24, 33)}" for _ in range(40)])
    hosts = Peers.of([f"fd00::{rng.randrange(1 << 16):x}" for _ in range(40)])
    ports = Ports.of([(6, 80, 90), 17, 132, (1, 0, 255)])
    return Table.build(
        [permit(Allowed.of([(peers, ports), (hosts, Ports.ANY)]), own="10.0.0.1"), permit(hosts), deny()]
    )


async def held(vpp: Any, index: int) -> Table:
    """What VPP says that it has."""
    (details,) = await vpp.dump("acl", acl_index=index)
    again = vpp.schema.encode("acl_details", acl_index=index, tag=details.tag, r=list(details.r))
    columns = vpp.schema.decode_many("acl_details", [again])
    return Table.from_numpy(np.ascontiguousarray(columns["r"]).view(RULE_DTYPE))


async def test_a_table_goes_to_vpp_and_comes_back(real_vpp: RealVpp) -> None:
    async with contiv.vpp.connect(real_vpp.api) as vpp:
        made = table(random.Random(1))
        assert len(made) > 80
        reply = await vpp.call("acl_add_replace", acl_index=NEW, tag=made.name, r=made.wire)
        assert await held(vpp, reply.acl_index) == made
        other = Table.build([deny()])
        await vpp.call("acl_add_replace", acl_index=reply.acl_index, tag=other.name, r=other.to_numpy())
        assert await held(vpp, reply.acl_index) == other
        await vpp.call("acl_del", acl_index=reply.acl_index)


async def test_vpp_refuses_the_rules_that_are_refused_here(real_vpp: RealVpp) -> None:
    rng = random.Random(2)
    made = table(rng)
    refused = taken = 0
    async with contiv.vpp.connect(real_vpp.api) as vpp:
        for _ in range(400):
            rule = bytearray(made.wire[RULE_SIZE * (line := rng.randrange(len(made))) :][:RULE_SIZE])
            for _ in range(rng.randint(1, 2)):
                # not the action: VPP looks at it when a packet comes
                rule[rng.randrange(1, RULE_SIZE)] = rng.choice((0, 1, 2, 31, 33, 128, 129, 255))
            try:
                ours: Table | None = Table.from_wire(bytes(rule))
            except ValueError:
                ours = None
            try:
                reply: Any = await vpp.call("acl_add_replace", acl_index=NEW, tag="x", r=bytes(rule))
            except VppApiError:
                reply = None
            assert (ours is None) == (reply is None), (line, rule.hex())
            if ours is None or reply is None:
                refused += 1
                continue
            assert await held(vpp, reply.acl_index) == ours
            await vpp.call("acl_del", acl_index=reply.acl_index)
            taken += 1
    assert refused > 50
    assert taken > 50
