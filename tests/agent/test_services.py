"""What the node is to its services, and the route that ``netctl services`` asks."""

from __future__ import annotations

import json
import subprocess
import sys
from asyncio import to_thread
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from contiv import metrics
from contiv.agent.cnat import SESSIONS_MAX
from contiv.agent.services import Services, node_view, sessions
from contiv.config import parse
from contiv.controller.cluster import ClusterResync, ClusterState
from contiv.errors import VppError
from contiv.model import keys, kube
from contiv.model.ip import Network
from contiv.model.node import NodeClaim, NodeStatus
from contiv.network.ipam import ClusterSubnets
from contiv.network.render_nic import Uplink
from contiv.network.state import NetworkState, Options
from contiv.store.client import Etcd
from contiv.store.embedded import EmbeddedEtcd
from tests.service.builders import endpoint, service, slice_

CONFIG = parse("")
ME = NodeClaim(id=1, name="node-1", uplink="192.168.16.1/24")
NIC = Uplink(host_if="eth1", mac="02:00:00:00:00:01", address=Network.parse("192.168.16.1/24", strict=False))


def network(uplink: Uplink | None = NIC, *, transport: Any = "vxlan", hide_pods: bool = True) -> NetworkState:
    """A node's network without pods."""
    options = Options(tap=False, prepared_target=0, mtu=1450, vni=10, transport=transport, hide_pods=hide_pods)
    return NetworkState(ClusterSubnets.of(CONFIG), ME, uplink, options)


def test_a_node_with_an_uplink_hides_its_pods_behind_it() -> None:
    view = node_view(network())
    assert (view.snat_interface, str(view.uplink)) == ("uplink", "192.168.16.1")
    assert view.interfaces == ("vpp2", "vxlan-bvi")
    assert set(map(str, view.own_addresses)) == {"192.168.16.1", "172.30.1.2", "172.30.1.1", "192.168.30.1"}
    assert str(view.hidden) == "10.1.1.254"


@pytest.mark.parametrize(
    ("uplink", "hide_pods", "transport", "interfaces"),
    [
        (None, True, "vxlan", ("vpp2", "vxlan-bvi")),
        (NIC, False, "vxlan", ("vpp2", "vxlan-bvi", "uplink")),
        (NIC, False, "nooverlay", ("vpp2", "uplink")),
    ],
)
def test_where_nothing_is_to_be_hidden_the_uplink_is_one_among_others(
    uplink: Uplink | None, hide_pods: bool, transport: str, interfaces: tuple[str, ...]
) -> None:
    view = node_view(network(uplink, transport=transport, hide_pods=hide_pods))
    assert view.snat_interface is None
    assert (view.interfaces, view.outside) == (interfaces, ())


@pytest.mark.parametrize(("transport", "others"), [("nooverlay", ()), ("auto", ("vxlan-bvi",))])
def test_where_other_nodes_are_reached_by_the_uplink_another_interface_hides_the_pods(
    transport: str, others: tuple[str, ...]
) -> None:
    view = node_view(network(transport=transport))
    assert view.snat_interface == "snat"
    assert (view.interfaces, view.outside) == (("vpp2", *others, "uplink"), ("uplink",))


def test_an_uplink_without_an_address_is_the_nodes_only_later() -> None:
    state = network(msgspec.structs.replace(NIC, address=None))
    assert node_view(state).uplink is None
    state.address_changed("uplink", NIC.address, None)
    assert str(node_view(state).uplink) == "192.168.16.1"


STOLEN = msgspec.structs.replace(NIC, shared=(Network.parse("192.168.16.1/24", strict=False),))


@pytest.mark.parametrize(
    ("uplink", "transport", "expected"),
    [
        (NIC, "vxlan", {"172.30.1.2"}),
        (STOLEN, "vxlan", {"172.30.1.2"}),
        (STOLEN, "nooverlay", {"172.30.1.2", "192.168.16.1"}),
    ],
)
def test_host_ports_leave_the_hosts_own_connections_alone(uplink: Uplink, transport: str, expected: set[str]) -> None:
    view = node_view(network(uplink, transport=transport), ephemeral=((32768, 60999),))
    assert {str(each.address) for each in view.kept} == expected
    assert all(each.from_host_ports and (each.first, each.last) == (32768, 60999) for each in view.kept)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:9999", set()),
        ("unix:/run/rest.sock", set()),
        ("0.0.0.0:9999", {("172.30.1.2", 9999), ("192.168.16.1", 9999)}),
        ("172.30.1.2:9998", {("172.30.1.2", 9998)}),
    ],
)
def test_nobody_takes_the_agents_own_port(listen: str, expected: set[tuple[str, int]]) -> None:
    view = node_view(network(STOLEN), rest_listen=listen)
    assert {(str(each.address), each.first) for each in view.kept if not each.from_host_ports} == expected


