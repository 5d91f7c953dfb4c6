"""What the command ends with, and what it says when something went wrong."""

from typing import Any

from msgspec import Struct

from tuneyard.errors import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    ModelNotAvailableError,
    NotFoundError,
    PaymentRequiredError,
    PermissionDeniedError,
    ResponseError,
    TuneyardError,
)

OK = 0
REFUSED = 1
USAGE = 2
NOT_AUTHENTICATED = 3
NOT_FOUND = 4
PAYMENT = 5
JOB_FAILED = 6
JOB_CANCELLED = 7
UNREACHABLE = 8
INTERRUPTED = 130  # 128 and SIGINT, as shells have it
READER_GONE = 141  # 128 and SIGPIPE

MEANINGS = {
    OK: "done",
    REFUSED: "the platform refused, or it could not be done",
    USAGE: "the command line, or a file that it names, is wrong",
    NOT_AUTHENTICATED: "no key, or one that may not do this",
    NOT_FOUND: "there is no such thing",
    PAYMENT: "the balance is too low, or a payment was declined",
    JOB_FAILED: "the job that was waited for failed",
    JOB_CANCELLED: "the job that was waited for was cancelled",
    UNREACHABLE: "the platform can't be reached",
    INTERRUPTED: "Ctrl-C; a job goes on",
}

SHOWN_LINES = 20  # of a data set's bad lines; a screen


class CliError(Exception):
    """``message`` says what is wrong, ``hint`` what to do next."""

    def __init__(self, message: str, *, hint: str, code: str, status: int = USAGE) -> None:
        super().__init__(message)
        self.message, self.hint, self.code, self.status = message, hint, code, status


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``exit`` is what the command ends with. ``code``, ``message``, ``request_id`` and ``details``
    are the API's, where it refused."""

    code: str
    message: str
    next: str
    exit: int
    request_id: str | None = None
    details: Any = None


def problem_of(error: Exception) -> Problem | None:
    """None for what is a defect of this command."""
    match error:
        case CliError():
            return Problem(
                code=error.code, message=error.message, next=error.hint, exit=error.status
            )
        case APIError():
            status, hint = _refused(error)
            return Problem(
                code=error.code,
                message=error.message,
                next=hint,
                exit=status,
                request_id=error.request_id,
                details=error.details,
            )
        case APIConnectionError():
            return Problem(
                code="unreachable",
                message=error.message,
                next="tuneyard doctor",
                exit=UNREACHABLE,
            )
        case ResponseError():
            return Problem(
                code="unreadable",
                message=str(error),
                next="tuneyard doctor",
                exit=UNREACHABLE,
            )
        case TuneyardError():
            return Problem(
                code="not_done", message=str(error), next="tuneyard --help", exit=REFUSED
            )
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return Problem(
                code="file",
                message=f"{where}{error.strerror or error}",
                next="name a file that exists and may be used",
                exit=USAGE,
            )
    return None


def _refused(error: APIError) -> tuple[int, str]:
    match error:
        case AuthenticationError():
            return NOT_AUTHENTICATED, "tuneyard login"
        case PermissionDeniedError():
            return NOT_AUTHENTICATED, "use a key with that scope: tuneyard keys ls"
        case NotFoundError():
            return (
                NOT_FOUND,
                "tuneyard ls, tuneyard datasets ls and tuneyard models say what there is",
            )
        case PaymentRequiredError():
            return PAYMENT, "tuneyard balance"
        case ModelNotAvailableError():
            return REFUSED, "tuneyard models"
    if error.retry_after is not None:
        return REFUSED, f"try again in {error.retry_after:.0f} s"
    if error.status >= 500:
        return REFUSED, "try again; if it stays so, tell the operator the request id"
    return REFUSED, "change what the message names, and try again"


def lines_of(problem: Problem) -> list[str]:
    """For people: one line what, one line what next, and whom to name it to."""
    lines = [f"error: {problem.message}"]
    details = problem.details
    bad = details.get("errors") if isinstance(details, dict) else None
    if isinstance(bad, list):
        shown = [each for each in bad[:SHOWN_LINES] if isinstance(each, dict)]
        lines += [f"  line {each.get('line')}: {each.get('reason')}" for each in shown]
    lines.append(f"  next: {problem.next}")
    if problem.request_id:
        lines.append(f"  request: {problem.request_id}")
    return lines
