"""The binary API: what is made is listed, what is deleted is gone, what is wrong is refused with VPP's own number."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest
from topology import NO_INDEX, Node, loopback, neighbour, path, route

import contiv.vpp
from contiv.vpp import lifecycle
from contiv.vpp.errors import retval_name

pytestmark = pytest.mark.root

DOMAIN = {"flood": True, "uu_flood": True, "forward": True, "learn": True, "bd_tag": "contiv:bd"}
TUNNEL: dict[str, Any] = {
    "instance": 3, "src_address": "10.1.1.2", "dst_address": "10.1.1.77", "src_port": 4789, "dst_port": 4789,
    "mcast_sw_if_index": NO_INDEX, "encap_vrf_id": 0, "decap_next_index": NO_INDEX, "vni": 10,
}  # fmt: skip
LINK: dict[str, Any] = {
    "mode": 1, "hw_addr": "02:fe:00:00:00:01", "use_random_hw_addr": False, "host_if_name": "cdpa",
    "rx_frames_per_block": 16, "tx_frames_per_block": 16, "flags": 11, "num_rx_queues": 1, "num_tx_queues": 1,
}  # fmt: skip


async def answer(vpp: contiv.vpp.Vpp, message: str, /, **fields: Any) -> str:
    """VPP's name of the retval."""
    return retval_name((await vpp.call(message, check=False, **fields)).retval)


async def interfaces(vpp: contiv.vpp.Vpp, filter_: str = "") -> dict[str, Any]:
    details = await vpp.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=bool(filter_), name_filter=filter_)
    return {entry.interface_name: entry for entry in details}


async def routes(vpp: contiv.vpp.Vpp, table: int = 0, *, src: int = 0) -> dict[str, Any]:
    wanted = {"table_id": table, "is_ip6": False, "name": ""}
    return {str(e.route.prefix): e.route for e in await vpp.dump("ip_route_v2", src=src, table=wanted)}


async def test_who_it_is(vpp: contiv.vpp.Vpp) -> None:
    assert (await vpp.call("show_version")).program == "vpe"
    assert vpp.version.startswith("26.06") or vpp.version[0].isdigit()
    ping = await vpp.call("control_ping")
    assert ping.vpe_pid > 0
    await vpp.call("api_versions")
    assert set(await interfaces(vpp)) == {"local0"}


async def test_definitions_are_told(vpp: contiv.vpp.Vpp) -> None:
    text = (await vpp.call("get_api_json")).json
    assert "sw_interface_dump" in text


async def test_cli_in_the_api(vpp: contiv.vpp.Vpp) -> None:
    await loopback(vpp, 4, "02:00:00:00:00:04", "10.9.0.1/24")
    assert "loop4" in (await vpp.call("cli_inband", cmd="show interface")).reply
    assert "10.9.0.1/24" in (await vpp.call("cli_inband", cmd="sh int addr")).reply
    assert "10.9.0.0/24" in (await vpp.call("cli_inband", cmd="show ip fib")).reply
    assert "dpo-receive" in (await vpp.call("cli_inband", cmd="show ip fib 10.9.0.1/32")).reply
    for command in ("show ip neighbors", "show bridge-domain", "show vxlan tunnel", "show errors", "show version"):
        await vpp.call("cli_inband", cmd=command)
    assert await answer(vpp, "cli_inband", cmd="show nonsense") == "UNSPECIFIED"


async def test_vppctl_reads_the_cli_socket(node: Node) -> None:
    prefix = lifecycle.find_vpp()
    if prefix is None:
        pytest.skip("no vppctl is installed")
    command = [str(prefix / "bin" / "vppctl"), "-s", node.sockets.cli, "show", "interface"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=5)
    assert "local0" in done.stdout


