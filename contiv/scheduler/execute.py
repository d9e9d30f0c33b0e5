"""Carrying out operations: each starts as soon as those it waits for are over, many at once, within a bound.

In come a plan's operations; out goes an ``Execution`` for each of them. A pipelining client sees independent
operations in one go, and 100 pods do not wait for one another; creates of a descriptor that can make many at
once are one call. Before each call the gate is checked against what really is: nothing is created before its
dependencies, nothing deleted while something rests on it; so a failed operation stops exactly what needs it.
Refuses to hide anything: what failed, was blocked or interrupted says so.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from contiv.errors import SchedulerError
from contiv.scheduler.descriptor import AnyDescriptor, Dependency, lasting
from contiv.scheduler.errors import BlockedError, InterruptedOperationError, OperationError, PendingError
from contiv.scheduler.graph import Graph
from contiv.scheduler.metadata import Metadata
from contiv.scheduler.operations import Operation, Verb
from contiv.scheduler.registry import Registry


class Result(StrEnum):
    """What became of an operation. Skipped: its gate was closed, for instance because a dependency failed."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"


_DONE: Final = Result.DONE
_FAILED: Final = Result.FAILED
_SKIPPED: Final = Result.SKIPPED


class Execution(Struct, frozen=True):
    """One operation with its result; times in seconds of the given clock."""

    operation: Operation
    result: Result
    error: SchedulerError | None
    started: float
    ended: float


class _Turns:
    """Holds creates back until those of the descriptors that their own names in ``create_after`` are over."""

    def __init__(self, operations: Sequence[Operation], descriptors: Sequence[AnyDescriptor]) -> None:
        kinds = set(descriptors)
        before = {name for kind in kinds for name in kind.create_after} & {kind.name for kind in kinds}
        self._first: dict[int, tuple[str, ...]] = {}
        self._names: dict[int, str] = {}
        for index, descriptor in enumerate(descriptors if before else ()):
            if descriptor.create_after and operations[index].verb is Verb.CREATE:
                self._first[index] = descriptor.create_after
            if descriptor.name in before and operations[index].verb is not Verb.DELETE:
                self._names[index] = descriptor.name
        self._left = Counter(self._names.values())
        self._held: list[int] = []

    def admit(self, indexes: Iterable[int]) -> list[int]:
        """Those that may start; the others are held."""
        if not any(self._left.values()):
            return list(indexes)
        admitted: list[int] = []
        for index in indexes:
            (self._held if self._waits(index) else admitted).append(index)
        return admitted

    def over(self, indexes: Iterable[int]) -> list[int]:
        """Those held that may start now that these are over."""
        ended = [self._names[index] for index in indexes if index in self._names]
        self._left.subtract(ended)
        if all(self._left[name] for name in ended):
            return []
        held, self._held = self._held, []
        return self.admit(held)

    def release(self) -> list[int]:
        """All that are held: for when nothing else is left to do."""
        held, self._held = self._held, []
        return held

    def _waits(self, index: int) -> bool:
        return any(self._left[name] for name in self._first.get(index, ()))


