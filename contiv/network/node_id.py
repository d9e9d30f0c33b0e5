"""Node IDs: small positive numbers, each claimed in etcd by one node, so that subnets never overlap.

A claim is a key that is created only where none is (one transaction), with the node's name inside. The ID stays with
the name over restarts. It is given up when the node's object leaves the cluster: whichever agent notices deletes the
claim, on condition that it is still the one it read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from contiv.errors import ConfigError, NetworkError
from contiv.model import keys
from contiv.model.ip import Network
from contiv.model.node import NodeClaim
from contiv.store.client import Etcd
from contiv.store.records import Compare, Delete, Put, Record

log = structlog.get_logger(__name__)

ATTEMPTS_MAX: Final = 50
"""Transactions lost to other nodes before giving up; each loss means that another node won."""

_decoder: Final = msgspec.json.Decoder(NodeClaim)


def parse_claims(values: Mapping[str, bytes]) -> dict[int, NodeClaim]:
    """The claims among ``values``, by ID. One that cannot be read is logged with its key and left out."""
    claims = {}
    for key, value in values.items():
        claim = parse_claim(key, value)
        if claim is not None:
            claims[claim.id] = claim
    return claims


def parse_claim(key: str, value: bytes) -> NodeClaim | None:
    """The claim stored at ``key``; None, with a line in the log, where it is none."""
    try:
        claim = _decoder.decode(value)
    except msgspec.DecodeError as error:
        log.error("unreadable node ID claim", key=key, error=str(error))
        return None
    if keys.node_id(claim.id) != key:
        log.error("node ID claim under another ID's key", key=key, id=claim.id)
        return None
    if claim.uplink and not _is_ipv4(claim.uplink):
        log.error("node ID claim without a usable address", key=key, uplink=claim.uplink)
        return None
    return claim


def _is_ipv4(uplink: str) -> bool:
    try:
        return Network.parse(uplink, strict=False).version == 4
    except ValueError:
        return False


async def claim_node_id(
    etcd: Etcd, name: str, *, uplink_of: Callable[[int], str], id_max: int, limit_key: str, preferred: int = 0
) -> NodeClaim:
    """The node's claim: the one it has, else on ``preferred`` where that ID is free, else on the first free one.

    A node that runs prefers the ID that it runs with: after etcd lost its data all of them claim at once.
    ``uplink_of`` gives the data plane address for an ID. ConfigError (``limit_key``) when the subnets hold no more
    nodes; NetworkError when other nodes won every attempt.
    """
    for _ in range(ATTEMPTS_MAX):
        snapshot = await etcd.get_prefix(keys.NODE_IDS)
        claims = parse_claims(snapshot.values)
        held = min((claim.id for claim in claims.values() if claim.name == name), default=0)
        number = held or _free(snapshot.records, preferred)
        if number > id_max:
            raise ConfigError(
                limit_key,
                id_max,
                f"node {name} needs ID {number}, the subnets end at {id_max}",
                remedy="widen the subnet or remove nodes that left",
            )
        wanted = NodeClaim(id=number, name=name, uplink=uplink_of(number))
        if claims.get(number) == wanted:
            return wanted
        key = keys.node_id(number)
        unchanged = Compare.unchanged(snapshot.records[key]) if held else Compare.absent(key)
        result = await etcd.txn(compare=[unchanged], success=[Put(key, msgspec.json.encode(wanted))])
        if result.succeeded:
            log.info("node ID claimed", node=name, id=number, uplink=wanted.uplink)
            return wanted
    raise NetworkError(f"node {name} got no ID in {ATTEMPTS_MAX} attempts; other nodes keep winning")


def _free(records: Mapping[str, Record], preferred: int) -> int:
    if preferred and keys.node_id(preferred) not in records:
        return preferred
    return next(number for number in range(1, len(records) + 2) if keys.node_id(number) not in records)


async def release_node_id(etcd: Etcd, claim: NodeClaim) -> bool:
    """Give up ``claim`` if it still stands as it was read; whether this call removed it."""
    key = keys.node_id(claim.id)
    result = await etcd.txn(compare=[Compare.value(key, msgspec.json.encode(claim))], success=[Delete(key)])
    if result.succeeded:
        log.info("node ID released", node=claim.name, id=claim.id)
    return result.succeeded
