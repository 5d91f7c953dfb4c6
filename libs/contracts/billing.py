"""Events that billing writes: the ``payment:<job id>`` streams.

The price of a job is taken in two phases, from the balance (reserved, then captured) or from a card
(pledged, then billed and charged). What is bought for the job later is charged at once.
"""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from libs.contracts.base import Cents, Count, Days, Event, LongText, ShortText

PaidBy = Literal["balance", "card"]
Url = Annotated[str, Meta(min_length=1, max_length=2048)]  # what browsers take


class PaymentReserved(Event, frozen=True, kw_only=True, tag="payment.reserved.v1"):
    """The amount is held back from the balance; ``attempt`` counts reservations of this job id."""

    amount_cents: Cents
    currency: ShortText
    attempt: int


class PaymentCaptured(Event, frozen=True, kw_only=True, tag="payment.captured.v1"):
    """``amount_cents`` were taken, ``released_cents`` of the reservation given back."""

    amount_cents: Cents
    released_cents: Cents


class PaymentVoided(Event, frozen=True, kw_only=True, tag="payment.voided.v1"):
    """The whole reservation was given back."""

    amount_cents: Cents
    reason: ShortText


class PaymentExtensionCharged(Event, frozen=True, kw_only=True, tag="payment.extension_charged.v1"):
    """Longer storage was bought for a completed job: ``amount_cents`` were taken for ``days`` more.

    Enough to answer the purchase again: ``artifacts_expires_at`` is what the job's expiry is once
    every extension that was paid by then has been added.
    """

    extension_id: UUID
    amount_cents: Cents
    currency: ShortText
    days: Days
    artifacts_expires_at: datetime
    balance_after_cents: Cents


class PaymentPledged(Event, frozen=True, kw_only=True, tag="payment.pledged.v1"):
    """The saved card is to pay; nothing is held. ``attempt`` counts as in `PaymentReserved`."""

    amount_cents: Cents
    currency: ShortText
    attempt: int


class PaymentWaived(Event, frozen=True, kw_only=True, tag="payment.waived.v1"):
    """A pledge ended without a charge: ``amount_cents`` were due, which is nothing, or less than a
    card can be charged."""

    amount_cents: Cents
    reason: ShortText


class PaymentBilled(Event, frozen=True, kw_only=True, tag="payment.billed.v1"):
    """The work was done, and its owner owes ``amount_cents`` until the card has paid them."""

    amount_cents: Cents


class PaymentChargeStarted(Event, frozen=True, kw_only=True, tag="payment.charge_started.v1"):
    """The intent, recorded before the card provider is asked: everything that the question says, so
    that it can be repeated word for word under the same key until its outcome is known."""

    attempt: Count
    amount_cents: Cents
    currency: ShortText
    idempotency_key: ShortText
    customer_id: ShortText
    payment_method_id: ShortText


class PaymentCharged(Event, frozen=True, kw_only=True, tag="payment.charged.v1"):
    """The card has paid. ``payment_id`` is the provider's."""

    attempt: Count
    amount_cents: Cents
    payment_id: ShortText


class PaymentDeclined(Event, frozen=True, kw_only=True, tag="payment.declined.v1"):
    """The card did not pay; it is tried again at ``retry_at``, or (null) when a card is saved."""

    attempt: Count
    amount_cents: Cents
    code: ShortText
    message: LongText
    retry_at: datetime | None


class PaymentActionRequired(Event, frozen=True, kw_only=True, tag="payment.action_required.v1"):
    """The card's owner has to approve the charge, at ``url`` where the provider names a page.
    Whether that was done is asked at ``retry_at``, if the provider has not told by then."""

    attempt: Count
    amount_cents: Cents
    payment_id: ShortText
    url: Url | None
    retry_at: datetime | None


class PaymentRefundStarted(Event, frozen=True, kw_only=True, tag="payment.refund_started.v1"):
    """A part or all of a card's charge is to be given back: the intent, as for a charge.
    ``refund_id`` is the idempotency key."""

    refund_id: UUID
    amount_cents: Cents
    reason: ShortText


class PaymentRefunded(Event, frozen=True, kw_only=True, tag="payment.refunded.v1"):
    """Money went back to where it came from. ``provider_refund_id`` is null for the balance."""

    refund_id: UUID
    amount_cents: Cents
    to: PaidBy
    reason: ShortText
    provider_refund_id: ShortText | None


class PaymentRefundFailed(Event, frozen=True, kw_only=True, tag="payment.refund_failed.v1"):
    """The provider will not give it back; nothing moved."""

    refund_id: UUID
    amount_cents: Cents
    message: LongText


class PaymentDisputed(Event, frozen=True, kw_only=True, tag="payment.disputed.v1"):
    """The card's owner asked their bank for the money back, and the bank took it."""

    dispute_id: ShortText
    amount_cents: Cents
    reason: ShortText


class PaymentDisputeClosed(Event, frozen=True, kw_only=True, tag="payment.dispute_closed.v1"):
    """``won``: the bank has given the money back to us."""

    dispute_id: ShortText
    amount_cents: Cents
    won: bool


class PaymentWrittenOff(Event, frozen=True, kw_only=True, tag="payment.written_off.v1"):
    """The operator has given up what is still owed for the job (``charge``), or what its lost
    disputes have cost (``dispute``): the account is no longer paused for it."""

    amount_cents: Cents
    debt: Literal["charge", "dispute"]
    reason: ShortText


PaymentEvent = (
    PaymentReserved
    | PaymentCaptured
    | PaymentVoided
    | PaymentExtensionCharged
    | PaymentPledged
    | PaymentWaived
    | PaymentBilled
    | PaymentChargeStarted
    | PaymentCharged
    | PaymentDeclined
    | PaymentActionRequired
    | PaymentRefundStarted
    | PaymentRefunded
    | PaymentRefundFailed
    | PaymentDisputed
    | PaymentDisputeClosed
    | PaymentWrittenOff
)