async def test_loopbacks(vpp: contiv.vpp.Vpp) -> None:
    made = {"mac_address": "de:ad:00:00:00:05", "is_specified": True, "user_instance": 5}
    index = (await vpp.call("create_loopback_instance", **made)).sw_if_index
    assert await answer(vpp, "create_loopback_instance", **made) == "INVALID_REGISTRATION"
    other = (await vpp.call("create_loopback", mac_address="00:00:00:00:00:00")).sw_if_index
    found = await interfaces(vpp, "LOOP")
    assert set(found) == {"loop5", "loop0"}
    details = found["loop5"]
    assert (str(details.l2_address), int(details.flags), list(details.mtu)) == (made["mac_address"], 0, [9000, 0, 0, 0])
    assert str(found["loop0"].l2_address) == "de:ad:00:00:00:00"
    assert await answer(vpp, "delete_loopback", sw_if_index=0) == "INVALID_SW_IF_INDEX"
    assert await answer(vpp, "delete_loopback", sw_if_index=999) == "INVALID_SW_IF_INDEX"
    await vpp.call("delete_loopback", sw_if_index=other)
    await vpp.call("delete_loopback", sw_if_index=index)
    assert await answer(vpp, "delete_loopback", sw_if_index=index) == "INVALID_SW_IF_INDEX"
    assert set(await interfaces(vpp)) == {"local0"}


async def test_index_freed_last_is_given_first(vpp: contiv.vpp.Vpp) -> None:
    first = await loopback(vpp, 1, "02:00:00:00:00:01", "")
    await loopback(vpp, 2, "02:00:00:00:00:02", "")
    await vpp.call("delete_loopback", sw_if_index=first)
    assert await loopback(vpp, 3, "02:00:00:00:00:03", "") == first


async def test_bvis(vpp: contiv.vpp.Vpp) -> None:
    index = (await vpp.call("bvi_create", mac="02:00:00:00:00:09", user_instance=4)).sw_if_index
    assert "bvi4" in await interfaces(vpp)
    assert await answer(vpp, "bvi_create", mac="02:00:00:00:00:09", user_instance=4) == "INVALID_REGISTRATION"
    assert await answer(vpp, "bvi_delete", sw_if_index=999) == "INVALID_SW_IF_INDEX"
    await vpp.call("bvi_delete", sw_if_index=index)


async def test_state_name_mtu_mac_tag(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 5, "de:ad:00:00:00:05", "")
    await vpp.call("sw_interface_set_mtu", sw_if_index=index, mtu=[1400, 0, 0, 0])
    await vpp.call("sw_interface_tag_add_del", is_add=True, sw_if_index=index, tag="contiv:x")
    await vpp.call("sw_interface_tag_add_del", is_add=True, sw_if_index=index, tag="contiv:y")
    await vpp.call("sw_interface_set_mac_address", sw_if_index=index, mac_address="02:00:00:00:00:77")
    await vpp.call("sw_interface_set_interface_name", sw_if_index=index, name="frob")
    details = (await interfaces(vpp))["frob"]
    assert (int(details.flags) & 1, details.mtu[0], details.tag) == (1, 1400, "contiv:y")
    assert str(details.l2_address) == "02:00:00:00:00:77"
    reply = await vpp.call("sw_interface_get_mac_address", sw_if_index=index)
    assert str(reply.mac_address) == "02:00:00:00:00:77"
    await vpp.call("sw_interface_tag_add_del", is_add=False, sw_if_index=index, tag="")
    assert (await interfaces(vpp))["frob"].tag == ""
    assert await answer(vpp, "sw_interface_tag_add_del", is_add=True, sw_if_index=index, tag="") == "INVALID_VALUE"


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("sw_interface_set_flags", {"flags": 1}),
        ("sw_interface_set_mtu", {"mtu": [1400, 0, 0, 0]}),
        ("sw_interface_tag_add_del", {"is_add": True, "tag": "x"}),
        ("sw_interface_set_mac_address", {"mac_address": "02:00:00:00:00:77"}),
        ("sw_interface_set_interface_name", {"name": "frob"}),
        ("sw_interface_add_del_address", {"is_add": True, "prefix": "10.9.9.9/24"}),
        ("sw_interface_set_table", {"is_ipv6": False, "vrf_id": 0}),
        ("sw_interface_get_table", {"is_ipv6": False}),
        ("tap_delete_v2", {}),
    ],
)
async def test_unknown_interface_is_refused(vpp: contiv.vpp.Vpp, message: str, fields: dict[str, Any]) -> None:
    assert await answer(vpp, message, sw_if_index=99, **fields) == "INVALID_SW_IF_INDEX"


