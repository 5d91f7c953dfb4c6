"""A payment as its events make it. Pure; what may happen to it next is in `decisions`."""

from datetime import UTC, datetime
from typing import Literal, assert_never
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

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
    PaymentExtensionCharged,
    PaymentPledged,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRefundStarted,
    PaymentReserved,
    PaymentVoided,
    PaymentWaived,
    PaymentWrittenOff,
)
from libs.contracts.billing_rpc import PausedReason

NO_JOB = "no job within ten minutes"
"""Why a reservation is given back that no job has claimed: the only one that may be made again."""

BalanceStatus = Literal["none", "reserved", "captured", "voided"]
CardStatus = Literal[
    "pledged",
    "waived",
    "billed",
    "charging",
    "declined",
    "action_required",
    "charged",
    "written_off",
]
DisputeState = Literal["open", "won", "lost", "written_off"]
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)  # PostgreSQL's infinity


class Refund(Struct, frozen=True, kw_only=True):
    """``provider_refund_id`` is set for one to a card that is done."""

    refund_id: UUID
    amount_cents: Cents
    reason: str
    state: Literal["open", "done", "failed"]
    started_at: datetime
    provider_refund_id: str | None = None


class Dispute(Struct, frozen=True, kw_only=True):
    dispute_id: str
    amount_cents: Cents
    state: DisputeState


