"""The cells of kubectl's tables for each kind: what ``kubectl get`` prints in a row.

Comes in: an object's content and the time. Goes out: one value per column of ``COLUMNS``. Pure. The words are those of
Kubernetes' printers (``pkg/printers/internalversion``), because people and scripts read them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from contiv.emulator.kube.errors import Json

NONE = "<none>"

WIDE = 1
"""Priority of columns that only ``-o wide`` shows."""

Columns = tuple[tuple[str, str, int], ...]
"""(name, type, priority) per column."""

_NAME_AGE: Columns = (("Name", "string", 0), ("Age", "string", 0))
_AGE = ("Age", "string", 0)

COLUMNS: dict[str, Columns] = {
    "Pod": (
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Status", "string", 0),
        ("Restarts", "string", 0),
        _AGE,
        ("IP", "string", WIDE),
        ("Node", "string", WIDE),
        ("Nominated Node", "string", WIDE),
        ("Readiness Gates", "string", WIDE),
    ),
    "Node": (
        ("Name", "string", 0),
        ("Status", "string", 0),
        ("Roles", "string", 0),
        _AGE,
        ("Version", "string", 0),
        ("Internal-IP", "string", WIDE),
        ("External-IP", "string", WIDE),
        ("OS-Image", "string", WIDE),
        ("Kernel-Version", "string", WIDE),
        ("Container-Runtime", "string", WIDE),
    ),
    "Service": (
        ("Name", "string", 0),
        ("Type", "string", 0),
        ("Cluster-IP", "string", 0),
        ("External-IP", "string", 0),
        ("Port(s)", "string", 0),
        _AGE,
        ("Selector", "string", WIDE),
    ),
    "Namespace": (("Name", "string", 0), ("Status", "string", 0), _AGE),
    "Endpoints": (("Name", "string", 0), ("Endpoints", "string", 0), _AGE),
    "EndpointSlice": (
        ("Name", "string", 0),
        ("AddressType", "string", 0),
        ("Ports", "string", 0),
        ("Endpoints", "string", 0),
        _AGE,
    ),
    "NetworkPolicy": (("Name", "string", 0), ("Pod-Selector", "string", 0), _AGE),
    "ConfigMap": (("Name", "string", 0), ("Data", "string", 0), _AGE),
    "Secret": (("Name", "string", 0), ("Type", "string", 0), ("Data", "string", 0), _AGE),
    "ServiceAccount": (("Name", "string", 0), ("Secrets", "string", 0), _AGE),
    "Event": (
        ("Last Seen", "string", 0),
        ("Type", "string", 0),
        ("Reason", "string", 0),
        ("Object", "string", 0),
        ("Message", "string", 0),
    ),
    "Lease": (("Name", "string", 0), ("Holder", "string", 0), _AGE),
    "CustomResourceDefinition": (("Name", "string", 0), ("Created At", "date", 0)),
}


def columns(kind: str) -> Columns:
    return COLUMNS.get(kind, _NAME_AGE)


def cells(kind: str, content: Json, *, now: datetime) -> list[Any]:
    """One value per column of the kind."""
    make = _CELLS.get(kind)
    if make is None:
        return [_name(content), age(content, now)]
    return make(content, now)


def age(content: Json, now: datetime) -> str:
    return since(content["metadata"].get("creationTimestamp"), now)


def since(timestamp: str | None, now: datetime) -> str:
    """The time since a timestamp, as apimachinery's HumanDuration rounds it."""
    if not timestamp:
        return "<unknown>"
    then = datetime.fromisoformat(timestamp)
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = int((now - then).total_seconds())
    if seconds < -1:
        return "<invalid>"
    return _duration(max(seconds, 0))


