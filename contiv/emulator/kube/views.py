"""How an object is shown: whole, as a row of a Table, or as PartialObjectMetadata; negotiated by the Accept header.

Comes in: records, the Accept header. Goes out: bytes of single objects, lists and watch frames in the negotiated view.
Refuses (406) media types that are not served, protobuf among them. Next: ``server`` and ``watch`` write the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from contiv.emulator.kube import lists
from contiv.emulator.kube.cells import age, cells, columns, since
from contiv.emulator.kube.errors import Json, not_acceptable
from contiv.emulator.kube.kinds import Kind
from contiv.emulator.kube.store import Record

Shape = Literal["whole", "table", "metadata"]
_encode = msgspec.json.encode


class View(msgspec.Struct, frozen=True):
    """A negotiated shape; ``include`` is the table's ``includeObject``."""

    shape: Shape = "whole"
    include: str = "Metadata"
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def single(self, kind: Kind, record: Record) -> bytes:
        """One object, as get, create, update, patch and delete answer."""
        return self._object(kind, record, definitions=True) + b"\n"

    def page(self, kind: Kind, answer: lists.Page) -> bytes:
        """A page of a list."""
        if self.shape == "whole":
            return lists.encode(kind, answer)
        meta = answer.metadata()
        if self.shape == "table":
            rows = [self._row(kind, record) for record in answer.records]
            return _encode(_table(kind, rows, meta, definitions=True)) + b"\n"
        items = [_metadata_only(kind, record) for record in answer.records]
        document = {
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": meta,
            "items": items,
        }
        return _encode(document) + b"\n"

    def frame(self, event: str, kind: Kind, record: Record, *, first: bool) -> bytes:
        """One event of a watch. A table names its columns in the first one only."""
        body = self._object(kind, record, definitions=first)
        return b'{"type":"' + event.encode() + b'","object":' + body + b"}\n"

    def bookmark(self, kind: Kind, revision: int, *, initial_events_end: bool) -> bytes:
        """The event that tells a watcher how far it is."""
        metadata: Json = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        body: Json = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        if self.shape == "table":
            body = _table(kind, [], {"resourceVersion": str(revision)}, definitions=False)
        elif self.shape == "metadata":
            body |= {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        return b'{"type":"BOOKMARK","object":' + _encode(body) + b"}\n"

    def _object(self, kind: Kind, record: Record, *, definitions: bool) -> bytes:
        if self.shape == "whole":
            return kind.head + record.body
        if self.shape == "metadata":
            return _encode(_metadata_only(kind, record))
        meta = {"resourceVersion": str(record.revision)}
        return _encode(_table(kind, [self._row(kind, record)], meta, definitions=definitions))

    def _row(self, kind: Kind, record: Record) -> Json:
        row: Json = {"cells": _cells(kind, record.content, self.clock())}
        if self.include == "Object":
            row["object"] = {"kind": kind.kind, "apiVersion": kind.api_version, **record.content}
        elif self.include == "Metadata":
            row["object"] = _metadata_only(kind, record)
        return row


def _metadata_only(kind: Kind, record: Record) -> Json:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": record.content["metadata"],
    }


def _table(kind: Kind, rows: list[Json], meta: Json, *, definitions: bool) -> Json:
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": _definitions(kind) if definitions else None,
        "rows": rows,
    }


def _definitions(kind: Kind) -> list[Json]:
    listed = [(name, type_, priority) for name, type_, priority in columns("" if kind.custom else kind.kind)]
    if kind.custom and kind.columns:
        listed = [("Name", "string", 0), *((each.name, each.type, each.priority) for each in kind.columns)]
    return [
        {
            "name": name,
            "type": type_,
            "format": "name" if name == "Name" else "",
            "description": "",
            "priority": priority,
        }
        for name, type_, priority in listed
    ]


def _cells(kind: Kind, content: Json, now: datetime) -> list[Any]:
    if not kind.custom:
        return cells(kind.kind, content, now=now)
    name = content["metadata"]["name"]
    if not kind.columns:
        return [name, age(content, now)]
    return [name, *(_column(content, each.json_path, each.type, now) for each in kind.columns)]


def _column(content: Json, path: str, type_: str, now: datetime) -> Any:
    """The value under a simple JSON path (``.spec.size``, ``.status.list[0].ip``); dates become ages."""
    value: Any = content
    for step in path.strip("{}").lstrip(".").replace("[", ".").replace("]", "").split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return since(value, now) if type_ == "date" and isinstance(value, str) else value


def negotiate(accept: str, *, include: str = "", clock: Callable[[], datetime] | None = None) -> View:
    """The view that an Accept header asks for, first acceptable alternative first."""
    plain = View() if clock is None else View(clock=clock)
    for alternative in (accept or "*/*").split(","):
        media_type, *parameters = (part.strip() for part in alternative.split(";"))
        options = dict(part.split("=", 1) for part in parameters if "=" in part)
        if media_type not in ("application/json", "application/*", "*/*"):
            continue
        asked = options.get("as", "")
        if not asked:
            return plain
        if options.get("g", "meta.k8s.io") != "meta.k8s.io" or options.get("v", "v1") != "v1":
            continue
        if asked == "Table":
            return msgspec.structs.replace(plain, shape="table", include=include or "Metadata")
        if asked in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return msgspec.structs.replace(plain, shape="metadata")
    raise not_acceptable(("application/json", "application/yaml"))
