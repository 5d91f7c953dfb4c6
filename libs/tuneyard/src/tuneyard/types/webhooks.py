"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime

from msgspec import Struct


class EndpointWithSecret(Struct, frozen=True, kw_only=True):
    """`secret` (`whsec_…`) checks signatures; it is shown in this answer only."""

    id: str
    url: str
    description: str | None = None
    event_types: list[str] | None = None
    enabled: bool
    disabled_reason: str | None = None
    """Known are `failing`, `gone`; a newer server may say others."""
    disabled_at: datetime | None = None
    failing_since: datetime | None = None
    held_until: datetime | None = None
    created_at: datetime
    updated_at: datetime
    secret: str


class Endpoint(Struct, frozen=True, kw_only=True):
    """A URL that is told of events. `event_types` null: of all, also of those that come later.

    `disabled_reason` says why it was switched off by itself: `gone` (it answered 410) or
    `failing` (nothing but failures for five days); null where its owner did it. Enabling it
    clears both. `failing_since` is its first failure after the last success, `held_until` when
    deliveries go on after it asked for a pause (429, 502, 504, Retry-After).
    """

    id: str
    url: str
    description: str | None = None
    event_types: list[str] | None = None
    enabled: bool
    disabled_reason: str | None = None
    """Known are `failing`, `gone`; a newer server may say others."""
    disabled_at: datetime | None = None
    failing_since: datetime | None = None
    held_until: datetime | None = None
    created_at: datetime
    updated_at: datetime


class Attempt(Struct, frozen=True, kw_only=True):
    """One request. `status_code` is null where no answer came, and `error` says why; `response` is
    the first KB of the answer, as text. `latency_ms` runs until the answer's end.
    """

    number: int
    started_at: datetime
    latency_ms: int
    status_code: int | None = None
    error: str | None = None
    response: str | None = None


class Delivery(Struct, frozen=True, kw_only=True):
    """One event on its way to one endpoint. `event_id` is `webhook-id` in every attempt.
    `next_attempt_at` is null once it is delivered or given up. `attempts`: newest first, the
    last ten; `attempt_count` counts all.
    """

    id: str
    webhook_id: str
    event_id: str
    event_type: str | str
    """Known are `job.cancelled`, `job.completed`, `job.failed`, `job.queued`, `job.running`,
    `ping`; a newer server may say others.
    """
    job_id: str | None = None
    status: str
    """Known are `delivered`, `failed`, `pending`; a newer server may say others."""
    attempt_count: int
    next_attempt_at: datetime | None = None
    delivered_at: datetime | None = None
    created_at: datetime
    attempts: list[Attempt] = []


class Recovery(Struct, frozen=True, kw_only=True):
    """`deliveries` are on their way now. `has_more`: others are left; send the request again,
    under another idempotency key.
    """

    deliveries: int
    has_more: bool
