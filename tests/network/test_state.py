"""contiv.network.state: what each event means for the desired keys, checked against a full rendering."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.config import parse
from contiv.errors import CniError
from contiv.model import linux, vpp
from contiv.model.ip import Address, Network
from contiv.model.node import NodeClaim
from contiv.network.ipam import ClusterSubnets
from contiv.network.render_nic import Uplink
from contiv.network.state import CNI_CODE_IN_USE, CNI_CODE_NO_ADDRESS, NetworkState, Options, PodRequest

SUBNETS = ClusterSubnets.of(parse(""))
SMALL = ClusterSubnets.of(parse("ipamConfig: {podSubnetOneNodePrefixLen: 29}"))


def a_state(*, tap: bool = False, prepared: int = 3, subnets: ClusterSubnets = SUBNETS) -> NetworkState:
    me = NodeClaim(id=1, name="node1", uplink="192.168.16.1/24")
    uplink = Uplink(host_if="eth1", mac="02:00:00:00:00:01", address=Network.parse(me.uplink, strict=False))
    state = NetworkState(subnets, me, uplink, Options(tap=tap, prepared_target=prepared, mtu=1450, vni=10))
    state.slots.grow(prepared)
    return state


def request(number: int, **fields: str) -> PodRequest:
    return PodRequest(
        **{
            "container_id": f"c{number}",
            "if_name": "eth0",
            "netns": f"/var/run/netns/p{number}",
            "pod_namespace": "default",
            "pod_name": f"p{number}",
            **fields,
        }
    )


def claim(number: int) -> NodeClaim:
    return NodeClaim(id=number, name=f"node{number}", uplink=f"192.168.16.{number}/24")


def apply(desired: dict[str, object], changes: object) -> None:
    for key, value in dict(changes).items():  # type: ignore[call-overload]
        if value is None:
            del desired[key]
        else:
            desired[key] = value


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("claim"), st.integers(1, 4)),
        st.tuples(st.just("release"), st.integers(1, 4)),
    ),
    max_size=40,
)


@given(STEPS, st.booleans())
def test_changes_always_lead_to_the_full_rendering(steps: list[tuple[str, int]], tap: bool) -> None:
    state = a_state(tap=tap)
    desired = state.desired()
    for what, number in steps:
        if what == "add":
            apply(desired, state.add_pod(request(number))[1])
        elif what == "delete":
            apply(desired, state.delete_pod(f"c{number}", "eth0")[1])
        elif what == "claim":
            apply(desired, state.node_claimed(claim(number)))
        else:
            apply(desired, state.node_released(number))
        assert desired == state.desired()


@given(STEPS, st.booleans())
def test_a_restart_from_what_was_persisted_wants_the_same(steps: list[tuple[str, int]], tap: bool) -> None:
    state = a_state(tap=tap)
    for what, number in steps:
        if what == "add":
            state.add_pod(request(number))
        elif what == "delete":
            state.delete_pod(f"c{number}", "eth0")
        elif what == "claim":
            state.node_claimed(claim(number))
    restarted = a_state(tap=tap)
    assert restarted.replace(state.others.values(), state.attachments.values()) == {}
    assert restarted.desired() == state.desired()
    assert restarted.pool.allocations() == state.pool.allocations()


def test_a_repeated_add_gives_the_same_and_changes_nothing() -> None:
    state = a_state()
    first, _ = state.add_pod(request(1))
    again, changes = state.add_pod(request(1))
    assert again == first
    assert changes == {}


@pytest.mark.parametrize("field", ["netns", "pod_name", "pod_namespace"])
def test_a_container_id_of_another_pod_is_refused_by_name(field: str) -> None:
    state = a_state()
    state.add_pod(request(1))
    with pytest.raises(CniError) as caught:
        state.add_pod(request(1, **{field: "other"}))
    assert caught.value.code == CNI_CODE_IN_USE
    assert field in caught.value.details


def test_a_full_subnet_is_a_clear_error_and_leaves_no_trace() -> None:
    state = a_state(subnets=SMALL)
    for number in range(state.pool.capacity):
        state.add_pod(request(number))
    before = state.desired()
    with pytest.raises(CniError) as caught:
        state.add_pod(request(99))
    assert caught.value.code == CNI_CODE_NO_ADDRESS
    assert state.desired() == before


def test_deleting_the_unknown_changes_nothing() -> None:
    assert a_state().delete_pod("nobody", "eth0") == (None, {})


def test_two_attachments_with_one_address_keep_the_first_and_name_the_second() -> None:
    state = a_state()
    first, _ = state.add_pod(request(1))
    twin = type(first)(**{name: getattr(first, name) for name in first.__struct_fields__} | {"container_id": "c2"})
    restarted = a_state()
    refused = restarted.replace([], [first, twin])
    assert list(refused) == ["c2/eth0"]
    assert restarted.pool.allocations() == {Address.parse(first.address): "c1/eth0"}


def order_of(value: object) -> tuple[str, ...]:
    """What must be there first."""
    return (*value.requires, *getattr(value, "after", ()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("tap", [True, False])
def test_with_policies_neither_end_of_a_pods_interface_goes_up_before_its_access_lists(tap: bool) -> None:
    state = a_state(tap=tap)
    attachment, open_ = state.add_pod(request(1))
    state.delete_pod(attachment.container_id, attachment.if_name)
    state.options = msgspec.structs.replace(state.options, policies=True)
    again, changes = state.add_pod(request(1))
    ends = {vpp.admin_up_key: attachment.interface, linux.interface_key: attachment.interface}
    for key_of, interface in ends.items():
        before, after = open_[key_of(interface)], changes[key_of(again.interface)]
        lists = vpp.acl_interface_key(interface)
        assert lists not in order_of(before)
        assert vpp.acl_interface_key(again.interface) in order_of(after)


def test_with_policies_the_nodes_own_interfaces_go_up_with_their_access_lists_in_place() -> None:
    state = a_state()
    before = state.desired()
    state.options = msgspec.structs.replace(state.options, policies=True)
    after = state.desired()
    for name in ("vpp2", "vxlan-bvi", "uplink"):
        key, lists = vpp.admin_up_key(name), vpp.acl_interface_key(name)
        assert lists not in before[key].requires  # type: ignore[attr-defined]
        assert lists in after[key].requires  # type: ignore[attr-defined]
