"""What the API server refuses with 422: names, ports, CIDRs, selectors and the required fields of the main kinds.

Comes in: defaulted content. Goes out: ``Cause`` per broken field, worded as ``pkg/apis/*/validation`` words it.
Covers what a network plugin would otherwise have to defend against; the rest is taken as it comes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

from contiv.emulator.kube.errors import Cause, Json, duplicate, not_allowed, required, unsupported, wrong
from contiv.emulator.kube.kinds import Kind

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?")

LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_RANGE_TEXT = "must be between 1 and 65535, inclusive"


def validate(kind: Kind, content: Json) -> list[Cause]:
    """All faults of an object, empty when it may be stored."""
    causes = list(_metadata(kind, content["metadata"]))
    check = _CHECKS.get(kind.kind)
    if check is not None and not kind.custom:
        causes += check(content)
    return causes


def _metadata(kind: Kind, metadata: Json) -> Iterator[Cause]:
    name = metadata.get("name")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    else:
        yield from _object_name(kind, str(name))
    yield from _labels(metadata.get("labels") or {}, "metadata.labels")
    for key in metadata.get("annotations") or {}:
        yield from _qualified_name(key.lower(), "metadata.annotations")
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        if "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
            why = "name is neither a standard finalizer name nor is it fully qualified"
            yield wrong(f"metadata.finalizers[{index}]", finalizer, why)


def _object_name(kind: Kind, name: str) -> Iterator[Cause]:
    field = "metadata.name"
    if kind.kind == "Namespace":
        pattern, text, limit = _LABEL, LABEL_TEXT, 63
    elif kind.kind == "Service":
        pattern, text, limit = _LABEL_1035, LABEL_1035_TEXT, 63
    else:
        pattern, text, limit = _SUBDOMAIN, SUBDOMAIN_TEXT, 253
    if len(name) > limit:
        yield wrong(field, name, f"must be no more than {limit} characters")
    if not pattern.fullmatch(name):
        yield wrong(field, name, text)


def _qualified_name(key: str, field: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not prefix:
        yield wrong(field, key, "prefix part must be non-empty")
    elif prefix and not _SUBDOMAIN.fullmatch(prefix):
        yield wrong(field, key, f"prefix part {SUBDOMAIN_TEXT}")
    if not name:
        yield wrong(field, key, "name part must be non-empty")
    elif len(name) > 63:
        yield wrong(field, key, "name part must be no more than 63 characters")
    if not _QUALIFIED.fullmatch(name):
        yield wrong(field, key, QUALIFIED_TEXT)


def _labels(labels: Json, field: str) -> Iterator[Cause]:
    for key, value in labels.items():
        yield from _qualified_name(key, field)
        yield from _label_value(value, field)


def _label_value(value: Any, field: str) -> Iterator[Cause]:
    text = str(value)
    if len(text) > 63:
        yield wrong(field, value, "must be no more than 63 characters")
    if text and not _QUALIFIED.fullmatch(text):
        yield wrong(field, value, VALUE_TEXT)


_SELECTOR_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def _selector(selector: Json, field: str) -> Iterator[Cause]:
    yield from _labels(selector.get("matchLabels") or {}, f"{field}.matchLabels")
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        here = f"{field}.matchExpressions[{index}]"
        operator, values = expression.get("operator", ""), expression.get("values") or []
        if operator not in _SELECTOR_OPERATORS:
            yield wrong(f"{here}.operator", operator, "not a valid selector operator")
        elif operator in ("In", "NotIn") and not values:
            yield required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            yield not_allowed(f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        yield from _qualified_name(expression.get("key") or "", f"{here}.key")
        for place, value in enumerate(values):
            yield from _label_value(value, f"{here}.values[{place}]")


def _pod(content: Json) -> Iterator[Cause]:
    spec = content["spec"]
    containers = spec.get("containers") or []
    if not containers:
        yield required("spec.containers")
    names: set[str] = set()
    for group in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(group) or ()):
            yield from _container(container, f"spec.{group}[{index}]", names)
    if spec.get("restartPolicy") not in ("Always", "OnFailure", "Never"):
        yield unsupported("spec.restartPolicy", spec.get("restartPolicy"), ("Always", "OnFailure", "Never"))
    if spec.get("nodeName") and not _SUBDOMAIN.fullmatch(spec["nodeName"]):
        yield wrong("spec.nodeName", spec["nodeName"], SUBDOMAIN_TEXT)
    for index, each in enumerate(content["status"].get("podIPs") or ()):
        yield from _ip(each.get("ip"), f"status.podIPs[{index}].ip")


def _container(container: Json, field: str, names: set[str]) -> Iterator[Cause]:
    name = container.get("name") or ""
    if not name:
        yield required(f"{field}.name")
    elif len(name) > 63 or not _LABEL.fullmatch(name):
        yield wrong(f"{field}.name", name, LABEL_TEXT)
    elif name in names:
        yield duplicate(f"{field}.name", name)
    names.add(name)
    if not container.get("image"):
        yield required(f"{field}.image")
    for index, port in enumerate(container.get("ports") or ()):
        here = f"{field}.ports[{index}]"
        if port.get("name"):
            yield from _port_name(port["name"], f"{here}.name")
        if not port.get("containerPort"):
            yield required(f"{here}.containerPort")
        else:
            yield from _port_number(port["containerPort"], f"{here}.containerPort")
        if port.get("hostPort"):
            yield from _port_number(port["hostPort"], f"{here}.hostPort")
        yield from _protocol(port, here)


def _port_name(name: str, field: str) -> Iterator[Cause]:
    if len(name) > 15:
        yield wrong(field, name, "must be no more than 15 characters")
    if not _PORT_NAME.fullmatch(name):
        yield wrong(field, name, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")


def _port_number(port: Any, field: str) -> Iterator[Cause]:
    if not isinstance(port, int) or not 1 <= port <= 65535:
        yield wrong(field, port, _RANGE_TEXT)


def _protocol(port: Json, field: str) -> Iterator[Cause]:
    if port.get("protocol") not in _PROTOCOLS:
        yield unsupported(f"{field}.protocol", port.get("protocol"), _PROTOCOLS)


def _ip(text: Any, field: str) -> Iterator[Cause]:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        yield wrong(field, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def _network(text: Any, field: str) -> Iterator[Cause]:
    if _parse_network(text) is None:
        yield wrong(field, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")


def _parse_network(text: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(str(text), strict=False) if "/" in str(text) else None
    except ValueError:
        return None


def _node(content: Json) -> Iterator[Cause]:
    for index, cidr in enumerate(content["spec"].get("podCIDRs") or ()):
        yield from _network(cidr, f"spec.podCIDRs[{index}]")
    addresses = [(each.get("type"), each.get("address")) for each in content["status"].get("addresses") or ()]
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            yield duplicate(f"status.addresses[{index}]", {"type": address[0], "address": address[1]})


_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")


def _service(content: Json) -> Iterator[Cause]:
    spec = content["spec"]
    kind, ports = spec["type"], spec.get("ports") or []
    if kind not in _SERVICE_TYPES:
        yield unsupported("spec.type", kind, _SERVICE_TYPES)
    if kind == "ExternalName" and not spec.get("externalName"):
        yield required("spec.externalName")
    headless = spec.get("clusterIP") == "None"
    if not ports and kind != "ExternalName" and not headless:
        yield required("spec.ports")
    if headless and kind in ("NodePort", "LoadBalancer"):
        why = f"may not be set to 'None' for {kind} services"
        yield wrong("spec.clusterIPs[0]", "None", why)
    yield from _service_ports(ports)
    yield from _labels(spec.get("selector") or {}, "spec.selector")
    if spec["sessionAffinity"] not in ("ClientIP", "None"):
        yield unsupported("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    for field in ("externalTrafficPolicy", "internalTrafficPolicy"):
        if field in spec and spec[field] not in ("Cluster", "Local"):
            yield unsupported(f"spec.{field}", spec[field], ("Cluster", "Local"))
    external = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs"))
    if spec.get("externalTrafficPolicy") and not external and kind == "ClusterIP":
        why = "may only be set for externally-accessible services"
        yield wrong("spec.externalTrafficPolicy", spec["externalTrafficPolicy"], why)
    if content["status"]["loadBalancer"].get("ingress") and kind != "LoadBalancer":
        yield not_allowed("status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'")
    for index, ip in enumerate(spec.get("externalIPs") or ()):
        yield from _ip(ip, f"spec.externalIPs[{index}]")
    for index, cidr in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        yield from _network(cidr, f"spec.loadBalancerSourceRanges[{index}]")


def _service_ports(ports: list[Json]) -> Iterator[Cause]:
    names: set[str] = set()
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        here = f"spec.ports[{index}]"
        name = port.get("name") or ""
        if not name and len(ports) > 1:
            yield required(f"{here}.name")
        elif name and not _LABEL.fullmatch(name):
            yield wrong(f"{here}.name", name, LABEL_TEXT)
        elif name in names:
            yield duplicate(f"{here}.name", name)
        names.add(name)
        yield from _port_number(port.get("port", 0), f"{here}.port")
        yield from _protocol(port, here)
        target = port.get("targetPort")
        if isinstance(target, str):
            yield from _port_name(target, f"{here}.targetPort")
        elif target is not None:
            yield from _port_number(target, f"{here}.targetPort")
        key = (port.get("protocol"), port.get("port"))
        if key in seen:
            yield duplicate(here, {"port": port.get("port"), "protocol": port.get("protocol")})
        seen.add(key)


def _endpoint_slice(content: Json) -> Iterator[Cause]:
    family = content.get("addressType")
    if not family:
        yield required("addressType")
        return
    if family not in ("FQDN", "IPv4", "IPv6"):
        yield unsupported("addressType", family, ("FQDN", "IPv4", "IPv6"))
    for index, endpoint in enumerate(content["endpoints"]):
        here = f"endpoints[{index}].addresses"
        addresses = endpoint.get("addresses") or []
        if not addresses:
            yield required(here, "must contain at least 1 address")
        for place, address in enumerate(addresses):
            if family != "FQDN":
                yield from _endpoint_address(address, f"{here}[{place}]")
    for index, port in enumerate(content["ports"]):
        if port.get("port") is not None:
            yield from _port_number(port["port"], f"ports[{index}].port")
        yield from _protocol(port, f"ports[{index}]")


def _endpoint_address(text: Any, field: str) -> Iterator[Cause]:
    """Endpoints are never on the machine itself (ValidateEndpointIP)."""
    faults = list(_ip(text, field))
    yield from faults
    if faults:
        return
    address = ipaddress.ip_address(str(text))
    if address.is_unspecified:
        yield wrong(field, text, f"may not be unspecified ({text})")
    if address.is_loopback:
        yield wrong(field, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        yield wrong(field, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")


def _network_policy(content: Json) -> Iterator[Cause]:
    spec = content["spec"]
    yield from _selector(spec["podSelector"], "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            here = f"spec.{direction}[{index}]"
            for place, port in enumerate(rule.get("ports") or ()):
                yield from _policy_port(port, f"{here}.ports[{place}]")
            for place, peer in enumerate(rule.get(peers) or ()):
                yield from _policy_peer(peer, f"{here}.{peers}[{place}]")
    types = spec["policyTypes"]
    if len(types) > 2:
        yield wrong("spec.policyTypes", types, "may not specify more than two policyTypes")
    for index, each in enumerate(types):
        if each not in ("Egress", "Ingress"):
            yield unsupported(f"spec.policyTypes[{index}]", each, ("Egress", "Ingress"))


def _policy_port(port: Json, field: str) -> Iterator[Cause]:
    yield from _protocol(port, field)
    number, end = port.get("port"), port.get("endPort")
    if isinstance(number, str):
        yield from _port_name(number, f"{field}.port")
    elif number is not None:
        yield from _port_number(number, f"{field}.port")
    if end is None:
        return
    if number is None:
        yield required(f"{field}.port", "may not be empty when `endPort` is specified")
    elif isinstance(number, str):
        yield wrong(f"{field}.endPort", end, "may not be specified when `port` is non-numeric")
    else:
        if end < number:
            yield wrong(f"{field}.endPort", end, "must be greater than or equal to `port`")
        yield from _port_number(end, f"{field}.endPort")


def _policy_peer(peer: Json, field: str) -> Iterator[Cause]:
    given = [key for key in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(key) is not None]
    if not given:
        yield required(field, "must specify a peer")
    elif "ipBlock" in given and len(given) > 1:
        yield not_allowed(field, "may not specify both ipBlock and another peer")
    for key in given:
        if key == "ipBlock":
            yield from _ip_block(peer["ipBlock"], f"{field}.ipBlock")
        else:
            yield from _selector(peer[key], f"{field}.{key}")


def _ip_block(block: Json, field: str) -> Iterator[Cause]:
    if not block.get("cidr"):
        yield required(f"{field}.cidr")
        return
    yield from _network(block["cidr"], f"{field}.cidr")
    whole = _parse_network(block["cidr"])
    for index, text in enumerate(block.get("except") or ()):
        here = f"{field}.except[{index}]"
        part = _parse_network(text)
        if part is None:
            yield from _network(text, here)
        elif whole is not None and not _strictly_inside(part, whole):
            yield wrong(here, text, f"must be a strict subset of `{block['cidr']}`")


def _strictly_inside(part: Any, whole: Any) -> bool:
    return part.version == whole.version and part != whole and bool(part.subnet_of(whole))


_CHECKS: dict[str, Callable[[Json], Iterator[Cause]]] = {
    "Pod": _pod,
    "Node": _node,
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
    "NetworkPolicy": _network_policy,
}


def immutable(field: str, value: object) -> Cause:
    return wrong(field, value, "field is immutable")


_POD_MUTABLE = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def validate_update(kind: Kind, content: Json, *, old: Json) -> list[Cause]:
    """Faults of a change: fields that may not change once an object exists."""
    causes = []
    if kind.kind == "Pod" and not kind.custom and _frozen_pod(content["spec"]) != _frozen_pod(old["spec"]):
        causes.append(not_allowed("spec", f"pod updates may not change fields other than {_POD_MUTABLE}"))
    if kind.kind == "Service" and not kind.custom:
        before, after = old["spec"], content["spec"]
        if "ExternalName" not in (before["type"], after["type"]) and before.get("clusterIP") != after.get("clusterIP"):
            causes.append(wrong("spec.clusterIPs[0]", after.get("clusterIPs") or [], "may not change once set"))
    if kind.kind == "EndpointSlice" and content.get("addressType") != old.get("addressType"):
        causes.append(immutable("addressType", content.get("addressType")))
    if kind.kind in ("ConfigMap", "Secret") and old.get("immutable"):
        causes += [
            not_allowed(field, "field is immutable when `immutable` is set")
            for field in ("data", "binaryData")
            if content.get(field) != old.get(field)
        ]
    return causes


def _frozen_pod(spec: Json) -> Json:
    kept = {
        key: value
        for key, value in spec.items()
        if key not in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "ephemeralContainers")
    }
    for group in ("containers", "initContainers"):
        kept[group] = [{key: value for key, value in each.items() if key != "image"} for each in spec.get(group) or ()]
    return kept
