"""A NIC's own affairs, on both data planes: what VPP has no use for goes to the host, addresses come by DHCP."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from topology import NO_INDEX, Node, clean, neighbour, open_link, until

from contiv.demo import probe
from contiv.linux import interfaces, netns
from contiv.linux.netns import Workers
from contiv.model import vpp as model
from contiv.model.ip import Address, Network
from contiv.model.linux import Interface, Neighbour, Route
from contiv.vpp.descriptors import Interfaces
from contiv.vpp.descriptors.dhcp import DhcpClientDescriptor
from contiv.vpp.descriptors.layer3 import AddressDescriptor
from contiv.vpp.descriptors.lease import Lease, leases
from contiv.vpp.descriptors.punt import PuntRedirectDescriptor
from tests import dnsmasq

pytestmark = pytest.mark.root

WAIT_S = 20.0
LEASE_S = 6
SERVER = "192.0.2.1"
NODE = "192.0.2.7"
HOST, VPP_END = "172.30.1.2", "172.30.1.1"
NIC_MAC, HOST_MAC, VPP_MAC = "02:fe:00:00:01:01", "02:fe:00:00:01:02", "02:fe:00:00:01:03"


class Wired:
    """A data plane whose NIC ``nic`` is wired to the namespace ``outside``, with the address SERVER there."""

    def __init__(self, node: Node, vpp, outside: str, index: int) -> None:
        self.node = node
        self.vpp = vpp
        self.outside = outside
        self.index = index
        self.interfaces = Interfaces()
        self.interfaces.put("uplink", index)

    async def host(self) -> None:
        """A host behind VPP with the node's own address, as a stolen NIC leaves it."""
        path = await self.node.namespace("host")
        await self.node.veth("hv", peer="vpp1", peer_netns=path, peer_mac=HOST_MAC)
        index = await open_link(self.vpp, "hv", VPP_MAC)
        prefix = f"{VPP_END}/24"
        await self.vpp.call(
            "sw_interface_add_del_address", sw_if_index=index, is_add=True, del_all=False, prefix=prefix
        )
        await neighbour(self.vpp, index, HOST, HOST_MAC)
        end = Address.parse(VPP_END)
        wanted = Interface(
            "vpp1",
            "vpp1",
            netns=path,
            addresses=(Network.parse(f"{HOST}/24", strict=False), Network.parse(f"{NODE}/32")),
            routes=(Route(Network.parse("0.0.0.0/0"), gateway=end, source=Address.parse(NODE)),),
            # told, not asked for: VPP answers no ARP from an address of its own
            neighbours=(Neighbour(end, VPP_MAC),),
        )
        await self.node.inside(path, lambda: interfaces.configure("linux/interface/vpp1", wanted))
        self.interfaces.put("vpp2", index)
        self.host_netns = path


@pytest.fixture
async def wired(node: Node) -> AsyncIterator[Wired]:
    async with node.connect() as vpp:
        outside = await node.namespace("outside")
        await node.veth("nic", peer="out", peer_netns=outside)
        wanted = Interface("out", "out", netns=outside, addresses=(Network.parse(f"{SERVER}/24", strict=False),))
        await node.inside(outside, lambda: interfaces.configure("linux/interface/out", wanted))
        made = Wired(node, vpp, outside, await open_link(vpp, "nic", NIC_MAC))
        yield made
        for entry in await vpp.dump("dhcp_client"):
            await vpp.call("dhcp_client_config", is_add=False, client={"sw_if_index": entry.client.sw_if_index})
        await clean(vpp)
        await node.unveth("nic")
        for name in list(node.pods):
            netns.delete(name)
            del node.pods[name]


def echo(kind: int) -> Callable[[], socket.socket]:
    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET, kind)
        listener.settimeout(WAIT_S)
        listener.bind((NODE, 7777))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        return listener

    return listen


async def test_what_vpp_has_no_use_for_reaches_the_host_behind_it_and_back(wired: Wired, workers: Workers) -> None:
    await wired.host()
    vpp = wired.vpp
    await vpp.call(
        "sw_interface_add_del_address", sw_if_index=wired.index, is_add=True, del_all=False, prefix=f"{NODE}/24"
    )
    assert await probe.first_reply(workers, wired.outside, NODE, timeout_s=WAIT_S)  # VPP itself
    descriptor = PuntRedirectDescriptor(vpp, wired.interfaces)
    value = model.PuntRedirect(gateway=Address.parse(HOST), interface="vpp2")
    key = model.key_of(value)
    assert await udp_answer(wired) is None
    await descriptor.create(key, value)
    assert [(each.key, each.value) for each in await descriptor.retrieve({})] == [(key, value)]
    assert await udp_answer(wired) == b"question"
    assert await tcp_answer(wired) == b"hello"
    await descriptor.delete(key, value, None)
    assert await descriptor.retrieve({}) == []
    assert await udp_answer(wired) is None


