"""Pages of a list, consistent across pages: each comes from the table as it was when the first one was made.

Comes in: a parsed query. Goes out: records with the version and the token for the next page, and their encoding as a
List. Refuses tokens and exact versions that the history no longer reaches (410, with a token to go on inconsistently,
as Kubernetes gives one) and versions that do not exist yet (504). ``server`` writes the bytes.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator

import msgspec

from contiv.emulator.kube.errors import (
    ApiError,
    Json,
    bad_request,
    expired,
    invalid_list_options,
    not_allowed,
    too_large,
)
from contiv.emulator.kube.kinds import Kind
from contiv.emulator.kube.selectors import Selector
from contiv.emulator.kube.store import Compacted, Name, Record, Store, Table

TOO_OLD_CONTINUE = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)
TOO_OLD_EXACT = "The resourceVersion for the provided list is too old."
_NOW = -1  # the version in a token that goes on with whatever is there by then


class Query(msgspec.Struct, frozen=True):
    """What a client asked of a list; ``version`` is the text of ``resourceVersion``."""

    namespace: str = ""
    selector: Selector = Selector()
    limit: int = 0
    token: str = ""
    version: str = ""
    match: str = ""


class Page(msgspec.Struct, frozen=True):
    records: list[Record]
    revision: int
    token: str = ""
    remaining: int | None = None

    def metadata(self) -> Json:
        """The ListMeta of the page."""
        meta: Json = {"resourceVersion": str(self.revision)}
        if self.token:
            meta["continue"] = self.token
            if self.remaining is not None:
                meta["remainingItemCount"] = self.remaining
        return meta


class _Token(msgspec.Struct, frozen=True):
    v: str
    rv: int
    ns: str
    start: str


def page(store: Store, kind: Kind, *, query: Query) -> Page:
    """The records that answer a query."""
    table = store.table(kind.table)
    revision, after = _start(store, query)
    if revision in (_NOW, store.revision):
        records = table.scan(namespace=query.namespace, after=after)
        revision = store.revision
    else:
        records = _older(table, query, revision=revision, after=after)
    if query.selector:
        records = (record for record in records if query.selector.matches(record.content))
    return _cut(records, query, revision=revision)


def _start(store: Store, query: Query) -> tuple[int, Name | None]:
    """The version to answer at and the name behind which to begin."""
    version = _version(query.version)
    if query.token:
        if version:
            raise bad_request("specifying resource version is not allowed when using continue")
        token = _decode(query.token)
        return token.rv, (token.ns, token.start)
    if query.match not in ("", "Exact", "NotOlderThan"):
        raise bad_request(f"resourceVersionMatch {query.match!r} is not one of Exact, NotOlderThan")
    if query.match and not query.version:
        why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        raise invalid_list_options(not_allowed("resourceVersionMatch", why))
    if query.match == "Exact" and not version:
        why = 'resourceVersionMatch "Exact" is forbidden for resourceVersion "0"'
        raise invalid_list_options(not_allowed("resourceVersionMatch", why))
    if version > store.revision:
        raise too_large(version, store.revision)
    # Before resourceVersionMatch existed, a limit made any version but "0" exact; it still does.
    exact = query.match == "Exact" or (not query.match and query.limit > 0 and version > 0)
    return (version if exact else store.revision), None


def _version(text: str) -> int:
    if text and not text.isdecimal():
        raise bad_request(f"Invalid value: {text!r}: resourceVersion must be a number")
    return int(text or 0)


def _older(table: Table, query: Query, *, revision: int, after: Name | None) -> Iterator[Record]:
    try:
        table.position_after(revision)
    except Compacted as error:
        if not query.token:
            raise expired(TOO_OLD_EXACT) from error
        token = _decode(query.token)
        refusal = expired(TOO_OLD_CONTINUE)
        refusal.continue_token = _encode(_NOW, (token.ns, token.start))
        raise refusal from error
    return table.scan_at(revision, namespace=query.namespace, after=after)


def _cut(records: Iterator[Record], query: Query, *, revision: int) -> Page:
    if not query.limit:
        return Page(list(records), revision)
    chosen: list[Record] = []
    for record in records:
        if len(chosen) == query.limit:
            remaining = None if query.selector else 1 + sum(1 for _ in records)
            return Page(chosen, revision, _encode(revision, chosen[-1].name), remaining)
        chosen.append(record)
    return Page(chosen, revision)


def _encode(revision: int, name: Name) -> str:
    token = _Token("meta.k8s.io/v1", revision, name[0], name[1])
    return urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def _decode(text: str) -> _Token:
    try:
        return msgspec.json.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Token)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ApiError(400, "BadRequest", message=f"continue key is not valid: {error}") from error


def encode(kind: Kind, answer: Page) -> bytes:
    """The page as a List object. Items of built-in kinds have no kind and apiVersion, as from a real server."""
    opening = kind.head if kind.custom else b"{"
    parts = [kind.list_head, b'"metadata":', msgspec.json.encode(answer.metadata()), b',"items":[']
    if answer.records:
        parts += [opening, (b"," + opening).join([record.body for record in answer.records])]
    parts.append(b"]}\n")
    return b"".join(parts)
