"""The card provider's pages (save a card, top up, subscribe), and what the provider tells us."""

from collections.abc import Awaitable
from datetime import datetime
from typing import Annotated, Any, assert_never

import msgspec
from litestar import get, post
from msgspec import Meta, Struct

from libs.bus.rpc import ask
from libs.contracts.billing_rpc import NoCardProvider
from libs.contracts.provider_rpc import (
    MAX_EVENT_BYTES,
    PROVIDER_EVENT,
    SAVE_CARD,
    SUBSCRIBE,
    TOP_UP,
    AddressRefused,
    AlreadySubscribed,
    AmountNotTaken,
    CheckoutOrder,
    CheckoutPage,
    EventRefused,
    EventTaken,
    KeyTaken,
    PageAnswer,
    PlanName,
    ProviderAway,
    SaveCard,
    Subscribe,
    TakeEvent,
    TopUp,
)
from services.gateway.access.accounts import read_account
from services.gateway.http.errors import ApiError, invalid, unavailable
from services.gateway.http.operation import operation
from services.gateway.http.replies import Reply, reply
from services.gateway.parts import Asked, caller_of, parts_of
from services.gateway.reading import header_key, read_json

PAGE_SECONDS = 15.0
"""A page takes the provider up to five calls, of half a second each on a good day."""

EVENT_SECONDS = 8.0  # the provider waits for ten, and sends the event again
MAX_SIGNATURE = 4_000  # characters; one of Stripe's has about a hundred

PageUrl = Annotated[
    str,
    Meta(
        max_length=2048,
        pattern=r"^https?://[\x21-\x7e]+$",
        description="A page of yours: http or https, at most 2048 characters.",
    ),
]


class CardRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the page leads back to."""

    success_url: PageUrl | None = None
    cancel_url: PageUrl | None = None


class TopUpRequest(CardRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``amount_cents`` go to the balance once they are paid."""

    amount_cents: Annotated[int, Meta(ge=50, le=99_999_999)]


