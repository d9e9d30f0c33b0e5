"""A pod on an interface that was made ahead finds NAT there, and leaves it there: VPP has work with it each time."""

from __future__ import annotations

from contiv.agent.services import node_view
from contiv.config import parse
from contiv.model import vpp
from contiv.model.ip import Network
from contiv.model.node import NodeClaim
from contiv.network.ipam import ClusterSubnets
from contiv.network.render_nic import Uplink
from contiv.network.state import NetworkState, Options, PodRequest
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.renderer import Options as ServiceOptions
from contiv.service.state import ServiceState

PREPARED = 3


def request(number: int) -> PodRequest:
    return PodRequest(container_id=f"c{number}", if_name="eth0", netns=f"/var/run/netns/p{number}")


def test_nat_of_prepared_interfaces_does_not_change_with_the_pods_that_use_them() -> None:
    uplink = Uplink(host_if="eth1", mac="02:00:00:00:00:01", address=Network.parse("192.168.16.1/24", strict=False))
    options = Options(tap=False, prepared_target=PREPARED, mtu=1450, vni=10)
    me = NodeClaim(id=1, name="node-1", uplink="192.168.16.1/24")
    network = NetworkState(ClusterSubnets.of(parse("")), me, uplink, options)
    network.slots.grow(PREPARED)
    view = node_view(network)
    state = ServiceState(view, Nat44Renderer(ServiceOptions()))
    desired = state.replace((), {}, view, node_object=None, interfaces=network.pod_interfaces)
    slots = {vpp.key_of(vpp.NatInterface(interface=f"pod{number}")) for number in range(PREPARED)}
    assert slots <= desired.keys()
    for number in range(PREPARED):
        network.add_pod(request(number))
        assert state.interfaces_changed(network.pod_interfaces) == {}
    network.add_pod(request(PREPARED))  # one more than there are slots
    beyond = vpp.key_of(vpp.NatInterface(interface=f"pod{PREPARED}"))
    assert set(state.interfaces_changed(network.pod_interfaces)) == {beyond}
    for number in range(PREPARED):
        network.delete_pod(f"c{number}", "eth0")
        assert state.interfaces_changed(network.pod_interfaces) == {}
    network.delete_pod(f"c{PREPARED}", "eth0")
    assert state.interfaces_changed(network.pod_interfaces) == {beyond: None}