def test_nobody_takes_what_a_leased_address_is_renewed_by() -> None:
    (kept,) = node_view(network(msgspec.structs.replace(NIC, dhcp=True))).kept
    assert (str(kept.address), kept.first, kept.protocols) == ("192.168.16.1", 68, (17,))


class Sessions:
    """A VPP with one session of one backend, or one that says that it has more."""

    def __init__(self, count: int = 1) -> None:
        self._count = count

    async def dump(self, name: str, **_: object) -> list[Any]:
        """Users, and the session of the one there is."""
        if name == "nat44_user":
            return [SimpleNamespace(ip_address="10.1.1.5", vrf_id=0, nsessions=0, nstaticsessions=self._count)]
        assert self._count <= SESSIONS_MAX, "VPP would stand still"
        assert name == "nat44_user_session_v3"
        entry = {
            "outside_ip_address": "10.96.0.10", "outside_port": 80, "inside_ip_address": "10.1.1.5",
            "inside_port": 8080, "protocol": 6, "flags": 1, "ext_host_address": "192.168.16.9", "ext_host_port": 4000,
            "ext_host_nat_address": "10.1.1.254", "ext_host_nat_port": 5000, "time_since_last_heard": 3,
            "total_bytes": 100, "total_pkts": 2, "is_timed_out": False,
        }  # fmt: skip
        return [SimpleNamespace(**entry)]


async def test_netctl_shows_frontends_sessions_and_faults(tmp_path: Path) -> None:
    services = Services(CONFIG, network(), Sessions(), None, lambda _: None)  # type: ignore[arg-type]
    web = service(external_ips=("10.96.0.9",))
    objects: dict[str, Any] = {
        kube.SERVICES.key_of(web): web,
        "/slice": slice_(*(endpoint(f"10.1.2.{n}") for n in range(1, 9))),
    }
    event = ClusterResync(objects=objects, claims={}, attachments={}, reason="test")
    cluster = ClusterState()
    cluster.apply(event)
    services.handler.resync(event, cluster)
    socket = f"unix:{tmp_path / 'rest.sock'}"
    async with (
        EmbeddedEtcd(tmp_path / "etcd") as server,
        metrics.serve(socket, metrics.registry(), routes=services.routes()),
    ):
        await publish(server.endpoint, socket)
        (row,) = json.loads((await netctl(server.endpoint, "-o", "json")).stdout)
        assert row["backends"] == [f"10.1.2.{n}:8080" for n in range(1, 9)]
        table = await netctl(server.endpoint)
        assert "10.96.0.10:80/TCP" in table.stdout
        assert "and 2 more" in table.stdout
        assert table.stderr == "1 faults: see netctl services --faults\n"
        (fault,) = json.loads((await netctl(server.endpoint, "--faults", "-o", "json")).stdout)
        assert (fault["object"], fault["field"]) == ("Service default/web", "externalIPs[0]")
        (session,) = json.loads((await netctl(server.endpoint, "node-1", "--sessions", "-o", "json")).stdout)
        assert session["client"] == "192.168.16.9:4000"
        assert session["frontend"] == "10.96.0.10:80"
        assert session["backend"] == "10.1.1.5:8080"
        assert session["seenAs"] == "10.1.1.254:5000"


async def test_too_many_sessions_are_refused_and_not_asked_for() -> None:
    with pytest.raises(VppError, match=f"keeps {SESSIONS_MAX + 1} sessions.*filter i2o saddr"):
        await sessions(Sessions(SESSIONS_MAX + 1))  # type: ignore[arg-type]


async def publish(endpoint_: str, rest: str) -> None:
    """What the agent would say of itself."""
    fields = dict.fromkeys(NodeStatus.__struct_fields__, "")
    known = {"id": 1, "name": "node-1", "rest": rest, "uplink": ME.uplink, "node_config": None}
    status = NodeStatus(**(fields | known))  # type: ignore[arg-type]
    async with await Etcd.connect([endpoint_]) as etcd:
        await etcd.put(keys.node_status("node-1"), msgspec.json.encode(status))


async def netctl(endpoint_: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``netctl services``."""
    argv = [sys.executable, "-m", "contiv.cli.netctl", "--etcd", endpoint_, "services", *arguments]
    return await to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60)
