"""NICs by AF_XDP on VPP: opened, read back, replaced, let go, with packets; and what is said where that cannot be."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from topology import NO_INDEX, Node

import contiv.vpp
from contiv.demo import probe
from contiv.linux import interfaces, links, netns, offloads
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.model import vpp as model
from contiv.model.ip import Network
from contiv.model.linux import Interface
from contiv.scheduler import Resync, Scheduler, Txn
from contiv.vpp import lifecycle
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors
from contiv.vpp.descriptors.af_xdp import DEVICE_TYPE
from contiv.vpp.descriptors.base import RX_MODE_INTERRUPT

pytestmark = pytest.mark.root

WAIT_S = 20.0
MTU = model.AF_XDP_MTU_MAX
HEADERS = 28
"""IPv4 and ICMP of a ping."""
OUTSIDE, NODE = "192.0.2.1", "192.0.2.7"
NIC = model.AfXdp(name="uplink", host_if="nic", mac="02:fe:00:00:02:01", mtu=MTU)
KEY = model.interface_key(NIC.name)
WANTED = dict(
    model.entry(value)
    for value in (
        NIC,
        model.InterfaceAddress(interface="uplink", address=Network.parse(f"{NODE}/24", strict=False)),
        model.AdminUp(interface="uplink"),
    )
)


@pytest.fixture(scope="module")
def xdp_node(workers: Workers) -> Iterator[Node]:
    """A VPP with the plugin."""
    prefix = lifecycle.find_vpp()
    if prefix is None or not lifecycle.has_plugin(prefix, lifecycle.AF_XDP):
        pytest.skip("no VPP with the af_xdp plugin is installed")
    made = Node("vpp", workers)
    try:
        made.start(by_xdp=True)
        yield made
    finally:
        made.close()


class Wired:
    """The VPP, whose link ``nic`` is up and wired to the namespace ``outside``, and a scheduler for it."""

    def __init__(self, node: Node, vpp: contiv.vpp.Vpp, outside: str) -> None:
        self.node = node
        self.vpp = vpp
        self.outside = outside
        self.scheduler = self.stranger()

    def stranger(self) -> Scheduler:
        """A scheduler that knows nothing yet."""
        return Scheduler(list(descriptors(self.vpp, Interfaces(), FibSource(self.vpp))))

    async def apply(self, changes: dict[str, object]) -> list[str]:
        """Bring it about; what went wrong."""
        outcome = await self.scheduler.commit(Txn(dict(changes)))  # type: ignore[arg-type]
        return [str(error) for error in outcome.errors]

    async def devices(self) -> dict[int, object]:
        """VPP's af_xdp interfaces with their tags."""
        found = await self.vpp.dump("sw_interface", sw_if_index=NO_INDEX)
        return {each.sw_if_index: each.tag for each in found if each.interface_dev_type == DEVICE_TYPE}

    async def program(self) -> bool:
        """Whether the link has an XDP program."""
        shown = await self.node.inside(
            self.node.netns, lambda: subprocess.run(["ip", "link", "show", "nic"], capture_output=True, text=True)
        )
        return "prog/xdp" in shown.stdout


@pytest.fixture
async def wired(xdp_node: Node) -> AsyncIterator[Wired]:
    outside = await xdp_node.namespace("outside")
    await xdp_node.veth("nic", peer="out", peer_netns=outside, mac=NIC.mac, mtu=MTU)
    await xdp_node.inside(xdp_node.netns, lambda: _up("nic"))
    far = Interface("out", "out", netns=outside, addresses=(Network.parse(f"{OUTSIDE}/24", strict=False),))
    await xdp_node.inside(outside, lambda: interfaces.configure("linux/interface/out", far))
    await xdp_node.inside(outside, lambda: offloads.apply("out", (("tx-checksum", False),)))
    async with xdp_node.connect() as vpp:
        made = Wired(xdp_node, vpp, outside)
        yield made
        await made.apply(dict.fromkeys(made.scheduler.desired))
        assert await made.devices() == {}
    await xdp_node.unveth("nic")
    for name in list(xdp_node.pods):
        netns.delete(name)
        del xdp_node.pods[name]


