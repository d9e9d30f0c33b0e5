"""The reduced objects: what the API's JSON becomes, what absent means, equal bytes for equal objects, bad
objects.
"""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.model import kube
from contiv.model.kubewire import ObjectError, identify, reduce


def wire(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def meta(name: str = "web", namespace: str | None = "default", **more: Any) -> dict[str, Any]:
    return {"name": name, "uid": "u-1", **({"namespace": namespace} if namespace else {}), **more}


# ---- pods --------------------------------------------------------------------------------------------------


def test_a_pod_keeps_what_the_network_needs():
    pod = reduce(
        kube.PODS,
        wire(
            metadata=meta(labels={"b": "2", "a": "1"}, deletionTimestamp="2026-01-01T00:00:00Z", managedFields=[{}]),
            spec={
                "nodeName": "n1",
                "hostNetwork": True,
                "containers": [
                    {
                        "name": "c",
                        "image": "i",
                        "ports": [{"name": "http", "containerPort": 80, "hostPort": 8080}],
                    },
                    {"name": "d", "ports": None},
                ],
                "initContainers": [
                    {"name": "setup", "ports": [{"name": "once", "containerPort": 1}]},
                    {
                        "name": "sidecar",
                        "restartPolicy": "Always",
                        "ports": [
                            {
                                "name": "m",
                                "containerPort": 15,
                                "protocol": "UDP",
                                "hostPort": 1500,
                                "hostIP": "10.0.0.1",
                            }
                        ],
                    },
                ],
            },
            status={
                "phase": "Running",
                "hostIP": "10.0.0.1",
                "podIP": "10.1.1.2",
                "podIPs": [{"ip": "10.1.1.2"}, {"ip": "fd00::2"}],
            },
        ),
    )
    assert pod == kube.Pod(
        namespace="default",
        name="web",
        uid="u-1",
        labels={"a": "1", "b": "2"},
        node_name="n1",
        host_network=True,
        host_ip="10.0.0.1",
        pod_ips=("10.1.1.2", "fd00::2"),
        phase="Running",
        deleting=True,
        ports=(
            kube.ContainerPort(container="c", name="http", port=80, protocol="TCP", host_port=8080),
            kube.ContainerPort(
                container="sidecar", name="m", port=15, protocol="UDP", host_port=1500, host_ip="10.0.0.1"
            ),
        ),
    )
    assert kube.PODS.encode(pod) == (
        b'{"namespace":"default","name":"web","uid":"u-1","labels":{"a":"1","b":"2"},"nodeName":"n1","hostNetwork":true,'
        b'"hostIP":"10.0.0.1","podIPs":["10.1.1.2","fd00::2"],"phase":"Running","deleting":true,"ports":['
        b'{"container":"c","name":"http","containerPort":80,"protocol":"TCP","hostPort":8080},'
        b'{"container":"sidecar","name":"m","containerPort":15,"protocol":"UDP","hostPort":1500,"hostIP":"10.0.0.1"}]}'
    )


def test_an_old_style_pod_ip_counts_where_the_list_is_absent():
    pod = reduce(kube.PODS, wire(metadata=meta(), spec={}, status={"podIP": "10.1.1.2"}))
    assert isinstance(pod, kube.Pod)
    assert pod.pod_ips == ("10.1.1.2",)


def test_null_is_absent_everywhere():
    pod = reduce(kube.PODS, wire(metadata=meta(labels=None), spec={"containers": None}, status=None))
    assert pod == kube.Pod(namespace="default", name="web", uid="u-1")


@pytest.mark.parametrize(
    ("phase", "finished"), [("Succeeded", True), ("Failed", True), ("Running", False), ("", False)]
)
def test_a_finished_pod_says_so(phase: str, finished: bool):
    assert kube.Pod(namespace="a", name="b", phase=phase).finished is finished


# ---- namespaces and nodes ----------------------------------------------------------------------------------


def test_a_namespace_always_has_its_name_as_label():
    bare = reduce(kube.NAMESPACES, wire(metadata=meta("prod", None)))
    assert bare == kube.Namespace(name="prod", uid="u-1", labels={"kubernetes.io/metadata.name": "prod"})


def test_a_node_keeps_addresses_zone_and_pod_cidrs():
    node = reduce(
        kube.NODES,
        wire(
            metadata=meta("n1", None, labels={"topology.kubernetes.io/zone": "z"}),
            spec={"podCIDR": "10.1.1.0/24"},
            status={
                "addresses": [
                    {"type": "Hostname", "address": "n1"},
                    {"type": "ExternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "10.0.0.1"},
                ],
                "conditions": [{"type": "Ready", "lastHeartbeatTime": "x"}],
            },
        ),
    )
    assert isinstance(node, kube.Node)
    assert (node.zone, node.pod_cidrs, node.ips) == ("z", ("10.1.1.0/24",), ("10.0.0.1", "192.0.2.1"))


# ---- network policies --------------------------------------------------------------------------------------


def policy(**spec: Any) -> kube.NetworkPolicy:
    value = reduce(kube.NETWORK_POLICIES, wire(metadata=meta("p"), spec=spec))
    assert isinstance(value, kube.NetworkPolicy)
    again = kube.NETWORK_POLICIES.decode(kube.NETWORK_POLICIES.encode(value))
    assert again == value, "absent and empty must survive etcd"
    return value


def test_absent_is_not_empty_in_policies():
    absent = policy(podSelector={})
    assert (absent.policy_types, absent.ingress, absent.egress) == (None, None, None)
    empty = policy(podSelector={}, policyTypes=[], ingress=[], egress=[])
    assert (empty.policy_types, empty.ingress, empty.egress) == ((), (), ())
    rules = policy(podSelector={}, ingress=[{}, {"from": [], "ports": []}]).ingress
    assert rules == (kube.IngressRule(None, None), kube.IngressRule((), ()))


def test_an_empty_selector_in_a_peer_is_not_an_absent_one():
    rules = policy(
        podSelector={"matchLabels": {"app": "db"}},
        ingress=[
            {
                "from": [
                    {"podSelector": {}},
                    {"namespaceSelector": {}},
                    {"podSelector": {}, "namespaceSelector": {}},
                ]
            }
        ],
    ).ingress
    everything = kube.LabelSelector()
    assert rules is not None
    assert rules[0].peers == (
        kube.PolicyPeer(pod_selector=everything),
        kube.PolicyPeer(namespace_selector=everything),
        kube.PolicyPeer(pod_selector=everything, namespace_selector=everything),
    )


def test_ports_keep_numbers_names_ranges_and_absence():
    rules = policy(
        podSelector={},
        egress=[
            {
                "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [
                    {"protocol": "SCTP"},
                    {"port": "http"},
                    {"port": 80, "protocol": "UDP", "endPort": 90},
                    {},
                ],
            }
        ],
    ).egress
    assert rules == (
        kube.EgressRule(
            (kube.PolicyPeer(ip_block=kube.IPBlock("10.0.0.0/8", ("10.1.0.0/16",))),),
            (
                kube.PolicyPort("SCTP"),
                kube.PolicyPort("TCP", "http"),
                kube.PolicyPort("UDP", 80, 90),
                kube.PolicyPort("TCP"),
            ),
        ),
    )


def test_expressions_keep_even_wrong_operators_for_the_policy_engine_to_judge():
    selector = policy(
        podSelector={
            "matchExpressions": [
                {"key": "a", "operator": "Near", "values": ["x"]},
                {"key": "b", "operator": "Exists"},
            ]
        }
    ).pod_selector
    assert selector.match_expressions == (
        kube.LabelRequirement("a", "Near", ("x",)),
        kube.LabelRequirement("b", "Exists"),
    )


def test_a_rule_that_cannot_be_read_allows_nothing_and_is_named():
    value = policy(podSelector={}, ingress=[{"ports": [{"port": 1.5}]}, {"from": []}, "all", None])
    assert value.ingress == (kube.IngressRule(peers=()),)
    assert [fault.partition(":")[0] for fault in value.faults] == [
        "spec.ingress[0].ports[0].port",
        "spec.ingress[2]",
        "spec.ingress[3]",
    ]


# ---- services and slices -----------------------------------------------------------------------------------


def test_a_service_carries_kubernetes_defaults():
    service = reduce(
        kube.SERVICES,
        wire(
            metadata=meta(),
            spec={"clusterIP": "10.96.0.9", "ports": [{"port": 80}, {"port": 1, "targetPort": "x"}]},
        ),
    )
    assert service == kube.Service(
        namespace="default",
        name="web",
        uid="u-1",
        type="ClusterIP",
        cluster_ips=("10.96.0.9",),
        ports=(
            kube.ServicePort(protocol="TCP", port=80, target_port=80),
            kube.ServicePort(protocol="TCP", port=1, target_port="x"),
        ),
        internal_traffic_policy="Cluster",
        external_traffic_policy="Cluster",
        session_affinity="None",
    )


def test_a_service_keeps_everything_that_is_said():
    service = reduce(
        kube.SERVICES,
        wire(
            metadata=meta(),
            spec={
                "type": "LoadBalancer",
                "clusterIPs": ["10.96.0.9", "fd00::9"],
                "ipFamilies": ["IPv4", "IPv6"],
                "ports": [{"name": "q", "port": 443, "protocol": "UDP", "nodePort": 30443, "targetPort": 8443}],
                "externalIPs": ["192.0.2.7"],
                "loadBalancerSourceRanges": ["198.51.100.0/24"],
                "internalTrafficPolicy": "Local",
                "externalTrafficPolicy": "Local",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "healthCheckNodePort": 32000,
                "publishNotReadyAddresses": True,
                "trafficDistribution": "PreferSameZone",
            },
            status={
                "loadBalancer": {
                    "ingress": [
                        {"ip": "203.0.113.5", "ipMode": "Proxy"},
                        {"ip": "203.0.113.6"},
                        {"hostname": "h"},
                    ]
                }
            },
        ),
    )
    assert isinstance(service, kube.Service)
    assert service.cluster_ips == ("10.96.0.9", "fd00::9")
    assert service.load_balancer_ingress == (
        kube.LoadBalancerIngress("203.0.113.5", "Proxy"),
        kube.LoadBalancerIngress("203.0.113.6", "VIP"),
    )
    assert service.session_affinity_timeout_s == 60
    assert (service.health_check_node_port, service.publish_not_ready_addresses) == (32000, True)
    assert service.traffic_distribution == "PreferSameZone"
    assert not service.headless
    assert kube.SERVICES.decode(kube.SERVICES.encode(service)) == service


def test_client_ip_affinity_lasts_three_hours_unless_said_otherwise():
    service = reduce(kube.SERVICES, wire(metadata=meta(), spec={"sessionAffinity": "ClientIP"}))
    assert isinstance(service, kube.Service)
    assert service.session_affinity_timeout_s == 10800


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"clusterIPs": ["None"]}, {"type": "ExternalName"}])
def test_a_service_without_cluster_address_is_headless(spec: dict[str, Any]):
    service = reduce(kube.SERVICES, wire(metadata=meta(), spec=spec))
    assert isinstance(service, kube.Service)
    assert service.headless


