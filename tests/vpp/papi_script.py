"""A script for vpp_papi: forty kinds of calls and dumps. It leaves VPP as it found it.

``run(client)`` takes a connected client, of vpp_papi or of this project, and returns what each call gave.
"""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

CHANGING = {"age", "context", "stats_index", "vpe_system_time", "_0", "client_index"}


def plain(value: Any) -> Any:
    """A result without what differs from call to call."""
    if hasattr(value, "_fields"):
        return {name: plain(each) for name, each in zip(value._fields, value, strict=True) if name not in CHANGING}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if type(value).__name__ == "MACAddress" else value


def run(client: Any, enums: Any) -> dict[str, Any]:
    """Every call once; results by name of the call."""
    api = client.api
    results: dict[str, Any] = {}
    events: list[str] = []
    arrived = threading.Event()

    def on_event(name: str, record: Any) -> None:
        events.append(f"{name} {record.sw_if_index} {int(record.flags)}")
        arrived.set()

    def call(name: str, **fields: Any) -> Any:
        result = getattr(api, name)(**fields)
        results.setdefault(name, []).append(plain(result))
        return result

    up = enums.vl_api_if_status_flags_t.IF_STATUS_API_FLAG_ADMIN_UP
    client.register_event_callback(on_event)
    call("control_ping")
    call("show_version")
    call("show_threads")
    call("cli_inband", cmd="show interface addr")
    call("want_interface_events", enable_disable=1, pid=7)
    loop = call("create_loopback", mac_address="02:00:00:00:00:01").sw_if_index
    call("sw_interface_set_flags", sw_if_index=loop, flags=up)
    arrived.wait(5)
    call("want_interface_events", enable_disable=0, pid=7)
    call("sw_interface_add_del_address", sw_if_index=loop, is_add=1, prefix="10.9.0.1/24")
    call("sw_interface_set_mtu", sw_if_index=loop, mtu=[1500, 0, 0, 0])
    call("sw_interface_tag_add_del", is_add=1, sw_if_index=loop, tag="papi")
    call("sw_interface_dump", sw_if_index=loop)
    call("sw_interface_get_table", sw_if_index=loop)
    call("ip_address_dump", sw_if_index=loop, is_ipv6=False)
    call("ip_table_add_del_v2", table={"table_id": 77, "name": "seventy-seven"}, is_add=True)
    call("ip_table_dump")
    labels = [{"is_uniform": 0, "label": 0, "ttl": 0, "exp": 0}] * 16
    path = {"sw_if_index": loop, "nh": {"address": {"ip4": IPv4Address("10.9.0.7")}}, "label_stack": labels}
    route = {"table_id": 77, "prefix": IPv4Network("192.0.2.0/24"), "n_paths": 1, "paths": [path]}
    call("ip_route_add_del", is_add=1, route=route)
    call("ip_route_dump", table={"table_id": 77, "is_ip6": False})
    call("ip_route_lookup", table_id=77, exact=0, prefix="192.0.2.0/24")
    call("ip_route_add_del", is_add=0, route=route)
    neighbor = {"sw_if_index": loop, "flags": 1, "mac_address": "02:00:00:00:00:07", "ip_address": "10.9.0.7"}
    call("ip_neighbor_add_del", is_add=1, neighbor=neighbor)
    call("ip_neighbor_dump", sw_if_index=loop, af=0)
    call("ip_neighbor_add_del", is_add=0, neighbor=neighbor)
    rule = {
        "is_permit": 1,
        "src_prefix": "10.0.0.0/8",
        "dst_prefix": IPv4Network("0.0.0.0/0"),
        "proto": 6,
        "srcport_or_icmptype_last": 65535,
        "dstport_or_icmpcode_first": 80,
        "dstport_or_icmpcode_last": 80,
    }
    acl = call("acl_add_replace", acl_index=0xFFFFFFFF, tag="papi", count=1, r=[rule]).acl_index
    call("acl_dump", acl_index=acl)
    call("acl_interface_set_acl_list", sw_if_index=loop, count=1, n_input=1, acls=[acl])
    call("acl_interface_list_dump", sw_if_index=loop)
    call("acl_interface_set_acl_list", sw_if_index=loop, count=0, n_input=0, acls=[])
    call("acl_del", acl_index=acl)
    call("acl_plugin_get_version")
    call("bridge_domain_add_del_v2", bd_id=9, flood=True, forward=True, learn=True, is_add=True)
    call("sw_interface_set_l2_bridge", rx_sw_if_index=loop, bd_id=9, enable=True)
    call("l2fib_add_del", mac="02:00:00:00:00:09", bd_id=9, sw_if_index=loop, is_add=True, static_mac=True)
    call("bridge_domain_dump", bd_id=9)
    call("l2_fib_table_dump", bd_id=9)
    call("l2fib_add_del", mac="02:00:00:00:00:09", bd_id=9, sw_if_index=loop, is_add=False)
    call("sw_interface_set_l2_bridge", rx_sw_if_index=loop, bd_id=9, enable=False)
    call("bridge_domain_add_del_v2", bd_id=9, is_add=False)
    vxlan = {"src_address": "10.9.0.1", "dst_address": "10.9.0.2", "vni": 5, "decap_next_index": 0xFFFFFFFF}
    # vpp_papi carries one message's default of an interface index over to others, as the files happen to be ordered
    vxlan["mcast_sw_if_index"] = 0xFFFFFFFF
    call("vxlan_add_del_tunnel_v3", is_add=True, **vxlan)
    call("vxlan_tunnel_v2_dump", sw_if_index=0xFFFFFFFF)
    call("vxlan_add_del_tunnel_v3", is_add=False, **vxlan)
    call("nat44_ed_plugin_enable_disable", enable=True, sessions=1000)
    call("nat44_add_del_address_range", first_ip_address="10.9.1.1", last_ip_address="10.9.1.2", is_add=True)
    call("nat44_address_dump")
    call("nat44_ed_add_del_output_interface", is_add=True, sw_if_index=loop)
    call("nat44_ed_output_interface_get", cursor=0)
    call("nat44_show_running_config")
    call("nat44_ed_plugin_enable_disable", enable=False)
    call("punt_reason_dump")
    call("sw_interface_set_flags", sw_if_index=12345, flags=0)
    call("sw_interface_ip6_enable_disable", sw_if_index=loop, enable=True)
    call("ip_address_dump", sw_if_index=loop, is_ipv6=True)
    call("ip_route_v2_dump", src=0, table={"table_id": 0, "is_ip6": True})
    call("sw_interface_ip6_enable_disable", sw_if_index=loop, enable=False)
    call(
        "sw_interface_add_del_address", sw_if_index=loop, is_add=1, prefix=str(IPv6Network("2001:db8::/64")[1]) + "/64"
    )
    call("sw_interface_add_del_address", sw_if_index=loop, del_all=True, prefix="10.9.0.1/24", is_add=0)
    call("ip_table_add_del_v2", table={"table_id": 77}, is_add=False)
    call("delete_loopback", sw_if_index=loop)
    results["events"] = events[:1]
    results["packed"] = api.sw_interface_set_flags_pack(sw_if_index=1, flags=1).hex()[4:]
    return results
