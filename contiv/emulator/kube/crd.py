"""Custom resources: what a stored CustomResourceDefinition makes the server serve.

Comes in: events of the table of definitions. Goes out: kinds added to and removed from the registry; the table of a
removed definition is dropped with its objects. Objects of custom kinds are stored as they come (no schema is enforced
beyond the status subresource). Next: ``discovery`` shows them, ``verbs`` serves them like any other kind.
"""

from __future__ import annotations

from contiv.emulator.kube.errors import Cause, Json, required, wrong
from contiv.emulator.kube.kinds import Column, Kind, Kinds
from contiv.emulator.kube.store import Event, Store


def follow(store: Store, kinds: Kinds, event: Event) -> None:
    """Bring the registry in step with one change of a definition."""
    before = kinds_of(event.previous.content) if event.previous is not None else []
    after = [] if event.type == "DELETED" else kinds_of(event.record.content)
    for kind in before:
        kinds.remove(kind)
    for kind in after:
        kinds.add(kind)
    if before and not after:
        store.drop_table(before[0].table)


def kinds_of(content: Json) -> list[Kind]:
    """One kind per served version of a definition."""
    spec, names = content["spec"], content["spec"]["names"]
    return [
        Kind(
            group=spec["group"],
            version=version["name"],
            kind=names["kind"],
            plural=names["plural"],
            namespaced=spec.get("scope") == "Namespaced",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            subresources=("status",) if "status" in (version.get("subresources") or {}) else (),
            custom=True,
            columns=_columns(version),
            singular_name=names.get("singular") or "",
            has_generation=True,
            schema=(version.get("schema") or {}).get("openAPIV3Schema"),
        )
        for version in spec.get("versions") or ()
        if version.get("served")
    ]


def _columns(version: Json) -> tuple[Column, ...]:
    listed = [
        Column(
            name=each["name"],
            type=each.get("type", "string"),
            json_path=each.get("jsonPath", ""),
            priority=each.get("priority", 0),
            description=each.get("description", ""),
        )
        for each in version.get("additionalPrinterColumns") or ()
    ]
    if not listed:
        return ()
    # The real server appends no age column when a definition brings its own.
    return tuple(listed)


def validate(content: Json) -> list[Cause]:
    """Faults of a definition that would make it unservable."""
    spec = content.get("spec") or {}
    names = spec.get("names") or {}
    causes = [required(f"spec.{field}") for field in ("group", "scope", "versions") if not spec.get(field)]
    causes += [required(f"spec.names.{field}") for field in ("plural", "kind") if not names.get(field)]
    name = content["metadata"].get("name")
    if not causes and name != f"{names['plural']}.{spec['group']}":
        causes.append(wrong("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if not causes and sum(1 for each in spec["versions"] if each.get("storage")) != 1:
        causes.append(wrong("spec.versions", [], "must have exactly one version marked as storage version"))
    return causes
