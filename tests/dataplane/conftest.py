"""One suite, two data planes: ``emulator`` everywhere, ``vpp`` where one is installed, else visibly skipped.

``node`` is a running data plane for a module, ``vpp`` a client of it; what a test leaves in it is removed after it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nat_wires import NatWorld
from topology import Node, clean
from wires import World

import contiv.vpp
from contiv.linux.netns import Workers
from contiv.vpp import lifecycle

KINDS = ("emulator", pytest.param("vpp", marks=pytest.mark.vpp))


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """Threads that enter namespaces."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    pool = Workers()
    yield pool
    pool.close()


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> lifecycle.Dataplane:
    """Which data plane."""
    if request.param == "vpp" and lifecycle.find_vpp() is None:
        pytest.skip("no VPP is installed (CONTIV_VPP_PREFIX, /opt/vpp, PATH)")
    return request.param


@pytest.fixture(scope="module")
def node(kind: lifecycle.Dataplane, workers: Workers) -> Iterator[Node]:
    """A running data plane."""
    made = Node(kind, workers)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
async def vpp(node: Node) -> AsyncIterator[contiv.vpp.Vpp]:
    """A client of it."""
    async with node.connect() as client:
        yield client
        await clean(client)


@pytest.fixture(scope="module")
def worlds(node: Node) -> list[World]:
    """The world of a data plane: the first test of a module makes it, the others use it."""
    return []


@pytest.fixture
async def world(node: Node, worlds: list[World]) -> AsyncIterator[World]:
    """Two ends of cables, without access lists or sessions."""
    async with node.connect() as client:
        made = worlds[0] if worlds else World()
        made.vpp = client
        if not worlds:
            await made.build(node)
            worlds.append(made)
        yield made
        await made.clean()


@pytest.fixture(scope="module")
def nat_worlds(node: Node) -> list[NatWorld]:
    """The world of a data plane with NAT: the first test of a module makes it, the others use it."""
    return []


@pytest.fixture
async def nat(node: Node, nat_worlds: list[NatWorld]) -> AsyncIterator[NatWorld]:
    """Four pods and an outside host, NAT switched on anew."""
    async with node.connect() as client:
        made = nat_worlds[0] if nat_worlds else NatWorld()
        made.vpp = client
        if not nat_worlds:
            await made.build(node)
            nat_worlds.append(made)
        await made.switch_on()
        yield made
        await made.switch_off()
