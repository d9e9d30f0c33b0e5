"""What etcd holds of one collection, remembered as digests: turns lists and events into the writes that are needed.

In: the stored values when a list begins, then raw objects. Out: changes by key, None for a deletion; nothing
for what is stored already, so that a node's heartbeat or a restart of KSR writes nothing. It marks what a
list names and sweeps the rest. No I/O: the reflector writes what comes out, and begins anew from etcd when a
write fails.

An object that cannot be read changes nothing: what is stored of it stays, and is not swept, until it is
corrected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from contiv.kube.observation import Event
from contiv.model.kubewire import ObjectError, identify
from contiv.reflection.collection import Collection, Refuse


class ChangeSet:
    """Writes that are needed: ``writes`` by key, None for a deletion, and how many there are of each sort."""

    __slots__ = ("adds", "deletes", "updates", "writes")

    def __init__(self) -> None:
        self.writes: dict[str, bytes | None] = {}
        self.adds = 0
        self.updates = 0
        self.deletes = 0


class Mirror:
    """One collection's keys in etcd. ``refuse`` hears of each object, and each part of one, that cannot be used."""

    def __init__(self, collection: Collection, *, refuse: Refuse) -> None:
        self._collection = collection
        self._refuse = refuse
        # hash() of bytes is SipHash with a secret of this process: 64 bits tell an old value from a new one,
        # at a tenth of the memory of the values themselves.
        self._digests: dict[str, int] = {}
        self._unmarked: set[str] = set()

    def __len__(self) -> int:
        return len(self._digests)

    def begin(self, stored: Mapping[str, bytes]) -> None:
        """A list begins; ``stored`` is all that etcd has of the collection. Nothing is marked yet."""
        self._collection.begin(stored)
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
                self._delete(self._collection.key(*identify(event.raw)), changes)
            else:
                self._put(event.raw, changes)
        return changes

    def _put(self, raw: msgspec.Raw, changes: ChangeSet) -> str:
        """Note what ``raw`` needs; its key, also when it cannot be used."""
        try:
            key, data = self._collection.read(raw, self._refuse)
        except ObjectError as error:
            self._refuse(error)
            return self._collection.key(error.namespace, error.name)
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

    def _delete(self, key: str, changes: ChangeSet) -> None:
        """A key that etcd does not have needs no deletion; the name may even be no name."""
        if self._digests.pop(key, None) is not None:
            changes.writes[key] = None
            changes.deletes += 1
        self._collection.deleted(key)
