"""Manifests: YAML files become objects to create, in an order that works.

In: a file, a directory, or nothing (the set that ships). Out: objects as dictionaries. A file, document or
field that cannot be used is named in a DemoError. A pod with the annotation ``demo.contiv.vpp/per-node: "2"``
stands for two pods for each node of the demo, ``name-1`` and so on; their placement is the scheduler's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from contiv.errors import DemoError

SHIPPED: Final = Path(__file__).with_name("manifests")
PER_NODE: Final = "demo.contiv.vpp/per-node"
PER_NODE_MAX: Final = 250
FIRST: Final = ("CustomResourceDefinition", "Namespace", "ServiceAccount")
LAST: Final = ("Pod",)

Object = dict[str, Any]


def load(place: Path | None, *, nodes: int) -> list[Object]:
    """All objects in ``place``: namespaces first, pods last."""
    files = _files(place or SHIPPED)
    things = [thing for file in files for thing in _objects(file)]
    if not things:
        raise DemoError(f"manifests {place}: no object in {len(files)} files; give files with Kubernetes objects")
    expanded = [pod for thing in things for pod in _expanded(thing, nodes)]
    return sorted(expanded, key=_order)


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        found = sorted(file for file in place.iterdir() if file.suffix in {".yaml", ".yml", ".json"})
        if not found:
            raise DemoError(f"manifests {place}: no .yaml, .yml or .json file in it; give another directory")
        return found
    if not place.exists():
        raise DemoError(f"manifests {place}: not there; give a file or a directory")
    return [place]


def _objects(file: Path) -> Iterator[Object]:
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise DemoError(f"manifest {file}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise DemoError(f"manifest {file}: not YAML: {error}; correct the syntax") from error
    for number, document in enumerate(documents, start=1):
        if document is None:
            continue
        where = f"manifest {file}, document {number}"
        yield from _unlisted(document, where)


def _unlisted(document: Any, where: str) -> Iterator[Object]:
    """The object, or those of a List."""
    if not isinstance(document, dict):
        raise DemoError(f"{where}: is no mapping; write one Kubernetes object a document")
    if document.get("kind") == "List":
        for index, item in enumerate(document.get("items") or ()):
            yield from _unlisted(item, f"{where}, items[{index}]")
        return
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str):
            raise DemoError(f"{where}: {field} = {document.get(field)!r}: no text; give the object's {field}")
    name = _metadata(document, where).get("name")
    if not isinstance(name, str) or not name:
        raise DemoError(f"{where}: metadata.name = {name!r}: no name; name the {document['kind']}")
    yield document


def _metadata(document: Object, where: str) -> Object:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise DemoError(f"{where}: metadata = {metadata!r}: no mapping; give at least metadata.name")
    annotations = metadata.get("annotations") or {}
    count = annotations.get(PER_NODE)
    valid = isinstance(count, str) and count.isdigit() and 1 <= int(count) <= PER_NODE_MAX
    if count is not None and not (valid and document["kind"] == "Pod"):
        raise DemoError(
            f"{where}: metadata.annotations[{PER_NODE}] = {count!r}: give a pod a number"
            f" from 1 to {PER_NODE_MAX}, in quotes"
        )
    return metadata


def _expanded(thing: Object, nodes: int) -> Iterator[Object]:
    count = (thing["metadata"].get("annotations") or {}).get(PER_NODE)
    if count is None:
        yield thing
        return
    for number in range(1, int(count) * nodes + 1):
        pod = copy.deepcopy(thing)
        pod["metadata"]["name"] += f"-{number}"
        yield pod


def _order(thing: Object) -> int:
    kind = thing["kind"]
    return FIRST.index(kind) if kind in FIRST else len(FIRST) + LAST.index(kind) + 1 if kind in LAST else len(FIRST)