def endpoint(**fields: Any) -> kube.Endpoint:
    value = reduce(
        kube.ENDPOINT_SLICES,
        wire(metadata=meta(), addressType="IPv4", endpoints=[{"addresses": ["10.1.1.2"], **fields}]),
    )
    assert isinstance(value, kube.EndpointSlice)
    return value.endpoints[0]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, (True, True, False)),
        ({}, (True, True, False)),
        ({"ready": None}, (True, True, False)),
        ({"ready": False}, (False, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
        ({"ready": True, "serving": False}, (True, False, False)),
    ],
)
def test_endpoint_conditions_have_kubernetes_defaults(conditions: Any, expected: tuple[bool, ...]):
    value = endpoint(conditions=conditions)
    assert (value.ready, value.serving, value.terminating) == expected


def test_a_slice_keeps_service_ports_topology_and_trigger_time():
    value = reduce(
        kube.ENDPOINT_SLICES,
        wire(
            metadata=meta(
                "web-abc",
                labels={"kubernetes.io/service-name": "web", "app": "web"},
                annotations={"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
            ),
            addressType="IPv4",
            ports=[{"port": 8080}, {"name": "m", "port": 9, "protocol": "UDP"}, {"name": "all"}],
            endpoints=[
                {
                    "addresses": ["10.1.1.2"],
                    "nodeName": "n1",
                    "zone": "z",
                    "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n1"}]},
                    "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-1", "uid": "x"},
                }
            ],
        ),
    )
    assert value == kube.EndpointSlice(
        namespace="default",
        name="web-abc",
        uid="u-1",
        service_name="web",
        address_type="IPv4",
        ports=(
            kube.EndpointPort(protocol="TCP", port=8080),
            kube.EndpointPort(name="m", protocol="UDP", port=9),
            kube.EndpointPort(name="all", protocol="TCP"),
        ),
        endpoints=(
            kube.Endpoint(
                address="10.1.1.2",
                node_name="n1",
                zone="z",
                zones=("z",),
                nodes=("n1",),
                is_pod=True,
            ),
        ),
        trigger_time="2026-01-01T00:00:00Z",
    )


