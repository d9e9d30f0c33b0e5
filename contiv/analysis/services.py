"""What the nodes of a cluster translate: services completed as the API server and its controllers would, and rendered.

In: a ``Cluster``. Out: ``ClusterServices``: for a node the frontends that policies must know, and who answers an
address and port, be it a service or a pod by its host port. Manifests seldom have what the cluster adds: a service
without a cluster IP gets the next one of the service network, and one without endpoint slices those that its selector
gives, every pod being ready. Pure; rendered by ``contiv.service``, as on the nodes. Next: ``tables`` and ``trace``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from contiv.analysis.cluster import Cluster
from contiv.config import Config
from contiv.linux.ports import DEFAULT_RANGE
from contiv.model import cnat, kube, vpp
from contiv.model.ip import Address
from contiv.model.service import Frontend, FrontendKey
from contiv.service.endpoints import Fault
from contiv.service.frontends import PROTOCOL_NAMES, NodeView, speaking
from contiv.service.render_cnat import CnatRenderer
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.renderer import Answer, Options
from contiv.service.state import ServiceState

FIRST_CLUSTER_IP: Final = 10
"""The first ones are the API server's and DNS's by custom."""
MINUTE_S: Final = 60
FOR_GOOD_S: Final = 1 << 32
"""CNAT's affinity has no end: a client's address chooses."""
_RECORD: Final = struct.Struct(">IHBI")
"""A backend as NAT44-ED has it: address, port, weight, VRF."""


class Candidate(msgspec.Struct, frozen=True):
    """A backend, and how many of the frontend's shares it has."""

    address: Address
    port: int
    weight: int


class Answered(msgspec.Struct, frozen=True):
    """Who answers an address and port on a node. ``candidates`` is empty unless connections are served."""

    service: str
    kind: str
    answer: Answer
    hide_client: bool
    affinity_s: int
    candidates: tuple[Candidate, ...]


class ClusterServices:
    """The services of a cluster, rendered for each node when it is first asked for."""

    def __init__(self, cluster: Cluster, config: Config) -> None:
        self._cluster = cluster
        self._config = config
        self._services = () if config.service_renderer == "none" else tuple(_with_addresses(cluster))
        self._slices = _slices(cluster, self._services)
        pods = (end.pod for end in cluster.ends if end.pod is not None)
        ports = [pod for pod in pods if not pod.host_network and any(port.host_port for port in pod.ports)]
        self._pods = ports if config.service_renderer != "none" else []
        self._states: dict[str, tuple[ServiceState, Mapping[str, msgspec.Struct]]] = {}

    def __bool__(self) -> bool:
        return bool(self._services or self._pods)

    def frontends(self, node: str) -> Mapping[FrontendKey, Frontend]:
        """What policies must know of a node's frontends."""
        return self._state(node)[0].frontends()

    def faults(self) -> list[Fault]:
        """What is wrong with services and slices; every node would report the same, but for host ports of its own."""
        return self._state(next(iter(self._cluster.nodes)))[0].faults() if self else []

    def addresses(self, name: str) -> tuple[str, ...]:
        """The cluster IPs of the service ``namespace/name``; none when there is no such service."""
        found = (each for each in self._services if f"{each.namespace}/{each.name}" == name and not each.headless)
        return next((each.cluster_ips for each in found), ())

    def answered(self, node: str, address: Address, port: int, protocol: int) -> Answered | None:
        """Who answers there, None when nobody translates it."""
        state, desired = self._state(node)
        asked = (str(address), port, PROTOCOL_NAMES.get(protocol))
        for claim in state.services():
            if (claim["address"], claim["port"], claim["protocol"]) == asked:
                answer = Answer(claim["answer"])
                keys = vpp.nat_mapping_key(address, port, protocol), cnat.translation_key(address, port, protocol)
                served = next((desired[key] for key in keys if key in desired and answer is Answer.SERVE), None)
                affinity_s, candidates = _read(served)
                return Answered(
                    service=str(claim["service"]),
                    kind=str(claim["from"]),
                    answer=answer,
                    hide_client=bool(claim["clientHidden"]),
                    affinity_s=affinity_s,
                    candidates=candidates,
                )
        return None

    def _state(self, node: str) -> tuple[ServiceState, Mapping[str, msgspec.Struct]]:
        if node not in self._states:
            view = _view(self._cluster, node)
            kind = CnatRenderer if self._config.service_renderer == "cnat" else Nat44Renderer
            state = ServiceState(view, kind(_options(self._config)))
            interfaces = [end.name for end in self._cluster.ends if end.node == node and not end.on_host]
            objects = (each for each in self._cluster.objects if isinstance(each, kube.Node) and each.name == node)
            own = next(objects, None)
            desired = state.replace(
                self._services, self._slices, view, node_object=own, interfaces=interfaces, pods=self._pods
            )
            self._states[node] = state, desired
        return self._states[node]


