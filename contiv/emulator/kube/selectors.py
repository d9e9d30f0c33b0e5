"""Label and field selectors of list, watch and deletecollection.

Comes in: the text of ``labelSelector`` and ``fieldSelector``. Goes out: a ``Selector`` whose ``matches`` takes an
object's content. Refuses with 400 what the grammar (apimachinery ``pkg/labels``) or the kind does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from contiv.emulator.kube.errors import ApiError, Json, bad_request
from contiv.emulator.kube.kinds import Kind

_KEY = r"[A-Za-z0-9./_-]+"
_REQUIREMENT = re.compile(
    rf"""\s*(?:
      (?P<set_key>{_KEY})\s+(?P<set_op>in|notin)\s*\((?P<values>[^)]*)\)
    | (?P<eq_key>{_KEY})\s*(?P<eq_op>==|=|!=)\s*(?P<eq_value>[A-Za-z0-9._-]*)
    | (?P<cmp_key>{_KEY})\s*(?P<cmp_op>[<>])\s*(?P<cmp_value>-?\d+)
    | (?P<absent>!)\s*(?P<absent_key>{_KEY})
    | (?P<exists>{_KEY})
    )\s*(?:,|$)""",
    re.VERBOSE,
)

_Test = Callable[[Json], bool]


class Selector(msgspec.Struct, frozen=True):
    """A conjunction of tests on labels and on fields; empty matches everything."""

    labels: tuple[_Test, ...] = ()
    fields: tuple[_Test, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, content: Json) -> bool:
        if self.labels:
            labels = content["metadata"].get("labels") or {}
            if not all(test(labels) for test in self.labels):
                return False
        return all(test(content) for test in self.fields)


def parse(kind: Kind, label_selector: str, *, field_selector: str) -> Selector:
    return Selector(labels=_parse_labels(label_selector), fields=_parse_fields(kind, field_selector))


def _parse_labels(text: str) -> tuple[_Test, ...]:
    tests: list[_Test] = []
    position = 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if match is None or match.end() == position:
            raise bad_request(f"unable to parse requirement: found '{text[position:]}', expected an identifier")
        tests.append(_label_test(match))
        position = match.end()
    return tuple(tests)


def _label_test(match: re.Match[str]) -> _Test:
    group = match.groupdict()
    if group["set_key"]:
        values = frozenset(each.strip() for each in group["values"].split(","))
        return _membership_test(group["set_key"], values, inside=group["set_op"] == "in")
    if group["eq_key"]:
        values = frozenset((group["eq_value"],))
        return _membership_test(group["eq_key"], values, inside=group["eq_op"] != "!=")
    if group["cmp_key"]:
        return _numeric_test(group["cmp_key"], group["cmp_op"], bound=int(group["cmp_value"]))
    present, key = group["absent"] is None, group["absent_key"] or group["exists"]
    return lambda labels: (key in labels) == present


def _membership_test(key: str, values: frozenset[str], *, inside: bool) -> _Test:
    return lambda labels: (labels.get(key) in values) == inside


def _numeric_test(key: str, operator: str, *, bound: int) -> _Test:
    def test(labels: Json) -> bool:
        value = str(labels.get(key, ""))
        if not re.fullmatch(r"-?\d+", value):
            return False
        return int(value) > bound if operator == ">" else int(value) < bound

    return test


# Field labels that each kind offers (pkg/apis/core/v1/conversion.go); all others offer name and namespace.
_FIELDS: dict[str, dict[str, str]] = {
    "Pod": {
        "spec.nodeName": "",
        "spec.restartPolicy": "",
        "spec.schedulerName": "",
        "spec.serviceAccountName": "",
        "spec.hostNetwork": "false",
        "status.phase": "",
        "status.podIP": "",
        "status.nominatedNodeName": "",
    },
    "Node": {"spec.unschedulable": "false"},
    "Namespace": {"status.phase": ""},
    "Service": {"spec.clusterIP": "", "spec.type": ""},
    "Secret": {"type": ""},
    "Event": {
        "involvedObject.kind": "",
        "involvedObject.namespace": "",
        "involvedObject.name": "",
        "involvedObject.uid": "",
        "involvedObject.apiVersion": "",
        "involvedObject.resourceVersion": "",
        "involvedObject.fieldPath": "",
        "reason": "",
        "reportingComponent": "",
        "source": "",
        "type": "",
    },
}
_META_FIELDS = {"metadata.name": "", "metadata.namespace": ""}


def _parse_fields(kind: Kind, text: str) -> tuple[_Test, ...]:
    tests: list[_Test] = []
    known = _META_FIELDS | _FIELDS.get(kind.kind, {})
    for term in filter(None, (each.strip() for each in text.split(","))):
        match = re.fullmatch(r"([^=!]+?)(==|!=|=)(.*)", term)
        if match is None:
            raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        field, operator, value = match.groups()
        if field not in known:
            raise _unknown_field(kind, field)
        tests.append(_field_test(field, value, default=known[field], equal=operator != "!="))
    return tuple(tests)


def _unknown_field(kind: Kind, field: str) -> ApiError:
    return bad_request(
        f'Unable to find "{kind.api_version}, Resource={kind.plural}" that match label selector "", '
        f'field selector "{field}": field label not supported: {field}'
    )


def _field_test(field: str, value: str, *, default: str, equal: bool) -> _Test:
    path = field.split(".")

    def test(content: Json) -> bool:
        return (_field(content, path, default=default) == value) == equal

    return test


def _field(content: Json, path: list[str], *, default: str) -> str:
    current: Any = content
    for step in path:
        current = current.get(step) if isinstance(current, dict) else None
        if current is None:
            return default
    if isinstance(current, bool):
        return "true" if current else "false"
    return str(current)
