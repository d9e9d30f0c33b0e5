"""etcd through ``contiv.store``: batched writes beside single puts, and the delay of a watch; ratios of one run.

    python bench/store.py [--keys 2000] [--events 1000] [--repeat 3] [--fsync] [-o json]

One embedded etcd, values of 200 bytes. Rows: ``put`` one after the other, ``put`` 64 at a time, ``write`` of all keys
in transactions of 128. Then a writer puts one key at a time, 200 a second, and a watch on another connection notes when
each arrives: milliseconds from just before the put was sent. Medians over ``--repeat``; the ratio is batched to serial.
Target: batched at least 10 times the serial rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from typing import Any

import structlog

from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd

RATIO_WANTED = 10.0
VALUE = bytes(200)
CONCURRENT_PUTS = 64
EVENTS_PER_S = 200


async def serial_puts(etcd: Etcd, count: int) -> float:
    """Keys a second, one after the other."""
    began = time.perf_counter()
    for n in range(count):
        await etcd.put(f"/serial/{n:06}", VALUE)
    return count / (time.perf_counter() - began)


async def concurrent_puts(etcd: Etcd, count: int) -> float:
    """Keys a second, CONCURRENT_PUTS at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for n in numbers:
            await etcd.put(f"/concurrent/{n:06}", VALUE)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENT_PUTS):
            group.create_task(worker())
    return count / (time.perf_counter() - began)


async def batched_write(etcd: Etcd, count: int) -> float:
    """Keys a second in transactions."""
    changes: dict[str, bytes | None] = {f"/batched/{n:06}": VALUE for n in range(count)}
    began = time.perf_counter()
    await etcd.write(changes)
    return count / (time.perf_counter() - began)


async def watch_delays_ms(writer: Etcd, watcher: Etcd, count: int) -> list[float]:
    """Milliseconds from before each put to its arrival at a watch on another connection."""
    start = await writer.put("/watched/start", VALUE)
    sent: dict[str, float] = {}
    delays: list[float] = []

    async def follow() -> None:
        async with watcher.watch("/watched/", start_revision=start + 1) as watch:
            async for batch in watch:
                now = time.perf_counter()
                delays.extend((now - sent[event.key]) * 1000 for event in batch.events)
                if len(delays) >= count:
                    return

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        began = time.perf_counter()
        for n in range(count):
            await asyncio.sleep(max(0.0, began + n / EVENTS_PER_S - time.perf_counter()))
            key = f"/watched/{n:06}"
            sent[key] = time.perf_counter()
            await writer.put(key, VALUE)
    return delays


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows, medians over the repeats."""
    rows: dict[str, list[float]] = {name: [] for name in ("serial", "concurrent", "batched", "p50", "p99")}
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedEtcd(directory, fsync=arguments.fsync) as server:
            async with await Etcd.connect([server.endpoint]) as etcd, await Etcd.connect([server.endpoint]) as other:
                for _ in range(arguments.repeat):
                    rows["serial"].append(await serial_puts(etcd, arguments.keys))
                    rows["concurrent"].append(await concurrent_puts(etcd, arguments.keys))
                    rows["batched"].append(await batched_write(etcd, arguments.keys))
                    cuts = statistics.quantiles(await watch_delays_ms(etcd, other, arguments.events), n=100)
                    rows["p50"].append(cuts[49])
                    rows["p99"].append(cuts[98])
    medians = {name: statistics.median(values) for name, values in rows.items()}
    return {
        "keys": arguments.keys,
        "fsync": arguments.fsync,
        "put_serial_per_s": round(medians["serial"]),
        "put_concurrent_per_s": round(medians["concurrent"]),
        "write_batched_per_s": round(medians["batched"]),
        "ratio_batched_to_serial": round(medians["batched"] / medians["serial"], 1),
        "watch_p50_ms": round(medians["p50"], 2),
        "watch_p99_ms": round(medians["p99"], 2),
    }


def main() -> int:
    """Print the rows; 1 when the ratio misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--fsync", action="store_true", help="let etcd sync to disk, as in production")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result = asyncio.run(measure(arguments))
    if arguments.output == "json":
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:26} {value}")
    return 0 if result["ratio_batched_to_serial"] >= RATIO_WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())
