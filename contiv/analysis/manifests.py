"""Manifests become the reduced objects that agents read: YAML and JSON, files and folders, lists and workloads.

In: paths. Out: ``Objects``, in the order of files and documents. A file, document or field that cannot be used is named
in an ``AnalysisError``. Kinds that say nothing about who reaches whom are passed over. A workload (Deployment, Job, …)
stands for the pods that its controller would make, unless pods that its selector matches are given as well, as in what
``kubectl get all -o yaml`` prints. Next: ``cluster``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from contiv.analysis.workloads import WORKLOADS, pods_of
from contiv.errors import AnalysisError
from contiv.model import kube
from contiv.model.kubewire import ObjectError, reduce
from contiv.model.node import NodeClaim

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
DEFAULT_NAMESPACE: Final = "default"
_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS: Final = {(kind.api_path.removeprefix("/apis/").removeprefix("/api/"), kind.kind): kind for kind in kube.KINDS}

Manifest = dict[str, Any]


class Objects(msgspec.Struct, frozen=True):
    """A cluster's objects; ``claims`` are the node IDs where they are known, ``notes`` what the reader should know."""

    objects: tuple[kube.KubeObject, ...]
    claims: tuple[NodeClaim, ...] = ()
    notes: tuple[str, ...] = ()


class _Found(msgspec.Struct, frozen=True):
    """An object as written, and where."""

    where: str
    manifest: Manifest

    @property
    def kind(self) -> tuple[str, str]:
        """API version and kind."""
        return self.manifest["apiVersion"], self.manifest["kind"]

    @property
    def title(self) -> str:
        """Kind and name, as in errors."""
        meta = self.manifest["metadata"]
        return f"{self.manifest['kind']} {'/'.join(part for part in (meta.get('namespace'), meta['name']) if part)}"


def load(places: Iterable[Path]) -> Objects:
    """All objects in files and folders; AnalysisError for what cannot be read."""
    found = [each for place in places for file in _files(place) for each in _documents(file)]
    _refuse_twins(found)
    objects: list[kube.KubeObject] = []
    workloads: list[_Found] = []
    for each in found:
        if each.kind in WORKLOADS:
            workloads.append(each)
        elif each.kind in _KINDS:
            objects.append(_reduced(each))
    pods = [thing for thing in objects if isinstance(thing, kube.Pod)]
    nodes = _node_names(objects)
    for each in workloads:
        objects += [_reduced(_Found(each.where, manifest)) for manifest in _expanded(each, pods, nodes)]
    if not objects:
        named = ", ".join(map(str, places)) or "no file"
        raise AnalysisError(f"manifests {named}: no pod, policy, namespace, node or service in them; give other files")
    return Objects(tuple(objects))


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise AnalysisError(f"manifests {place}: not there; give a file or a folder")
    if not place.is_dir():
        return [place]
    found = sorted(file for file in place.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise AnalysisError(f"manifests {place}: no .yaml, .yml or .json file in it; give another folder")
    return found


def _documents(file: Path) -> Iterator[_Found]:
    try:
        documents = list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=_Loader))
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(f"manifest {file}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise AnalysisError(f"manifest {file}: not YAML: {' '.join(str(error).split())}; correct the syntax") from error
    for number, document in enumerate(documents, start=1):
        where = f"manifest {file}" + (f", document {number}" if len(documents) > 1 else "")
        if document is not None:
            yield from _unlisted(document, where)


def _unlisted(document: Any, where: str) -> Iterator[_Found]:
    """The object, or those of a List (kind ``List``, or any kind's own list)."""
    if not isinstance(document, dict):
        raise AnalysisError(f"{where}: is no mapping; write one Kubernetes object a document")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str):
            raise AnalysisError(f"{where}: {field} = {document.get(field)!r}: no text; give the object's {field}")
    items = document.get("items")
    if document["kind"].endswith("List") and isinstance(items, list):
        own = {"apiVersion": document["apiVersion"], "kind": document["kind"].removesuffix("List")}
        for index, item in enumerate(items):
            # the items of a typed list, as the API serves it, do not repeat their kind
            filled = {**own, **item} if own["kind"] and isinstance(item, dict) else item
            yield from _unlisted(filled, f"{where}, items[{index}]")
        return
    yield _named(document, where)


def _named(document: Manifest, where: str) -> _Found:
    """The object with a name, and with a namespace where its kind has one."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise AnalysisError(f"{where}: {document['kind']}: metadata = {metadata!r}: no mapping; give metadata.name")
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        raise AnalysisError(f"{where}: {document['kind']}: metadata.name = {name!r}: no name; name the object")
    key = document["apiVersion"], document["kind"]
    if key in WORKLOADS or (key in _KINDS and _KINDS[key].namespaced):
        document = {**document, "metadata": {**metadata, "namespace": metadata.get("namespace") or DEFAULT_NAMESPACE}}
    return _Found(where, document)


def _refuse_twins(found: Iterable[_Found]) -> None:
    seen: dict[tuple[tuple[str, str], str], str] = {}
    for each in found:
        if each.kind in WORKLOADS or each.kind in _KINDS:
            other = seen.setdefault((each.kind, each.title), each.where)
            if other != each.where:
                raise AnalysisError(f"{each.where}: {each.title} stands in {other} too; keep one of them")


def _reduced(found: _Found) -> kube.KubeObject:
    try:
        return reduce(_KINDS[found.kind], msgspec.json.encode(found.manifest))
    except ObjectError as error:
        raise AnalysisError(f"{found.where}: {found.title}: {error.field}: {error.problem}; correct it") from error
    except TypeError as error:  # YAML knows keys and values that JSON does not
        raise AnalysisError(f"{found.where}: {found.title}: {error}; use text") from error


def _node_names(objects: Iterable[kube.KubeObject]) -> list[str]:
    named = dict.fromkeys(thing.name for thing in objects if isinstance(thing, kube.Node))
    return list(named | dict.fromkeys(t.node_name for t in objects if isinstance(t, kube.Pod) and t.node_name))


def _expanded(found: _Found, pods: Iterable[kube.Pod], nodes: list[str]) -> Iterator[Manifest]:
    try:
        yield from pods_of(found.manifest, pods, nodes)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnalysisError(f"{found.where}: {found.title}: spec: cannot be expanded into pods: {error}") from error
