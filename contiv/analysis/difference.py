"""What a change of manifests opens and closes. Pure.

In: two answers over the same kinds of traffic. Out: the connections of one that the other does not have. Ends are known
by their names: a pod that is in one of them alone takes its connections with it.
"""

from __future__ import annotations

import msgspec

from contiv.analysis.reach import Connection, Reach


class Difference(msgspec.Struct, frozen=True):
    """``opened``: what only the second allows, or more of it; ``closed``: what only the first does."""

    opened: tuple[Connection, ...]
    closed: tuple[Connection, ...]

    def __bool__(self) -> bool:
        return bool(self.opened or self.closed)


def between(before: Reach, after: Reach) -> Difference:
    """The difference of two answers, sorted."""
    old, new = _extents(before), _extents(after)
    return Difference(
        opened=tuple(sorted(each for each, extent in new.items() if extent > old.get(each, 0))),
        closed=tuple(sorted(each for each, extent in old.items() if extent > new.get(each, 0))),
    )


def _extents(reach: Reach) -> dict[Connection, int]:
    """2 for all of a connection, 1 for a part of it."""
    return dict.fromkeys(reach.partly(), 1) | dict.fromkeys(reach.allowed(), 2)
