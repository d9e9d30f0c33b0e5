"""The loop: takes batches of events, has the handlers answer, commits one transaction, answers who waits.

In come events (``push``, ``put``, ``call``, from handlers ``follow_up``); out go transactions to the
scheduler, results to the callers, records to the history. While a transaction runs, events gather; together
they are the next one. An event that fails does not take the others with it: its keys are judged alone, and a
revert-on-failure event is undone alone. Refuses events when the queue is full or the controller has stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic

from msgspec import Struct

from contiv.controller.dispatch import Batch, Dispatcher, Job, S
from contiv.controller.event import (
    RESYNC_OF,
    ControllerError,
    ControllerStoppedError,
    DownstreamResync,
    Event,
    HandlerError,
    Kind,
    ReentrantCallError,
    Transaction,
)
from contiv.controller.handler import Commit, EventHandler
from contiv.controller.healing import Healing
from contiv.controller.history import EventHistory, EventRecord
from contiv.controller.metrics import Metrics, NoMetrics
from contiv.controller.queue import Entry, EventQueue
from contiv.log import get_logger
from contiv.scheduler import Outcome, PendingError, Scheduler, State, Txn

log = get_logger(__name__)


class Settings(Struct, frozen=True):
    """Limits and delays. ``periodic_resync_s`` None: no periodic downstream resync."""

    queued_max: int = 1000
    follow_ups_max: int = 1000
    batch_max: int = 256
    healing_delay_s: float = 5.0
    periodic_resync_s: float | None = None
    after_commit_timeout_s: float = 10.0
    history_events_max: int = 5000
    history_age_max_s: float = 24 * 3600.0


class Controller(Generic[S]):
    """One per agent, one consumer of its events."""

    def __init__(
        self,
        scheduler: Scheduler,
        handlers: Sequence[EventHandler[S]],
        *,
        state: S,
        settings: Settings | None = None,
        metrics: Metrics | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings or Settings()
        self.scheduler = scheduler
        self.state = state
        self.history = EventHistory(
            events_max=self.settings.history_events_max,
            age_max_s=self.settings.history_age_max_s,
            wall_clock=wall_clock,
        )
        self._metrics = metrics or NoMetrics()
        self._dispatcher = Dispatcher(handlers, state, validate=scheduler.validate)
        self._queue = EventQueue(
            queued_max=self.settings.queued_max,
            follow_ups_max=self.settings.follow_ups_max,
            on_depth=self._metrics.queue_depth,
        )
        self._healing = Healing(delay_s=self.settings.healing_delay_s, push=self._push_resync)
        self._wall_clock = wall_clock
        self._synced = asyncio.Event()
        self._stopped = asyncio.Event()
        self._consumer: asyncio.Task[None] | None = None
        self._current: Job | None = None
        self._numbers = 0
        self._batches = 0
        self._processing = False

    # ------------------------------------------------------------------ for those who have events

    def push(self, event: Event) -> None:
        """Queue an event; raises ``QueueFullError`` or ``ControllerStoppedError``."""
        self._queue.put(self._entry(event))

    async def put(self, event: Event) -> None:
        """Queue an event, waiting while many are queued: for sources that can slow down, such as watches.

        Raises ``ControllerStoppedError``; ``ReentrantCallError`` from inside the loop, where nothing would
        make room.
        """
        if asyncio.current_task() is self._consumer:
            raise ReentrantCallError(event.name)
        await self._queue.put_patiently(self._entry(event))

    def follow_up(self, event: Event) -> None:
        """Queue an event before all ordinary ones: for handlers, while they run an event that leads to this
        one."""
        cause = self._current.number if self._current is not None else None
        self._queue.put_follow_up(self._entry(event, cause=cause))

    async def call(self, event: Event) -> object:
        """Queue an event and wait until its transaction is done; returns the handler's answer.

        Raises what failed: a ``HandlerError``, a ``SchedulerError`` with the key, what ``after_commit``
        raised. A caller that is cancelled gives up its result only; but a revert-on-failure event whose
        caller is gone before its turn is dropped.
        """
        if asyncio.current_task() is self._consumer:
            raise ReentrantCallError(event.name)
        entry = self._entry(event)
        entry.reply = asyncio.get_running_loop().create_future()
        self._queue.put(entry)
        return await entry.reply

    async def wait_synced(self) -> None:
        """Wait for the first full resync to succeed."""
        await self._synced.wait()

    @property
    def synced(self) -> bool:
        """Whether updates are being processed."""
        return self._synced.is_set()

    @property
    def busy(self) -> bool:
        """Whether an event waits or is being processed."""
        return self._processing or len(self._queue) > 0

    def problem(self) -> str | None:
        """What is wrong although healing was tried, in words; None if nothing is. For a health check."""
        problem = self._healing.problem
        if problem and self.synced and self._healing.curable_by_retries:
            failed = any(status.state is State.FAILED for status in self.scheduler.unsettled.values())
            return problem if failed else None
        return problem

    async def run(self) -> None:
        """Process events until ``stop``; also runs the scheduler's retries. Cancelled, it interrupts the
        transaction.

        Whatever waits for an event that was not processed gets ``ControllerStoppedError``.
        """
        assert self._consumer is None, "a controller runs once"
        self._consumer = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(self.scheduler.run()), group.create_task(self._resync_periodically())]
                while batch := await self._queue.take(self.settings.batch_max, synced=self.synced):
                    self._processing = True
                    await self._process(batch)
                    self._processing = False
                for helper in helpers:
                    helper.cancel()
        finally:
            self._healing.cancel()
            self._refuse(self._queue.close())
            self._stopped.set()

    async def stop(self) -> None:
        """Finish the running transaction, refuse what waits, and return when ``run`` is at its end.

        Operations have limits of their own; who wants a shorter one cancels ``run`` when it is over.
        """
        self._refuse(self._queue.close())
        if self._consumer is not None:
            await self._stopped.wait()

    # ------------------------------------------------------------------ one batch

    def _entry(self, event: Event, *, cause: int | None = None) -> Entry:
        return Entry(event, queued=asyncio.get_running_loop().time(), cause=cause)

    def _refuse(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.fail(ControllerStoppedError(entry.event.name))

    async def _process(self, entries: list[Entry]) -> None:
        """One batch from handlers to answers. Does not raise, unless cancelled: failures belong to the
        events."""
        start, started = asyncio.get_running_loop().time(), self._wall_clock()
        self._batches += 1
        jobs = self._jobs(entries)
        outcome: Outcome | None = None
        try:
            if jobs:
                outcome = await self._run(jobs)
        except asyncio.CancelledError:
            self._refuse(entries)
            raise
        except Exception as error:  # a bug between handlers and data plane: say so everywhere and recompute
            log.exception("batch_failed", batch=self._batches)
            for job in jobs:
                job.fail(error, broken=True)
        for job in jobs:
            self._finish(job, outcome, started=started, start=start)
        self._judge(jobs, outcome, start=start)

    def _jobs(self, entries: list[Entry]) -> list[Job]:
        jobs = []
        for entry in entries:
            self._numbers += 1
            if entry.abandoned and entry.event.transaction is Transaction.REVERT_ON_FAILURE:
                # Nobody wants to know any more, and not doing it leaves nothing over.
                log.info("event_dropped", event_name=entry.event.name, reason="its caller is gone")
            else:
                jobs.append(Job(entry, self._numbers))
        return jobs

    async def _run(self, jobs: list[Job]) -> Outcome | None:
        batch = Batch()
        self._dispatch(jobs, batch)
        outcome: Outcome | None = None
        if jobs[0].event.kind is Kind.UPDATE:
            outcome = await self._commit(jobs, batch)
        elif jobs[0].error is None:
            outcome = await self._resync(jobs[0], batch)
        else:
            return None  # a resync in which a handler failed changed nothing that could be persisted
        if outcome is not None:
            _blame(jobs, outcome)
        await self._revert(jobs, batch)
        await self._after_commit(jobs, batch, outcome)
        return outcome

    def _dispatch(self, jobs: list[Job], batch: Batch) -> None:
        for job in jobs:
            self._current = job
            try:
                if job.event.kind is Kind.UPDATE:
                    self._dispatcher.update(job, batch)
                elif job.event.kind is not Kind.DOWNSTREAM_RESYNC:
                    self._dispatcher.resync(job, batch)
            finally:
                self._current = None

    async def _commit(self, jobs: Sequence[Job], batch: Batch) -> Outcome | None:
        if not batch.values:
            return None
        description = ", ".join(job.event.name for job in jobs[:8]) + (", …" if len(jobs) > 8 else "")
        return await self.scheduler.commit(Txn(batch.values, description=description))

    async def _resync(self, job: Job, batch: Batch) -> Outcome:
        kind = job.event.kind
        under = job.event.under if isinstance(job.event, DownstreamResync) else ""
        description = f"{job.event.name}: {job.event.describe()}"
        txn = Txn(batch.values, resync=RESYNC_OF[kind], under=under, description=description)
        outcome = await self.scheduler.commit(txn)
        if kind is Kind.FULL_RESYNC and self.scheduler.readable:
            self._synced.set()
        return outcome

    async def _revert(self, jobs: Sequence[Job], batch: Batch) -> list[Job]:
        """Undo the events that failed, last one first, in a transaction of their own; returns them."""
        undone = [job for job in jobs if job.error and job.revertible and not job.reverted]
        if not undone:
            return []
        changes = Batch()
        for job in reversed(undone):
            self._dispatcher.revert(job, changes)
        outcome = await self._commit(undone, changes)
        for job in undone:
            # Handlers and data plane may differ now: compare everything.
            job.broken = job.broken or (outcome is not None and not outcome.ok)
        for name, values in changes.by_handler.items():
            batch.add(name, values)
        return undone

    async def _after_commit(self, jobs: list[Job], batch: Batch, outcome: Outcome | None) -> None:
        """Have the handlers persist; events whose handler cannot are failed and, where asked for,
        reverted."""
        for name in self._dispatcher.handlers:
            await self._tell(name, jobs, batch, outcome)
        changes = Batch()
        late = await self._revert(jobs, changes)
        for name in self._dispatcher.handlers:
            await self._tell(name, late, changes, outcome)

    async def _tell(self, name: str, jobs: Sequence[Job], batch: Batch, outcome: Outcome | None) -> None:
        mine = [job for job in jobs if name in job.ran]
        changes = batch.by_handler.get(name, {})
        if not mine and not changes:
            return
        commit = Commit(
            events=tuple(job.event for job in mine if not job.reverted and name not in job.raised),
            reverted=tuple(job.event for job in mine if job.reverted),
            changes=changes,
            outcome=outcome,
        )
        try:
            async with asyncio.timeout(self.settings.after_commit_timeout_s):
                await self._dispatcher.handlers[name].after_commit(commit)
        except Exception as cause:  # what a handler could not persist fails the events that it was for
            log.warning("after_commit_failed", handler=name, error=str(cause) or type(cause).__name__)
            for job in mine:
                error = HandlerError(name, "persist", job.event.name, cause)
                error.__cause__ = cause
                job.fail(error)

    # ------------------------------------------------------------------ after the batch

    def _finish(self, job: Job, outcome: Outcome | None, *, started: float, start: float) -> None:
        """Answer, measure and write down one event."""
        if job.error is None:
            try:
                job.entry.succeed(self._answer(job))
            except Exception as error:  # the same as for any step of a handler
                job.fail(error)
        if job.error is not None:
            job.entry.fail(job.error)
        now = asyncio.get_running_loop().time()
        waited = max(0.0, start - job.entry.queued)
        self._metrics.event(job.event.name, waited_s=waited, duration_s=now - start, failed=job.error is not None)
        self.history.add(
            EventRecord(
                number=job.number,
                name=job.event.name,
                description=job.event.describe(),
                kind=job.event.kind.value,
                started=started,
                ended=self._wall_clock(),
                waited_s=round(waited, 6),
                blocking=job.entry.reply is not None,
                follow_up_to=job.entry.cause,
                handlers=tuple(job.steps),
                batch=self._batches,
                transaction=outcome.number if outcome else None,
                summary=_summary(outcome),
                reverted=job.reverted,
                error=str(job.error or ""),
            )
        )

    def _answer(self, job: Job) -> object:
        if job.entry.reply is None:
            return None
        answers = (self._dispatcher.handlers[name].answer(job.event) for name in job.ran)
        return next((answer for answer in answers if answer is not None), None)

    def _judge(self, jobs: list[Job], outcome: Outcome | None, *, start: float) -> None:
        """Tell metrics and healing how the batch went."""
        events = [job.event for job in jobs]
        broken = next((job.error for job in jobs if job.broken), None)
        error = next(iter(outcome.errors if outcome else ()), None) or broken
        now = asyncio.get_running_loop().time()
        keys = len(outcome.states) if outcome else 0
        self._metrics.batch(events=len(jobs), keys=keys, duration_s=now - start, failed=error is not None)
        if error is not None:
            full = broken is not None or not self.synced
            self._healing.failed(events, str(error), full=full, insist=not self.synced)
        else:
            self._healing.succeeded(events, resync=any(event.kind is not Kind.UPDATE for event in events))

    def _push_resync(self, event: Event) -> bool:
        try:
            self._queue.put_follow_up(self._entry(event))
        except ControllerError as error:
            log.warning("resync_not_queued", event_name=event.name, error=str(error))
            return False
        return True

    async def _resync_periodically(self) -> None:
        period = self.settings.periodic_resync_s
        while period is not None:
            await asyncio.sleep(period)
            if self.synced and not self._queue.holds(DownstreamResync):
                self._push_resync(DownstreamResync("periodic"))


def _blame(jobs: Sequence[Job], outcome: Outcome) -> None:
    """Fail the events whose keys failed. Who waits, or reverts, also wants no key of theirs to be pending."""
    for job in jobs:
        if job.error is not None:
            continue
        if job.event.kind is not Kind.UPDATE:
            if not outcome.ok:
                job.fail(outcome.errors[0])
            continue
        strict = job.revertible or job.entry.reply is not None
        errors = [error for key in sorted(job.keys) if (error := outcome.error_of(key)) is not None]
        failures = [error for error in errors if not isinstance(error, PendingError)]
        if failures or (strict and errors):
            job.fail((failures or errors)[0])  # what only waits for a failed key would not say why


def _summary(outcome: Outcome | None) -> str:
    if outcome is None:
        return "no change"
    operations = len(outcome.plan.operations)
    failed = f", {len(outcome.errors)} errors" if outcome.errors else ""
    return f"transaction {outcome.number}: {operations} operations{failed}"
