"""The ledger for people: what moved, in plain words, and whether a job's files are withheld."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any
from uuid import UUID

from libs.contracts.billing_rpc import (
    GetLedger,
    GetWithheld,
    Ledger,
    LedgerEntry,
    LedgerPosting,
    Withheld,
)
from services.billing import ledger
from services.billing.payments import Billing, load_payment

# An entry's number grows with the account's other entries: behind one is what has a lower number.
PAGE_SQL = """
SELECT e.id, e.kind, e.created_at, e.job_id, e.memo, e.balance_after_cents,
       p.ledger_account, p.amount_cents
FROM (
    SELECT * FROM billing.entry
    WHERE account_id = $1
      AND seq < coalesce((SELECT seq FROM billing.entry WHERE (account_id, id) = ($1, $2)),
                         9223372036854775807)
    ORDER BY seq DESC LIMIT $3
) e JOIN billing.posting p ON p.entry_id = e.id
ORDER BY e.seq DESC, p.ledger_account
"""


async def get_ledger(billing: Billing, request: GetLedger) -> Ledger:
    """One page of an account's entries, newest first."""
    rows = await billing.pool.fetch(
        PAGE_SQL,
        request.account_id,
        request.after.id if request.after else None,
        request.limit + 1,
    )
    entries = [
        _entry(list(group), request.account_id) for _, group in groupby(rows, lambda r: r["id"])
    ]
    return Ledger(
        currency=billing.prices.currency,
        entries=tuple(entries[: request.limit]),
        more=len(entries) > request.limit,
    )


def _entry(rows: list[Any], account_id: UUID) -> LedgerEntry:
    first = rows[0]
    own = f":{account_id}"
    postings = {row["ledger_account"].removesuffix(own): row["amount_cents"] for row in rows}
    return LedgerEntry(
        id=first["id"],
        kind=first["kind"],
        created_at=first["created_at"],
        job_id=first["job_id"],
        memo=words_of(first["kind"], first["memo"], postings),
        amount_cents=postings.get("available", 0),
        balance_after_cents=first["balance_after_cents"],
        postings=tuple(
            LedgerPosting(ledger_account=name, amount_cents=cents)
            for name, cents in postings.items()
        ),
    )


def words_of(kind: str, memo: str, postings: Mapping[str, int]) -> str:
    """What happened, for the account's owner. Pure."""
    cents = max(postings.values())
    match kind:
        case "reserve":
            return f"{cents} cents held for a job; they are taken when it has completed"
        case "capture":
            taken, rest = postings[ledger.REVENUE], postings.get("available", 0)
            back = f", and {rest} cents given back: the job was cancelled" if rest else ""
            return f"{taken} of the cents held were taken for the job{back}"
        case "void":
            return f"{cents} cents given back: the job cost nothing"
        case "extension":
            return f"{cents} cents taken for longer storage of the job's files"
        case "bill":
            return f"{cents} cents owed for the job, to be charged to the card"
        case "charge":
            return f"{cents} cents charged to the card for the job"
        case "refund":
            to = "the card" if ledger.CARD in postings else "the balance"
            return f"{cents} cents given back to {to}: {memo}"
        case "dispute":
            return f"{cents} cents taken back by the card's bank: {memo}"
        case "dispute_closed":
            return f"{cents} cents returned by the card's bank: the dispute was settled"
        case "write_off":
            what = "taken back by the card's bank" if ledger.DISPUTES in postings else "owed"
            return f"{cents} cents that were {what} are asked for no more: {memo}"
        case _:
            return memo


async def get_withheld(billing: Billing, request: GetWithheld) -> Withheld:
    """Whether the card has declined to pay for this job."""
    async with billing.pool.acquire() as connection:
        _, payment = await load_payment(connection, request.job_id)
    waiting = payment.waiting
    if payment.overdue is None:
        return Withheld()
    return Withheld(
        reason=payment.overdue,
        amount_cents=payment.billed_cents,
        currency=payment.currency,
        decline_code=payment.decline_code,
        retry_at=payment.retry_at,
        action_url=waiting.url if waiting and payment.status == "action_required" else None,
    )