def _up(name: str) -> None:
    with Conversation() as conversation:
        link = links.find(conversation, name)
        assert link is not None
        conversation.run([links.set_up(link.index, True, name=name)])


async def test_a_nic_carries_frames_of_all_sizes_and_is_read_back_as_it_was_wanted(
    wired: Wired, workers: Workers
) -> None:
    assert await wired.apply(WANTED) == []
    assert await probe.first_reply(workers, wired.outside, NODE, timeout_s=WAIT_S)
    for size in (0, 1000, MTU - HEADERS):
        argv = ["ping", "-c", "3", "-i", "0.2", "-M", "do", "-s", str(size), NODE]
        done = subprocess.run(netns.command_in(wired.outside, argv, die_with_parent=True), capture_output=True)
        assert done.returncode == 0, f"{size} bytes: {done.stdout.decode()}"
    outcome = await wired.stranger().commit(Txn(dict(WANTED), resync=Resync.FULL))
    assert outcome.plan.empty, outcome.plan.operations
    [index] = await wired.devices()
    assert (await wired.vpp.call("sw_interface_get_mac_address", sw_if_index=index)).mac_address == NIC.mac
    [placed] = await wired.vpp.dump("sw_interface_rx_placement", sw_if_index=index)
    assert int(placed.mode) == RX_MODE_INTERRUPT


async def test_a_nic_that_its_maker_did_not_tag_is_adopted(wired: Wired) -> None:
    assert await wired.apply(WANTED) == []
    [index] = await wired.devices()
    await wired.vpp.call("sw_interface_tag_add_del", is_add=False, sw_if_index=index, tag="")
    outcome = await wired.stranger().commit(Txn(dict(WANTED), resync=Resync.FULL))
    assert outcome.plan.empty, outcome.plan.operations
    assert await wired.devices() == {index: "contiv:uplink"}


async def test_a_nic_that_is_let_go_is_the_kernel_s_again_and_can_be_taken_again(
    wired: Wired, workers: Workers
) -> None:
    for _ in range(3):
        assert await wired.apply(WANTED) == []
        assert await wired.program()
        assert await probe.first_reply(workers, wired.outside, NODE, timeout_s=WAIT_S)
        assert await wired.apply(dict.fromkeys(WANTED)) == []
        assert await wired.devices() == {}
        assert not await wired.program()


async def test_a_nic_with_another_mac_or_driver_is_made_anew(wired: Wired, workers: Workers) -> None:
    assert await wired.apply(WANTED) == []
    packet = model.AfPacket(name="uplink", host_if="nic", mac=NIC.mac, mtu=MTU)
    for value in (msgspec.structs.replace(NIC, mac="02:fe:00:00:02:02"), packet, NIC):
        assert await wired.apply({KEY: value}) == []
        outcome = await wired.stranger().commit(Txn(WANTED | {KEY: value}, resync=Resync.FULL))
        assert outcome.plan.empty, outcome.plan.operations
    await wired.node.inside(wired.node.netns, lambda: _up("nic"))  # af_packet sets its link down when it goes
    assert await probe.first_reply(workers, wired.outside, NODE, timeout_s=WAIT_S)


@pytest.mark.parametrize("link", ["nope", "lo"])
async def test_a_link_that_cannot_is_named_with_what_it_lacks(wired: Wired, link: str) -> None:
    [error] = await wired.apply({KEY: msgspec.structs.replace(NIC, host_if=link)})
    assert f"NIC uplink on link {link}" in error
    assert "knows XDP" in error
    assert f"at most {MTU}" in error
    assert "linkDriver: af_packet" in error
    assert await wired.devices() == {}


async def test_a_data_plane_without_the_plugin_says_so(vpp: contiv.vpp.Vpp) -> None:
    scheduler = Scheduler(list(descriptors(vpp, Interfaces(), FibSource(vpp))))
    outcome = await scheduler.commit(Txn(dict([model.entry(NIC)])))
    [error] = outcome.errors
    assert "NIC uplink on link nic: VPP" in str(error)
    assert "set linkDriver: af_packet" in str(error)
