"""Billing's verbs for a job's life: each loads a payment, decides, and appends it."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import reduce
from importlib.resources import files

import asyncpg

from libs.bus.consume import durable_name
from libs.contracts.base import Cents, Envelope, Event
from libs.contracts.billing import PaidBy, PaymentEvent
from libs.contracts.billing_rpc import (
    Balance,
    GetBalance,
    InsufficientBalance,
    PaymentRequired,
    Price,
    Quote,
    Reserve,
    ReserveAnswer,
    Reserved,
    ReservedDifferently,
)
from libs.contracts.events import type_of
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import JobCancelled, JobCompleted, JobFailed
from libs.eventlog.connection import Connection
from libs.eventlog.inbox import enter as enter_inbox
from libs.eventlog.record import Head, Inbox, VersionConflict, records_after
from services.billing import ledger
from services.billing.accounts import Account, load_account
from services.billing.decisions import (
    decide_orphan,
    decide_reserve,
    decide_restore,
    decide_settle,
)
from services.billing.model import Payment, fold
from services.billing.payments import (
    TRIES,
    Billing,
    Owner,
    change,
    context_of,
    load_payment,
    stream_of,
    write,
)
from services.billing.pricing import price

RESERVE_SQL = files("services.billing").joinpath("reserve.sql").read_text()
ORPHAN_AGE = timedelta(minutes=10)
"""A gateway appends a job within seconds of its reservation; after this it never will."""

# Locked against a submission that is being appended: its job row would be seen or come later.
ORPHANS_SQL = """
SELECT p.job_id, p.account_id FROM billing.payment p
WHERE p.status IN ('reserved', 'pledged') AND p.reserved_at < $1
  AND NOT EXISTS (SELECT FROM log.job j WHERE j.id = p.job_id)
