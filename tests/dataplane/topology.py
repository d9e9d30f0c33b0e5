"""What the data plane suite is played on: nodes with either VPP, pods on veth pairs, wires between nodes.

Everything lives in network namespaces of its own, named after this process, and goes with ``Topology.close``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import contiv.vpp
from contiv.config import VppConfig
from contiv.linux import interfaces, links, netns, veths
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.model.ip import Address, Network
from contiv.model.linux import Interface, Neighbour, Route, Veth
from contiv.vpp import lifecycle

T = TypeVar("T")
START_S = 20.0
STOP_S = 5.0
NO_INDEX = 0xFFFFFFFF
AF_PACKET_FLAGS = 1 | 2 | 8  # qdisc bypass, offloads, ring version 2
_numbers = count(1)


class Node:
    """A data plane in its own network namespace. ``pods`` maps names to their namespaces."""

    def __init__(self, kind: lifecycle.Dataplane, workers: Workers) -> None:
        self.kind = kind
        self.name = f"cdp{os.getpid()}-{next(_numbers)}"
        self.netns = netns.create(self.name)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.sockets = lifecycle.Sockets(run_dir=str(self.folder))
        self.pods: dict[str, str] = {}
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, by_xdp: bool = False) -> None:
        """Start the data plane, with the af_xdp plugin if it is to be, and wait for its API socket."""
        config = VppConfig(main_heap_size="512M", buffers_per_numa=8192)
        conf = self.folder / "startup.conf"
        conf.write_text(lifecycle.startup_conf(config, run_dir=str(self.folder), by_xdp=by_xdp))
        argv = lifecycle.command(self.kind, lifecycle.find_vpp(), conf=str(conf))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                netns.command_in(self.netns, argv, die_with_parent=True),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **lifecycle.environment(self.kind)},
            )
        deadline = time.monotonic() + START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind} did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)  # neither tells anybody that it is ready

    def _listens(self) -> bool:
        """Whether the API socket takes connections: VPP binds it a moment before."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            return channel.connect_ex(self.sockets.api) == 0

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return int(self._process.returncode)

    def close(self) -> None:
        """Take everything away."""
        if self._process is not None:
            self.stop()
        for name in [*self.pods, self.name]:
            netns.delete(name)
        for leftover in Path("/dev/shm").glob(f"*{self.folder.name}*"):
            leftover.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self) -> contiv.vpp.Vpp:
        """A client of this node's API."""
        return contiv.vpp.connect(self.sockets.api, name="dataplane-suite")

    async def inside(self, namespace: str, work: Callable[[], T]) -> T:
        """``work()`` on a thread inside a namespace."""
        return await self._workers.inside(namespace, work)

    async def veth(self, name: str, **peer: Any) -> None:
        """A veth pair with its near end in the node's namespace."""
        await self.inside(self.netns, lambda: veths.create(f"linux/veth/{name}", Veth(name=name, **peer)))

    async def unveth(self, name: str) -> None:
        """Remove a pair made by ``veth``."""
        pair = Veth(name=name, peer="")
        await self.inside(self.netns, lambda: veths.remove(f"linux/veth/{name}", pair))

    async def namespace(self, name: str) -> str:
        """A namespace for a pod."""
        full = f"{self.name}-{name}"
        path = netns.create(full)
        self.pods[full] = path
        return path


async def open_link(vpp: contiv.vpp.Vpp, host_if: str, mac: str, *, gso: bool = True, mtu: int = 1500) -> int:
    """An af_packet interface on a kernel link, up; its index."""
    reply = await vpp.call(
        "af_packet_create_v3", mode=1, hw_addr=mac, use_random_hw_addr=False, host_if_name=host_if,
        rx_frames_per_block=16, tx_frames_per_block=16, flags=AF_PACKET_FLAGS if gso else AF_PACKET_FLAGS & ~2,
        num_rx_queues=1, num_tx_queues=1,
    )  # fmt: skip
    await vpp.call("sw_interface_set_mtu", sw_if_index=reply.sw_if_index, mtu=[mtu, 0, 0, 0])
    await vpp.call("sw_interface_set_flags", sw_if_index=reply.sw_if_index, flags=1)
    return int(reply.sw_if_index)


