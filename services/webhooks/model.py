"""What comes of an attempt: for the delivery, and for the health of its endpoint. Pure.

After Standard Webhooks 1.0.0, "Deliverability and reliability".
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from msgspec import Struct
from msgspec.structs import replace

from libs.contracts.webhooks_rpc import DeliveryStatus, DisabledReason

SCHEDULE = tuple(
    timedelta(seconds=seconds)
    for seconds in (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""Before each attempt, after the one before it: the specification's, 75 hours and a half in all."""

JITTER = 0.1
"""How much later than its time an attempt may come: what failed together does not return so."""

GIVE_UP_ENDPOINT = timedelta(days=5)
"""Of nothing but failure. Longer than any delivery is tried, so one bad delivery never does it."""

PAUSE = timedelta(seconds=30)
"""For an endpoint that is under load (429, 502, 504) and did not say how long."""

LONGEST_PAUSE = timedelta(hours=24)
"""However long it asks for: the longest that the schedule waits by itself."""

UNDER_LOAD = frozenset({429, 502, 504})
GONE = 410
KEPT_RESPONSE = 1_024  # characters of an answer, for its owner to see what went wrong


class Progress(Struct, frozen=True, kw_only=True):
    """Where a delivery stands. ``step`` is the place in the schedule of the attempt that is next,
    ``next_at`` when it is due, or until when it is claimed; null once it is not pending."""

    status: DeliveryStatus
    step: int
    attempts: int
    next_at: datetime | None
    delivered_at: datetime | None


class Health(Struct, frozen=True, kw_only=True):
    """What deliveries have shown of an endpoint; see `libs.contracts.webhooks_rpc.Endpoint`."""

    enabled: bool
    disabled_reason: DisabledReason | None
    disabled_at: datetime | None
    failing_since: datetime | None
    held_until: datetime | None


class Attempted(Struct, frozen=True, kw_only=True):
    """One request and what came of it. ``claimed_until`` is the claim that it was made under;
    ``error`` is null exactly when a whole answer came. ``retry_after`` is what the answer asked.
    ``kept`` is false when nothing was sent because what happened is not kept any more."""

    claimed_until: datetime
    ping: bool
    started_at: datetime
    ended_at: datetime
    latency_ms: int
    status_code: int | None
    error: str | None
    response: str | None
    retry_after: timedelta | None
    kept: bool = True

    @property
    def accepted(self) -> bool:
        return self.error is None and self.status_code is not None and self.status_code // 100 == 2


def decide(
    progress: Progress, health: Health, attempted: Attempted, *, chance: float
) -> tuple[Progress, Health]:
    """What an attempt changes. ``chance`` is between 0 and 1, for the jitter."""
    return _progress(progress, attempted, chance), _health(health, attempted)


def _progress(progress: Progress, attempted: Attempted, chance: float) -> Progress:
    counted = replace(progress, attempts=progress.attempts + 1)
    if attempted.accepted:
        return replace(
            counted,
            status="delivered",
            next_at=None,
            delivered_at=progress.delivered_at or attempted.ended_at,
        )
    if progress.status != "pending" or progress.next_at != attempted.claimed_until:
        return counted  # its claim had lapsed, or its owner has begun it anew: that one counts
    step = progress.step + 1
    once = attempted.ping or not attempted.kept
    if once or attempted.status_code == GONE or step >= len(SCHEDULE):
        return replace(counted, status="failed", step=step, next_at=None)
    wait = SCHEDULE[step] * (1 + JITTER * chance)
    return replace(
        counted, step=step, next_at=attempted.ended_at + max(wait, _asked_for(attempted))
    )


def _health(health: Health, attempted: Attempted) -> Health:
    if attempted.ping:  # its owner looks at the answer, and may be trying what is not yet there
        return health
    if not attempted.kept:  # which is no fault of the endpoint's
        return health
    if attempted.accepted:
        return replace(health, failing_since=None)
    health = replace(health, failing_since=health.failing_since or attempted.started_at)
    pause = _asked_for(attempted)
    if attempted.status_code in UNDER_LOAD:
        pause = pause or PAUSE
    if pause:
        until = attempted.ended_at + pause
        health = replace(health, held_until=max(until, health.held_until or until))
    if not health.enabled:
        return health
    reason: DisabledReason | None = None
    if attempted.status_code == GONE:
        reason = "gone"
    elif health.failing_since and attempted.ended_at - health.failing_since >= GIVE_UP_ENDPOINT:
        reason = "failing"
    if reason is None:
        return health
    return replace(health, enabled=False, disabled_reason=reason, disabled_at=attempted.ended_at)


def _asked_for(attempted: Attempted) -> timedelta:
    return min(attempted.retry_after or timedelta(), LONGEST_PAUSE)


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """What ``Retry-After`` asks for: seconds, or a date (RFC 9110, 10.2.3); None when it is
    neither, or over already."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        seconds = int(text[:9])  # decades; int() of thousands of digits raises
        return timedelta(seconds=seconds) if seconds else None
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    pause = (then if then.tzinfo else then.replace(tzinfo=UTC)) - now
    return pause if pause > timedelta() else None


def response_text(body: bytes) -> str:
    """The beginning of an answer as text that PostgreSQL holds, whatever the bytes were."""
    return body[:KEPT_RESPONSE].decode(errors="replace").replace("\0", "")
