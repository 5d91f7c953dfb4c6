"""What may happen to a payment next: one function for each question. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID, uuid5

from msgspec import Struct

from libs.contracts.base import Cents
from libs.contracts.billing import (
    PaidBy,
    PaymentActionRequired,
    PaymentBilled,
    PaymentCaptured,
    PaymentCharged,
    PaymentChargeStarted,
    PaymentDeclined,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentPledged,
    PaymentRefunded,
    PaymentRefundStarted,
    PaymentReserved,
    PaymentVoided,
    PaymentWaived,
)
from services.billing.model import NO_JOB, Payment, fold
from services.billing.provider import ActionRequired, Charged, Declined

RETRY_AFTER = (
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=3),
    timedelta(days=5),
    timedelta(days=7),
)
"""How long after each decline the same card is tried again; after the last one, only a card that is
saved anew is. An hour is for what passes (a limit, a network), the days are for a pay day."""

NO_CARD = "no_card"
REFUNDS = UUID("6b7f0d0e-6f3c-5d3b-8a55-0c3f1e9ad2b4")  # of ids made from the provider's
MAX_CODE, MAX_MESSAGE, MAX_URL = 255, 4_000, 2_048  # what events hold


class SavedCard(Struct, frozen=True, kw_only=True):
    """What a charge needs to know of the account's card."""

    customer_id: str
    payment_method_id: str


def decide_reserve(
    payment: Payment, amount_cents: Cents, currency: str, *, paid_by: PaidBy = "balance"
) -> PaymentEvent | None:
    """A new reservation or pledge, or None when this job id has one already (of any amount).

    A job that has ended is never paid for again: its submission, or a repetition of the request
    that made it, may be handled after its end.
    """
    if payment.status != "none" and not payment.orphaned:
        return None
    made = PaymentPledged if paid_by == "card" else PaymentReserved
    return made(amount_cents=amount_cents, currency=currency, attempt=payment.attempt + 1)


def decide_restore(payment: Payment) -> PaymentEvent | None:
    """A reservation that was given back for want of a job whose job has come after all."""
    if not payment.orphaned:
        return None
    return decide_reserve(payment, payment.amount_cents, payment.currency, paid_by=payment.paid_by)


def decide_orphan(payment: Payment) -> PaymentEvent | None:
    """Nobody has claimed it."""
    if payment.status == "reserved":
        return PaymentVoided(amount_cents=payment.amount_cents, reason=NO_JOB)
    return PaymentWaived(amount_cents=0, reason=NO_JOB) if payment.status == "pledged" else None


def decide_settle(
    payment: Payment, charge_cents: Cents, reason: str, *, card_minimum: Cents
) -> PaymentEvent | None:
    """Take ``charge_cents`` of what is held and give the rest back, or bill it to the card; None
    when the job has neither a reservation nor a pledge (any more)."""
    charge = min(charge_cents, payment.amount_cents)
    if payment.orphaned and charge == 0:
        # Nothing is held; but it ends here, so a submission handled later does not restore it.
        ended = PaymentWaived if payment.paid_by == "card" else PaymentVoided
        return ended(amount_cents=0, reason=reason)
    if payment.status == "pledged":
        if charge < max(card_minimum, 1):
            return PaymentWaived(amount_cents=charge, reason=reason)
        return PaymentBilled(amount_cents=charge)
    if payment.status != "reserved":
        return None
    if charge == 0:
        return PaymentVoided(amount_cents=payment.amount_cents, reason=reason)
    return PaymentCaptured(amount_cents=charge, released_cents=payment.amount_cents - charge)


def decide_charge(
    payment: Payment, card: SavedCard | None, job_id: UUID, now: datetime
) -> PaymentEvent | None:
    """The next attempt, when one is due; without a card it fails before it is made."""
    due = payment.status == "billed" or (payment.status == "declined" and payment.due_at <= now)
    if not due:
        return None
    attempt = payment.charge.attempt if payment.charge else 0
    if card is None:
        return PaymentDeclined(
            attempt=attempt,
            amount_cents=payment.billed_cents,
            code=NO_CARD,
            message="No card is saved.",
            retry_at=_retry_at(payment, now),
        )
    return _attempt(payment, card, job_id)


def decide_new_card(payment: Payment, card: SavedCard | None, job_id: UUID) -> PaymentEvent | None:
    """An overdue charge is tried at once with a card that it was not tried with."""
    if card is None or payment.status not in ("declined", "action_required"):
        return None
    if payment.charge is not None and payment.charge.payment_method_id == card.payment_method_id:
        return None
    return _attempt(payment, card, job_id)


def _attempt(payment: Payment, card: SavedCard, job_id: UUID) -> PaymentChargeStarted:
    attempt = payment.charge.attempt + 1 if payment.charge else 1
    return PaymentChargeStarted(
        attempt=attempt,
        amount_cents=payment.billed_cents,
        currency=payment.currency,
        idempotency_key=f"{job_id}:{attempt}",
        customer_id=card.customer_id,
        payment_method_id=card.payment_method_id,
    )


