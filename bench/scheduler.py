"""Services at scale, from etcd's bytes to VPP's last reply: all at once, one endpoint changed, read back.

``--services`` of ``--endpoints`` each are decoded, rendered, and go through the scheduler and its descriptors into a
VPP of this benchmark's own, without a pause, and all that comes out is held, as an agent does. Beside it stand the same
messages, encoded before the clock starts and sent by a plain C client (``fastpath_client.c``): what VPP itself takes.
The parts of the whole are those of its quickest run. For one changed endpoint the CPU time of this process is measured,
with all the services and with a tenth of them. Every other figure is the best of ``--repeat``. Needs root.

::

    python bench/scheduler.py [--services 10000] [--endpoints 10] [--repeat 5]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import service

import contiv.vpp
from contiv.agent.main import GC_THRESHOLD
from contiv.fastpath import Ragged
from contiv.model import vpp as model
from contiv.scheduler import Outcome, Resync, Scheduler, Txn, Value
from contiv.vpp import api
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors, nat_descriptors

TESTS: Final = Path(__file__).parent.parent / "tests" / "vpp"
SETTINGS: Final = model.NatSettings(sessions=65536, udp_s=300, tcp_established_s=7440, tcp_transitory_s=240, icmp_s=60)
ADD: Final = "nat44_add_del_lb_static_mapping"
CHANGES: Final = 200
OUT2IN_SELF_TWICE: Final = 6
TCP: Final = 6


class Chain(NamedTuple):
    """Seconds of a full sync from etcd's bytes on, by the clock and of this process' CPU, and CPU of its parts."""

    wall: float
    cpu: float
    decode: float
    render: float
    commit: float


class Figures(NamedTuple):
    """Seconds (of CPU: ``change``), and messages of a change."""

    chain: Chain
    read: float
    change: float
    messages: float
    vpp: float
    encode: float


class Counted:
    """A client that counts the requests of its callers."""

    def __init__(self, vpp: contiv.vpp.Vpp) -> None:
        self._vpp = vpp
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vpp, name)

    def call(self, name: str, /, **fields: Any) -> Any:
        """One request."""
        self.requests += 1
        return self._vpp.call(name, **fields)

    async def batch(self, requests: Sequence[tuple[str, Mapping[str, Any]]], /, **options: Any) -> list[Any]:
        """Many."""
        self.requests += len(requests)
        return await self._vpp.batch(requests, **options)


def wanted(desired: dict[str, Value]) -> dict[str, Value]:
    """What a node desires, without interfaces and addresses, which this VPP lacks: NAT itself and the mappings."""
    for key in service.node_keys():
        del desired[key]
    desired[model.key_of(SETTINGS)] = SETTINGS
    return desired


def preencoded(client: contiv.vpp.Vpp, values: Sequence[model.NatMapping]) -> tuple[bytes, float]:
    """The messages that create the mappings, framed, and how long encoding them took."""
    n = len(values)
    joined = b"".join(value.backends + value.backends[:4] + bytes(7) for value in values)
    counts = [len(value.backends) // model.NAT_LOCAL_SIZE + 1 for value in values]
    number = client.table[client.schema.messages[ADD].key]
    started = time.perf_counter()
    columns = {
        "is_add": np.ones(n, bool),
        "flags": OUT2IN_SELF_TWICE,
        "external_addr": np.array([value.address.value for value in values], np.uint32),
        "external_port": 80,
        "protocol": TCP,
        "tag": np.array([f"contiv:0:{value.label}".encode() for value in values], "S64"),
        "locals": Ragged(np.frombuffer(joined, client.schema.layout(ADD).element), np.array(counts, np.uint32)),
    }
    contexts = np.arange(1, n + 1, dtype=np.uint32)
    data = client.schema.encode_many(ADD, columns, n=n, msg_id=number, contexts=contexts, framed=True)
    took = time.perf_counter() - started
    return bytes(data.tobytes()), took


class Bench:
    """One VPP, and a C client for it."""

    def __init__(self, path: str, folder: Path, repeat: int) -> None:
        self.path = path
        self.folder = folder
        self.repeat = repeat
        source = Path(__file__).with_name("fastpath_client.c")
        flags = ["-std=c11", "-O2", "-D_POSIX_C_SOURCE=200809L"]
        subprocess.run(["cc", *flags, str(source), "-o", str(folder / "client")], check=True)

    async def run(self, services: int, endpoints: int) -> Figures:
        """Everything for so many services."""
        records = service.stored(range(services), endpoints)
        _, desired = service.render(service.decode(records))
        mappings = [value for value in desired.values() if isinstance(value, model.NatMapping)]
        chains, others = [], []
        async with contiv.vpp.connect(self.path, name="bench") as client:
            data, encode = preencoded(client, mappings)
            for _ in range(self.repeat):
                alone = await self._alone(client, data, services)
                chain, *costs = await self._ours(Counted(client), records)
                chains.append(chain)
                others.append((*costs, alone, encode))
        return Figures(min(chains), *(min(column) for column in zip(*others, strict=True)))

    async def _alone(self, client: contiv.vpp.Vpp, data: bytes, replies: int) -> float:
        """Seconds that VPP takes for the encoded messages."""
        await client.call("nat44_ed_plugin_enable_disable", enable=True, sessions=SETTINGS.sessions)
        requests = self.folder / "requests"
        requests.write_bytes(data)
        command = [str(self.folder / "client"), self.path, str(requests), str(replies)]
        done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        assert (await client.dump_many("nat44_lb_static_mapping", timeout_s=60)).n == replies
        await client.call("nat44_ed_plugin_enable_disable", enable=False)
        return float(done.stdout)

    async def _ours(self, client: Counted, records: dict[str, bytes]) -> tuple[Chain, float, float, float]:
        """The whole chain, reading back, CPU time and messages of a change."""
        scheduler = a_scheduler(client)
        chain, values = await synced(scheduler, records)
        wall = time.perf_counter()
        read = await a_scheduler(client).commit(Txn(values, resync=Resync.FULL))
        read_back = time.perf_counter() - wall
        assert read.plan.empty
        costs = []
        before = client.requests
        mappings = [value for value in values.values() if isinstance(value, model.NatMapping)]
        for turn in range(CHANGES):  # the last endpoint of a service goes, then it comes back
            value = mappings[turn // 2 * (len(mappings) // CHANGES)]
            if turn % 2 == 0:
                value = msgspec.structs.replace(value, backends=value.backends[: -model.NAT_LOCAL_SIZE])
            used = time.process_time()
            outcome = await scheduler.commit(Txn({model.key_of(value): value}))
            costs.append(time.process_time() - used)
            outcome.raise_for_errors()
        await client.call("nat44_ed_plugin_enable_disable", enable=False)
        return chain, read_back, statistics.median(costs), (client.requests - before - 1) / CHANGES


async def synced(scheduler: Scheduler, records: dict[str, bytes]) -> tuple[Chain, dict[str, Value]]:
    """A full sync of what etcd holds: how long it took, and what was desired."""
    gc.collect()
    wall, used = time.perf_counter(), [time.process_time()]
    objects = service.decode(records)
    used.append(time.process_time())
    state, desired = service.render(objects)
    used.append(time.process_time())
    values = wanted(desired)
    outcome: Outcome = await scheduler.commit(Txn(values, resync=Resync.FULL))
    took = time.perf_counter() - wall
    used.append(time.process_time())
    outcome.raise_for_errors()
    del state, objects  # an agent has them too
    return Chain(took, used[-1] - used[0], *(after - before for before, after in pairwise(used))), values


def a_scheduler(client: Any) -> Scheduler:
    """A scheduler that knows nothing yet."""
    interfaces = Interfaces()
    every = [*descriptors(client, interfaces, FibSource(client)), *nat_descriptors(client, interfaces)]
    return Scheduler(every)


def show(services: int, endpoints: int, all_: Figures, tenth: Figures) -> None:
    """The figures as lines of text."""
    chain = all_.chain
    parts = {
        "decoding etcd's bytes": chain.decode,
        "state and rendering": chain.render,
        "scheduler, descriptors": chain.commit - all_.encode,
        "encoding": all_.encode,
    }
    print(f"{services:,} services of {endpoints} endpoints, etcd's bytes to VPP's last reply")
    print(f"  full sync            {chain.wall * 1e3:8.1f} ms, CPU of this process {chain.cpu * 1e3:.1f} ms:")
    for what, seconds in parts.items():
        print(f"    {what:<24} {seconds * 1e3:6.1f} ms {seconds / chain.cpu:5.0%}")
    print(f"  the messages alone   {all_.vpp * 1e3:8.1f} ms, pre-encoded, in C: what VPP takes")
    print(f"  ratio {chain.wall / all_.vpp:.1f}, of the CPU time {chain.cpu / all_.vpp:.1f} (at most 10)")
    print(f"  read back, compared  {all_.read * 1e3:8.1f} ms")
    print(f"one endpoint changed: {all_.messages:g} message; CPU (at most 1,000 us, ratio under 2)")
    print(
        f"  among {services:,}: {all_.change * 1e6:.0f} us, among {services // 10:,}: {tenth.change * 1e6:.0f} us,",
        end="",
    )
    print(f" ratio {all_.change / tenth.change:.2f}")


def main() -> None:
    """Measure as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.DEBUG)
    gc.set_threshold(GC_THRESHOLD)
    prefix = api.find_prefix()
    if prefix is None or os.geteuid() != 0:
        sys.exit("no VPP is installed, or this is not root")
    sys.path.insert(0, str(TESTS))
    from real import RealVpp

    with tempfile.TemporaryDirectory(prefix="contiv-bench-") as name, RealVpp(prefix, Path(name)) as vpp:
        bench = Bench(vpp.api, Path(name), options.repeat)
        all_ = asyncio.run(bench.run(options.services, options.endpoints))
        tenth = asyncio.run(bench.run(options.services // 10, options.endpoints))
    show(options.services, options.endpoints, all_, tenth)


if __name__ == "__main__":
    main()
