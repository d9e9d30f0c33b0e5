"""A service's addresses and ports: what is filled in when one is created or changes its type.

Comes in: defaulted content, for ``inherit`` the stored state of the same service, the allocator. Goes out: content with
``clusterIP(s)``, ``ipFamilies``, ``nodePort`` and ``healthCheckNodePort``, or the faults that forbid it. Behaviour as
``pkg/registry/core/service/storage``. Nothing is taken here: the allocator learns from what is stored.
"""

from __future__ import annotations

import secrets

from contiv.emulator.kube.allocators import ServiceAllocator
from contiv.emulator.kube.errors import Cause, Json, wrong
from contiv.emulator.kube.store import Name

EXHAUSTED = "failed to allocate: range is full"


def complete(content: Json, *, name: Name, allocator: ServiceAllocator) -> list[Cause]:
    """Give a service what its type needs, keep what it had, drop what its type does not have."""
    spec = content["spec"]
    if spec["type"] == "ExternalName":
        for field in (
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
            "externalTrafficPolicy",
        ):
            spec.pop(field, None)
        return []
    causes = _cluster_ip(spec, name, allocator=allocator)
    causes += _node_ports(spec, name, allocator=allocator)
    return causes


def inherit(spec: Json, old: Json) -> None:
    """What a client left out of an update stays; what belonged to the old type goes unless it is asked for anew."""
    if "ExternalName" not in (spec["type"], old["type"]):
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(field) and old.get(field):
                spec[field] = old[field]
    had, has = _has_node_ports(old), _has_node_ports(spec)
    before = {(port["port"], port["protocol"]): port.get("nodePort") for port in old.get("ports") or ()}
    for port in spec.get("ports") or ():
        known = before.get((port.get("port"), port.get("protocol")))
        if had and has and not port.get("nodePort") and known:
            port["nodePort"] = known
        elif had and not has and port.get("nodePort") == known:
            port.pop("nodePort", None)
    if _needs_health_check(spec):
        if not spec.get("healthCheckNodePort") and old.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = old["healthCheckNodePort"]
    elif spec.get("healthCheckNodePort") == old.get("healthCheckNodePort"):
        spec.pop("healthCheckNodePort", None)
    internal = spec["type"] == "ClusterIP" and not spec.get("externalIPs")
    if internal and spec.get("externalTrafficPolicy") == old.get("externalTrafficPolicy"):
        spec.pop("externalTrafficPolicy", None)
    if spec["type"] != "LoadBalancer":
        spec.pop("allocateLoadBalancerNodePorts", None)


def _has_node_ports(spec: Json) -> bool:
    balanced = spec["type"] == "LoadBalancer" and bool(spec.get("allocateLoadBalancerNodePorts", True))
    return spec["type"] == "NodePort" or balanced


def _needs_health_check(spec: Json) -> bool:
    return spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _cluster_ip(spec: Json, name: Name, *, allocator: ServiceAllocator) -> list[Cause]:
    wished = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), None)
    causes: list[Cause] = []
    if wished is None:
        wished = allocator.allocate_ip()
        if wished is None:
            return [wrong("spec.clusterIPs", [], EXHAUSTED)]
    elif wished != "None":
        fault = allocator.claim_ip(wished, name)
        if fault is not None:
            causes.append(fault)
    spec["clusterIP"] = wished
    spec.setdefault("clusterIPs", [wished])
    spec.setdefault("ipFamilies", ["IPv6" if ":" in wished else allocator.family])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    return causes


def _node_ports(spec: Json, name: Name, *, allocator: ServiceAllocator) -> list[Cause]:
    causes: list[Cause] = []
    taken = {(p["nodePort"], p.get("protocol", "TCP")) for p in spec.get("ports") or () if p.get("nodePort")}
    # One number serves the same port of two protocols, as the real allocator does.
    shared = {port["port"]: port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
    for index, port in enumerate(spec.get("ports") or ()):
        protocol, field = port.get("protocol", "TCP"), f"spec.ports[{index}].nodePort"
        if port.get("nodePort"):
            fault = allocator.claim_port(port["nodePort"], protocol, name=name, field=field)
            causes += [fault] if fault else []
        elif _has_node_ports(spec):
            same = shared.get(port["port"])
            if same is None or (same, protocol) in taken:
                same = allocator.allocate_port(protocol, avoid=taken)
            if same is None:
                causes.append(wrong(field, 0, EXHAUSTED))
                continue
            port["nodePort"] = shared[port["port"]] = same
            taken.add((same, protocol))
    if _needs_health_check(spec) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = allocator.allocate_port("TCP", avoid=taken)
    return causes


_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # apimachinery util/rand: no vowels, no look-alikes


def generated_name(prefix: str) -> str:
    """``generateName`` with five random characters, cut to 63."""
    return prefix[:58] + "".join(secrets.choice(_SUFFIX) for _ in range(5))
