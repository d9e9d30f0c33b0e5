"""Rare calls of the binary API, where the emulated VPP once answered otherwise than VPP: one test for each."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import Any

import pytest
from topology import NO_INDEX, Node, loopback, open_link, path, route

import contiv.vpp
from contiv.vpp.errors import retval_name

pytestmark = pytest.mark.root

TUNNEL: dict[str, Any] = {
    "instance": 3, "src_address": "10.1.1.1", "dst_address": "10.1.1.77", "src_port": 4789, "dst_port": 4789,
    "mcast_sw_if_index": NO_INDEX, "encap_vrf_id": 0, "decap_next_index": NO_INDEX, "vni": 10,
}  # fmt: skip
SIOCGIFMTU = 0x8921
TRACKED = 18
"""The FIB source "recursive-resolution"."""
OVERHEAD = 44
"""What VPP adds to the MTU of a kernel's link: its frame overhead, twice."""


async def answer(vpp: contiv.vpp.Vpp, message: str, /, **fields: Any) -> str:
    """VPP's name of the retval."""
    return retval_name((await vpp.call(message, check=False, **fields)).retval)


async def tunnel(vpp: contiv.vpp.Vpp, **fields: Any) -> int:
    return int((await vpp.call("vxlan_add_del_tunnel_v3", is_add=True, **{**TUNNEL, **fields})).sw_if_index)


async def refused_tunnel(vpp: contiv.vpp.Vpp, **fields: Any) -> str:
    return await answer(vpp, "vxlan_add_del_tunnel_v3", is_add=True, **{**TUNNEL, **fields})


async def details(vpp: contiv.vpp.Vpp, index: int) -> Any:
    (found,) = await vpp.dump("sw_interface", sw_if_index=index)
    return found


async def paths(vpp: contiv.vpp.Vpp, prefix: str, *, src: int = 0) -> list[tuple[int, int, str]] | None:
    """Interface, type and next hop of each path of a prefix; None when it is not in the table."""
    for entry in await vpp.dump("ip_route_v2", src=src, table={"table_id": 0, "is_ip6": False, "name": ""}):
        if str(entry.route.prefix) == prefix:
            return [(p.sw_if_index, int(p.type), str(p.nh.address.ip4)) for p in entry.route.paths]
    return None


async def test_who_takes_a_hardware_mtu(vpp: contiv.vpp.Vpp) -> None:
    loop = await loopback(vpp, 0, "02:fe:00:00:00:01", "10.1.1.1/32")
    bvi = (await vpp.call("bvi_create", mac="02:00:00:00:00:09", user_instance=4)).sw_if_index
    vxlan, layer3 = await tunnel(vpp), await tunnel(vpp, instance=4, vni=11, is_l3=True)
    wanted = {
        0: "FEATURE_DISABLED",
        loop: "UNSUPPORTED",
        bvi: "UNSUPPORTED",
        vxlan: "OK",
        layer3: "FEATURE_DISABLED",
        99: "INVALID_SW_IF_INDEX",
    }
    for index, name in wanted.items():
        assert await answer(vpp, "hw_interface_set_mtu", sw_if_index=index, mtu=2000) == name
    assert ((await details(vpp, vxlan)).link_mtu, list((await details(vpp, vxlan)).mtu)) == (2000, [2000, 0, 0, 0])
    assert (await details(vpp, loop)).link_mtu == 9000


async def test_hardware_mtu_of_a_kernels_link(node: Node, vpp: contiv.vpp.Vpp) -> None:
    await node.veth("vmtu", peer="vmtup", mtu=1500)
    index = await open_link(vpp, "vmtu", "02:fe:00:00:02:01")

    def host_mtu() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            answer = fcntl.ioctl(channel, SIOCGIFMTU, struct.pack("=16si12x", b"vmtu", 0))
        return int(struct.unpack("=16si12x", answer)[1])

    await vpp.call("hw_interface_set_mtu", sw_if_index=index, mtu=1400)
    assert await node.inside(node.netns, host_mtu) == 1400 + OVERHEAD
    for mtu in (20, 65535):
        assert await answer(vpp, "hw_interface_set_mtu", sw_if_index=index, mtu=mtu) == "SYSCALL_ERROR_1"
    assert ((await details(vpp, index)).link_mtu, (await details(vpp, index)).mtu[0]) == (1400, 1400)
    await vpp.call("af_packet_delete", host_if_name="vmtu")
    await node.unveth("vmtu")


async def test_two_addresses_are_a_subnet(vpp: contiv.vpp.Vpp) -> None:
    """A /31 has no broadcast address: the other address is the neighbour (RFC 3021)."""
    index = await loopback(vpp, 0, "02:fe:00:00:00:01", "10.1.2.0/31")
    assert await paths(vpp, "10.1.2.0/32") == [(index, 1, "10.1.2.0")]
    assert await paths(vpp, "10.1.2.1/32") == [(index, 0, "10.1.2.1")]
    assert await paths(vpp, "10.1.2.0/31") == [(index, 0, "0.0.0.0")]
    await vpp.call("sw_interface_add_del_address", sw_if_index=index, is_add=False, prefix="10.1.2.0/31")
    assert await paths(vpp, "10.1.2.1/32") is None