LIMIT 100
"""


async def quote(billing: Billing, request: Quote) -> Price:
    if not request.priority:
        return price(billing.prices, request)
    async with billing.pool.acquire() as connection:
        account = await load_account(connection, request.account_id)
    return price(billing.prices, request, account.subscription)


async def get_balance(billing: Billing, request: GetBalance) -> Balance:
    async with billing.pool.acquire() as connection:
        spendable, held = await ledger.balance(connection, request.account_id)
    return Balance(balance_cents=spendable, reserved_cents=held, currency=billing.prices.currency)


async def reserve(billing: Billing, request: Reserve) -> ReserveAnswer:
    """Hold back the quoted price, or have the saved card pledged. Repeated for a job id, it answers
    with what is held or pledged."""
    quoted = price(billing.prices, request.quote)
    spendable = await _reserve_first(billing, request, quoted)
    if spendable is not None:
        return Reserved(price=quoted, balance_after_cents=spendable)
    for _ in range(TRIES):
        try:
            async with billing.pool.acquire() as connection, connection.transaction():
                answer = await _reserve_with_care(billing, connection, request)
        except VersionConflict:
            continue
        except ledger.Overdrawn:
            return await _insufficient(billing, request.quote)
        billing.committed()
        return answer
    raise VersionConflict(stream_of(request.job_id))


async def _reserve_with_care(
    billing: Billing, connection: Connection, request: Reserve
) -> ReserveAnswer:
    """For whom the usual case is not: with a card or a subscription, paused, or a repetition.

    What a job id holds or has pledged stands, also when its account was paused since.
    """
    account_id = request.quote.account_id
    account = await load_account(connection, account_id)
    quoted = price(billing.prices, request.quote, account.subscription)
    head, payment = await load_payment(connection, request.job_id)
    paid_by = payer(billing, account, request.quote, quoted.price_cents)
    event = decide_reserve(payment, quoted.price_cents, quoted.currency, paid_by=paid_by)
    if event is not None:
        if account.paused_reason is not None:
            return PaymentRequired(reason=account.paused_reason)
        owner = Owner(request.job_id, account_id)
        payment = await write(connection, owner, head, payment, [event], context_of(billing))
    elif payment.amount_cents != quoted.price_cents:
        return ReservedDifferently(amount_cents=payment.amount_cents)
    spendable, _ = await ledger.balance(connection, account_id)
    return Reserved(price=quoted, balance_after_cents=spendable, paid_by=payment.paid_by)


async def _insufficient(billing: Billing, wanted: Quote) -> InsufficientBalance:
    async with billing.pool.acquire() as connection:
        account = await load_account(connection, wanted.account_id)
        spendable, _ = await ledger.balance(connection, wanted.account_id)
    quoted = price(billing.prices, wanted, account.subscription)
    return InsufficientBalance(price=quoted, balance_cents=spendable)


def payer(billing: Billing, account: Account, wanted: Quote, price_cents: Cents) -> PaidBy:
    """Runs have a plan, and are paid from the balance; a job by the saved card where there is one
    and the provider takes such an amount."""
    usable = account.card is not None and _for_cards(billing, wanted, price_cents)
    return "card" if usable else "balance"


def _for_cards(billing: Billing, wanted: Quote, price_cents: Cents) -> bool:
    limits = billing.prices.card
    return (
        billing.provider is not None
        and wanted.surface == "jobs"
        and limits.minimum_cents <= price_cents <= limits.maximum_cents
    )


async def _reserve_first(billing: Billing, request: Reserve, quoted: Price) -> Cents | None:
    """The usual case in one statement; what is left to spend. None: load, and decide with care."""
    if quoted.price_cents == 0:
        return None
    account_id, context = request.quote.account_id, context_of(billing)
    event = decide_reserve(Payment(), quoted.price_cents, quoted.currency)
    assert event is not None
    (record,) = records_after(
        Head(stream=stream_of(request.job_id)),
        [event],
        context,
        job_id=request.job_id,
        account_id=account_id,
    )
    try:
        spendable: Cents | None = await billing.pool.fetchval(
            RESERVE_SQL,
            record.event_id,
            record.stream,
            record.job_id,
            account_id,
            record.data,
            record.meta,
            record.hash,
            quoted.price_cents,
            ledger.available(account_id),
            ledger.reserved(account_id),
            context.now,
            _for_cards(billing, request.quote, quoted.price_cents),
            request.quote.priority,
        )
    except asyncpg.SerializationError:
        return None
    if spendable is not None:
        billing.committed()
    return spendable


async def restore_payment(billing: Billing, envelope: Envelope, event: JobSubmitted) -> None:
    """The job is there; when the sweep gave its reservation back already, hold it back again."""
    async with billing.pool.acquire() as connection:
        _, payment = await load_payment(connection, envelope.job_id)
    if payment.orphaned:
        await _settle(billing, envelope, event, lambda p: _some(decide_restore(p)))


async def capture_payment(billing: Billing, envelope: Envelope, event: JobCompleted) -> None:
    """The job is done: take the whole price, or that of the part that was needed, or bill it to the
    card."""
    part = event.charge_cents
    await _settle(
        billing,
        envelope,
        event,
        lambda p: _ended(billing, p, p.amount_cents if part is None else part, "completed"),
    )


async def void_payment(billing: Billing, envelope: Envelope, event: JobFailed) -> None:
    """A failed job costs nothing."""
    await _settle(billing, envelope, event, lambda p: _ended(billing, p, 0, "job failed"))


async def charge_partly(billing: Billing, envelope: Envelope, event: JobCancelled) -> None:
    """A cancelled job costs what was done of it."""
    await _settle(
        billing,
        envelope,
        event,
        lambda p: _ended(billing, p, event.charge_cents, "job cancelled"),
    )


async def void_orphans(billing: Billing) -> int:
    """Give back reservations whose job never came; how many were looked at."""
    rows = await billing.pool.fetch(ORPHANS_SQL, billing.now() - ORPHAN_AGE)
    for row in rows:
        await change(
            billing, Owner(row["job_id"], row["account_id"]), lambda p: _some(decide_orphan(p))
        )
    return len(rows)


def _some(event: PaymentEvent | None) -> Sequence[PaymentEvent]:
    return [] if event is None else [event]


def _ended(
    billing: Billing, payment: Payment, charge_cents: Cents, reason: str
) -> Sequence[PaymentEvent]:
    """What was given back for want of a job is held again first, if the job costs anything."""
    restored = _some(decide_restore(payment)) if charge_cents else []
    payment = reduce(lambda p, e: fold(p, e, billing.now()), restored, payment)
    minimum = billing.prices.card.minimum_cents
    return [*restored, *_some(decide_settle(payment, charge_cents, reason, card_minimum=minimum))]


async def _settle(
    billing: Billing,
    envelope: Envelope,
    event: Event,
    decide: Callable[[Payment], Sequence[PaymentEvent]],
) -> None:
    """Let a job's event change its payment, once. A conflict is tried again by its delivery."""
    message = Inbox(
        consumer=durable_name("billing", type_of(type(event))), event_id=envelope.event_id
    )
    owner = Owner(envelope.job_id, envelope.account_id)
    async with billing.pool.acquire() as connection, connection.transaction():
        await enter_inbox(connection, message)
        head, payment = await load_payment(connection, envelope.job_id)
        context = context_of(billing, envelope)
        await write(connection, owner, head, payment, decide(payment), context)
    billing.committed()
