"""The machine's inside: its NIC is stolen for VPP, pods hang on TAPs, and in the end the kernel has everything back.

The first process of the machine. Says each fact as a line ``fact NAME VALUE`` on the console, errors as
``failure``, and powers the machine off. Outside a host talks to it over that same NIC: an echo on ``ECHO_PORT`` of the
node itself, and a NodePort.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socketserver
import subprocess
import threading
import time
import traceback
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar, Final

import aiohttp
import msgspec
import yaml

from contiv import processes, vpp
from contiv.demo import cni, commands, probe
from contiv.demo.api import Api, Object
from contiv.demo.endpoints import EndpointSlices
from contiv.demo.kubelet import Kubelet
from contiv.demo.node import _host_address
from contiv.demo.sandbox import RESPONDER
from contiv.linux import links
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.log import configure
from contiv.stn import vswitch
from contiv.stn.journal import Journal
from contiv.stn.main import RECORD
from contiv.store.embedded import EmbeddedEtcd
from tests.vm import halfway
from tests.vm.machine import (
    ADDRESS,
    GATEWAY,
    NIC,
    SECOND,
    VPP_DRIVER,
    WAIT_S,
    addresses_stand,
    driver,
    eventually,
    fact,
    kernel_state,
    shell,
)

NODE: Final = "vm"
ECHO_PORT: Final = 7000
NODE_PORT: Final = 30080
RUN: Final = Path("/run/contiv")
STATE: Final = Path("/run/state")
VPP_SOCKET: Final = RUN / "vpp" / "api.sock"
OPENED, CHECKED = "opened", "checked"
"""What the host says on its session when the machine may go on."""
NO_INDEX: Final = 0xFFFFFFFF


class Echo(socketserver.StreamRequestHandler):
    """Says what it hears; lines, so that a session can be followed. ``heard`` has the words of the host."""

    heard: ClassVar[deque[str]] = deque()

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)
            if (word := line.decode().strip()) in (OPENED, CHECKED):
                self.heard.append(word)


async def hear(word: str) -> None:
    """Wait until the host has said it."""

    async def said() -> bool:
        return word in Echo.heard

    await eventually(said, f"the host says {word}")
    Echo.heard.clear()


def prepare() -> None:
    """A node as its administrator left it: one NIC with two addresses, a way out, a rule of its own."""
    for place, kind in (("/run", "tmpfs"), ("/tmp", "tmpfs"), ("/dev/shm", "tmpfs"), ("/dev/hugepages", "hugetlbfs")):
        Path(place).mkdir(parents=True, exist_ok=True)
        shell("mount", "-t", kind, kind, place)
    Path("/run/netns").mkdir()
    if not Path("/var/run/netns").exists():
        Path("/var/run").rmdir()
        Path("/var/run").symlink_to("/run")
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "set", NIC, "up"),
        ("addr", "add", f"{ADDRESS}/24", "dev", NIC),
        ("addr", "add", f"{SECOND}/24", "dev", NIC),
        ("route", "add", "default", "via", GATEWAY),
        ("route", "add", "198.51.100.0/24", "via", GATEWAY, "table", "100"),
        ("rule", "add", "from", SECOND, "table", "100"),
    ):
        shell("ip", *words)
    server = socketserver.ThreadingTCPServer(("0.0.0.0", ECHO_PORT), Echo, bind_and_activate=False)
    server.allow_reuse_address = server.daemon_threads = True
    server.server_bind()
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()


def config(etcd: str) -> Object:
    """The node's configuration: steal the one NIC, TAPs for pods, hugepages."""
    prefix = os.environ.get("CONTIV_VPP_PREFIX", "")
    return {
        "etcd": {"endpoints": [etcd]},
        "vpp": {
            "dataplane": "vpp",
            "prefix": prefix,
            "runDir": str(RUN / "vpp"),
            "hugepages": True,
            "mainHeapSize": "256M",
            "nicDriver": VPP_DRIVER,
        },
        "runDir": str(RUN),
        "stateDir": str(STATE),
        "restListen": f"unix:{RUN}/rest.sock",
        "stnSocketFile": str(RUN / "stn.sock"),
        "stnGraceSeconds": 60,
        "stealInterface": NIC,
        "podInterface": "tap",
    }


