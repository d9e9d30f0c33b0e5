"""What goes into etcd and what comes out of it, as frozen values.

Keys are text (etcd's bytes by UTF-8, undecodable ones kept by surrogates), values bytes, revisions etcd's own
counters. ``to_wire``/``from_wire`` functions live here too, so that nobody else touches the generated
messages of keys and transactions. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec
from pyetcd.etcdrpc import rpc_pb2 as rpc

END_OF_KEYS: Final = b"\0"
"""As ``range_end``: everything from the key on (rpc.proto, RangeRequest)."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One key as stored. ``version`` counts its writes since creation; ``lease`` is 0 for none."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    version: int
    lease: int = 0


class Snapshot(msgspec.Struct, frozen=True):
    """All keys of a prefix as they were at ``revision``. A watch that follows starts at ``revision + 1``."""

    revision: int
    records: dict[str, Record]

    @property
    def values(self) -> dict[str, bytes]:
        """The values alone, by key."""
        return {key: record.value for key, record in self.records.items()}


class Change(msgspec.Struct, frozen=True, gc=False):
    """One event of a watch. ``value`` None: deleted. ``previous``: the value before, when asked for."""

    key: str
    value: bytes | None
    mod_revision: int
    previous: bytes | None = None


class WatchBatch(msgspec.Struct, frozen=True):
    """Whole revisions, in order. ``revision`` is the last one in it.

    With ``resync`` the history between is unknown: ``snapshot`` holds everything under the prefix, ``events``
    is empty, and what the consumer knows and the snapshot lacks is gone. The next batch continues after the
    snapshot.
    """

    revision: int
    events: tuple[Change, ...] = ()
    resync: bool = False
    snapshot: Snapshot | None = None


class Put(msgspec.Struct, frozen=True, gc=False):
    """Store ``value`` under ``key``; ``lease`` is a lease's ID, 0 for none."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete ``key``, or every key that starts with it when ``prefix``."""

    key: str
    prefix: bool = False


class Get(msgspec.Struct, frozen=True, gc=False):
    """Read ``key``, or every key that starts with it when ``prefix``."""

    key: str
    prefix: bool = False


Op = Put | Delete | Get

Relation = Literal["==", "!=", "<", ">"]
Target = Literal["version", "create_revision", "mod_revision", "value", "lease"]


class Compare(msgspec.Struct, frozen=True):
    """A condition of a transaction on one key. A key that does not exist has version and revisions 0."""

    key: str
    target: Target
    relation: Relation
    operand: int | bytes

    @classmethod
    def absent(cls, key: str) -> Compare:
        """True while the key does not exist."""
        return cls(key, "create_revision", "==", 0)

    @classmethod
    def exists(cls, key: str) -> Compare:
        """True while the key exists."""
        return cls(key, "create_revision", ">", 0)

    @classmethod
    def value(cls, key: str, value: bytes) -> Compare:
        """True while the key holds exactly ``value``."""
        return cls(key, "value", "==", value)

    @classmethod
    def unchanged(cls, record: Record) -> Compare:
        """True while nobody wrote the key since ``record`` was read."""
        return cls(record.key, "mod_revision", "==", record.mod_revision)


class TxnResult(msgspec.Struct, frozen=True):
    """``responses``, one per operation of the branch taken: None for Put, count for Delete, records for
    Get."""

    succeeded: bool
    revision: int
    responses: tuple[int | tuple[Record, ...] | None, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """One member's view: server version, bytes of its database, and the cluster's counters."""

    version: str
    db_size: int
    cluster_id: int
    member_id: int
    leader: int
    raft_term: int
    revision: int


def encode_key(key: str) -> bytes:
    """A key as etcd holds it."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(raw: bytes) -> str:
    """A key as text; bytes that are no UTF-8 survive the way back."""
    return raw.decode("utf-8", "surrogateescape")


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """``key`` and ``range_end`` of everything that starts with ``prefix``; all keys when it is empty."""
    key = encode_key(prefix)
    stem = key.rstrip(b"\xff")
    if not stem:
        return key or b"\0", END_OF_KEYS
    return key, stem[:-1] + bytes((stem[-1] + 1,))


def record_from_wire(kv: Any) -> Record:
    """A ``Record`` from an mvccpb.KeyValue."""
    return Record(decode_key(kv.key), kv.value, kv.mod_revision, kv.create_revision, kv.version, kv.lease)


_DELETE_EVENT: Final = 1  # kv.proto, Event.EventType


def change_from_wire(event: Any) -> Change:
    """A ``Change`` from an mvccpb.Event."""
    kv = event.kv
    value = None if event.type == _DELETE_EVENT else kv.value
    previous = event.prev_kv.value if event.HasField("prev_kv") else None
    return Change(decode_key(kv.key), value, kv.mod_revision, previous)


_RELATIONS: Final[Mapping[str, int]] = {
    "==": rpc.Compare.EQUAL,
    ">": rpc.Compare.GREATER,
    "<": rpc.Compare.LESS,
    "!=": rpc.Compare.NOT_EQUAL,
}
_TARGETS: Final[Mapping[str, int]] = {
    "version": rpc.Compare.VERSION,
    "create_revision": rpc.Compare.CREATE,
    "mod_revision": rpc.Compare.MOD,
    "value": rpc.Compare.VALUE,
    "lease": rpc.Compare.LEASE,
}


def compare_to_wire(compare: Compare) -> Any:
    """An etcdserverpb.Compare."""
    message = rpc.Compare(
        key=encode_key(compare.key), target=_TARGETS[compare.target], result=_RELATIONS[compare.relation]
    )
    setattr(message, compare.target, compare.operand)
    return message


def op_to_wire(op: Op) -> Any:
    """An etcdserverpb.RequestOp."""
    if isinstance(op, Put):
        put = rpc.PutRequest(key=encode_key(op.key), value=op.value, lease=op.lease)
        return rpc.RequestOp(request_put=put)
    key, end = prefix_range(op.key) if op.prefix else (encode_key(op.key), b"")
    if isinstance(op, Delete):
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end))
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, range_end=end))


def op_size(op: Op) -> int:
    """Bytes that an operation takes in a request, a little more rather than less."""
    return len(op.key) * 4 + (len(op.value) if isinstance(op, Put) else 0) + 32


def responses_from_wire(responses: Iterable[Any]) -> tuple[int | tuple[Record, ...] | None, ...]:
    """What each operation of a transaction answered, see ``TxnResult``."""
    out: list[int | tuple[Record, ...] | None] = []
    for response in responses:
        kind = response.WhichOneof("response")
        if kind == "response_range":
            out.append(tuple(record_from_wire(kv) for kv in response.response_range.kvs))
        elif kind == "response_delete_range":
            out.append(response.response_delete_range.deleted)
        else:
            out.append(None)
    return tuple(out)
