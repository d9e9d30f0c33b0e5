"""What a capability (network, policy, service) offers to the loop: the one seam between events and desired
keys.

Handlers keep state and answer with desired keys; they do not await anything but ``after_commit`` and never
touch the data plane. Two handlers never own one key. Subclass ``EventHandler`` to get the defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol, TypeVar

from msgspec import Struct

from contiv.controller.event import Event
from contiv.scheduler import Outcome, Value

S_contra = TypeVar("S_contra", contravariant=True)


class State(Protocol):
    """What all handlers may read: kept by the composition root, brought up to date before the handlers
    run."""

    def apply(self, event: Event) -> None:
        """Take in what the event says, also the snapshot that a resync event carries."""
        ...


class NoState:
    """For controllers whose handlers find all they need in the events."""

    def apply(self, event: Event) -> None:
        """Nothing to keep."""


class Commit(Struct, frozen=True):
    """What one handler is told after a transaction. ``events`` it handled and that were applied, ``reverted``
    those whose revert it ran, ``changes`` its own desired keys that changed (on a resync: all of them);
    ``outcome`` is None if no key changed."""

    events: tuple[Event, ...]
    reverted: tuple[Event, ...]
    changes: Mapping[str, Value | None]
    outcome: Outcome | None


class EventHandler(Protocol[S_contra]):
    """One capability. The controller calls in the order of registration, reverts in the opposite order."""

    name: str

    @abstractmethod
    def handles(self, event: Event) -> bool:
        """Whether ``update`` wants to see the event. Resyncs go to all handlers without asking."""
        ...

    @abstractmethod
    def resync(self, event: Event, state: S_contra) -> Mapping[str, Value]:
        """Rebuild the own state from ``state``; returns all desired keys of this handler."""
        ...

    @abstractmethod
    def update(self, event: Event) -> Mapping[str, Value | None]:
        """Take the event into the own state; returns the desired keys that changed, None for those to remove.

        A ``ContivError`` refuses a revert-on-failure event: it is reverted, and who waits for it gets the
        error. Any other exception, and any on a best-effort event, also brings a full resync.
        """
        ...

    def revert(self, event: Event) -> Mapping[str, Value | None]:
        """Undo an ``update`` of a revert-on-failure event, complete or broken off; returns keys like
        ``update``.

        Must be implemented by who handles such events: what it does not take back stays desired. Events of
        the same batch that came later may have built on this one: answer from the state as it is now.
        """
        return {}

    async def after_commit(self, commit: Commit) -> None:
        """Persist what changed, before blocking events are answered. An exception fails the events of the
        commit."""

    def answer(self, event: Event) -> object:
        """The result for who waits for the event, asked after ``after_commit``; None if another handler has
        it."""
        return None
