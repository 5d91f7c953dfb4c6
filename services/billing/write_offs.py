"""What an operator gives up: a debt that no card will pay, or what a lost dispute has cost."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from msgspec import Struct

from libs.contracts.base import Cents
from libs.contracts.billing import PaymentEvent, PaymentWrittenOff
from services.billing import charges
from services.billing.model import Payment
from services.billing.payments import Billing, Owner, change, load_payment

ACCOUNT_SQL = "SELECT account_id FROM billing.payment WHERE job_id = $1"
OVERDUE = ("declined", "action_required")


class NothingOverdue(Struct, frozen=True, kw_only=True):
    """No such job, or nothing of it is overdue or was lost in a dispute."""


class NotYet(Struct, frozen=True, kw_only=True):
    """``why``: a card is being asked, or the bank has not decided, so there may be no debt."""

    why: str


class PaidAfterAll(Struct, frozen=True, kw_only=True):
    """The card's owner had approved the charge, and nobody had told us."""


class Settled(Struct, frozen=True, kw_only=True):
    amount_cents: Cents
    debt: Literal["charge", "dispute"]


WriteOffAnswer = Settled | PaidAfterAll | NotYet | NothingOverdue


def decide_write_off(
    payment: Payment, reason: str, withdrawn: str | None
) -> PaymentWrittenOff | NotYet | NothingOverdue:
    """``withdrawn`` is the charge that its owner can approve no more. Pure."""
    if payment.status in ("billed", "charging"):
        return NotYet(why="the card is being asked")
    if payment.status in OVERDUE:
        if payment.waiting is not None and payment.waiting.payment_id != withdrawn:
            return NotYet(why="its owner may approve the charge, and no provider withdraws it")
        return PaymentWrittenOff(amount_cents=payment.billed_cents, debt="charge", reason=reason)
    if any(dispute.state == "open" for dispute in payment.disputes):
        return NotYet(why="the bank has not decided on the dispute")
    lost = sum(one.amount_cents for one in payment.disputes if one.state == "lost")
    if lost == 0:
        return NothingOverdue()
    return PaymentWrittenOff(amount_cents=lost, debt="dispute", reason=reason)


async def write_off(billing: Billing, job_id: UUID, reason: str) -> WriteOffAnswer:
    """Give up what is overdue for a job; its account goes on, unless something else pauses it.

    A charge that its owner may still approve is withdrawn first, for which a provider is needed. A
    death in between leaves a charge that the schedule finds declined. Raises ProviderUnavailable
    or ProviderRefused.
    """
    async with billing.pool.acquire() as connection:
        account_id: UUID | None = await connection.fetchval(ACCOUNT_SQL, job_id)
        _, payment = await load_payment(connection, job_id)
    if account_id is None:
        return NothingOverdue()
    owner, withdrawn = Owner(job_id, account_id), None
    if billing.provider is not None and payment.waiting is not None and payment.charge is not None:
        withdrawn = payment.waiting.payment_id
        paid = await billing.provider.cancel(withdrawn)
        if paid is not None:
            await charges.record(billing, owner, payment.charge.attempt, paid)
            return PaidAfterAll()
    answers: list[WriteOffAnswer] = []

    def decide(payment: Payment) -> Sequence[PaymentEvent]:
        decided = decide_write_off(payment, reason, withdrawn)
        if isinstance(decided, PaymentWrittenOff):
            answers.append(Settled(amount_cents=decided.amount_cents, debt=decided.debt))
            return [decided]
        answers.append(decided)
        return []

    await change(billing, owner, decide)
    return answers[-1]
