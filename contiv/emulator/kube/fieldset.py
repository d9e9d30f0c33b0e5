"""Sets of fields in the form that managedFields has (FieldsV1): nested objects keyed ``f:``, ``k:``, ``v:`` and ``.``.

Comes in: content of objects. Goes out: field sets and their algebra, and content without or joined with fields. Pure.
A leaf is an empty object; an element of a keyed list has ``.`` for itself beside its fields. Which lists are keyed
stands in ``merge_keys``; all others are one value. Next: ``apply`` decides who owns which set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from contiv.emulator.kube.errors import Json
from contiv.emulator.kube.merge_keys import ATOMIC, KEY_DEFAULTS, apply_keys

Fields = dict[str, Any]

_UNOWNED_META = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    }
)


def fields_of(kind: str, content: Json) -> Fields:
    """All fields of an object that somebody can own."""
    return _fields(kind, _ownable(content), "")


def _ownable(content: Json) -> Json:
    result = {key: value for key, value in content.items() if key not in ("kind", "apiVersion", "metadata")}
    metadata = {key: value for key, value in content["metadata"].items() if key not in _UNOWNED_META}
    return result | ({"metadata": metadata} if metadata else {})


def _fields(kind: str, value: Any, path: str) -> Fields:
    if isinstance(value, dict):
        if path in ATOMIC.get(kind, ()):
            return {}
        return {f"f:{key}": _fields(kind, each, _join(path, key)) for key, each in value.items()}
    if isinstance(value, list):
        keys = apply_keys(kind, path)
        if keys is None:
            return {}
        if keys == ():
            return {_value_key(each): {} for each in value}
        return {_element_key(each, keys): {".": {}} | _fields(kind, each, path) for each in value}
    return {}


def changed(kind: str, old: Json, new: Json) -> Fields:
    """Fields of ``new`` that are absent from ``old`` or have another value there."""
    return _changed(kind, _ownable(old), _ownable(new), "") or {}


def _changed(kind: str, old: Any, new: Any, path: str) -> Fields | None:
    """None when nothing differs; an empty set when the value as a whole does."""
    if old == new:
        return None
    if isinstance(new, dict) and isinstance(old, dict) and path not in ATOMIC.get(kind, ()):
        result: Fields = {}
        for key, value in new.items():
            here = _join(path, key)
            inner = _changed(kind, old[key], value, here) if key in old else _fields(kind, value, here)
            if inner is not None:
                result[f"f:{key}"] = inner
        return result or None
    keys = apply_keys(kind, path)
    if not (isinstance(new, list) and isinstance(old, list)) or keys is None:
        return _fields(kind, new, path)
    if keys == ():
        return {_value_key(each): {} for each in new if each not in old} or None
    before = {_element_key(each, keys): each for each in old}
    result = {}
    for each in new:
        element = _element_key(each, keys)
        if element not in before:
            result[element] = {".": {}} | _fields(kind, each, path)
        elif inner := _changed(kind, before[element], each, path):
            result[element] = inner
    return result or None


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _element_key(element: Any, keys: tuple[str, ...]) -> str:
    holder = element if isinstance(element, dict) else {}
    identity = {key: holder.get(key, KEY_DEFAULTS.get(key)) for key in keys}
    return "k:" + json.dumps(identity, separators=(",", ":"))


def _value_key(value: Any) -> str:
    return "v:" + json.dumps(value, separators=(",", ":"))


def union(one: Fields, other: Fields) -> Fields:
    result = dict(one)
    for key, value in other.items():
        result[key] = union(result[key], value) if key in result else value
    return result


def minus(one: Fields, other: Fields) -> Fields:
    """What is in ``one`` and not in ``other``; a leaf of either side takes the whole field."""
    result: Fields = {}
    for key, value in one.items():
        if key not in other:
            result[key] = value
        elif value and other[key]:
            rest = minus(value, other[key])
            if rest:
                result[key] = rest
    return result


def both(one: Fields, other: Fields) -> Fields:
    """What is in both."""
    result: Fields = {}
    for key, value in one.items():
        if key not in other:
            continue
        if not value or not other[key]:
            result[key] = value or other[key]
        elif inner := both(value, other[key]):
            result[key] = inner
    return result


def paths(fields: Fields, prefix: str = "") -> Iterator[str]:
    """The leaves as people read them: ``.spec.containers[name="web"].image``."""
    for key, value in fields.items():
        if key == ".":
            continue
        mark, _, text = key.partition(":")
        if mark == "f":
            here = f"{prefix}.{text}"
        elif mark == "k":
            identity = ",".join(f"{name}={json.dumps(each)}" for name, each in json.loads(text).items())
            here = f"{prefix}[{identity}]"
        else:
            here = f"{prefix}[={text}]"
        if any(inner != "." for inner in value):
            yield from paths(value, here)
        else:
            yield here


def without(kind: str, value: Any, *, fields: Fields, path: str = "") -> Any:
    """The value with these fields taken out; objects that end empty go too."""
    if isinstance(value, dict):
        result = dict(value)
        for key, inner in fields.items():
            name = key[2:]
            if not key.startswith("f:") or name not in result:
                continue
            rest = without(kind, result[name], fields=inner, path=_join(path, name)) if inner else None
            if rest in (None, {}, []):
                del result[name]
            else:
                result[name] = rest
        return result
    keys = apply_keys(kind, path)
    if not isinstance(value, list) or keys is None:
        return None
    if keys == ():
        return [each for each in value if _value_key(each) not in fields]
    kept = []
    for each in value:
        inner = fields.get(_element_key(each, keys))
        if inner is None:
            kept.append(each)
        elif "." not in inner:
            kept.append(without(kind, each, fields=inner, path=path))
    return kept


def joined(kind: str, live: Any, applied: Any, path: str = "") -> Any:
    """The live value with the applied one laid over it."""
    if isinstance(applied, dict) and isinstance(live, dict) and path not in ATOMIC.get(kind, ()):
        result = dict(live)
        for key, value in applied.items():
            result[key] = joined(kind, live.get(key), value, _join(path, key))
        return result
    keys = apply_keys(kind, path)
    if not (isinstance(applied, list) and isinstance(live, list)) or keys is None:
        return applied
    if keys == ():
        return [*live, *(each for each in applied if each not in live)]
    over = {_element_key(each, keys): each for each in applied}
    result_list = [joined(kind, each, over.pop(_element_key(each, keys), {}), path) for each in live]
    return [*result_list, *over.values()]
