"""Types of the compiled channel."""

from asyncio import Future
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contiv._fastpath.codec import Program
from contiv._fastpath.schema import Schema

class Incoming:
    name: str
    program: Program
    context_offset: int
    def __init__(self, name: str, program: Program, context_offset: int | None) -> None: ...

class Request:
    name: str
    msg_id: int
    def __init__(self, name: str, program: Program, msg_id: int) -> None: ...
    @staticmethod
    def late(name: str, schema: Schema, msg_id: int) -> Request: ...
    @property
    def program(self) -> Program: ...

class Batch:
    results: list[Any]
    future: Future[list[Any]]
    def __init__(self, n: int, future: Future[list[Any]]) -> None: ...
    def put(self, place: int, result: Any) -> None: ...

class Channel:
    client_index: int
    max_in_flight: int
    max_frame: int
    next_deadline: float
    sent: int
    received: int
    strays: int
    pending: dict[int, Any]
    def __init__(
        self,
        *,
        incoming: Callable[[int], Incoming | bool],
        on_event: Callable[[str, Any], None],
        api_error: Callable[..., Exception],
        client_index: int = 0,
        max_in_flight: int = 65536,
        max_frame: int = ...,
        room: int = ...,
    ) -> None: ...
    @property
    def outgoing(self) -> int: ...
    @property
    def full(self) -> bool: ...
    def take(self) -> bytes: ...
    def call(
        self,
        request: Request,
        fields: dict[str, Any],
        future: Future[Any],
        timeout: float,
        deadline: float,
        checked: bool = True,
    ) -> None: ...
    def add(
        self,
        batch: Batch,
        place: int,
        request: Request,
        fields: dict[str, Any],
        timeout: float,
        deadline: float,
    ) -> None: ...
    def dump(
        self,
        request: Request,
        fields: dict[str, Any],
        stream: str,
        ping: Request | None,
        future: Future[Any],
        timeout: float,
        deadline: float,
        raw: bool = False,
    ) -> None: ...
    def reserve_contexts(self, n: int) -> int: ...
    def expect_many(
        self,
        request: Request,
        expected: Incoming,
        base: int,
        rows: NDArray[np.uint8],
        future: Future[Any],
        timeout: float,
        deadline: float,
    ) -> None: ...
    def forget_many(self, base: int) -> None: ...
    def incoming_of(self, number: int) -> Incoming | bool: ...
    def send(self, request: Request, fields: dict[str, Any]) -> None: ...
    def get_buffer(self) -> memoryview: ...
    def received_bytes(self, n: int) -> None: ...
    def expire(self, now: float, make_error: Callable[[str, float], Exception]) -> float: ...
    def fail_all(self, make_error: Callable[[str], Exception]) -> int: ...

def split_frames(buffer: bytearray, n: int, limit: int = ...) -> tuple[list[bytes], int]: ...
