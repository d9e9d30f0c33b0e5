"""The verbs that change objects: create, update, patch, delete, bind. Synchronous, no I/O, one call one version.

Comes in: a kind, a name and a decoded document. Goes out: the stored ``Record``. Refuses with ``ApiError`` as
Kubernetes does: unknown namespaces, stale versions, invalid objects, content of a namespace that goes away. Deletion
is as there: bound pods stay with a deletion time until their kubelet deletes them with grace 0, finalizers hold an
object, a namespace takes its content with it (the work of the namespace controller, done here).
Next: ``strategy`` prepares content, ``store`` keeps it; ``server`` and in-process users call this.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from contiv.emulator.kube import apply, patch, schema, services
from contiv.emulator.kube.errors import (
    ApiError,
    Json,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
    unsupported_media_type,
    wrong,
)
from contiv.emulator.kube.kinds import NAMESPACE, POD, Kind, Kinds
from contiv.emulator.kube.selectors import Selector
from contiv.emulator.kube.store import Name, Record, Store, make_record
from contiv.emulator.kube.strategy import Strategy

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)

GRACE_DEFAULT_S = 30
PROTECTED_NAMESPACES = ("default", "kube-system", "kube-public")
"""Namespaces that the NamespaceLifecycle plugin does not let go."""


class WriteOptions(msgspec.Struct, frozen=True):
    """``manager`` is the field manager; ``force`` takes fields from other managers on apply.

    Unknown fields are refused when ``strict``; else they are dropped and ``warnings`` tells about them.
    """

    manager: str = "unknown"
    strict: bool = False
    warnings: list[str] | None = None
    force: bool = False
    dry_run: bool = False


class DeleteOptions(msgspec.Struct, frozen=True, rename="camel"):
    """The part of meta/v1 DeleteOptions that is honoured."""

    grace_period_seconds: int | None = None
    preconditions: dict[str, str] = {}
    dry_run: list[str] = []


WRITE_DEFAULTS = WriteOptions()
DELETE_DEFAULTS = DeleteOptions()


class Deletion(msgspec.Struct, frozen=True):
    """The object as it was left; ``gone`` tells whether it was removed at once."""

    record: Record
    gone: bool


class Verbs:
    """All changes of one emulated cluster."""

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        *,
        strategy: Strategy,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store = store
        self.kinds = kinds
        self._strategy = strategy
        self._clock = clock

    def get(self, kind: Kind, name: Name) -> Record:
        record = self.store.table(kind.table).records.get(name)
        if record is None:
            raise not_found(kind, name[1])
        return record

    def create(self, kind: Kind, namespace: str, *, document: Json, options: WriteOptions = WRITE_DEFAULTS) -> Record:
        """Store a new object, named by itself or by ``generateName``."""
        content = self._intake(kind, document, namespace=namespace, options=options)
        metadata = content["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = services.generated_name(metadata["generateName"])
        name = (namespace, metadata.get("name") or "")
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if kind.namespaced:
            self._check_namespace(kind, namespace, name=name[1])
        for field in ("selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"):
            metadata.pop(field, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self.now()
        fresh = self._strategy.prepare_create(kind, content, name=name)
        if name in self.store.table(kind.table).records:
            raise already_exists(kind, name[1])
        apply.track(kind, fresh, old=None, manager=options.manager, subresource="", now=self.now())
        return self._commit(kind, name, fresh, dry_run=options.dry_run)

    def update(
        self,
        kind: Kind,
        name: Name,
        *,
        document: Json,
        subresource: str = "",
        options: WriteOptions = WRITE_DEFAULTS,
        tracked: bool = False,
    ) -> Record:
        """Replace an object; its ``resourceVersion``, when given, must be the stored one.

        ``tracked`` tells that the document's managedFields are already right (server-side apply).
        """
        content = self._intake(kind, document, namespace=name[0], options=options)
        self._check_name(content["metadata"], name[1])
        if kind.created_by_update and name not in self.store.table(kind.table).records:
            return self.create(kind, name[0], document=document, options=options)
        old = self.get(kind, name)
        self._check_identity(kind, content["metadata"], old=old)
        managed = content["metadata"].get("managedFields") if tracked else None
        fresh = self._strategy.prepare_update(kind, content, old=old.content, subresource=subresource)
        apply.restore(fresh, old=old.content, managed=managed)
        if _same(fresh, old.content):
            return old
        if not tracked:
            apply.track(kind, fresh, old=old.content, manager=options.manager, subresource=subresource, now=self.now())
        record = self._commit(kind, name, fresh, dry_run=options.dry_run)
        if not options.dry_run:
            self._finish_deletion(kind, record)
        return record

    def patch(
        self,
        kind: Kind,
        name: Name,
        *,
        media_type: str,
        body: Any,
        subresource: str = "",
        options: WriteOptions = WRITE_DEFAULTS,
    ) -> tuple[Record, bool]:
        """Change an object by one of the four patch types; True when apply created it."""
        if media_type == APPLY_PATCH:
            return self._apply(kind, name, document=body, subresource=subresource, options=options)
        old = self.get(kind, name)
        current = {"kind": kind.kind, "apiVersion": kind.api_version, **old.content}
        if media_type == JSON_PATCH:
            wanted = patch.json_patch(current, body)
        elif media_type == MERGE_PATCH:
            wanted = patch.merge_patch(current, body)
        elif media_type == STRATEGIC_PATCH and not kind.custom:
            wanted = patch.strategic_merge_patch(kind.kind, current, patch=body)
        else:
            raise unsupported_media_type(media_type, PATCH_TYPES)
        if not isinstance(wanted, dict) or not isinstance(wanted.get("metadata"), dict):
            raise bad_request("a patch must leave an object with metadata")
        return self.update(kind, name, document=wanted, subresource=subresource, options=options), False

    def _apply(
        self, kind: Kind, name: Name, *, document: Json, subresource: str, options: WriteOptions
    ) -> tuple[Record, bool]:
        old = self.store.table(kind.table).records.get(name)
        content = self._intake(kind, document, namespace=name[0], options=options)
        content["metadata"].setdefault("name", name[1])
        if old is None:
            if subresource:
                raise not_found(kind, name[1])
            fresh = apply.first(kind, content, manager=options.manager, now=self.now())
            managed = fresh["metadata"].pop("managedFields")
            record = self._create_applied(kind, name, content=fresh, managed=managed, options=options)
            return record, True
        merged = apply.merge(
            kind,
            content,
            live=old.content,
            manager=options.manager,
            subresource=subresource,
            force=options.force,
            now=self.now(),
        )
        record = self.update(kind, name, document=merged, subresource=subresource, options=options, tracked=True)
        return record, False

    def _create_applied(
        self, kind: Kind, name: Name, *, content: Json, managed: list[Json], options: WriteOptions
    ) -> Record:
        metadata = content["metadata"]
        if kind.namespaced:
            self._check_namespace(kind, name[0], name=name[1])
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self.now()
        fresh = self._strategy.prepare_create(kind, content, name=name)
        fresh["metadata"]["managedFields"] = managed
        return self._commit(kind, name, fresh, dry_run=options.dry_run)

    def delete(self, kind: Kind, name: Name, *, options: DeleteOptions = DELETE_DEFAULTS) -> Deletion:
        """Delete, or mark for deletion what a kubelet, a finalizer or a namespace's content still holds."""
        old = self.get(kind, name)
        self._check_preconditions(kind, old, options.preconditions)
        if kind is NAMESPACE and name[1] in PROTECTED_NAMESPACES:
            raise forbidden(kind, name[1], why="this namespace may not be deleted")
        grace = _grace(kind, old.content, wanted=options.grace_period_seconds)
        held = bool(old.content["metadata"].get("finalizers")) or kind is NAMESPACE
        if options.dry_run:
            return Deletion(old, gone=not (grace or held))
        if not grace and not held:
            return Deletion(self._remove(kind, name), gone=True)
        marked = self._mark(kind, old, grace=grace)
        if kind is NAMESPACE:
            self._empty_namespace(name[1])
            if name not in self.store.table(kind.table).records:
                return Deletion(marked, gone=True)
        return Deletion(marked, gone=False)

    def delete_collection(
        self, kind: Kind, namespace: str, *, selector: Selector, options: DeleteOptions = DELETE_DEFAULTS
    ) -> list[Record]:
        """Delete all that match; returns each as it was left."""
        matching = [
            record
            for record in self.store.table(kind.table).scan(namespace=namespace)
            if selector.matches(record.content)
        ]
        return [self.delete(kind, record.name, options=options).record for record in matching]

    def bind(self, name: Name, *, document: Json) -> None:
        """Place a pod on a node (the ``binding`` subresource); a placed pod cannot be placed again."""
        old = self.get(POD, name)
        node = (document.get("target") or {}).get("name")
        if not node:
            raise bad_request("binding needs target.name")
        if old.content["spec"].get("nodeName"):
            taken = old.content["spec"]["nodeName"]
            raise ApiError(
                409,
                "Conflict",
                message=f'Operation cannot be fulfilled on pods/binding "{name[1]}": '
                f'pod {name[1]} is already assigned to node "{taken}"',
                details={"name": name[1], "kind": "pods/binding"},
            )
        fresh = deepcopy(old.content)
        fresh["spec"]["nodeName"] = node
        conditions = fresh["status"].setdefault("conditions", [])
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": self.now()})
        self._commit(POD, name, fresh, dry_run=False)

    def now(self) -> str:
        """The time as objects carry it: UTC, whole seconds."""
        return _timestamp(self._clock())

    def _intake(self, kind: Kind, document: Any, *, namespace: str, options: WriteOptions) -> Json:
        """The document as an object of this kind, in this namespace; a shallow copy."""
        if not isinstance(document, dict):
            raise bad_request(f"the body must be a {kind.kind} object")
        given = (document.get("apiVersion") or kind.api_version, document.get("kind") or kind.kind)
        if given != (kind.api_version, kind.kind):
            raise bad_request(f'{given[1]} in version "{given[0]}" cannot be handled as a {kind.kind}')
        metadata = document.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise bad_request("metadata must be an object")
        known, unknown = schema.pruned(kind, document)
        if unknown and options.strict:
            raise schema.strict_refusal(kind, unknown)
        if options.warnings is not None:
            options.warnings.extend(f'unknown field "{path}"' for path in unknown)
        content = dict(known) | {"metadata": dict(known.get("metadata") or {})}
        if kind.namespaced:
            if metadata.get("namespace") not in (None, "", namespace):
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            content["metadata"]["namespace"] = namespace
        else:
            content["metadata"].pop("namespace", None)
        return content

    def _check_namespace(self, kind: Kind, namespace: str, *, name: str) -> None:
        record = self.store.table(NAMESPACE.table).records.get(("", namespace))
        if record is None:
            raise not_found(NAMESPACE, namespace)
        if "deletionTimestamp" in record.content["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(kind, name, why=why, cause="NamespaceTerminating")

    def _check_name(self, metadata: Json, name: str) -> None:
        given = metadata.get("name")
        if given not in (None, "", name):
            raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")

    def _check_identity(self, kind: Kind, metadata: Json, *, old: Record) -> None:
        name = old.name[1]
        uid = metadata.get("uid")
        if uid and uid != old.content["metadata"]["uid"]:
            have = old.content["metadata"]["uid"]
            raise conflict(
                kind, name, why=f"Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"
            )
        version = metadata.get("resourceVersion")
        if version and version != str(old.revision):
            raise conflict(kind, name)
        if not version and kind.custom:
            cause = wrong("metadata.resourceVersion", 0, "must be specified for an update")
            raise invalid(kind, name, causes=[cause])

    def _check_preconditions(self, kind: Kind, old: Record, preconditions: dict[str, str]) -> None:
        have = {"uid": old.content["metadata"]["uid"], "resourceVersion": str(old.revision)}
        texts = {"uid": "UID", "resourceVersion": "ResourceVersion"}
        for field, text in texts.items():
            wanted = preconditions.get(field)
            if wanted and wanted != have[field]:
                why = f"Precondition failed: {text} in precondition: {wanted}, {text} in object meta: {have[field]}"
                raise conflict(kind, old.name[1], why=why)

    def _commit(self, kind: Kind, name: Name, content: Json, *, dry_run: bool) -> Record:
        if dry_run:
            old = self.store.table(kind.table).records.get(name)
            record = make_record(name, old.revision if old else 0, content=content)
            if old is None:
                record.content["metadata"].pop("resourceVersion")
                return make_dry(record)
            return record
        return self.store.put(kind.table, name, content=content)

    def _mark(self, kind: Kind, old: Record, *, grace: int) -> Record:
        """Set the deletion time; a second deletion may only shorten what is left."""
        metadata = old.content["metadata"]
        if "deletionTimestamp" in metadata and grace >= metadata.get("deletionGracePeriodSeconds", 0):
            return old
        fresh = deepcopy(old.content)
        fresh["metadata"]["deletionTimestamp"] = _timestamp(self._clock() + timedelta(seconds=grace))
        fresh["metadata"]["deletionGracePeriodSeconds"] = grace
        if "generation" in metadata:
            fresh["metadata"]["generation"] += 1
        if kind is NAMESPACE:
            fresh["metadata"].pop("deletionGracePeriodSeconds")
            fresh["status"]["phase"] = "Terminating"
        return self._commit(kind, old.name, fresh, dry_run=False)

    def _finish_deletion(self, kind: Kind, record: Record) -> None:
        """Remove what was only waiting for its last finalizer to go."""
        metadata = record.content["metadata"]
        if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
            return
        if kind is NAMESPACE:
            self._sweep_namespace(record.name[1])
        elif not metadata.get("deletionGracePeriodSeconds"):
            self._remove(kind, record.name)

    def _remove(self, kind: Kind, name: Name) -> Record:
        record = self.store.remove(kind.table, name)
        if kind.namespaced:
            self._sweep_namespace(name[0])
        return record

    def _empty_namespace(self, namespace: str) -> None:
        for kind in self.kinds.namespaced_tables():
            for record in list(self.store.table(kind.table).scan(namespace=namespace)):
                if record.name in self.store.table(kind.table).records:
                    self.delete(kind, record.name)
        self._sweep_namespace(namespace)

    def _sweep_namespace(self, namespace: str) -> None:
        """Remove a namespace that goes away once nothing is left in it."""
        record = self.store.table(NAMESPACE.table).records.get(("", namespace))
        if record is None or "deletionTimestamp" not in record.content["metadata"]:
            return
        if record.content["metadata"].get("finalizers"):
            return
        for kind in self.kinds.namespaced_tables():
            if next(self.store.table(kind.table).scan(namespace=namespace), None) is not None:
                return
        self.store.remove(NAMESPACE.table, ("", namespace))


def make_dry(record: Record) -> Record:
    """A record of a dry run's new object, which has no version."""
    body = msgspec.json.encode(record.content)[1:]
    return Record(record.name, record.revision, record.content, body)


def _grace(kind: Kind, content: Json, *, wanted: int | None) -> int:
    """Seconds that a pod's kubelet gets (pkg/registry/core/pod/strategy.go CheckGracefulDelete); 0 for others."""
    if kind is not POD:
        return 0
    grace = wanted
    if grace is None:
        grace = content["spec"].get("terminationGracePeriodSeconds", GRACE_DEFAULT_S)
    if not content["spec"].get("nodeName"):
        return 0
    if content["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    return max(grace, 0)


def _same(fresh: Json, old: Json) -> bool:
    """Whether an update changes nothing but the version (and managers' times): then nothing is written."""
    ignored = {"resourceVersion"}

    def bare(content: Json) -> Json:
        return {key: value for key, value in content["metadata"].items() if key not in ignored}

    return bare(fresh) == bare(old) and {**fresh, "metadata": 0} == {**old, "metadata": 0}


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
