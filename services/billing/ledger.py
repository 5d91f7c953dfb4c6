"""The double-entry ledger: every movement of money is one balanced entry.

A posting is positive where money goes to, negative where it comes from. ``available:<account>`` and
``reserved:<account>`` are what the platform owes a customer, ``receivable:<account>`` (zero or
below) is what a customer owes. ``funding`` is where an operator's grants come from, ``card`` the
card provider, ``revenue`` where charges go; ``refunds``, ``disputes`` and what was ``written_off``
were lost of that. What an account has spent is one sum for each kind of entry.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import assert_never
from uuid import UUID

import asyncpg
from msgspec import Struct

from libs.contracts.base import Cents
from libs.contracts.billing import (
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
from libs.contracts.events import type_of
from libs.eventlog.connection import Connection

FUNDING, REVENUE, CARD = "funding", "revenue", "card"
REFUNDS, DISPUTES, WRITTEN_OFF = "refunds", "disputes", "written_off"
PLATFORM = frozenset({FUNDING, REVENUE, CARD, REFUNDS, DISPUTES, WRITTEN_OFF})
"""The platform's own ledger accounts: their balances are sums, never rows, which would be hot."""

LOCK_SQL = """
SELECT ledger_account, amount_cents + credit_cents AS amount_cents FROM billing.balance
WHERE ledger_account = ANY($1) ORDER BY ledger_account FOR UPDATE
"""
OPEN_SQL = """
INSERT INTO billing.balance (ledger_account, amount_cents)
SELECT name, 0 FROM unnest($1::text[]) AS n (name) ORDER BY name
ON CONFLICT DO NOTHING
"""
SUMS_SQL = """
SELECT
    coalesce((SELECT amount_cents + credit_cents FROM billing.balance
              WHERE ledger_account = $2), 0) AS available,
    coalesce((SELECT amount_cents FROM billing.balance WHERE ledger_account = $3), 0) AS reserved,
    coalesce(sum(amount_cents), 0)::bigint AS spent,
    coalesce(sum(entries) FILTER (WHERE kind IN ('capture', 'charge')), 0)::bigint AS charges,
    coalesce(sum(amount_cents) FILTER (WHERE kind = 'extension'), 0)::bigint AS extended,
    coalesce(sum(entries) FILTER (WHERE kind = 'extension'), 0)::bigint AS extensions
FROM billing.spent WHERE account_id = $1
"""
# What was spent is what was taken, less what was given back: a card's charge when it has paid, not
# when it was billed.
ENTER_SQL = """
WITH p AS (
    SELECT name, amount FROM unnest($8::text[], $9::bigint[]) AS p (name, amount)
),
entered AS (
    INSERT INTO billing.entry
        (id, kind, account_id, job_id, memo, created_at, reference, balance_after_cents)
    SELECT $1, $2, $3, $4, $5, $6, $7,
        coalesce((SELECT amount_cents FROM billing.balance WHERE ledger_account = $10), 0)
        + coalesce((SELECT amount FROM p WHERE name = $10), 0)
),
posted AS (
    INSERT INTO billing.posting (entry_id, ledger_account, amount_cents)
    SELECT $1, name, amount FROM p
),
spent AS (
    INSERT INTO billing.spent AS s (account_id, kind, amount_cents, entries)
    SELECT $3, $2, amount, 1 FROM p
    WHERE CASE $2 WHEN 'bill' THEN false WHEN 'charge' THEN name LIKE 'receivable:%'
          ELSE name IN ('revenue', 'refunds') END
    ON CONFLICT (account_id, kind) DO UPDATE SET
        amount_cents = s.amount_cents + excluded.amount_cents, entries = s.entries + 1
)
MERGE INTO billing.balance b
USING (
    SELECT * FROM p
    WHERE name NOT IN ('funding', 'revenue', 'card', 'refunds', 'disputes', 'written_off')
) p ON b.ledger_account = p.name
WHEN MATCHED THEN UPDATE SET amount_cents = b.amount_cents + p.amount
WHEN NOT MATCHED THEN INSERT (ledger_account, amount_cents) VALUES (p.name, p.amount)
"""


class Overdrawn(Exception):
    """The entry would take a balance below zero."""


class Entry(Struct, frozen=True, kw_only=True):
    """One movement; ``postings`` add up to zero (the database checks it at commit). ``reference``
    is what the card provider calls it, once for each kind."""

    id: UUID
    kind: str
    account_id: UUID
    job_id: UUID | None
    memo: str
    created_at: datetime
    postings: dict[str, int]
    reference: str | None = None


def available(account_id: UUID) -> str:
    return f"available:{account_id}"


def reserved(account_id: UUID) -> str:
    return f"reserved:{account_id}"


def receivable(account_id: UUID) -> str:
    return f"receivable:{account_id}"


class Posted(Struct, frozen=True, kw_only=True):
    """What a payment event does to the ledger. Without postings, it moves no money."""

    kind: str
    postings: Mapping[str, int]
    memo: str
    reference: str | None = None


