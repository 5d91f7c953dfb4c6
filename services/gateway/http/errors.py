"""One envelope for everything that goes wrong, and the one table from exceptions to answers.

``{"error": {"code", "message", "details"?, "request_id"}}``. What a client sends never ends in a
5xx; a part of the platform that does not answer is a 503 with ``Retry-After``.
"""

from collections.abc import Mapping
from typing import Any

import asyncpg
import structlog
from litestar.exceptions import ClientException, HTTPException, InternalServerException
from msgspec import UNSET, Struct, UnsetType

from libs.bus.rpc import Unanswered
from libs.eventlog.groupcommit import LogUnavailable
from libs.objectstore import StoreUnavailable
from libs.observability.spans import current_span
from services.gateway.http.problems import PROBLEMS, Code
from services.gateway.http.replies import Reply, reply
from services.gateway.upload.receive import UploadRejected

SERVER_ERROR = 500
RETRY_SECONDS = 1  # what restarts here is back in about a second

BY_STATUS: dict[int, Code] = {
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
}
"""Codes of what Litestar itself refuses; every other fault of the client is in its input."""

logger = structlog.get_logger()


class ApiError(Exception):
    """An answer other than the hoped-for one."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        details: object = UNSET,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = PROBLEMS[code].status
        super().__init__(f"{self.status} {code}: {message}")
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})


def invalid(message: str, details: object = UNSET) -> ApiError:
    """The request says something that can't be done; the message names the field."""
    return ApiError("validation_failed", message, details=details)


def not_found(what: str) -> ApiError:
    """Unknown, or another account's: the two can't be told apart."""
    return ApiError("not_found", f"There is no such {what}.")


def unavailable(part: str) -> ApiError:
    return ApiError(
        "service_unavailable",
        f"{part} does not answer at the moment; try again shortly.",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


class Error(Struct, frozen=True):
    """What went wrong and what to do next. ``code`` is for programs; more may be added, so an
    unknown one is to be read by its status. ``details`` depends on it: for a data set they are
    ``{"errors": [{"line", "path", "reason", "fix"}], "error_count", ...}``."""

    code: str
    message: str
    request_id: str
    details: Any | UnsetType = UNSET


class ErrorEnvelope(Struct, frozen=True):
    """The body of every answer that is not the hoped-for one."""

    error: Error


def error_reply(error: ApiError, request_id: str) -> Reply:
    body = ErrorEnvelope(Error(error.code, error.message, request_id, error.details))
    return reply(body, status=error.status, headers=error.headers)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told about any exception; one that nobody foresaw is logged, and a 500.

    The request's span keeps those that are failures of ours.
    """
    told = _told(error)
    if told.status >= SERVER_ERROR:
        current_span().fail(error)
    return told


def _told(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case UploadRejected():
            details = UNSET if error.details is None else error.details
            return invalid(error.message, details)
        case asyncpg.DataError():
            return invalid("A value is outside of what can be stored.")
        case RecursionError():
            return invalid("The request is nested too deeply.")
        case UnicodeDecodeError():
            return invalid("The request is not valid UTF-8.")
        case Unanswered():
            return unavailable(str(error).split(":")[0].split(".")[1].capitalize())
        case LogUnavailable() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return unavailable("The database")
        case asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError():
            return unavailable("The database")
        case asyncpg.InsufficientResourcesError():
            return unavailable("The database")
        case StoreUnavailable():
            return unavailable("The object store")
        case OSError() | TimeoutError():
            logger.warning("a part did not answer", error=repr(error))
            return unavailable("A part of the platform")
        case HTTPException():
            return _refused_by_framework(error)
    logger.error("request failed", exc_info=error)
    return ApiError("internal_error", PROBLEMS["internal_error"].meaning)


def _refused_by_framework(error: HTTPException) -> ApiError:
    if isinstance(error, InternalServerException):
        # Litestar's word for a client that went away while its body was read.
        return invalid("The request broke off before its end.")
    if (code := BY_STATUS.get(error.status_code)) is not None:
        message = (
            "There is nothing at this path." if code == "not_found" else PROBLEMS[code].meaning
        )
        return ApiError(code, message, headers=error.headers or {})
    if isinstance(error, ClientException):
        return invalid(_parameter_problem(error))
    logger.error("request failed", exc_info=error)
    return ApiError("internal_error", PROBLEMS["internal_error"].meaning)


def _parameter_problem(error: HTTPException) -> str:
    """Litestar lists what is wrong with the query as ``[{"message", "key", "source"}]``."""
    problems: Any = error.extra
    if isinstance(problems, list) and problems and isinstance(problems[0], dict):
        first = problems[0]
        return f"{first.get('key', 'the request')}: {first.get('message', error.detail)}"
    return error.detail
