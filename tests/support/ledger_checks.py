"""A database for money alone, and the question that is asked of it again and again: is it right?"""

from collections import Counter
from uuid import UUID, uuid4

from msgspec import Struct

from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, connect
from libs.eventlog.record import Append
from services.billing import charges, ledger
from services.billing.payments import Billing
from services.billing.rebuild import rebuild_balances, rebuild_payments, rebuild_spent
from tests.support.jobs import NOON
from tests.support.scripted_provider import ScriptedProvider

TABLES = (
    *("log.event", "log.outbox", "log.inbox", "log.job", "log.idempotency"),
    *("billing.entry", "billing.posting", "billing.balance", "billing.payment"),
    *("billing.spent", "billing.account"),
)

# Every row is something wrong: what, and where.
WRONG_SQL = """
SELECT 'the postings do not add up' AS what, sum(amount_cents)::text AS at
FROM billing.posting HAVING sum(amount_cents) <> 0
UNION ALL
SELECT 'an unbalanced entry', entry_id::text FROM billing.posting
GROUP BY entry_id HAVING sum(amount_cents) <> 0
UNION ALL
SELECT 'an entry without two postings', e.id::text FROM billing.entry e
WHERE (SELECT count(*) FROM billing.posting p WHERE p.entry_id = e.id) < 2
UNION ALL
SELECT 'below its floor', ledger_account FROM billing.balance
WHERE CASE WHEN ledger_account LIKE 'receivable:%' THEN amount_cents > 0
           ELSE amount_cents < -credit_cents END
UNION ALL
SELECT 'a balance that is not the sum of its postings', coalesce(b.ledger_account, s.ledger_account)
FROM billing.balance b
FULL JOIN (
    SELECT ledger_account, sum(amount_cents) AS amount FROM billing.posting
    WHERE ledger_account LIKE '%:%' GROUP BY ledger_account
) s ON s.ledger_account = b.ledger_account
WHERE coalesce(b.amount_cents, 0) <> coalesce(s.amount, 0)
UNION ALL
-- Revenue that is billed and not paid yet is not spent; what was given back is spent no more.
SELECT 'spent is not revenue', a.account_id::text
FROM (SELECT DISTINCT account_id FROM billing.entry) a
WHERE (SELECT coalesce(sum(amount_cents), 0) FROM billing.spent s
       WHERE s.account_id = a.account_id)
   <> (SELECT coalesce(sum(p.amount_cents), 0)
       FROM billing.posting p JOIN billing.entry e ON e.id = p.entry_id
       WHERE e.account_id = a.account_id
         AND (p.ledger_account IN ('revenue', 'refunds')
              OR (p.ledger_account = 'written_off' AND EXISTS (
                  SELECT FROM billing.posting o WHERE o.entry_id = e.id
                      AND o.ledger_account LIKE 'receivable:%'))
              OR p.ledger_account LIKE 'receivable:%'))
UNION ALL
SELECT 'revenue without a job', e.id::text
FROM billing.posting p JOIN billing.entry e ON e.id = p.entry_id
LEFT JOIN log.event v ON v.event_id = e.id AND v.job_id = e.job_id
    AND v.account_id = e.account_id AND v.stream = 'payment:' || e.job_id
WHERE p.ledger_account = 'revenue' AND v.event_id IS NULL
UNION ALL
SELECT 'a job that was taken for twice', e.job_id::text
FROM billing.entry e WHERE e.kind IN ('capture', 'bill')
GROUP BY e.job_id HAVING count(*) > 1
UNION ALL
SELECT 'a job that was charged twice', e.job_id::text
FROM billing.entry e WHERE e.kind = 'charge' GROUP BY e.job_id HAVING count(*) > 1
UNION ALL
SELECT 'a job that was given back more than was taken', e.job_id::text
FROM billing.posting p JOIN billing.entry e ON e.id = p.entry_id
WHERE p.ledger_account IN ('revenue', 'refunds') AND e.kind <> 'extension'
GROUP BY e.job_id HAVING sum(p.amount_cents) < 0
UNION ALL
SELECT 'a balance after an entry that is not the sum', id::text FROM (
    SELECT e.id, e.balance_after_cents, sum(coalesce(p.amount_cents, 0))
        OVER (PARTITION BY e.account_id ORDER BY e.seq) AS after
    FROM billing.entry e LEFT JOIN billing.posting p
        ON p.entry_id = e.id AND p.ledger_account = 'available:' || e.account_id
) s WHERE after <> balance_after_cents
"""


