"""Types of the compiled shared-memory transport."""

import numpy as np
from numpy.typing import NDArray

class ShmError(Exception):
    status: int

def connect(library: str, name: str, prefix: str, queue_length: int, timeout_s: float) -> None: ...
def message_index(key: str) -> int: ...
def disconnect(timeout_s: float) -> None: ...

class Exchange:
    def __init__(
        self,
        requests: NDArray[np.uint8],
        rows: NDArray[np.uint8],
        *,
        skip: int,
        base: int,
        reply_id: int,
        context_offset: int,
        window: int,
        timeout_s: float,
    ) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
