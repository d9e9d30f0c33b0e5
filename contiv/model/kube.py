"""Kubernetes objects reduced to what a network plugin needs, as KSR stores them in etcd.

In: nothing; ``contiv.model.kubewire`` makes these values from the API server's JSON. Out: JSON with
Kubernetes' own field names, readable with etcdctl; equal objects encode to equal bytes (sorted labels, fixed
field order, absent fields left out). One frozen struct a kind, one row of ``KINDS`` a kind. The semantics of
selectors, policies and services are not here: ``contiv.policy`` and ``contiv.service`` own them.

Text stays text: addresses, protocols and operators are checked by whoever gives them a meaning, so that one
bad word spoils one rule and not the object. ``None`` means absent wherever Kubernetes tells absent from
empty. Field meanings: Kubernetes API reference, core/v1, networking.k8s.io/v1, discovery.k8s.io/v1.
"""

from __future__ import annotations

from typing import Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import field

from contiv.model import keys

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
NAMESPACE_NAME_LABEL: Final = "kubernetes.io/metadata.name"
TRIGGER_TIME_ANNOTATION: Final = "endpoints.kubernetes.io/last-change-trigger-time"
SESSION_AFFINITY_TIMEOUT_S: Final = 10_800  # core/v1 ClientIPConfig.timeoutSeconds, default of three hours
PHASES_FINISHED: Final = frozenset({"Succeeded", "Failed"})

Port: TypeAlias = int | str  # a number, or the name of a container port


class Model(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """What all stored objects share: frozen, outside of the cyclic collector, compact JSON in camelCase."""


# ---- namespaces and nodes ----------------------------------------------------------------------------------


class Namespace(Model, frozen=True, kw_only=True):
    """A namespace. ``labels`` always has ``kubernetes.io/metadata.name``."""

    name: str
    uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)


class NodeAddress(Model, frozen=True):
    """One address of a node. ``type``: InternalIP, ExternalIP, Hostname, InternalDNS, ExternalDNS."""

    type: str
    address: str


class Node(Model, frozen=True, kw_only=True):
    """A node. ``deleting``: it has a deletion timestamp. ``pod_cidrs``: what Kubernetes' own IPAM gave it."""

    name: str
    uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    addresses: tuple[NodeAddress, ...] = ()
    pod_cidrs: tuple[str, ...] = field(name="podCIDRs", default=())
    deleting: bool = False

    @property
    def zone(self) -> str:
        """The topology zone, or "" when the node has none."""
        return self.labels.get(ZONE_LABEL, "")

    @property
    def ips(self) -> tuple[str, ...]:
        """The node's own IP addresses, internal ones first, names left out."""
        return tuple(a.address for kind in ("InternalIP", "ExternalIP") for a in self.addresses if a.type == kind)


# ---- pods --------------------------------------------------------------------------------------------------


class ContainerPort(Model, frozen=True, kw_only=True):
    """A port that a container or native sidecar declares. ``name`` "" and ``host_port`` 0: it has none."""

    container: str
    name: str = ""
    port: int = field(name="containerPort")
    protocol: str
    host_port: int = 0
    host_ip: str = field(name="hostIP", default="")


