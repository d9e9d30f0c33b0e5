"""A handler that keeps pods and a table per pod, and events for it; enough to see the loop's promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from contiv.controller import Commit, Event, EventHandler, Kind, Transaction
from contiv.scheduler import Value
from tests.scheduler.southbound import Item


class AddPod(Event, frozen=True):
    transaction: ClassVar[Transaction] = Transaction.REVERT_ON_FAILURE
    pod: str


class DeletePod(Event, frozen=True):
    pod: str


class Snapshot(Event, frozen=True):
    kind: ClassVar[Kind] = Kind.FULL_RESYNC
    pods: tuple[str, ...] = ()


class Poke(Event, frozen=True):
    """An update without a key of its own; ``boom`` lets the handler of that name raise."""

    boom: str = ""
    follow: str = ""


class PodState:
    """What a snapshot said."""

    def __init__(self) -> None:
        self.pods: tuple[str, ...] = ()
        self.seen: list[str] = []

    def apply(self, event: Event) -> None:
        self.seen.append(event.name)
        if isinstance(event, Snapshot):
            self.pods = event.pods


class PodHandler(EventHandler[PodState]):
    """Each pod is an interface (kind a) and a route (kind b) on it."""

    def __init__(self, name: str = "pods", *, prefix: str = "") -> None:
        self.name = name
        self.pods: set[str] = set()
        self.commits: list[Commit] = []
        self.persisted: set[str] = set()
        self.persist_error: Exception | None = None
        self.boom = False
        self.needs: tuple[str, ...] = ()
        self._prefix = prefix

    def handles(self, event: Event) -> bool:
        return isinstance(event, AddPod | DeletePod | Poke)

    def resync(self, event: Event, state: PodState) -> Mapping[str, Value]:
        if self.boom:
            raise ValueError("boom")
        self.pods = set(self.pods if not isinstance(event, Snapshot) else state.pods)
        desired: dict[str, Value] = {}
        for pod in self.pods:
            desired |= self._keys(pod)
        return desired

    def update(self, event: Event) -> Mapping[str, Value | None]:
        if isinstance(event, AddPod):
            self.pods.add(event.pod)
            return self._keys(event.pod)
        if isinstance(event, DeletePod):
            self.pods.discard(event.pod)
            return dict.fromkeys(self._keys(event.pod))
        if isinstance(event, Poke) and event.boom == self.name:
            raise ValueError("boom")
        return {}

    def revert(self, event: Event) -> Mapping[str, Value | None]:
        assert isinstance(event, AddPod)
        return self.update(DeletePod(event.pod))

    async def after_commit(self, commit: Commit) -> None:
        self.commits.append(commit)
        if self.persist_error:
            raise self.persist_error
        self.persisted = set(self.pods)

    def answer(self, event: Event) -> object:
        return f"wired {event.pod}" if isinstance(event, AddPod) else None

    def _keys(self, pod: str) -> dict[str, Value]:
        interface, route = f"a/{self._prefix}{pod}", f"b/{self._prefix}{pod}"
        return {interface: Item(needs=self.needs), route: Item(needs=(interface,))}