async def test_an_attached_host_is_its_own_next_hop(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 0, "02:fe:00:00:00:01", "10.1.1.1/32")
    await route(vpp, "26.0.0.1/32", path(index))
    await route(vpp, "27.0.0.0/24", path(index))
    assert await paths(vpp, "26.0.0.1/32") == [(index, 0, "26.0.0.1")]
    assert await paths(vpp, "27.0.0.0/24") == [(index, 0, "0.0.0.0")]


async def test_tunnels_that_cannot_be(vpp: contiv.vpp.Vpp) -> None:
    assert await refused_tunnel(vpp, src_address="2001::1", dst_address="10.0.0.1") == "INVALID_VALUE"
    assert await refused_tunnel(vpp, dst_address="2001::1") == "INVALID_VALUE"
    assert await refused_tunnel(vpp, dst_address="2001::1", encap_vrf_id=7) == "NO_SUCH_FIB"
    assert await refused_tunnel(vpp, dst_address="10.1.1.1") == "SAME_SRC_DST"
    assert await refused_tunnel(vpp, dst_address="239.1.1.1") == "INVALID_SW_IF_INDEX"
    assert await refused_tunnel(vpp, decap_next_index=99) == "INVALID_DECAP_NEXT"
    same = {**TUNNEL, "dst_address": "10.1.1.1"}
    assert await answer(vpp, "vxlan_add_del_tunnel_v3", is_add=False, **same) == "SAME_SRC_DST"


async def test_a_tunnel_says_what_it_was_told(vpp: contiv.vpp.Vpp) -> None:
    index = await tunnel(vpp, mcast_sw_if_index=0, decap_next_index=1)
    (found,) = await vpp.dump("vxlan_tunnel_v2", sw_if_index=index)
    assert (found.mcast_sw_if_index, found.decap_next_index) == (0, 1)


async def test_a_layer3_tunnel_has_no_link_address(vpp: contiv.vpp.Vpp) -> None:
    found = await details(vpp, await tunnel(vpp, is_l3=True))
    assert (str(found.l2_address), found.link_mtu, list(found.mtu)) == ("00:00:00:00:00:00", 0, [0, 0, 0, 0])


async def test_where_a_tunnel_leads_is_followed(vpp: contiv.vpp.Vpp) -> None:
    """The destination is an entry of its own, with its cover's paths, as long as a tunnel needs it."""
    index = await loopback(vpp, 0, "02:fe:00:00:00:01", "10.1.1.1/24")
    await tunnel(vpp, dst_address="99.0.0.9")
    await tunnel(vpp, dst_address="99.0.0.9", instance=4, vni=11)
    assert await paths(vpp, "99.0.0.9/32", src=TRACKED) == [(NO_INDEX, 2, "0.0.0.0")], "nowhere yet"
    await route(vpp, "99.0.0.0/8", path(index, "10.1.1.88"))
    assert await paths(vpp, "99.0.0.9/32", src=TRACKED) == [(index, 0, "10.1.1.88")]
    for more in ({}, {"instance": 4, "vni": 11}):
        assert await paths(vpp, "99.0.0.9/32") is not None
        fields = {**TUNNEL, "dst_address": "99.0.0.9", **more}
        await vpp.call("vxlan_add_del_tunnel_v3", is_add=False, **fields)
    assert await paths(vpp, "99.0.0.9/32") is None


async def test_addresses_bind_an_interface_to_its_table(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 0, "02:fe:00:00:00:01", "10.1.1.1/32")
    bare = await loopback(vpp, 1, "02:fe:00:00:00:02", "")
    bind = "sw_interface_set_table"
    assert await answer(vpp, bind, sw_if_index=index, is_ipv6=False, vrf_id=0) == "ADDRESS_FOUND_FOR_INTERFACE"
    assert await answer(vpp, bind, sw_if_index=index, is_ipv6=False, vrf_id=9) == "NO_SUCH_FIB"
    assert await answer(vpp, bind, sw_if_index=index, is_ipv6=True, vrf_id=0) == "OK"
    assert await answer(vpp, bind, sw_if_index=bare, is_ipv6=False, vrf_id=0) == "OK"
    await vpp.call("sw_interface_set_unnumbered", is_add=True, sw_if_index=index, unnumbered_sw_if_index=bare)
    assert await answer(vpp, bind, sw_if_index=bare, is_ipv6=False, vrf_id=0) == "ADDRESS_FOUND_FOR_INTERFACE"


