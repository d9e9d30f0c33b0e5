"""contiv.network.ipam: the carving of subnets by node ID and the pool of pod addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.config import parse
from contiv.errors import ConfigError, NetworkError
from contiv.model.ip import Address, Network
from contiv.network.ipam import ClusterSubnets, PodPool

DEFAULTS = ClusterSubnets.of(parse(""))


def test_the_defaults_give_node_two_the_addresses_that_the_original_documents() -> None:
    node = DEFAULTS.node(2)
    assert str(node.pod_subnet) == "10.1.2.0/24"
    assert str(node.pod_gateway) == "10.1.2.1"
    assert str(node.nat_loopback) == "10.1.2.254"
    assert str(node.host_vpp) == "172.30.2.1/24"
    assert str(node.host_linux) == "172.30.2.2/24"
    assert str(node.uplink) == "192.168.16.2/24"
    assert str(node.vxlan) == "192.168.30.2/24"


def test_an_id_past_the_narrowest_subnet_names_that_subnet() -> None:
    with pytest.raises(ConfigError) as caught:
        DEFAULTS.node(255)
    assert caught.value.key == "ipamConfig.nodeInterconnectCIDR"


def test_the_highest_id_of_a_pool_takes_share_zero() -> None:
    subnets = ClusterSubnets.of(parse("ipamConfig: {podSubnetCIDR: 10.1.0.0/22, vppHostSubnetCIDR: 172.30.0.0/22}"))
    assert str(subnets.node(4).pod_subnet) == "10.1.0.0/24"


@given(st.integers(1, DEFAULTS.node_id_max), st.integers(1, DEFAULTS.node_id_max))
def test_two_nodes_share_no_address(one: int, other: int) -> None:
    if one == other:
        return
    first, second = DEFAULTS.node(one), DEFAULTS.node(other)
    assert not first.pod_subnet.overlaps(second.pod_subnet)
    assert not first.host_subnet.overlaps(second.host_subnet)
    assert first.uplink != second.uplink
    assert first.vxlan != second.vxlan


def test_the_pool_never_gives_gateway_nat_loopback_or_the_network_itself() -> None:
    pool = PodPool(Network.parse("10.1.1.0/28"))
    given_out = {pool.allocate(f"c{number}") for number in range(pool.capacity)}
    assert {str(address) for address in given_out} == {f"10.1.1.{last}" for last in range(2, 14)}
    with pytest.raises(NetworkError, match="no free address"):
        pool.allocate("one too many")


def test_asking_again_gives_the_same_address() -> None:
    pool = PodPool(Network.parse("10.1.1.0/24"))
    assert pool.allocate("a") == pool.allocate("a")
    assert len(pool) == 1


def test_a_freed_address_is_used_again_only_after_all_others() -> None:
    pool = PodPool(Network.parse("10.1.1.0/28"))
    freed = pool.allocate("a")
    pool.release("a")
    later = [pool.allocate(f"b{number}") for number in range(pool.capacity)]
    assert later[-1] == freed


def test_a_claimed_address_is_not_handed_out_after_a_restart() -> None:
    pool = PodPool(Network.parse("10.1.1.0/28"))
    pool.claim(Address.parse("10.1.1.2"), "old")
    others = {pool.allocate(f"c{number}") for number in range(pool.capacity - 1)}
    assert Address.parse("10.1.1.2") not in others


def test_claims_are_refused_where_they_cannot_be_right() -> None:
    pool = PodPool(Network.parse("10.1.1.0/28"))
    pool.claim(Address.parse("10.1.1.2"), "a")
    with pytest.raises(NetworkError, match="belongs to a"):
        pool.claim(Address.parse("10.1.1.2"), "b")
    for text in ("10.1.1.1", "10.1.1.14", "10.1.1.15", "10.1.2.2", "10.1.1.0"):
        with pytest.raises(NetworkError, match="not a pod address"):
            pool.claim(Address.parse(text), "c")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=80))
def test_owners_and_addresses_stay_one_to_one(steps: list[tuple[bool, int]]) -> None:
    pool = PodPool(Network.parse("10.1.1.0/28"))
    held: dict[str, Address] = {}
    for allocate, number in steps:
        owner = f"c{number}"
        if allocate:
            held[owner] = pool.allocate(owner)
        else:
            assert pool.release(owner) == held.pop(owner, None)
        assert pool.allocations() == {address: owner for owner, address in sorted(held.items(), key=lambda i: i[1])}
