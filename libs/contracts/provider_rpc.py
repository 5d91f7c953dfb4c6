"""Questions that billing answers with the help of its card provider."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta, Struct

from libs.contracts.base import Cents, LongText, ShortText
from libs.contracts.billing import Url
from libs.contracts.billing_rpc import NoCardProvider
from libs.contracts.rpc import Rpc

PlanName = Literal["plus", "pro"]

MAX_EVENT_BYTES = 256 * 1024
"""Stripe's largest are a tenth of that."""


class CheckoutOrder(Struct, frozen=True, kw_only=True):
    """Whom a page is for, and where it leads back to (null: a page of ours that says so).

    Idempotent by account and key, as the provider keeps it; without a key each request makes a page
    of its own, which harms nobody.
    """

    account_id: UUID
    name: ShortText
    email: ShortText | None = None
    success_url: Url | None = None
    cancel_url: Url | None = None
    key: ShortText | None = None


class SaveCard(Struct, frozen=True, kw_only=True):
    order: CheckoutOrder


class TopUp(Struct, frozen=True, kw_only=True):
    order: CheckoutOrder
    amount_cents: Cents


class Subscribe(Struct, frozen=True, kw_only=True):
    order: CheckoutOrder
    plan: PlanName


class CheckoutPage(Struct, frozen=True, kw_only=True, tag="checkout_page"):
    """``replayed``: an earlier request with this key made it."""

    url: Url
    session_id: ShortText
    expires_at: datetime
    replayed: bool


class ProviderAway(Struct, frozen=True, kw_only=True, tag="provider_away"):
    """The provider does not answer, or refuses what the operator has to put right."""


class AddressRefused(Struct, frozen=True, kw_only=True, tag="address_refused"):
    """The provider's page can't lead back to what ``field`` says."""

    field: Literal["success_url", "cancel_url"]


class KeyTaken(Struct, frozen=True, kw_only=True, tag="key_taken"):
    """The key stands for a request with other parameters."""


class AlreadySubscribed(Struct, frozen=True, kw_only=True, tag="already_subscribed"):
    plan: PlanName


class AmountNotTaken(Struct, frozen=True, kw_only=True, tag="amount_not_taken"):
    """The provider takes between these, in this currency."""

    minimum_cents: Cents
    maximum_cents: Cents
    currency: ShortText


class TakeEvent(Struct, frozen=True, kw_only=True):
    """An event as it came in, to be verified. Idempotent by its id."""

    payload: Annotated[bytes, Meta(max_length=MAX_EVENT_BYTES)]
    signature: LongText


class EventTaken(Struct, frozen=True, kw_only=True, tag="event_taken"):
    """It is stored, and will be handled."""


class EventRefused(Struct, frozen=True, kw_only=True, tag="event_refused"):
    """The provider has not signed it, or too long ago."""


PageAnswer = CheckoutPage | NoCardProvider | ProviderAway | KeyTaken | AddressRefused
TopUpAnswer = PageAnswer | AmountNotTaken
SubscribeAnswer = PageAnswer | AlreadySubscribed
EventAnswer = EventTaken | EventRefused | NoCardProvider

SAVE_CARD: Rpc[SaveCard, PageAnswer] = Rpc("billing", "save_card", SaveCard, PageAnswer)
TOP_UP: Rpc[TopUp, TopUpAnswer] = Rpc("billing", "top_up", TopUp, TopUpAnswer)
SUBSCRIBE: Rpc[Subscribe, SubscribeAnswer] = Rpc("billing", "subscribe", Subscribe, SubscribeAnswer)
PROVIDER_EVENT: Rpc[TakeEvent, EventAnswer] = Rpc(
    "billing", "provider_event", TakeEvent, EventAnswer
)
