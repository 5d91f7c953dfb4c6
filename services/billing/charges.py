"""Cards are charged here: what is due is claimed, asked of the provider, and recorded.

No transaction is open while the provider is asked. The question was recorded before, so whatever
dies in between, it is asked again word for word under the same key until its outcome is recorded.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from msgspec import Struct

from libs.contracts.base import Cents
from libs.contracts.billing import PaymentChargeStarted, PaymentEvent, PaymentRefundFailed
from libs.eventlog.read import decode_meta
from libs.observability.metrics import PROVIDER_ERRORS
from libs.observability.spans import span
from libs.observability.trace import continued
from services.billing.accounts import hold_card
from services.billing.decisions import (
    SavedCard,
    decide_answer,
    decide_charge,
    decide_new_card,
    decide_refunded,
)
from services.billing.model import Payment, Refund
from services.billing.payments import (
    Billing,
    Owner,
    change,
    change_knowing,
    load_payment,
    stream_of,
)
from services.billing.provider import (
    ActionRequired,
    ApiKeyRefused,
    Charge,
    Charged,
    Declined,
    MovementKind,
    PaymentProvider,
    ProviderRefused,
    ProviderUnavailable,
)

WORK_EVERY = 1.0  # seconds; a person who has waited for a job does not notice it
BATCH = 16
CLAIM = timedelta(minutes=3)
"""Longer than the provider is ever waited for; after it, another worker asks the same again."""
BACKOFF = (2, 5, 15, 60, 300, 900, 3600)  # seconds, by tries without an answer; the last repeats
KEYS_LIVE = timedelta(hours=20)
"""The provider forgets idempotency keys after a day; after this we look for the movement first."""

CLAIM_SQL = """
UPDATE billing.payment SET claimed_until = $2
WHERE job_id IN (
    SELECT job_id FROM billing.payment WHERE due_at <= $1 AND claimed_until <= $1
    ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING job_id, account_id
"""
DONE_SQL = """
UPDATE billing.payment SET claimed_until = '-infinity', tries = 0 WHERE job_id = $1
"""
POSTPONE_SQL = """
UPDATE billing.payment SET tries = tries + 1, claimed_until = $2::timestamptz
    + make_interval(secs => ($3::int[])[least(tries + 1, cardinality($3))])
WHERE job_id = $1
"""
LAST_META_SQL = "SELECT meta FROM log.event WHERE stream = $1 ORDER BY version DESC LIMIT 1"
OVERDUE_SQL = """
SELECT job_id FROM billing.payment
WHERE account_id = $1 AND status IN ('declined', 'action_required') AND hold <> ''
"""

logger = structlog.get_logger()


class Step(Struct, frozen=True, kw_only=True):
    """What is to be asked of the provider for one payment."""

    charge: PaymentChargeStarted | None
    started_at: datetime
    waiting: str | None
    ask_only: bool
    refunds: Sequence[Refund]
    payment_id: str | None


def next_step(payment: Payment, now: datetime) -> Step:
    """Pure. ``ask_only``: the charge was made, and its owner may have approved it since."""
    asking = payment.status == "action_required" and payment.due_at <= now
    return Step(
        charge=payment.charge if payment.status == "charging" or asking else None,
        started_at=payment.charge_started_at,
        waiting=payment.waiting.payment_id if payment.waiting else None,
        ask_only=asking,
        refunds=payment.open_refunds,
        payment_id=payment.payment_id,
    )


async def work(billing: Billing) -> int:
    """Do what is due; how many payments that were."""
    done, full = 0, billing.provider is not None
    while billing.provider is not None and full:
        now = billing.now()
        rows = await billing.pool.fetch(CLAIM_SQL, now, now + CLAIM, BATCH)
        done, full = done + len(rows), len(rows) == BATCH
        owners = [Owner(row["job_id"], row["account_id"]) for row in rows]
        await asyncio.gather(*(_advance(billing, billing.provider, one) for one in owners))
    return done


async def _advance(billing: Billing, provider: PaymentProvider, owner: Owner) -> None:
    """In the trace of what made the payment due, which is what was written last."""
    meta = await billing.pool.fetchval(LAST_META_SQL, stream_of(owner.job_id))
    traceparent = decode_meta(meta).traceparent if meta else None
    with continued(traceparent, job_id=str(owner.job_id)):
        await _try_to_advance(billing, provider, owner)


async def _try_to_advance(billing: Billing, provider: PaymentProvider, owner: Owner) -> None:
    try:
        with span("advance payment"):
            await advance(billing, provider, owner)
    except (ProviderUnavailable, ProviderRefused) as error:
        # Refused: the operator's to mend (a key, an account). It is nobody's card that failed.
        unavailable = isinstance(error, ProviderUnavailable)
        PROVIDER_ERRORS.add(1, {"reason": "unavailable" if unavailable else "refused"})
        level = logger.warning if unavailable else logger.error
        level("card provider gave no outcome", job_id=str(owner.job_id), error=str(error))
    except Exception:
        logger.exception("payment not advanced", job_id=str(owner.job_id))
    else:
        await billing.pool.execute(DONE_SQL, owner.job_id)
        return
    await billing.pool.execute(POSTPONE_SQL, owner.job_id, billing.now(), list(BACKOFF))


async def advance(billing: Billing, provider: PaymentProvider, owner: Owner) -> None:
    """Take one payment as far as it goes now. Raises ProviderUnavailable or ProviderRefused."""
    now = billing.now()
    payment = await _change_by_card(
        billing, owner, lambda p, card: _some(decide_charge(p, card, owner.job_id, now))
    )
    step = next_step(payment, now)
    if step.charge is not None:
        outcome = await _outcome(billing, provider, owner, step, step.charge)
        await record(billing, owner, step.charge.attempt, outcome)
    for refund in step.refunds:
        await _give_back(billing, provider, owner, step, refund)


async def _outcome(
    billing: Billing,
    provider: PaymentProvider,
    owner: Owner,
    step: Step,
    started: PaymentChargeStarted,
) -> Charged | Declined | ActionRequired:
    if step.waiting is not None:
        if step.ask_only:
            return await provider.payment(step.waiting)
        # An earlier charge may still be approved: it is given up first, unless it has succeeded.
        earlier = await provider.cancel(step.waiting)
        if earlier is not None:
            return earlier
    if billing.now() - step.started_at > KEYS_LIVE:
        found = await _movement(provider, "charge", owner, step.started_at, known=frozenset())
        if found is not None:
            return Charged(payment_id=found[0])
    return await provider.charge(
        Charge(
            customer_id=started.customer_id,
            payment_method_id=started.payment_method_id,
            account_id=owner.account_id,
            job_id=owner.job_id,
            amount_cents=started.amount_cents,
            currency=started.currency,
            description=f"Tuneyard job {owner.job_id}",
            key=started.idempotency_key,
        )
    )


async def _give_back(
    billing: Billing, provider: PaymentProvider, owner: Owner, step: Step, refund: Refund
) -> None:
    assert step.payment_id is not None  # only what was charged is refunded
    found: tuple[str, Cents] | None = None
    if billing.now() - refund.started_at > KEYS_LIVE:
        async with billing.pool.acquire() as connection:
            _, payment = await load_payment(connection, owner.job_id)
        known = frozenset(r.provider_refund_id for r in payment.refunds if r.provider_refund_id)
        found = await _movement(provider, "refund", owner, refund.started_at, known=known)
    try:
        if found is None:
            answer = await provider.refund(
                step.payment_id, amount_cents=refund.amount_cents, key=str(refund.refund_id)
            )
            found = answer.refund_id, answer.amount_cents
    except ApiKeyRefused:
        raise  # a refund that fails is not asked for again
    except ProviderRefused as error:
        failed = PaymentRefundFailed(
            refund_id=refund.refund_id, amount_cents=refund.amount_cents, message=str(error)[:4000]
        )
        await change(
            billing,
            owner,
            lambda p: [failed] if refund.refund_id in {r.refund_id for r in p.open_refunds} else [],
        )
        return
    refund_id, amount = found
    await change(
        billing,
        owner,
        lambda p: _some(decide_refunded(p, refund_id, amount, refund.refund_id)),
    )


async def _movement(
    provider: PaymentProvider,
    kind: MovementKind,
    owner: Owner,
    since: datetime,
    *,
    known: frozenset[str],
) -> tuple[str, Cents] | None:
    """What moved for this job although we never heard of it: its id, and how much."""
    async for movement in provider.movements(since - timedelta(hours=1)):
        if (movement.kind, movement.job_id) == (kind, owner.job_id) and movement.id not in known:
            named = movement.payment_id if kind == "charge" else movement.id
            return named, abs(movement.amount_cents)
    return None


async def record(
    billing: Billing, owner: Owner, attempt: int, outcome: Charged | Declined | ActionRequired
) -> Payment:
    """Keep what the provider said of an attempt, once; another card that was saved since the
    attempt began is due then."""
    now = billing.now()
    return await _change_by_card(
        billing,
        owner,
        lambda p, card: decide_answer(p, attempt, outcome, card, owner.job_id, now),
    )


async def card_changed(billing: Billing, account_id: UUID) -> None:
    """A card was saved: what is overdue is tried with it at once. Call it after the card's commit;
    repeated for the same card, it does nothing."""
    for row in await billing.pool.fetch(OVERDUE_SQL, account_id):
        await _try_new_card(billing, Owner(row["job_id"], account_id))


async def _try_new_card(billing: Billing, owner: Owner) -> None:
    await _change_by_card(
        billing, owner, lambda p, card: _some(decide_new_card(p, card, owner.job_id))
    )
    await billing.pool.execute(DONE_SQL, owner.job_id)


async def _change_by_card(
    billing: Billing,
    owner: Owner,
    decide: Callable[[Payment, SavedCard | None], Sequence[PaymentEvent]],
) -> Payment:
    return await change_knowing(
        billing, owner, lambda connection: hold_card(connection, owner.account_id), decide
    )


async def payment_changed(billing: Billing, job_id: UUID, account_id: UUID) -> None:
    """The provider has news of a job's charge, such as its owner's approval: ask, and record.

    Raises ProviderUnavailable or ProviderRefused; what is due is asked again in any case.
    """
    async with billing.pool.acquire() as connection:
        _, payment = await load_payment(connection, job_id)
    if billing.provider is None or payment.waiting is None or payment.charge is None:
        return
    if payment.status == "action_required":
        outcome = await billing.provider.payment(payment.waiting.payment_id)
        payment = await record(billing, Owner(job_id, account_id), payment.charge.attempt, outcome)
        if payment.due_at <= billing.now():
            await billing.pool.execute(DONE_SQL, job_id)  # at once, whatever it waited for before


def _some(event: PaymentEvent | None) -> Sequence[PaymentEvent]:
    return [] if event is None else [event]