async def udp_answer(wired: Wired) -> bytes | None:
    """What the host's UDP socket gets from outside; the way back is taken as well."""
    listener = await wired.node.inside(wired.host_netns, echo(socket.SOCK_DGRAM))

    def ask() -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, listener:
            asking.settimeout(1.0)
            listener.settimeout(1.0)
            asking.connect((NODE, 7777))
            for _ in range(3):  # the first one may go for ARP
                try:
                    asking.send(b"question")
                    data, peer = listener.recvfrom(100)
                    listener.sendto(data, peer)
                    return asking.recv(100)
                except (TimeoutError, ConnectionRefusedError):
                    continue
            return None

    return await wired.node.inside(wired.outside, ask)


async def tcp_answer(wired: Wired) -> bytes:
    listener = await wired.node.inside(wired.host_netns, echo(socket.SOCK_STREAM))

    def talk() -> bytes:
        with listener, socket.create_connection((NODE, 7777), timeout=WAIT_S) as calling:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
                return calling.recv(100)

    return await wired.node.inside(wired.outside, talk)


class Server:
    """A DHCP server in ``outside``: dnsmasq or the suite's own."""

    def __init__(self, wired: Wired, folder: Path, kind: str) -> None:
        self._wired = wired
        self._folder = folder
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None

    def lease(self, address: str, *, seconds: int) -> None:
        """From now on the client is to have this address, and to renew it after half of so many seconds."""
        terms = {"server": SERVER, "pool": [address], "length": 24, "router": SERVER, "lease_s": seconds}
        (self._folder / "terms").write_text(json.dumps(terms))
        if self._kind == "dnsmasq":
            self.stop()
            dnsmasq.leases(self._folder).unlink(missing_ok=True)
            self._start(
                dnsmasq.command(
                    "out", folder=self._folder, first=address, last=address, router=SERVER, renew_s=seconds // 2
                )
            )
        elif self._process is None:
            self._start([sys.executable, "-m", "contiv.demo.dhcp", "out", str(self._folder / "terms")])

    def renewed(self, address: str) -> bool:
        """Whether the address was granted again; the suite's own server does not tell."""
        return self._kind == "own" or dnsmasq.granted(self._folder / "log").count(address) > 1

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None

    def _start(self, argv: list[str]) -> None:
        with (self._folder / "log").open("ab") as log:
            command = netns.command_in(self._wired.outside, argv, die_with_parent=True)
            self._process = subprocess.Popen(command, stdout=log, stderr=log)


@pytest.fixture(params=["own", "dnsmasq"])
def server(wired: Wired, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "dnsmasq":
        dnsmasq.require()
    made = Server(wired, tmp_path, request.param)
    yield made
    made.stop()


async def test_dhcp_leases_renews_and_changes_an_address(wired: Wired, server: Server, workers: Workers) -> None:
    vpp = wired.vpp
    server.lease("192.0.2.50", seconds=LEASE_S)
    descriptor = DhcpClientDescriptor(vpp, wired.interfaces)
    value = model.DhcpClient(interface="uplink")
    key = model.key_of(value)
    await descriptor.create(key, value)
    assert [each.value for each in await descriptor.retrieve({})] == [value]

    async def leased(address: str) -> bool:
        return (await leases(vpp))[wired.index] == Lease(
            address=Network.parse(f"{address}/24", strict=False), router=Address.parse(SERVER)
        )

    await until(lambda: leased("192.0.2.50"), timeout_s=WAIT_S)
    assert await probe.first_reply(workers, wired.outside, "192.0.2.50", timeout_s=WAIT_S)
    addresses = await AddressDescriptor(vpp, wired.interfaces).retrieve({})
    assert [each.key for each in addresses] == []  # the client's, not ours
    table = {"table_id": 0, "is_ip6": False}
    default = [e.route for e in await vpp.dump("ip_route", table=table) if str(e.route.prefix) == "0.0.0.0/0"]
    assert [str(path.nh.address.ip4) for path in default[0].paths] == [SERVER]
    await asyncio.sleep(LEASE_S + 2)  # it was renewed
    assert await leased("192.0.2.50")
    assert server.renewed("192.0.2.50")
    server.lease("192.0.2.60", seconds=LEASE_S)
    await until(lambda: leased("192.0.2.60"), timeout_s=WAIT_S)
    assert await probe.first_reply(workers, wired.outside, "192.0.2.60", timeout_s=WAIT_S)
    prefixes = [str(e.prefix) for e in await vpp.dump("ip_address", sw_if_index=wired.index, is_ipv6=False)]
    assert prefixes == ["192.0.2.60/24"]
    await descriptor.delete(key, value, None)
    assert await descriptor.retrieve({}) == []
    assert await vpp.dump("ip_address", sw_if_index=wired.index, is_ipv6=False) == []
    assert NO_INDEX not in await leases(vpp)
