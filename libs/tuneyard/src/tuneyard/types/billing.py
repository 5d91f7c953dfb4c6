"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime

from msgspec import Struct


class Balance(Struct, frozen=True, kw_only=True):
    """What can be spent, in the smallest unit of `currency`."""

    balance_cents: int
    currency: str


class StorageExtension(Struct, frozen=True, kw_only=True):
    """What was bought: `days` more, until `artifacts_expires_at`."""

    job_id: str
    extension_id: str
    price_cents: int
    currency: str
    days: int
    artifacts_expires_at: datetime
    balance_after_cents: int


class BillingSummary(Struct, frozen=True, kw_only=True):
    """`lifetime_spend_cents` is all that was ever taken, storage extensions among it. What came in
    is that and `balance_cents` (to spend) and `reserved_cents` together.
    """

    currency: str
    lifetime_spend_cents: int
    jobs_charged: int
    storage_extension_cents: int
    storage_extensions: int
    balance_cents: int
    reserved_cents: int


class CardPage(Struct, frozen=True, kw_only=True):
    """Open `checkout_url` in a browser; it takes a card until `expires_at`."""

    checkout_url: str
    session_id: str
    expires_at: datetime


class LedgerPosting(Struct, frozen=True, kw_only=True):
    """Positive: into the ledger account. One of the account's own is named without its id."""

    ledger_account: str
    amount_cents: int


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """One movement of money. `amount_cents` is its effect on the balance, which was
    `balance_after_cents` then; `memo` says in plain words what happened.
    """

    id: str
    kind: str
    created_at: datetime
    job_id: str | None = None
    memo: str
    amount_cents: int
    balance_after_cents: int
    postings: list[LedgerPosting] = []