def test_a_slice_without_endpoints_as_go_writes_it():
    value = reduce(kube.ENDPOINT_SLICES, wire(metadata=meta(), addressType="IPv6", endpoints=None, ports=None))
    assert value == kube.EndpointSlice(namespace="default", name="web", uid="u-1", address_type="IPv6")


# ---- keys and bytes ----------------------------------------------------------------------------------------


def test_keys_lead_back_to_kind_namespace_and_name():
    assert kube.kind_of("/contiv/k8s/pods/default/web") is kube.PODS
    assert kube.name_of("/contiv/k8s/pods/default/web") == ("default", "web")
    assert kube.name_of("/contiv/k8s/nodes/n1") == ("", "n1")
    with pytest.raises(KeyError):
        kube.kind_of("/contiv/k8s/secrets/default/web")
    with pytest.raises(KeyError):
        kube.kind_of("/elsewhere/pods/default/web")


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
pods = st.builds(
    kube.Pod,
    namespace=names,
    name=names,
    uid=names,
    labels=st.dictionaries(names, names, max_size=4),
    node_name=names | st.just(""),
    host_network=st.booleans(),
    pod_ips=st.lists(names, max_size=2).map(tuple),
    phase=st.sampled_from(["", "Pending", "Running"]),
    ports=st.lists(
        st.builds(
            kube.ContainerPort,
            container=names,
            name=names | st.just(""),
            port=st.integers(1, 65535),
            protocol=names,
        ),
        max_size=2,
    ).map(tuple),
)


