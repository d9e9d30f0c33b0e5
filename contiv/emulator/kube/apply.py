"""Who owns which field: managedFields on every write, and server-side apply.

Comes in: content before and after, the manager's name. Goes out: content with managedFields brought up to date, and
for apply the merged object. Refuses an apply that would change what others own, unless forced. Follows
``structured-merge-diff`` in behaviour for the types of ``merge_keys``. Next: ``verbs`` stores the result.
"""

from __future__ import annotations

from copy import deepcopy

from contiv.emulator.kube.errors import ApiError, Json, apply_conflict
from contiv.emulator.kube.fieldset import Fields, both, changed, fields_of, joined, minus, paths, union, without
from contiv.emulator.kube.kinds import Kind


def _schema(kind: Kind) -> str:
    """The name under which ``merge_keys`` knows a kind; custom resources have only atomic lists."""
    return "" if kind.custom else kind.kind


def _entry(kind: Kind, manager: str, *, operation: str, fields: Fields, subresource: str, now: str) -> Json:
    entry: Json = {
        "manager": manager,
        "operation": operation,
        "apiVersion": kind.api_version,
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    if subresource:
        entry["subresource"] = subresource
    return entry


def _is(entry: Json, manager: str, *, operation: str, subresource: str) -> bool:
    return (entry["manager"], entry["operation"], entry.get("subresource", "")) == (manager, operation, subresource)


def restore(content: Json, *, old: Json, managed: list[Json] | None) -> None:
    """Clients' managedFields do not count: take the given entries, else the stored ones."""
    entries = managed if managed is not None else old["metadata"].get("managedFields")
    if entries:
        content["metadata"]["managedFields"] = entries
    else:
        content["metadata"].pop("managedFields", None)


def track(kind: Kind, content: Json, *, old: Json | None, manager: str, subresource: str, now: str) -> None:
    """Note in ``content`` that an ordinary write by ``manager`` set what differs from ``old``."""
    schema = _schema(kind)
    if old is None:
        fields = fields_of(schema, content)
        entry = _entry(kind, manager, operation="Update", fields=fields, subresource=subresource, now=now)
        content["metadata"]["managedFields"] = [entry]
        return
    difference = changed(schema, old, content)
    present = fields_of(schema, content)
    entries: list[Json] = []
    mine: Json | None = None
    for entry in old["metadata"].get("managedFields") or ():
        if _is(entry, manager, operation="Update", subresource=subresource):
            mine = entry
            continue
        rest = both(minus(entry["fieldsV1"], difference), present)
        if rest:
            entries.append(entry | {"fieldsV1": rest})
    owned = both(union(mine["fieldsV1"] if mine else {}, difference), present)
    if owned:
        entries.append(_entry(kind, manager, operation="Update", fields=owned, subresource=subresource, now=now))
    content["metadata"]["managedFields"] = entries


def first(kind: Kind, applied: Json, *, manager: str, now: str) -> Json:
    """An object that apply creates: the manager owns all of it."""
    content = deepcopy(applied)
    content["metadata"].pop("managedFields", None)
    fields = fields_of(_schema(kind), content)
    entry = _entry(kind, manager, operation="Apply", fields=fields, subresource="", now=now)
    content["metadata"]["managedFields"] = [entry]
    return content


def merge(kind: Kind, applied: Json, *, live: Json, manager: str, subresource: str, force: bool, now: str) -> Json:
    """The live object with the applied configuration, without what this manager once applied and dropped."""
    schema = _schema(kind)
    applied = applied | {"metadata": dict(applied["metadata"])}
    version = applied["metadata"].pop("resourceVersion", None)
    applied["metadata"].pop("managedFields", None)
    wanted, difference = fields_of(schema, applied), changed(schema, live, applied)
    mine: Json | None = None
    others: list[Json] = []
    conflicts: list[tuple[Json, Fields]] = []
    for entry in live["metadata"].get("managedFields") or ():
        if _is(entry, manager, operation="Apply", subresource=subresource):
            mine = entry
            continue
        clash = both(difference, entry["fieldsV1"])
        if clash:
            conflicts.append((entry, clash))
            entry = entry | {"fieldsV1": minus(entry["fieldsV1"], clash)}  # noqa: PLW2901
        if entry["fieldsV1"]:
            others.append(entry)
    if conflicts and not force:
        raise _conflict(conflicts)
    dropped = minus(mine["fieldsV1"], wanted) if mine else {}
    for entry in others:
        dropped = minus(dropped, entry["fieldsV1"])
    base = without(schema, live, fields=dropped) if dropped else live
    merged: Json = joined(schema, base, applied)
    same = mine is not None and mine["fieldsV1"] == wanted and not difference and not dropped
    time = mine["time"] if mine is not None and same else now
    entry = _entry(kind, manager, operation="Apply", fields=wanted, subresource=subresource, now=time)
    place = len(others)
    if same:
        stored = [each["manager"] for each in live["metadata"]["managedFields"]]
        place = min(stored.index(manager), len(others))
    merged["metadata"] = merged["metadata"] | {"managedFields": [*others[:place], entry, *others[place:]]}
    merged["metadata"].pop("resourceVersion", None)
    merged["metadata"]["resourceVersion"] = version or live["metadata"]["resourceVersion"]
    return merged


def _conflict(conflicts: list[tuple[Json, Fields]]) -> ApiError:
    causes: list[Json] = []
    texts: list[str] = []
    for entry, fields in conflicts:
        who = f'"{entry["manager"]}"'
        if entry.get("subresource"):
            who += f' with subresource "{entry["subresource"]}"'
        who += f" using {entry['apiVersion']}"
        listed = list(paths(fields))
        cause = {"reason": "FieldManagerConflict", "message": f"conflict with {who}"}
        causes += [cause | {"field": path} for path in listed]
        if len(listed) == 1:
            texts.append(f"conflict with {who}: {listed[0]}")
        else:
            texts.append(f"conflicts with {who}:\n" + "\n".join(f"- {path}" for path in listed))
    plural = "conflict" if len(causes) == 1 else "conflicts"
    return apply_conflict(f"Apply failed with {len(causes)} {plural}: " + "\n".join(texts), causes=causes)
