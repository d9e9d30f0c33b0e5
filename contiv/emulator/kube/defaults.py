"""What the API server fills in: defaults of the fields that matter to a network plugin and to kubectl's output.

Comes in: content as a client wrote it (changed in place: callers pass their own copy). Goes out: content as Kubernetes
would store it (``pkg/apis/core/v1/defaults.go`` and its neighbours). Refuses nothing; ``validation`` does.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

from contiv.emulator.kube.errors import Json
from contiv.emulator.kube.kinds import Kind

NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def apply_defaults(kind: Kind, content: Json) -> None:
    """Fill in the defaults of a kind; kinds that need none pass."""
    fill = _DEFAULTS.get(kind.kind)
    if fill is not None and not kind.custom:
        fill(content)


def section(content: Json, name: str) -> Json:
    """The object under a field, made when absent or null."""
    value = content.get(name)
    if not isinstance(value, dict):
        value = content[name] = {}
    return value


def _namespace(content: Json) -> None:
    metadata = content["metadata"]
    if metadata.get("name"):
        section(metadata, "labels")[NAMESPACE_LABEL] = metadata["name"]
    section(content, "spec")
    section(content, "status").setdefault("phase", "Active")


def _pod(content: Json) -> None:
    spec = section(content, "spec")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("enableServiceLinks", True)
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or ():
            _container(container, host_network=bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or ():
        for source in ("configMap", "secret", "downwardAPI", "projected"):
            if volume.get(source):
                volume[source].setdefault("defaultMode", 0o644)
    status = section(content, "status")
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _qos_class(spec))
    _mirror(status, "podIP", plural="podIPs", wrap="ip")
    _mirror(status, "hostIP", plural="hostIPs", wrap="ip")


def _container(container: Json, *, host_network: bool) -> None:
    image = container.get("image") or ""
    latest = ":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")
    if "@" in image:
        latest = False
    resources = section(container, "resources")
    if resources.get("limits"):
        resources["requests"] = resources["limits"] | (resources.get("requests") or {})
    for each in container.get("env") or ():
        reference = (each.get("valueFrom") or {}).get("fieldRef")
        if reference:
            reference.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name):
            _probe(container[name])
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network and port.get("containerPort"):
            port.setdefault("hostPort", port["containerPort"])


def _probe(probe: Json) -> None:
    probe.setdefault("timeoutSeconds", 1)
    probe.setdefault("periodSeconds", 10)
    probe.setdefault("successThreshold", 1)
    probe.setdefault("failureThreshold", 3)
    if probe.get("httpGet"):
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")


def _qos_class(spec: Json) -> str:
    """BestEffort without any request or limit, Guaranteed when all limits stand and equal the requests."""
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    pairs = [(each.get("resources") or {}) for each in containers if isinstance(each, dict)]
    if not any(pair.get("requests") or pair.get("limits") for pair in pairs):
        return "BestEffort"
    for pair in pairs:
        limits = pair.get("limits") or {}
        if not {"cpu", "memory"} <= limits.keys() or (pair.get("requests") or limits) != limits:
            return "Burstable"
    return "Guaranteed"


def _mirror(holder: Json, single: str, *, plural: str, wrap: str = "") -> None:
    """Keep an old single field and its plural successor in step, the plural leading."""
    many = holder.get(plural)
    if many:
        holder[single] = many[0][wrap] if wrap else many[0]
    elif holder.get(single):
        holder[plural] = [{wrap: holder[single]}] if wrap else [holder[single]]
    else:
        holder.pop(single, None)


def _node(content: Json) -> None:
    spec = section(content, "spec")
    _mirror(spec, "podCIDR", plural="podCIDRs")
    status = section(content, "status")
    status.setdefault("daemonEndpoints", {"kubeletEndpoint": {"Port": 0}})
    status.setdefault("nodeInfo", dict.fromkeys(_NODE_INFO, ""))


_NODE_INFO = (
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
)
"""Fields of a node's description that are always there."""


def _service(content: Json) -> None:
    spec = section(content, "spec")
    kind = spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client_ip = section(section(spec, "sessionAffinityConfig"), "clientIP")
        client_ip.setdefault("timeoutSeconds", 10800)
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    if kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs")):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    section(section(content, "status"), "loadBalancer")


def _endpoints(content: Json) -> None:
    for subset in content.get("subsets") or ():
        for port in subset.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _endpoint_slice(content: Json) -> None:
    if content.get("endpoints") is None:
        content["endpoints"] = []
    if content.get("ports") is None:
        content["ports"] = []
    for endpoint in content["endpoints"]:
        endpoint.setdefault("conditions", {})
    for port in content["ports"]:
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _network_policy(content: Json) -> None:
    spec = section(content, "spec")
    if spec.get("podSelector") is None:
        spec["podSelector"] = {}
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
        for port in rule.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _secret(content: Json) -> None:
    content.setdefault("type", "Opaque")
    plain = content.pop("stringData", None)
    if plain:
        section(content, "data").update({key: b64encode(str(value).encode()).decode() for key, value in plain.items()})


_DEFAULTS: dict[str, Callable[[Json], None]] = {
    "Namespace": _namespace,
    "Pod": _pod,
    "Node": _node,
    "Service": _service,
    "Endpoints": _endpoints,
    "EndpointSlice": _endpoint_slice,
    "NetworkPolicy": _network_policy,
    "Secret": _secret,
}


def admit_pod(content: Json) -> None:
    """What the admission plugins that are on by default add to a new pod: priority and short-lived tolerations.

    Plugins Priority and DefaultTolerationSeconds.
    """
    spec = content["spec"]
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.get("tolerations") or []
    for taint in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(_tolerates(each, taint) for each in tolerations):
            tolerations.append({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    spec["tolerations"] = tolerations


def _tolerates(toleration: Json, taint: str) -> bool:
    return toleration.get("key") in (taint, None, "") and toleration.get("effect") in ("NoExecute", None, "")