async def test_addresses(vpp: contiv.vpp.Vpp) -> None:
    first = await loopback(vpp, 1, "02:00:00:00:00:01", "10.1.1.1/32")
    second = await loopback(vpp, 2, "02:00:00:00:00:02", "10.2.0.1/24")
    add = {"is_add": True, "del_all": False}
    for index, prefix in (
        (first, "10.1.1.1/32"),
        (second, "10.1.1.1/32"),
        (second, "10.1.1.2/24"),
        (first, "10.2.0.9/25"),
    ):
        refused = await answer(vpp, "sw_interface_add_del_address", sw_if_index=index, prefix=prefix, **add)
        assert refused == "ADDRESS_IN_USE", prefix
    await vpp.call("sw_interface_add_del_address", sw_if_index=second, prefix="10.2.0.2/24", **add)
    await vpp.call("sw_interface_add_del_address", sw_if_index=second, prefix="2001:db8::1/64", **add)
    gone = {"is_add": False, "del_all": False, "sw_if_index": second}
    assert (
        await answer(vpp, "sw_interface_add_del_address", prefix="10.9.9.9/24", **gone)
        == "ADDRESS_NOT_FOUND_FOR_INTERFACE"
    )
    dumped = await vpp.dump("ip_address", sw_if_index=second, is_ipv6=False)
    assert {str(entry.prefix) for entry in dumped} == {"10.2.0.1/24", "10.2.0.2/24"}
    (six,) = await vpp.dump("ip_address", sw_if_index=second, is_ipv6=True)
    assert str(six.prefix) == "2001:db8::1/64"
    assert await vpp.dump("ip_address", sw_if_index=99, is_ipv6=True) == []
    await vpp.call("sw_interface_add_del_address", prefix="10.2.0.1/24", **gone)
    present = await routes(vpp)
    assert "10.2.0.0/24" in present
    assert "10.2.0.1/32" not in present
    assert "10.2.0.2/32" in present


async def test_connected_routes_exist_while_the_interface_is_up(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 1, "02:00:00:00:00:01", "10.2.0.1/24")
    mine = {"10.2.0.0/24", "10.2.0.0/32", "10.2.0.255/32", "10.2.0.1/32"}
    assert mine <= set(await routes(vpp))
    await vpp.call("sw_interface_set_flags", sw_if_index=index, flags=0)
    assert not mine & set(await routes(vpp))


async def test_unnumbered(vpp: contiv.vpp.Vpp) -> None:
    lender = await loopback(vpp, 1, "02:00:00:00:00:01", "10.1.1.1/32")
    borrower = await loopback(vpp, 2, "02:00:00:00:00:02", "")
    fields = {"sw_if_index": lender, "unnumbered_sw_if_index": borrower}
    for _ in range(2):
        await vpp.call("sw_interface_set_unnumbered", is_add=True, **fields)
    (entry,) = await vpp.dump("ip_unnumbered", sw_if_index=NO_INDEX)
    assert (entry.sw_if_index, entry.ip_sw_if_index) == (borrower, lender)
    wrong_lender = {**fields, "sw_if_index": 99}
    assert await answer(vpp, "sw_interface_set_unnumbered", is_add=True, **wrong_lender) == "INVALID_SW_IF_INDEX_2"
    wrong = {**fields, "unnumbered_sw_if_index": 99}
    assert await answer(vpp, "sw_interface_set_unnumbered", is_add=True, **wrong) == "INVALID_SW_IF_INDEX"
    await vpp.call("sw_interface_set_unnumbered", is_add=False, **fields)
    assert await vpp.dump("ip_unnumbered", sw_if_index=NO_INDEX) == []


