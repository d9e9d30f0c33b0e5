"""The fields and types of built-in kinds: what is unknown is dropped or refused, what has a wrong type is refused.

Comes in: a document. Goes out: the document without unknown fields, and their paths; JSON schemas for OpenAPI. Refuses
wrong types (400) as the real server's decoder does. The facts are in ``fields.json.gz`` (``schemagen`` makes it);
custom resources have none here and pass as they are. Next: ``verbs`` and ``openapi``.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from contiv.emulator.kube.errors import ApiError, Json, bad_request
from contiv.emulator.kube.kinds import Kind
from contiv.emulator.kube.merge_keys import patch_lists
from contiv.errors import KubeError


class _Facts(msgspec.Struct, frozen=True):
    source: str
    roots: dict[str, str]
    types: dict[str, dict[str, str]]


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "bytes": (str,),
    "time": (str,),
}
_GO_TYPES = {"str": "string", "int": "int32", "float": "float64", "bytes": "[]uint8", "time": "v1.Time"}
_QUANTITIES = frozenset({"limits", "requests", "capacity", "allocatable", "overhead", "sizeLimit", "divisor"})
"""Fields of quantities, which may be written as numbers."""


@cache
def _facts() -> _Facts:
    packed = Path(__file__).with_name("fields.json.gz").read_bytes()
    return msgspec.json.decode(gzip.decompress(packed), type=_Facts)


def _refused(kind: Kind, why: str) -> ApiError:
    return bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}')


def pruned(kind: Kind, document: Json) -> tuple[Json, list[str]]:
    """The document with known fields only, and the paths of those that went."""
    root = None if kind.custom else _facts().roots.get(kind.kind)
    if root is None:
        return document, []
    unknown: list[str] = []
    try:
        result: Json = _walk(root, document, "", unknown)
    except _MistypedError as error:
        raise _refused(kind, str(error)) from error
    return result, unknown


def strict_refusal(kind: Kind, unknown: list[str]) -> ApiError:
    """400 for a client that asked for ``fieldValidation=Strict``."""
    listed = ", ".join(f'unknown field "{path}"' for path in unknown)
    return _refused(kind, f"strict decoding error: {listed}")


def _walk(type_: str, value: Any, path: str, unknown: list[str]) -> Any:
    if value is None or type_ == "any":
        return value
    if type_.startswith("[]"):
        if not isinstance(value, list):
            raise _mistyped(value, path, type_)
        inner = type_[2:]
        return [_walk(inner, each, f"{path}[{index}]", unknown) for index, each in enumerate(value)]
    if type_.startswith("{}"):
        if not isinstance(value, dict):
            raise _mistyped(value, path, type_)
        inner = type_[2:]
        return {key: _walk(inner, each, f"{path}.{key}", unknown) for key, each in value.items()}
    expected = _JSON_TYPES.get(type_)
    if expected is None:
        return _walk_object(type_, value, path, unknown)
    if not isinstance(value, expected) or (isinstance(value, bool) and type_ != "bool"):
        if isinstance(value, int | float) and type_ == "str" and _is_quantity(path):
            return str(value)
        raise _mistyped(value, path, type_)
    return value


def _walk_object(type_: str, value: Any, path: str, unknown: list[str]) -> Json:
    if not isinstance(value, dict):
        raise _mistyped(value, path, type_)
    fields = _facts().types[type_]
    result: Json = {}
    for key, each in value.items():
        inner = fields.get(key)
        here = f"{path}.{key}" if path else key
        if inner is None:
            unknown.append(here)
        else:
            result[key] = _walk(inner, each, here, unknown)
    return result


def _is_quantity(path: str) -> bool:
    return any(step in _QUANTITIES for step in path.split(".")[-2:])


class _MistypedError(KubeError):
    """A value whose JSON type is not that of its field."""


def _mistyped(value: Any, path: str, type_: str) -> _MistypedError:
    names = {bool: "bool", str: "string", int: "number", float: "number", list: "array", dict: "object"}
    wanted = _GO_TYPES.get(type_, type_)
    return _MistypedError(
        f"json: cannot unmarshal {names.get(type(value), 'value')} into Go struct field {path} of type {wanted}"
    )


def component_name(kind: Kind) -> str:
    """The name of a kind's schema among an OpenAPI document's components."""
    if kind.custom:
        return f"{kind.group}.{kind.version}.{kind.kind}"
    return _facts().roots[kind.kind]


def components(kinds: list[Kind]) -> Json:
    """JSON schemas of the kinds and of all types that they reach, with their merge keys."""
    schemas: Json = {}
    for kind in kinds:
        name = component_name(kind)
        if kind.custom:
            schemas[name] = dict(kind.schema or {"type": "object"})
        else:
            _collect(name, schemas)
    for kind in kinds:
        name = component_name(kind)
        gvk = {"group": kind.group, "kind": kind.kind, "version": kind.version}
        schemas[name] = schemas[name] | {"x-kubernetes-group-version-kind": [gvk]}
        if not kind.custom:
            for path, key in patch_lists(kind.kind).items():
                _mark(schemas, name, path.split("."), key)
    return schemas


def _collect(name: str, schemas: Json) -> None:
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in schemas:
            fields = _facts().types[name]
            schemas[name] = {
                "type": "object",
                "properties": {field: _schema(type_) for field, type_ in fields.items()},
            }
            waiting += [each.lstrip("[]{}") for each in fields.values() if each.lstrip("[]{}")[:1].isupper()]


def _schema(type_: str) -> Json:
    if type_.startswith("[]"):
        return {"type": "array", "items": _schema(type_[2:])}
    if type_.startswith("{}"):
        return {"type": "object", "additionalProperties": _schema(type_[2:])}
    plain: dict[str, Json] = {
        "str": {"type": "string"},
        "int": {"type": "integer"},
        "bool": {"type": "boolean"},
        "float": {"type": "number"},
        "bytes": {"type": "string", "format": "byte"},
        "time": {"type": "string", "format": "date-time"},
        "any": {"x-kubernetes-preserve-unknown-fields": True},
    }
    return plain.get(type_) or {"allOf": [{"$ref": f"#/components/schemas/{type_}"}]}


def _mark(schemas: Json, name: str, path: list[str], key: str) -> None:
    """Note on the list at a path by which key it merges."""
    for step in path[:-1]:
        name = _facts().types[name][step].lstrip("[]{}")
    listed = schemas[name]["properties"][path[-1]]
    listed["x-kubernetes-patch-strategy"] = "merge"
    if key:
        listed["x-kubernetes-patch-merge-key"] = key