class Executor:
    """Applies operations to the data plane and keeps the actual graph and the metadata in step with it."""

    def __init__(
        self,
        registry: Registry,
        *,
        actual: Graph,
        metadata: Metadata,
        clock: Callable[[], float],
        concurrency_max: int,
        timeout_s: float,
    ) -> None:
        self._registry = registry
        self._actual = actual
        self._metadata = metadata
        self._clock = clock
        self._concurrency_max = concurrency_max
        self._timeout_s = timeout_s
        # Deletes under way: two alternatives that go at the same time must not vouch for each other.
        self._leaving: set[str] = set()
        # Keys that are to be deleted, or whose operation failed: they may be there, but not as the plan has
        # them.
        self._dubious: set[str] = set()

    async def run(self, operations: Sequence[Operation], executions: dict[int, Execution]) -> None:
        """Execute all; ``executions`` fills by position in the order of completion, also when cancelled."""
        self._dubious = {operation.key for operation in operations if operation.verb is Verb.DELETE}
        waiting = [len(operation.after) for operation in operations]
        followers: dict[int, list[int]] = {}
        for index, operation in enumerate(operations):
            for earlier in operation.after:
                followers.setdefault(earlier, []).append(index)
        descriptors = [self._registry.find(operation.key) for operation in operations]
        turns = _Turns(operations, descriptors)
        ready = deque(turns.admit(index for index, count in enumerate(waiting) if not count))
        running = 0
        create = Verb.CREATE

        async def work(batch: Sequence[int]) -> None:
            nonlocal running
            try:
                done = await self._execute([operations[index] for index in batch])
            except asyncio.CancelledError:
                executions.update((index, self._interrupted(operations[index])) for index in batch)
                raise
            executions.update(zip(batch, done, strict=True))
            running -= 1
            freed = []
            for index in batch:
                for follower in followers.get(index, ()):
                    waiting[follower] -= 1
                    if not waiting[follower]:
                        freed.append(follower)
            ready.extend(turns.admit(freed))
            ready.extend(turns.over(batch))
            start()

        def start() -> None:
            together: dict[str, list[int]] = {}
            if not ready and not running:
                ready.extend(turns.release())
            while ready and running < self._concurrency_max:
                index = ready.popleft()
                descriptor = descriptors[index]
                if descriptor.create_at_once <= 1 or operations[index].verb is not create:
                    spawn([index])
                    continue
                batch = together.setdefault(descriptor.name, [])
                batch.append(index)
                if len(batch) == descriptor.create_at_once:
                    spawn(together.pop(descriptor.name))
            for batch in together.values():
                spawn(batch)

        def spawn(batch: Sequence[int]) -> None:
            nonlocal running
            running += 1
            group.create_task(work(batch))

        async with asyncio.TaskGroup() as group:
            start()
        assert len(executions) == len(operations), "an operation was planned and never started"

    def _interrupted(self, operation: Operation) -> Execution:
        error = InterruptedOperationError(operation.key, operation.verb)
        return Execution(operation, Result.INTERRUPTED, error, self._clock(), self._clock())

    async def _execute(self, operations: Sequence[Operation]) -> list[Execution]:
        """Operations from gate to result: one, or creates of one descriptor.

        Raises only when the transaction itself is cancelled.
        """
        started = self._clock()
        closed = self._closed(operations)
        passed = [each for index, each in enumerate(operations) if index not in closed] if closed else operations
        errors = iter(await self._attempt(passed) if passed else ())
        ended = self._clock()
        executions = []
        for index, operation in enumerate(operations):
            barrier = closed.get(index)
            error = next(errors) if barrier is None else barrier
            if error is not None:
                self._dubious.add(operation.key)
                result = _FAILED if barrier is None else _SKIPPED
            else:
                result = _DONE
                if operation.new is not None:
                    self._dubious.discard(operation.key)
            executions.append(Execution(operation, result, error, started, ended if barrier is None else started))
        return executions

    async def _attempt(self, operations: Sequence[Operation]) -> Sequence[OperationError | None]:
        """Call the descriptor; why each operation failed, None where it did not."""
        text = ""
        cause: BaseException
        try:
            async with asyncio.timeout(self._timeout_s):
                if len(operations) == 1:
                    await self._apply(operations[0])
                    return (None,)
                return await self._create_many(operations)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancels us: the descriptor awaited a future that its connection gave up. That is a
            # failure.
            cause, text = error, "the data plane's client gave up"
        except TimeoutError as error:
            cause, text = error, str(error) or f"no answer within {self._timeout_s:g} s"
        except Exception as error:  # whatever a descriptor raises is this key's failure and is reported as such
            cause = error
        return [OperationError(operation.key, operation.verb, cause, text=text) for operation in operations]

    async def _create_many(self, operations: Sequence[Operation]) -> list[OperationError | None]:
        descriptor = self._registry.find(operations[0].key)
        results = await descriptor.create_many([(operation.key, operation.new) for operation in operations])
        errors: list[OperationError | None] = []
        for operation, result in zip(operations, results, strict=True):
            if isinstance(result, BaseException):
                errors.append(OperationError(operation.key, operation.verb, result))
            else:
                self._arrived(operation, result)
                errors.append(None)
        return errors

    def _closed(self, operations: Sequence[Operation]) -> dict[int, SchedulerError]:
        """Those whose gate is closed, by their place."""
        closed: dict[int, SchedulerError] = {}
        met: tuple[Dependency, ...] | None = None
        for index, operation in enumerate(operations):
            if operation.needs is met and operation.key not in self._actual.values:
                continue  # another create; thousands in a row need the same
            error = self._gate(operation)
            if error is not None:
                closed[index] = error
            elif operation.old is None:
                met = operation.needs
        return closed

    def _gate(self, operation: Operation) -> SchedulerError | None:
        key = operation.key
        if operation.new is None:
            dependent = self._actual.resting_on(key, without=self._leaving, despite=operation.despite)
            return None if dependent is None else BlockedError(key, operation.verb, dependent)
        if operation.old is None and key in self._actual.values:
            return OperationError(key, operation.verb, None, text="its old value could not be deleted")
        unmet = self._unmet(operation)
        return PendingError(key, [str(need) for need in unmet]) if unmet else None

    def _unmet(self, operation: Operation) -> list[Dependency]:
        """Dependencies that stop an arrival.

        Dubious keys do not count among alternatives, nor for an update that moves to other dependencies: the
        plan's order is free of circles only for the values that it wants, not for old ones that failed to go.
        """
        needs, moves = operation.needs, False
        if operation.old is not None:
            needs = lasting(needs)
            moves = needs != self._actual.needs(operation.key)
        there = () if moves else self._actual.values
        return [
            need
            for need in needs
            if need.key not in there
            and not self._actual.met(need, without=self._dubious if moves or len(need.any_of) > 1 else ())
        ]

    async def _apply(self, operation: Operation) -> None:
        key, old, new = operation.key, operation.old, operation.new
        descriptor = self._registry.find(key)
        if new is None:
            self._leaving.add(key)
            try:
                await descriptor.delete(key, old, self._metadata.get(key))
            finally:
                self._leaving.discard(key)
            self._actual.remove(key)
            self._metadata.remove(key)
            return
        if old is None:
            metadata = await descriptor.create(key, new)
        else:
            metadata = await descriptor.update(key, old, new, self._metadata.get(key))
        self._arrived(operation, metadata)

    def _arrived(self, operation: Operation, metadata: object) -> None:
        assert operation.new is not None
        self._actual.put(operation.key, operation.new, operation.needs)
        self._metadata.put(operation.key, metadata)
