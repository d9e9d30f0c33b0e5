"""Reading the data plane: all descriptors at once, each after those whose metadata it needs.

In come the registry and what is desired; out goes every object that the data plane holds and that is ours, or
those under one prefix.
Metadata is refreshed as each descriptor finishes. If one descriptor fails, so does the whole retrieval, and
the metadata is put back: what cannot be seen completely is not changed. Next in the flow: ``scheduler.py``
makes it the actual graph.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from contiv.scheduler.descriptor import Actual, AnyDescriptor, Value
from contiv.scheduler.errors import RetrieveError, UnknownKeyError
from contiv.scheduler.metadata import Metadata
from contiv.scheduler.registry import Registry


async def retrieve_all(
    registry: Registry, desired: Mapping[str, Value], *, metadata: Metadata, timeout_s: float, under: str = ""
) -> dict[str, Value]:
    """Actual values by key, of the descriptors whose prefix starts with ``under``. Raises ``RetrieveError`` for the
    first descriptor that fails or exceeds the time."""
    before = metadata.snapshot()
    asked = [descriptor for descriptor in registry.descriptors if descriptor.prefix.startswith(under)]
    wanted: dict[str, dict[str, Value]] = {d.name: {} for d in registry.descriptors}
    for key, value in desired.items():
        wanted[registry.find(key).name][key] = value
    done = {descriptor.name: asyncio.Event() for descriptor in asked}
    found: dict[str, Value] = {}

    async def one(descriptor: AnyDescriptor) -> None:
        for name in descriptor.retrieve_after:
            if name in done:
                await done[name].wait()
        values = await _retrieve(registry, descriptor, wanted[descriptor.name], timeout_s=timeout_s)
        metadata.replace(descriptor.prefix, {key: actual.metadata for key, actual in values.items()})
        found.update((key, actual.value) for key, actual in values.items())
        done[descriptor.name].set()

    try:
        async with asyncio.TaskGroup() as group:
            for descriptor in asked:
                group.create_task(one(descriptor))
    except* RetrieveError as errors:
        metadata.restore(before)
        raise _first(errors) from errors
    except* asyncio.CancelledError:
        metadata.restore(before)
        raise
    return found


async def _retrieve(
    registry: Registry, descriptor: AnyDescriptor, wanted: Mapping[str, Value], *, timeout_s: float
) -> dict[str, Actual[Value, object]]:
    try:
        async with asyncio.timeout(timeout_s):
            actuals = await descriptor.retrieve(wanted)
    except Exception as error:
        raise RetrieveError(descriptor.name, error) from error
    values: dict[str, Actual[Value, object]] = {}
    for actual in actuals:
        try:
            owner = registry.find(actual.key)
        except UnknownKeyError as error:
            raise RetrieveError(descriptor.name, error) from error
        if owner is not descriptor:
            raise RetrieveError(descriptor.name, None, text=f"{actual.key} belongs to {owner.name}")
        if actual.key in values:
            raise RetrieveError(descriptor.name, None, text=f"{actual.key} was found twice")
        values[actual.key] = actual
    return values


def _first(errors: BaseExceptionGroup[RetrieveError]) -> RetrieveError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RetrieveError)
    return error
