"""contiv.network.node_id on a real etcd: IDs are unique, stay with the name, and are given up on condition."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from contiv.errors import ConfigError
from contiv.model import keys
from contiv.model.node import NodeClaim
from contiv.network.node_id import claim_node_id, parse_claims, release_node_id
from contiv.store.client import Etcd


async def claim(etcd: Etcd, name: str, *, id_max: int = 254, uplink: str = "") -> NodeClaim:
    return await claim_node_id(
        etcd,
        name,
        uplink_of=lambda number: uplink or f"192.168.16.{number}/24",
        id_max=id_max,
        limit_key="ipamConfig.vxlanCIDR",
    )


async def test_thirty_nodes_at_once_get_thirty_ids_without_a_gap(etcd: Etcd) -> None:
    claims = await asyncio.gather(*(claim(etcd, f"node{number}") for number in range(30)))
    assert sorted(each.id for each in claims) == list(range(1, 31))
    stored = parse_claims((await etcd.get_prefix(keys.NODE_IDS)).values)
    assert {each.name: each.id for each in stored.values()} == {each.name: each.id for each in claims}


async def test_a_node_that_asks_again_keeps_its_id_and_may_change_its_address(etcd: Etcd) -> None:
    await claim(etcd, "other")
    first = await claim(etcd, "node")
    assert await claim(etcd, "node") == first
    moved = await claim(etcd, "node", uplink="10.9.9.9/24")
    assert (moved.id, moved.uplink) == (first.id, "10.9.9.9/24")
    assert len((await etcd.get_prefix(keys.NODE_IDS)).records) == 2


async def test_a_released_id_is_the_next_one_given(etcd: Etcd) -> None:
    first, _ = await claim(etcd, "a"), await claim(etcd, "b")
    assert await release_node_id(etcd, first)
    assert (await claim(etcd, "c")).id == first.id


async def test_a_claim_that_changed_hands_is_not_released(etcd: Etcd) -> None:
    stale = await claim(etcd, "a")
    await etcd.put(keys.node_id(1), msgspec.json.encode(NodeClaim(id=1, name="b", uplink="192.168.16.1/24")))
    assert not await release_node_id(etcd, stale)
    assert await etcd.get(keys.node_id(1)) is not None


async def test_subnets_that_are_full_are_named(etcd: Etcd) -> None:
    await claim(etcd, "a", id_max=1)
    with pytest.raises(ConfigError, match=r"ipamConfig\.vxlanCIDR"):
        await claim(etcd, "b", id_max=1)


async def test_what_cannot_be_read_is_left_out_but_its_id_is_not_given_away(etcd: Etcd) -> None:
    await etcd.put(keys.node_id(1), b"not json")
    assert (await claim(etcd, "a")).id == 2
