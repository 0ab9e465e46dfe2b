"""What can go wrong between us and the API server, in the terms that callers decide by."""

from collections.abc import Mapping
from typing import Any, Final

from mpslice.errors import MpsliceError

PASSING: Final = frozenset({401, 429, 503, 504})
"""Statuses that say nothing of the request: the same may work in a moment."""


class KubeError(MpsliceError):
    """Base of every error of a request; `retry_after` in seconds, when the server named one."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(KubeError):
    """No answer: refused, reset, timed out, or cut off in the middle."""


class Cut(Unreachable):
    """A watch that had been answered broke off."""


class TooLarge(KubeError):
    """The answer has more bytes than we take into memory; of a list, ask for fewer objects."""


class BadCredentials(KubeError):
    """The kubeconfig or the service account's token cannot be used."""


class ApiError(KubeError):
    """The API server answered with a status other than success."""

    def __init__(
        self, message: str, *, status: int, reason: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status
        self.reason = reason


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409: somebody else wrote first, or it exists already."""


class Gone(ApiError):
    """410: the resource version is too old; list again."""


class Forbidden(ApiError):
    """403: RBAC, a policy or a webhook said no; the message says which."""


def is_refusal(error: Exception) -> bool:
    """Whether the API server does not want the request, rather than cannot do it now."""
    return isinstance(error, ApiError) and error.status < 500 and error.status not in PASSING


_BY_STATUS = {403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone}


def from_status(
    status: int, body: Mapping[str, Any] | None, *, what: str, retry_after: float | None = None
) -> ApiError:
    """The error for an HTTP status and the `Status` object that came with it, if any."""
    body = body or {}
    code = status or int(body.get("code") or 0)
    message = f"{what}: {body.get('message') or f'HTTP {code}'}"
    reason = str(body.get("reason") or "")
    return _BY_STATUS.get(code, ApiError)(
        message, status=code, reason=reason, retry_after=retry_after
    )
