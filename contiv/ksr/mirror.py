"""What etcd holds of one kind, remembered as digests: turns lists and events into the writes that are needed.

In: the stored values when a list begins, then raw objects. Out: changes by key, None for a deletion; nothing
for what is stored already, so that a node's heartbeat or a restart of KSR writes nothing. It marks what a
list names and sweeps the rest. No I/O: the reflector writes what comes out, and begins anew from etcd when a
write fails.

An object that cannot be read changes nothing: what is stored of it stays, and is not swept, until it is
corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from contiv.kube.observation import Event
from contiv.model import kube
from contiv.model.kubewire import ObjectError, identify, reduce

VALUE_BYTES_MAX: Final = 1 << 20
"""A stored object. etcd takes 1.5 MB a request by default; the largest endpoint slice is about 0.3 MB."""


class ChangeSet:
    """Writes that are needed: ``writes`` by key, None for a deletion, and how many there are of each sort."""

    __slots__ = ("adds", "deletes", "updates", "writes")

    def __init__(self) -> None:
        self.writes: dict[str, bytes | None] = {}
        self.adds = 0
        self.updates = 0
        self.deletes = 0


class Mirror:
    """One kind's keys in etcd. ``refuse`` hears of each object, and each rule of a policy, that cannot be used."""

    def __init__(self, kind: kube.AnyKind, *, refuse: Callable[[ObjectError], None]) -> None:
        self._kind = kind
        self._refuse = refuse
        # hash() of bytes is SipHash with a secret of this process: 64 bits tell an old value from a new one,
        # at a tenth of the memory of the values themselves.
        self._digests: dict[str, int] = {}
        self._unmarked: set[str] = set()

    def __len__(self) -> int:
        return len(self._digests)

    def begin(self, stored: Mapping[str, bytes]) -> None:
        """A list begins; ``stored`` is all that etcd has of this kind. Nothing is marked yet."""
        self._digests = {key: hash(value) for key, value in stored.items()}
        self._unmarked = set(self._digests)

    def mark(self, items: Iterable[msgspec.Raw]) -> ChangeSet:
        """Some objects of the list: what must be written for them."""
        changes = ChangeSet()
        for raw in items:
            key = self._put(raw, changes)
            self._unmarked.discard(key)
        return changes

    def sweep(self) -> ChangeSet:
        """The list is complete: delete what it did not name."""
        changes = ChangeSet()
        for key in sorted(self._unmarked):
            self._delete(key, changes)
        self._unmarked = set()
        return changes

    def apply(self, events: Iterable[Event]) -> ChangeSet:
        """Changes after the list: what must be written for them, the last word for each key."""
        changes = ChangeSet()
        for event in events:
            if event.type == "DELETED":
                self._delete(self._key(*identify(event.raw)), changes)
            else:
                self._put(event.raw, changes)
        return changes

    def _put(self, raw: msgspec.Raw, changes: ChangeSet) -> str:
        """Note what ``raw`` needs; its key, also when it cannot be used."""
        try:
            key, data = self._reduce(raw)
        except ObjectError as error:
            self._refuse(error)
            return self._key(error.namespace, error.name)
        digest, before = hash(data), self._digests.get(key)
        if before == digest:
            return key
        self._digests[key] = digest
        changes.writes[key] = data
        if before is None:
            changes.adds += 1
        else:
            changes.updates += 1
        return key

    def _reduce(self, raw: msgspec.Raw) -> tuple[str, bytes]:
        """Key and stored value of an object; ObjectError when it cannot be used."""
        value = reduce(self._kind, raw)
        namespace = getattr(value, "namespace", "")
        for fault in getattr(value, "faults", ()):
            where, _, problem = fault.partition(": ")
            self._refuse(ObjectError(self._kind.plural, namespace, value.name, field=where, problem=problem))
        data = self._kind.encode(value)  # type: ignore[arg-type]  # reduce gives what the kind stores
        if len(data) > VALUE_BYTES_MAX:
            problem = f"{len(data)} bytes are more than {VALUE_BYTES_MAX}"
            raise ObjectError(self._kind.plural, namespace, value.name, field="object", problem=problem)
        return self._key(namespace, value.name), data

    def _delete(self, key: str, changes: ChangeSet) -> None:
        """A key that etcd does not have needs no deletion; the name may even be no name."""
        if self._digests.pop(key, None) is not None:
            changes.writes[key] = None
            changes.deletes += 1

    def _key(self, namespace: str, name: str) -> str:
        return self._kind.key(name, namespace=namespace if self._kind.namespaced else "")
