"""The network capability's seat in the event loop: events to changes of ``NetworkState``, persistence after commits.

Comes in: cluster resyncs, claims of node IDs, Node objects that leave, other addresses, AddPod and DeletePod. Goes out:
desired keys; after each commit the pod attachments that changed, written to etcd before kubelet gets its answer, and
the claims of nodes that left. What cannot be persisted fails the pods that it was for; claims are tried again by
themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec
import structlog

from contiv.controller.cluster import ClusterResync, ClusterState, KubeChange, NodeClaimChange
from contiv.controller.event import ControllerError, Event
from contiv.controller.handler import Commit, EventHandler
from contiv.errors import ContivError
from contiv.model import keys, kube
from contiv.model.node import Attachment, NodeClaim
from contiv.network.events import AddPod, AddressChange, DeletePod, NicsChange, PrepareInterfaces, SettleClaims
from contiv.network.render_nic import UPLINK
from contiv.network.state import NetworkState, owner_of
from contiv.scheduler import Value

log = structlog.get_logger(__name__)

PREPARED_STEP: Final = 1
"""Spare interfaces made in one transaction: some 40 ms each on af_packet, for which a pod may have to wait."""

SETTLE_RETRY_S: Final = 5.0
"""Between attempts to settle claims while etcd refuses."""

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
        """Claim this node's own ID anew; it has another one than before when somebody else took that."""
        ...

    async def readdress(self, uplink: str) -> object:
        """Tell the other nodes another address of this one; empty for none."""
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
        self._refused: set[str] = set()
        """Owners of attachments that etcd holds and this node cannot: forgotten when kubelet deletes them."""
        self._leavers: dict[str, NodeClaim] = {}
        self._present = False
        self._claimed = True
        self._usurped = False
        self._new_address: str | None = None
        """What the node's claim does not show yet."""
        self._settling: asyncio.TimerHandle | None = None
        self._loaded = False

    def handles(self, event: Event) -> bool:
        match event:
            case AddPod() | DeletePod() | PrepareInterfaces() | SettleClaims() | AddressChange() | NodeClaimChange():
                return True
            case KubeChange(old=old, new=new):
                return isinstance(old or new, kube.Node)
            case _:
                return False

    def resync(self, event: Event, state: ClusterState) -> Mapping[str, Value]:
        if isinstance(event, NicsChange):
            self._reconfigure(event)
        attachments = self._attachments(event, state)
        refused = self.state.replace(self._others(state.claims.values()), attachments)
        for owner, error in refused.items():
            log.error("pod attachment refused", owner=owner, error=str(error))
        self._refused |= refused.keys()
        self._note_nodes(state)
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
                if stored.get(self._key(owner_of(attachment.container_id, attachment.if_name))) != attachment:
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
                changes = self._delete(owner_of(event.container_id, event.if_name), event)
            case PrepareInterfaces():
                self.state.slots.grow(PREPARED_STEP)
                self._prepare = self.state.slots.prepared < self.state.slots.target
                changes = self.state.spares()
            case AddressChange():
                changes = self._readdress(event)
            case NodeClaimChange(claim=None):
                changes = self._unclaim(event.id)
            case NodeClaimChange(claim=claim) if claim is not None:
                changes = self._claim(claim)
            case KubeChange(old=kube.Node() as node, new=None):
                self._leave(node.name)
                changes = {}
            case KubeChange(new=kube.Node(name=self.state.me.name)):
                self._present = True
                changes = {}
            case _:
                changes = {}
        return changes  # type: ignore[return-value]

    def revert(self, event: Event) -> Changes:
        if not isinstance(event, AddPod) or event.request.owner not in self._fresh:
            return {}
        request = event.request
        self._fresh.discard(request.owner)
        gone, changes = self.state.delete_pod(request.container_id, request.if_name)
        if gone is not None:
            self._unsaved[self._key(request.owner)] = None
        return changes  # type: ignore[return-value]

    async def after_commit(self, commit: Commit) -> None:
        if self._prepare and self._offer(PrepareInterfaces()):
            self._prepare = False
        if self._unsaved:
            await self._persistence.write(self._unsaved)
            self._unsaved = {}
        self._fresh.clear()  # not before: a pod that could not be persisted is reverted
        try:
            await self._settle_claims()
        except ContivError as error:  # no pod's fault; and the next event may be far away
            log.warning("node ID claims not settled", error=str(error), retry_s=SETTLE_RETRY_S)
            self._settle_later()

    async def _settle_claims(self) -> None:
        while self._leavers:
            name = next(iter(self._leavers))
            await self._persistence.release(self._leavers[name])
            del self._leavers[name]
        if self._new_address is not None:
            await self._persistence.readdress(self._new_address)
            self._new_address = None
        if self._usurped or (self._present and not self._claimed):
            await self._persistence.reclaim()
            self._claimed, self._usurped = True, False

    def _settle_later(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        loop = asyncio.get_running_loop()
        self._settling = loop.call_later(SETTLE_RETRY_S, self._offer, SettleClaims())

    def _offer(self, event: Event) -> bool:
        """Push an event that is no loss when the loop has no room or has stopped; whether it was taken."""
        try:
            self._push(event)
        except ControllerError as error:
            log.info("event put off", event_name=event.name, reason=str(error))
            return False
        return True

    def answer(self, event: Event) -> Attachment | None:
        if not isinstance(event, AddPod):
            return None
        return self.state.attachments.get(event.request.owner)

    def _key(self, owner: str) -> str:
        return keys.attachment(self.state.me.name, owner)

    def _save(self, attachment: Attachment) -> None:
        owner = owner_of(attachment.container_id, attachment.if_name)
        self._unsaved[self._key(owner)] = msgspec.json.encode(attachment)

    def _delete(self, owner: str, event: DeletePod) -> Mapping[str, object | None]:
        gone, changes = self.state.delete_pod(event.container_id, event.if_name)
        if gone is not None or owner in self._refused:
            self._refused.discard(owner)
            self._unsaved[self._key(owner)] = None
        return changes

    def _others(self, claims: Iterable[NodeClaim]) -> list[NodeClaim]:
        """The other nodes, as far as this node's subnets hold them: one that they do not must not stop all."""
        return [claim for claim in claims if claim.name != self.state.me.name and self._fits(claim)]

    def _fits(self, claim: NodeClaim) -> bool:
        if claim.id == self.state.me.id:
            log.error("another node took this node's ID", id=claim.id, node=claim.name)
            self._usurped = True
            return False
        if claim.id > self.state.subnets.node_id_max:
            log.error("node outside this node's subnets", id=claim.id, node=claim.name)
            return False
        return True

    def _claim(self, claim: NodeClaim) -> Mapping[str, object | None]:
        if claim.name == self.state.me.name:
            self._claimed = self._claimed or claim.id == self.state.me.id
            return {}
        return self.state.node_claimed(claim) if self._fits(claim) else {}

    def _readdress(self, event: AddressChange) -> Mapping[str, object | None]:
        changes = self.state.address_changed(event.interface, event.address, event.gateway)
        if event.interface == UPLINK:
            self._new_address = self.state.me.uplink
        return changes

    def _reconfigure(self, event: NicsChange) -> None:
        before = self.state.me.uplink
        self.state.reconfigure(event.uplink, event.nics, hide_pods=event.hide_pods)
        if self.state.me.uplink != before:
            self._new_address = self.state.me.uplink

    def _unclaim(self, node_id: int) -> Mapping[str, object | None]:
        if node_id == self.state.me.id:
            self._claimed = False
            return {}
        return self.state.node_released(node_id)

    def _leave(self, name: str) -> None:
        """A node's object is gone: its ID is free again, once its claim is deleted."""
        if name == self.state.me.name:
            self._present = False
        for claim in self.state.others.values():
            if claim.name == name:
                self._leavers[name] = claim

    def _note_nodes(self, state: ClusterState) -> None:
        """What happened while nobody watched: whether our claim stands, and claims without a Node.

        Nobody has left as long as our own Node is not there: the Nodes may not be reflected yet.
        """
        own = state.claims.get(self.state.me.id)
        self._claimed = own is not None and own.name == self.state.me.name
        nodes = {node.name for node in state.of_kind(kube.NODES).values()}
        self._present = self.state.me.name in nodes
        if self._present:
            for claim in self.state.others.values():
                if claim.name not in nodes:
                    self._leavers[claim.name] = claim
