"""Owns the difference between desired and actual configuration: one transaction at a time.

In come transactions (``Txn``), out go operations on descriptors and an ``Outcome`` that says how each key
stands. A transaction walks the files of this package: registry, (retrieve), diff, plan, operations, execute,
record. Failed keys stay desired and are tried again with growing delays (``run``), then stay visible with
their error. After a retrieval that failed nothing is touched until one succeeds: the next transaction reads
the data plane first. Refuses keys without descriptor before it changes anything. Who calls:
``contiv.controller``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from contiv.errors import SchedulerError
from contiv.log import get_logger
from contiv.scheduler.descriptor import AnyDescriptor, Dependency, Value, lasting
from contiv.scheduler.errors import (
    CycleError,
    HeldError,
    InterruptedOperationError,
    OperationError,
    PendingError,
    RetrieveError,
)
from contiv.scheduler.execute import Execution, Executor, Result
from contiv.scheduler.graph import Graph
from contiv.scheduler.metadata import Metadata
from contiv.scheduler.operations import Operation, reverse
from contiv.scheduler.plan import Plan, make_plan
from contiv.scheduler.record import History, TransactionRecord, operation_records
from contiv.scheduler.registry import Registry
from contiv.scheduler.retrieve import retrieve_all
from contiv.scheduler.transaction import APPLIED, REMOVED, KeyStatus, Outcome, Resync, State, Txn

log = get_logger(__name__)

ERRORS_LOGGED_MAX: Final = 5
"""A transaction of 5,000 keys that all fail for one reason is one line in the log; the history has the rest."""


class Settings(Struct, frozen=True):
    """Limits. Retries wait 1, 2, 4 … seconds, at most ``retry_delay_max_s``, ``attempts_max`` tries in
    all."""

    concurrency_max: int = 256
    operation_timeout_s: float = 30.0
    retrieve_timeout_s: float = 60.0
    retry_delay_s: float = 1.0
    retry_delay_max_s: float = 60.0
    attempts_max: int = 7
    history_transactions_max: int = 200
    history_operations_max: int = 50_000


_Staged = dict[str, tuple[Value, tuple[Dependency, ...]] | None]


class _Run(Struct):
    """One transaction under way."""

    plan: Plan = Plan()
    executions: dict[int, Execution] = {}
    undo: tuple[Operation, ...] = ()
    undone: dict[int, Execution] = {}
    reverted: bool = False
    errors: list[SchedulerError] = []


class Scheduler:
    """Brings the data plane to the desired configuration and keeps account of where they differ."""

    def __init__(
        self,
        descriptors: Iterable[AnyDescriptor],
        *,
        metadata: Metadata | None = None,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        """``on_outcome`` is called after every transaction, retries included, before ``commit`` returns.

        It must not raise.
        """
        self.metadata = Metadata() if metadata is None else metadata
        self.settings = settings or Settings()
        self.history = History(
            transactions_max=self.settings.history_transactions_max,
            operations_max=self.settings.history_operations_max,
        )
        self._registry = Registry(descriptors)
        self._desired = Graph()
        self._actual = Graph(standing=True)
        self._unsettled: dict[str, KeyStatus] = {}
        self._blind = False
        self._held = ""
        self._number = 0
        self._lock = asyncio.Lock()
        self._retry_changed = asyncio.Event()
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_outcome = on_outcome

    @property
    def desired(self) -> Mapping[str, Value]:
        """Desired values by key, a live read-only view."""
        return MappingProxyType(self._desired.values)

    @property
    def actual(self) -> Mapping[str, Value]:
        """What the data plane holds as far as is known, a live read-only view."""
        return MappingProxyType(self._actual.values)

    @property
    def unsettled(self) -> Mapping[str, KeyStatus]:
        """All keys that are pending or failed, a live read-only view; empty when desired equals actual."""
        return MappingProxyType(self._unsettled)

    @property
    def readable(self) -> bool:
        """Whether the last attempt to read the data plane succeeded."""
        return not self._blind

    def hold(self, reason: str) -> None:
        """Change nothing from now on: transactions fail with the reason, what they want is desired all the same."""
        self._held = reason

    def release(self) -> None:
        """Change things again. The next transaction reads everything first."""
        self._held = ""
        self._blind = True

    def status(self, key: str) -> KeyStatus:
        """How a key stands now."""
        if key in self._unsettled:
            return self._unsettled[key]
        return APPLIED if key in self._actual else REMOVED

    def validate(self, changes: Mapping[str, Value | None]) -> None:
        """Raise what ``commit`` would raise for these changes before it does anything
        (``UnknownKeyError``)."""
        self._stage(changes)

    async def commit(self, txn: Txn) -> Outcome:
        """Carry out a transaction; failures of operations are in the outcome, not raised.

        Raises ``UnknownKeyError`` before anything changes. Cancelled while it waits for its turn, it does
        nothing; cancelled later, operations under way are interrupted, their keys are retried.
        """
        assert not (txn.resync and txn.revert_on_failure), "a resync cannot be reverted"
        staged = self._stage(txn.changes)
        async with self._lock:
            return await self._transact(txn, staged, retry=())

    async def retry_due(self) -> Outcome | None:
        """Try those failed keys again whose delay is over; None if there are none."""
        async with self._lock:
            now = self._clock()
            keys = [key for key, s in self._unsettled.items() if s.due is not None and s.due <= now]
            if not keys:
                return None
            return await self._transact(Txn(description=f"retry of {len(keys)} keys"), {}, retry=keys)

    async def run(self) -> None:
        """Retry failed keys when they are due, for ever; run it as a task beside the one that commits."""
        while True:
            self._retry_changed.clear()
            due = [status.due for status in self._unsettled.values() if status.due is not None]
            delay = max(0.0, min(due) - self._clock()) if due else None
            try:
                async with asyncio.timeout(delay):
                    await self._retry_changed.wait()
            except TimeoutError:
                await self.retry_due()

    async def inspect(self) -> Plan:
        """Read the data plane and plan what a downstream resync would do, without doing or remembering it."""
        async with self._lock:
            before = self.metadata.snapshot()
            try:
                actual = await self._retrieve()
            finally:
                self.metadata.restore(before)
            touched = {*self._desired.values, *actual.values}
            return make_plan(self._registry, desired=self._desired, actual=actual, touched=touched)

    # ------------------------------------------------------------------ one transaction, step by step

    def _stage(self, changes: Mapping[str, Value | None]) -> _Staged:
        staged: _Staged = {}
        for key, value in changes.items():
            descriptor = self._registry.find(key)
            staged[key] = None if value is None else (value, tuple(descriptor.dependencies(key, value)))
        return staged

    async def _transact(self, txn: Txn, staged: _Staged, *, retry: Collection[str]) -> Outcome:
        self._number += 1
        number, started, start = self._number, self._wall_clock(), self._clock()
        resync = txn.resync or (Resync.DOWNSTREAM if self._blind else None)
        undoable = staged if txn.revert_on_failure else ()
        previous = {key: self._desired.values.get(key) for key in undoable}
        standing = {key: self._unsettled[key] for key in undoable if key in self._unsettled}
        touched = self._want(staged, whole=resync in (Resync.FULL, Resync.UPSTREAM)) | set(retry)
        run = _Run()
        try:
            if self._held:
                raise HeldError(self._held)
            if resync in (Resync.FULL, Resync.DOWNSTREAM):
                touched |= await self._refresh("" if self._blind else txn.under)
            self._plan(run, touched)
            await self._executor().run(run.plan.operations, run.executions)
            if txn.revert_on_failure and any(e.error for e in run.executions.values()):
                await self._revert(run, previous)
                self._unsettled.update(standing)
        except RetrieveError as error:
            self._blind = True
            run.errors.append(error)
        finally:
            states = self._settle(run, touched)
            record = self._record(run, txn, number=number, started=started, start=start, retry=bool(retry))
        if run.errors:
            errors = [str(error) for error in run.errors[:ERRORS_LOGGED_MAX]]
            log.warning("transaction_failed", number=number, failures=len(run.errors), errors=errors)
        outcome = Outcome(number, states, run.plan, tuple(run.errors), run.reverted, record)
        if self._on_outcome is not None:
            self._on_outcome(outcome)
        return outcome

    def _want(self, staged: _Staged, *, whole: bool) -> set[str]:
        """Make the staged values desired; returns the keys concerned. They get a fresh number of attempts."""
        touched = set(staged)
        if whole:
            gone = self._desired.values.keys() - staged.keys()
            touched |= gone | self._actual.values.keys()
            for key in gone:
                self._desired.remove(key)
        for key, entry in staged.items():
            if entry is None:
                self._desired.remove(key)
            else:
                self._desired.put(key, entry[0], entry[1])
        for key in touched & self._unsettled.keys():
            self._unsettled[key] = KeyStatus(State.PENDING)
        return touched

    async def _refresh(self, under: str) -> set[str]:
        """Make the actual graph what the data plane holds; returns all keys desired or held before or now."""
        touched = {*self._desired.values, *self._actual.values, *self._unsettled}
        self._actual = await self._retrieve(under)
        self._blind = False
        return touched | self._actual.values.keys()

    async def _retrieve(self, under: str = "") -> Graph:
        found = await retrieve_all(
            self._registry,
            self._desired.values,
            metadata=self.metadata,
            timeout_s=self.settings.retrieve_timeout_s,
            under=under,
        )
        found |= {key: value for key, value in self._actual.values.items() if not key.startswith(under)}
        actual = Graph(standing=True)
        for key in sorted(found):
            held, desired = found[key], self._desired.values.get(key)
            if desired is not None and self._registry.find(key).equivalent(key, held, desired):
                actual.put(key, desired, self._desired.needs(key))
            else:
                actual.put(key, held, self._registry.needs(key, held))
        return actual

    def _plan(self, run: _Run, touched: set[str]) -> None:
        run.plan = make_plan(
            self._registry,
            desired=self._desired,
            actual=self._actual,
            touched=touched,
            unsettled=self._unsettled,
        )
        for key in run.plan.adopted:
            self._actual.put(key, self._desired.values[key], self._desired.needs(key))

    def _executor(self) -> Executor:
        return Executor(
            self._registry,
            actual=self._actual,
            metadata=self.metadata,
            clock=self._clock,
            concurrency_max=self.settings.concurrency_max,
            timeout_s=self.settings.operation_timeout_s,
        )

    async def _revert(self, run: _Run, previous: Mapping[str, Value | None]) -> None:
        """Undo what was done, in reverse; the values desired before are desired again."""
        run.reverted = True
        for key, value in previous.items():
            if value is None:
                self._desired.remove(key)
            else:
                self._desired.put(key, value, self._registry.needs(key, value))
        done = [index for index, e in run.executions.items() if e.result is Result.DONE]
        run.undo = reverse(self._registry, self._actual, run.plan.operations, done)
        await self._executor().run(run.undo, run.undone)
        for key in run.plan.adopted:
            if key in self._desired and key in self._actual:
                self._actual.put(key, self._desired.values[key], self._desired.needs(key))

    # ------------------------------------------------------------------ the account of it

    def _settle(self, run: _Run, touched: set[str]) -> dict[str, KeyStatus]:
        """Say of every key concerned how it stands, and note when failed ones are retried."""
        failures = _failures(run.undone if run.reverted else run.executions)
        for done in (run.executions, run.undone):
            run.errors.extend(_failures(done).values())
        cycles = {key: CycleError(cycle) for cycle in run.plan.cycles for key in cycle}
        run.errors.extend(CycleError(cycle) for cycle in run.plan.cycles)
        concerned = dict.fromkeys([op.key for op in run.plan.operations])  # almost sorted, which spares time
        concerned |= dict.fromkeys((*touched, *run.plan.pending, *cycles))
        states: dict[str, KeyStatus] = {}
        for key in sorted(concerned):
            status = self._judge(run, key, failures.get(key) or cycles.get(key))
            states[key] = status
            if status is APPLIED or status is REMOVED:
                self._unsettled.pop(key, None)
            else:
                self._unsettled[key] = status
        self._retry_changed.set()
        return states

    def _judge(self, run: _Run, key: str, error: SchedulerError | None) -> KeyStatus:
        desired, actual = self._desired.values.get(key), self._actual.values.get(key)
        if error is None:
            if desired is None and actual is None:
                return REMOVED
            if desired is not None and actual is not None and self._same(key, desired, actual):
                return APPLIED
            needs = self._desired.needs(key)
            unmet = self._actual.unmet(needs if actual is None else lasting(needs)) or run.plan.pending.get(key, ())
            if unmet:
                return KeyStatus(State.PENDING, unmet=tuple(str(need) for need in unmet))
            standing = self._unsettled.get(key)
            if run.reverted and standing is not None:
                return standing  # the transaction never happened, so the key stands as it stood
            unread = next((e for e in run.errors if isinstance(e, RetrieveError)), None)
            error = unread or InterruptedOperationError(key, "delete" if desired is None else "create")
        return self._failed(key, error)

    def _same(self, key: str, desired: Value, actual: Value) -> bool:
        return desired == actual or self._registry.find(key).equivalent(key, actual, desired)

    def _failed(self, key: str, error: SchedulerError) -> KeyStatus:
        attempts = self._unsettled[key].attempts + 1 if key in self._unsettled else 1
        cause = error.cause if isinstance(error, OperationError) else None
        retriable = not isinstance(error, CycleError) and (
            cause is None or self._registry.find(key).retriable(key, cause)
        )
        if not retriable or attempts >= self.settings.attempts_max:
            return KeyStatus(State.FAILED, error=error, attempts=attempts)
        delay = min(self.settings.retry_delay_s * 2.0 ** (attempts - 1), self.settings.retry_delay_max_s)
        return KeyStatus(State.FAILED, error=error, attempts=attempts, due=self._clock() + delay)

    def _record(
        self, run: _Run, txn: Txn, *, number: int, started: float, start: float, retry: bool
    ) -> TransactionRecord:
        record = TransactionRecord(
            number=number,
            description=txn.description,
            started=started,
            duration_s=round(self._clock() - start, 6),
            changes=len(txn.changes),
            resync=txn.resync.value if txn.resync else "",
            retry=retry,
            reverted=run.reverted,
            operations=operation_records(run.plan.operations, run.executions, start=start),
            undone=operation_records(run.undo, run.undone, start=start),
            pending={key: tuple(str(need) for need in needs) for key, needs in run.plan.pending.items()},
            errors=tuple(str(error) for error in run.errors),
        )
        self.history.add(record)
        return record


def _failures(executions: Mapping[int, Execution]) -> dict[str, SchedulerError]:
    """The first failure of each key; waiting for a dependency is none."""
    failures: dict[str, SchedulerError] = {}
    for execution in executions.values():
        if execution.error is not None and not isinstance(execution.error, PendingError):
            failures.setdefault(execution.operation.key, execution.error)
    return failures
