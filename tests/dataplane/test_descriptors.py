"""Descriptors of VPP objects: any configuration turns into any other, and what is there is read back as it was wanted.

After each transition a scheduler that knows nothing reads the data plane and must find nothing to do.
"""

from __future__ import annotations

import random

import pytest
from topology import Node

import contiv.vpp
from contiv.model import vpp as model
from contiv.model.ip import Address, Network
from contiv.scheduler import Resync, Scheduler, State, Txn, Value
from contiv.vpp.descriptors import FibSource, Interfaces, descriptors

pytestmark = pytest.mark.root
ROUNDS = 12
BRIDGE = ("vpp/bridge-domain/7", "vpp/bridge-member/bvi")


def address(text: str) -> Address:
    return Address.parse(text)


def interface(text: str) -> Network:
    return Network.parse(text, strict=False)


def net(text: str) -> Network:
    return Network.parse(text)


UNIVERSE: dict[str, Value] = dict(
    model.entry(value)
    for value in (
        model.Loopback(name="gateway", instance=70, mac="12:2a:00:00:00:01"),
        model.Loopback(name="bvi", instance=71, mac="12:2b:00:00:00:01", mtu=1450),
        model.Loopback(name="custom", instance=72, mac="12:2e:00:00:00:01"),
        model.InterfaceAddress(interface="gateway", address=interface("10.1.1.1/32")),
        model.InterfaceAddress(interface="bvi", address=interface("192.168.30.1/24")),
        model.AdminUp(interface="gateway"),
        model.AdminUp(interface="bvi"),
        model.AdminUp(interface="custom", requires=("vpp/vrf/7/ip4",)),
        model.Vrf(table_id=7, version=4, label="custom"),
        model.Vrf(table_id=8, version=4, label="another"),
        model.InterfaceVrf(interface="custom", table_id=7, version=4),
        model.Unnumbered(interface="vxlan-2", lender="gateway"),
        model.VxlanTunnel(
            name="vxlan-2", instance=72, vni=10, source=address("192.168.16.1"), destination=address("192.168.16.2")
        ),
        model.VxlanTunnel(
            name="vxlan-3", instance=73, vni=10, source=address("192.168.16.1"), destination=address("192.168.16.3")
        ),
        model.AdminUp(interface="vxlan-2"),
        model.AdminUp(interface="vxlan-3"),
        model.BridgeDomain(bd_id=7, label="contiv:test"),
        model.BridgeMember(bd_id=7, interface="bvi", bvi=True),
        model.BridgeMember(bd_id=7, interface="vxlan-3", shg=1),
        model.L2FibEntry(bd_id=7, mac="12:2b:00:00:00:03", interface="vxlan-3"),
        model.Neighbour(interface="bvi", address=address("192.168.30.3"), mac="12:2b:00:00:00:03"),
        model.Route(vrf=0, destination=net("10.1.3.0/24"), gateway=address("192.168.30.3"), interface="bvi"),
        model.Route(vrf=7, destination=net("10.9.0.0/16")),
        model.Route(vrf=7, destination=net("10.8.0.0/16"), main=True),
        model.Diversion(interface="gateway", table_id=7),
        model.Route(vrf=0, destination=net("10.96.0.0/12"), reject=True),
        model.Route(vrf=0, destination=net("172.30.3.0/24"), gateway=address("192.168.30.3"), interface="bvi"),
    )
)
VARIANTS: dict[str, Value] = dict(
    model.entry(value)
    for value in (
        model.Loopback(name="bvi", instance=71, mac="12:2b:00:00:00:09", mtu=1400),
        model.Loopback(name="gateway", instance=70, mac="12:2a:00:00:00:01", mtu=1300),
        model.Route(vrf=0, destination=net("10.1.3.0/24"), gateway=address("192.168.30.9"), interface="bvi"),
        model.Route(vrf=7, destination=net("10.9.0.0/16"), reject=True),
        model.Route(vrf=7, destination=net("10.8.0.0/16")),
        model.Diversion(interface="gateway", table_id=8),
        model.Route(vrf=0, destination=net("10.96.0.0/12")),
        model.Neighbour(interface="bvi", address=address("192.168.30.3"), mac="12:2b:00:00:00:08"),
        model.BridgeMember(bd_id=7, interface="vxlan-3", shg=2),
        model.VxlanTunnel(
            name="vxlan-3", instance=73, vni=11, source=address("192.168.16.1"), destination=address("192.168.16.3")
        ),
    )
)


def a_scheduler(vpp: contiv.vpp.Vpp) -> Scheduler:
    return Scheduler(list(descriptors(vpp, Interfaces(), FibSource(vpp))))


def a_configuration(dice: random.Random) -> dict[str, Value]:
    """Most of the universe, some of it otherwise. VPP makes tunnels that are up, so they are wanted up."""
    chosen = {key: value for key, value in UNIVERSE.items() if dice.random() < 0.8}
    for key in [key for key, value in chosen.items() if isinstance(value, model.VxlanTunnel)]:
        up = model.admin_up_key(key.removeprefix(model.INTERFACE))
        chosen[up] = UNIVERSE[up]
    return chosen | {key: value for key, value in VARIANTS.items() if key in chosen and dice.random() < 0.4}