class Payment(Struct, frozen=True, kw_only=True):
    """``attempt`` counts the reservations or pledges under this job id; ``orphaned`` is the end of
    one for want of a job, not by the end of one. ``extensions`` of the job's storage were charged
    at once, whatever paid for the job.

    Of a card: ``charge`` is the last attempt, which ``declines`` count since the card was another
    one; ``waiting`` is a charge that its owner has to approve and that may still succeed;
    ``overdue`` is why the account is paused, until the card has paid.
    """

    status: BalanceStatus | CardStatus = "none"
    paid_by: PaidBy = "balance"
    amount_cents: Cents = 0
    currency: str = "USD"
    attempt: int = 0
    orphaned: bool = False
    reserved_at: datetime = AT_ONCE
    taken_cents: Cents = 0
    billed_cents: Cents = 0
    charge: PaymentChargeStarted | None = None
    charge_started_at: datetime = AT_ONCE
    declines: int = 0
    decline_code: str | None = None
    retry_at: datetime | None = None
    waiting: PaymentActionRequired | None = None
    payment_id: str | None = None
    overdue: PausedReason | None = None
    refunds: tuple[Refund, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    extensions: tuple[PaymentExtensionCharged, ...] = ()

    @property
    def open_refunds(self) -> list[Refund]:
        return [refund for refund in self.refunds if refund.state == "open"]

    @property
    def refundable_cents(self) -> Cents:
        """What was taken for the job, less all that was or is being given back."""
        return self.taken_cents - sum(r.amount_cents for r in self.refunds if r.state != "failed")

    @property
    def hold(self) -> PausedReason | None:
        """Why the account is paused because of this payment."""
        unsettled = any(d.state in ("open", "lost") for d in self.disputes)
        if self.overdue is None and unsettled:
            return "payment_disputed"
        return self.overdue

    @property
    def due_at(self) -> datetime:
        """When the card provider is to be asked something next."""
        if self.open_refunds or self.status in ("billed", "charging"):
            return AT_ONCE
        if self.status in ("declined", "action_required") and self.retry_at is not None:
            return self.retry_at
        return NEVER


def fold(payment: Payment, event: PaymentEvent, at: datetime) -> Payment:
    """The payment after one more event that happened at ``at`` (UTC)."""
    match event:
        case PaymentReserved() | PaymentPledged():
            card = isinstance(event, PaymentPledged)
            return replace(
                payment,
                status="pledged" if card else "reserved",
                paid_by="card" if card else "balance",
                amount_cents=event.amount_cents,
                currency=event.currency,
                attempt=event.attempt,
                orphaned=False,
                reserved_at=at,
            )
        case PaymentCaptured():
            return replace(payment, status="captured", taken_cents=event.amount_cents)
        case PaymentVoided():
            return replace(payment, status="voided", orphaned=event.reason == NO_JOB)
        case PaymentWaived():
            return replace(payment, status="waived", orphaned=event.reason == NO_JOB)
        case PaymentExtensionCharged():
            return replace(payment, extensions=(*payment.extensions, event))
        case PaymentRefundStarted() | PaymentRefunded() | PaymentRefundFailed():
            return replace(payment, refunds=_refunds(payment, event, at))
        case PaymentDisputed() | PaymentDisputeClosed():
            return replace(payment, disputes=_disputes(payment, event))
        case PaymentWrittenOff():
            return _written_off(payment, event)
        case _:
            return _charged(payment, event, at)


def _charged(
    payment: Payment,
    event: PaymentBilled
    | PaymentChargeStarted
    | PaymentCharged
    | PaymentDeclined
    | PaymentActionRequired,
    at: datetime,
) -> Payment:
    match event:
        case PaymentBilled():
            return replace(payment, status="billed", billed_cents=event.amount_cents)
        case PaymentChargeStarted():
            known = payment.charge
            other = known is not None and known.payment_method_id != event.payment_method_id
            return replace(
                payment,
                status="charging",
                charge=event,
                charge_started_at=at,
                declines=0 if other else payment.declines,
                retry_at=None,
            )
        case PaymentCharged():
            return replace(
                payment,
                status="charged",
                taken_cents=event.amount_cents,
                payment_id=event.payment_id,
                overdue=None,
                waiting=None,
                retry_at=None,
                decline_code=None,
            )
        case PaymentDeclined():
            return replace(
                payment,
                status="declined",
                declines=payment.declines + 1,
                decline_code=event.code,
                retry_at=event.retry_at,
                overdue="payment_declined",
            )
        case PaymentActionRequired():
            return replace(
                payment,
                status="action_required",
                declines=payment.declines + 1,
                decline_code=None,
                retry_at=event.retry_at,
                overdue="payment_action_required",
                waiting=event,
            )
        case _:
            assert_never(event)


def _refunds(
    payment: Payment,
    event: PaymentRefundStarted | PaymentRefunded | PaymentRefundFailed,
    at: datetime,
) -> tuple[Refund, ...]:
    known = {refund.refund_id: refund for refund in payment.refunds}
    earlier = known.get(event.refund_id)
    match event:
        case PaymentRefundStarted(refund_id=key, amount_cents=amount, reason=reason):
            known[key] = Refund(
                refund_id=key, amount_cents=amount, reason=reason, state="open", started_at=at
            )
        case PaymentRefunded(refund_id=key, amount_cents=amount, reason=reason):
            known[key] = Refund(
                refund_id=key,
                amount_cents=amount,
                reason=reason,
                state="done",
                started_at=earlier.started_at if earlier else at,
                provider_refund_id=event.provider_refund_id,
            )
        case PaymentRefundFailed(refund_id=key):
            if earlier is not None:
                known[key] = replace(earlier, state="failed")
        case _:
            assert_never(event)
    return tuple(known.values())


def _disputes(
    payment: Payment, event: PaymentDisputed | PaymentDisputeClosed
) -> tuple[Dispute, ...]:
    known = {dispute.dispute_id: dispute for dispute in payment.disputes}
    state: DisputeState = "open"
    if isinstance(event, PaymentDisputeClosed):
        state = "won" if event.won else "lost"
    known[event.dispute_id] = Dispute(
        dispute_id=event.dispute_id, amount_cents=event.amount_cents, state=state
    )
    return tuple(known.values())


def _written_off(payment: Payment, event: PaymentWrittenOff) -> Payment:
    if event.debt == "dispute":
        given_up = tuple(
            replace(one, state="written_off") if one.state == "lost" else one
            for one in payment.disputes
        )
        return replace(payment, disputes=given_up)
    return replace(
        payment,
        status="written_off",
        overdue=None,
        waiting=None,
        retry_at=None,
        decline_code=None,
    )
