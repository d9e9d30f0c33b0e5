"""The documents by which clients learn what is served: versions, groups, resources, aggregated discovery.

Comes in: the registry of kinds and, for aggregated discovery, the Accept header. Goes out: plain documents and their
media type. Pure. Both forms are here because kubectl prefers the aggregated one and older clients know the other only.
"""

from __future__ import annotations

from contiv.emulator.kube.errors import Json
from contiv.emulator.kube.kinds import CORE_VERBS, Kind, Kinds

KUBERNETES_VERSION = "v1.34.0"
"""The release whose behaviour is emulated; clients print it and compare it with their own."""

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
_SUBRESOURCE_VERBS = {
    "status": ("get", "patch", "update"),
    "binding": ("create",),
    "eviction": ("create",),
    "ephemeralcontainers": ("get", "patch", "update"),
    "finalize": ("update",),
}
_SUBRESOURCE_KINDS = {"binding": ("", "v1", "Binding"), "eviction": ("policy", "v1", "Eviction")}


def version() -> Json:
    major, minor, _ = KUBERNETES_VERSION.lstrip("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{KUBERNETES_VERSION}+contiv-emulator",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "",
    }


def paths(kinds: Kinds) -> Json:
    """The index at ``/``."""
    listed = ["/api", "/api/v1", "/apis"]
    for group, versions in kinds.versions().items():
        if group:
            listed += [f"/apis/{group}", *(f"/apis/{group}/{each}" for each in versions)]
    return {"paths": [*listed, "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}


def api_versions(address: str) -> Json:
    """``/api``: the versions of the core group."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def _versions_of(group: str, versions: list[str]) -> Json:
    listed = [{"groupVersion": f"{group}/{each}", "version": each} for each in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def groups(kinds: Kinds) -> Json:
    """``/apis``: every named group."""
    listed = [_versions_of(group, list(versions)) for group, versions in kinds.versions().items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(kinds: Kinds, name: str) -> Json | None:
    """``/apis/<group>``."""
    versions = kinds.versions().get(name)
    if not name or versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_versions_of(name, list(versions))}


def resources(kinds: Kinds, group_name: str, group_version: str) -> Json | None:
    """``/api/v1`` and ``/apis/<group>/<version>``: the kinds and their subresources."""
    served = kinds.versions().get(group_name, {}).get(group_version)
    if served is None:
        return None
    listed: list[Json] = []
    for kind in served:
        entry: Json = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(CORE_VERBS),
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        listed.append(entry)
        listed += [_subresource(kind, each) for each in kind.subresources]
    name = f"{group_name}/{group_version}" if group_name else group_version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _subresource(kind: Kind, name: str) -> Json:
    group_name, version_name, kind_name = _SUBRESOURCE_KINDS.get(name, ("", "", kind.kind))
    entry: Json = {
        "name": f"{kind.plural}/{name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": kind_name,
        "verbs": list(_SUBRESOURCE_VERBS[name]),
    }
    if group_name:
        entry |= {"group": group_name, "version": version_name}
    return entry


def wants_aggregated(accept: str) -> str | None:
    """The version of aggregated discovery that an Accept header asks for, None for the old documents."""
    if "as=APIGroupDiscoveryList" not in accept:
        return None
    return "v2" if "v=v2;" in accept.replace(" ", "") + ";" else "v2beta1"


def aggregated(kinds: Kinds, *, core: bool, form: str) -> tuple[Json, str]:
    """Aggregated discovery for ``/api`` (core) or ``/apis``, with its media type."""
    items: list[Json] = []
    for name, versions in kinds.versions().items():
        if core == (name == ""):
            listed = [
                {"version": each, "resources": [_aggregate(kind) for kind in served], "freshness": "Current"}
                for each, served in versions.items()
            ]
            items.append({"metadata": {"name": name or None, "creationTimestamp": None}, "versions": listed})
    document = {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{form}",
        "metadata": {},
        "items": items,
    }
    return document, _AGGREGATED.format(version=form)


def _aggregate(kind: Kind) -> Json:
    entry: Json = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(CORE_VERBS),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [_aggregate_subresource(kind, each) for each in kind.subresources]
    return entry


def _aggregate_subresource(kind: Kind, name: str) -> Json:
    group_name, version_name, kind_name = _SUBRESOURCE_KINDS.get(name, (kind.group, kind.version, kind.kind))
    return {
        "subresource": name,
        "responseKind": {"group": group_name, "version": version_name, "kind": kind_name},
        "verbs": list(_SUBRESOURCE_VERBS[name]),
    }
