"""What a kind does on its way into the store: trimming, defaults, allocation, validation, and what survives updates.

Comes in: a client's document and, for updates, the stored content. Goes out: content ready for ``Store.put``, or
``ApiError``. One function per situation (``prepare_create``, ``prepare_update``); kinds differ by small tables, as the
strategies under Kubernetes' ``pkg/registry`` do. Next: ``verbs``.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec

from contiv.emulator.kube import crd, defaults, services, validation
from contiv.emulator.kube.allocators import ServiceAllocator
from contiv.emulator.kube.errors import Json, invalid
from contiv.emulator.kube.kinds import CRD, NAMESPACE, POD, SERVICE, Kind
from contiv.emulator.kube.store import Name

_MAPS = frozenset({"labels", "annotations", "matchLabels", "nodeSelector", "data", "binaryData"})
_KEEP_EMPTY = {
    "EndpointSlice": frozenset({"endpoints", "ports"}),
    "Pod": frozenset({"containers"}),
    "CustomResourceDefinition": frozenset({"conditions", "storedVersions"}),
}
_SYSTEM_META = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


class Strategy(msgspec.Struct, frozen=True):
    """The allocator and nothing else: what a strategy needs besides the objects themselves."""

    allocator: ServiceAllocator

    def prepare_create(self, kind: Kind, content: Json, *, name: Name) -> Json:
        """Content of a new object; ``content`` has its name, namespace, uid and creation time already."""
        fresh = trimmed(kind, content)
        _reset_status(kind, fresh)
        if kind.has_generation or kind.custom:
            fresh["metadata"]["generation"] = 1
        self._finish(kind, fresh, old=None, name=name)
        if kind is CRD:
            fresh["status"] = established(fresh)
        if kind is POD:
            defaults.admit_pod(fresh)
        return fresh

    def prepare_update(self, kind: Kind, content: Json, *, old: Json, subresource: str) -> Json:
        """Content of a changed object: what this endpoint may not touch is taken from the stored one."""
        fresh = trimmed(kind, content)
        _keep_metadata(fresh["metadata"], old["metadata"])
        if subresource == "status":
            fresh = _status_only(kind, fresh, old=old)
        elif subresource == "ephemeralcontainers":
            wanted = fresh.get("spec", {}).get("ephemeralContainers") or []
            fresh = deepcopy(old) | {"metadata": fresh["metadata"]}
            fresh["spec"]["ephemeralContainers"] = wanted
        elif subresource == "finalize":
            fresh = deepcopy(old) | {"metadata": fresh["metadata"], "spec": fresh.get("spec") or {}}
        elif _has_status(kind):
            fresh.pop("status", None)
            if "status" in old:
                fresh["status"] = deepcopy(old["status"])
        metadata = fresh["metadata"]
        name = (metadata.get("namespace", ""), metadata["name"])
        self._finish(kind, fresh, old=old, name=name)
        if "generation" in metadata and _without_meta(fresh) != _without_meta(old):
            metadata["generation"] += 1
        return fresh

    def _finish(self, kind: Kind, content: Json, *, old: Json | None, name: Name) -> None:
        defaults.apply_defaults(kind, content)
        if kind is SERVICE and old is not None:
            services.inherit(content["spec"], old["spec"])
        causes = validation.validate(kind, content)
        if kind is CRD:
            causes += crd.validate(content)
        if not causes and kind is SERVICE:
            causes += services.complete(content, name=name, allocator=self.allocator)
        if old is not None and not causes:
            causes += validation.validate_update(kind, content, old=old)
        if causes:
            raise invalid(kind, name[1], causes=causes)


def trimmed(kind: Kind, content: Json) -> Json:
    """A deep copy without what Kubernetes' encoding leaves out: nulls, empty lists, empty string maps.

    Custom resources keep all but nulls of their metadata, as they are stored unstructured.
    """
    copy = {key: value for key, value in content.items() if key not in ("kind", "apiVersion")}
    if kind.custom:
        return deepcopy(copy) | {"metadata": _trim(copy["metadata"], frozenset())}
    trimmed_copy: Json = _trim(copy, _KEEP_EMPTY.get(kind.kind, frozenset()))
    if not isinstance(trimmed_copy.get("metadata"), dict):
        trimmed_copy["metadata"] = {}
    return trimmed_copy


def _trim(value: Any, keep: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_trim(each, keep) for each in value]
    if not isinstance(value, dict):
        return value
    result: Json = {}
    for key, each in value.items():
        if each is None or (each == [] and key not in keep) or (each == {} and key in _MAPS):
            continue
        result[key] = _trim(each, keep) if isinstance(each, dict | list) else each
    return result


def _has_status(kind: Kind) -> bool:
    return "status" in kind.subresources


def _reset_status(kind: Kind, content: Json) -> None:
    """New objects start with the status of their kind. Nodes keep theirs: kubelet registers itself with one."""
    if not _has_status(kind) or kind.kind == "Node":
        return
    content.pop("status", None)
    if kind is NAMESPACE:
        content["spec"] = {"finalizers": ["kubernetes"]}


def established(content: Json) -> Json:
    """The status that the apiextensions controllers give a definition at once: accepted and served."""
    spec, now = content["spec"], content["metadata"]["creationTimestamp"]
    names = dict(spec.get("names") or {})
    names.setdefault("singular", str(names.get("kind", "")).lower())
    names.setdefault("listKind", f"{names.get('kind', '')}List")
    condition = {"status": "True", "lastTransitionTime": now}
    return {
        "conditions": [
            condition | {"type": "NamesAccepted", "reason": "NoConflicts", "message": "no conflicts found"},
            condition
            | {
                "type": "Established",
                "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted",
            },
        ],
        "acceptedNames": names,
        "storedVersions": [each["name"] for each in spec.get("versions") or () if each.get("storage")],
    }


def _keep_metadata(fresh: Json, old: Json) -> None:
    for field in _SYSTEM_META:
        fresh.pop(field, None)
        if field in old:
            fresh[field] = old[field]
    fresh["name"] = old["name"]
    if "namespace" in old:
        fresh["namespace"] = old["namespace"]
    fresh.pop("resourceVersion", None)


def _status_only(kind: Kind, fresh: Json, *, old: Json) -> Json:
    """An update through ``/status``: the status changes, labels and annotations of built-in kinds may."""
    result = deepcopy(old)
    result.pop("status", None)
    if not kind.custom:
        result["metadata"] = fresh["metadata"]
        if "ownerReferences" in old["metadata"]:
            result["metadata"]["ownerReferences"] = old["metadata"]["ownerReferences"]
    result["metadata"].pop("resourceVersion", None)
    if "status" in fresh:
        result["status"] = fresh["status"]
    return result


def _without_meta(content: Json) -> Json:
    return {key: value for key, value in content.items() if key not in ("metadata", "status")}