async def run() -> None:
    """The whole story."""
    await eventually(addresses_stand, "the kernel has looked for duplicates of its addresses")
    before = kernel_state()
    fact("driver-before", driver())
    async with AsyncExitStack() as stack:
        workers = Workers()
        stack.callback(workers.close)
        etcd = await stack.enter_async_context(EmbeddedEtcd(Path("/run/etcd")))
        kubeconfig = Path("/run/kubeconfig")

        async def child(name: str, argv: list[str]) -> processes.Process:
            process = await processes.start(name, argv, log=Path(f"/run/{name}.log"))
            stack.push_async_callback(process.stop)
            return process

        await child("api", commands.emulated_api(kubeconfig=kubeconfig))
        await eventually(lambda: _exists(kubeconfig), "the API server serves")
        api = await stack.enter_async_context(Api(str(kubeconfig)))
        await api.ready()
        await child("ksr", commands.ksr(kubeconfig=str(kubeconfig), etcd=etcd.unix_endpoint))
        file = Path("/run/contiv.yaml")
        file.write_text(yaml.safe_dump(config(etcd.unix_endpoint)))
        daemon = [*commands.CONTIV, "stn", "--config", str(file)]
        await halfway.every_write(STATE / RECORD, daemon, before)
        await child("stn", daemon)
        fact("ready-to-steal", "now")
        await hear(OPENED)
        started = time.monotonic()
        init = await child("init", commands.init(config=file, node=NODE))
        await steal(api, workers, started)
        await init.stop(grace_s=20.0)
        fact("stopped", "init")
        await release(file, before)
        await hear(CHECKED)


async def _exists(path: Path) -> bool:
    return path.exists()


async def steal(api: Api, workers: Workers, started: float) -> None:
    """Everything between the theft and the release."""
    conflist = commands.conflist(Path("/run/node"))
    conflist["plugins"][0]["agentSocket"] = str(RUN / "cni.sock")
    network = cni.Network(conflist, commands.plugin_directories())

    async def address() -> str | None:
        return _host_address()

    kubelet = Kubelet(
        api, NODE, network=network, namespace=lambda name: name[:40], address=address, logs=Path("/run/pods")
    )
    work = [asyncio.create_task(kubelet.run())]
    work.append(asyncio.create_task(EndpointSlices(api).run()))
    try:
        async with asyncio.timeout(WAIT_S):
            await kubelet.ready.wait()
        fact("seconds-to-ready", round(time.monotonic() - started, 1))
        fact("driver-stolen", driver())
        async with vpp.connect(str(VPP_SOCKET), name="guest", connect_timeout_s=WAIT_S) as connection:
            dumped = await connection.dump(
                "sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter=""
            )
            fact("vpp-interfaces", ",".join(sorted(f"{entry.interface_name}={entry.tag}" for entry in dumped)))
            fact("vpp-version", connection.version)
        pods = {name: await running(api, name) for name in ("one", "two")}
        service = {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "NodePort", "selector": {"app": "one"},
                     "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]},
        }  # fmt: skip
        await api.create(service)
        spaces = {name: kubelet.sandboxes[thing["metadata"]["uid"]].netns for name, thing in pods.items()}
        for what, space, target in (
            ("pod-to-pod", spaces["one"], pods["two"]["status"]["podIP"]),
            ("host-to-pod", "", pods["one"]["status"]["podIP"]),
            ("pod-to-outside", spaces["one"], GATEWAY),
            ("host-to-outside", "", GATEWAY),
        ):
            reply = await probe.first_reply(workers, space, target, timeout_s=30)
            fact(what, "works" if reply is not None else "FAILS")
        fact("pod-link", await workers.inside(spaces["one"], link_kind))
        fact("vhost-threads", vhost_threads())
        fact("frontends", await frontends())
        fact("ready-for-the-outside", NODE_PORT)
        await hear(CHECKED)
        await kill_vpp()
        for name in pods:
            await api.delete(f"/api/v1/namespaces/default/pods/{name}")

        async def gone() -> bool:
            return not kubelet.sandboxes

        await eventually(gone, "the pods are gone")
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def kill_vpp() -> None:
    """The NIC's DMA has nobody who reads it; init starts another VPP, and the session outside goes on."""
    killed = await vswitch.behind(str(VPP_SOCKET))
    os.kill(killed.pid, signal.SIGKILL)
    fact("vpp-killed", killed.pid)
    await hear(CHECKED)

    async def confirmed() -> bool:
        record = Journal(STATE / RECORD).read()
        return record is not None and record.confirmed not in (None, killed)

    await eventually(confirmed, "another VPP carries the node")
    fact("driver-after-vpps-death", driver())