def _duration(seconds: int) -> str:
    """Two units while the larger one is small, one after that."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    for limit_s, text in (
        (120, f"{seconds}s"),
        (600, _pair(minutes, "m", seconds % 60, "s")),
        (180 * 60, f"{minutes}m"),
        (8 * 3600, _pair(hours, "h", minutes % 60, "m")),
        (48 * 3600, f"{hours}h"),
        (8 * 86400, _pair(days, "d", hours % 24, "h")),
        (730 * 86400, f"{days}d"),
        (8 * 365 * 86400, _pair(days // 365, "y", days % 365, "d")),
    ):
        if seconds < limit_s:
            return text
    return f"{days // 365}y"


def _pair(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}" + (f"{small}{small_unit}" if small else "")


def _name(content: Json) -> str:
    return str(content["metadata"]["name"])


def _pod(content: Json, now: datetime) -> list[Any]:
    spec, status = content["spec"], content["status"]
    states = status.get("containerStatuses") or []
    ready = sum(1 for each in states if each.get("ready"))
    restarts = sum(each.get("restartCount", 0) for each in states)
    ips = status.get("podIPs") or []
    gates = spec.get("readinessGates") or []
    return [
        _name(content),
        f"{ready}/{len(spec.get('containers') or ())}",
        _pod_status(content),
        str(restarts),
        age(content, now),
        ips[0]["ip"] if ips else NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"0/{len(gates)}" if gates else NONE,
    ]


def _pod_status(content: Json) -> str:
    """One word: the phase, or why a container does not run, or that the pod goes away."""
    status = content["status"]
    word = str(status.get("reason") or status.get("phase") or "Unknown")
    for each in reversed(status.get("containerStatuses") or ()):
        state = each.get("state") or {}
        waiting, terminated = state.get("waiting") or {}, state.get("terminated") or {}
        if waiting.get("reason"):
            word = waiting["reason"]
        elif terminated:
            word = terminated.get("reason") or f"ExitCode:{terminated.get('exitCode', 0)}"
    if "deletionTimestamp" in content["metadata"]:
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return word


def _node(content: Json, now: datetime) -> list[Any]:
    status, labels = content["status"], content["metadata"].get("labels") or {}
    info = status.get("nodeInfo") or {}
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or ()}
    state = {"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready", ""), "Unknown")
    if "Ready" in conditions and state == "Unknown":
        state = "NotReady"
    if content["spec"].get("unschedulable"):
        state += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    roles = sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix)
    addresses = {each.get("type"): each.get("address") for each in reversed(status.get("addresses") or ())}
    return [
        _name(content),
        state,
        ",".join(roles) or NONE,
        age(content, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _service(content: Json, now: datetime) -> list[Any]:
    spec = content["spec"]
    external = list(spec.get("externalIPs") or ())
    balancer = (content.get("status") or {}).get("loadBalancer") or {}
    if spec["type"] == "LoadBalancer":
        ingress = [each.get("ip") or each.get("hostname") for each in balancer.get("ingress") or ()]
        external = [*ingress, *external] or ["<pending>"]
    if spec["type"] == "ExternalName":
        external = [spec.get("externalName", "")]
    ports = [
        f"{port['port']}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port['protocol']}"
        for port in spec.get("ports") or ()
    ]
    return [
        _name(content),
        spec["type"],
        spec.get("clusterIP") or NONE,
        ",".join(external) or NONE,
        ",".join(ports) or NONE,
        age(content, now),
        _labels(spec.get("selector")),
    ]


def _labels(labels: Json | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def _namespace(content: Json, now: datetime) -> list[Any]:
    return [_name(content), content["status"]["phase"], age(content, now)]


def _shortened(texts: list[str]) -> str:
    """At most three, then how many more."""
    more = f" + {len(texts) - 3} more..." if len(texts) > 3 else ""
    return (",".join(texts[:3]) + more) or NONE


def _endpoints(content: Json, now: datetime) -> list[Any]:
    texts = [
        f"{address['ip']}:{port['port']}"
        for subset in content.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ]
    return [_name(content), _shortened(texts), age(content, now)]


def _endpoint_slice(content: Json, now: datetime) -> list[Any]:
    ports = [str(port.get("port", "*")) for port in content.get("ports") or ()]
    addresses = [ip for each in content.get("endpoints") or () for ip in each.get("addresses") or ()]
    unset = "<unset>"
    return [
        _name(content),
        content.get("addressType", ""),
        _shortened(ports) if ports else unset,
        _shortened(addresses) if addresses else unset,
        age(content, now),
    ]


def _network_policy(content: Json, now: datetime) -> list[Any]:
    selector = content["spec"].get("podSelector") or {}
    texts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for each in selector.get("matchExpressions") or ():
        values = ",".join(each.get("values") or ())
        operator = each.get("operator")
        if operator in ("Exists", "DoesNotExist"):
            texts.append(("" if operator == "Exists" else "!") + each["key"])
        else:
            texts.append(f"{each['key']} {str(operator).lower()} ({values})")
    return [_name(content), ",".join(texts) or NONE, age(content, now)]


def _config_map(content: Json, now: datetime) -> list[Any]:
    count = len(content.get("data") or ()) + len(content.get("binaryData") or ())
    return [_name(content), str(count), age(content, now)]


def _secret(content: Json, now: datetime) -> list[Any]:
    return [_name(content), content.get("type", ""), str(len(content.get("data") or ())), age(content, now)]


def _service_account(content: Json, now: datetime) -> list[Any]:
    return [_name(content), str(len(content.get("secrets") or ())), age(content, now)]


def _event(content: Json, now: datetime) -> list[Any]:
    about = content.get("involvedObject") or content.get("regarding") or {}
    seen = content.get("lastTimestamp") or content.get("eventTime") or content["metadata"]["creationTimestamp"]
    target = f"{about.get('kind', '').lower()}/{about.get('name', '')}"
    return [since(seen, now), content.get("type", ""), content.get("reason", ""), target, content.get("message", "")]


def _lease(content: Json, now: datetime) -> list[Any]:
    return [_name(content), (content.get("spec") or {}).get("holderIdentity") or "", age(content, now)]


def _definition(content: Json, now: datetime) -> list[Any]:
    return [_name(content), content["metadata"]["creationTimestamp"]]


_CELLS: dict[str, Callable[[Json, datetime], list[Any]]] = {
    "Pod": _pod,
    "Node": _node,
    "Service": _service,
    "Namespace": _namespace,
    "Endpoints": _endpoints,
    "EndpointSlice": _endpoint_slice,
    "NetworkPolicy": _network_policy,
    "ConfigMap": _config_map,
    "Secret": _secret,
    "ServiceAccount": _service_account,
    "Event": _event,
    "Lease": _lease,
    "CustomResourceDefinition": _definition,
}
