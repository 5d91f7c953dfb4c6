"""The streams ``payment:<job id>``: loaded, decided on, and written with all that follows."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from msgspec import Struct

from libs.contracts.base import Envelope
from libs.contracts.billing import PaymentEvent
from libs.contracts.events import decode_payment_event
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, Pool
from libs.eventlog.read import load
from libs.eventlog.record import (
    Append,
    Context,
    Head,
    IdempotencyRow,
    VersionConflict,
    records_after,
)
from libs.observability.trace import current_traceparent, traceparent_within
from services.billing import ledger
from services.billing.model import Payment, fold
from services.billing.pricing import Prices
from services.billing.provider import PaymentProvider

Known = TypeVar("Known")

TRIES = 5  # a version conflict means another handler of this job was faster; it ends quickly

NOTE_SQL = """
INSERT INTO billing.payment
    (job_id, account_id, status, amount_cents, reserved_at, due_at, hold)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (job_id) DO UPDATE SET
    status = excluded.status, amount_cents = excluded.amount_cents,
    reserved_at = excluded.reserved_at, due_at = excluded.due_at, hold = excluded.hold
"""


class Billing(Struct, frozen=True, kw_only=True):
    """What every verb needs: the database, the price list, time and ids, and the card provider if
    the operator has connected one. ``public_url`` is where people reach the gateway."""

    pool: Pool
    prices: Prices
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    committed: Callable[[], None]
    """Called after a commit that appended events; nudges the relay."""
    provider: PaymentProvider | None = None
    public_url: str = "http://127.0.0.1:8080"


class Owner(Struct, frozen=True):
    """Whose payment, and for what."""

    job_id: UUID
    account_id: UUID


def stream_of(job_id: UUID) -> str:
    return f"payment:{job_id}"


async def load_payment(connection: Connection, job_id: UUID) -> tuple[Head, Payment]:
    head, events = await load(connection, stream_of(job_id), decode_payment_event)
    payment = Payment()
    for stored in events:
        payment = fold(payment, stored.event, stored.meta.occurred_at)
    return head, payment


def row_of(owner: Owner, payment: Payment) -> tuple[object, ...] | None:
    """The read-model row, in the order of its columns. None: nothing was held, pledged or taken."""
    if payment.status == "none":
        return None
    return (
        owner.job_id,
        owner.account_id,
        payment.status,
        payment.amount_cents,
        payment.reserved_at,
        payment.due_at,
        payment.hold or "",
    )


def context_of(billing: Billing, cause: Envelope | None = None) -> Context:
    return Context(
        now=billing.now(),
        new_id=billing.new_id,
        causation_id=cause.event_id if cause else None,
        traceparent=traceparent_within(cause.traceparent) if cause else current_traceparent(),
    )


async def write(
    connection: Connection,
    owner: Owner,
    head: Head,
    payment: Payment,
    events: Sequence[PaymentEvent],
    context: Context,
    *,
    idempotency: IdempotencyRow | None = None,
) -> Payment:
    """Append events with their ledger entries and the read-model row, in the caller's transaction.

    Raises VersionConflict, KeyTaken or ledger.Overdrawn; then roll back.
    """
    if not events:
        return payment
    posted = [ledger.posted_by(event, owner.account_id) for event in events]
    changes = {name: amount for entry in posted if entry for name, amount in entry.postings.items()}
    if changes:
        await ledger.lock_for(connection, owner.account_id, changes)
    records = records_after(head, events, context, job_id=owner.job_id, account_id=owner.account_id)
    await append_in(connection, Append(records=records, idempotency=idempotency))
    for record, entry in zip(records, posted, strict=True):
        if entry is not None:
            await ledger.enter(
                connection,
                ledger.Entry(
                    id=record.event_id,
                    kind=entry.kind,
                    account_id=owner.account_id,
                    job_id=owner.job_id,
                    memo=entry.memo,
                    created_at=context.now,
                    postings=dict(entry.postings),
                    reference=entry.reference,
                ),
            )
    for event in events:
        payment = fold(payment, event, context.now)
    row = row_of(owner, payment)
    if row is not None:
        await connection.execute(NOTE_SQL, *row)
    return payment


async def change(
    billing: Billing, owner: Owner, decide: Callable[[Payment], Sequence[PaymentEvent]]
) -> Payment:
    """Load, decide, append, in one transaction; again when somebody else was faster. The payment
    as it is then. Raises ledger.Overdrawn."""

    async def nothing_else(_: Connection) -> None:
        return None

    return await change_knowing(billing, owner, nothing_else, lambda p, _: decide(p))


async def change_knowing(
    billing: Billing,
    owner: Owner,
    know: Callable[[Connection], Awaitable[Known]],
    decide: Callable[[Payment, Known], Sequence[PaymentEvent]],
) -> Payment:
    """`change`, where the decision needs to know more: it is read first, in the transaction."""
    for _ in range(TRIES):
        try:
            async with billing.pool.acquire() as connection, connection.transaction():
                known = await know(connection)
                head, payment = await load_payment(connection, owner.job_id)
                events = decide(payment, known)
                payment = await write(connection, owner, head, payment, events, context_of(billing))
        except VersionConflict:
            continue
        if events:
            billing.committed()
        return payment
    raise VersionConflict(stream_of(owner.job_id))