async def test_any_configuration_turns_into_any_other_and_is_read_back_as_wanted(
    node: Node, vpp: contiv.vpp.Vpp
) -> None:
    dice = random.Random(20260624)
    scheduler = a_scheduler(vpp)
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    for number in range(ROUNDS):
        wanted = a_configuration(dice) if number < ROUNDS - 1 else {}
        gone = dict.fromkeys(key for key in scheduler.desired if key not in wanted)
        outcome = await scheduler.commit(Txn(gone | wanted))
        assert not outcome.errors, f"round {number}: {outcome.errors}"
        assert (await scheduler.inspect()).empty, f"round {number}: {(await scheduler.inspect()).operations}"
        stranger = a_scheduler(vpp)
        read = await stranger.commit(Txn(wanted, resync=Resync.FULL))
        assert read.plan.empty, f"round {number}: {read.plan.operations}"
        pending = {key for key, status in read.states.items() if status.state is State.PENDING}
        assert set(stranger.actual) == wanted.keys() - pending


async def test_what_somebody_else_put_into_vpp_is_neither_seen_nor_touched(node: Node, vpp: contiv.vpp.Vpp) -> None:
    foreign = await vpp.call(
        "create_loopback_instance", mac_address="02:00:00:00:00:77", is_specified=True, user_instance=90
    )
    await vpp.call("sw_interface_tag_add_del", is_add=True, sw_if_index=foreign.sw_if_index, tag="somebody")
    route = {"prefix": "10.77.0.0/16", "n_paths": 1, "paths": [{"sw_if_index": 0xFFFFFFFF, "type": 2, "weight": 1}]}
    await vpp.call("ip_route_add_del", is_add=True, is_multipath=False, route=route)
    scheduler = a_scheduler(vpp)
    outcome = await scheduler.commit(Txn(dict(UNIVERSE), resync=Resync.FULL))
    assert not outcome.errors
    await scheduler.commit(Txn({}, resync=Resync.FULL))
    names = {each.sw_if_index for each in await vpp.dump("sw_interface", sw_if_index=0xFFFFFFFF)}
    assert foreign.sw_if_index in names
    table = {"table_id": 0, "is_ip6": False, "name": ""}
    prefixes = {str(each.route.prefix) for each in await vpp.dump("ip_route", table=table)}
    assert "10.77.0.0/16" in prefixes
    await vpp.call("ip_route_add_del", is_add=False, is_multipath=False, route=route)
    await vpp.call("delete_loopback", sw_if_index=foreign.sw_if_index)


async def test_drift_made_by_hand_is_mended_by_a_resync(node: Node, vpp: contiv.vpp.Vpp) -> None:
    scheduler = a_scheduler(vpp)
    await scheduler.commit(Txn(dict(UNIVERSE), resync=Resync.FULL))
    bvi = next(e.sw_if_index for e in await vpp.dump("sw_interface", sw_if_index=0xFFFFFFFF) if e.tag == "contiv:bvi")
    neighbour = {"sw_if_index": bvi, "flags": 1, "mac_address": "12:2b:00:00:00:03", "ip_address": "192.168.30.3"}
    await vpp.call("ip_neighbor_add_del", is_add=False, neighbor=neighbour)
    await vpp.call("sw_interface_set_flags", sw_if_index=bvi, flags=0)
    await vpp.call("sw_interface_add_del_address", sw_if_index=bvi, is_add=True, del_all=False, prefix="10.66.0.1/24")
    assert not (await scheduler.inspect()).empty
    outcome = await scheduler.commit(Txn(resync=Resync.DOWNSTREAM))
    assert not outcome.errors
    assert (await scheduler.inspect()).empty
    await scheduler.commit(Txn({}, resync=Resync.FULL))


async def test_a_domain_that_a_late_member_made_gives_way_and_another_owners_does_not(
    node: Node, vpp: contiv.vpp.Vpp
) -> None:
    scheduler = a_scheduler(vpp)
    loopback = {key: UNIVERSE[key] for key in ("vpp/interface/bvi",)}
    bridge = loopback | {key: UNIVERSE[key] for key in BRIDGE}
    await scheduler.commit(Txn(dict(loopback), resync=Resync.FULL))
    stranger = (await vpp.call("create_loopback")).sw_if_index
    await vpp.call("sw_interface_set_l2_bridge", rx_sw_if_index=stranger, bd_id=7, port_type=0, shg=0, enable=True)
    outcome = await scheduler.commit(Txn(dict(bridge)))
    assert [error.key for error in outcome.errors] == ["vpp/bridge-domain/7"]
    await vpp.call("delete_loopback", sw_if_index=stranger)

    bvi = next(e.sw_if_index for e in await vpp.dump("sw_interface", sw_if_index=0xFFFFFFFF) if e.tag == "contiv:bvi")
    await vpp.call("sw_interface_set_l2_bridge", rx_sw_if_index=bvi, bd_id=7, port_type=0, shg=0, enable=True)
    outcome = await scheduler.commit(Txn(dict(bridge), resync=Resync.FULL))
    assert not outcome.errors
    assert (await scheduler.inspect()).empty
    (domain,) = await vpp.dump("bridge_domain", bd_id=7, sw_if_index=0xFFFFFFFF)
    assert (domain.bd_tag, domain.bvi_sw_if_index) == ("contiv:test", bvi)
    await scheduler.commit(Txn({}, resync=Resync.FULL))
