"""``contiv.fastpath`` beside vpp_papi and a plain C client: same machine, same VPP, ratios of one run.

    python bench/fastpath.py [--repeat 5] [--count 100000] [-o json]

The codec's rows need no VPP; the others start one (root; its own network namespace) where VPP is installed. Each
figure is the best of ``--repeat``. The C client (``fastpath_client.c``, built here) sends the same requests
pre-encoded. Prints rates or times, the ratio and what is wanted of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import vpp_papi
from vpp_papi.vpp_papi import VPPApiJSONFiles

import contiv.vpp
from contiv import fastpath
from contiv.vpp import api
from contiv.vpp.shm import find_library

# where the tests keep their way of starting a VPP
TESTS = Path(__file__).parent.parent / "tests" / "vpp"
RULES = 1_000
ROUTES_DECODED = 10_000
SERIAL = 3_000


class Row(NamedTuple):
    """One comparison: figures in ``unit``; ``ratio`` of ours to theirs, above 1 is better; ``wanted`` at least."""

    what: str
    ours: float
    theirs: float
    unit: str
    against: str
    ratio: float
    wanted: float


def best(work: Callable[[], object], repeat: int) -> float:
    """Shortest seconds of ``work``."""
    shortest = float("inf")
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def faster(what: str, ours: float, theirs: float, against: str, wanted: float) -> Row:
    """A row of two times."""
    return Row(what, ours * 1e3, theirs * 1e3, "ms", against, theirs / ours, wanted)


def rate(what: str, ours: float, theirs: float, against: str, wanted: float) -> Row:
    """A row of two rates."""
    return Row(what, ours, theirs, "/s", against, ours / theirs, wanted)


# ---- codec ------------------------------------------------------------------------------------------------------


def rules() -> list[dict[str, Any]]:
    """A thousand ACL rules as a caller writes them."""
    return [
        {
            "is_permit": 2,
            "src_prefix": f"10.{i >> 8}.{i & 255}.0/24",
            "dst_prefix": "10.96.0.0/12",
            "proto": 6,
            "srcport_or_icmptype_first": 0,
            "srcport_or_icmptype_last": 65535,
            "dstport_or_icmpcode_first": 80,
            "dstport_or_icmpcode_last": i + 1,
            "tcp_flags_mask": 0,
            "tcp_flags_value": 0,
        }
        for i in range(RULES)
    ]


def codec_rows(schema: fastpath.Schema, papi: dict[str, Any], repeat: int) -> list[Row]:
    """Encoding rules and decoding routes."""
    fields = {"acl_index": 0xFFFFFFFF, "tag": "bench", "count": RULES, "r": rules()}
    header = {"_vl_msg_id": 0, "client_index": 0, "context": 0}
    packer = papi["acl_add_replace"]
    theirs = best(lambda: packer.pack({**fields, **header}), repeat)
    ours = best(lambda: schema.encode("acl_add_replace", **fields), 10 * repeat)
    if bytes(packer.pack({**fields, **header})) != schema.encode("acl_add_replace", **fields):
        raise SystemExit("the two encode different bytes")
    packed = np.frombuffer(schema.encode("acl_add_replace", **fields)[82:], schema.dtype("acl_rule"))
    by_record = best(lambda: schema.encode("acl_add_replace", tag="bench", r=packed), 30 * repeat)
    name = "ip_route_details"
    details = [
        schema.encode(
            name,
            route={
                "prefix": f"10.{i >> 8}.{i & 255}.0/24",
                "paths": [{"sw_if_index": 1, "nh": {"address": {"ip4": "10.0.0.1"}}}],
            },
        )
        for i in range(ROUTES_DECODED)
    ]
    unpack = best(lambda: [papi[name].unpack(data) for data in details], repeat)
    records = best(lambda: [schema.decode(name, data) for data in details], repeat)

    def columns() -> None:
        got = schema.decode_many(name, details)
        for path in ("route.prefix.len", "route.prefix.address.un.ip4", "route.paths.sw_if_index"):
            _ = got[path]

    return [
        faster("encode acl_add_replace, 1,000 rules, from text", ours, theirs, "vpp_papi", 30),
        faster("the same from packed records", by_record, theirs, "vpp_papi", 500),
        faster("decode 10,000 ip_route_details as columns", best(columns, repeat), unpack, "vpp_papi", 30),
        faster("decode 10,000 ip_route_details as records", records, unpack, "vpp_papi", 8),
    ]


# ---- a running VPP ----------------------------------------------------------------------------------------------


class Bench:
    """One VPP and those who talk to it."""

    def __init__(self, vpp: Any, folder: Path, *, repeat: int, count: int) -> None:
        self.vpp, self.folder, self.repeat, self.count = vpp, folder, repeat, count
        self.c_client = folder / "client"
        source = Path(__file__).with_name("fastpath_client.c")
        flags = ["-std=c11", "-O2", "-D_POSIX_C_SOURCE=200809L"]
        subprocess.run(["cc", *flags, str(source), "-o", str(self.c_client)], check=True)
        self.c_loop = folder / "shm"
        source = Path(__file__).with_name("fastpath_shm.c")
        subprocess.run(["cc", *flags, str(source), "-o", str(self.c_loop), "-ldl"], check=True)

    def by_c(self, data: bytes, replies: int) -> float:
        """Replies a second of the C client with these framed requests, once."""
        requests = self.folder / "requests"
        requests.write_bytes(data)
        command = [str(self.c_client), self.vpp.api, str(requests), str(replies)]
        return replies / float(subprocess.run(command, check=True, capture_output=True).stdout)

    def by_papi(self) -> dict[str, float]:
        """vpp_papi one call at a time: pings and routes a second, CPU seconds a ping."""
        client = vpp_papi.VPPApiClient(apidir=str(self.vpp.prefix / api.API_DIR), server_address=self.vpp.api)
        client.connect("papi")
        loop = client.api.create_loopback().sw_if_index
        labels = [{"is_uniform": 0, "label": 0, "ttl": 0, "exp": 0}] * 16
        path = {"sw_if_index": loop, "nh": {"address": {"ip4": "10.9.0.7"}}, "label_stack": labels}
        cpu = time.process_time()
        ping = best(lambda: [client.api.control_ping() for _ in range(SERIAL)], 1)
        cpu = time.process_time() - cpu

        def routes() -> None:
            for i in range(SERIAL):
                prefix = f"30.{i >> 8}.{i & 255}.0/24"
                client.api.ip_route_add_del(is_add=1, route={"prefix": prefix, "n_paths": 1, "paths": [path]})

        route = best(routes, 1)
        client.api.delete_loopback(sw_if_index=loop)
        client.disconnect()
        return {"ping": SERIAL / ping, "route": SERIAL / route, "cpu": cpu / SERIAL}

    async def rows(self) -> list[Row]:
        """All comparisons on this VPP."""
        papi = await asyncio.to_thread(self.by_papi)
        async with contiv.vpp.connect(self.vpp.api) as client:
            rows = await self.pings(client, papi)
            rows += await self.routes(client, papi)
        return rows + await self.shared_memory()

    async def shared_memory(self) -> list[Row]:
        """control_ping through shared memory, beside a C loop on the same library."""
        count = 3 * self.count
        ours = theirs = 0.0
        async with contiv.vpp.connect(self.vpp.api, shared_memory=self.vpp.shm_prefix) as client:
            if client.bulk_transport != "shared memory":
                print(f"no shared memory: {client.bulk_transport}", file=sys.stderr)
                return []
            library = find_library(self.vpp.prefix, client.version)
            key = client.schema.messages["control_ping"].key
            command = [str(self.c_loop), str(library), self.vpp.shm_prefix, key, str(count)]
            for _ in range(self.repeat):
                started = time.perf_counter()
                await client.call_many("control_ping", {}, n=count)
                ours = max(ours, count / (time.perf_counter() - started))
                done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
                theirs = max(theirs, count / float(done.stdout))
        return [rate("control_ping, one batch, shared memory", ours, theirs, "C loop", 0.8)]

    async def pings(self, client: contiv.vpp.Vpp, papi: dict[str, float]) -> list[Row]:
        """control_ping in all ways."""
        called = many = serial = in_c = 0.0
        data = self.encoded(client, "control_ping", {})
        cpu = float("inf")
        in_flight = min(self.count, 20_000)
        for _ in range(self.repeat):
            started = time.perf_counter()
            for call in [client.call("control_ping") for _ in range(in_flight)]:
                await call
            called = max(called, in_flight / (time.perf_counter() - started))
            started = time.perf_counter()
            await client.call_many("control_ping", {}, n=self.count)
            many = max(many, self.count / (time.perf_counter() - started))
            started, used = time.perf_counter(), time.process_time()
            for _ in range(SERIAL):
                await client.call("control_ping")
            serial = max(serial, SERIAL / (time.perf_counter() - started))
            cpu = min(cpu, (time.process_time() - used) / SERIAL)
            in_c = max(in_c, await asyncio.to_thread(self.by_c, data, self.count))
        return [
            rate("control_ping, pipelined, called one by one", called, papi["ping"], "vpp_papi", 40),
            rate("control_ping, one batch of columns", many, in_c, "C client", 0.9),
            rate("control_ping, one at a time, awaited", serial, papi["ping"], "vpp_papi", 1),
            Row(
                "CPU of one awaited control_ping", cpu * 1e6, papi["cpu"] * 1e6, "us", "vpp_papi", papi["cpu"] / cpu, 2
            ),
        ]

    def encoded(self, client: contiv.vpp.Vpp, message: str, columns: dict[str, Any]) -> bytes:
        """Framed requests with this VPP's number of the message."""
        number = client.table[client.schema.messages[message].key]
        contexts = np.arange(1, self.count + 1, dtype=np.uint32)
        data = client.schema.encode_many(message, columns, n=self.count, msg_id=number, contexts=contexts, framed=True)
        return bytes(data.tobytes())

    async def routes(self, client: contiv.vpp.Vpp, papi: dict[str, float]) -> list[Row]:
        """Routes from columns, encoding included."""
        loop = (await client.call("create_loopback")).sw_if_index
        columns: dict[str, Any] = {
            "route.prefix": (np.arange(self.count, dtype=np.uint32) * 16 + (20 << 24), 28),
            "route.paths.sw_if_index": loop,
            "route.paths.nh.address.ip4": np.full(self.count, 0x0A090007, np.uint32),
        }
        message = "ip_route_add_del"
        added = in_c = 0.0
        data = self.encoded(client, message, {"is_add": 1, **columns})
        for _ in range(self.repeat):
            started = time.perf_counter()
            await client.call_many(message, {"is_add": 1, **columns})
            added = max(added, self.count / (time.perf_counter() - started))
            await client.call_many(message, {"is_add": 0, **columns})
            in_c = max(in_c, await asyncio.to_thread(self.by_c, data, self.count))
            await client.call_many(message, {"is_add": 0, **columns})
        await client.call("delete_loopback", sw_if_index=loop)
        title = f"{self.count:,} routes added from columns"
        return [
            rate(title, added, papi["route"], "vpp_papi", 60),
            rate(title, added, in_c, "pre-encoded, C", 0.9),
        ]


