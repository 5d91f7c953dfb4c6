"""A job as billing hears of it, and what it must have cost in the end."""

from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from msgspec import Struct

from libs.contracts.base import Envelope
from libs.contracts.billing_rpc import Reserve, Reserved
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import JobCancelled, JobCompleted, JobFailed
from libs.eventlog.record import AlreadyHandled, VersionConflict
from services.billing import handlers, ledger
from services.billing.payments import Billing, load_payment
from tests.support.jobs import NOON

COMPLETED = JobCompleted(tokens_processed=1, artifacts_expires_at=NOON + timedelta(days=900))
FAILED = JobFailed(code="internal_error", message="m")
Ending = JobCompleted | JobFailed | JobCancelled


class Job(Struct, kw_only=True):
    """What was asked for under a job id, and what became of it."""

    account_id: UUID
    request: Reserve
    answered: Reserved | None = None
    in_log: bool = False
    end: Ending | None = None
    written_off: bool = False


class Message(Struct, frozen=True, kw_only=True):
    sent: Envelope
    event: JobSubmitted | Ending


async def deliver(billing: Billing, message: Message) -> None:
    """As the bus does: handled before is well; what can't be handled now comes again."""
    sent = message.sent
    with suppress(AlreadyHandled, VersionConflict, ledger.Overdrawn):
        match message.event:
            case JobSubmitted() as event:
                await handlers.restore_payment(billing, sent, event)
            case JobCompleted() as event:
                await handlers.capture_payment(billing, sent, event)
            case JobFailed() as event:
                await handlers.void_payment(billing, sent, event)
            case JobCancelled() as event:
                await handlers.charge_partly(billing, sent, event)


async def check_ended(billing: Billing, job: Job) -> None:
    """Everything was delivered, and paid: the job has cost what it should, and nothing waits."""
    job_id = job.request.job_id
    async with billing.pool.acquire() as connection:
        _, payment = await load_payment(connection, job_id)
    if job.answered is None:
        assert payment.status == "none"
        return
    price = job.answered.price.price_cents
    match job.end:
        case None:
            due = 0
        case JobCompleted():
            due = price
        case JobFailed():
            due = 0
        case JobCancelled(charge_cents=due):
            pass
    minimum = billing.prices.card.minimum_cents
    if payment.paid_by == "card" and due < minimum:
        due = 0
    assert (payment.status == "written_off") == job.written_off
    if job.written_off:
        assert payment.billed_cents == due
        due = 0
    assert payment.taken_cents == due, (payment.status, payment.taken_cents, due)
    waits = ("reserved", "pledged") if job.in_log and job.end is None else ()
    ended = ("captured", "voided", "waived", "charged", "written_off")
    assert payment.status in (waits or ended), payment.status