async def test_neighbours(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 1, "02:00:00:00:00:01", "10.1.1.1/24")
    await neighbour(vpp, index, "10.1.1.9", "02:00:00:00:00:09")
    await neighbour(vpp, index, "10.1.1.9", "02:00:00:00:00:0a")
    (entry,) = await vpp.dump("ip_neighbor", sw_if_index=NO_INDEX, af=0)
    found = entry.neighbor
    assert (found.sw_if_index, int(found.flags), str(found.ip_address)) == (index, 1, "10.1.1.9")
    assert str(found.mac_address) == "02:00:00:00:00:0a"
    assert entry.age < 60
    absent = {"sw_if_index": index, "mac_address": "02:00:00:00:00:09", "ip_address": "10.1.1.8"}
    assert await answer(vpp, "ip_neighbor_add_del", is_add=False, neighbor=absent) == "NO_SUCH_ENTRY"
    stray = {**absent, "sw_if_index": 99}
    assert await answer(vpp, "ip_neighbor_add_del", is_add=True, neighbor=stray) == "INVALID_SW_IF_INDEX"


async def test_routes(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 1, "02:00:00:00:00:01", "10.1.1.1/24")
    await route(vpp, "10.50.0.0/16", path(index, "10.1.1.9"))
    await route(vpp, "10.51.0.0/16", path(NO_INDEX, type=2))
    await route(vpp, "10.52.0.0/16", path(NO_INDEX, "10.1.1.9"))
    await route(vpp, "10.54.0.0/16", path(index, "10.1.1.9"), path(index, "10.1.1.8", weight=3))
    present = await routes(vpp, src=8)
    assert set(present) == {"10.50.0.0/16", "10.51.0.0/16", "10.52.0.0/16", "10.54.0.0/16"}
    (only,) = present["10.50.0.0/16"].paths
    assert (only.sw_if_index, str(only.nh.address.ip4), int(only.type)) == (index, "10.1.1.9", 0)
    assert int(present["10.51.0.0/16"].paths[0].type) == 2
    assert sorted(way.weight for way in present["10.54.0.0/16"].paths) == [1, 3]
    await route(vpp, "10.50.0.0/16", path(index, "10.1.1.7"))
    assert [str(way.nh.address.ip4) for way in (await routes(vpp))["10.50.0.0/16"].paths] == ["10.1.1.7"]
    looked_up = await vpp.call("ip_route_lookup", table_id=0, exact=False, prefix="10.50.3.3/32")
    assert str(looked_up.route.prefix) == "10.50.0.0/16"
    assert await answer(vpp, "ip_route_lookup", table_id=0, exact=True, prefix="10.50.3.3/32") == "NO_SUCH_ENTRY"
    assert await answer(vpp, "ip_route_lookup", table_id=44, exact=True, prefix="10.50.3.3/32") == "NO_SUCH_FIB"
    assert await vpp.dump("ip_route", table={"table_id": 44, "is_ip6": False, "name": ""}) == []


async def test_multipath_adds_and_takes_single_paths(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 1, "02:00:00:00:00:01", "10.1.1.1/24")
    for is_add, hop, left in (
        (True, "10.1.1.8", 1),
        (True, "10.1.1.9", 2),
        (False, "10.1.1.8", 1),
        (False, "10.1.1.9", 0),
    ):
        fields = {"table_id": 0, "prefix": "10.50.0.0/16", "n_paths": 1, "paths": [path(index, hop)]}
        await vpp.call("ip_route_add_del", is_add=is_add, is_multipath=True, route=fields)
        present = (await routes(vpp, src=8)).get("10.50.0.0/16")
        assert (len(present.paths) if present else 0) == left


@pytest.mark.parametrize(
    ("table", "paths", "name"),
    [
        (7, [path(NO_INDEX, type=2)], "NO_SUCH_FIB"),
        (0, [path(99, "10.1.1.9")], "NO_MATCHING_INTERFACE"),
        (0, [], "NO_PATHS_IN_ROUTE"),
        (0, [path(NO_INDEX, table_id=9)], "NO_SUCH_FIB"),
    ],
)
async def test_route_that_leads_nowhere_is_refused(
    vpp: contiv.vpp.Vpp, table: int, paths: list[Any], name: str
) -> None:
    fields = {"table_id": table, "prefix": "10.50.0.0/16", "n_paths": len(paths), "paths": paths}
    assert await answer(vpp, "ip_route_add_del", is_add=True, route=fields) == name


