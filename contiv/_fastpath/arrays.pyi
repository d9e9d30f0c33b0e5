"""Types of the compiled array kernels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

class Truncated(Exception):
    index: int
    size: int

class Layout:
    def __init__(self, fixed: int, element: int = 0, count_offset: int = 0, count_kind: int = 0) -> None: ...

def join(
    layout: Layout,
    fixed: NDArray[np.uint8],
    tails: NDArray[np.uint8],
    counts: NDArray[np.uint32],
    framed: bool,
) -> NDArray[np.uint8]: ...
def split(layout: Layout, messages: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[Any]]: ...
