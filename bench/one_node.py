"""A node to measure: one demo node with all its interfaces prepared, until standard input ends.

::

    python bench/one_node.py [--dataplane vpp] [--nodes 1]     prints "ready <run directory of the cluster>"

``node()`` does the same for other benchmarks, as a child process, so that its own children do not disturb theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiohttp

from contiv.demo.cluster import DemoCluster
from contiv.demo.node import Node

PREPARED: Final = 110
PREPARE_TIMEOUT_S: Final = 60.0


async def prepared(node: Node, wanted: int) -> None:
    """Wait until the node has made its interfaces ahead."""
    connector = aiohttp.UnixConnector(str(node.directory / "run" / "rest.sock"))
    async with asyncio.timeout(PREPARE_TIMEOUT_S), aiohttp.ClientSession(connector=connector) as session:
        while True:
            async with session.get("http://agent/contiv/v1/status") as reply:
                if (await reply.json())["preparedInterfaces"] >= wanted:
                    return
            await asyncio.sleep(0.1)


async def serve(dataplane: str, nodes: int) -> None:
    """The cluster, until standard input ends."""
    async with DemoCluster(nodes, dataplane=dataplane, config={"preparedInterfaces": PREPARED}) as cluster:
        for node in cluster.nodes:
            await prepared(node, PREPARED)
        print(f"ready {cluster.rundir.path}", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def node(dataplane: str, nodes: int = 1) -> Iterator[Path]:
    """The run directory of a cluster that runs while the context lasts."""
    argv = [sys.executable, __file__, "--dataplane", dataplane, "--nodes", str(nodes)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        line = child.stdout.readline()
        if not line.startswith("ready "):
            raise RuntimeError(f"the node did not start: {line!r}")
        yield Path(line.split(maxsplit=1)[1].strip())
    finally:
        child.stdin.close()
        child.wait()


def main() -> None:
    """Serve as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataplane", default="auto", choices=("auto", "vpp", "emulator"))
    parser.add_argument("--nodes", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(serve(options.dataplane, options.nodes))


if __name__ == "__main__":
    main()