def show(rows: list[Row]) -> None:
    """A table for people."""
    width = max(len(row.what) for row in rows)
    print(f"{'what':{width}}  {'ours':>12} {'theirs':>12}      {'against':14} {'ratio':>8} {'wanted':>7}")
    for row in rows:
        verdict = "" if row.ratio >= row.wanted else "  below"
        print(
            f"{row.what:{width}}  {row.ours:12,.4g} {row.theirs:12,.4g} {row.unit:4} {row.against:14} "
            f"{row.ratio:8.2f} {row.wanted:7g}{verdict}"
        )


def main() -> None:
    """Run what this machine can run and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    logging.disable(logging.DEBUG)
    prefix = api.find_prefix()
    if prefix is not None:
        papi = VPPApiJSONFiles.load_api(apidir=str(prefix / api.API_DIR))[1]
    else:
        papi = VPPApiJSONFiles.process_json_str(json.dumps(api.read_record()))[0]
    rows = codec_rows(api.installed_schema() or api.builtin_schema(), papi, options.repeat)
    if prefix is None or os.geteuid() != 0:
        print("no VPP is installed, or this is not root: the codec alone", file=sys.stderr)
    else:
        sys.path.insert(0, str(TESTS))
        from real import RealVpp

        with tempfile.TemporaryDirectory(prefix="contiv-bench-") as name:
            folder = Path(name)
            with RealVpp(prefix, folder) as vpp:
                rows += asyncio.run(Bench(vpp, folder, repeat=options.repeat, count=options.count).rows())
    if options.output == "json":
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
