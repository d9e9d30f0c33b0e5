"""Services before they reach the scheduler: decoding, rendering, one change, memory; and Maglev tables.

``scheduler.py`` beside this file measures the whole way, from etcd's bytes to VPP's last reply. Times are CPU of this
process, the best of ``--repeat``; memory is the resident size of a process of its own that holds the decoded
objects, as an agent does, and the state. Maglev's contestants make the same kind of table: the paper's pseudo code in
Python with its table of permutations, with permutations computed as they are needed, and with additions instead of
multiplications; and numpy, a round of all backends at once.

::

    python bench/service.py [--services 10000] [--endpoints 10] [--repeat 5]
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from contiv.fastpath import hashing
from contiv.model import kube
from contiv.model.ip import Address, Network
from contiv.scheduler import Value
from contiv.service.frontends import NodeView
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.renderer import Options
from contiv.service.state import ServiceState

BACKENDS: Final = 250
MEMORY_SERVICES: Final = 5_000
MEMORY_ENDPOINTS: Final = 50
CHANGES: Final = 200
NODE: Final = NodeView(
    name="node-1",
    uplink=Address.parse("192.168.16.1"),
    interfaces=("vpp2", "vxlan-bvi"),
    snat_interface="uplink",
    own_addresses=tuple(map(Address.parse, ("192.168.16.1", "172.30.1.2"))),
    host=Address.parse("172.30.1.2"),
    hidden=Address.parse("10.1.1.254"),
    pods=Network.parse("10.0.0.0/10"),
    own_pods=Network.parse("10.1.1.0/24"),
    hosts=Network.parse("172.30.0.0/16"),
    services=Network.parse("10.96.0.0/12"),
    vxlan=Network.parse("192.168.30.0/24"),
    interconnect=Network.parse("192.168.16.0/24"),
)


def stored(services: range, endpoints: int) -> dict[str, bytes]:
    """What etcd holds of these services with so many endpoints each."""
    found = {}
    for number in services:
        name, namespace = f"service-{number}", f"namespace-{number % 500}"
        web = kube.Service(
            namespace=namespace,
            name=name,
            type="ClusterIP",
            cluster_ips=(str(Address(4, 0x0A600000 + number)),),
            ports=(kube.ServicePort(name="http", protocol="TCP", port=80, target_port=8080),),
            internal_traffic_policy="Cluster",
            external_traffic_policy="Cluster",
            session_affinity="None",
        )
        found[kube.SERVICES.key_of(web)] = kube.SERVICES.encode(web)
        each = slice_of(namespace, name, [number * endpoints + place for place in range(endpoints)])
        found[kube.ENDPOINT_SLICES.key_of(each)] = kube.ENDPOINT_SLICES.encode(each)
    return found


def slice_of(namespace: str, service: str, numbers: list[int]) -> kube.EndpointSlice:
    """A slice with a pod behind each number."""
    return kube.EndpointSlice(
        namespace=namespace,
        name=f"{service}-abcde",
        uid="01234567-89ab-cdef-0123-456789abcdef",
        service_name=service,
        address_type="IPv4",
        ports=(kube.EndpointPort(name="http", protocol="TCP", port=8080),),
        endpoints=tuple(
            kube.Endpoint(
                address=str(Address(4, 0x0A010002 + number)),
                node_name=f"node-{number % 5000}",
                zone=f"zone-{number % 3}",
                is_pod=True,
            )
            for number in numbers
        ),
    )


def decode(records: dict[str, bytes]) -> dict[str, Any]:
    """What the agent's feed does."""
    return {key: kube.parse(key, value) for key, value in records.items()}


def load(objects: dict[str, Any]) -> ServiceState:
    """A state that has rendered everything."""
    return render(objects)[0]


def render(objects: dict[str, Any]) -> tuple[ServiceState, dict[str, Value]]:
    """A state that holds the objects, and what it desires."""
    state = ServiceState(NODE, Nat44Renderer(Options()))
    desired = state.replace(
        [each for each in objects.values() if isinstance(each, kube.Service)],
        {key: each for key, each in objects.items() if isinstance(each, kube.EndpointSlice)},
        NODE,
        node_object=None,
        interfaces=(),
    )
    assert len(desired) >= len(objects) // 2
    return state, desired


def node_keys() -> list[str]:
    """The keys that a node desires without any service."""
    return list(Nat44Renderer(Options()).node(NODE))


def best(work: Callable[[], Any], repeat: int) -> float:
    """CPU seconds of the quickest run."""
    times = []
    for _ in range(repeat):
        gc.collect()
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def change(state: ServiceState, objects: dict[str, Any]) -> float:
    """CPU seconds of one endpoint less in one service, the median of many services."""
    slices = [each for each in objects.items() if isinstance(each[1], kube.EndpointSlice)][:CHANGES]
    times = []
    for key, each in slices:
        shorter = msgspec.structs.replace(each, endpoints=each.endpoints[1:])
        started = time.process_time()
        changes = state.slice_changed(key, shorter)
        state.frontends()
        times.append(time.process_time() - started)
        assert len(changes) == 1
    return statistics.median(times)


