"""What goes wrong with the Kubernetes API: one tree over aiohttp's errors and the API's Status objects.

::

    KubeError                 (contiv.errors)
    └── KubeFailure           request, detail, remedy
        ├── KubeUnavailable   no answer: refused, reset, timed out, 5xx, 429
        ├── KubeDenied        401 or 403
        ├── KubeGone          410: the version or the continue token is too old; list again
        ├── KubeGarbled       the answer is not what the API promises
        └── KubeRefused       any other status

Answers are cut before they reach a log line: they may be as large as the objects that they are about.
"""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.errors import KubeError

DETAIL_CHARS_MAX: Final = 300


class KubeFailure(KubeError):
    """A failed request. Fields: ``request`` (method and path), ``detail``, ``remedy``, ``status`` (0: no
    answer).
    """

    def __init__(self, request: str, *, detail: str, remedy: str, status: int = 0) -> None:
        super().__init__(f"{request}: {detail[:DETAIL_CHARS_MAX]}; {remedy}")
        self.request = request
        self.detail = detail
        self.remedy = remedy
        self.status = status


class KubeUnavailable(KubeFailure):
    """No usable answer. ``retry_after_s`` is the server's wish, 0 when it has none."""

    retry_after_s: float = 0.0


class KubeDenied(KubeFailure):
    """The credentials are not accepted or do not suffice."""


class KubeGone(KubeFailure):
    """The resource version or continue token has expired: a new list is needed."""


class KubeGarbled(KubeFailure):
    """The answer cannot be understood: something that is no API server, or a broken stream."""


class KubeRefused(KubeFailure):
    """The server refuses the request as it stands."""


class _Status(msgspec.Struct, frozen=True):
    """meta/v1 Status, as far as it matters here."""

    message: str | None = None
    reason: str | None = None
    code: int | None = None


_decoder: Final = msgspec.json.Decoder(_Status)


def from_status(request: str, body: bytes | msgspec.Raw, *, status: int = 0) -> KubeFailure:
    """The failure that an answer with HTTP ``status`` means, or an ERROR event of a watch (``status`` 0)."""
    try:
        said = _decoder.decode(body)
    except msgspec.DecodeError:
        said = _Status(message=f"the answer is no Status object ({len(bytes(body))} bytes)")
    code = status or said.code or 0
    reason = said.reason or ""
    detail = f"{code} {reason}: {said.message or 'no message'}"
    if code == 410 or reason in ("Expired", "Gone"):
        return KubeGone(request, detail=detail, remedy="list again", status=code)
    if code in (401, 403):
        remedy = "check the credentials and that RBAC grants get, list and watch"
        return KubeDenied(request, detail=detail, remedy=remedy, status=code)
    if code == 429 or code >= 500:
        return KubeUnavailable(request, detail=detail, remedy="retried with backoff", status=code)
    return KubeRefused(request, detail=detail, remedy="check that this is a Kubernetes API server", status=code)
