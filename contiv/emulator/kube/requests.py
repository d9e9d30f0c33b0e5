"""A request as this server understands it: the target in its path, the parameters of its query, its body.

Comes in: method, path, query and bytes. Goes out: ``Target``, parsed queries and options, decoded documents. Pure.
Refuses malformed parameters and bodies with 400 or 415. Next: ``server`` calls the verb that the target names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from contiv.emulator.kube import protobuf, selectors
from contiv.emulator.kube.errors import bad_request, page_not_found, unsupported_media_type
from contiv.emulator.kube.kinds import Kind, Kinds
from contiv.emulator.kube.lists import Query
from contiv.emulator.kube.store import Name
from contiv.emulator.kube.verbs import DeleteOptions, WriteOptions
from contiv.emulator.kube.watch import TIMEOUT_DEFAULT_S, WatchQuery

Parameters = Mapping[str, str]
_JSON = ("application/json", "")
_YAML = ("application/yaml", "application/apply-patch+yaml", "text/yaml")


class Target(msgspec.Struct, frozen=True):
    """What a path names: a collection when ``name`` is empty, else an object or its subresource."""

    kind: Kind
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Name:
        return (self.namespace, self.name)


def target(kinds: Kinds, path: str) -> Target:
    """Parse ``/api/v1/...`` or ``/apis/<group>/<version>/...``."""
    steps = [step for step in path.split("/") if step]
    if steps[:1] == ["api"] and len(steps) > 2:
        group, version, rest = "", steps[1], steps[2:]
    elif steps[:1] == ["apis"] and len(steps) > 3:
        group, version, rest = steps[1], steps[2], steps[3:]
    else:
        raise page_not_found()
    namespace = ""
    # namespaces/<name>/<word> is a subresource for these words, else a collection inside the namespace.
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    kind = kinds.find(group, version, plural=rest[0])
    if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
        raise page_not_found()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and subresource not in kind.subresources:
        raise page_not_found()
    if name and kind.namespaced and not namespace:
        raise page_not_found()
    return Target(kind, namespace, name, subresource)


def list_query(where: Target, parameters: Parameters) -> Query:
    return Query(
        namespace=where.namespace,
        selector=_selector(where, parameters),
        limit=_number(parameters, "limit"),
        token=parameters.get("continue", ""),
        version=parameters.get("resourceVersion", ""),
        match=parameters.get("resourceVersionMatch", ""),
    )


def watch_query(where: Target, parameters: Parameters) -> WatchQuery:
    """The parameters of a watch; one object is watched by its name."""
    match = parameters.get("resourceVersionMatch", "")
    initial = flag(parameters, "sendInitialEvents") if "sendInitialEvents" in parameters else None
    if initial is None and match:
        raise bad_request("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
    if initial is not None and match != "NotOlderThan":
        raise bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    return WatchQuery(
        namespace=where.namespace,
        selector=_selector(where, parameters),
        version=parameters.get("resourceVersion", ""),
        bookmarks=flag(parameters, "allowWatchBookmarks"),
        initial_events=initial,
        timeout_s=_number(parameters, "timeoutSeconds") or TIMEOUT_DEFAULT_S,
    )


def _selector(where: Target, parameters: Parameters) -> selectors.Selector:
    fields = parameters.get("fieldSelector", "")
    if where.name:
        fields = f"metadata.name={where.name}" + (f",{fields}" if fields else "")
    return selectors.parse(where.kind, parameters.get("labelSelector", ""), field_selector=fields)


def write_options(parameters: Parameters, *, user_agent: str) -> WriteOptions:
    """Options of create, update and patch; the manager defaults to the first word of the user agent."""
    dry_run = parameters.get("dryRun", "")
    if dry_run not in ("", "All"):
        raise bad_request(f'Invalid value: "{dry_run}": dryRun: Unsupported value: supported values: "All"')
    manager = parameters.get("fieldManager") or user_agent.split("/", 1)[0][:128] or "unknown"
    return WriteOptions(
        manager=manager,
        strict=parameters.get("fieldValidation") == "Strict",
        force=flag(parameters, "force"),
        dry_run=dry_run == "All",
        warnings=[],
    )


def delete_options(parameters: Parameters, *, body: bytes, media_type: str) -> DeleteOptions:
    """Options of delete, from the body and from the query, the query winning."""
    document = decode(body, media_type=media_type) if body else {}
    try:
        options = msgspec.convert(document, DeleteOptions)
    except msgspec.ValidationError as error:
        raise bad_request(f"DeleteOptions: {error}") from error
    if parameters.get("gracePeriodSeconds"):
        grace = _number(parameters, "gracePeriodSeconds")
        options = msgspec.structs.replace(options, grace_period_seconds=grace)
    if parameters.get("dryRun"):
        options = msgspec.structs.replace(options, dry_run=[parameters["dryRun"]])
    return options


def flag(parameters: Parameters, name: str) -> bool:
    return parameters.get(name, "") in ("true", "1", "True", "t")


def _number(parameters: Parameters, name: str) -> int:
    text = parameters.get(name, "")
    if text and not text.isdecimal():
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({name})')
    return int(text or 0)


def decode(body: bytes, *, media_type: str) -> Any:
    """The document in a body; YAML for the YAML media types."""
    if media_type in _JSON or media_type.endswith("+json"):
        try:
            return msgspec.json.decode(body)
        except msgspec.MsgspecError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    if media_type in _YAML:
        try:
            return msgspec.to_builtins(yaml.load(body, Loader=_Loader))
        except yaml.YAMLError as error:
            raise bad_request(f"yaml: {error}") from error
    if media_type == protobuf.MEDIA_TYPE:
        return protobuf.decode(body)
    raise unsupported_media_type(media_type, ("application/json", "application/yaml", protobuf.MEDIA_TYPE))


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: timestamps stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
