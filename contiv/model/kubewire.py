"""From the API server's JSON to the reduced objects of ``contiv.model.kube``: bytes in, frozen values out, no
I/O.

The structs here name only the fields that are read, so that msgspec skips the other nine tenths without
making objects of them (measured: 50 MB of pods in 0.12 s). Every optional field takes ``null`` as absent, as
Go does when it decodes. Defaults that Kubernetes documents are filled in here, once; what is wrong raises
``ObjectError`` with the object's name and field. A network policy is special: it must not cease to isolate
because one rule cannot be read, so such a rule is left out and named in ``faults``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import field

from contiv.errors import ContivError
from contiv.model import kube

RuleT = TypeVar("RuleT")


class ObjectError(ContivError):
    """An object of the API that cannot be read: ``plural``, ``namespace``, ``name``, ``field`` and
    ``problem``.
    """

    def __init__(self, plural: str, namespace: str, name: str, *, field: str, problem: str) -> None:
        where = f"{namespace}/{name}" if namespace else name or "(no name)"
        super().__init__(f"{plural} {where}: {field}: {problem}; left out until it is corrected")
        self.plural = plural
        self.namespace = namespace
        self.name = name
        self.field = field
        self.problem = problem


# ---- what is read of the API's JSON ------------------------------------------------------------------------


class _Wire(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What all of them share: camelCase, unknown fields skipped."""


class _Meta(_Wire, frozen=True):
    name: str
    namespace: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _Namespace(_Wire, frozen=True):
    metadata: _Meta


class _NodeSpec(_Wire, frozen=True):
    pod_cidr: str | None = field(name="podCIDR", default=None)
    pod_cidrs: tuple[str, ...] | None = field(name="podCIDRs", default=None)


class _NodeStatus(_Wire, frozen=True):
    addresses: tuple[kube.NodeAddress, ...] | None = None


class _Node(_Wire, frozen=True):
    metadata: _Meta
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


class _ContainerPort(_Wire, frozen=True):
    container_port: int
    name: str | None = None
    protocol: str | None = None
    host_port: int | None = None
    host_ip: str | None = field(name="hostIP", default=None)


class _Container(_Wire, frozen=True):
    name: str
    ports: tuple[_ContainerPort, ...] | None = None
    restart_policy: str | None = None


class _PodSpec(_Wire, frozen=True):
    containers: tuple[_Container, ...] | None = None
    init_containers: tuple[_Container, ...] | None = None
    node_name: str | None = None
    host_network: bool | None = None


class _PodIP(_Wire, frozen=True):
    ip: str | None = None


class _PodStatus(_Wire, frozen=True):
    phase: str | None = None
    host_ip: str | None = field(name="hostIP", default=None)
    pod_ip: str | None = field(name="podIP", default=None)
    pod_ips: tuple[_PodIP, ...] | None = field(name="podIPs", default=None)


class _Pod(_Wire, frozen=True):
    metadata: _Meta
    spec: _PodSpec
    status: _PodStatus | None = None


class _Requirement(_Wire, frozen=True):
    key: str
    operator: str
    values: tuple[str, ...] | None = None