async def test_deleting_an_unknown_route_succeeds(vpp: contiv.vpp.Vpp) -> None:
    fields = {"table_id": 0, "prefix": "10.99.0.0/16", "n_paths": 0, "paths": []}
    reply = await vpp.call("ip_route_add_del", is_add=False, route=fields)
    assert reply.stats_index == NO_INDEX


async def test_sources_of_routes_are_kept_apart(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 1, "02:00:00:00:00:01", "10.1.1.1/24")
    known = {entry.src.name: entry.src.id for entry in await vpp.dump("fib_source")}
    assert (known["API"], known["interface"], known["adjacency"]) == (8, 4, 15)
    ours = (await vpp.call("fib_source_add", src={"priority": 0x7F, "id": 0, "name": "contiv"})).id
    assert ours > max(known.values()) or "contiv" in known
    await route(vpp, "10.50.0.0/16", path(index, "10.1.1.9"))
    fields = {"table_id": 0, "prefix": "10.50.0.0/16", "src": ours, "n_paths": 1, "paths": [path(index, "10.1.1.7")]}
    await vpp.call("ip_route_add_del_v2", is_add=True, route=fields)
    present = await routes(vpp, src=ours)
    assert [str(way.nh.address.ip4) for way in present["10.50.0.0/16"].paths] == ["10.1.1.7"]
    assert "10.50.0.0/16" not in await routes(vpp, src=8)
    await vpp.call("ip_route_add_del_v2", is_add=False, route={**fields, "n_paths": 0, "paths": []})
    assert [str(way.nh.address.ip4) for way in (await routes(vpp, src=8))["10.50.0.0/16"].paths] == ["10.1.1.9"]


async def test_tables(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 1, "02:00:00:00:00:01", "")
    table = {"table_id": 7, "is_ip6": False, "name": "contiv:vrf7"}
    bind = {"sw_if_index": index, "is_ipv6": False}
    assert await answer(vpp, "sw_interface_set_table", vrf_id=7, **bind) == "NO_SUCH_FIB"
    for _ in range(2):
        await vpp.call("ip_table_add_del_v2", is_add=True, table=table)
    names = {(e.table.table_id, bool(e.table.is_ip6)): e.table.name for e in await vpp.dump("ip_table")}
    assert names == {(0, False): "ipv4-VRF:0", (0, True): "ipv6-VRF:0", (7, False): "contiv:vrf7"}
    await vpp.call("sw_interface_set_table", vrf_id=7, **bind)
    assert (await vpp.call("sw_interface_get_table", **bind)).vrf_id == 7
    await vpp.call("sw_interface_add_del_address", sw_if_index=index, is_add=True, prefix="10.7.0.1/24")
    assert await answer(vpp, "sw_interface_set_table", vrf_id=0, **bind) == "ADDRESS_FOUND_FOR_INTERFACE"
    assert "10.7.0.1/32" in await routes(vpp, 7)
    await vpp.call("ip_table_add_del_v2", is_add=False, table=table)
    assert "10.7.0.1/32" in await routes(vpp, 7), "a table stays while an interface is bound to it"
    for unknown in (8, 0):
        await vpp.call("ip_table_add_del_v2", is_add=False, table={**table, "table_id": unknown})


