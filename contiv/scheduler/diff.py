"""What has to happen to one key that is there, seen alone: the difference between its desired and its actual value.
Pure.

In come both values and the descriptor's opinion; out goes one word. What it means for other keys, and when,
is ``plan.py``'s affair.
"""

from __future__ import annotations

from enum import StrEnum

from contiv.scheduler.descriptor import AnyDescriptor, Value


class Change(StrEnum):
    """The step from actual to desired."""

    NONE = "none"
    UPDATE = "update"
    RECREATE = "recreate"
    DELETE = "delete"


def diff(descriptor: AnyDescriptor, key: str, *, desired: Value | None, actual: Value) -> Change:
    """Compare the two values; None means unwanted."""
    if desired is None:
        return Change.DELETE
    if desired is actual or descriptor.equivalent(key, actual, desired):
        return Change.NONE
    return Change.RECREATE if descriptor.must_recreate(key, actual, desired) else Change.UPDATE
