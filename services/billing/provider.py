"""What billing asks of a card provider, in the words of billing. Stripe is one (`stripe_provider`).

Every call that moves money or makes something carries a key: repeated with it after a crash or a
lost answer, it has its effect once and gives the same answer.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from msgspec import Raw, Struct

from libs.contracts.base import Cents

Plan = Literal["plus", "pro"]
MovementKind = Literal["charge", "top_up", "refund", "dispute"]


class ProviderUnavailable(Exception):
    """No answer, or one of the provider's own faults: what was asked may or may not have happened.
    Ask again with the same key."""


ReturnAddress = Literal["success_url", "cancel_url"]


class ProviderRefused(Exception):
    """The request was wrong, and will be wrong again; the text is for the operator."""


class ReturnAddressRefused(ProviderRefused):
    """The page can't lead back there: ``field`` says which address the provider does not take."""

    def __init__(self, field: ReturnAddress, told: str) -> None:
        super().__init__(told)
        self.field = field


class ApiKeyRefused(ProviderRefused):
    """Our own key is no good there, or not for this. What was asked was not looked at: it is right
    as soon as the operator has given another key."""


class ProviderKeyTaken(ProviderRefused):
    """The key stands for a request with other parameters."""


class BadSignature(Exception):
    """An event that the provider did not sign, or one that is too old."""


class Customer(Struct, frozen=True, kw_only=True):
    """An account as the provider is told of it."""

    account_id: UUID
    name: str
    email: str | None


class Returning(Struct, frozen=True, kw_only=True):
    """Where the provider's page sends a person afterwards."""

    success_url: str
    cancel_url: str


class Checkout(Struct, frozen=True, kw_only=True):
    """A page of the provider's, open until ``expires_at``. ``replayed``: made by an earlier request
    with the same key."""

    session_id: str
    url: str
    expires_at: datetime
    replayed: bool = False


class Card(Struct, frozen=True, kw_only=True):
    """A saved card: what a person recognises it by, never its number."""

    payment_method_id: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int


class Charge(Struct, frozen=True, kw_only=True):
    """An off-session charge of a saved card for one job. ``key`` is its idempotency key."""

    customer_id: str
    payment_method_id: str
    account_id: UUID
    job_id: UUID
    amount_cents: Cents
    currency: str
    description: str
    key: str


class Charged(Struct, frozen=True, kw_only=True, tag="charged"):
    payment_id: str


class Declined(Struct, frozen=True, kw_only=True, tag="declined"):
    """``code`` is the bank's reason; ``final``: this card will not be charged at all."""

    payment_id: str | None
    code: str
    message: str
    final: bool


class ActionRequired(Struct, frozen=True, kw_only=True, tag="action_required"):
    """The card's owner has to approve, at ``url`` where the provider names a page."""

    payment_id: str
    url: str | None


class Refunded(Struct, frozen=True, kw_only=True):
    refund_id: str
    amount_cents: Cents


class Movement(Struct, frozen=True, kw_only=True):
    """Money that moved at the provider; ``id`` is what the ledger knows it by. ``amount_cents`` is
    positive towards us."""

    kind: MovementKind
    id: str
    payment_id: str
    amount_cents: int
    currency: str
    account_id: UUID | None
    job_id: UUID | None
    created_at: datetime


class ProviderEvent(Struct, frozen=True, kw_only=True):
    """A verified event. ``object`` is the JSON of what it is about, as it was then."""

    id: str
    type: str
    created_at: datetime
    object: Raw


class PaymentProvider(Protocol):
    """Every method raises ProviderUnavailable or ProviderRefused; amounts in the smallest unit.
    ``name`` tells whose ids are whose: where the provider is, and whether it moves real money."""

    name: str

    async def close(self) -> None:
        """Let its connections go."""

    async def customer(self, customer: Customer) -> str:
        """Make it known, once an account; the provider's id of it."""

    async def set_up_card(self, customer_id: str, returning: Returning, *, key: str) -> Checkout:
        """A page that saves a card and charges nothing."""

    async def top_up(
        self,
        customer_id: str,
        returning: Returning,
        *,
        account_id: UUID,
        amount_cents: Cents,
        currency: str,
        key: str,
    ) -> Checkout:
        """A page that takes money for the balance."""

    async def subscribe(
        self, customer_id: str, returning: Returning, *, account_id: UUID, plan: Plan, key: str
    ) -> Checkout:
        """A page that begins a subscription."""

    async def portal(self, customer_id: str, *, return_url: str) -> str:
        """The address of a page where a person manages cards, subscription and invoices."""

    async def card(self, customer_id: str) -> Card | None:
        """The card that an off-session charge takes now."""

    async def adopt_card(self, customer_id: str, payment_method_id: str) -> None:
        """Charge this card from now on, which its owner has just saved, unless a newer one is."""

    async def subscription(self, customer_id: str) -> Plan | None:
        """The plan that is paid for now."""

    async def charge(self, charge: Charge) -> Charged | Declined | ActionRequired:
        """Take money from a saved card, without its owner."""

    async def payment(self, payment_id: str) -> Charged | Declined | ActionRequired:
        """How a charge stands now."""

    async def purpose(self, payment_id: str) -> str | None:
        """What we said a payment is for; None for one that is not of our making."""

    async def cancel(self, payment_id: str) -> Charged | None:
        """Withdraw a charge, so that its owner can't approve it any more; Charged if they have."""

    async def refund(self, payment_id: str, *, amount_cents: Cents, key: str) -> Refunded:
        """Give back a part or all of a charge or top-up."""

    def event(self, payload: bytes, signature: str) -> ProviderEvent:
        """Raises BadSignature."""

    def movements(self, since: datetime) -> AsyncIterator[Movement]:
        """All money that moved since then, oldest or newest first."""
