"""What is seen of a collection, in order: ListBegun, Pages, ListEnded, then Changes; ListBegun again after a loss.

``listing`` and ``watching`` make these values, ``contiv.reflection`` takes them. Objects are raw JSON. No I/O.
"""

from __future__ import annotations

from typing import Literal

import msgspec

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


class Event(msgspec.Struct, frozen=True):
    """One change. ``raw`` is the object's JSON; of a deleted one the last state."""

    type: EventType
    raw: msgspec.Raw


class ListBegun(msgspec.Struct, frozen=True):
    """What follows is a complete list; what an unfinished one before it said is void."""


class Page(msgspec.Struct, frozen=True):
    """Some objects of a list. ``resource_version`` is that of the whole list, the same on each page."""

    items: tuple[msgspec.Raw, ...]
    resource_version: str


class ListEnded(msgspec.Struct, frozen=True):
    """The list is complete as of ``resource_version``; changes follow."""

    resource_version: str


class Changes(msgspec.Struct, frozen=True):
    """Events in their order, never empty."""

    events: tuple[Event, ...]


Observation = ListBegun | Page | ListEnded | Changes
