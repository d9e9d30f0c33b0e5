"""Offering events to the handlers and merging what they answer into the changes of one transaction.

In comes a ``Job`` (an event under way); out go desired keys in a ``Batch``, each with the handler that owns
it. A handler that raises fails its event and not the others: of a best-effort event what the other handlers
said stands; a revert-on-failure event is undone by the handlers that ran; if the error is one of ours it was
a refusal and is passed on as it is. A resync in which a handler fails contributes nothing at all, because the
keys of that handler would look unwanted. Synchronous; ``loop.py`` commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct, field

from contiv.controller.event import Event, HandlerError, OwnershipError, Transaction
from contiv.controller.handler import EventHandler, State
from contiv.controller.history import HandlerRecord
from contiv.controller.queue import Entry
from contiv.errors import ContivError, SchedulerError
from contiv.scheduler import Value

S = TypeVar("S", bound=State)

Changes = Mapping[str, Value | None]


class Job(Struct, eq=False):
    """One event under way: which handlers ``ran`` it, which of them ``raised``, which ``keys`` it changed.

    ``broken`` says that a handler's state can no longer be trusted.
    """

    entry: Entry
    number: int
    ran: list[str] = field(default_factory=list)
    raised: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    steps: list[HandlerRecord] = field(default_factory=list)
    error: BaseException | None = None
    broken: bool = False
    reverted: bool = False

    @property
    def event(self) -> Event:
        """The event itself."""
        return self.entry.event

    @property
    def revertible(self) -> bool:
        """Whether a failure undoes the event."""
        return self.event.transaction is Transaction.REVERT_ON_FAILURE

    def fail(self, error: BaseException, *, broken: bool = False) -> None:
        """Note a failure; the first one is what who waits gets to see."""
        self.error = self.error or error
        self.broken = self.broken or broken


class Batch(Struct, eq=False):
    """Changes of one transaction, merged and by handler; later answers win."""

    values: dict[str, Value | None] = field(default_factory=dict)
    by_handler: dict[str, dict[str, Value | None]] = field(default_factory=dict)

    def add(self, handler: str, changes: Changes) -> None:
        """Merge the changes of one handler."""
        self.values.update(changes)
        self.by_handler.setdefault(handler, {}).update(changes)


class Dispatcher(Generic[S]):
    """Runs handlers and knows which of them owns which key."""

    def __init__(self, handlers: Sequence[EventHandler[S]], state: S, *, validate: Callable[[Changes], None]) -> None:
        names = [handler.name for handler in handlers]
        if len(set(names)) != len(names):
            raise ContivError(f"two handlers share a name: {', '.join(sorted(names))}")
        self.handlers = {handler.name: handler for handler in handlers}
        self._state = state
        self._validate = validate
        self._owners: dict[str, str] = {}

    def update(self, job: Job, batch: Batch) -> None:
        """Offer an update to the handlers that want it."""
        if not self._apply(job):
            return
        answers: list[tuple[str, Changes]] = []
        claims: dict[str, str] = {}
        for name, handler in self.handlers.items():
            try:
                if not handler.handles(job.event):
                    continue
                job.ran.append(name)
                changes = handler.update(job.event)
                self._claim(name, changes, claims, self._owners)
            except Exception as error:  # a handler's bug is this event's failure; the agent goes on and heals
                self._failed(job, name, "update", error)
                if job.revertible:
                    self.revert(job, batch)
                    return
                continue
            answers.append((name, changes))
            job.steps.append(HandlerRecord(name, changes=len(changes)))
        for name, changes in answers:
            self._merge(job, batch, name, changes)

    def resync(self, job: Job, batch: Batch) -> None:
        """Let all handlers rebuild their keys; all of them or, if one fails, none go into the batch."""
        if not self._apply(job):
            return
        answers: list[tuple[str, Changes]] = []
        claims: dict[str, str] = {}
        for name, handler in self.handlers.items():
            job.ran.append(name)
            try:
                desired = handler.resync(job.event, self._state)
                self._claim(name, desired, claims, {})
            except Exception as error:  # as in update; what the data plane has stays until healing succeeds
                self._failed(job, name, "resync", error)
                continue
            answers.append((name, desired))
            job.steps.append(HandlerRecord(name, changes=len(desired)))
        if job.error is None:
            self._owners = {}
            for name, changes in answers:
                self._merge(job, batch, name, changes)

    def revert(self, job: Job, batch: Batch) -> None:
        """Let the handlers that ran undo the event, last one first."""
        job.reverted = True
        for name in reversed(job.ran):
            try:
                changes = self.handlers[name].revert(job.event)
                self._claim(name, changes, {}, self._owners)
            except Exception as error:  # as in update
                self._failed(job, name, "revert", error)
                continue
            job.steps.append(HandlerRecord(name, changes=len(changes), reverted=True))
            self._merge(job, batch, name, changes)

    def _apply(self, job: Job) -> bool:
        try:
            self._state.apply(job.event)
        except Exception as error:  # as in update
            self._failed(job, "state", "apply", error)
            return False
        return True

    def _claim(self, name: str, changes: Changes, claims: dict[str, str], owners: Mapping[str, str]) -> None:
        """Check that the keys are the handler's own and fit the scheduler, then note them in ``claims``."""
        for key in changes:
            owner = claims.get(key) or owners.get(key, name)
            if owner != name:
                raise OwnershipError(key, owner, name)
        self._validate(changes)
        claims.update(dict.fromkeys(changes, name))

    def _merge(self, job: Job, batch: Batch, name: str, changes: Changes) -> None:
        job.keys.update(changes)
        batch.add(name, changes)
        for key, value in changes.items():
            if value is None:
                self._owners.pop(key, None)
            else:
                self._owners[key] = name

    def _failed(self, job: Job, name: str, step: str, error: Exception) -> None:
        job.raised.add(name)
        if job.revertible and step == "update" and _refusal(error):
            # On purpose, such as: no free address. Who waits gets its words, nothing has to heal.
            job.fail(error)
            job.steps.append(HandlerRecord(name, error=str(error)))
            return
        wrapped = HandlerError(name, step, job.event.name, error)
        wrapped.__cause__ = error
        job.fail(wrapped, broken=True)
        job.steps.append(HandlerRecord(name, error=str(wrapped), reverted=step == "revert"))


def _refusal(error: Exception) -> bool:
    # Wrong keys are noticed here and not by the handler: they are its bugs.
    return isinstance(error, ContivError) and not isinstance(error, OwnershipError | SchedulerError)
