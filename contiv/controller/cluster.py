"""The cluster as etcd tells it: the events that carry it and the view of it that all handlers share.

``ClusterResync`` brings everything at once, ``KubeChange`` and ``NodeClaimChange`` one difference each, ``EtcdChange``
says whether more can be learnt at all.
``ClusterState`` takes them in before the handlers see them. Capabilities meet here, never in each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from contiv.controller.event import Event, Kind
from contiv.model import kube
from contiv.model.node import Attachment, NodeClaim

T = TypeVar("T")


class ClusterResync(Event, frozen=True):
    """All that etcd holds: Kubernetes objects and pod attachments by key, claims by node ID.

    ``reflected`` are the kinds, by plural, of which KSR has said that nothing is missing. ``away``: etcd cannot be
    asked, it is what was known before.
    """

    kind: ClassVar[Kind] = Kind.FULL_RESYNC
    objects: Mapping[str, kube.KubeObject]
    claims: Mapping[int, NodeClaim]
    attachments: Mapping[str, Attachment]
    reason: str
    reflected: frozenset[str] = frozenset()
    away: bool = False

    def describe(self) -> str:
        return f"{self.reason}: {len(self.objects)} objects, {len(self.claims)} nodes"


class KubeChange(Event, frozen=True):
    """One Kubernetes object was written (``new``) or removed (``new`` None); ``old`` is what was known of
    it."""

    key: str
    old: kube.KubeObject | None
    new: kube.KubeObject | None

    def describe(self) -> str:
        verb = "removed" if self.new is None else "added" if self.old is None else "changed"
        return f"{self.key} {verb}"


class NodeClaimChange(Event, frozen=True):
    """A node took an ID, changed its address (``claim``), or gave its ID up (``claim`` None)."""

    id: int
    claim: NodeClaim | None

    def describe(self) -> str:
        return f"ID {self.id} " + (f"is {self.claim.name}" if self.claim else "is free")


class EtcdChange(Event, frozen=True):
    """etcd cannot be asked any more (``away``), so that nothing new is learnt of the cluster, or it can again."""

    away: bool


class ClusterState:
    """What is known of the cluster now; handlers read it, only the loop writes it."""

    def __init__(self) -> None:
        self.objects: dict[str, kube.KubeObject] = {}
        self.claims: dict[int, NodeClaim] = {}
        self.attachments: dict[str, Attachment] = {}
        self.reflected: frozenset[str] = frozenset()
        self.away = False

    def apply(self, event: Event) -> None:
        """Take in what the event says."""
        match event:
            case ClusterResync():
                self.objects = dict(event.objects)
                self.claims = dict(event.claims)
                self.attachments = dict(event.attachments)
                self.reflected = event.reflected
                self.away = event.away
            case EtcdChange():
                self.away = event.away
            case KubeChange(new=None):
                self.objects.pop(event.key, None)
            case KubeChange(new=new) if new is not None:
                self.objects[event.key] = new
            case NodeClaimChange(claim=None):
                self.claims.pop(event.id, None)
            case NodeClaimChange(claim=claim) if claim is not None:
                self.claims[event.id] = claim
            case _:
                pass

    def of_kind(self, kind: kube.Kind[T]) -> dict[str, T]:  # type: ignore[type-var]
        """The objects of one kind by key."""
        return {key: value for key, value in self.objects.items() if isinstance(value, kind.model)}
