"""Everything that can go wrong. `TuneyardError` catches all of it."""

from collections.abc import Mapping
from typing import Any

import msgspec


class TuneyardError(Exception):
    """What this library raises; by itself: what was asked of it can't be done."""


class APIConnectionError(TuneyardError):
    """The platform wasn't reached, or the connection broke off. ``sent``: the request may have
    reached it."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.sent = sent


class APITimeoutError(APIConnectionError):
    """Nothing came for as long as the timeout says."""


class ResponseError(TuneyardError):
    """An answer came that is none of the platform's: something between may have written it."""


class WaitTimeoutError(TuneyardError):
    """The job had not ended after as long as was to be waited."""


class DownloadError(TuneyardError):
    """A file could not be fetched, or is not what its SHA-256 says."""


class WebhookVerificationError(TuneyardError):
    """A webhook that the platform did not sign with this secret, or not lately."""


class APIError(TuneyardError):
    """The platform refused. ``code`` is for programs (``/openapi.json`` lists them; more may
    come), ``message`` says what to do next, ``details`` depends on the code, ``request_id`` is
    what to tell when asking for help. ``retry_after`` in seconds, if the answer named any."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        request_id: str | None = None,
        details: Any = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        request = f" (request {request_id})" if request_id else ""
        super().__init__(f"{status} {code}: {message}{request}")
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id
        self.details = details
        self.headers = dict(headers or {})
        self.retry_after = retry_after


class BadRequestError(APIError):
    """400."""


class AuthenticationError(APIError):
    """401: the key is missing, mistyped, expired or deleted."""


class PaymentRequiredError(APIError):
    """402: an earlier charge was declined."""


class InsufficientBalanceError(PaymentRequiredError):
    """402: the balance is too low for the price."""


class PermissionDeniedError(APIError):
    """403: the key lacks the scope."""


class NotFoundError(APIError):
    """404: there is no such thing, or it is another account's."""


class ConflictError(APIError):
    """409."""


class IdempotencyConflictError(ConflictError):
    """409: the idempotency key was used with other parameters."""


class PayloadTooLargeError(APIError):
    """413."""


class ValidationError(APIError):
    """422: the message names what is wrong; of a data set, ``details`` names the lines."""


class ModelNotAvailableError(ValidationError):
    """422: the model can't be used on this installation now."""


class RateLimitError(APIError):
    """429, again and again; ``retry_after`` says when to come back."""


class ServerError(APIError):
    """500 and above."""


class ServiceUnavailableError(ServerError):
    """503: a part of the platform does not answer."""


BY_CODE: dict[str, type[APIError]] = {
    "insufficient_balance": InsufficientBalanceError,
    "idempotency_conflict": IdempotencyConflictError,
    "model_not_available": ModelNotAvailableError,
}
BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: PayloadTooLargeError,
    422: ValidationError,
    429: RateLimitError,
    503: ServiceUnavailableError,
}


class _Error(msgspec.Struct):
    code: str
    message: str
    request_id: str | None = None
    details: Any = None


class _Envelope(msgspec.Struct):
    error: _Error


_decode = msgspec.json.Decoder(_Envelope).decode

SHOWN = 200  # characters of a body that is none of the platform's: enough to recognise it by


def error_of(
    status: int, headers: Mapping[str, str], content: bytes, retry_after: float | None
) -> APIError:
    """The error that an answer is. One without the platform's envelope, of a proxy for instance,
    has the code ``http_<status>``."""
    try:
        said = _decode(content).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = content[:SHOWN].decode(errors="replace").strip()
        said = _Error(f"http_{status}", text or "the answer has no text")
    kind = BY_CODE.get(said.code) or BY_STATUS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else APIError
    return kind(
        said.message,
        status=status,
        code=said.code,
        request_id=said.request_id or headers.get("x-request-id"),
        details=said.details,
        headers=headers,
        retry_after=retry_after,
    )
