"""Namespaces for the tests of ``contiv.linux``: each test gets its own, and they go with it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from contiv.linux import netns
from contiv.linux.netns import Workers

_numbers = count()


@pytest.fixture
def new_netns() -> Iterator[list[str]]:
    """A factory in disguise: two fresh namespaces, as paths."""
    names = [f"contiv-test-{os.getpid()}-{next(_numbers)}" for _ in range(2)]
    yield [netns.create(name) for name in names]
    for name in names:
        netns.delete(name)


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    pool = Workers()
    yield pool
    pool.close()


@pytest.fixture
def near() -> str:
    """A link name for the own namespace that no other test uses; what is left of it is removed by its
    namespace.
    """
    return f"cvt{os.getpid() % 100000}n{next(_numbers)}"
