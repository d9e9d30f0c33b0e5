"""KSR beside the official client: 10,000 pods of 5 kB, CPU time and memory, ratios of one run.

    python bench/ksr.py [--pods 10000] [--repeat 3] [-o json]

Each contestant is a process of its own and pays for itself: CPU (user and system) and growth of its peak resident
memory from after its imports to the end. ``ksr`` goes all the way, election and writes to a real etcd included, and
what etcd holds is counted afterwards. ``official`` is ``list_pod_for_all_namespaces`` of the ``kubernetes`` package,
which stores nothing, in one piece and by pages of 500. The API server is a third process that sends prepared bytes.
Targets: 10 times less CPU, 5 times less memory, against the better of the official rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

CPU_RATIO_WANTED = 10.0
MEMORY_RATIO_WANTED = 5.0
SYNC_TIMEOUT_S = 120.0
PAGE = 500


class Row(NamedTuple):
    """One run of one contestant. Memory in MB, times in seconds."""

    name: str
    wall_s: float
    cpu_s: float
    growth_mb: float
    peak_mb: float


# ---- the API server ----------------------------------------------------------------------------------------


def pod(number: int) -> bytes:
    """A pod as a cluster has them: two containers, volumes, conditions, managed fields; about 5 kB."""
    name = f"web-{number // 100:04d}-{number:06d}"
    labels = {"app": f"web-{number // 100}", "pod-template-hash": f"{number // 100:08x}", "tier": "frontend"}
    managers = [
        {
            "manager": manager,
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {f"f:field-{n}": {".": {}, "f:value": {}} for n in range(16)}},
        }
        for manager in ("kube-controller-manager", "kubelet")
    ]
    container = {
        "image": "registry.example.test/team/web:1.27.4",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": f"SETTING_{n}", "value": f"some value of setting number {n}"} for n in range(12)],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m"}},
        "terminationMessagePath": "/dev/termination-log",
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets", "readOnly": True}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
    }
    ports = [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return json.dumps(
        {
            "metadata": {
                "name": name,
                "namespace": f"ns-{number % 50}",
                "uid": f"00000000-0000-4000-8000-{number:012d}",
                "resourceVersion": str(1000 + number),
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": labels,
                "annotations": {"checksum/config": "0" * 64},
                "managedFields": managers,
            },
            "spec": {
                "nodeName": f"node-{number % 100}",
                "containers": [
                    {"name": "web", "ports": ports, **container},
                    {"name": "sidecar", **container},
                ],
                "volumes": [{"name": "token", "emptyDir": {}}],
                "restartPolicy": "Always",
                "serviceAccountName": "default",
                "tolerations": [
                    {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
                    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
                ],
            },
            "status": {
                "phase": "Running",
                "conditions": conditions,
                "hostIP": "192.0.2.1",
                "podIP": f"10.1.{number // 250}.{number % 250}",
                "podIPs": [{"ip": f"10.1.{number // 250}.{number % 250}"}],
                "containerStatuses": [
                    {
                        "name": name,
                        "ready": True,
                        "restartCount": 0,
                        "image": "i",
                        "imageID": "i@sha256:0",
                        "state": state,
                    }
                    for name in ("web", "sidecar")
                ],
            },
        },
        separators=(",", ":"),
    ).encode()


class PodServer:
    """Lists of prepared pods over HTTP/1.1, whole or by page; watches stay silent."""

    def __init__(self, pods: list[bytes]) -> None:
        self._pods = pods
        self._bodies: dict[tuple[int, int], bytes] = {}
        for limit in (0, PAGE):  # rendered before anybody is measured
            for start in range(0, len(pods), limit or len(pods)):
                self._body(start, limit)

    def _body(self, start: int, limit: int) -> bytes:
        if (start, limit) not in self._bodies:
            end = start + limit if limit else len(self._pods)
            token = f'"continue":"{end}",' if end < len(self._pods) else ""
            head = f'{{"kind":"PodList","apiVersion":"v1","metadata":{{{token}"resourceVersion":"99999"}},"items":['
            self._bodies[start, limit] = head.encode() + b",".join(self._pods[start:end]) + b"]}"
        return self._bodies[start, limit]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                query = parse_qs(urlsplit(head.split(b" ", 2)[1].decode()).query)
                if "watch" in query:
                    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                    writer.write(start)
                    await reader.read()
                    break
                body = self._body(int(query.get("continue", ["0"])[0]), int(query.get("limit", ["0"])[0]))
                kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                writer.write(kind + f"Content-Length: {len(body)}\r\n\r\n".encode())
                writer.write(body)
                await writer.drain()
        writer.close()


async def run_server(pods: int) -> None:
    prepared = PodServer([pod(number) for number in range(pods)])
    server = await asyncio.start_server(prepared.serve, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "bytes": len(pod(0))}), flush=True)
    await server.serve_forever()


# ---- the contestants, each in its process ------------------------------------------------------------------


class Meter:
    """CPU and memory of this process between two moments."""

    def __init__(self) -> None:
        self._wall_s = time.perf_counter()
        self._cpu_s = time.process_time()
        self._start_mb = resident_mb()

    def row(self, name: str) -> Row:
        cpu_s, wall_s = time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Row(name, wall_s, cpu_s, peak_mb - self._start_mb, peak_mb)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def run_ksr(kubeconfig: str, endpoint: str, *, pods: int) -> Row:
    """From nothing to "every pod is in etcd", through KSR's own composition root."""
    from prometheus_client import CollectorRegistry

    from contiv.ksr import main
    from contiv.log import configure
    from contiv.model import kube

    configure("warning")
    registry = CollectorRegistry()
    meter = Meter()
    task = asyncio.create_task(
        main.run(
            kubeconfig=kubeconfig,
            etcd_endpoints=[endpoint],
            kinds=[kube.PODS],
            page_limit=PAGE,
            registry=registry,
        )
    )
    async with asyncio.timeout(SYNC_TIMEOUT_S):
        while registry.get_sample_value("contiv_ksr_synced", {"kind": "pods"}) != 1:
            await asyncio.sleep(0.01)
    row = meter.row("ksr")
    assert registry.get_sample_value("contiv_ksr_objects", {"kind": "pods"}) == pods
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return row


