"""etcd to events: one snapshot first, then every change in order; a watch that had to start over is a resync again.

Two prefixes are followed, Kubernetes state and node IDs, each by its own watch. An object that cannot be decoded is
logged with its key and skipped; the rest goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog

from contiv.controller.cluster import ClusterResync, ClusterState, KubeChange, NodeClaimChange
from contiv.controller.event import Event
from contiv.errors import StoreError
from contiv.model import keys, kube
from contiv.model.node import Attachment
from contiv.network.node_id import parse_claim, parse_claims
from contiv.store.client import Etcd
from contiv.store.records import Change, Record, Snapshot

log = structlog.get_logger(__name__)

RETRY_S: Final = 1.0

Push = Callable[[Event], Awaitable[object]]
_attachments: Final = msgspec.json.Decoder(Attachment)


class Feed:
    """Follows etcd for one node and pushes what happens to its controller."""

    def __init__(self, etcd: Etcd, node: str, push: Push) -> None:
        self._etcd = etcd
        self._node = node
        self._push = push
        self._known = ClusterState()
        self._resyncing = asyncio.Lock()

    async def start(self) -> tuple[int, int]:
        """Push the first resync; returns the revisions that the snapshots of objects and claims were taken at."""
        return await self._resync("start")

    async def follow(self, revisions: tuple[int, int]) -> None:
        """Push every change after ``revisions``, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(keys.K8S, revisions[0], self._kube_change))
            group.create_task(self._follow(keys.NODE_IDS, revisions[1], self._claim_change))

    async def resync(self, reason: str) -> None:
        """Read everything anew and push it."""
        await self._resync(reason)

    async def _resync(self, reason: str) -> tuple[int, int]:
        async with self._resyncing:
            objects = await self._etcd.get_prefix(keys.K8S)
            claims = await self._etcd.get_prefix(keys.NODE_IDS)
            attachments = await self._etcd.get_prefix(keys.attachments(self._node))
            event = ClusterResync(
                objects=_decoded(objects),
                claims=parse_claims(claims.records),
                attachments=_decoded_attachments(attachments.records),
                reason=reason,
            )
            self._known.apply(event)
            await self._push(event)
            return objects.revision, claims.revision

    async def _follow(self, prefix: str, revision: int, convert: Callable[[Change], Event | None]) -> None:
        """Push changes past ``revision``; what a resync has read already is not played again over it."""
        async with self._etcd.watch(prefix, start_revision=revision + 1) as watch:
            async for batch in watch:
                if batch.resync:
                    revision = max(revision, await self._read_again(prefix))
                for change in batch.events:
                    event = convert(change) if change.mod_revision > revision else None
                    if event is not None:
                        self._known.apply(event)
                        await self._push(event)

    async def _read_again(self, prefix: str) -> int:
        """A resync that waits for etcd; returns the older of the two revisions that it read."""
        while True:
            try:
                return min(await self._resync(f"the watch of {prefix} started over"))
            except StoreError as error:
                log.warning("etcd cannot be read, trying again", error=str(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)

    def _kube_change(self, change: Change) -> Event | None:
        old = self._known.objects.get(change.key)
        if change.value is None:
            return None if old is None else KubeChange(key=change.key, old=old, new=None)
        new = _parse(change.key, change.value)
        return None if new is None or new == old else KubeChange(key=change.key, old=old, new=new)

    def _claim_change(self, change: Change) -> Event | None:
        if change.value is None:
            number = change.key.removeprefix(keys.NODE_IDS)
            return NodeClaimChange(id=int(number), claim=None) if number.isdecimal() else None
        claim = parse_claim(change.key, change.value)
        return None if claim is None else NodeClaimChange(id=claim.id, claim=claim)


def _decoded(snapshot: Snapshot) -> dict[str, kube.KubeObject]:
    parsed = ((key, _parse(key, record.value)) for key, record in snapshot.records.items())
    return {key: value for key, value in parsed if value is not None}


def _parse(key: str, value: bytes) -> kube.KubeObject | None:
    try:
        return kube.parse(key, value)
    except (KeyError, msgspec.ValidationError, msgspec.DecodeError) as error:
        log.error("unreadable object in etcd", key=key, error=str(error))
        return None


def _decoded_attachments(records: Mapping[str, Record]) -> dict[str, Attachment]:
    found = {}
    for key, record in records.items():
        try:
            found[key] = _attachments.decode(record.value)
        except msgspec.DecodeError as error:
            log.error("unreadable pod attachment in etcd", key=key, error=str(error))
    return found
