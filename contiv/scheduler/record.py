"""What transactions did: a bounded history that can be read as JSON or as text.

In come a plan and the executions of its operations; out go frozen records. Bounded by the number of
transactions and of operations in all of them: a resync of 5,000 nodes must not stay in memory a hundred times
over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from contiv.scheduler.execute import Execution
from contiv.scheduler.operations import Operation


class OperationRecord(Struct, frozen=True, omit_defaults=True, gc=False):
    """One planned operation and its result; ``start_s`` counts from the transaction's start."""

    key: str
    verb: str
    wave: int
    result: str
    reason: str = ""
    error: str = ""
    start_s: float = 0.0
    duration_s: float = 0.0


class TransactionRecord(Struct, frozen=True, omit_defaults=True):
    """One transaction. ``started`` is seconds since the epoch; ``undone`` are the operations of a revert."""

    number: int
    description: str
    started: float
    duration_s: float
    changes: int
    resync: str = ""
    retry: bool = False
    reverted: bool = False
    operations: tuple[OperationRecord, ...] = ()
    undone: tuple[OperationRecord, ...] = ()
    pending: dict[str, tuple[str, ...]] = {}
    errors: tuple[str, ...] = ()


class History:
    """The last transactions, oldest first."""

    def __init__(self, *, transactions_max: int, operations_max: int) -> None:
        self._records: deque[TransactionRecord] = deque()
        self._transactions_max = transactions_max
        self._operations_max = operations_max
        self._operations = 0

    def __iter__(self) -> Iterator[TransactionRecord]:
        return iter(tuple(self._records))

    def __len__(self) -> int:
        return len(self._records)

    @property
    def last(self) -> TransactionRecord | None:
        """The latest record."""
        return self._records[-1] if self._records else None

    def add(self, record: TransactionRecord) -> None:
        """Append; the oldest records go when a limit is exceeded, the newest always stays."""
        self._records.append(record)
        self._operations += _size(record)
        while len(self._records) > 1 and (
            len(self._records) > self._transactions_max or self._operations > self._operations_max
        ):
            self._operations -= _size(self._records.popleft())

    def to_json(self) -> bytes:
        """All records as a JSON array."""
        return msgspec.json.encode(list(self._records))

    def to_text(self) -> str:
        """All records, one line a transaction and one line an operation."""
        return "\n".join(transaction_text(record) for record in self._records)


def operation_records(
    operations: Sequence[Operation], executions: Mapping[int, Execution], *, start: float
) -> tuple[OperationRecord, ...]:
    """Records in the order of the plan; what was never started has the result "planned"."""
    records = []
    spans: dict[tuple[float, float], tuple[float, float]] = {}  # thousands of one batch have the same
    for index, operation in enumerate(operations):
        done = executions.get(index)
        result, error, span = "planned", "", (0.0, 0.0)
        if done is not None:
            result, error = done.result, str(done.error) if done.error else ""
            times = (done.started, done.ended)
            span = spans.get(times) or (round(times[0] - start, 6), round(times[1] - times[0], 6))
            spans[times] = span
        records.append(
            OperationRecord(operation.key, operation.verb, operation.wave, result, operation.reason, error, *span)
        )
    return tuple(records)


def transaction_text(record: TransactionRecord) -> str:
    """One transaction as lines of text."""
    when = datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    kind = f"resync {record.resync}" if record.resync else "retry" if record.retry else "update"
    verdict = "reverted" if record.reverted else "failed" if record.errors else "ok"
    head = f"#{record.number} {when}Z {kind} {record.description!r}: {verdict}"
    lines = [f"{head}, {record.changes} changes, {len(record.operations)} operations, {record.duration_s * 1e3:.1f} ms"]
    lines += [_operation_text(operation) for operation in record.operations]
    lines += [f"  undo{_operation_text(operation)[1:]}" for operation in record.undone]
    lines += [f"  pending {key}: waits for {', '.join(unmet)}" for key, unmet in record.pending.items()]
    lines += [f"  error: {error}" for error in record.errors]
    return "\n".join(lines)


def _operation_text(operation: OperationRecord) -> str:
    notes = "".join(f" ({note})" for note in (operation.reason, operation.error) if note)
    result = "" if operation.result == "done" else f" {operation.result.upper()}"
    took = f"{operation.duration_s * 1e3:.1f} ms"
    return f"  [{operation.wave}] {operation.verb} {operation.key} {took}{result}{notes}"


def _size(record: TransactionRecord) -> int:
    return len(record.operations) + len(record.undone) + len(record.pending)
