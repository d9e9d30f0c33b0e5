"""The words of a transaction: what is asked (``Txn``), what became of it (``Outcome``), how a key stands.

Values only; ``scheduler.py`` takes the one and gives the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from contiv.errors import SchedulerError
from contiv.scheduler.descriptor import Value
from contiv.scheduler.errors import PendingError, TransactionError
from contiv.scheduler.plan import Plan
from contiv.scheduler.record import TransactionRecord


class Resync(StrEnum):
    """FULL: the changes are the whole desired configuration and the data plane is read. UPSTREAM: the same
    without reading. DOWNSTREAM: the desired configuration stays (with the changes, if any) and the data plane
    is read."""

    FULL = "full"
    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"


class Txn(Struct, frozen=True):
    """Changes of desired values by key; None removes. On a full or upstream resync keys left out are removed
    too.

    ``under``: a resync reads only what has this prefix; what else is there counts as it stood. For when only one of the
    data planes can have changed."""

    changes: Mapping[str, Value | None] = {}
    resync: Resync | None = None
    under: str = ""
    revert_on_failure: bool = False
    description: str = ""


class State(StrEnum):
    """How a key stands. REMOVED: neither desired nor there."""

    APPLIED = "applied"
    PENDING = "pending"
    FAILED = "failed"
    REMOVED = "removed"


class KeyStatus(Struct, frozen=True):
    """How a key stands and why. ``due`` is when it is retried, in the scheduler's clock; None when it is
    not."""

    state: State
    error: SchedulerError | None = None
    unmet: tuple[str, ...] = ()
    attempts: int = 0
    due: float | None = None


APPLIED = KeyStatus(State.APPLIED)
REMOVED = KeyStatus(State.REMOVED)


class Outcome(Struct, frozen=True):
    """What became of a transaction. ``states`` covers the keys changed, operated on and found pending.

    ``errors`` are the failures of this transaction, also when it was reverted; a pending key is not a
    failure.
    """

    number: int
    states: Mapping[str, KeyStatus]
    plan: Plan
    errors: tuple[SchedulerError, ...]
    reverted: bool
    record: TransactionRecord

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.errors

    def raise_for_errors(self) -> None:
        """Raise ``TransactionError`` with all failures, if any."""
        if self.errors:
            raise TransactionError(self.number, self.errors)

    def error_of(self, key: str) -> SchedulerError | None:
        """Why a key of this transaction is not as asked: its failure, or what it waits for; None if all is
        well."""
        status = self.states.get(key)
        if status is None or status.state in (State.APPLIED, State.REMOVED):
            return next((error for error in self.errors if getattr(error, "key", "") == key), None)
        return status.error or PendingError(key, status.unmet)
