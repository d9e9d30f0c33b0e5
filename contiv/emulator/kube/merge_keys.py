"""How lists merge: the ``patchMergeKey`` and ``listMapKey`` marks of the Kubernetes types that are served.

One table for strategic merge patches (one key per list) and one for server-side apply (the keys that identify an
element). Both are taken from the field comments of ``k8s.io/api`` types. Lists that stand in neither are replaced as a
whole.
"""

from __future__ import annotations

_META = {"metadata.ownerReferences": "uid", "metadata.finalizers": ""}
_CONTAINER = {
    "ports": "containerPort",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")

_PATCH_KEYS: dict[str, dict[str, str]] = {
    "Pod": {
        **{f"spec.{group}": "name" for group in _CONTAINERS},
        **{f"spec.{group}.{field}": key for group in _CONTAINERS for field, key in _CONTAINER.items()},
        "spec.volumes": "name",
        "spec.imagePullSecrets": "name",
        "spec.hostAliases": "ip",
        "spec.topologySpreadConstraints": "topologyKey",
        "spec.resourceClaims": "name",
        "spec.schedulingGates": "name",
        "status.conditions": "type",
        "status.podIPs": "ip",
        "status.hostIPs": "ip",
    },
    "Node": {"spec.podCIDRs": "", "status.addresses": "type", "status.conditions": "type"},
    "Namespace": {"status.conditions": "type"},
    "Service": {"spec.ports": "port", "status.conditions": "type"},
    "ServiceAccount": {"secrets": "name"},
}

_APPLY_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "Pod": {
        **{f"spec.{group}": ("name",) for group in _CONTAINERS},
        **{f"spec.{group}.ports": ("containerPort", "protocol") for group in _CONTAINERS},
        **{f"spec.{group}.env": ("name",) for group in _CONTAINERS},
        **{f"spec.{group}.volumeMounts": ("mountPath",) for group in _CONTAINERS},
        **{f"spec.{group}.volumeDevices": ("devicePath",) for group in _CONTAINERS},
        "spec.volumes": ("name",),
        "spec.imagePullSecrets": ("name",),
        "spec.hostAliases": ("ip",),
        "spec.topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
        "spec.resourceClaims": ("name",),
        "spec.schedulingGates": ("name",),
        "status.conditions": ("type",),
        "status.podIPs": ("ip",),
    },
    "Node": {"spec.podCIDRs": (), "status.addresses": ("type",), "status.conditions": ("type",)},
    "Namespace": {"status.conditions": ("type",)},
    "Service": {"spec.ports": ("port", "protocol"), "status.conditions": ("type",)},
    "ServiceAccount": {"secrets": ("name",), "imagePullSecrets": ()},
}
_APPLY_META: dict[str, tuple[str, ...]] = {"metadata.ownerReferences": ("uid",), "metadata.finalizers": ()}

KEY_DEFAULTS = {"protocol": "TCP"}
"""Values that a merge key takes when an element leaves it out."""

ATOMIC = {
    "Pod": frozenset({"spec.nodeSelector"}),
    "Service": frozenset({"spec.selector"}),
    "NetworkPolicy": frozenset({"spec.podSelector"}),
}
"""Objects that server-side apply treats as one value (``x-kubernetes-map-type: atomic``)."""


def patch_merge_key(kind: str, path: str) -> str | None:
    """The merge key of a list, "" for a merging list of plain values, None for a list that is replaced."""
    if path in _META:
        return _META[path]
    return _PATCH_KEYS.get(kind, {}).get(path)


def patch_lists(kind: str) -> dict[str, str]:
    """All merging lists of a kind: path to merge key."""
    return {**_META, **_PATCH_KEYS.get(kind, {})}


def apply_keys(kind: str, path: str) -> tuple[str, ...] | None:
    """The fields that identify an element, () for a set of plain values, None for an atomic list."""
    if path in _APPLY_META:
        return _APPLY_META[path]
    return _APPLY_KEYS.get(kind, {}).get(path)
