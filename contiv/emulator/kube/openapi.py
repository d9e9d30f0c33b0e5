"""OpenAPI documents, as far as clients use them: kubectl's check of ``fieldValidation``, explain, and apply.

Comes in: the registry of kinds. Goes out: the index of ``/openapi/v3`` and one document per group and version.
"""

from __future__ import annotations

from contiv.emulator.kube import schema
from contiv.emulator.kube.errors import Json
from contiv.emulator.kube.kinds import Kind, Kinds

_JSON_PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
)


def index(kinds: Kinds, *, stamp: str) -> Json:
    """``/openapi/v3``: where the documents are; ``stamp`` changes when they do."""
    paths: Json = {}
    for group, versions in kinds.versions().items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={stamp}"}
    return {"paths": paths}


def document(kinds: Kinds, group: str, version: str) -> Json | None:
    """The document of one group and version."""
    served = kinds.versions().get(group, {}).get(version)
    if served is None:
        return None
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    paths: Json = {}
    for kind in served:
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        paths[f"{root}{scope}/{kind.plural}"] = {"post": _operation(kind, "post")}
        paths[f"{root}{scope}/{kind.plural}/{{name}}"] = {
            "get": _operation(kind, "get"),
            "put": _operation(kind, "put"),
            "patch": _patch(kind),
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "emulated"},
        "paths": paths,
        "components": {"schemas": schema.components(served)},
    }


def _operation(kind: Kind, verb: str) -> Json:
    names = ("dryRun", "fieldManager", "fieldValidation") if verb in ("post", "put") else ()
    return {
        "parameters": [_query(name) for name in names],
        "responses": _answer(kind),
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": _gvk(kind),
    }


def _patch(kind: Kind) -> Json:
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    types = _JSON_PATCHES if kind.custom else (*_JSON_PATCHES, "application/strategic-merge-patch+json")
    return {
        "parameters": [_query(name) for name in names],
        "requestBody": {"content": {each: {"schema": {"type": "object"}} for each in types}},
        "responses": _answer(kind),
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": _gvk(kind),
    }


def _answer(kind: Kind) -> Json:
    reference = {"$ref": f"#/components/schemas/{schema.component_name(kind)}"}
    return {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}}


def _query(name: str) -> Json:
    type_ = "boolean" if name == "force" else "string"
    return {"name": name, "in": "query", "schema": {"type": type_, "uniqueItems": True}}


def _gvk(kind: Kind) -> Json:
    return {"group": kind.group, "kind": kind.kind, "version": kind.version}