async def test_bridge_domains(vpp: contiv.vpp.Vpp) -> None:
    change = "bridge_domain_add_del_v2"
    await vpp.call(change, bd_id=1, is_add=True, **DOMAIN)
    assert await answer(vpp, change, bd_id=1, is_add=True, **DOMAIN) == "BD_ALREADY_EXISTS"
    assert await answer(vpp, change, bd_id=0, is_add=True, **DOMAIN) == "BD_ALREADY_EXISTS"
    assert await answer(vpp, change, bd_id=1 << 24, is_add=True, **DOMAIN) == "BD_ID_EXCEED_MAX"
    assert await answer(vpp, change, bd_id=9, is_add=False) == "NO_SUCH_ENTRY"
    assert await answer(vpp, change, bd_id=0, is_add=False) == "BD_NOT_MODIFIABLE"
    chosen = (await vpp.call(change, bd_id=NO_INDEX, is_add=True, **DOMAIN)).bd_id
    assert chosen not in {0, 1, NO_INDEX}
    bvi = await loopback(vpp, 9, "de:ad:00:00:00:09", "")
    other = await loopback(vpp, 8, "de:ad:00:00:00:08", "")
    join = "sw_interface_set_l2_bridge"
    await vpp.call(join, rx_sw_if_index=bvi, bd_id=1, port_type=1, shg=0, enable=True)
    second = {"rx_sw_if_index": other, "bd_id": 1, "shg": 2, "enable": True}
    assert await answer(vpp, join, port_type=1, **second) == "BD_ALREADY_HAS_BVI"
    await vpp.call(join, port_type=0, **second)
    assert await answer(vpp, join, rx_sw_if_index=99, bd_id=1, port_type=0, enable=True) == "INVALID_SW_IF_INDEX"
    (domain,) = await vpp.dump("bridge_domain", bd_id=1, sw_if_index=NO_INDEX)
    assert (domain.bd_tag, domain.bvi_sw_if_index, domain.learn) == ("contiv:bd", bvi, True)
    assert {(port.sw_if_index, port.shg) for port in domain.sw_if_details} == {(bvi, 0), (other, 2)}
    assert await answer(vpp, change, bd_id=1, is_add=False) == "BD_IN_USE"
    assert "contiv:bd" in (await vpp.call("cli_inband", cmd="show bridge-domain 1 detail")).reply
    for _ in range(2):
        await vpp.call(join, rx_sw_if_index=other, bd_id=1, port_type=0, enable=False)
    await vpp.call("delete_loopback", sw_if_index=bvi)
    await vpp.call(change, bd_id=1, is_add=False)
    assert await vpp.dump("bridge_domain", bd_id=1, sw_if_index=NO_INDEX) == []


async def test_forwarding_entries(vpp: contiv.vpp.Vpp) -> None:
    await vpp.call("bridge_domain_add_del_v2", bd_id=1, is_add=True, **DOMAIN)
    port = await loopback(vpp, 9, "de:ad:00:00:00:09", "")
    outside = await loopback(vpp, 8, "de:ad:00:00:00:08", "")
    await vpp.call("sw_interface_set_l2_bridge", rx_sw_if_index=port, bd_id=1, port_type=0, shg=0, enable=True)
    entry = {"mac": "02:00:00:00:00:aa", "bd_id": 1, "sw_if_index": port, "static_mac": True}
    for _ in range(2):
        await vpp.call("l2fib_add_del", is_add=True, **entry)
    (found,) = await vpp.dump("l2_fib_table", bd_id=1)
    assert (str(found.mac), found.sw_if_index, bool(found.static_mac)) == (entry["mac"], port, True)
    assert await answer(vpp, "l2fib_add_del", is_add=True, **{**entry, "bd_id": 77}) == "NO_SUCH_ENTRY"
    assert await answer(vpp, "l2fib_add_del", is_add=True, **{**entry, "sw_if_index": 77}) == "INVALID_SW_IF_INDEX"
    assert await answer(vpp, "l2fib_add_del", is_add=True, **{**entry, "sw_if_index": outside}) == "INVALID_SW_IF_INDEX"
    assert await answer(vpp, "l2fib_add_del", is_add=False, **{**entry, "mac": "02:00:00:00:00:ab"}) == "NO_SUCH_ENTRY"
    await vpp.call("l2fib_add_del", is_add=False, **entry)
    assert await vpp.dump("l2_fib_table", bd_id=1) == []