def decide_outcome(
    payment: Payment, attempt: int, outcome: Charged | Declined | ActionRequired, now: datetime
) -> PaymentEvent | None:
    """What the provider said of an attempt; None when its outcome was recorded before, or the
    owner's approval is still waited for."""
    charge = payment.charge
    if charge is None or charge.attempt != attempt:
        return None
    if payment.status not in ("charging", "action_required", "declined"):
        return None
    amount = charge.amount_cents
    match outcome:
        case Charged(payment_id=payment_id):
            return PaymentCharged(attempt=attempt, amount_cents=amount, payment_id=payment_id)
        case _ if payment.status == "declined":
            return None
        case Declined(code=code, message=message, final=final):
            return PaymentDeclined(
                attempt=attempt,
                amount_cents=amount,
                code=code[:MAX_CODE],
                message=message[:MAX_MESSAGE],
                retry_at=None if final else _retry_at(payment, now),
            )
        case ActionRequired(payment_id=payment_id, url=url):
            if payment.status == "action_required" and payment.due_at > now:
                return None
            return PaymentActionRequired(
                attempt=attempt,
                amount_cents=amount,
                payment_id=payment_id,
                url=url if url and len(url) <= MAX_URL else None,
                retry_at=_retry_at(payment, now),
            )
        case _:
            assert_never(outcome)


def decide_answer(
    payment: Payment,
    attempt: int,
    outcome: Charged | Declined | ActionRequired,
    card: SavedCard | None,
    job_id: UUID,
    now: datetime,
) -> Sequence[PaymentEvent]:
    """The outcome of an attempt, and the next one when its owner has saved another card since the
    question was asked: nobody would come back for that card."""
    said = decide_outcome(payment, attempt, outcome, now)
    if said is None:
        return []
    following = decide_new_card(fold(payment, said, now), card, job_id)
    return [said] if following is None else [said, following]


def _retry_at(payment: Payment, now: datetime) -> datetime | None:
    if payment.declines >= len(RETRY_AFTER):
        return None
    return now + RETRY_AFTER[payment.declines]


class RefundTooMuch(Struct, frozen=True, kw_only=True):
    """Nothing is given back that was not taken."""

    refundable_cents: Cents


def decide_refund(
    payment: Payment, refund_id: UUID, amount_cents: Cents | None, reason: str
) -> PaymentEvent | RefundTooMuch | None:
    """Give ``amount_cents``, or (None) all that is left, back to where it came from. None for an
    id that is known."""
    if any(refund.refund_id == refund_id for refund in payment.refunds):
        return None
    amount = payment.refundable_cents if amount_cents is None else amount_cents
    if not 0 < amount <= payment.refundable_cents:
        return RefundTooMuch(refundable_cents=payment.refundable_cents)
    if payment.paid_by == "card":
        return PaymentRefundStarted(refund_id=refund_id, amount_cents=amount, reason=reason)
    return PaymentRefunded(
        refund_id=refund_id,
        amount_cents=amount,
        to="balance",
        reason=reason,
        provider_refund_id=None,
    )


def decide_refunded(
    payment: Payment, provider_refund_id: str, amount_cents: Cents, refund_id: UUID | None
) -> PaymentEvent | None:
    """The provider has given money back: for our ``refund_id``, or (None) it tells so by itself.

    What it tells of our own refund may come before its answer to us. Then it is recorded as ours;
    of several that it could be, each waits for its own answer.
    """
    if any(r.provider_refund_id == provider_refund_id for r in payment.refunds):
        return None
    if refund_id is None:
        meant = [r for r in payment.open_refunds if r.amount_cents == amount_cents]
        if len(meant) > 1:
            return None
    else:
        meant = [r for r in payment.open_refunds if r.refund_id == refund_id]
    return PaymentRefunded(
        refund_id=meant[0].refund_id if meant else uuid5(REFUNDS, provider_refund_id),
        amount_cents=amount_cents,
        to="card",
        reason=meant[0].reason if meant else "refunded at the card provider",
        provider_refund_id=provider_refund_id,
    )


def decide_disputed(
    payment: Payment, dispute_id: str, amount_cents: Cents, reason: str
) -> Sequence[PaymentEvent]:
    if any(dispute.dispute_id == dispute_id for dispute in payment.disputes):
        return []
    opened = PaymentDisputed(
        dispute_id=dispute_id, amount_cents=amount_cents, reason=reason[:MAX_CODE]
    )
    return [opened]


def decide_dispute_closed(
    payment: Payment, dispute_id: str, amount_cents: Cents, *, won: bool
) -> Sequence[PaymentEvent]:
    """The end of a dispute; news of its beginning may come later than that, or never."""
    known = next((d for d in payment.disputes if d.dispute_id == dispute_id), None)
    if known is not None and known.state != "open":
        return []
    before = decide_disputed(payment, dispute_id, amount_cents, "unknown")
    closed = PaymentDisputeClosed(
        dispute_id=dispute_id,
        amount_cents=known.amount_cents if known else amount_cents,
        won=won,
    )
    return [*before, closed]
