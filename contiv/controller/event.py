"""What can happen to an agent: events, values that the loop offers to the handlers.

Subclass ``Event`` as a frozen struct and set the class variables. In comes whatever the event carries; the
rest of the package decides when it runs and in which transaction. Refuses nothing: queues do (``queue.py``).
::

    class AddPod(Event, frozen=True):
        transaction: ClassVar[Transaction] = Transaction.REVERT_ON_FAILURE
        container_id: str
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final

from msgspec import Struct

from contiv.errors import ContivError
from contiv.scheduler import Resync


class Kind(StrEnum):
    """What an event asks for. FULL_RESYNC: handlers recompute everything and the data plane is read.
    UPSTREAM_RESYNC: handlers recompute, nothing is read. DOWNSTREAM_RESYNC: the data plane is read and
    compared, no handler runs."""

    UPDATE = "update"
    FULL_RESYNC = "full-resync"
    UPSTREAM_RESYNC = "upstream-resync"
    DOWNSTREAM_RESYNC = "downstream-resync"


RESYNC_OF = {
    Kind.FULL_RESYNC: Resync.FULL,
    Kind.UPSTREAM_RESYNC: Resync.UPSTREAM,
    Kind.DOWNSTREAM_RESYNC: Resync.DOWNSTREAM,
}


class Transaction(StrEnum):
    """What happens to an event whose keys fail. BEST_EFFORT: the rest stays, failed keys are retried.
    REVERT_ON_FAILURE: handlers undo the event and all its keys go back."""

    BEST_EFFORT = "best-effort"
    REVERT_ON_FAILURE = "revert-on-failure"


DESCRIBED_MAX: Final = 80
"""Characters of a field that get into an event's description."""


class Event(Struct, frozen=True):
    """Base of all events; ``kind`` and ``transaction`` belong to the class."""

    kind: ClassVar[Kind] = Kind.UPDATE
    transaction: ClassVar[Transaction] = Transaction.BEST_EFFORT

    @property
    def name(self) -> str:
        """The kind of event for logs and history."""
        return type(self).__name__

    def describe(self) -> str:
        """One short line about this very event. Default: its texts and numbers; a snapshot stays out of
        it."""
        scalars = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return " ".join(
            f"{name}={value!s:.{DESCRIBED_MAX}}" for name, value in scalars if isinstance(value, str | int | float)
        )


class FullResync(Event, frozen=True):
    """Recompute and compare everything, from the state that the controller has."""

    kind: ClassVar[Kind] = Kind.FULL_RESYNC
    reason: str

    def describe(self) -> str:
        return self.reason


class UpstreamResync(Event, frozen=True):
    """Recompute everything, from the state that the controller has."""

    kind: ClassVar[Kind] = Kind.UPSTREAM_RESYNC
    reason: str

    def describe(self) -> str:
        return self.reason


class DownstreamResync(Event, frozen=True):
    """Compare the data plane with what is desired; of it only what lies ``under`` a prefix, if one is given."""

    kind: ClassVar[Kind] = Kind.DOWNSTREAM_RESYNC
    reason: str
    under: str = ""

    def describe(self) -> str:
        return self.reason


class ControllerError(ContivError):
    """Root of what the controller refuses or could not do."""


class QueueFullError(ControllerError):
    """No more events fit; the caller may try again later."""

    def __init__(self, event: str, limit: int) -> None:
        super().__init__(f"event {event} refused: {limit} events are queued already; try again later")
        self.event = event
        self.limit = limit


class ControllerStoppedError(ControllerError):
    """The controller stopped before the event was processed."""

    def __init__(self, event: str) -> None:
        super().__init__(f"event {event} was not processed: the controller stopped")
        self.event = event


class ReentrantCallError(ControllerError):
    """Code that runs inside the loop waited for an event of the loop: it would wait for ever."""

    def __init__(self, event: str) -> None:
        super().__init__(f"event {event} is awaited from inside the loop; use follow_up instead")
        self.event = event


class HandlerError(ControllerError):
    """A handler raised while it ran an event; the cause is chained."""

    def __init__(self, handler: str, step: str, event: str, cause: BaseException) -> None:
        super().__init__(f"{handler} failed to {step} {event}: {str(cause) or type(cause).__name__}")
        self.handler = handler
        self.step = step
        self.event = event
        self.cause = cause


class OwnershipError(ControllerError):
    """Two handlers want to decide about one key."""

    def __init__(self, key: str, owner: str, intruder: str) -> None:
        super().__init__(f"key {key} belongs to handler {owner}; {intruder} must not set it")
        self.key = key
        self.owner = owner
        self.intruder = intruder
