"""What goes wrong with etcd, each with the operation, the key, the endpoint and what to do about it.

::

    StoreError                    (contiv.errors)
    ├── StoreUnavailable          no endpoint answered; ``uncertain`` says whether a write may have been
    applied
    ├── StoreDenied               TLS, user, password or role
    ├── StoreCompacted            the revision that was asked for is gone
    ├── StoreRevisionAhead        the revision that was asked for does not exist yet: etcd lost data
    ├── StoreRefused              the request itself: too large, too many operations, bad argument, no space
    ├── StoreConflict             the guard of a write did not hold
    └── LeaseLost                 the lease is no longer ours

``translate`` turns a gRPC status into one of them; nobody else reads status texts. The texts are etcd's own,
``api/v3rpc/rpctypes/error.go`` (3.4 and 3.5 agree on those used here).
"""

from __future__ import annotations

from typing import Any, Final

import grpc
import grpc.aio

from contiv.errors import StoreError

DETAIL_CHARS_MAX: Final = 300

_UNSENT: Final = ("failed to connect to all addresses", "connections to all backends failing")
"""gRPC core's words for "no connection, so nothing left this machine" (pick_first, round_robin)."""
_NOT_APPLIED: Final = ("etcdserver: no leader", "etcdserver: too many requests", "etcdserver: not capable")
"""etcd's words for "refused before it was proposed to raft"."""

_TOKEN_EXPIRED: Final = (
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",  # authentication was enabled after we connected
)


class StoreFailure(StoreError):
    """A failed operation. Fields: ``operation``, ``key``, ``endpoint``, ``detail``, ``remedy``."""

    def __init__(self, operation: str, *, key: str = "", endpoint: str = "", detail: str, remedy: str) -> None:
        what = f"etcd {operation}" + (f" {key!r}" if key else "")
        at = f" at {endpoint}" if endpoint else ""
        super().__init__(f"{what}{at}: {detail[:DETAIL_CHARS_MAX]}; {remedy}")
        self.operation = operation
        self.key = key
        self.endpoint = endpoint
        self.detail = detail
        self.remedy = remedy


class StoreUnavailable(StoreFailure):
    """No endpoint answered in time. ``uncertain``: a write may have been applied, read to find out."""

    uncertain: bool = False
    timed_out: bool = False


class StoreDenied(StoreFailure):
    """Authentication or authorisation failed. ``token_expired``: a new token may help."""

    token_expired: bool = False


class StoreCompacted(StoreFailure):
    """The revision asked for was compacted: read a fresh snapshot."""


class StoreRevisionAhead(StoreFailure):
    """The revision asked for is in the future: etcd has lost or never had it."""


class StoreRefused(StoreFailure):
    """etcd (or this client, before sending) refuses the request as it stands."""

    too_large_to_receive: bool = False


class StoreConflict(StoreFailure):
    """The guard of a write did not hold: somebody else owns what was to be written."""


class LeaseLost(StoreFailure):
    """The lease expired or was revoked; the keys that hung on it are gone."""


def translate(error: grpc.aio.AioRpcError, operation: str, *, key: str, endpoint: str) -> StoreFailure:
    """The ``StoreFailure`` that a failed call means."""
    return from_status(error.code(), error.details(), operation, key=key, endpoint=endpoint)


async def stream_end(stream: Any, operation: str, *, key: str, endpoint: str) -> StoreFailure:
    """The ``StoreFailure`` that the end of a stream means; waits for its status."""
    return from_status(await stream.code(), await stream.details(), operation, key=key, endpoint=endpoint)


def from_status(code: grpc.StatusCode, detail: str | None, operation: str, *, key: str, endpoint: str) -> StoreFailure:
    """The ``StoreFailure`` that a gRPC status means; a status that is not known becomes ``StoreRefused``."""
    detail = detail or "no detail"
    kind, remedy = _classify(code, detail)
    failure = kind(operation, key=key, endpoint=endpoint, detail=f"{detail} ({code.name})", remedy=remedy)
    if isinstance(failure, StoreUnavailable):
        failure.uncertain = not detail.startswith(_UNSENT + _NOT_APPLIED)
        failure.timed_out = code is grpc.StatusCode.DEADLINE_EXCEEDED
    elif isinstance(failure, StoreDenied):
        failure.token_expired = detail.startswith(_TOKEN_EXPIRED)
    elif isinstance(failure, StoreRefused):
        failure.too_large_to_receive = "received message larger than max" in detail.lower()
    return failure


def _classify(code: grpc.StatusCode, detail: str) -> tuple[type[StoreFailure], str]:
    """The kind of failure and its remedy, for one status: etcd's words first, then the code."""
    for words, kind, remedy in _BY_WORDS:
        if words in detail:
            return kind, remedy
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return StoreDenied, _CREDENTIALS
    if code in _UNREACHABLE:
        return StoreUnavailable, REACH_REMEDY
    return StoreRefused, "see the text of etcd"


REACH_REMEDY: Final = "check that etcd runs, the endpoint's address, and CA, certificate and key"
_CREDENTIALS: Final = "check user, password and the key ranges that the user's roles grant"
_QUORUM: Final = "the cluster has no quorum or is overloaded; look at its members"
_BY_WORDS: Final[tuple[tuple[str, type[StoreFailure], str], ...]] = (
    ("required revision has been compacted", StoreCompacted, "read a fresh snapshot"),
    ("required revision is a future revision", StoreRevisionAhead, "etcd lost data; read a fresh snapshot"),
    ("requested lease not found", LeaseLost, "grant a new lease and write its keys again"),
    *((words, StoreUnavailable, _QUORUM) for words in _NOT_APPLIED),
    *((words, StoreDenied, "authenticate again") for words in _TOKEN_EXPIRED),
    ("authentication failed", StoreDenied, _CREDENTIALS),
    ("database space exceeded", StoreRefused, "compact and defragment etcd, then disarm its NOSPACE alarm"),
)
_UNREACHABLE: Final = (
    grpc.StatusCode.OK,  # the end of a stream that should not end
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # the channel was closed or the server sent RST_STREAM
    grpc.StatusCode.INTERNAL,  # HTTP/2 broke in the middle of an answer
    grpc.StatusCode.UNKNOWN,  # a server that is going down answers in odd ways
)