def resident() -> float:
    """MB of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def memory() -> None:
    """In a process of its own: megabytes before, with the objects, and with the state."""
    before = resident()
    objects: dict[str, Any] = {}
    for number in range(MEMORY_SERVICES):  # as they come from etcd: its bytes are gone once they are read
        objects |= decode(stored(range(number, number + 1), MEMORY_ENDPOINTS))
    held = resident()
    state = load(objects)
    gc.collect()
    print(json.dumps([before, held, resident(), len(state.services())]))


# ---- Maglev


def literal(names: list[bytes], size: int) -> list[int]:
    """The pseudo code of the paper (NSDI 2016, section 3.4), permutations made before."""
    permutation = []
    for name in names:
        offset = int.from_bytes(hashlib.md5(b"o" + name).digest()[:8], "big") % size
        skip = int.from_bytes(hashlib.md5(b"s" + name).digest()[:8], "big") % (size - 1) + 1
        permutation.append(array("I", [(offset + j * skip) % size for j in range(size)]))
    place = [0] * len(names)
    entry = [-1] * size
    filled = 0
    while True:
        for i in range(len(names)):
            c = permutation[i][place[i]]
            while entry[c] >= 0:
                place[i] += 1
                c = permutation[i][place[i]]
            entry[c] = i
            place[i] += 1
            filled += 1
            if filled == size:
                return entry


def paper(names: list[bytes], size: int) -> list[int]:
    """The same without a table of permutations."""
    offset = [int.from_bytes(hashlib.md5(b"o" + name).digest()[:8], "big") % size for name in names]
    skip = [int.from_bytes(hashlib.md5(b"s" + name).digest()[:8], "big") % (size - 1) + 1 for name in names]
    place = [0] * len(names)
    entry = [-1] * size
    filled = 0
    while True:
        for i in range(len(names)):
            c = (offset[i] + place[i] * skip[i]) % size
            while entry[c] >= 0:
                place[i] += 1
                c = (offset[i] + place[i] * skip[i]) % size
            entry[c] = i
            place[i] += 1
            filled += 1
            if filled == size:
                return entry


def stepping(names: list[bytes], size: int) -> list[int]:
    """The same, stepping along each permutation by addition."""
    at = [int.from_bytes(hashlib.md5(b"o" + name).digest()[:8], "big") % size for name in names]
    skip = [int.from_bytes(hashlib.md5(b"s" + name).digest()[:8], "big") % (size - 1) + 1 for name in names]
    entry = [-1] * size
    left = size
    while True:
        for i, step in enumerate(skip):
            c = at[i]
            while entry[c] >= 0:
                c += step
                if c >= size:
                    c -= size
            entry[c] = i
            at[i] = c
            left -= 1
            if not left:
                return entry


def vectors(names: list[bytes], size: int) -> np.ndarray[Any, Any]:
    """With numpy: rounds of one entry for each backend, all their next free entries found at once, a chunk ahead."""
    seeds = hashing.fingerprints(names)
    offset, skip = (seeds % np.uint64(size)).astype(np.int64), (seeds >> np.uint64(32)).astype(np.int64)
    skip = skip % (size - 1) + 1
    entry = np.full(size, -1, np.int32)
    at, filled = offset.copy(), 0
    while filled < size:
        busy = entry[at] >= 0
        while busy.any():
            at[busy] = (at[busy] + skip[busy]) % size
            busy = entry[at] >= 0
        found, first = np.unique(at, return_index=True)  # of two that want one entry the first gets it
        take = min(len(first), size - filled)
        entry[found[:take]] = first[:take]
        filled += take
    return entry


def maglev(repeat: int) -> list[tuple[str, float]]:
    """Seconds of each contestant."""
    names = [b"10.1.%d.%d:8080" % divmod(number, 256) for number in range(BACKENDS)]
    size = hashing.TABLE_SIZE
    contestants: list[tuple[str, Callable[[], Any]]] = [
        ("contiv.fastpath.hashing", lambda: hashing.maglev(hashing.fingerprints(names), size)),
        ("Python, the paper's pseudo code", lambda: literal(names, size)),
        ("Python, permutations as needed", lambda: paper(names, size)),
        ("Python, by additions", lambda: stepping(names, size)),
        ("numpy", lambda: vectors(names, size)),
    ]
    return [(name, best(work, repeat)) for name, work in contestants]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory()
        return
    print(f"{options.services} services x {options.endpoints} endpoints")
    changed = []
    for count in (options.services, options.services // 10):
        records = stored(range(count), options.endpoints)
        objects = decode(records)
        changed.append(change(load(objects), objects))
        if count == options.services:
            print(f"  decoding etcd's bytes   {best(lambda: decode(records), options.repeat) * 1e3:8.1f} ms")  # noqa: B023
            print(f"  state and rendering     {best(lambda: load(objects), options.repeat) * 1e3:8.1f} ms")  # noqa: B023
    print(
        f"  one endpoint changed    {changed[0] * 1e6:8.1f} us, with a tenth of the services {changed[1] * 1e6:.1f} us"
    )
    child = subprocess.run([sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True)
    before, held, whole, _ = json.loads(child.stdout)
    print(f"{MEMORY_SERVICES} services x {MEMORY_ENDPOINTS} endpoints: {whole:.0f} MB resident")
    print(f"  interpreter and imports {before:.0f}, objects {held - before:.0f}, state {whole - held:.0f}")
    print(f"Maglev, {hashing.TABLE_SIZE} entries, {BACKENDS} backends")
    times = maglev(options.repeat)
    for name, seconds in times:
        print(f"  {name:32} {seconds * 1e3:8.2f} ms {seconds / times[0][1]:8.1f}")


if __name__ == "__main__":
    main()
