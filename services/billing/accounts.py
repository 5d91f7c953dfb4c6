"""What billing knows of an account: how it stands, and what it has spent."""

from uuid import UUID

import asyncpg
from msgspec import Struct

from libs.contracts.base import Cents
from libs.contracts.billing_rpc import (
    AccountState,
    BillingSummary,
    CardSetup,
    GetAccount,
    GetSummary,
    NoCardProvider,
    SetupCard,
    Subscription,
)
from libs.eventlog.connection import Connection
from services.billing import ledger
from services.billing.decisions import SavedCard
from services.billing.payments import Billing

# An account may be paused by an operator, and is by each payment that is overdue or disputed.
STATE_SQL = """
SELECT coalesce(a.subscription, 'none') AS subscription,
       coalesce(a.paused_reason, (
           SELECT p.hold FROM billing.payment p WHERE p.account_id = w.id AND p.hold <> ''
           ORDER BY p.hold LIMIT 1)) AS paused_reason,
       coalesce(a.has_card, false) AS has_card, a.portal_url, a.customer_id, a.payment_method_id
FROM (VALUES ($1::uuid)) AS w (id) LEFT JOIN billing.account a ON a.account_id = w.id
"""
# Whoever saves another card waits until what was decided with this one is committed.
CARD_SQL = """
SELECT customer_id, payment_method_id FROM billing.account WHERE account_id = $1 FOR SHARE
"""
TERMS_SQL = """
INSERT INTO billing.account (account_id, credit_limit_cents) VALUES ($1, $2)
ON CONFLICT (account_id) DO UPDATE SET credit_limit_cents = excluded.credit_limit_cents
"""
CREDIT_SQL = """
INSERT INTO billing.balance (ledger_account, amount_cents, credit_cents) VALUES ($1, 0, $2)
ON CONFLICT (ledger_account) DO UPDATE SET credit_cents = excluded.credit_cents
"""


class Account(Struct, frozen=True, kw_only=True):
    """What decides who pays, and whether anything may be bought."""

    subscription: Subscription
    paused_reason: str | None
    has_card: bool
    portal_url: str | None
    customer_id: str | None
    payment_method_id: str | None

    @property
    def card(self) -> SavedCard | None:
        if self.customer_id is None or self.payment_method_id is None:
            return None
        return SavedCard(customer_id=self.customer_id, payment_method_id=self.payment_method_id)


async def load_account(connection: Connection, account_id: UUID) -> Account:
    """An account of which nothing was recorded has no subscription, no card, and may do all."""
    row = await connection.fetchrow(STATE_SQL, account_id)
    assert row is not None  # the left side of the join is always there
    return Account(**row)


async def hold_card(connection: Connection, account_id: UUID) -> SavedCard | None:
    """The saved card, which stays so until the caller's transaction ends: another one that is saved
    meanwhile finds what was decided with this one (`charges.card_changed`), so none is missed.

    It is locked before balances are, everywhere.
    """
    row = await connection.fetchrow(CARD_SQL, account_id)
    if row is None or row["customer_id"] is None or row["payment_method_id"] is None:
        return None
    return SavedCard(**row)


async def get_account(billing: Billing, request: GetAccount) -> AccountState:
    async with billing.pool.acquire() as connection:
        account = await load_account(connection, request.account_id)
    return AccountState(
        subscription=account.subscription,
        paused=account.paused_reason is not None,
        paused_reason=account.paused_reason,
        has_card=account.has_card,
        portal_url=account.portal_url,
    )


async def set_credit(connection: Connection, account_id: UUID, limit_cents: Cents) -> None:
    """How far below zero the balance may go. Raises ledger.Overdrawn when it is lower already."""
    try:
        async with connection.transaction():
            await connection.execute(TERMS_SQL, account_id, limit_cents)
            await connection.execute(CREDIT_SQL, ledger.available(account_id), limit_cents)
    except asyncpg.CheckViolationError as error:
        raise ledger.Overdrawn("credit limit") from error


async def get_summary(billing: Billing, request: GetSummary) -> BillingSummary:
    async with billing.pool.acquire() as connection:
        sums = await ledger.sums(connection, request.account_id)
    return BillingSummary(
        currency=billing.prices.currency,
        lifetime_spend_cents=sums.spent,
        jobs_charged=sums.charges,
        storage_extension_cents=sums.extended,
        storage_extensions=sums.extensions,
        balance_cents=sums.available,
        reserved_cents=sums.reserved,
    )


async def set_up_card(_billing: Billing, _request: SetupCard) -> CardSetup | NoCardProvider:
    """A page to save a card on, of the card provider; this platform is connected to none."""
    return NoCardProvider()
