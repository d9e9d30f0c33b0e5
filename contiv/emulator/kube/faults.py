"""Faults on demand: what networks and API servers do on bad days, switched on by ``POST /_faults`` or from Python.

::

    {"drop": true}                                    abort every open connection now
    {"refuse": {"seconds": 2, "how": "503"}}          answer 503 (or "429", or "reset" the connection) for a time
    {"expire": true}                                  forget the history: older versions and pages get 410
    {"delay": {"seconds": 0.5, "for": 10}}            hold every answer back for a time ("for" absent: until cleared)
    {"break_watches": {"after": 3, "times": 1}}       abort a watch after N events; "times" watches (default 1)
    {"gone": {"times": 1}}                            answer the next watches with HTTP 410 instead of a stream
    {"truncate": {"times": 1}}                        send half an event, then abort the connection
    {"clear": true}                                   end all of the above

``GET /_faults`` shows what is on. The control path itself is never refused or delayed. Comes in: one such document.
Refuses unknown keys. ``server`` asks this object at every request and every batch of events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from contiv.emulator.kube.errors import ApiError, Json, bad_request, expired, unavailable

FOREVER_S = float("inf")


class Reset(Exception):  # a signal between faults and server, no error of the API
    """The connection is to be aborted without an answer."""


class Refuse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seconds: float
    how: Literal["503", "429", "reset"] = "503"


class Delay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"for_s": "for"}):
    seconds: float
    for_s: float = FOREVER_S


class BreakWatches(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    after: int = 0
    times: int = 1


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    times: int = 1


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /_faults``."""

    drop: bool = False
    refuse: Refuse | None = None
    expire: bool = False
    delay: Delay | None = None
    break_watches: BreakWatches | None = None
    gone: Times | None = None
    truncate: Times | None = None
    clear: bool = False


class Faults:
    """The switches. ``drop`` and ``expire`` act at once, the others wait for their occasion."""

    def __init__(self, *, clock: Callable[[], float], drop: Callable[[], int], expire: Callable[[], None]) -> None:
        self._clock = clock
        self._drop = drop
        self._expire = expire
        self.clear()

    def clear(self) -> None:
        """End every fault."""
        self._refuse_until = 0.0
        self._refuse_how = "503"
        self._delay_s = 0.0
        self._delay_until = 0.0
        self._break_after = 0
        self._break_times = 0
        self._gone_times = 0
        self._truncate_times = 0

    def drop_connections(self) -> int:
        """Abort every open connection; returns how many there were."""
        return self._drop()

    def expire_versions(self) -> None:
        """Forget the history, as a compaction of etcd does."""
        self._expire()

    def refuse(self, seconds: float, *, how: Literal["503", "429", "reset"] = "503") -> None:
        """Refuse every request for a time."""
        self._refuse_until = self._clock() + seconds
        self._refuse_how = how

    def delay(self, seconds: float, *, for_s: float = FOREVER_S) -> None:
        """Hold every answer back."""
        self._delay_s = seconds
        self._delay_until = self._clock() + for_s

    def break_watches(self, after: int, *, times: int = 1) -> None:
        """Abort watches once they have sent ``after`` events."""
        self._break_after, self._break_times = after, times

    def gone(self, times: int = 1) -> None:
        """Answer the next watches with HTTP 410."""
        self._gone_times = times

    def truncate(self, times: int = 1) -> None:
        """Cut the next event of a watch in half."""
        self._truncate_times = times

    def order(self, body: bytes) -> None:
        """Carry out a control document."""
        try:
            wanted = msgspec.json.decode(body or b"{}", type=Order)
        except msgspec.MsgspecError as error:
            raise bad_request(f"fault order: {error}") from error
        if wanted.clear:
            self.clear()
        if wanted.refuse is not None:
            self.refuse(wanted.refuse.seconds, how=wanted.refuse.how)
        if wanted.delay is not None:
            self.delay(wanted.delay.seconds, for_s=wanted.delay.for_s)
        if wanted.break_watches is not None:
            self.break_watches(wanted.break_watches.after, times=wanted.break_watches.times)
        if wanted.gone is not None:
            self.gone(wanted.gone.times)
        if wanted.truncate is not None:
            self.truncate(wanted.truncate.times)
        if wanted.expire:
            self.expire_versions()
        if wanted.drop:
            self.drop_connections()

    def state(self) -> Json:
        """What is on, for ``GET /_faults``."""
        now = self._clock()
        return {
            "refuse": {"seconds": max(self._refuse_until - now, 0.0), "how": self._refuse_how},
            "delay": {"seconds": self.answer_delay_s()},
            "break_watches": {"after": self._break_after, "times": self._break_times},
            "gone": {"times": self._gone_times},
            "truncate": {"times": self._truncate_times},
        }

    def check_request(self) -> None:
        """Raise what a request is to be refused with now."""
        if self._clock() >= self._refuse_until:
            return
        if self._refuse_how == "reset":
            raise Reset
        if self._refuse_how == "429":
            details = {"retryAfterSeconds": 1}
            raise ApiError(429, "TooManyRequests", message="too many requests, please try again later", details=details)
        raise unavailable("the server is currently unable to handle the request")

    def check_watch(self) -> None:
        """Raise 410 when the next watch is to be refused with it."""
        if self._gone_times > 0:
            self._gone_times -= 1
            raise expired("too old resource version: fault injected")

    def answer_delay_s(self) -> float:
        """How long to hold an answer back."""
        return self._delay_s if self._clock() < self._delay_until else 0.0

    def cut(self, frames: list[bytes], *, sent: int) -> tuple[bytes, bool]:
        """The bytes of a batch to send, and whether the connection is aborted after them.

        ``sent`` counts the events that this watch has sent before.
        """
        if self._truncate_times > 0:
            self._truncate_times -= 1
            return frames[0][: len(frames[0]) // 2], True
        if self._break_times > 0 and sent + len(frames) >= self._break_after:
            self._break_times -= 1
            return b"".join(frames[: max(self._break_after - sent, 0)]), True
        return b"".join(frames), False