def _options(config: Config) -> Options:
    return Options(
        local_weight=config.service_local_endpoint_weight,
        tcp_session_s=config.tcp_nat_session_timeout * MINUTE_S,
        other_session_s=config.other_nat_session_timeout * MINUTE_S,
    )


def _view(cluster: Cluster, node: str) -> NodeView:
    plan, subnets = cluster.nodes[node].plan, cluster.subnets
    return NodeView(
        name=node,
        uplink=plan.uplink.address,
        interfaces=(),
        snat_interface=None,
        own_addresses=cluster.nodes[node].own,
        kept=tuple(speaking((plan.host_linux.address,), (DEFAULT_RANGE,))),
        host=plan.host_linux.address,
        hidden=plan.nat_loopback,
        pods=subnets.pods,
        own_pods=plan.pod_subnet,
        hosts=subnets.hosts,
        services=subnets.services,
        vxlan=subnets.vxlan,
        interconnect=subnets.interconnect,
    )


def _read(served: msgspec.Struct | None) -> tuple[int, tuple[Candidate, ...]]:
    """How long a client keeps its backend, and the backends; nobody where nobody serves."""
    match served:
        case vpp.NatMapping():
            return served.affinity_s, tuple(_candidates(served.backends))
        case cnat.CnatTranslation():
            found = cnat.backends(served.backends, served.address.version)
            return FOR_GOOD_S if served.affinity else 0, tuple(Candidate(each.address, each.port, 1) for each in found)
        case _:
            return 0, ()


def _candidates(records: bytes) -> Iterator[Candidate]:
    for address, port, weight, _ in _RECORD.iter_unpack(records):
        yield Candidate(Address(4, address), port, weight)


# ---- what the cluster would add ----------------------------------------------------------------------------


def _with_addresses(cluster: Cluster) -> Iterator[kube.Service]:
    """The services, those without a cluster IP with the next free one."""
    services = [each for each in cluster.objects if isinstance(each, kube.Service)]
    taken = {text for each in services for text in each.cluster_ips}
    free = (str(cluster.subnets.services.host(n)) for n in range(FIRST_CLUSTER_IP, cluster.subnets.services.size - 1))
    for each in services:
        if each.cluster_ips or each.type == "ExternalName":
            yield each
        else:
            address = next(text for text in free if text not in taken)
            yield msgspec.structs.replace(each, cluster_ips=(address,))


def _slices(cluster: Cluster, services: Iterable[kube.Service]) -> dict[str, kube.EndpointSlice]:
    """The slices that are given, and for services without any those that their selectors give."""
    given = [each for each in cluster.objects if isinstance(each, kube.EndpointSlice)]
    owned = {(each.namespace, each.service_name) for each in given}
    found = {kube.ENDPOINT_SLICES.key_of(each): each for each in given}
    for service in services:
        if service.selector and (service.namespace, service.name) not in owned:
            found |= {kube.ENDPOINT_SLICES.key_of(each): each for each in _implied(cluster, service)}
    return found


def _implied(cluster: Cluster, service: kube.Service) -> Iterator[kube.EndpointSlice]:
    """A slice for each of the service's pods, since named target ports may differ between them."""
    for end in cluster.ends:
        pod = end.pod
        if pod is None or pod.namespace != service.namespace or not service.selector.items() <= pod.labels.items():
            continue
        for version in (4, 6):
            address = end.address(version)
            if address is not None:
                yield kube.EndpointSlice(
                    namespace=service.namespace,
                    name=f"{service.name}-{pod.name}-{version}",
                    service_name=service.name,
                    address_type=f"IPv{version}",
                    ports=tuple(_target(port, pod) for port in service.ports),
                    endpoints=(kube.Endpoint(address=str(address), node_name=end.node),),
                )


def _target(port: kube.ServicePort, pod: kube.Pod) -> kube.EndpointPort:
    number: int | None
    if isinstance(port.target_port, int):
        number = port.target_port
    else:
        named = (each for each in pod.ports if each.name == port.target_port and each.protocol == port.protocol)
        number = next((each.port for each in named), 0)  # 0: the pod does not serve this port
    return kube.EndpointPort(name=port.name, protocol=port.protocol, port=number)
