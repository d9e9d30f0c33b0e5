"""The kinds that are served: their names, scope, subresources and the groups that they live in.

Owns the registry ``Kinds``: built-in kinds are there from the start, custom resources are added and removed by
``crd`` as their definitions come and go. Comes in: a path's group, version and plural. Goes out: a ``Kind``.
It knows no objects; ``store`` keeps those, ``discovery`` prints this registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

CORE_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Column(msgspec.Struct, frozen=True):
    """An extra column of a custom resource's table (``additionalPrinterColumns``)."""

    name: str
    type: str
    json_path: str
    priority: int = 0
    description: str = ""


class Kind(msgspec.Struct, frozen=True):
    """One kind at one version. ``subresources`` are those that exist under an object's path."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    custom: bool = False
    columns: tuple[Column, ...] = ()
    singular_name: str = ""
    has_generation: bool = False
    returns_deleted: bool = False
    created_by_update: bool = False
    schema: dict[str, Any] | None = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """``plural.group`` as error texts name it; the core group has no suffix."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """``Kind.group`` as texts about invalid objects name it."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def singular(self) -> str:
        return self.singular_name or self.kind.lower()

    @property
    def table(self) -> tuple[str, str]:
        """Where objects are stored: every version of a kind shares one table."""
        return (self.group, self.plural)

    @property
    def head(self) -> bytes:
        """The opening of every encoded object, up to and with the comma before its own fields."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'.encode()

    @property
    def list_head(self) -> bytes:
        return f'{{"kind":"{self.kind}List","apiVersion":"{self.api_version}",'.encode()


NAMESPACE = Kind(
    "", "v1", "Namespace", "namespaces", namespaced=False, short_names=("ns",), subresources=("status", "finalize")
)
POD = Kind(
    "",
    "v1",
    "Pod",
    "pods",
    short_names=("po",),
    categories=("all",),
    subresources=("status", "binding", "ephemeralcontainers", "eviction"),
    has_generation=True,  # since 1.34
    returns_deleted=True,
)
NODE = Kind("", "v1", "Node", "nodes", namespaced=False, short_names=("no",), subresources=("status",))
SERVICE = Kind(
    "",
    "v1",
    "Service",
    "services",
    short_names=("svc",),
    categories=("all",),
    subresources=("status",),
    returns_deleted=True,
)
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints", short_names=("ep",))
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", has_generation=True)
NETWORK_POLICY = Kind(
    "networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", short_names=("netpol",), has_generation=True
)
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", short_names=("cm",))
SECRET = Kind("", "v1", "Secret", "secrets")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts", short_names=("sa",), returns_deleted=True)
EVENT = Kind("", "v1", "Event", "events", short_names=("ev",))
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases", created_by_update=True)
CRD = Kind(
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    namespaced=False,
    short_names=("crd", "crds"),
    categories=("api-extensions",),
    subresources=("status",),
    has_generation=True,
)

BUILT_IN = (
    NAMESPACE,
    POD,
    NODE,
    SERVICE,
    ENDPOINTS,
    CONFIG_MAP,
    SECRET,
    SERVICE_ACCOUNT,
    EVENT,
    CRD,
    LEASE,
    ENDPOINT_SLICE,
    NETWORK_POLICY,
)


class Kinds:
    """Registry of served kinds, found by (group, version, plural); versions of a group keep their order."""

    def __init__(self, kinds: Iterable[Kind] = BUILT_IN) -> None:
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        self._by_path[(kind.group, kind.version, kind.plural)] = kind

    def remove(self, kind: Kind) -> None:
        self._by_path.pop((kind.group, kind.version, kind.plural), None)

    def find(self, group: str, version: str, *, plural: str) -> Kind | None:
        return self._by_path.get((group, version, plural))

    def __iter__(self) -> Iterator[Kind]:
        return iter(tuple(self._by_path.values()))

    def versions(self) -> dict[str, dict[str, list[Kind]]]:
        """``{group: {version: kinds}}``; the core group is the empty name."""
        tree: dict[str, dict[str, list[Kind]]] = {}
        for kind in self:
            tree.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
        return tree

    def namespaced_tables(self) -> tuple[Kind, ...]:
        """One kind per table that holds namespaced objects, for emptying a namespace."""
        tables = {kind.table: kind for kind in self if kind.namespaced}
        return tuple(tables.values())
