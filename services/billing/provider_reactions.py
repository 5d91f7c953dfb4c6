"""What the card provider's events do to payments: approvals, refunds and disputes."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from uuid import NAMESPACE_URL, UUID, uuid5

from msgspec import Struct

from services.billing import charges, ledger, refunds
from services.billing.payments import Billing, Owner
from services.billing.provider_events import Subject

PAID_SQL = """
SELECT kind, account_id, job_id FROM billing.entry
WHERE reference = $1 AND kind IN ('charge', 'top_up')
"""
GONE = ("failed", "canceled")  # a refund that was none
OURS = ("job", "top_up")  # what payments are for that the ledger enters
INQUIRY = "warning_"  # a dispute that has moved no money

Reaction = Callable[[Subject], Awaitable[object]]


class NotPaidYet(Exception):
    """The ledger does not have the payment that this is about: its own event comes later."""


class Paid(Struct, frozen=True, kw_only=True):
    """Without a job, it was a top-up."""

    kind: str
    account_id: UUID
    job_id: UUID | None


def reactions(billing: Billing) -> Mapping[str, Reaction]:
    """By the type of the event."""
    changed, refunded = partial(_charge_changed, billing), partial(_refunded, billing)
    opened, closed = partial(_disputed, billing), partial(_dispute_closed, billing)
    return {
        "payment_intent.succeeded": changed,
        "payment_intent.payment_failed": changed,
        "payment_intent.canceled": changed,
        "refund.created": refunded,
        "refund.updated": refunded,
        "charge.refund.updated": refunded,
        "charge.dispute.created": opened,
        "charge.dispute.funds_withdrawn": opened,
        "charge.dispute.funds_reinstated": closed,
        "charge.dispute.closed": closed,
    }


async def _charge_changed(billing: Billing, intent: Subject) -> None:
    said = intent.metadata or {}
    if intent.purpose == "job" and "job_id" in said and "account_id" in said:
        await charges.payment_changed(billing, UUID(said["job_id"]), UUID(said["account_id"]))


async def _paid(billing: Billing, subject: Subject) -> Paid | None:
    """None for a payment that is not in the ledger and will never be: of a subscription, or of
    something else that the operator sells."""
    row = await billing.pool.fetchrow(PAID_SQL, subject.payment_intent)
    if row is not None:
        return Paid(**row)
    assert billing.provider is not None  # it has sent the event
    if subject.payment_intent is None:
        return None
    if await billing.provider.purpose(subject.payment_intent) not in OURS:
        return None
    raise NotPaidYet(f"{subject.id}: no payment {subject.payment_intent} in the ledger")


async def _refunded(billing: Billing, refund: Subject) -> None:
    if refund.status in GONE or refund.amount is None:
        return
    paid = await _paid(billing, refund)
    if paid is None:
        return
    if paid.job_id is not None:
        owner = Owner(paid.job_id, paid.account_id)
        await refunds.refund_seen(billing, owner, refund.id, refund.amount)
        return
    # Overdrawn where it was spent already: tried again until there is a balance to take it from.
    await _enter(billing, "top_up_refund", refund, paid, -refund.amount)


async def _disputed(billing: Billing, dispute: Subject) -> None:
    if dispute.amount is None or (dispute.status or "").startswith(INQUIRY):
        return
    paid, reason = await _paid(billing, dispute), dispute.reason or "dispute"
    if paid is None:
        return
    if paid.job_id is not None:
        owner = Owner(paid.job_id, paid.account_id)
        await refunds.dispute_opened(billing, owner, dispute.id, dispute.amount, reason)
        return
    await _enter(billing, "dispute", dispute, paid, -dispute.amount)


async def _dispute_closed(billing: Billing, dispute: Subject) -> None:
    """It was opened before, whether or not that event has come yet."""
    await _disputed(billing, dispute)
    if dispute.amount is None or (dispute.status or "").startswith(INQUIRY):
        return
    paid, won = await _paid(billing, dispute), dispute.status == "won"
    if paid is None:
        return
    if paid.job_id is not None:
        owner = Owner(paid.job_id, paid.account_id)
        await refunds.dispute_closed(billing, owner, dispute.id, dispute.amount, won=won)
    elif won:
        await _enter(billing, "dispute_closed", dispute, paid, dispute.amount)


async def _enter(
    billing: Billing, kind: str, subject: Subject, paid: Paid, amount_cents: int
) -> None:
    """What happens to a top-up happens to the balance, once for an id of the provider's."""
    entry = ledger.Entry(
        id=uuid5(NAMESPACE_URL, f"{kind}:{subject.id}"),
        kind=kind,
        account_id=paid.account_id,
        job_id=None,
        memo=subject.reason or kind,
        created_at=billing.now(),
        postings={
            ledger.CARD: -amount_cents,
            ledger.available(paid.account_id): amount_cents,
        },
        reference=subject.id,
    )
    async with billing.pool.acquire() as connection:
        await ledger.deposit(connection, entry)
