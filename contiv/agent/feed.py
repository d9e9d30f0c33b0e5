"""etcd to events: one snapshot first, then every change in order; a watch that had to start over is a resync again.

Two prefixes are followed, Kubernetes state and node IDs, each by its own watch. A resync reads both, whichever watch
asked for it; from then on either watch goes on behind what was read, so that nobody's state ever goes back in time.
Changes wait while a resync reads: one that overtook it would be lost under the older snapshot. An object that cannot
be decoded is logged with its key and skipped; the rest goes on.
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
        self._turn = asyncio.Lock()
        self._read_at: dict[str, int] = {}
        """Per prefix the revision that the last resync read it at."""

    async def start(self) -> None:
        """Push the first resync; StoreError when etcd cannot be read."""
        await self._resync("start")

    async def follow(self) -> None:
        """Push every change after the first resync, for ever; StoreDenied when etcd does not let us watch."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(keys.K8S, self._kube_change))
            group.create_task(self._follow(keys.NODE_IDS, self._claim_change))

    async def _resync(self, reason: str) -> None:
        async with self._turn:
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
            self._read_at = {keys.K8S: objects.revision, keys.NODE_IDS: claims.revision}
            await self._push(event)

    async def _follow(self, prefix: str, convert: Callable[[Change], Event | None]) -> None:
        """Push the changes of ``prefix``; what a resync has read already is not played again over it."""
        async with self._etcd.watch(prefix, start_revision=self._read_at[prefix] + 1) as watch:
            async for batch in watch:
                if batch.resync:
                    await self._read_again(prefix)
                for change in batch.events:
                    await self._take(prefix, change, convert)

    async def _take(self, prefix: str, change: Change, convert: Callable[[Change], Event | None]) -> None:
        async with self._turn:
            event = convert(change) if change.mod_revision > self._read_at[prefix] else None
            if event is not None:
                self._known.apply(event)
                await self._push(event)

    async def _read_again(self, prefix: str) -> None:
        """A resync that waits for etcd."""
        while True:
            try:
                await self._resync(f"the watch of {prefix} started over")
            except StoreError as error:
                log.warning("etcd cannot be read, trying again", error=str(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                return

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
            attachment = _attachments.decode(record.value)
            _ = attachment.ip  # text that is no address would fail every resync
        except (msgspec.DecodeError, ValueError) as error:
            log.error("unreadable pod attachment in etcd", key=key, error=str(error))
        else:
            found[key] = attachment
    return found
