"""A scripted data plane that checks the order of what is done to it.

``Southbound`` holds objects, writes down operations, fails on demand and notes every violation: a create
before its dependencies, a delete under a dependent, a wrong old value or handle. Tests assert that
``violations`` is empty; raising inside a descriptor would only look like one more failed operation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from contiv.scheduler import Actual, Dependency, Descriptor, Metadata, Scheduler


class Item(Struct, frozen=True):
    """``data`` changes in place, ``shape`` takes a recreate, ``note`` does not matter to the data plane."""

    data: int = 0
    shape: int = 0
    note: str = ""
    needs: tuple[str, ...] = ()
    any_of: tuple[tuple[str, ...], ...] = ()
    claims: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class PlannedError(Exception):
    """A failure that the test asked for."""


class Southbound:
    """The data plane; ``pause`` is how often an operation yields to others before it acts."""

    def __init__(self, *, pause: int = 1) -> None:
        self.objects: dict[str, Item] = {}
        self.handles: dict[str, int] = {}
        self.history: list[str] = []
        self.violations: list[str] = []
        self.bulks: list[int] = []
        self.running = 0
        self.running_max = 0
        self.gates: dict[str, asyncio.Event] = {}
        self._failures: dict[str, list[Exception]] = {}
        self._lost: set[str] = set()
        self._pause = pause
        self._next_handle = 1

    def fail(self, operation: str, *, times: int = 1, error: Exception | None = None) -> None:
        """Let "create key", "update key", "delete key" or "retrieve kind" fail the next ``times`` times."""
        self._failures[operation] = [error or PlannedError(f"planned: {operation}")] * times

    def mislead(self, operation: str) -> None:
        """Let an operation take effect and fail all the same, like an answer that got lost."""
        self._lost.add(operation)

    def answer(self, operation: str) -> None:
        """The end of every operation."""
        if operation in self._lost:
            self._lost.discard(operation)
            raise PlannedError(f"lost: {operation}")

    def heal(self) -> None:
        """Forget all planned failures."""
        self._failures.clear()

    def gate(self, operation: str) -> asyncio.Event:
        """Let an operation hang until the returned event is set."""
        return self.gates.setdefault(operation, asyncio.Event())

    def take_history(self) -> list[str]:
        """What was done since the last call."""
        taken, self.history = self.history, []
        return taken

    async def enter(self, operation: str) -> None:
        """The start of every operation: concurrency is counted, gates and failures take effect."""
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            if operation in self.gates:
                await self.gates[operation].wait()
            for _ in range(self._pause):
                await asyncio.sleep(0)
            if self._failures.get(operation):
                raise self._failures[operation].pop()
        finally:
            self.running -= 1

    def new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def check(self, good: bool, what: str) -> None:
        if not good:
            self.violations.append(what)

    def satisfied(self, item: Item) -> bool:
        there = self.objects.keys()
        return all(k in there for k in item.needs) and all(any(k in there for k in s) for s in item.any_of)


class FakeDescriptor(Descriptor[Item, int]):
    """One kind of object of a southbound."""

    def __init__(
        self,
        southbound: Southbound,
        name: str,
        *,
        retrieve_after: tuple[str, ...] = (),
        create_after: tuple[str, ...] = (),
        at_once: int = 0,
    ) -> None:
        self.name = name
        self.create_after = create_after
        self.prefix = f"{name}/"
        self.retrieve_after = retrieve_after
        self.create_at_once = at_once
        self._southbound = southbound

    def dependencies(self, key: str, value: Item) -> Iterator[Dependency]:
        for need in value.needs:
            yield Dependency("needs", need)
        for keys in value.any_of:
            yield Dependency("one of", any_of=keys)
        for earlier in value.after:
            yield Dependency("after", earlier, lasting=False)

    def claims(self, key: str, value: Item) -> Iterable[str]:
        return value.claims

    def equivalent(self, key: str, old: Item, new: Item) -> bool:
        return essence(old) == essence(new)

    def must_recreate(self, key: str, old: Item, new: Item) -> bool:
        return old.shape != new.shape

    def retriable(self, key: str, error: BaseException) -> bool:
        return not isinstance(error, NotImplementedError)

    async def create(self, key: str, value: Item) -> int:
        south = self._southbound
        south.check(south.satisfied(value), f"create {key} before its dependencies")
        south.check(key not in south.objects, f"create {key} twice")
        await south.enter(f"create {key}")
        south.check(south.satisfied(value), f"dependencies of {key} left while it was created")
        held = {claim for other in south.objects.values() for claim in other.claims}
        south.check(not held.intersection(value.claims), f"create {key} takes what another holds")
        south.objects[key] = value
        south.handles[key] = south.new_handle()
        south.history.append(f"create {key}")
        south.answer(f"create {key}")
        return south.handles[key]

    async def create_many(self, items: Sequence[tuple[str, Item]]) -> list[int | BaseException]:
        south = self._southbound
        south.check(1 < len(items) <= self.create_at_once, f"{len(items)} creates at once")
        await south.enter("create_many")
        south.bulks.append(len(items))
        return await asyncio.gather(*(self.create(key, value) for key, value in items), return_exceptions=True)

    async def update(self, key: str, old: Item, new: Item, metadata: int) -> int:
        south = self._southbound
        south.check(south.satisfied(new), f"update {key} before its dependencies")
        south.check(self._is(key, old, metadata), f"update {key} from what it is not")
        await south.enter(f"update {key}")
        south.check(south.satisfied(new), f"dependencies of {key} left while it was updated")
        south.objects[key] = new
        south.history.append(f"update {key}")
        south.answer(f"update {key}")
        return metadata

    async def delete(self, key: str, value: Item, metadata: int) -> None:
        south = self._southbound
        south.check(self._is(key, value, metadata), f"delete {key}, which is another")
        await south.enter(f"delete {key}")
        sound = attainable(south.objects)
        del south.objects[key], south.handles[key]
        for name, other in south.objects.items():
            # Only what this delete took away: drift may have taken other dependencies before, and who stands in a
            # circle that nothing carries has lost its own.
            lost = name in sound and (
                key in other.needs
                or any(key in keys and not any(k in south.objects for k in keys) for keys in other.any_of)
            )
            south.check(not lost, f"delete {key} under {name}")
        south.history.append(f"delete {key}")
        south.answer(f"delete {key}")

    async def retrieve(self, wanted: Mapping[str, Item]) -> list[Actual[Item, int]]:
        south = self._southbound
        await south.enter(f"retrieve {self.name}")
        mine = [key for key in south.objects if key.startswith(self.prefix)]
        return [Actual(key, south.objects[key], south.handles[key]) for key in mine]

    def _is(self, key: str, value: Item, handle: int) -> bool:
        south = self._southbound
        there = south.objects.get(key)
        return there is not None and essence(there) == essence(value) and south.handles[key] == handle


class Clock:
    """Time as an argument."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def essence(item: Item) -> tuple[object, ...]:
    """What the data plane distinguishes."""
    return (item.data, item.shape, item.needs, item.any_of, item.claims)


def attainable(desired: Mapping[str, Item]) -> dict[str, tuple[object, ...]]:
    """Oracle: what must be there in the end, from below: values whose dependencies are there."""
    there: set[str] = set()
    while True:
        more = {
            key
            for key, item in desired.items()
            if key not in there
            and all(k in there for k in item.needs)
            and all(any(k in there for k in keys) for keys in item.any_of)
        }
        if not more:
            return {key: essence(desired[key]) for key in there}
        there |= more


def held(southbound: Southbound) -> dict[str, tuple[object, ...]]:
    """What the data plane holds, comparable with ``attainable``."""
    return {key: essence(item) for key, item in southbound.objects.items()}


def make_scheduler(
    southbound: Southbound, *, kinds: Iterable[str] = ("a", "b"), at_once: int = 0, **options: object
) -> Scheduler:
    """A scheduler over a southbound; kind "b" retrieves after "a", and can create ``at_once`` values in one call."""
    names = list(kinds)
    descriptors = [
        FakeDescriptor(
            southbound, name, retrieve_after=tuple(names[:1]) if index else (), at_once=at_once if index else 0
        )
        for index, name in enumerate(names)
    ]
    return Scheduler(descriptors, metadata=Metadata(), **options)  # type: ignore[arg-type]
