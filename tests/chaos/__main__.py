"""``python -m tests.chaos --minutes 10 --seed 1 --dataplane emulator``: churn and faults, then the invariants.

The same seed draws the same changes and faults in the same order; when they meet the cluster depends on the machine.
Every minute the faults pause until everything has recovered, and the invariants are checked; at the end everything is
removed and the nodes must hold what they held at the start. Prints what was done and killed how often; exit code 1 and
the logs' ends when an invariant does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter

from contiv.demo.cluster import DemoCluster
from contiv.log import configure
from tests.chaos.faults import Monkey
from tests.chaos.invariants import (
    assert_connectivity,
    assert_nothing_leaked,
    assert_recovered,
    assert_services,
    footprint,
)
from tests.chaos.workload import Workload
from tests.e2e.conftest import print_logs
from tests.e2e.world import World

ROUND_S = 60.0
CALM_S = (0.1, 1.5)
"""Between two faults."""


async def chaos(*, minutes: float, seed: int, dataplane: str, nodes: int) -> bool:
    """Whether the invariants held throughout."""
    async with DemoCluster(nodes, dataplane=dataplane, say=say) as cluster:
        world = World(cluster)
        try:
            await run(world, minutes=minutes, seed=seed)
        except AssertionError as failure:
            print_logs(cluster)
            say(f"seed {seed}: an invariant does not hold: {failure}")
            return False
    say(f"seed {seed}: every invariant held")
    return True


async def run(world: World, *, minutes: float, seed: int) -> None:
    """Rounds of churn and faults, each with its reckoning."""
    workload = Workload(world, random.Random(f"{seed} changes"))
    monkey = Monkey(world, random.Random(f"{seed} faults"))
    pauses = random.Random(f"{seed} pauses")
    await world.settled()
    before = {node.number: await footprint(world, node.number) for node in world.cluster.nodes}
    await workload.start()
    deadline = time.monotonic() + minutes * 60
    while (left := deadline - time.monotonic()) > 0:
        await disturb(workload, monkey, pauses, seconds=min(left, ROUND_S))
        started = time.monotonic()
        await assert_recovered(world, workload)
        recovered_s = time.monotonic() - started
        asked, connected = await assert_connectivity(world), await assert_services(world)
        say(
            f"recovered in {recovered_s:.1f} s; {len(workload.pods)} pods, {len(workload.policies)} policies,"
            f" {len(workload.services)} services; {asked} paths and {connected} connections as the oracle says"
        )
    await workload.remove()
    await assert_recovered(world, workload)
    await assert_nothing_leaked(world, before)
    table("changes", workload.done)
    table("faults", monkey.struck)


async def disturb(workload: Workload, monkey: Monkey, dice: random.Random, *, seconds: float) -> None:
    """Changes and faults side by side for a while."""
    end = asyncio.get_running_loop().time() + seconds

    async def change() -> None:
        while asyncio.get_running_loop().time() < end:
            await workload.step()
            await asyncio.sleep(dice.uniform(0.05, 0.6))

    async def strike() -> None:
        while asyncio.get_running_loop().time() < end:
            await monkey.strike()
            await asyncio.sleep(dice.uniform(*CALM_S))

    async with asyncio.TaskGroup() as group:
        group.create_task(change())
        group.create_task(strike())


def table(title: str, counted: Counter[str]) -> None:
    """Names and counts."""
    say(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counted.items())))


def say(text: str) -> None:
    """One line for who watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dataplane", choices=("auto", "vpp", "emulator"), default="emulator")
    parser.add_argument("--nodes", type=int, default=2)
    asked = parser.parse_args()
    configure("error")
    if sys.version_info < (3, 12):  # the default watcher keeps a thread for every child
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    held = asyncio.run(chaos(minutes=asked.minutes, seed=asked.seed, dataplane=asked.dataplane, nodes=asked.nodes))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