async def loopback(vpp: contiv.vpp.Vpp, instance: int, mac: str, prefix: str) -> int:
    """A loopback with an address, up."""
    reply = await vpp.call("create_loopback_instance", mac_address=mac, is_specified=True, user_instance=instance)
    index = int(reply.sw_if_index)
    if prefix:
        await vpp.call("sw_interface_add_del_address", sw_if_index=index, is_add=True, del_all=False, prefix=prefix)
    await vpp.call("sw_interface_set_flags", sw_if_index=index, flags=1)
    return index


def path(index: int, hop: str = "", **more: Any) -> dict[str, Any]:
    """A path of a route."""
    made: dict[str, Any] = {"sw_if_index": index, "weight": 1, **more}
    if hop:
        made["nh"] = {"address": {"ip4": hop}}
    return made


async def route(vpp: contiv.vpp.Vpp, prefix: str, *paths: dict[str, Any], table: int = 0) -> None:
    """Add a route of the API's source."""
    fields = {"table_id": table, "prefix": prefix, "n_paths": len(paths), "paths": list(paths)}
    await vpp.call("ip_route_add_del", is_add=True, is_multipath=False, route=fields)


async def neighbour(vpp: contiv.vpp.Vpp, index: int, address: str, mac: str) -> None:
    """Add a static neighbour."""
    fields = {"sw_if_index": index, "flags": 1, "mac_address": mac, "ip_address": address}
    await vpp.call("ip_neighbor_add_del", is_add=True, neighbor=fields)


class Pod:
    """A pod as the agent lays it out: /32, gateway and default route, static neighbours both ways."""

    def __init__(self, node: Node, name: str, address: str, number: int) -> None:
        self.node = node
        self.name = name
        self.address = address
        self.mac = f"02:fe:00:01:00:{number:02x}"
        self.vpp_mac = f"02:fe:00:02:00:{number:02x}"
        self.link = f"v{name}"
        self.netns = ""
        self.index = NO_INDEX

    async def attach(self, vpp: contiv.vpp.Vpp, gateway: int, gateway_address: str, *, mtu: int = 1450) -> None:
        """Wire it through ``gateway``, the loopback that lends its address."""
        await self.lay(gateway_address, mtu=mtu)
        self.index = await open_link(vpp, self.link, self.vpp_mac, mtu=mtu)
        await vpp.call(
            "sw_interface_set_unnumbered", is_add=True, sw_if_index=gateway, unnumbered_sw_if_index=self.index
        )
        await neighbour(vpp, self.index, self.address, self.mac)
        await route(vpp, f"{self.address}/32", path(self.index, self.address))

    async def lay(self, gateway_address: str, *, mtu: int = 1450) -> None:
        """Linux's part: the namespace, the veth pair, ``link`` being its end beside VPP, address and routes."""
        self.netns = await self.node.namespace(self.name)
        await self.node.veth(self.link, peer="eth0", peer_netns=self.netns, peer_mac=self.mac, mtu=mtu)
        via = Address.parse(gateway_address)
        wanted = Interface(
            self.name, "eth0", netns=self.netns, mtu=mtu, addresses=(Network.parse(f"{self.address}/32"),),
            routes=(Route(via.host_network), Route(Network.parse("0.0.0.0/0"), gateway=via)),
            neighbours=(Neighbour(via, self.vpp_mac),),
        )  # fmt: skip
        await self.node.inside(self.netns, lambda: _configured(self.name, wanted))


def _configured(name: str, wanted: Interface) -> None:
    with Conversation() as conversation:
        conversation.run([links.set_up(links.LOOPBACK, True, name="lo")])
    interfaces.configure(f"linux/interface/{name}", wanted)


