"""Questions that webhooks answers: an account's endpoints, and what was delivered to them.

Every question names the account that asks; what belongs to another is unknown to it. One that
makes something carries an ``idempotency_key`` and the digest of what it asks for: for 24 hours the
same key gets the same answer, ``replayed``, so a question whose answer was lost can be repeated.
"""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from libs.contracts.base import Count, Sha256, ShortText
from libs.contracts.rpc import Rpc

EventType = Literal["job.queued", "job.running", "job.completed", "job.failed", "job.cancelled"]
"""What an endpoint can ask for. ``ping`` comes unasked, by a test."""

EndpointUrl = Annotated[str, Meta(min_length=1, max_length=2_048)]
Description = Annotated[str, Meta(max_length=500)]
DisabledReason = Literal["gone", "failing"]
DeliveryStatus = Literal["pending", "delivered", "failed"]


class Endpoint(Struct, frozen=True, kw_only=True):
    """A URL that is told of events. ``event_types`` null: of all, also of those that come later.

    ``disabled_reason`` says why it was switched off by itself: ``gone`` (it answered 410) or
    ``failing`` (nothing but failures for five days); null where its owner did it. Enabling it
    clears both. ``failing_since`` is its first failure after the last success, ``held_until`` when
    deliveries go on after it asked for a pause (429, 502, 504, Retry-After).
    """

    id: UUID
    url: str
    description: str | None
    event_types: list[EventType] | None
    enabled: bool
    disabled_reason: DisabledReason | None
    disabled_at: datetime | None
    failing_since: datetime | None
    held_until: datetime | None
    created_at: datetime
    updated_at: datetime


class EndpointWithSecret(Endpoint, frozen=True, kw_only=True):
    """``secret`` (``whsec_…``) checks signatures; it is shown in this answer only."""

    secret: str


class CreateEndpoint(Struct, frozen=True, kw_only=True):
    account_id: UUID
    url: EndpointUrl
    event_types: list[EventType] | None
    description: Description | None
    enabled: bool
    idempotency_key: ShortText
    request_sha256: Sha256


class EndpointCreated(Struct, frozen=True, kw_only=True, tag="created"):
    endpoint: EndpointWithSecret
    replayed: bool


class UrlRefused(Struct, frozen=True, kw_only=True, tag="url_refused"):
    """``reason`` is a sentence for the owner, with what would be accepted."""

    reason: str


class TooManyEndpoints(Struct, frozen=True, kw_only=True, tag="too_many"):
    limit: int


class EndpointKeyTaken(Struct, frozen=True, kw_only=True, tag="key_taken"):
    """The idempotency key was used with different parameters."""


class UnknownEndpoint(Struct, frozen=True, kw_only=True, tag="unknown_endpoint"):
    pass


class EndpointFound(Struct, frozen=True, kw_only=True, tag="found"):
    endpoint: Endpoint


class SecretRotated(Struct, frozen=True, kw_only=True, tag="rotated"):
    endpoint: EndpointWithSecret
    replayed: bool


class ListEndpoints(Struct, frozen=True, kw_only=True):
    """Newest first, those behind ``(created_at, id)``."""

    account_id: UUID
    before: datetime
    before_id: UUID
    limit: int


class EndpointList(Struct, frozen=True, kw_only=True):
    """One more than ``limit`` where there are more."""

    endpoints: list[Endpoint]


class GetEndpoint(Struct, frozen=True, kw_only=True):
    account_id: UUID
    endpoint_id: UUID


class ChangeEndpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is left out stays as it is."""

    account_id: UUID
    endpoint_id: UUID
    url: EndpointUrl | UnsetType = UNSET
    event_types: list[EventType] | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class RemoveEndpoint(Struct, frozen=True, kw_only=True):
    """Its deliveries go with it; what is on its way may still arrive."""

    account_id: UUID
    endpoint_id: UUID


class EndpointRemoved(Struct, frozen=True, kw_only=True, tag="removed"):
    pass


class RotateSecret(Struct, frozen=True, kw_only=True):
    """The secret there was signs beside the new one for 24 hours; one from before it, no more."""

    account_id: UUID
    endpoint_id: UUID
    idempotency_key: ShortText
    request_sha256: Sha256


class Attempt(Struct, frozen=True, kw_only=True):
    """One request. ``status_code`` is null where no answer came, and ``error`` says why;
    ``response`` is the first KB of the answer, as text. ``latency_ms`` runs until the answer's
    end."""

    number: int
    started_at: datetime
    latency_ms: int
    status_code: int | None
    error: str | None
    response: str | None


class Delivery(Struct, frozen=True, kw_only=True):
    """One event on its way to one endpoint. ``event_id`` is ``webhook-id`` in every attempt.
    ``next_attempt_at`` is null once it is delivered or given up. ``attempts``: newest first, the
    last ten; ``attempt_count`` counts all."""

    id: UUID
    webhook_id: UUID
    event_id: UUID
    event_type: EventType | Literal["ping"]
    job_id: UUID | None
    status: DeliveryStatus
    attempt_count: Count
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
    attempts: list[Attempt]


class SendPing(Struct, frozen=True, kw_only=True):
    """Sends a ``ping`` to this endpoint, once, also to one that is disabled."""

    account_id: UUID
    endpoint_id: UUID
    idempotency_key: ShortText
    request_sha256: Sha256


class ListDeliveries(Struct, frozen=True, kw_only=True):
    """Newest first, those behind ``(created_at, id)``; ``status`` null: all."""

    account_id: UUID
    endpoint_id: UUID
    status: DeliveryStatus | None
    before: datetime
    before_id: UUID
    limit: int


class DeliveryList(Struct, frozen=True, kw_only=True, tag="deliveries"):
    """At most ``limit``, fewer where more would not fit into an answer; ``more``: they go on."""

    deliveries: list[Delivery]
    more: bool


class Redeliver(Struct, frozen=True, kw_only=True):
    """Try again now, with the whole schedule before it."""

    account_id: UUID
    endpoint_id: UUID
    delivery_id: UUID
    idempotency_key: ShortText
    request_sha256: Sha256


class DeliveryFound(Struct, frozen=True, kw_only=True, tag="delivery"):
    delivery: Delivery
    replayed: bool


class UnknownDelivery(Struct, frozen=True, kw_only=True, tag="unknown_delivery"):
    pass


class Recover(Struct, frozen=True, kw_only=True):
    """Deliver whatever happened since then and the endpoint has not accepted: given up, or missed
    while it was disabled."""

    account_id: UUID
    endpoint_id: UUID
    since: datetime
    idempotency_key: ShortText
    request_sha256: Sha256


class Recovering(Struct, frozen=True, kw_only=True, tag="recovering"):
    """``deliveries`` that are on their way now; ``more``: others are left, so ask again."""

    deliveries: Count
    more: bool
    replayed: bool


class ListDisabled(Struct, frozen=True, kw_only=True):
    """The endpoints that were switched off by themselves: what ``me`` shows as notices."""

    account_id: UUID


def _rpc(name: str, request: type[Struct], answer: object) -> Rpc:  # type: ignore[type-arg]
    return Rpc("webhooks", name, request, answer)


Created = EndpointCreated | UrlRefused | TooManyEndpoints | EndpointKeyTaken
Changed = EndpointFound | UrlRefused | UnknownEndpoint
Rotated = SecretRotated | UnknownEndpoint | EndpointKeyTaken
Pinged = DeliveryFound | UnknownEndpoint | EndpointKeyTaken
Redelivered = DeliveryFound | UnknownDelivery | EndpointKeyTaken
Recovered = Recovering | UnknownEndpoint | EndpointKeyTaken

CREATE: Rpc[CreateEndpoint, Created] = _rpc("create", CreateEndpoint, Created)
LIST: Rpc[ListEndpoints, EndpointList] = _rpc("list", ListEndpoints, EndpointList)
GET: Rpc[GetEndpoint, EndpointFound | UnknownEndpoint] = _rpc(
    "get", GetEndpoint, EndpointFound | UnknownEndpoint
)
CHANGE: Rpc[ChangeEndpoint, Changed] = _rpc("change", ChangeEndpoint, Changed)
REMOVE: Rpc[RemoveEndpoint, EndpointRemoved | UnknownEndpoint] = _rpc(
    "remove", RemoveEndpoint, EndpointRemoved | UnknownEndpoint
)
ROTATE: Rpc[RotateSecret, Rotated] = _rpc("rotate", RotateSecret, Rotated)
PING: Rpc[SendPing, Pinged] = _rpc("send_ping", SendPing, Pinged)
DELIVERIES: Rpc[ListDeliveries, DeliveryList | UnknownEndpoint] = _rpc(
    "deliveries", ListDeliveries, DeliveryList | UnknownEndpoint
)
REDELIVER: Rpc[Redeliver, Redelivered] = _rpc("redeliver", Redeliver, Redelivered)
RECOVER: Rpc[Recover, Recovered] = _rpc("recover", Recover, Recovered)
DISABLED: Rpc[ListDisabled, EndpointList] = _rpc("disabled", ListDisabled, EndpointList)
