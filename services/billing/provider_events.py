"""What the card provider tells us: verified, stored once, handled until it is done.

An event says that something changed; what it is now is asked of the provider where that matters. So
duplicates, disorder and events that never came do no harm.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
import structlog
from msgspec import Struct

from libs.contracts.billing_rpc import NoCardProvider
from libs.contracts.gateway_rpc import KeepPlan
from libs.contracts.provider_rpc import EventAnswer, EventRefused, EventTaken, TakeEvent
from services.billing import ledger
from services.billing.payments import Billing
from services.billing.provider import BadSignature, PaymentProvider

CLAIM = timedelta(minutes=2)
"""Whoever handles an event has it to themselves for so long; then they are taken for dead."""

FIRST_RETRY = timedelta(seconds=10)
LONGEST_RETRY = timedelta(hours=1)
SWEEP_LIMIT = 100  # events a sweep

STORE_SQL = """
INSERT INTO billing.provider_event (id, type, object, happened_at, received_at, due_at, tries)
VALUES ($1, $2, $3, $4, $5, $6, 1) ON CONFLICT (id) DO NOTHING RETURNING true
"""
CLAIM_SQL = """
UPDATE billing.provider_event SET due_at = $2, tries = tries + 1
WHERE id IN (
    SELECT id FROM billing.provider_event WHERE handled_at IS NULL AND due_at <= $1
    ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING id, type, object, tries
"""
DONE_SQL = "UPDATE billing.provider_event SET handled_at = $2, problem = NULL WHERE id = $1"
FAILED_SQL = "UPDATE billing.provider_event SET due_at = $2, problem = $3 WHERE id = $1"

ACCOUNT_SQL = "SELECT account_id FROM billing.account WHERE customer_id = $1 AND provider = $2"
HOLDER_SQL = "SELECT account_id FROM billing.account WHERE payment_method_id = $1"
ASK_SQL = """
UPDATE billing.account SET last_read = last_read + 1 WHERE account_id = $1
RETURNING last_read, customer_id
"""
KNOW_SQL = """
UPDATE billing.account SET known_read = $2, subscription = $3, payment_method_id = $4,
    card_brand = $5, card_last4 = $6, card_exp_month = $7, card_exp_year = $8
WHERE account_id = $1 AND known_read < $2
"""

logger = structlog.get_logger()


class Subject(Struct, frozen=True, kw_only=True):
    """What an event is about, as it was then: the fields that any of ours has."""

    id: str
    customer: str | None = None
    payment_method: str | None = None
    payment_intent: str | None = None
    status: str | None = None
    mode: str | None = None
    payment_status: str | None = None
    amount: int | None = None
    amount_total: int | None = None
    amount_received: int | None = None
    currency: str | None = None
    reason: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def purpose(self) -> str | None:
        return (self.metadata or {}).get("purpose")


class Told(Struct, frozen=True):
    """An event with its subject."""

    type: str
    subject: Subject


async def _nobody_waits(_: UUID) -> None:
    """No charge is overdue."""


async def _nobody_asks(_: KeepPlan) -> None:
    """No gateway keeps limits."""


class Cashier(Struct, frozen=True, kw_only=True):
    """``card_changed`` tries overdue charges again; ``plan_read`` tells the gateway what the
    account may do, and raises when it can't: then the event is handled again; ``reactions`` are
    those of jobs' payments, by the type of the event."""

    billing: Billing
    provider: PaymentProvider
    card_changed: Callable[[UUID], Awaitable[object]] = _nobody_waits
    plan_read: Callable[[KeepPlan], Awaitable[object]] = _nobody_asks
    reactions: Mapping[str, Callable[[Subject], Awaitable[object]]] = {}


_decode_subject = msgspec.json.Decoder(Subject)


async def take_event(cashier: Cashier, request: TakeEvent) -> EventAnswer:
    """Store an event that the provider signed, and handle it when it is new. It is answered as
    taken also when handling it failed: the sweep goes on with it."""
    try:
        event = cashier.provider.event(request.payload, request.signature)
    except BadSignature as error:
        logger.warning("an event without a good signature", error=str(error))
        return EventRefused()
    now = cashier.billing.now()
    new = await cashier.billing.pool.fetchval(
        STORE_SQL, event.id, event.type, bytes(event.object), event.created_at, now, now + CLAIM
    )
    if new:
        await _handle(cashier, event.id, event.type, bytes(event.object), tries=1)
    return EventTaken()


async def refuse_events(_: TakeEvent) -> EventAnswer:
    """Without a provider, nobody can have signed anything."""
    return NoCardProvider()


async def handle_due(cashier: Cashier) -> int:
    """Go on with stored events that could not be handled; how many were tried."""
    now = cashier.billing.now()
    rows = await cashier.billing.pool.fetch(CLAIM_SQL, now, now + CLAIM, SWEEP_LIMIT)
    for row in rows:
        await _handle(cashier, row["id"], row["type"], row["object"], tries=row["tries"])
    return len(rows)


async def _handle(cashier: Cashier, id: str, type: str, object: bytes, *, tries: int) -> None:
    pool = cashier.billing.pool
    try:
        await react(cashier, type, object)
    except Exception as error:
        logger.exception("an event waits to be handled again", event_id=id, event_type=type)
        due = cashier.billing.now() + min(FIRST_RETRY * 2 ** min(tries - 1, 20), LONGEST_RETRY)
        await pool.execute(FAILED_SQL, id, due, repr(error)[:1000])
        return
    await pool.execute(DONE_SQL, id, cashier.billing.now())


async def react(cashier: Cashier, type: str, object: bytes) -> None:
    """Do what follows from an event; nothing from one of a type that means nothing to us."""
    kind, _, verb = type.rpartition(".")
    match kind, verb:
        case ("customer", "updated" | "deleted"):
            await _customer_changed(cashier, _decode_subject.decode(object).id)
        case ("customer.subscription", _):
            await _customer_changed(cashier, _decode_subject.decode(object).customer)
        case ("payment_method", "detached"):
            await _card_taken_away(cashier, _decode_subject.decode(object))
        case ("payment_method", _):
            await _customer_changed(cashier, _decode_subject.decode(object).customer)
        case ("setup_intent", "succeeded"):
            await _card_saved(cashier, _decode_subject.decode(object))
        case ("checkout.session", "completed" | "async_payment_succeeded"):
            session = _decode_subject.decode(object)
            if session.mode == "payment" and session.payment_status == "paid":
                await _topped_up(cashier, session, session.payment_intent, session.amount_total)
            await _customer_changed(cashier, session.customer)
        case ("payment_intent", "succeeded"):
            intent = _decode_subject.decode(object)
            await _topped_up(cashier, intent, intent.id, intent.amount_received)
    reaction = cashier.reactions.get(type)
    if reaction is not None:
        await reaction(_decode_subject.decode(object))


async def _account_of(cashier: Cashier, customer_id: str | None) -> UUID | None:
    """None for a customer of something else that the operator sells."""
    found: UUID | None = await cashier.billing.pool.fetchval(
        ACCOUNT_SQL, customer_id, cashier.provider.name
    )
    return found


async def _card_saved(cashier: Cashier, setup: Subject) -> None:
    account_id = await _account_of(cashier, setup.customer)
    if account_id is None or setup.customer is None or setup.payment_method is None:
        return
    if setup.purpose == "card":
        await cashier.provider.adopt_card(setup.customer, setup.payment_method)
    await refresh(cashier, account_id)


async def _card_taken_away(cashier: Cashier, card: Subject) -> None:
    account_id = await cashier.billing.pool.fetchval(HOLDER_SQL, card.id)
    if account_id is not None:
        await refresh(cashier, account_id)


async def _customer_changed(cashier: Cashier, customer_id: str | None) -> None:
    account_id = await _account_of(cashier, customer_id)
    if account_id is not None:
        await refresh(cashier, account_id)


async def refresh(cashier: Cashier, account_id: UUID) -> None:
    """Read the account's card and subscription at the provider, and keep them."""
    pool, provider = cashier.billing.pool, cashier.provider
    asked = await pool.fetchrow(ASK_SQL, account_id)
    if asked is None or asked["customer_id"] is None:
        return
    card = await provider.card(asked["customer_id"])
    plan = await provider.subscription(asked["customer_id"])
    await pool.execute(
        KNOW_SQL,
        account_id,
        asked["last_read"],
        plan or "none",
        card and card.payment_method_id,
        card and card.brand,
        card and card.last4,
        card and card.exp_month,
        card and card.exp_year,
    )
    if card is not None:
        # Each time, and not only when it is another card: whoever wrote it may have died here.
        await cashier.card_changed(account_id)
    await cashier.plan_read(
        KeepPlan(account_id=account_id, subscription=plan or "none", reading=asked["last_read"])
    )


async def _topped_up(
    cashier: Cashier, paid: Subject, payment_id: str | None, amount_cents: int | None
) -> None:
    """Money for the balance, once for each payment, whichever event tells of it."""
    account_id = await _account_of(cashier, paid.customer)
    if paid.purpose != "top_up" or account_id is None:
        return
    if payment_id is None or amount_cents is None:
        raise ValueError(f"{paid.id}: paid, without a payment or an amount")
    if (paid.currency or "").upper() != cashier.billing.prices.currency.upper():
        raise ValueError(f"{payment_id} was paid in {paid.currency}; correct it in the ledger")
    await credit(cashier.billing, account_id, payment_id, amount_cents, cashier.billing.now())


async def credit(
    billing: Billing, account_id: UUID, payment_id: str, amount_cents: int, now: datetime
) -> bool:
    """False: it was entered before."""
    entry = ledger.Entry(
        id=uuid5(NAMESPACE_URL, f"top_up:{payment_id}"),
        kind="top_up",
        account_id=account_id,
        job_id=None,
        memo="top-up",
        created_at=now,
        postings={ledger.CARD: -amount_cents, ledger.available(account_id): amount_cents},
        reference=payment_id,
    )
    async with billing.pool.acquire() as connection:
        return await ledger.deposit(connection, entry)