async def wire(first: Node, second: Node, name: str) -> None:
    """A cable between two nodes: a link called ``name`` in both."""
    await first.veth(name, peer=name, peer_netns=second.netns)


async def clean(vpp: contiv.vpp.Vpp) -> None:
    """Delete everything that the API can list, in the order of what depends on what."""
    for source in (0, *(e.src.id for e in await vpp.dump("fib_source") if e.src.name == "contiv")):
        for table in await vpp.dump("ip_table"):
            for entry in await vpp.dump("ip_route_v2", src=source or 8, table=table.table._asdict()):
                fields = {"table_id": entry.route.table_id, "prefix": str(entry.route.prefix), "src": entry.route.src}
                await vpp.call("ip_route_add_del_v2", is_add=False, route={**fields, "n_paths": 0, "paths": []})
    for family in (0, 1):
        for entry in await vpp.dump("ip_neighbor", sw_if_index=NO_INDEX, af=family):
            neighbor = {field: getattr(entry.neighbor, field) for field in ("sw_if_index", "flags", "mac_address")}
            neighbor["ip_address"] = str(entry.neighbor.ip_address)
            neighbor["mac_address"] = str(entry.neighbor.mac_address)
            await vpp.call("ip_neighbor_add_del", is_add=False, neighbor=neighbor)
    for entry in await vpp.dump("ip_unnumbered", sw_if_index=NO_INDEX):
        await vpp.call(
            "sw_interface_set_unnumbered", is_add=False, sw_if_index=entry.ip_sw_if_index,
            unnumbered_sw_if_index=entry.sw_if_index,
        )  # fmt: skip
    for domain in await vpp.dump("bridge_domain", bd_id=NO_INDEX, sw_if_index=NO_INDEX):
        for member in domain.sw_if_details:
            await vpp.call("sw_interface_set_l2_bridge", rx_sw_if_index=member.sw_if_index, enable=False)
        await vpp.call("bridge_domain_add_del_v2", bd_id=domain.bd_id, is_add=False)
    for tunnel in await vpp.dump("vxlan_tunnel_v2", sw_if_index=NO_INDEX):
        await vpp.call(
            "vxlan_add_del_tunnel_v3", is_add=False, instance=tunnel.instance, src_address=str(tunnel.src_address),
            dst_address=str(tunnel.dst_address), src_port=tunnel.src_port, dst_port=tunnel.dst_port, vni=tunnel.vni,
            encap_vrf_id=tunnel.encap_vrf_id, decap_next_index=NO_INDEX, mcast_sw_if_index=NO_INDEX,
        )  # fmt: skip
    for entry in await vpp.dump("af_packet"):
        await vpp.call("af_packet_delete", host_if_name=entry.host_if_name)
    for entry in await vpp.dump("sw_interface", sw_if_index=NO_INDEX):
        for kind in ("delete_loopback", "bvi_delete"):
            if entry.sw_if_index and (await vpp.call(kind, check=False, sw_if_index=entry.sw_if_index)).retval == 0:
                break
    for table in await vpp.dump("ip_table"):
        if table.table.table_id:
            await vpp.call("ip_table_add_del_v2", is_add=False, table=table.table._asdict())
    await vpp.call("acl_interface_set_acl_list", sw_if_index=0, count=0, n_input=0, acls=[])
    for entry in await vpp.dump("acl", acl_index=NO_INDEX):
        await vpp.call("acl_del", acl_index=entry.acl_index)


async def until(check: Callable[[], Any], *, timeout_s: float = 30.0) -> Any:
    """The first true result of an async ``check``, asked again and again."""
    async with asyncio.timeout(timeout_s):
        while not (found := await check()):
            await asyncio.sleep(0.02)
        return found


@contextlib.contextmanager
def closing(*nodes: Node) -> Any:
    """Close nodes whatever happens."""
    try:
        yield
    finally:
        for node in nodes:
            node.close()
