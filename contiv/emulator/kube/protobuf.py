"""Request bodies in Kubernetes' protobuf, for the kinds that kubectl creates through typed clients.

Since 1.32 ``kubectl create namespace|configmap|secret|service|serviceaccount`` and evictions send protobuf whatever
the server offers. Comes in: an enveloped message (``k8s\\0`` + runtime.Unknown). Goes out: the document as its JSON
form would be. Answers stay JSON, which those clients accept. Field numbers are those of the ``generated.proto`` files
of k8s.io/api and apimachinery. Refuses (415) kinds without a table here and (400) bytes that are no such message.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from contiv.emulator.kube.errors import Json, bad_request, unsupported_media_type

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"


class _Field(msgspec.Struct, frozen=True):
    """``type`` is string, int, bool, bytes, time, intstr or a message name; ``keep`` keeps zero values (pointers)."""

    name: str
    type: str = "string"
    repeated: bool = False
    mapped: bool = False
    keep: bool = False


def _text(name: str) -> _Field:
    return _Field(name)


def _list(name: str, type_: str = "string") -> _Field:
    return _Field(name, type_, repeated=True)


def _map(name: str, type_: str = "string") -> _Field:
    return _Field(name, type_, mapped=True)


_MESSAGES: dict[str, dict[int, _Field]] = {
    "TypeMeta": {1: _text("apiVersion"), 2: _text("kind")},
    "Unknown": {1: _Field("typeMeta", "TypeMeta"), 2: _Field("raw", "raw"), 4: _text("contentType")},
    "ObjectMeta": {
        1: _text("name"),
        2: _text("generateName"),
        3: _text("namespace"),
        5: _text("uid"),
        6: _text("resourceVersion"),
        7: _Field("generation", "int"),
        8: _Field("creationTimestamp", "time"),
        9: _Field("deletionTimestamp", "time"),
        10: _Field("deletionGracePeriodSeconds", "int", keep=True),
        11: _map("labels"),
        12: _map("annotations"),
        13: _list("ownerReferences", "OwnerReference"),
        14: _list("finalizers"),
    },
    "OwnerReference": {
        1: _text("kind"),
        3: _text("name"),
        4: _text("uid"),
        5: _text("apiVersion"),
        6: _Field("controller", "bool", keep=True),
        7: _Field("blockOwnerDeletion", "bool", keep=True),
    },
    "ObjectReference": {
        1: _text("kind"),
        2: _text("namespace"),
        3: _text("name"),
        4: _text("uid"),
        5: _text("apiVersion"),
        6: _text("resourceVersion"),
        7: _text("fieldPath"),
    },
    "LocalObjectReference": {1: _text("name")},
    "NamespaceSpec": {1: _list("finalizers")},
    "NamespaceStatus": {1: _text("phase")},
    "Namespace": {
        1: _Field("metadata", "ObjectMeta"),
        2: _Field("spec", "NamespaceSpec"),
        3: _Field("status", "NamespaceStatus"),
    },
    "ConfigMap": {
        1: _Field("metadata", "ObjectMeta"),
        2: _map("data"),
        3: _map("binaryData", "bytes"),
        4: _Field("immutable", "bool", keep=True),
    },
    "Secret": {
        1: _Field("metadata", "ObjectMeta"),
        2: _map("data", "bytes"),
        3: _text("type"),
        4: _map("stringData"),
        5: _Field("immutable", "bool", keep=True),
    },
    "ServiceAccount": {
        1: _Field("metadata", "ObjectMeta"),
        2: _list("secrets", "ObjectReference"),
        3: _list("imagePullSecrets", "LocalObjectReference"),
        4: _Field("automountServiceAccountToken", "bool", keep=True),
    },
    "Service": {1: _Field("metadata", "ObjectMeta"), 2: _Field("spec", "ServiceSpec")},
    "ServiceSpec": {
        1: _list("ports", "ServicePort"),
        2: _map("selector"),
        3: _text("clusterIP"),
        4: _text("type"),
        5: _list("externalIPs"),
        7: _text("sessionAffinity"),
        8: _text("loadBalancerIP"),
        9: _list("loadBalancerSourceRanges"),
        10: _text("externalName"),
        11: _text("externalTrafficPolicy"),
        12: _Field("healthCheckNodePort", "int"),
        13: _Field("publishNotReadyAddresses", "bool"),
        14: _Field("sessionAffinityConfig", "SessionAffinityConfig"),
        17: _text("ipFamilyPolicy"),
        18: _list("clusterIPs"),
        19: _list("ipFamilies"),
        20: _Field("allocateLoadBalancerNodePorts", "bool", keep=True),
        21: _text("loadBalancerClass"),
        22: _text("internalTrafficPolicy"),
        23: _text("trafficDistribution"),
    },
    "SessionAffinityConfig": {1: _Field("clientIP", "ClientIPConfig")},
    "ClientIPConfig": {1: _Field("timeoutSeconds", "int")},
    "ServicePort": {
        1: _text("name"),
        2: _text("protocol"),
        3: _Field("port", "int"),
        4: _Field("targetPort", "intstr"),
        5: _Field("nodePort", "int"),
        6: _text("appProtocol"),
    },
    "DeleteOptions": {
        1: _Field("gracePeriodSeconds", "int", keep=True),
        2: _Field("preconditions", "Preconditions"),
        4: _text("propagationPolicy"),
        5: _list("dryRun"),
    },
    "Preconditions": {1: _text("uid"), 2: _text("resourceVersion")},
    "Binding": {1: _Field("metadata", "ObjectMeta"), 2: _Field("target", "ObjectReference")},
    "Eviction": {1: _Field("metadata", "ObjectMeta"), 2: _Field("deleteOptions", "DeleteOptions")},
    "Lease": {1: _Field("metadata", "ObjectMeta"), 2: _Field("spec", "LeaseSpec")},
    "LeaseSpec": {
        1: _text("holderIdentity"),
        2: _Field("leaseDurationSeconds", "int"),
        3: _Field("acquireTime", "microtime"),
        4: _Field("renewTime", "microtime"),
        5: _Field("leaseTransitions", "int", keep=True),
    },
    "IntOrString": {1: _Field("type", "int"), 2: _Field("intVal", "int"), 3: _text("strVal")},
    "Time": {1: _Field("seconds", "int"), 2: _Field("nanos", "int")},
}


def decode(body: bytes) -> Json:
    """The document in an enveloped message."""
    if not body.startswith(_MAGIC):
        raise bad_request("protobuf body does not start with the k8s prefix")
    try:
        envelope = _message("Unknown", memoryview(body)[len(_MAGIC) :])
        meta = envelope.get("typeMeta") or {}
        kind = meta.get("kind", "")
        if kind not in _MESSAGES:
            raise unsupported_media_type(f"{MEDIA_TYPE} of {kind!r}", ("application/json",))
        return meta | _message(kind, memoryview(envelope.get("raw", b"")))
    except (IndexError, UnicodeDecodeError) as error:
        raise bad_request(f"protobuf body cannot be decoded: {error}") from error


def _message(name: str, data: memoryview) -> Json:
    table = _MESSAGES[name]
    result: Json = {}
    for number, raw in _fields(data):
        field = table.get(number)
        if field is None:
            continue
        if field.mapped:
            key, value = _entry(raw, field.type)
            result.setdefault(field.name, {})[key] = value
            continue
        value = _value(field.type, raw)
        if field.repeated:
            result.setdefault(field.name, []).append(value)
        elif field.keep or value not in ("", 0, False, {}, b"", None):
            result[field.name] = value
    return result


def _entry(raw: int | memoryview, type_: str) -> tuple[str, Any]:
    """One pair of a map: field 1 is the key, field 2 the value."""
    parts = dict(_fields(_bytes(raw)))
    key = str(_value("string", parts.get(1, memoryview(b""))))
    return key, _value(type_, parts.get(2, memoryview(b"")))


def _bytes(raw: int | memoryview) -> memoryview:
    if isinstance(raw, int):
        raise bad_request("protobuf body: a number where bytes belong")
    return raw


def _value(type_: str, raw: int | memoryview) -> Any:
    if type_ == "int":
        number = raw if isinstance(raw, int) else 0
        return number - (1 << 64) if number >= 1 << 63 else number
    if type_ == "bool":
        return bool(raw)
    data = _bytes(raw)
    convert = _CONVERSIONS.get(type_)
    return convert(data) if convert is not None else _message(type_, data)


def _int_or_string(data: memoryview) -> Any:
    parts = _message("IntOrString", data)
    return parts.get("strVal", "") if parts.get("type") else parts.get("intVal", 0)


_CONVERSIONS: dict[str, Callable[[memoryview], Any]] = {
    "string": lambda data: bytes(data).decode(),
    "raw": bytes,
    "bytes": lambda data: b64encode(data).decode(),
    "intstr": _int_or_string,
    "time": lambda data: _time(_message("Time", data), micro=False),
    "microtime": lambda data: _time(_message("Time", data), micro=True),
}


def _time(parts: Json, *, micro: bool) -> str | None:
    if not parts:
        return None
    moment = datetime.fromtimestamp(parts.get("seconds", 0), UTC)
    if micro:
        moment = moment.replace(microsecond=parts.get("nanos", 0) // 1000)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every field; Kubernetes uses varints and length-delimited fields only."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == 0:
            number, position = _varint(data, position)
            yield tag >> 3, number
        elif tag & 7 == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise IndexError("a field is longer than its message")
            yield tag >> 3, data[position : position + length]
            position += length
        else:
            raise IndexError(f"wire type {tag & 7} is not used by Kubernetes")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise IndexError("a number has more than ten bytes")