def posted_by(event: PaymentEvent, account_id: UUID) -> Posted | None:
    """The entry of a payment event; None when no money moves."""
    mine, held, owed = available(account_id), reserved(account_id), receivable(account_id)
    kind, memo = "", type_of(type(event))
    reference: str | None = None
    postings: dict[str, int] = {}
    match event:
        case PaymentReserved(amount_cents=amount):
            kind, postings = "reserve", {mine: -amount, held: amount}
        case PaymentCaptured(amount_cents=amount, released_cents=rest):
            kind, postings = "capture", {held: -(amount + rest), REVENUE: amount, mine: rest}
        case PaymentVoided(amount_cents=amount):
            kind, postings = "void", {held: -amount, mine: amount}
        case PaymentExtensionCharged(amount_cents=amount):
            kind, postings = "extension", {mine: -amount, REVENUE: amount}
        case PaymentBilled(amount_cents=amount):
            kind, postings = "bill", {owed: -amount, REVENUE: amount}
        case PaymentCharged(amount_cents=amount, payment_id=reference):
            kind, postings = "charge", {CARD: -amount, owed: amount}
        case PaymentRefunded(amount_cents=amount, to=to, reason=memo):
            kind, reference = "refund", event.provider_refund_id
            postings = {REFUNDS: -amount, (CARD if to == "card" else mine): amount}
        case PaymentDisputed(amount_cents=amount, dispute_id=reference, reason=memo):
            kind, postings = "dispute", {DISPUTES: -amount, CARD: amount}
        case PaymentDisputeClosed(amount_cents=amount, dispute_id=reference, won=won):
            if won:
                kind, postings = "dispute_closed", {CARD: -amount, DISPUTES: amount}
        case PaymentWrittenOff(amount_cents=amount, debt=debt, reason=memo):
            settled = owed if debt == "charge" else DISPUTES
            kind, postings = "write_off", {WRITTEN_OFF: -amount, settled: amount}
        case (
            PaymentPledged()
            | PaymentWaived()
            | PaymentChargeStarted()
            | PaymentDeclined()
            | PaymentActionRequired()
            | PaymentRefundStarted()
            | PaymentRefundFailed()
        ):
            pass
        case _:
            assert_never(event)
    if not any(postings.values()):
        return None
    return Posted(kind=kind, postings=postings, memo=memo, reference=reference)


async def lock(connection: Connection, names: Iterable[str]) -> dict[str, Cents]:
    """Hold the balances of these ledger accounts until the transaction ends; what can be taken of
    each.

    Whoever writes money locks them first, and appends to the payment's stream after that (as
    reserve.sql does): in one order everywhere, so that two never wait for each other.
    """
    rows = await connection.fetch(LOCK_SQL, sorted(names))
    return {row["ledger_account"]: row["amount_cents"] for row in rows}


async def lock_for(connection: Connection, account_id: UUID, postings: Mapping[str, int]) -> None:
    """Lock what an entry changes, and the balance that it shows; what is not there yet is made."""
    names = {name for name, amount in postings.items() if amount} - PLATFORM
    missing = names - set(await lock(connection, {*names, available(account_id)}))
    if missing:
        await connection.execute(OPEN_SQL, list(missing))
        await lock(connection, {*names, available(account_id)})


async def enter(connection: Connection, entry: Entry) -> None:
    """Write one entry in the caller's transaction, which has locked the balances it changes
    (`lock_for`). Raises Overdrawn; then roll back."""
    postings = {name: amount for name, amount in entry.postings.items() if amount}
    if not postings:
        return
    try:
        await connection.execute(
            ENTER_SQL,
            entry.id,
            entry.kind,
            entry.account_id,
            entry.job_id,
            entry.memo,
            entry.created_at,
            entry.reference,
            list(postings),
            list(postings.values()),
            available(entry.account_id),
        )
    except asyncpg.CheckViolationError as error:
        raise Overdrawn(entry.memo) from error


async def balance(connection: Connection, account_id: UUID) -> tuple[Cents, Cents]:
    """What the account can spend (its credit included), and what is reserved, in cents."""
    rows = await connection.fetch(
        "SELECT ledger_account, amount_cents + credit_cents AS amount_cents FROM billing.balance"
        " WHERE ledger_account = ANY($1)",
        [available(account_id), reserved(account_id)],
    )
    amounts = {row["ledger_account"]: row["amount_cents"] for row in rows}
    return amounts.get(available(account_id), 0), amounts.get(reserved(account_id), 0)


class Sums(Struct, frozen=True, kw_only=True):
    """What an account has, and what it has spent, in cents; how often it was charged."""

    available: Cents
    reserved: Cents
    spent: Cents
    charges: int
    extended: Cents
    extensions: int


async def sums(connection: Connection, account_id: UUID) -> Sums:
    """All sums of an account as they were at one moment."""
    row = await connection.fetchrow(
        SUMS_SQL, account_id, available(account_id), reserved(account_id)
    )
    assert row is not None  # an aggregate always has one
    return Sums(**row)


async def deposit(connection: Connection, entry: Entry) -> bool:
    """Enter what moves money without a job, in a transaction of its own or the caller's; once for
    an id, and for a kind and reference. False: it was there already. Raises Overdrawn."""
    async with connection.transaction():
        await lock_for(connection, entry.account_id, entry.postings)
        if await connection.fetchval(
            "SELECT true FROM billing.entry WHERE id = $1 OR (kind, reference) = ($2, $3)",
            entry.id,
            entry.kind,
            entry.reference,
        ):
            return False
        await enter(connection, entry)
    return True


async def grant(
    connection: Connection,
    *,
    account_id: UUID,
    amount_cents: Cents,
    entry_id: UUID,
    memo: str,
    now: datetime,
) -> None:
    """Give an account money to spend. Idempotent by ``entry_id``."""
    await deposit(
        connection,
        Entry(
            id=entry_id,
            kind="grant",
            account_id=account_id,
            job_id=None,
            memo=memo,
            created_at=now,
            postings={FUNDING: -amount_cents, available(account_id): amount_cents},
        ),
    )
