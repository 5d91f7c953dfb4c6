"""Payments from the log, balances and what was spent from the ledger's postings."""

from collections.abc import AsyncIterator

from libs.contracts.events import decode_payment_event
from libs.eventlog.connection import Connection
from libs.eventlog.read import decode_meta
from libs.eventlog.rebuild import Rebuilt, replace_rows
from services.billing.model import Payment, fold
from services.billing.payments import Owner, row_of

PREFETCH = 5_000
PAYMENT_COLUMNS = (
    *("job_id", "account_id", "status", "amount_cents", "reserved_at", "due_at", "hold"),
)

# The sums of a customer's own postings, and the credit that the account's terms give. A row of
# zeros, which taking credit away may leave, says the same as none.
BALANCES_SQL = """
SELECT ledger_account, sum(amount_cents)::bigint AS amount_cents,
       sum(credit_cents)::bigint AS credit_cents
FROM (
    SELECT ledger_account, amount_cents, 0 AS credit_cents FROM billing.posting
    WHERE ledger_account NOT IN
        ('funding', 'revenue', 'card', 'refunds', 'disputes', 'written_off')
    UNION ALL
    SELECT 'available:' || account_id, 0, credit_limit_cents FROM billing.account
    WHERE credit_limit_cents > 0
    UNION ALL
    SELECT ledger_account, 0, 0 FROM billing.balance WHERE amount_cents = 0 AND credit_cents = 0
) p GROUP BY ledger_account
"""
SPENT_SQL = """
SELECT e.account_id, e.kind, sum(p.amount_cents)::bigint, count(*)
FROM billing.posting p JOIN billing.entry e ON e.id = p.entry_id
WHERE CASE e.kind WHEN 'bill' THEN false
      WHEN 'charge' THEN p.ledger_account LIKE 'receivable:%'
      ELSE p.ledger_account IN ('revenue', 'refunds') END
GROUP BY e.account_id, e.kind
"""


async def rebuild_payments(connection: Connection, reader: Connection) -> Rebuilt:
    """Re-derive ``billing.payment`` in the caller's transaction."""
    return await replace_rows(
        connection,
        "billing.payment",
        PAYMENT_COLUMNS,
        _payments(reader),
    )


async def rebuild_balances(connection: Connection, reader: Connection) -> Rebuilt:
    """Re-derive ``billing.balance`` in the caller's transaction."""
    return await replace_rows(
        connection,
        "billing.balance",
        ("ledger_account", "amount_cents", "credit_cents"),
        _rows(reader, BALANCES_SQL),
    )


async def rebuild_spent(connection: Connection, reader: Connection) -> Rebuilt:
    """Re-derive ``billing.spent`` in the caller's transaction."""
    return await replace_rows(
        connection,
        "billing.spent",
        ("account_id", "kind", "amount_cents", "entries"),
        _rows(reader, SPENT_SQL),
    )


async def _rows(reader: Connection, sql: str) -> AsyncIterator[tuple[object, ...]]:
    async with reader.transaction():
        async for row in reader.cursor(sql, prefetch=PREFETCH):
            yield tuple(row)


async def _payments(reader: Connection) -> AsyncIterator[tuple[object, ...]]:
    owner: Owner | None = None
    payment = Payment()
    async with reader.transaction():
        async for row in reader.cursor(
            "SELECT job_id, account_id, data, meta FROM log.event"
            " WHERE stream >= 'payment:' AND stream < 'payment;' ORDER BY stream, version",
            prefetch=PREFETCH,
        ):
            if owner is not None and owner.job_id != row["job_id"]:
                if (known := row_of(owner, payment)) is not None:
                    yield known
                payment = Payment()
            owner = Owner(row["job_id"], row["account_id"])
            at = decode_meta(row["meta"]).occurred_at
            payment = fold(payment, decode_payment_event(row["data"]), at)
    if owner is not None and (known := row_of(owner, payment)) is not None:
        yield known
