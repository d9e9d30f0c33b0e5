"""What can go wrong with a transaction, each with its key, operation and cause as attributes.

::

    SchedulerError
    ├── OperationError      a descriptor's create, update or delete failed
    │   ├── BlockedError    not tried: something that still exists rests on the key
    │   └── InterruptedOperationError   the transaction was cancelled before the operation came to its end
    ├── PendingError        a key waits for dependencies (raised only by who insists on "applied")
    ├── CycleError          keys depend on one another in a circle
    ├── UnknownKeyError     no descriptor has a prefix of the key
    ├── RetrieveError       a descriptor could not read the data plane: the resync changed nothing
    └── TransactionError    all failures of one transaction together
"""

from __future__ import annotations

from collections.abc import Sequence

from contiv.errors import SchedulerError


class OperationError(SchedulerError):
    """An operation on one key failed. ``operation`` is create, update or delete; ``cause`` what was
    raised."""

    def __init__(self, key: str, operation: str, cause: BaseException | None, *, text: str = "") -> None:
        super().__init__(f"{operation} {key}: {text or _describe(cause)}")
        self.key = key
        self.operation = operation
        self.cause = cause


class BlockedError(OperationError):
    """The key cannot go yet: ``dependent`` still exists and rests on it."""

    def __init__(self, key: str, operation: str, dependent: str) -> None:
        super().__init__(key, operation, None, text=f"still needed by {dependent}")
        self.dependent = dependent


class InterruptedOperationError(OperationError):
    """The transaction was cancelled; what the data plane holds for the key is not known."""

    def __init__(self, key: str, operation: str) -> None:
        super().__init__(key, operation, None, text="interrupted before it was done")


class PendingError(SchedulerError):
    """The key is not applied: the dependencies named in ``unmet`` are absent."""

    def __init__(self, key: str, unmet: Sequence[str]) -> None:
        super().__init__(f"{key} is pending: waits for {', '.join(unmet)}")
        self.key = key
        self.operation = "create"
        self.cause = None
        self.unmet = tuple(unmet)


class CycleError(SchedulerError):
    """The keys depend on one another in a circle, in the order given; none of them can be applied."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"dependency cycle: {' -> '.join([*keys, keys[0]])}")
        self.key = keys[0]
        self.operation = "plan"
        self.cause = None
        self.keys = tuple(keys)


class UnknownKeyError(SchedulerError):
    """No registered descriptor owns the key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no descriptor for key {key!r}; register one whose prefix starts it")
        self.key = key
        self.operation = "plan"
        self.cause = None


class RetrieveError(SchedulerError):
    """The data plane could not be read, so a resync did not dare to change it. ``key`` is the descriptor's
    name."""

    def __init__(self, descriptor: str, cause: BaseException | None, *, text: str = "") -> None:
        super().__init__(f"retrieve {descriptor}: {text or _describe(cause)}")
        self.key = descriptor
        self.operation = "retrieve"
        self.cause = cause


class HeldError(RetrieveError):
    """The scheduler was told to keep its hands off the data plane, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__("data plane", None, text=reason)


class TransactionError(SchedulerError):
    """Operations of one transaction failed: all of them in ``errors``, the first one in the text."""

    def __init__(self, number: int, errors: Sequence[SchedulerError]) -> None:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"transaction {number}: {errors[0]}{more}")
        self.number = number
        self.errors = tuple(errors)


def _describe(cause: BaseException | None) -> str:
    if cause is None:
        return "failed"
    return str(cause) or type(cause).__name__