async def test_tunnels(vpp: contiv.vpp.Vpp) -> None:
    change = "vxlan_add_del_tunnel_v3"
    index = (await vpp.call(change, is_add=True, **TUNNEL)).sw_if_index
    assert await answer(vpp, change, is_add=True, **TUNNEL) == "TUNNEL_EXIST"
    assert await answer(vpp, change, is_add=True, **{**TUNNEL, "dst_address": "10.1.1.78"}) == "INSTANCE_IN_USE"
    assert await answer(vpp, change, is_add=True, **{**TUNNEL, "dst_address": "10.1.1.2"}) == "SAME_SRC_DST"
    assert await answer(vpp, change, is_add=True, **{**TUNNEL, "encap_vrf_id": 88, "instance": 4}) == "NO_SUCH_FIB"
    assert await answer(vpp, change, is_add=False, **{**TUNNEL, "vni": 12}) == "NO_SUCH_ENTRY"
    (found,) = await vpp.dump("vxlan_tunnel_v2", sw_if_index=NO_INDEX)
    facts = (found.sw_if_index, found.instance, str(found.src_address), str(found.dst_address), found.vni)
    assert facts == (index, 3, "10.1.1.2", "10.1.1.77", 10)
    details = (await interfaces(vpp))["vxlan_tunnel3"]
    assert (int(details.flags), details.interface_dev_type) == (3, "VXLAN")
    assert "instance 3 src 10.1.1.2 dst 10.1.1.77" in (await vpp.call("cli_inband", cmd="show vxlan tunnel")).reply
    await vpp.call(change, is_add=False, **TUNNEL)
    assert await vpp.dump("vxlan_tunnel_v2", sw_if_index=NO_INDEX) == []


async def test_af_packet(node: Node, vpp: contiv.vpp.Vpp) -> None:
    await node.veth("cdpa", peer="cdpb", peer_netns=node.netns)
    index = (await vpp.call("af_packet_create_v3", **LINK)).sw_if_index
    assert await answer(vpp, "af_packet_create_v3", **LINK) == "IF_ALREADY_EXISTS"
    assert await answer(vpp, "af_packet_create_v3", **{**LINK, "host_if_name": "nope"}) == "INVALID_INTERFACE"
    (found,) = await vpp.dump("af_packet")
    assert (found.sw_if_index, found.host_if_name) == (index, "cdpa")
    details = (await interfaces(vpp))["host-cdpa"]
    assert (str(details.l2_address), details.interface_dev_type) == ("02:fe:00:00:00:01", "af-packet")
    assert await answer(vpp, "af_packet_delete", host_if_name="nope") == "SYSCALL_ERROR_1"
    await vpp.call("af_packet_delete", host_if_name="cdpa")
    assert await vpp.dump("af_packet") == []
    await node.unveth("cdpa")


async def test_events_tell_state_and_deletion(vpp: contiv.vpp.Vpp) -> None:
    events = vpp.events("sw_interface_event")
    await vpp.call("want_interface_events", enable_disable=1, pid=3)
    assert await answer(vpp, "want_interface_events", enable_disable=1, pid=3) == "INVALID_REGISTRATION"
    index = await loopback(vpp, 5, "02:00:00:00:00:05", "")
    async with asyncio.timeout(3):
        while True:
            event = await anext(events)
            if event.sw_if_index == index and int(event.flags) & 1:
                break
        await vpp.call("delete_loopback", sw_if_index=index)
        while not event.deleted:
            event = await anext(events)
    assert event.sw_if_index == index
    await vpp.call("want_interface_events", enable_disable=0, pid=3)
    assert await answer(vpp, "want_interface_events", enable_disable=0, pid=3) == "INVALID_REGISTRATION"


async def test_thousands_of_requests_in_flight(vpp: contiv.vpp.Vpp) -> None:
    index = await loopback(vpp, 1, "02:00:00:00:00:01", "10.1.1.1/24")
    fields = [
        {
            "table_id": 0,
            "prefix": f"10.{64 + number // 250}.{number % 250}.0/24",
            "n_paths": 1,
            "paths": [path(index, "10.1.1.9")],
        }
        for number in range(2000)
    ]
    await vpp.batch([("ip_route_add_del", {"is_add": True, "route": one}) for one in fields])
    assert len(await routes(vpp, src=8)) == 2000
    await vpp.batch([("ip_route_add_del", {"is_add": False, "route": one}) for one in fields])
    assert await routes(vpp, src=8) == {}


async def test_two_clients_see_one_vpp(node: Node, vpp: contiv.vpp.Vpp) -> None:
    async with node.connect() as other:
        await loopback(vpp, 6, "02:00:00:00:00:06", "")
        assert "loop6" in await interfaces(other)