def run_official(kubeconfig: str, *, pods: int, paged: bool) -> Row:
    """The typed list, all objects kept, as a program that works on them would."""
    from kubernetes import client, config

    config.load_kube_config(kubeconfig)
    api = client.CoreV1Api()
    # Modules that are loaded on first use belong to the import.
    _ = (client.V1PodList, client.V1Pod, client.V1PodSpec, client.V1PodStatus, client.V1Container)
    meter = Meter()
    items: list[Any] = []
    token: str | None = None
    while True:
        more = {"limit": PAGE, "_continue": token} if paged else {}
        answer = api.list_pod_for_all_namespaces(**more)
        items += answer.items
        token = answer.metadata._continue
        if not token:
            break
    row = meter.row("official paged" if paged else "official")
    assert len(items) == pods
    return row


# ---- the run -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """This file again, in another role."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, stdout=subprocess.PIPE, limit=1 << 20
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def contest(role: str, *arguments: str) -> Row:
    async with child("--role", role, *arguments) as process:
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{role} failed with code {process.returncode}")
        return Row(*json.loads(output))


async def run_all(pods: int, *, repeat: int) -> tuple[list[Row], int]:
    from contiv.log import configure
    from contiv.model import keys
    from contiv.store.client import Etcd
    from contiv.store.embedded import EmbeddedEtcd
    from tests.kube.conftest import write_kubeconfig

    configure("warning")
    with tempfile.TemporaryDirectory(prefix="contiv-bench-") as directory:
        async with child("--role", "server", "--pods", str(pods)) as server:
            assert server.stdout is not None
            told = json.loads(await server.stdout.readline())
            kubeconfig = write_kubeconfig(Path(directory) / "kubeconfig", f"http://127.0.0.1:{told['port']}")
            common = ("--kubeconfig", kubeconfig, "--pods", str(pods))
            runs = []
            for number in range(repeat):
                async with EmbeddedEtcd(Path(directory) / f"etcd-{number}") as etcd:
                    runs.append(await contest("ksr", *common, "--etcd", etcd.endpoint))
                    async with await Etcd.connect([etcd.endpoint]) as reader:
                        stored = await reader.get_prefix(keys.k8s_kind("pods"))
                    assert len(stored.records) == pods, "not everything arrived"
            median = sorted(runs, key=lambda row: row.cpu_s)[len(runs) // 2]
            median = median._replace(growth_mb=statistics.median(row.growth_mb for row in runs))
            official = [await contest(role, *common) for role in ("official", "official-paged")]
            return [median, *official], told["bytes"]


def show(rows: list[Row], *, pods: int, size: int) -> bool:
    ksr, *official = rows
    print(f"{pods} pods of {size} bytes")
    print(f"{'':16}{'wall s':>8}{'CPU s':>8}{'growth MB':>11}{'peak MB':>9}{'CPU':>8}{'memory':>8}")
    for row in rows:
        cpu, memory = row.cpu_s / ksr.cpu_s, row.growth_mb / ksr.growth_mb
        print(
            f"{row.name:16}{row.wall_s:8.2f}{row.cpu_s:8.2f}{row.growth_mb:11.1f}{row.peak_mb:9.1f}"
            f"{cpu:7.1f}x{memory:7.1f}x"
        )
    cpu_ratio = min(row.cpu_s for row in official) / ksr.cpu_s
    memory_ratio = min(row.growth_mb for row in official) / ksr.growth_mb
    good = cpu_ratio >= CPU_RATIO_WANTED and memory_ratio >= MEMORY_RATIO_WANTED
    print(
        f"against the better row: CPU {cpu_ratio:.1f}x (wanted {CPU_RATIO_WANTED:g}), "
        f"memory {memory_ratio:.1f}x (wanted {MEMORY_RATIO_WANTED:g}): {'reached' if good else 'MISSED'}"
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="KSR beside the official Kubernetes client")
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs of KSR; the median counts")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--role", choices=("server", "ksr", "official", "official-paged"), help=argparse.SUPPRESS)
    parser.add_argument("--kubeconfig", help=argparse.SUPPRESS)
    parser.add_argument("--etcd", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    match arguments.role:
        case "server":
            asyncio.run(run_server(arguments.pods))
        case "ksr":
            row = asyncio.run(run_ksr(arguments.kubeconfig, arguments.etcd, pods=arguments.pods))
            print(json.dumps(row))
        case "official" | "official-paged":
            paged = arguments.role == "official-paged"
            print(json.dumps(run_official(arguments.kubeconfig, pods=arguments.pods, paged=paged)))
        case None:
            rows, size = asyncio.run(run_all(arguments.pods, repeat=arguments.repeat))
            if arguments.output == "json":
                print(json.dumps({"pods": arguments.pods, "bytes": size, "rows": [row._asdict() for row in rows]}))
                return 0
            return 0 if show(rows, pods=arguments.pods, size=size) else 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main())