@given(pods, st.randoms())
def test_equal_objects_encode_to_equal_bytes_and_come_back(pod: kube.Pod, rng: random.Random):
    shuffled = list(pod.labels.items())
    rng.shuffle(shuffled)
    twin = msgspec.structs.replace(pod, labels=dict(shuffled))
    data = kube.PODS.encode(pod)
    assert kube.PODS.encode(twin) == data
    assert kube.parse(kube.PODS.key_of(pod), data) == pod
    assert kube.PODS.encode(kube.PODS.decode(data)) == data


# ---- bad objects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "raw", "place"),
    [
        (kube.PODS, wire(metadata=meta(labels=[]), spec={}), "metadata.labels"),
        (kube.PODS, wire(metadata=meta(labels={"a": 1}), spec={}), "metadata.labels[...]"),
        (kube.PODS, wire(metadata=meta(), spec={"hostNetwork": "yes"}), "spec.hostNetwork"),
        (kube.PODS, wire(metadata=meta()), "object"),
        (kube.PODS, wire(metadata=meta(namespace=None), spec={}), "metadata.namespace"),
        (kube.PODS, wire(metadata=meta(""), spec={}), "metadata.name"),
        (kube.PODS, wire(metadata=meta("a/b"), spec={}), "metadata.name"),
        (kube.PODS, wire(metadata=meta(namespace="a/b"), spec={}), "metadata.namespace"),
        (kube.SERVICES, wire(metadata=meta(), spec={"ports": [{"port": "80"}]}), "spec.ports[0].port"),
        (kube.NETWORK_POLICIES, wire(metadata=meta(), spec={"podSelector": 1}), "spec.podSelector"),
        (kube.ENDPOINT_SLICES, wire(metadata=meta(), addressType=None), "addressType"),
        (kube.PODS, b"[]", "object"),
        (kube.PODS, b"{", "object"),
    ],
)
def test_bad_objects_are_refused_with_their_field(kind: kube.AnyKind, raw: bytes, place: str):
    with pytest.raises(ObjectError) as caught:
        reduce(kind, raw)
    assert caught.value.field == place
    assert caught.value.plural == kind.plural
    assert place in str(caught.value)


def test_a_bad_object_is_still_identified():
    assert identify(wire(metadata=meta(labels=[]), spec=3)) == ("default", "web")
    assert identify(wire(metadata={"name": 3})) == ("", "")
    assert identify(b"\xff") == ("", "")
    with pytest.raises(ObjectError, match="pods default/web: spec: expected `object`, got `int`"):
        reduce(kube.PODS, wire(metadata=meta(), spec=3))


@given(
    st.binary(max_size=64)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.sampled_from(["metadata", "spec", "name", "namespace", "ports"]), c),
    ).map(lambda v: json.dumps(v).encode())
)
def test_garbage_only_ever_raises_object_error(raw: bytes):
    for kind in kube.KINDS:
        try:
            value = reduce(kind, raw)
        except ObjectError:
            continue
        assert kube.parse(kind.key(value.name, namespace=getattr(value, "namespace", "")), kind.encode(value)) == value
