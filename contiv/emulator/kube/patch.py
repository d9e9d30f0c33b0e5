"""JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.

Comes in: a decoded document and a decoded patch. Goes out: a new document; what came in is never changed. Refuses
with 400 or 422 what cannot be applied. Which lists merge by which key stands in ``merge_keys``.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from contiv.emulator.kube.errors import ApiError, Json, bad_request
from contiv.emulator.kube.merge_keys import patch_merge_key

OPERATIONS_MAX = 10_000  # as apiserver's maxJSONPatchOperations


def json_patch(document: Json, operations: Any) -> Json:
    """Apply RFC 6902 operations in order."""
    if not isinstance(operations, list):
        raise bad_request("json patch must be an array of operations")
    if len(operations) > OPERATIONS_MAX:
        raise ApiError(413, "RequestEntityTooLarge", message=f"more than {OPERATIONS_MAX} operations in a json patch")
    result: Any = deepcopy(document)
    for operation in operations:
        result = _operate(result, operation)
    if not isinstance(result, dict):
        raise bad_request("json patch must leave an object")
    return result


def _unprocessable(message: str) -> ApiError:
    return ApiError(
        422,
        "Invalid",
        message=f"the server rejected our request due to an error in our request: {message}",
        details={},
    )


def _operate(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
        raise bad_request("json patch operation needs op and path")
    path, verb = _pointer(operation["path"]), operation.get("op")
    if verb == "add":
        return _add(document, path, deepcopy(operation.get("value")))
    if verb == "remove":
        return _remove(document, path)[0]
    if verb == "replace":
        return _add(_remove(document, path)[0] if path else None, path, deepcopy(operation.get("value")))
    if verb == "test":
        if _find(document, path) != operation.get("value"):
            raise _unprocessable(f"testing value {operation['path']} failed")
        return document
    if verb in ("move", "copy"):
        source = _pointer(str(operation.get("from", "")))
        value = deepcopy(_find(document, source))
        return _add(_remove(document, source)[0] if verb == "move" else document, path, value)
    raise bad_request(f"unexpected json patch operation {verb!r}")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise bad_request(f"json pointer {text!r} does not start with /")
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _find(document: Any, path: list[str]) -> Any:
    for step in path:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            raise _unprocessable(f"path {'/'.join(path)} does not exist")
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _find(document, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list) and last == "-":
        parent.append(value)
    elif isinstance(parent, list) and last.isdecimal() and int(last) <= len(parent):
        parent.insert(int(last), value)
    else:
        raise _unprocessable(f"path {'/'.join(path)} cannot be added")
    return document


def _remove(document: Any, path: list[str]) -> tuple[Any, Any]:
    value = _find(document, path)
    parent = _find(document, path[:-1])
    if isinstance(parent, list):
        del parent[int(path[-1])]
    else:
        del parent[path[-1]]
    return document, value


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386: null deletes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


_DELETE_FROM, _ORDER, _RETAIN = "$deleteFromPrimitiveList/", "$setElementOrder/", "$retainKeys"


def strategic_merge_patch(kind: str, document: Json, *, patch: Any) -> Json:
    """Kubernetes' merge patch: lists of objects merge by key, with the ``$patch`` family of directives."""
    if not isinstance(patch, dict):
        raise bad_request("strategic merge patch must be an object")
    return _merge_object(kind, document, patch=patch, path="")


def _merge_object(kind: str, document: Json, *, patch: Json, path: str) -> Json:
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"Unrecognized directive type: {directive}")
    result = dict(document)
    if _RETAIN in patch:
        result = {key: value for key, value in result.items() if key in patch[_RETAIN]}
    for key, value in patch.items():
        if key.startswith("$") or key == _RETAIN:
            continue
        here = f"{path}.{key}" if path else key
        result = _merge_field(kind, result, key=key, value=value, path=here)
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            field = key.removeprefix(_DELETE_FROM)
            result[field] = [each for each in result.get(field) or [] if each not in value]
    for key, value in patch.items():
        if key.startswith(_ORDER):
            field = key.removeprefix(_ORDER)
            here = f"{path}.{field}" if path else field
            if isinstance(result.get(field), list):
                result[field] = _ordered(result[field], value, key=patch_merge_key(kind, here))
    return result


def _merge_field(kind: str, result: Json, *, key: str, value: Any, path: str) -> Json:
    current = result.get(key)
    if value is None:
        result.pop(key, None)
    elif isinstance(value, dict):
        base = current if isinstance(current, dict) else {}
        result[key] = _merge_object(kind, base, patch=value, path=path)
    elif isinstance(value, list):
        merge_key = patch_merge_key(kind, path)
        if merge_key is None:
            result[key] = deepcopy(value)
        elif merge_key == "":
            base_list = current or []
            result[key] = [*base_list, *(each for each in value if each not in base_list)]
        else:
            merged = _merge_list(kind, current or [], patch=value, merge_key=merge_key, path=path)
            result[key] = _ordered(merged, value, key=merge_key)
    else:
        result[key] = value
    return result


def _merge_list(kind: str, current: list[Any], *, patch: list[Any], merge_key: str, path: str) -> list[Any]:
    if any(isinstance(each, dict) and each.get("$patch") == "replace" for each in patch):
        return [deepcopy(each) for each in patch if "$patch" not in each]
    result = list(current)
    for each in patch:
        if not isinstance(each, dict) or merge_key not in each:
            raise bad_request(f"map: {each} does not contain declared merge key: {merge_key}")
        found = [index for index, old in enumerate(result) if old.get(merge_key) == each[merge_key]]
        if each.get("$patch") == "delete":
            result = [old for old in result if old.get(merge_key) != each[merge_key]]
        elif found:
            result[found[0]] = _merge_object(kind, result[found[0]], patch=each, path=path)
        else:
            result.append(_merge_object(kind, {}, patch=each, path=path))
    return result


def _ordered(current: list[Any], order: list[Any], *, key: str | None) -> list[Any]:
    """The list in the order that the patch asks for; elements that it does not name keep their relative places."""

    def identity(element: Any) -> Any:
        return element.get(key) if key and isinstance(element, dict) else element

    rank = {_hashable(identity(each)): index for index, each in enumerate(order)}
    named = sorted(
        (each for each in current if _hashable(identity(each)) in rank),
        key=lambda each: rank[_hashable(identity(each))],
    )
    following = iter(named)
    return [next(following) if _hashable(identity(each)) in rank else each for each in current]


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
