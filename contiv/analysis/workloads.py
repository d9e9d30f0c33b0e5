"""The pods that a workload's controller would make.

In: a workload's manifest, the pods that are given anyway, the nodes. Out: pod manifests, ``name-0`` and so on; a
DaemonSet has one on each node, named after it. Nothing where another workload owns this one, where it runs no pods, or
where pods that it would own are given: then these are what its controller made. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from contiv.model import kube

WORKLOADS: Final = frozenset(
    {
        ("apps/v1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("v1", "ReplicationController"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
    }
)

Manifest = dict[str, Any]


def pods_of(workload: Manifest, given: Iterable[kube.Pod], nodes: Sequence[str]) -> Iterator[Manifest]:
    """Pod manifests; KeyError, TypeError or ValueError where the workload has no usable pod template."""
    meta, spec = workload["metadata"], workload["spec"]
    if meta.get("ownerReferences"):
        return
    if workload["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template = spec["template"]
    labels = template.get("metadata", {}).get("labels") or {}
    if any(pod.namespace == meta["namespace"] and labels.items() <= pod.labels.items() for pod in given):
        return
    if workload["kind"] == "DaemonSet":
        for node in nodes:
            yield _pod(template, meta, f"{meta['name']}-{node}", node=node)
        return
    replicas = spec.get("parallelism" if workload["kind"] in {"Job", "CronJob"} else "replicas")
    for number in range(1 if replicas is None else int(replicas)):
        yield _pod(template, meta, f"{meta['name']}-{number}")


def _pod(template: Manifest, owner: Manifest, name: str, *, node: str = "") -> Manifest:
    metadata = {**(template.get("metadata") or {}), "name": name, "namespace": owner["namespace"]}
    spec = copy.copy(template["spec"])
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
