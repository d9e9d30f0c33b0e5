"""The network capability's seat in the event loop: events to changes of ``NetworkState``, persistence after commits.

Comes in: cluster resyncs, claims of node IDs, Node objects that leave, AddPod and DeletePod. Goes out: desired keys;
after each commit the pod attachments that changed, written to etcd before kubelet gets its answer, and the claims of
nodes that left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec
import structlog

from contiv.controller.cluster import ClusterResync, ClusterState, KubeChange, NodeClaimChange
from contiv.controller.event import Event
from contiv.controller.handler import Commit, EventHandler
from contiv.model import keys, kube
from contiv.model.node import Attachment, NodeClaim
from contiv.network.events import AddPod, DeletePod, PrepareInterfaces
from contiv.network.state import NetworkState, owner_of
from contiv.scheduler import Value

log = structlog.get_logger(__name__)

PREPARED_STEP: Final = 1
"""Spare interfaces made in one transaction: some 40 ms each on af_packet, for which a pod may have to wait."""

Changes = Mapping[str, Value | None]


class Persistence(Protocol):
    """What outlives the agent."""

    async def write(self, changes: Mapping[str, bytes | None]) -> object:
        """Put and delete (None) keys in etcd."""
        ...

    async def release(self, claim: NodeClaim) -> object:
        """Give up another node's claim, if it still stands."""
        ...

    async def reclaim(self) -> object:
        """Claim this node's own ID anew."""
        ...


class NetworkHandler(EventHandler[ClusterState]):
    """Owns all keys of pods, host interconnect and node interconnect."""

    name = "network"

    def __init__(self, state: NetworkState, persistence: Persistence, push: Callable[[Event], None]) -> None:
        self.state = state
        self._persistence = persistence
        self._push = push
        self._fresh: set[str] = set()
        self._prepare = False
        self._unsaved: dict[str, bytes | None] = {}
        self._leavers: dict[str, NodeClaim] = {}
        self._reclaim = False
        self._loaded = False

    def handles(self, event: Event) -> bool:
        match event:
            case AddPod() | DeletePod() | PrepareInterfaces() | NodeClaimChange():
                return True
            case KubeChange(old=old, new=new):
                return isinstance(old or new, kube.Node)
            case _:
                return False

    def resync(self, event: Event, state: ClusterState) -> Mapping[str, Value]:
        attachments = self._attachments(event, state)
        for owner, error in self.state.replace(state.claims.values(), attachments).items():
            log.error("pod attachment refused", owner=owner, error=str(error))
        self._note_leavers(state)
        self._prepare = self.state.slots.prepared < self.state.slots.target
        return self.state.desired()  # type: ignore[return-value]

    def _attachments(self, event: Event, state: ClusterState) -> list[Attachment]:
        """The pods of this node: as etcd has them when the agent starts, from then on as the agent knows them.

        Nobody else writes them; those that etcd has lost are written again.
        """
        own = keys.attachments(self.state.me.name)
        stored = {key: value for key, value in state.attachments.items() if key.startswith(own)}
        if not self._loaded:
            self._loaded = True
            return list(stored.values())
        known = list(self.state.attachments.values())
        if isinstance(event, ClusterResync):
            for attachment in known:
                if stored.get(self._key(attachment)) != attachment:
                    self._save(attachment)
        return known

    def update(self, event: Event) -> Changes:
        changes: Mapping[str, object | None]
        match event:
            case AddPod():
                attachment, changes = self.state.add_pod(event.request)
                if changes:
                    self._fresh.add(event.request.owner)
                    self._save(attachment)
            case DeletePod():
                gone, changes = self.state.delete_pod(event.container_id, event.if_name)
                if gone is not None:
                    self._forget(gone)
            case PrepareInterfaces():
                self.state.slots.grow(PREPARED_STEP)
                self._prepare = self.state.slots.prepared < self.state.slots.target
                changes = self.state.spares()
            case NodeClaimChange(claim=None):
                changes = self._released(event.id)
            case NodeClaimChange(claim=claim) if claim is not None:
                changes = self.state.node_claimed(claim)
            case KubeChange(old=kube.Node() as node, new=None):
                self._leave(node.name)
                changes = {}
            case KubeChange(new=kube.Node(name=self.state.me.name)):
                self._reclaim = self._reclaim or self.state.me_released
                changes = {}
            case _:
                changes = {}
        return changes  # type: ignore[return-value]

    def revert(self, event: Event) -> Changes:
        if not isinstance(event, AddPod) or event.request.owner not in self._fresh:
            return {}
        request = event.request
        gone, changes = self.state.delete_pod(request.container_id, request.if_name)
        if gone is not None:
            self._forget(gone)
        return changes  # type: ignore[return-value]

    async def after_commit(self, commit: Commit) -> None:
        self._fresh.clear()
        if self._prepare:
            self._prepare = False
            self._push(PrepareInterfaces())
        if self._unsaved:
            await self._persistence.write(self._unsaved)
            self._unsaved = {}
        while self._leavers:
            name = next(iter(self._leavers))
            await self._persistence.release(self._leavers[name])
            del self._leavers[name]
        if self._reclaim:
            await self._persistence.reclaim()
            self._reclaim = self.state.me_released = False

    def answer(self, event: Event) -> Attachment | None:
        if not isinstance(event, AddPod):
            return None
        return self.state.attachments.get(event.request.owner)

    def _key(self, attachment: Attachment) -> str:
        owner = owner_of(attachment.container_id, attachment.if_name)
        return keys.attachment(self.state.me.name, owner)

    def _save(self, attachment: Attachment) -> None:
        self._unsaved[self._key(attachment)] = msgspec.json.encode(attachment)

    def _forget(self, attachment: Attachment) -> None:
        self._unsaved[self._key(attachment)] = None

    def _released(self, node_id: int) -> Mapping[str, object | None]:
        if node_id == self.state.me.id:
            self.state.me_released = True
            return {}
        return self.state.node_released(node_id)

    def _leave(self, name: str) -> None:
        """A node's object is gone: its ID is free again, once its claim is deleted."""
        for claim in self.state.others.values():
            if claim.name == name:
                self._leavers[name] = claim

    def _note_leavers(self, state: ClusterState) -> None:
        """Nodes that left while nobody watched: claims without a Node, where the Nodes are known at all."""
        nodes = {node.name for node in state.of_kind(kube.NODES).values()}
        if self.state.me.name in nodes:
            for claim in self.state.others.values():
                if claim.name not in nodes:
                    self._leavers[claim.name] = claim
