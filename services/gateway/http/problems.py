"""Every error code of the public contract: its status, on every route, and its meaning."""

from typing import Literal

from msgspec import Struct

Code = Literal[
    "malformed_request",
    "invalid_api_key",
    "invalid_token",
    "invalid_signature",
    "insufficient_balance",
    "payment_required",
    "insufficient_scope",
    "not_found",
    "method_not_allowed",
    "already_subscribed",
    "api_key_limit",
    "card_payments_not_configured",
    "idempotency_conflict",
    "idempotency_in_progress",
    "job_already_ended",
    "webhook_limit",
    "payload_too_large",
    "consent_required",
    "model_not_available",
    "validation_failed",
    "rate_limited",
    "too_many_streams",
    "internal_error",
    "service_unavailable",
]


class Problem(Struct, frozen=True):
    status: int
    meaning: str


PROBLEMS: dict[Code, Problem] = {
    "malformed_request": Problem(400, "The request is not HTTP as the protocol has it."),
    "invalid_signature": Problem(400, "The event is not signed by the card provider, or too old."),
    "invalid_api_key": Problem(401, "The API key is missing, mistyped, expired or deleted."),
    "invalid_token": Problem(
        401, "The ID token is expired, or not one of a trusted issuer for this service."
    ),
    "insufficient_balance": Problem(402, "The balance is too low for the price."),
    "payment_required": Problem(402, "An earlier charge was declined; settle it first."),
    "insufficient_scope": Problem(403, "The API key lacks the scope that this operation needs."),
    "not_found": Problem(404, "There is no such thing, or it belongs to another account."),
    "method_not_allowed": Problem(405, "The path does not take this method."),
    "already_subscribed": Problem(409, "The account has a subscription already."),
    "api_key_limit": Problem(409, "The account has as many active keys as its plan allows."),
    "card_payments_not_configured": Problem(409, "This installation takes no cards."),
    "idempotency_conflict": Problem(409, "The idempotency key was used with different parameters."),
    "idempotency_in_progress": Problem(
        409, "A request with this idempotency key is being worked on."
    ),
    "job_already_ended": Problem(409, "The job has ended; nothing is left to cancel."),
    "webhook_limit": Problem(409, "The account has as many webhooks as it may have."),
    "payload_too_large": Problem(413, "The request body is too large."),
    "consent_required": Problem(422, "A required consent was not given."),
    "model_not_available": Problem(422, "The model can't be used on this installation now."),
    "validation_failed": Problem(
        422, "The request says something that can't be done; the message names it."
    ),
    "rate_limited": Problem(429, "Too many requests; wait for as long as Retry-After says."),
    "too_many_streams": Problem(429, "The account has too many streams open; close some."),
    "internal_error": Problem(500, "Something is broken here; the request may be repeated."),
    "service_unavailable": Problem(
        503, "A part of the platform does not answer; try again shortly."
    ),
}