class _Selector(_Wire, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: tuple[_Requirement, ...] | None = None


class _IPBlock(_Wire, frozen=True):
    cidr: str
    excepts: tuple[str, ...] | None = field(name="except", default=None)


class _Peer(_Wire, frozen=True):
    pod_selector: _Selector | None = None
    namespace_selector: _Selector | None = None
    ip_block: _IPBlock | None = None


class _PolicyPort(_Wire, frozen=True):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class _Rule(_Wire, frozen=True):
    """A rule of either direction; only one of the two peer lists is ever there."""

    from_: tuple[_Peer, ...] | None = field(name="from", default=None)
    to: tuple[_Peer, ...] | None = None
    ports: tuple[_PolicyPort, ...] | None = None


class _PolicySpec(_Wire, frozen=True):
    pod_selector: _Selector | None = None
    policy_types: tuple[str, ...] | None = None
    ingress: tuple[msgspec.Raw, ...] | None = None
    egress: tuple[msgspec.Raw, ...] | None = None


class _Policy(_Wire, frozen=True):
    metadata: _Meta
    spec: _PolicySpec


class _ServicePort(_Wire, frozen=True):
    port: int
    name: str | None = None
    protocol: str | None = None
    target_port: int | str | None = None
    node_port: int | None = None


class _ClientIP(_Wire, frozen=True):
    timeout_seconds: int | None = None


class _AffinityConfig(_Wire, frozen=True):
    client_ip: _ClientIP | None = field(name="clientIP", default=None)


class _ServiceSpec(_Wire, frozen=True):
    type: str | None = None
    selector: dict[str, str] | None = None
    ip_families: tuple[str, ...] | None = None
    cluster_ip: str | None = field(name="clusterIP", default=None)
    cluster_ips: tuple[str, ...] | None = field(name="clusterIPs", default=None)
    ports: tuple[_ServicePort, ...] | None = None
    external_ips: tuple[str, ...] | None = field(name="externalIPs", default=None)
    load_balancer_source_ranges: tuple[str, ...] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: _AffinityConfig | None = None
    health_check_node_port: int | None = None
    publish_not_ready_addresses: bool | None = None
    traffic_distribution: str | None = None


class _Ingress(_Wire, frozen=True):
    ip: str | None = None
    ip_mode: str | None = None


class _LoadBalancer(_Wire, frozen=True):
    ingress: tuple[_Ingress, ...] | None = None


class _ServiceStatus(_Wire, frozen=True):
    load_balancer: _LoadBalancer | None = None


class _Service(_Wire, frozen=True):
    metadata: _Meta
    spec: _ServiceSpec
    status: _ServiceStatus | None = None


class _SliceLabels(_Wire, frozen=True):
    service_name: str | None = field(name=kube.SERVICE_NAME_LABEL, default=None)


class _SliceAnnotations(_Wire, frozen=True):
    trigger_time: str | None = field(name=kube.TRIGGER_TIME_ANNOTATION, default=None)


class _SliceMeta(_Wire, frozen=True):
    name: str
    namespace: str | None = None
    uid: str | None = None
    labels: _SliceLabels | None = None
    annotations: _SliceAnnotations | None = None


class _EndpointPort(_Wire, frozen=True):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class _Conditions(_Wire, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Hint(_Wire, frozen=True):
    name: str


class _Hints(_Wire, frozen=True):
    for_zones: tuple[_Hint, ...] | None = None
    for_nodes: tuple[_Hint, ...] | None = None


class _TargetRef(_Wire, frozen=True):
    kind: str | None = None


class _Endpoint(_Wire, frozen=True):
    addresses: tuple[str, ...] | None = None
    conditions: _Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: _Hints | None = None
    target_ref: _TargetRef | None = None


class _Slice(_Wire, frozen=True):
    metadata: _SliceMeta
    address_type: str
    ports: tuple[_EndpointPort, ...] | None = None
    endpoints: tuple[_Endpoint, ...] | None = None


# ---- reductions --------------------------------------------------------------------------------------------


def _namespace(wire: _Namespace) -> kube.Namespace:
    meta = wire.metadata
    labels = dict(meta.labels or {})
    # The API server sets it on every namespace since 1.21; selectors by namespace name depend on it.
    labels.setdefault(kube.NAMESPACE_NAME_LABEL, meta.name)
    return kube.Namespace(name=meta.name, uid=meta.uid or "", labels=labels)


def _node(wire: _Node) -> kube.Node:
    meta, spec, status = wire.metadata, wire.spec, wire.status
    cidrs: tuple[str, ...] = ()
    if spec is not None:
        cidrs = spec.pod_cidrs or ((spec.pod_cidr,) if spec.pod_cidr else ())
    return kube.Node(
        name=meta.name,
        uid=meta.uid or "",
        labels=meta.labels or {},
        addresses=(status.addresses or ()) if status is not None else (),
        pod_cidrs=cidrs,
        deleting=meta.deletion_timestamp is not None,
    )


def _container_ports(spec: _PodSpec) -> tuple[kube.ContainerPort, ...]:
    """Ports of the containers and of native sidecars: init containers that restart always (KEP-753)."""
    containers = spec.containers or ()
    if spec.init_containers:
        containers += tuple(c for c in spec.init_containers if c.restart_policy == "Always")
    return tuple(
        kube.ContainerPort(
            container=container.name,
            name=port.name or "",
            port=port.container_port,
            protocol=port.protocol or "TCP",
            host_port=port.host_port or 0,
            host_ip=port.host_ip or "",
        )
        for container in containers
        for port in container.ports or ()
    )


def _pod_ips(status: _PodStatus) -> tuple[str, ...]:
    if status.pod_ips:
        return tuple(entry.ip for entry in status.pod_ips if entry.ip)
    return (status.pod_ip,) if status.pod_ip else ()


def _pod(wire: _Pod) -> kube.Pod:
    meta, spec, status = wire.metadata, wire.spec, wire.status or _PodStatus()
    return kube.Pod(
        namespace=meta.namespace or "",
        name=meta.name,
        uid=meta.uid or "",
        labels=meta.labels or {},
        node_name=spec.node_name or "",
        host_network=bool(spec.host_network),
        host_ip=status.host_ip or "",
        pod_ips=_pod_ips(status),
        phase=status.phase or "",
        deleting=meta.deletion_timestamp is not None,
        ports=_container_ports(spec),
    )


def _selector(wire: _Selector) -> kube.LabelSelector:
    return kube.LabelSelector(
        wire.match_labels or {},
        tuple(kube.LabelRequirement(r.key, r.operator, r.values or ()) for r in wire.match_expressions or ()),
    )


def _peers(wire: tuple[_Peer, ...] | None) -> tuple[kube.PolicyPeer, ...] | None:
    if wire is None:
        return None
    return tuple(
        kube.PolicyPeer(
            pod_selector=None if peer.pod_selector is None else _selector(peer.pod_selector),
            namespace_selector=None if peer.namespace_selector is None else _selector(peer.namespace_selector),
            ip_block=None if peer.ip_block is None else kube.IPBlock(peer.ip_block.cidr, peer.ip_block.excepts or ()),
        )
        for peer in wire
    )


def _policy_ports(wire: tuple[_PolicyPort, ...] | None) -> tuple[kube.PolicyPort, ...] | None:
    if wire is None:
        return None
    return tuple(kube.PolicyPort(port.protocol or "TCP", port.port, port.end_port) for port in wire)


def _ingress_rule(wire: _Rule) -> kube.IngressRule:
    return kube.IngressRule(_peers(wire.from_), _policy_ports(wire.ports))


def _egress_rule(wire: _Rule) -> kube.EgressRule:
    return kube.EgressRule(_peers(wire.to), _policy_ports(wire.ports))


def _rules(
    raw: tuple[msgspec.Raw, ...] | None, make: Callable[[_Rule], RuleT], *, path: str, faults: list[str]
) -> tuple[RuleT, ...] | None:
    """The rules that can be read; what cannot is named in ``faults`` and allows nothing."""
    if raw is None:
        return None
    rules: list[RuleT] = []
    for index, one in enumerate(raw):
        try:
            rules.append(make(_rule_decoder.decode(one)))
        except msgspec.ValidationError as error:
            where, problem = explain(error)
            faults.append(f"{path}[{index}]{'' if where == 'object' else f'.{where}'}: {problem}")
    return tuple(rules)


def _policy(wire: _Policy) -> kube.NetworkPolicy:
    meta, spec = wire.metadata, wire.spec
    faults: list[str] = []
    return kube.NetworkPolicy(
        namespace=meta.namespace or "",
        name=meta.name,
        uid=meta.uid or "",
        pod_selector=_selector(spec.pod_selector or _Selector()),
        policy_types=spec.policy_types,
        ingress=_rules(spec.ingress, _ingress_rule, path="spec.ingress", faults=faults),
        egress=_rules(spec.egress, _egress_rule, path="spec.egress", faults=faults),
        faults=tuple(faults),
    )


def _service_port(wire: _ServicePort) -> kube.ServicePort:
    return kube.ServicePort(
        name=wire.name or "",
        protocol=wire.protocol or "TCP",
        port=wire.port,
        target_port=wire.target_port or wire.port,  # absent, 0 and "" all mean: the same as port
        node_port=wire.node_port or 0,
    )


def _affinity_timeout(spec: _ServiceSpec) -> int:
    if spec.session_affinity != "ClientIP":
        return 0
    config = spec.session_affinity_config
    given = config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
    return given or kube.SESSION_AFFINITY_TIMEOUT_S


def _service(wire: _Service) -> kube.Service:
    meta, spec, status = wire.metadata, wire.spec, wire.status
    balancer = status.load_balancer if status is not None else None
    ingress = (balancer.ingress or ()) if balancer is not None else ()
    return kube.Service(
        namespace=meta.namespace or "",
        name=meta.name,
        uid=meta.uid or "",
        labels=meta.labels or {},
        type=spec.type or "ClusterIP",
        selector=spec.selector or {},
        ip_families=spec.ip_families or (),
        cluster_ips=spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ()),
        ports=tuple(_service_port(port) for port in spec.ports or ()),
        external_ips=spec.external_ips or (),
        load_balancer_ingress=tuple(
            kube.LoadBalancerIngress(entry.ip, entry.ip_mode or "VIP") for entry in ingress if entry.ip
        ),
        load_balancer_source_ranges=spec.load_balancer_source_ranges or (),
        internal_traffic_policy=spec.internal_traffic_policy or "Cluster",
        external_traffic_policy=spec.external_traffic_policy or "Cluster",
        session_affinity=spec.session_affinity or "None",
        session_affinity_timeout_s=_affinity_timeout(spec),
        health_check_node_port=spec.health_check_node_port or 0,
        publish_not_ready_addresses=bool(spec.publish_not_ready_addresses),
        traffic_distribution=spec.traffic_distribution or "",
    )


def _endpoint(wire: _Endpoint) -> kube.Endpoint:
    conditions, hints = wire.conditions or _Conditions(), wire.hints or _Hints()
    ready = conditions.ready is not False  # absent means ready (discovery/v1 EndpointConditions)
    return kube.Endpoint(
        address=wire.addresses[0] if wire.addresses else "",
        ready=ready,
        serving=ready if conditions.serving is None else conditions.serving,
        terminating=bool(conditions.terminating),
        node_name=wire.node_name or "",
        zone=wire.zone or "",
        zones=tuple(hint.name for hint in hints.for_zones or ()),
        nodes=tuple(hint.name for hint in hints.for_nodes or ()),
        is_pod=wire.target_ref is not None and wire.target_ref.kind == "Pod",
    )


def _slice(wire: _Slice) -> kube.EndpointSlice:
    meta = wire.metadata
    return kube.EndpointSlice(
        namespace=meta.namespace or "",
        name=meta.name,
        uid=meta.uid or "",
        service_name=(meta.labels.service_name or "") if meta.labels is not None else "",
        address_type=wire.address_type,
        ports=tuple(
            kube.EndpointPort(name=port.name or "", protocol=port.protocol or "TCP", port=port.port)
            for port in wire.ports or ()
        ),
        endpoints=tuple(_endpoint(endpoint) for endpoint in wire.endpoints or ()),
        trigger_time=(meta.annotations.trigger_time or "") if meta.annotations is not None else "",
    )


# ---- the way in --------------------------------------------------------------------------------------------

_rule_decoder: Final = msgspec.json.Decoder(_Rule)
_REDUCTIONS: Final[Mapping[str, tuple[msgspec.json.Decoder[Any], Callable[[Any], kube.KubeObject]]]] = {
    kube.NAMESPACES.plural: (msgspec.json.Decoder(_Namespace), _namespace),
    kube.NODES.plural: (msgspec.json.Decoder(_Node), _node),
    kube.PODS.plural: (msgspec.json.Decoder(_Pod), _pod),
    kube.NETWORK_POLICIES.plural: (msgspec.json.Decoder(_Policy), _policy),
    kube.SERVICES.plural: (msgspec.json.Decoder(_Service), _service),
    kube.ENDPOINT_SLICES.plural: (msgspec.json.Decoder(_Slice), _slice),
}


class _AnyMeta(_Wire, frozen=True):
    name: Any = None
    namespace: Any = None


class _AnyObject(_Wire, frozen=True):
    metadata: _AnyMeta | None = None


_any_decoder: Final = msgspec.json.Decoder(_AnyObject)


def identify(raw: bytes | msgspec.Raw) -> tuple[str, str]:
    """(namespace, name) of an object that may be broken otherwise; "" for what cannot be told."""
    try:
        meta = _any_decoder.decode(raw).metadata or _AnyMeta()
    except msgspec.DecodeError:
        return "", ""
    return cast("tuple[str, str]", tuple(v if isinstance(v, str) else "" for v in (meta.namespace, meta.name)))


def explain(error: msgspec.DecodeError) -> tuple[str, str]:
    """(path of the field, what is wrong with it) from msgspec's text, which ends with "at `$.path`"."""
    problem, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    return path or "object", problem[:1].lower() + problem[1:]


def reduce(kind: kube.AnyKind, raw: bytes | msgspec.Raw) -> kube.KubeObject:
    """The reduced object of ``kind`` in ``raw``, one object's JSON as the API serves it.

    Raises ObjectError when it is malformed, has no name, or lacks the namespace that its kind needs.
    """
    decoder, make = _REDUCTIONS[kind.plural]
    try:
        value = make(decoder.decode(raw))
    except msgspec.DecodeError as error:
        namespace, name = identify(raw)
        where, problem = explain(error)
        raise ObjectError(kind.plural, namespace, name, field=where, problem=problem) from error
    namespace = getattr(value, "namespace", "")
    for place, text, wanted in (("name", value.name, True), ("namespace", namespace, kind.namespaced)):
        # Both become parts of an etcd key; the API server never lets a slash through.
        if "/" in text or bool(text) < wanted:
            raise ObjectError(
                kind.plural,
                namespace,
                value.name,
                field=f"metadata.{place}",
                problem=f"{text!r} is no {place}",
            )
    return value