async def frontends() -> str:
    """What the agent serves at the NodePort, and by which backends."""
    connector = aiohttp.UnixConnector(f"{RUN}/rest.sock")

    async with aiohttp.ClientSession(connector=connector) as session:

        async def served() -> str:
            async with session.get("http://agent/contiv/v1/services") as response:
                told = msgspec.json.decode(await response.read())
            return " ".join(str(each) for each in told["frontends"] if str(NODE_PORT) in str(each))

        return str(await eventually(served, "the agent knows the NodePort"))


def link_kind() -> str:
    """What eth0 is to the kernel, where the caller is."""
    with Conversation() as conversation:
        link = links.find(conversation, NIC)
    return "missing" if link is None else link.kind


def vhost_threads() -> int:
    """How many kernel threads carry packets for VPP's TAPs."""
    return sum(
        (process / "comm").read_text().startswith("vhost-") for process in Path("/proc").iterdir()
        if process.name.isdigit()
    )  # fmt: skip


async def running(api: Api, name: str) -> Object:
    """A pod that answers on TCP 8080, once it runs."""
    container = {"name": "main", "image": RESPONDER, "ports": [{"containerPort": 8080, "protocol": "TCP"}]}
    thing = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [container]},
    }  # fmt: skip
    await api.create(thing)

    async def ready() -> Object | None:
        found = await api.request("GET", f"/api/v1/namespaces/default/pods/{name}")
        conditions = {each["type"]: each["status"] for each in found["status"].get("conditions", ())}
        return found if conditions.get("Ready") == "True" else None

    found: Object = await eventually(ready, f"pod {name} is ready")
    return found


async def release(file: Path, before: dict[str, str]) -> None:
    """Uninstall: the NIC goes back, and nothing is otherwise than it was."""
    started = time.monotonic()
    child = await processes.start(
        "release", [*commands.CONTIV, "stn", "--release", "--config", str(file)], log=Path("/run/release.log")
    )
    code = await child.wait()
    fact("release-exit-code", code)
    fact("seconds-to-release", round(time.monotonic() - started, 1))
    fact("driver-after", driver())
    await eventually(addresses_stand, "the kernel has looked for duplicates once more")
    after = kernel_state()
    for name, was in before.items():
        fact(f"{name}-equal", after[name] == was)
        if after[name] != was:
            print(f"before:\n{was}\nafter:\n{after[name]}", flush=True)
    workers = Workers()
    reply = await probe.first_reply(workers, "", GATEWAY, timeout_s=30)
    fact("kernel-to-outside", "works" if reply is not None else "FAILS")
    workers.close()


def main() -> None:
    """Run, say what went wrong, and end the machine."""
    configure("warning")
    try:
        prepare()
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
        asyncio.run(run())
        fact("done", "yes")
    except BaseException:
        print("failure " + traceback.format_exc().replace("\n", "\nfailure "), flush=True)
        for log in sorted([*Path("/run").glob("*.log"), *RUN.rglob("*.log")]):
            for line in log.read_text(errors="replace").splitlines()[-25:]:
                print(f"log {log}: {line[:300]}", flush=True)
    finally:
        os.sync()
        subprocess.run(["/bin/busybox", "poweroff", "-f"], check=False)


if __name__ == "__main__":
    main()