class SubscriptionRequest(CardRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both plans include priority processing."""

    plan: PlanName


class CardPage(Struct, frozen=True, kw_only=True):
    """Open ``checkout_url`` in a browser; it takes a card until ``expires_at``."""

    checkout_url: str
    session_id: str
    expires_at: datetime


decode_card_request: msgspec.json.Decoder[CardRequest] = msgspec.json.Decoder(CardRequest)
decode_top_up: msgspec.json.Decoder[TopUpRequest] = msgspec.json.Decoder(TopUpRequest)
decode_subscription: msgspec.json.Decoder[SubscriptionRequest] = msgspec.json.Decoder(
    SubscriptionRequest
)


@operation(
    "POST",
    "/v1/jobs/setup-card",
    id="setUpCard",
    tag="Billing",
    scope="billing",
    answer=CardPage,
    body=CardRequest,
    body_optional=True,
    refuses=("card_payments_not_configured", "idempotency_conflict"),
    idempotency_key=True,
)
async def set_up_card(request: Asked) -> Reply:
    """Save a card, on a page of the card provider's.

    Jobs are then charged to it when they have completed. Without a card, they are paid from the
    balance.
    """
    wanted = CardRequest()
    if await request.body():
        wanted = await read_json(request, decode_card_request)
    order = await _order(request, wanted)
    return await _page(request, ask_billing(request, SAVE_CARD, SaveCard(order=order)))


@operation(
    "POST",
    "/v1/billing/top-up",
    id="topUp",
    tag="Billing",
    scope="billing",
    answer=CardPage,
    body=TopUpRequest,
    refuses=("card_payments_not_configured", "idempotency_conflict"),
    idempotency_key=True,
)
async def top_up(request: Asked) -> Reply:
    """Pay money in, on a page of the card provider's.

    The balance has it within seconds of the payment.
    """
    wanted = await read_json(request, decode_top_up)
    order = await _order(request, wanted)
    question = TopUp(order=order, amount_cents=wanted.amount_cents)
    return await _page(request, ask_billing(request, TOP_UP, question))


@operation(
    "POST",
    "/v1/billing/subscription",
    id="subscribe",
    tag="Billing",
    scope="billing",
    answer=CardPage,
    body=SubscriptionRequest,
    refuses=("card_payments_not_configured", "already_subscribed", "idempotency_conflict"),
    idempotency_key=True,
)
async def subscribe(request: Asked) -> Reply:
    """Subscribe to a plan, on a page of the card provider's.

    It is paid each month until it is cancelled; to change or cancel it, open the account's
    portal_url.
    """
    wanted = await read_json(request, decode_subscription)
    order = await _order(request, wanted)
    question = Subscribe(order=order, plan=wanted.plan)
    return await _page(request, ask_billing(request, SUBSCRIBE, question))


def ask_billing(request: Asked, rpc: Any, question: Struct) -> Awaitable[Any]:
    return ask(parts_of(request).broker, rpc, question, deadline=PAGE_SECONDS)


async def _order(request: Asked, wanted: CardRequest) -> CheckoutOrder:
    """Without a key of the client's, one of ours: billing may be asked again for a lost answer."""
    key, parts = header_key(request, "cards"), parts_of(request)
    account = await read_account(parts.pool, caller_of(request).account_id)
    return CheckoutOrder(
        account_id=account.id,
        name=account.name[:255],
        email=account.email and account.email[:255],
        success_url=wanted.success_url,
        cancel_url=wanted.cancel_url,
        key=key.text if key else f"once:{parts.new_id()}",
    )


async def _page(request: Asked, asked: Awaitable[Any]) -> Reply:
    answer: PageAnswer | AlreadySubscribed | AmountNotTaken = await asked
    match answer:
        case CheckoutPage():
            page = CardPage(
                checkout_url=answer.url,
                session_id=answer.session_id,
                expires_at=answer.expires_at,
            )
            told = answer.replayed and "idempotency-key" in request.headers
            return reply(page, headers={"Idempotency-Replayed": "true"} if told else None)
        case NoCardProvider():
            raise ApiError(
                "card_payments_not_configured",
                "This installation takes no cards: its operator has connected no card provider."
                " Jobs are paid from the balance; ask the operator to top it up.",
            )
        case ProviderAway():
            raise unavailable("The card provider")
        case KeyTaken():
            raise ApiError(
                "idempotency_conflict",
                "This Idempotency-Key was used for another page; send a new one.",
            )
        case AddressRefused(field=field):
            raise invalid(f"{field}: the card provider's page can't lead there; give a whole URL.")
        case AlreadySubscribed(plan=plan):
            raise ApiError(
                "already_subscribed",
                f"The account is subscribed to {plan}: change or cancel it at the portal_url that"
                " GET /v1/me gives.",
            )
        case AmountNotTaken(minimum_cents=least, maximum_cents=most, currency=currency):
            raise invalid(f"amount_cents: the card provider takes {least} to {most} {currency}")
        case _:
            assert_never(answer)


# Stripe's side of the contract, not ours: Stripe says what it sends, so no document of ours does.
@post("/v1/webhooks/stripe", status_code=200, request_max_body_size=MAX_EVENT_BYTES)
async def stripe_event(request: Asked) -> Reply:
    """Take an event that Stripe signed; anything but a 200 makes Stripe send it again."""
    signature = request.headers.get("stripe-signature", "")
    if len(signature) > MAX_SIGNATURE:
        raise ApiError("invalid_signature", "The Stripe-Signature header is too long.")
    event = TakeEvent(payload=await request.body(), signature=signature)
    answer = await ask(parts_of(request).broker, PROVIDER_EVENT, event, deadline=EVENT_SECONDS)
    match answer:
        case EventTaken():
            return reply({"received": True})
        case EventRefused():
            raise ApiError(
                "invalid_signature",
                "The event is not signed with this installation's webhook secret, or is older than"
                " five minutes: compare TUNEYARD_STRIPE_WEBHOOK_SECRET with Stripe's dashboard.",
            )
        case NoCardProvider():
            raise ApiError(
                "card_payments_not_configured", "This installation takes no events of Stripe's."
            )
        case _:
            assert_never(answer)


RETURNED = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Tuneyard</title><h1>You can close this page</h1>
<p>What you did on the payment page is with your account within seconds: see
<code>GET /v1/me</code> and <code>GET /v1/billing/ledger</code>.</p></html>
"""


@get("/billing/returned")
async def returned() -> Reply:
    """Where the provider's pages lead to when nobody said where; for people, and so undocumented.
    It says nothing of anybody, whatever a provider adds to its address."""
    policy = {
        "Content-Security-Policy": "default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Reply(200, RETURNED, policy, media_type="text/html; charset=utf-8")


ROUTES: tuple[Any, ...] = (set_up_card, top_up, subscribe, stripe_event, returned)
