"""Refusals of the API server: one exception, built by one function per reason, encoded as a ``Status`` object.

Comes in: what was asked and why it cannot be. Goes out: ``ApiError`` with HTTP code and ``.status()``, worded as
Kubernetes words it (apimachinery ``pkg/api/errors``), because clients and people match on code, reason and details.
Next: ``server`` writes it as a response, ``watch`` as an ERROR event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from contiv.errors import KubeError

if TYPE_CHECKING:
    from contiv.emulator.kube.kinds import Kind

Json = dict[str, Any]


class Cause(msgspec.Struct, frozen=True):
    """One broken field of an invalid object: ``reason`` is machine-readable, ``field`` a dotted path."""

    reason: str
    message: str
    field: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ApiError(KubeError):
    """A request that the API server refuses: HTTP ``code``, ``reason`` and ``details`` of its Status object."""

    def __init__(self, code: int, reason: str, *, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.continue_token = ""

    def status(self) -> Json:
        """The Status object (meta/v1) that clients decode."""
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.continue_token} if self.continue_token else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


def _details(kind: Kind, name: str) -> Json:
    details: Json = {}
    if name:
        details["name"] = name
    if kind.group:
        details["group"] = kind.group
    details["kind"] = kind.plural
    return details


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", message=f'{kind.resource} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Kind, name: str) -> ApiError:
    return ApiError(
        409, "AlreadyExists", message=f'{kind.resource} "{name}" already exists', details=_details(kind, name)
    )


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(kind: Kind, name: str, *, why: str = MODIFIED) -> ApiError:
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", message=message, details=_details(kind, name))


def apply_conflict(message: str, *, causes: Sequence[Json]) -> ApiError:
    """Server-side apply met fields that other managers own."""
    return ApiError(409, "Conflict", message=message, details={"causes": list(causes)})


def forbidden(kind: Kind, name: str, *, why: str, cause: str = "") -> ApiError:
    details = _details(kind, name)
    if cause:
        details["causes"] = [{"reason": cause, "message": why, "field": "metadata.namespace"}]
    message = f'{kind.resource} "{name}" is forbidden: {why}'
    return ApiError(403, "Forbidden", message=message, details=details)


def invalid(kind: Kind, name: str, *, causes: Sequence[Cause]) -> ApiError:
    """422 with one entry per broken field; the text lists them as field.ErrorList does."""
    texts = [str(cause) for cause in causes]
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details: Json = {"name": name}
    if kind.group:
        details["group"] = kind.group
    details["kind"] = kind.kind
    details["causes"] = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    return ApiError(422, "Invalid", message=f'{kind.qualified} "{name}" is invalid: {listed}', details=details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message=message)


def expired(message: str) -> ApiError:
    """410: the version is older than the history that is kept."""
    return ApiError(410, "Expired", message=message)


def too_large(wanted: int, current: int) -> ApiError:
    """504: the client asks for a version that does not exist yet."""
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return ApiError(504, "Timeout", message=message, details=details)


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message=message, details={})


def invalid_list_options(cause: Cause) -> ApiError:
    """422 for query parameters that contradict each other."""
    details: Json = {
        "group": "meta.k8s.io",
        "kind": "ListOptions",
        "causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}],
    }
    return ApiError(422, "Invalid", message=f'ListOptions.meta.k8s.io "" is invalid: {cause}', details=details)


def unsupported_media_type(got: str, accepted: Sequence[str]) -> ApiError:
    known = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {known} (got {got})"
    return ApiError(415, "UnsupportedMediaType", message=message)


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    message = "only the following media types are accepted: " + ", ".join(accepted)
    return ApiError(406, "NotAcceptable", message=message)


def page_not_found() -> ApiError:
    """A path that no kind serves. The real server answers plain text; ``server`` does so for this reason."""
    return ApiError(404, "PageNotFound", message="404 page not found")


def unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message=message, details={"retryAfterSeconds": 1})


def required(field: str, message: str = "") -> Cause:
    return Cause("FieldValueRequired", f"Required value: {message}" if message else "Required value", field)


def wrong(field: str, value: object, message: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {_quoted(value)}: {message}", field)


def unsupported(field: str, value: object, supported: Sequence[str]) -> Cause:
    listed = ", ".join(f'"{each}"' for each in supported)
    return Cause("FieldValueNotSupported", f"Unsupported value: {_quoted(value)}: supported values: {listed}", field)


def not_allowed(field: str, message: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {message}", field)


def duplicate(field: str, value: object) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {_quoted(value)}", field)


def _quoted(value: object) -> str:
    return msgspec.json.encode(value).decode()