async def test_forwarding_entries_ask_for_any_bridge_port(vpp: contiv.vpp.Vpp) -> None:
    domain = {"is_add": True, "flood": True, "uu_flood": True, "forward": True, "learn": True}
    for bd_id in (1, 2):
        await vpp.call("bridge_domain_add_del_v2", bd_id=bd_id, **domain)
    loop, port = await loopback(vpp, 0, "02:fe:00:00:00:01", ""), await tunnel(vpp)
    entry: dict[str, Any] = {"mac": "02:00:00:00:00:aa", "bd_id": 2, "is_add": True, "static_mac": True}
    assert await answer(vpp, "l2fib_add_del", sw_if_index=port, **entry) == "INVALID_SW_IF_INDEX", "no port yet"
    await vpp.call("sw_interface_set_l2_bridge", rx_sw_if_index=port, bd_id=1, enable=True, shg=1)
    assert await answer(vpp, "l2fib_add_del", sw_if_index=port, **entry) == "OK"
    assert await answer(vpp, "l2fib_add_del", sw_if_index=999, **{**entry, "bd_id": 77}) == "NO_SUCH_ENTRY"
    (found,) = await vpp.dump("l2_fib_table", bd_id=2)
    assert found.sw_if_index == port
    assert await answer(vpp, "l2fib_add_del", sw_if_index=loop, **{**entry, "is_add": False}) == "NO_SUCH_ENTRY"
    assert await answer(vpp, "l2fib_add_del", sw_if_index=0, **{**entry, "is_add": False}) == "OK"
    assert await vpp.dump("l2_fib_table", bd_id=2) == []


async def test_proxy_arp_ranges(vpp: contiv.vpp.Vpp) -> None:
    span = {"table_id": 0, "low": "1.1.1.1", "hi": "1.1.1.5"}

    async def ranges() -> list[tuple[str, str]]:
        return [(str(entry.proxy.low), str(entry.proxy.hi)) for entry in await vpp.dump("proxy_arp")]

    for _ in range(2):
        assert await answer(vpp, "proxy_arp_add_del", is_add=True, proxy=span) == "OK"
        assert await ranges() == [("1.1.1.1", "1.1.1.5")]
    other = {**span, "hi": "1.1.1.6"}
    assert await answer(vpp, "proxy_arp_add_del", is_add=False, proxy=other) == "NO_SUCH_ENTRY"
    assert await answer(vpp, "proxy_arp_add_del", is_add=True, proxy={**span, "table_id": 55}) == "NO_SUCH_FIB"
    assert await answer(vpp, "proxy_arp_add_del", is_add=False, proxy=span) == "OK"
    assert await ranges() == []


async def test_a_loopback_hears_itself(vpp: contiv.vpp.Vpp) -> None:
    await vpp.call("cli_inband", cmd="clear errors")
    index = await loopback(vpp, 0, "02:fe:00:00:00:01", "10.1.1.1/24")
    await route(vpp, "99.0.0.0/8", path(index, "10.1.1.88"))
    text = (await vpp.call("cli_inband", cmd="show errors")).reply
    assert "IP4 source address matches local in" in text, "its own question who has the next hop"


async def test_ipv6_without_an_address(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 0, "02:fe:00:00:00:01", "")
    switch = "sw_interface_ip6_enable_disable"
    assert await answer(vpp, switch, sw_if_index=999, enable=True) == "INVALID_SW_IF_INDEX"
    assert await answer(vpp, switch, sw_if_index=index, enable=False) == "IP6_NOT_ENABLED"
    assert await answer(vpp, switch, sw_if_index=index, enable=True) == "OK"
    assert await answer(vpp, switch, sw_if_index=index, enable=True) == "VALUE_EXIST"
    for wanted in ("OK", "OK", "IP6_NOT_ENABLED"):
        assert await answer(vpp, switch, sw_if_index=index, enable=False) == wanted


async def test_cli_of_bridge_domains(vpp: contiv.vpp.Vpp) -> None:
    await vpp.call(
        "bridge_domain_add_del_v2", bd_id=7, is_add=True, flood=True, uu_flood=True, forward=True, learn=True
    )
    bvi = (await vpp.call("bvi_create", mac="02:00:00:00:00:09", user_instance=4)).sw_if_index
    await vpp.call("sw_interface_set_l2_bridge", rx_sw_if_index=bvi, bd_id=7, port_type=1, enable=True)
    shown = (await vpp.call("cli_inband", cmd="show bridge-domain")).reply.splitlines()
    assert shown[0].split() == [
        "BD-ID", "Index", "BSN", "Age(min)", "Learning", "U-Forwrd", "UU-Flood", "Flooding", "ARP-Term", "arp-ufwd",
        "Learn-co", "Learn-li", "BVI-Intf",
    ]  # fmt: skip
    row = shown[1].split()
    assert [row[0], *row[3:]] == ["7", "off", "on", "on", "flood", "on", "off", "off", "0", "16777216", "bvi4"]
    addresses = (await vpp.call("cli_inband", cmd="show interface address")).reply
    assert any(line.strip().startswith("L2 bridge bd-id 7") and line.endswith("bvi") for line in addresses.splitlines())