class Books(Struct, frozen=True, kw_only=True):
    """Billing with a database, and its operator's connections."""

    billing: Billing
    admin: Connection
    reader: Connection

    async def wipe(self) -> None:
        """Begin anew. The log refuses that to everybody but who switches its triggers off."""
        async with self.admin.transaction():
            await self.admin.execute("SET LOCAL session_replication_role = 'replica'")
            for table in TABLES:
                await self.admin.execute(f"DELETE FROM {table}")

    async def grant(self, account_id: UUID, cents: int, entry_id: UUID | None = None) -> None:
        async with self.billing.pool.acquire() as connection:
            await ledger.grant(
                connection,
                account_id=account_id,
                amount_cents=cents,
                entry_id=entry_id or uuid4(),
                memo="a gift",
                now=NOON,
            )

    async def append(self, append: Append) -> None:
        async with self.billing.pool.acquire() as connection:
            await append_in(connection, append)

    async def save_card(self, billing: Billing, account_id: UUID, method: str) -> None:
        await self.billing.pool.execute(
            "INSERT INTO billing.account (account_id, customer_id, payment_method_id)"
            " VALUES ($1, $2, $3) ON CONFLICT (account_id) DO UPDATE SET"
            " customer_id = excluded.customer_id, payment_method_id = $3",
            *(account_id, f"cus_{account_id}", method),
        )
        await charges.card_changed(billing, account_id)

    async def remove_card(self, account_id: UUID) -> None:
        await self.billing.pool.execute(
            "UPDATE billing.account SET payment_method_id = NULL WHERE account_id = $1", account_id
        )


async def check_books(books: Books, provider: ScriptedProvider | None = None) -> None:
    """Everything adds up, follows from the log, and is what the provider says."""
    wrong = [tuple(row) for row in await books.admin.fetch(WRONG_SQL)]
    assert wrong == []
    for rebuild in (rebuild_payments, rebuild_balances, rebuild_spent):
        async with books.admin.transaction():
            done = await rebuild(books.admin, books.reader)
        assert done.changed == 0, done.table
    if provider is not None:
        await check_provider(books, provider)


async def check_provider(books: Books, provider: ScriptedProvider) -> None:
    """No job is charged twice there, and what the ledger knows of has moved there. An answer that
    was lost is not in the ledger yet, so the other way round holds only in the end."""
    charged = [moved.job_id for moved in provider.moved if moved.kind == "charge"]
    assert len(charged) == len(set(charged)), "a double charge"
    moved = Counter((m.id, m.amount_cents) for m in provider.moved)
    known = await books.admin.fetch(
        "SELECT reference, -amount_cents AS cents FROM billing.posting p"
        " JOIN billing.entry e ON e.id = p.entry_id WHERE ledger_account = $1",
        ledger.CARD,
    )
    entered = Counter((row["reference"], row["cents"]) for row in known)
    assert entered <= moved
    if not await books.admin.fetchval(
        "SELECT EXISTS (SELECT FROM billing.payment"
        " WHERE status IN ('charging', 'action_required', 'declined') OR due_at < 'infinity')"
    ):
        # A dispute may not have been told of yet.
        assert {id for id, _ in moved - entered} <= provider.disputed


async def open_books(billing: Billing, admin_dsn: str) -> Books:
    return Books(billing=billing, admin=await connect(admin_dsn), reader=await connect(admin_dsn))
