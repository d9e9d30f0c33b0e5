"""One collection observed for ever: nested generators, each ending where its scope of failure ends.

::

    observe       never ends; a 410 or a garbled stream begins a new list, other failures wait and go on
      list_pages  one list, by page                                                        (listing)
      follow      many watches from one version; ends by KubeGone or KubeGarbled
        watch_once   one HTTP watch; ends when the server ends it, with silence, or with a failure

Out come batches: all events that had arrived when the consumer asked. A consumer that is slow stops the
reading, and the API server's and the kernel's buffers are the only ones that fill; one that fell too far
behind gets a 410. A version is only ever resumed after everything before it was handed out. Next:
``contiv.reflection.reflector``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, Final

import msgspec

from contiv.kube.backoff import Backoff
from contiv.kube.client import KubeClient
from contiv.kube.errors import KubeFailure, KubeGarbled, KubeGone, KubeUnavailable, from_status
from contiv.kube.listing import PAGE_LIMIT, list_pages
from contiv.kube.observation import Changes, Event, ListBegun, ListEnded, Observation

WATCH_TIMEOUT_S: Final = (240, 480)
"""Asked of the server, drawn from this range so that watches do not end together (client-go: 5 to 10 minutes)."""
SILENCE_TIMEOUT_S: Final = 150.0
"""Bookmarks come about once a minute; after two missed ones the connection counts as dead and is opened anew."""
REFUSALS_MAX: Final = 5
"""Watches refused in a row by a server that answers. More, and the version is doubted: one that a restored API
server has not reached yet is refused for as long as it has not (504, "too large resource version").
"""
QUICK_END_S: Final = 1.0
"""A watch that ends sooner and without news counts as failed."""
LINE_BYTES_MAX: Final = 16 << 20
"""etcd holds objects of at most 1.5 MB by default; JSON makes them a few times larger."""


async def observe(
    client: KubeClient,
    path: str,
    *,
    report: Callable[[KubeFailure], None],
    limit: int = PAGE_LIMIT,
    backoff: Backoff | None = None,
) -> AsyncGenerator[Observation, None]:
    """The collection at ``path`` from list to last change, for ever. ``report`` hears of failures."""
    backoff = backoff or Backoff()
    page_limit = limit
    while True:
        listing = True
        try:
            yield ListBegun()
            version = ""
            async with aclosing(list_pages(client, path, limit=page_limit)) as pages:
                async for page in pages:
                    version = page.resource_version
                    yield page
            listing, page_limit = False, limit
            yield ListEnded(version)
            async with aclosing(follow(client, path, version, report=report, backoff=backoff)) as batches:
                async for changes in batches:
                    yield changes
        except KubeFailure as failure:
            report(failure)
            if listing and isinstance(failure, KubeGone):
                page_limit = 0  # the continue token expired: a list in one piece cannot
            await _pause(backoff, failure)


async def follow(
    client: KubeClient,
    path: str,
    resource_version: str,
    *,
    report: Callable[[KubeFailure], None],
    backoff: Backoff,
) -> AsyncGenerator[Changes, None]:
    """Changes after ``resource_version`` over as many watches as it takes, until KubeGone or KubeGarbled."""
    cursor = _Cursor(resource_version)
    loop = asyncio.get_running_loop()
    refusals = 0
    while True:
        before, started_s = cursor.version, loop.time()
        try:
            async with aclosing(watch_once(client, path, cursor)) as batches:
                async for changes in batches:
                    backoff.reset()
                    refusals = 0
                    yield changes
        except (KubeGone, KubeGarbled):
            raise
        except KubeFailure as failure:
            refusals = refusals + 1 if failure.status not in (0, 429) else 0
            if refusals > REFUSALS_MAX:
                detail = f"refused {refusals} times from version {cursor.version}, last: {failure.detail}"
                raise KubeGone(failure.request, detail=detail, remedy="list again") from failure
            report(failure)
            await _pause(backoff, failure)
        else:
            refusals = 0
            if cursor.version != before or loop.time() - started_s > QUICK_END_S:
                backoff.reset()
            else:  # a server that ends watches at once must not make us spin
                await asyncio.sleep(backoff.next_s())


class _Cursor:
    """The version up to which everything was handed out."""

    __slots__ = ("version",)

    def __init__(self, version: str) -> None:
        self.version = version


async def watch_once(client: KubeClient, path: str, cursor: _Cursor) -> AsyncGenerator[Changes, None]:
    """One watch from the cursor's version, which moves as events and bookmarks come. Ends when the server ends it.

    KubeGone when the version is too old, KubeGarbled when a line is no event, KubeUnavailable on silence or reset.
    """
    request = f"GET {path}?watch"
    params = {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": cursor.version,
        "timeoutSeconds": str(random.randint(*WATCH_TIMEOUT_S)),
    }
    async with client.stream(path, params=params, read_timeout_s=SILENCE_TIMEOUT_S) as content:
        rest = b""
        async for chunk in content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                detail = f"an event of more than {LINE_BYTES_MAX} bytes"
                raise KubeGarbled(request, detail=detail, remedy="the collection is listed again")
            if not lines:
                continue
            events, version, failure = _read_events(lines, request)
            if events:
                yield Changes(events)
            if version:
                if _is_before(version, cursor.version):
                    detail = f"version {version} after {cursor.version}: its data was replaced by older data"
                    raise KubeGone(request, detail=detail, remedy="list again")
                cursor.version = version
            if failure is not None:
                raise failure


def _is_before(version: str, other: str) -> bool:
    """Versions of one collection are numbers that grow (KEP-5504); of any that are not, nothing is said."""
    return version.isdecimal() and other.isdecimal() and int(version) < int(other)


# ---- lines -------------------------------------------------------------------------------------------------


class _Line(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: Any = None


class _Header(msgspec.Struct, frozen=True):
    metadata: _Meta | None = None


_line_decoder: Final = msgspec.json.Decoder(_Line)
_header_decoder: Final = msgspec.json.Decoder(_Header)


def _read_events(lines: Iterable[bytes], request: str) -> tuple[tuple[Event, ...], str, KubeFailure | None]:
    """The events of some lines, the last version among them and the bookmarks ("" for none), and what ended
    them.
    """
    events: list[Event] = []
    version = ""
    for text in lines:
        if not text.strip():
            continue
        try:
            line = _line_decoder.decode(text)
            if line.type == "ERROR":
                return tuple(events), version, from_status(request, line.object)
            meta = _header_decoder.decode(line.object).metadata or _Meta()
        except msgspec.DecodeError as error:
            detail = f"no watch event: {error}"
            garbled = KubeGarbled(request, detail=detail, remedy="the collection is listed again")
            return tuple(events), version, garbled
        if line.type in ("ADDED", "MODIFIED", "DELETED"):
            events.append(Event(line.type, line.object))  # type: ignore[arg-type]
        if isinstance(meta.resource_version, str) and meta.resource_version:
            version = meta.resource_version
    return tuple(events), version, None


async def _pause(backoff: Backoff, failure: KubeFailure) -> None:
    wish = failure.retry_after_s if isinstance(failure, KubeUnavailable) else 0.0
    await asyncio.sleep(backoff.next_s(at_least_s=wish))
