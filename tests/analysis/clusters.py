"""Small clusters for the tests of contiv.analysis, written as users write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from contiv.analysis import manifests
from contiv.analysis.cluster import Cluster, build
from contiv.analysis.tables import ClusterTables
from contiv.config import load

Object = dict[str, Any]


def pod(key: str, *, node: str = "", ips: tuple[str, ...] = (), host: bool = False, **labels: str) -> Object:
    """A pod ``namespace/name``; without a namespace it has none in its manifest."""
    namespace, _, name = key.rpartition("/")
    metadata = {"name": name, "labels": labels} | ({"namespace": namespace} if namespace else {})
    spec: Object = {"containers": [{"name": "main", "image": "pause", "ports": [{"name": "web", "containerPort": 80}]}]}
    spec |= {"nodeName": node} if node else {}
    spec |= {"hostNetwork": True} if host else {}
    thing = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return thing | ({"status": {"podIPs": [{"ip": ip} for ip in ips]}} if ips else {})


def policy(key: str, **spec: Any) -> Object:
    """A network policy ``namespace/name``; ``podSelector`` is empty unless given."""
    namespace, _, name = key.partition("/")
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}} | spec,
    }


def written(place: Path, *things: Object) -> Path:
    """The folder with a file of these objects."""
    place.mkdir(exist_ok=True)
    (place / "cluster.yaml").write_text(yaml.safe_dump_all(things, sort_keys=False))
    return place


def cluster(place: Path, *things: Object, external: tuple[str, ...] = ()) -> Cluster:
    """The cluster of these objects, read from a file."""
    return build(manifests.load([written(place, *things)]), load(None), external=external)


def tables(place: Path, *things: Object, external: tuple[str, ...] = ()) -> ClusterTables:
    """The access lists of these objects."""
    return ClusterTables(cluster(place, *things, external=external))