class Pod(Model, frozen=True, kw_only=True):
    """A pod. ``pod_ips`` as its status has them, both families; ``deleting``: it has a deletion timestamp."""

    namespace: str
    name: str
    uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    node_name: str = ""
    host_network: bool = False
    host_ip: str = field(name="hostIP", default="")
    pod_ips: tuple[str, ...] = field(name="podIPs", default=())
    phase: str = ""
    deleting: bool = False
    ports: tuple[ContainerPort, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether it has run to its end: its addresses may belong to another pod already."""
        return self.phase in PHASES_FINISHED


# ---- network policies --------------------------------------------------------------------------------------


class LabelRequirement(Model, frozen=True):
    """One ``matchExpressions`` entry. ``operator`` as written: In, NotIn, Exists, DoesNotExist, or wrong."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(Model, frozen=True):
    """A selector; one without requirements matches everything. An absent selector is ``None``, never this."""

    match_labels: dict[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelRequirement, ...] = ()


class IPBlock(Model, frozen=True):
    """A CIDR without the CIDRs ``except`` (``excepts`` in Python)."""

    cidr: str
    excepts: tuple[str, ...] = field(name="except", default=())


class PolicyPeer(Model, frozen=True):
    """One entry of ``from`` or ``to``. Two selectors in one peer are ANDed; a block never combines with
    selectors.
    """

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlock | None = None


class PolicyPort(Model, frozen=True):
    """One entry of ``ports``. ``port`` None: every port of the protocol. ``end_port`` makes an inclusive
    range.
    """

    protocol: str
    port: Port | None = None
    end_port: int | None = None


class IngressRule(Model, frozen=True):
    """Who may come in where. ``peers`` (``from``) or ``ports`` absent or empty: any."""

    peers: tuple[PolicyPeer, ...] | None = field(name="from", default=None)
    ports: tuple[PolicyPort, ...] | None = None


class EgressRule(Model, frozen=True):
    """Who may be reached where. ``peers`` (``to``) or ``ports`` absent or empty: any."""

    peers: tuple[PolicyPeer, ...] | None = field(name="to", default=None)
    ports: tuple[PolicyPort, ...] | None = None


class NetworkPolicy(Model, frozen=True, kw_only=True):
    """networking.k8s.io/v1 NetworkPolicy, complete. ``policy_types`` None: absent.

    ``faults`` names the rules that could not be read and are left out, so that they allow nothing
    (``spec.ingress[2].ports[0].port: expected int or str``); what remains still isolates and allows as it
    says.
    """

    namespace: str
    name: str
    uid: str = ""
    pod_selector: LabelSelector
    policy_types: tuple[str, ...] | None = None
    ingress: tuple[IngressRule, ...] | None = None
    egress: tuple[EgressRule, ...] | None = None
    faults: tuple[str, ...] = ()


# ---- services and endpoint slices --------------------------------------------------------------------------


class ServicePort(Model, frozen=True, kw_only=True):
    """A port of a service. ``name`` "" when it is the only one; ``node_port`` 0: none."""

    name: str = ""
    protocol: str
    port: int
    target_port: Port
    node_port: int = 0


class LoadBalancerIngress(Model, frozen=True):
    """An address under which a load balancer serves. ``ip_mode``: VIP, or Proxy (then it is not ours to
    answer).
    """

    ip: str
    ip_mode: str


class Service(Model, frozen=True, kw_only=True):
    """A service. Policies, affinity and type carry Kubernetes' defaults where the object leaves them out.

    ``cluster_ips`` is ("None",) when headless and empty for ExternalName. ``session_affinity_timeout_s``
    counts only under ClientIP. ``selector`` is for analysis from manifests; the data plane follows endpoint
    slices.
    """

    namespace: str
    name: str
    uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    type: str
    selector: dict[str, str] = field(default_factory=dict)
    ip_families: tuple[str, ...] = ()
    cluster_ips: tuple[str, ...] = field(name="clusterIPs", default=())
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[str, ...] = field(name="externalIPs", default=())
    load_balancer_ingress: tuple[LoadBalancerIngress, ...] = ()
    load_balancer_source_ranges: tuple[str, ...] = ()
    internal_traffic_policy: str
    external_traffic_policy: str
    session_affinity: str
    session_affinity_timeout_s: int = field(name="sessionAffinityTimeoutSeconds", default=0)
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    traffic_distribution: str = ""

    @property
    def headless(self) -> bool:
        """Whether it has no cluster IP, so that there is nothing to translate."""
        return not self.cluster_ips or self.cluster_ips[0] in ("None", "")


class EndpointPort(Model, frozen=True, kw_only=True):
    """A port of a slice, joined to the service's by name. ``port`` None: every port."""

    name: str = ""
    protocol: str
    port: int | None = None


class Endpoint(Model, frozen=True, kw_only=True):
    """One endpoint. Conditions with Kubernetes' defaults: ready when absent, serving like ready, not
    terminating.

    ``address`` is the first of the object's: the others mean nothing (discovery/v1 Endpoint.addresses). ``zones``
    and ``nodes`` are the topology hints: zones and nodes whose traffic should come here. ``is_pod``: of the object
    behind it, which nobody asks for, that it is a pod.
    """

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    zone: str = ""
    zones: tuple[str, ...] = field(name="hintZones", default=())
    nodes: tuple[str, ...] = field(name="hintNodes", default=())
    is_pod: bool = False


class EndpointSlice(Model, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice. ``service_name`` is its label's; "" when it belongs to no service.

    ``trigger_time`` is when the change happened that the slice's last update answers (RFC 3339), "" when
    unknown: the start of the network programming latency.
    """

    namespace: str
    name: str
    uid: str = ""
    service_name: str = ""
    address_type: str
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    trigger_time: str = ""


KubeObject: TypeAlias = Namespace | Node | Pod | NetworkPolicy | Service | EndpointSlice


# ---- KSR's word that a kind is complete --------------------------------------------------------------------


class KsrStatus(Model, frozen=True, kw_only=True):
    """Stored at ``keys.ksr_status(plural)`` when etcd has equalled the API server at ``resource_version``.

    Agents take no state of a kind for complete before its status exists. ``instance`` says which KSR wrote
    it, ``synced_at`` when (RFC 3339, UTC), ``objects`` how many keys there were.
    """

    plural: str
    instance: str
    resource_version: str
    objects: int
    synced_at: str


# ---- the table of kinds ------------------------------------------------------------------------------------

ObjectT = TypeVar("ObjectT", bound=KubeObject)

_encoder: Final = msgspec.json.Encoder(order="deterministic")


class Kind(Generic[ObjectT]):
    """One reflected kind: where the API serves it, how etcd stores it.

    ``plural`` as in the API's path and the etcd key, ``kind`` as in manifests, ``api_path`` is ``/api/v1`` or
    ``/apis/<group>/<version>``, ``model`` the struct.
    """

    __slots__ = ("_decoder", "api_path", "kind", "model", "namespaced", "plural")

    def __init__(
        self, plural: str, model: type[ObjectT], *, api_path: str = "/api/v1", namespaced: bool = True
    ) -> None:
        self.plural = plural
        self.kind = model.__name__
        self.api_path = api_path
        self.namespaced = namespaced
        self.model = model
        self._decoder = msgspec.json.Decoder(model)

    def __repr__(self) -> str:
        return f"Kind({self.plural})"

    @property
    def collection_path(self) -> str:
        """Path of the list of all objects in all namespaces."""
        return f"{self.api_path}/{self.plural}"

    @property
    def prefix(self) -> str:
        """Prefix of the kind's keys in etcd."""
        return keys.k8s_kind(self.plural)

    def key(self, name: str, *, namespace: str = "") -> str:
        """Key of one object in etcd."""
        return keys.k8s_object(self.plural, name, namespace=namespace)

    def key_of(self, value: ObjectT) -> str:
        """Key of ``value`` in etcd."""
        return self.key(value.name, namespace=getattr(value, "namespace", ""))

    def encode(self, value: ObjectT) -> bytes:
        """``value`` as stored: equal values give equal bytes."""
        return _encoder.encode(value)

    def decode(self, data: bytes) -> ObjectT:
        """The stored object. msgspec.ValidationError names the field that does not fit."""
        return self._decoder.decode(data)


NAMESPACES: Final = Kind("namespaces", Namespace, namespaced=False)
NODES: Final = Kind("nodes", Node, namespaced=False)
PODS: Final = Kind("pods", Pod)
NETWORK_POLICIES: Final = Kind("networkpolicies", NetworkPolicy, api_path="/apis/networking.k8s.io/v1")
SERVICES: Final = Kind("services", Service)
ENDPOINT_SLICES: Final = Kind("endpointslices", EndpointSlice, api_path="/apis/discovery.k8s.io/v1")

AnyKind: TypeAlias = (
    Kind[Namespace] | Kind[Node] | Kind[Pod] | Kind[NetworkPolicy] | Kind[Service] | Kind[EndpointSlice]
)
KINDS: Final[tuple[AnyKind, ...]] = (NAMESPACES, NODES, PODS, NETWORK_POLICIES, SERVICES, ENDPOINT_SLICES)
_PLURAL_AT: Final = len(keys.K8S)
_BY_PLURAL: Final[dict[str, AnyKind]] = {kind.plural: kind for kind in KINDS}


def kind_of(key: str) -> AnyKind:
    """The kind that a key under ``keys.K8S`` belongs to; KeyError for a key of no kind."""
    if not key.startswith(keys.K8S):
        raise KeyError(key)
    end = key.find("/", _PLURAL_AT)
    return _BY_PLURAL[key[_PLURAL_AT:end] if end >= 0 else key[_PLURAL_AT:]]


def name_of(key: str) -> tuple[str, str]:
    """(namespace, name) that a key under ``keys.K8S`` names; the namespace is "" for cluster-scoped kinds."""
    kind = kind_of(key)
    namespace, _, name = key[len(kind.prefix) :].rpartition("/")
    return namespace, name


def parse(key: str, value: bytes) -> KubeObject:
    """The object stored at ``key``. KeyError for a foreign key, msgspec.ValidationError for a value that does
    not fit.
    """
    return kind_of(key).decode(value)
