"""When a request is worth repeating, and after how long. Pure."""

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from tuneyard.errors import APIConnectionError, APIError

FIRST_PAUSE = 0.5  # seconds: what restarts is back in about that long
LONGEST_PAUSE = 8.0  # seconds: with a handful of tries, more would only be waiting
JITTER = 0.5  # up to this share of a pause is left out, so that clients part from each other
# Whoever is told to wait for longer should hear of it rather than seem to hang.
LONGEST_RETRY_AFTER = 60.0

WORTH_REPEATING = {408, 429, 500, 502, 503, 504}
REFUSED_UNREAD = {408, 429}  # nothing was done, so a repetition does nothing twice
IN_PROGRESS = "idempotency_in_progress"
NOT_FOUND = "not_found"  # as the platform says it; any proxy may say 404


def pause_after(
    error: APIConnectionError | APIError,
    tries: int,
    *,
    max_retries: int,
    repeatable: bool,
    random: Callable[[], float],
) -> float | None:
    """Seconds to wait after ``tries`` that failed, the last one with ``error``; None: give up.

    ``repeatable``: doing it twice is the same as doing it once.
    """
    if tries > max_retries or not _worth_repeating(error, repeatable):
        return None
    if isinstance(error, APIError) and error.retry_after is not None:
        return None if error.retry_after > LONGEST_RETRY_AFTER else error.retry_after
    return backoff(tries, random)


def has_unknown_outcome(error: APIConnectionError | APIError) -> bool:
    """Whether what was asked for may have been done all the same."""
    return error.sent if isinstance(error, APIConnectionError) else error.status >= 500


def backoff(tries: int, random: Callable[[], float]) -> float:
    """Seconds: doubling, with jitter downwards."""
    # A float's exponent has an end; long before it, the longest pause is reached.
    whole = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 16))
    return whole * (1 - JITTER * random())


def _worth_repeating(error: APIConnectionError | APIError, repeatable: bool) -> bool:
    if isinstance(error, APIConnectionError):
        return repeatable or not error.sent
    if error.code == IN_PROGRESS or error.status in REFUSED_UNREAD:
        return True
    return repeatable and error.status in WORTH_REPEATING


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds, of a Retry-After header in seconds or as a date (RFC 9110); None without one that
    can be read."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - now).total_seconds())
