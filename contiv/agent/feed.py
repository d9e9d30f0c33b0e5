"""etcd to events: one snapshot first, then every change in order; a watch that had to start over is a resync again.

Three prefixes are followed, Kubernetes state, node IDs and KSR's word that a kind is complete, each by its own watch. A
resync reads all, whichever watch asked for it; from then on each watch goes on behind what was read, so that nobody's
state ever goes back in time. Changes wait while a resync reads: one that overtook it would be lost under the older
snapshot. Of an object that cannot be decoded what was known before stays in force, and ``unreadable`` tells its name
and field; the rest goes on.

Whatever etcd tells goes to the mirror too. Without etcd the first snapshot is the mirror's; and what etcd has lost is
kept until it is told again (``memory.py``). A kind that KSR has once reflected completely stays so, also over a start
from the mirror; the first time that all kinds are is a resync, for handlers that would rather know nothing than half.
They are told too when etcd is away, for as long as nothing new can be learnt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import msgspec
import structlog

from contiv.agent.memory import Memory
from contiv.agent.persistence import Persistence
from contiv.agent.problems import counted
from contiv.controller.cluster import ClusterResync, ClusterState, EtcdChange, KubeChange, NodeClaimChange
from contiv.controller.event import Event
from contiv.errors import StoreError
from contiv.model import keys, kube
from contiv.model.node import Attachment
from contiv.model.sharing import Sharing
from contiv.network.node_id import parse_claim, parse_claims
from contiv.store.client import Etcd
from contiv.store.mirror import LocalMirror
from contiv.store.records import Change

log = structlog.get_logger(__name__)

RETRY_S: Final = 1.0
AWAY_S: Final = 1.0
"""How long etcd must be out of reach to count as away: a change of endpoints takes less."""
PLURALS: Final = frozenset(kind.plural for kind in kube.KINDS)

Push = Callable[[Event], Awaitable[object]]
_attachments: Final = msgspec.json.Decoder(Attachment)


class Feed:
    """Follows etcd for one node and pushes what happens to its controller."""

    def __init__(self, etcd: Etcd, persistence: Persistence, mirror: LocalMirror, *, node: str, push: Push) -> None:
        self._etcd = etcd
        self._persistence = persistence
        self._mirror = mirror
        self._node = node
        self._push = push
        self._known = ClusterState()
        self._memory = Memory(node)
        self._turn = asyncio.Lock()
        self._read_at: dict[str, int] = {}
        """Per prefix the revision that the last resync read it at; empty: etcd has not been read."""
        self._reflected: dict[str, bytes] = {}
        """KSR's statuses by key, as resyncs read them."""
        self._announced: set[str] = set()
        """Plurals of kinds whose statuses came since."""
        self.unreadable: dict[str, str] = {}
        """Keys of Kubernetes objects in etcd that cannot be decoded, and why."""
        self._away = False
        """Whether handlers believe that etcd is away."""

    @property
    def problem(self) -> str | None:
        """The objects in etcd that cannot be decoded, with what is wrong with which field."""
        if not self.unreadable:
            return None
        told = [f"{key.removeprefix(keys.K8S)}: {why}" for key, why in sorted(self.unreadable.items())]
        return counted("object in etcd that cannot be decoded", told, see="the agent's log")

    async def start(self) -> None:
        """Push the first resync: etcd's state, or the mirror's when etcd cannot be read (StoreError when there is
        none)."""
        try:
            await self._resync("start")
        except StoreError as error:
            if not await self._resync_from_mirror(error):
                raise

    async def follow(self) -> None:
        """Push every change after the first resync, for ever; StoreDenied when etcd does not let us watch."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_connection())
            if not self._read_at:
                await self._read_again("etcd is back")
            group.create_task(self._follow(keys.K8S, self._kube_change))
            group.create_task(self._follow(keys.NODE_IDS, self._claim_change))
            group.create_task(self._follow(keys.KSR_STATUS, lambda _: None))

    async def _follow_connection(self) -> None:
        """Tell when etcd is away, and when it is back."""
        changed = asyncio.Event()
        self._etcd.on_connection(lambda _: changed.set())
        while True:
            changed.clear()
            if self._etcd.connected:
                await self._tell_away(False)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AWAY_S):
                        await changed.wait()
                        continue
                await self._tell_away(True)
            await changed.wait()

    async def _tell_away(self, away: bool) -> None:
        async with self._turn:
            if away != self._away:
                self._away = away
                event = EtcdChange(away=away)
                self._known.apply(event)
                await self._push(event)

    async def _resync(self, reason: str) -> None:
        async with self._turn:
            statuses = await self._etcd.get_prefix(keys.KSR_STATUS)  # first: what they promise is there from now on
            objects = await self._etcd.get_prefix(keys.K8S)
            claims = await self._etcd.get_prefix(keys.NODE_IDS)
            own = await self._etcd.get_prefix(keys.vswitch(self._node))
            known = self._known if self._known.objects or self._known.claims else await self._remembered()
            self._reflected |= statuses.values
            decoded = self._memory.objects(
                self._readable(objects.values, known.objects),
                known=known.objects,
                reflected={key.removeprefix(keys.KSR_STATUS) for key in statuses.records},
            )
            attachments = own.values
            if not self._read_at:
                attachments = await self._persistence.attachments(attachments)
            event = ClusterResync(
                objects=decoded,
                claims=self._memory.claims(parse_claims(claims.values), known=known.claims, objects=decoded),
                attachments=_decoded_attachments(attachments),
                reason=reason,
                reflected=self._plurals(),
                away=self._away,
            )
            self._known.apply(event)
            self._read_at = {
                keys.K8S: objects.revision,
                keys.NODE_IDS: claims.revision,
                keys.KSR_STATUS: statuses.revision,
            }
            await self._push(event)
            stored = {key: value for key, value in objects.values.items() if key not in self.unreadable}
            await self._remember(event, {**stored, **claims.values})

    async def _resync_from_mirror(self, error: StoreError) -> bool:
        """Push what the mirror holds, if it knows this node; whether it does."""
        known = await self._remembered()
        if not any(claim.name == self._node for claim in known.claims.values()):
            return False
        log.warning("etcd cannot be read, starting from the mirror", error=str(error), objects=len(known.objects))
        self._away = True
        attachments = await self._persistence.attachments(None)
        event = ClusterResync(
            objects=known.objects,
            claims=known.claims,
            attachments=_decoded_attachments(attachments),
            reason="from the mirror: etcd does not answer",
            reflected=self._plurals(),
            away=True,
        )
        self._known.apply(event)
        await self._push(event)
        return True

    async def _remembered(self) -> ClusterState:
        """The cluster as the mirror has it."""
        state = ClusterState()
        state.objects = self._readable(await self._mirror.load(keys.K8S), {})
        state.claims = parse_claims(await self._mirror.load(keys.NODE_IDS))
        self._reflected = await self._mirror.load(keys.KSR_STATUS) | self._reflected
        return state

    def _plurals(self) -> frozenset[str]:
        return frozenset(key.removeprefix(keys.KSR_STATUS) for key in self._reflected)

    async def _remember(self, event: ClusterResync, stored: Mapping[str, bytes]) -> None:
        """Make the mirror hold what the resync brought: in etcd's bytes where etcd has it."""
        objects = {key: stored.get(key) or _encoded(key, value) for key, value in event.objects.items()}
        claims = {keys.node_id(claim.id): msgspec.json.encode(claim) for claim in event.claims.values()}
        await self._mirror.replace(keys.K8S, objects)
        await self._mirror.replace(keys.NODE_IDS, claims)
        await self._mirror.replace(keys.KSR_STATUS, self._reflected)

    async def _follow(self, prefix: str, convert: Callable[[Change], Event | None]) -> None:
        """Push the changes of ``prefix``; what a resync has read already is not played again over it."""
        async with self._etcd.watch(prefix, start_revision=self._read_at[prefix] + 1) as watch:
            async for batch in watch:
                if batch.resync:
                    await self._read_again(f"the watch of {prefix} started over")
                for change in batch.events:
                    await self._take(prefix, change, convert)
                if any(self._completes(change) for change in batch.events):
                    await self._read_again("KSR has reflected what was missing")
                if prefix != keys.KSR_STATUS:
                    await self._note(prefix, batch.events)

    async def _note(self, prefix: str, changes: Iterable[Change]) -> None:
        """Bring the mirror up to date; what a resync has written there already may be newer."""
        async with self._turn:
            fresh = [change for change in changes if change.mod_revision > self._read_at[prefix]]
            await self._mirror.write({c.key: c.value for c in fresh if c.key not in self.unreadable})

    async def _take(self, prefix: str, change: Change, convert: Callable[[Change], Event | None]) -> None:
        async with self._turn:
            event = convert(change) if change.mod_revision > self._read_at[prefix] else None
            if event is not None:
                self._known.apply(event)
                await self._push(event)

    def _completes(self, change: Change) -> bool:
        """Whether KSR says that it has reflected a kind of which something is kept from before, or the last kind."""
        plural = change.key.removeprefix(keys.KSR_STATUS)
        if change.value is None or plural not in PLURALS:
            return False
        self._announced.add(plural)
        last = plural not in self._plurals() and self._plurals() | self._announced >= PLURALS
        return last or plural in self._memory.incomplete

    async def _read_again(self, reason: str) -> None:
        """A resync that waits for etcd."""
        while True:
            try:
                await self._resync(reason)
            except StoreError as error:
                log.warning("etcd cannot be read, trying again", error=str(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _readable(
        self, values: Mapping[str, bytes], known: Mapping[str, kube.KubeObject]
    ) -> dict[str, kube.KubeObject]:
        """The objects; of those that cannot be decoded what is known of them."""
        self.unreadable = {}
        decoded = ((key, self._parse(key, value) or known.get(key)) for key, value in values.items())
        return {key: value for key, value in decoded if value is not None}

    def _parse(self, key: str, value: bytes) -> kube.KubeObject | None:
        try:
            parsed = _parse(key, value)
        except (KeyError, msgspec.DecodeError) as error:
            why = "no kind of object is called so" if isinstance(error, KeyError) else str(error)
            log.error("unreadable object in etcd", key=key, error=why)
            self.unreadable[key] = why
            return None
        self.unreadable.pop(key, None)
        return parsed

    def _kube_change(self, change: Change) -> Event | None:
        old = self._known.objects.get(change.key)
        if change.value is None:
            self.unreadable.pop(change.key, None)
            return None if old is None else KubeChange(key=change.key, old=old, new=None)
        new = self._parse(change.key, change.value)
        return None if new is None or new == old else KubeChange(key=change.key, old=old, new=new)

    def _claim_change(self, change: Change) -> Event | None:
        if change.value is None:
            number = change.key.removeprefix(keys.NODE_IDS)
            return NodeClaimChange(id=int(number), claim=None) if number.isdecimal() else None
        claim = parse_claim(change.key, change.value)
        return None if claim is None else NodeClaimChange(id=claim.id, claim=claim)


def _encoded(key: str, value: kube.KubeObject) -> bytes:
    return kube.kind_of(key).encode(value)  # type: ignore[arg-type]  # the key's kind is the value's


_sharing: Final = Sharing()
"""For all that this process decodes: it knows one cluster."""


def _parse(key: str, value: bytes) -> kube.KubeObject:
    return _sharing.share(kube.parse(key, value))


def _decoded_attachments(values: Mapping[str, bytes]) -> dict[str, Attachment]:
    found = {}
    for key, value in values.items():
        if "/pods/" not in key:
            continue
        try:
            attachment = _attachments.decode(value)
            _ = attachment.ip  # text that is no address would fail every resync
        except (msgspec.DecodeError, ValueError) as error:
            log.error("unreadable pod attachment in etcd", key=key, error=str(error))
        else:
            found[key] = attachment
    return found
