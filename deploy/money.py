"""The operator's commands about money: each is one entry in the ledger, or looks at it."""

import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.billing import billing_of
from deploy.local.program import StackError
from deploy.operator import HERE, Data, Days, connected, installation, say
from deploy.reconcile import differences
from libs.eventlog.connection import Connection
from libs.eventlog.record import Context
from services.billing.accounts import set_credit
from services.billing.decisions import RefundTooMuch
from services.billing.ledger import Overdrawn, balance, grant
from services.billing.provider import ProviderRefused, ProviderUnavailable
from services.billing.refunds import NothingPaid, RefundBegun, refund
from services.billing.write_offs import NothingOverdue, NotYet, PaidAfterAll, Settled, write_off
from services.gateway.access.accounts import account_exists

Cents = Annotated[int, Parameter(validator=Number(gte=1, lte=10**9))]
CentsOrNone = Annotated[int, Parameter(validator=Number(gte=0, lte=10**9))]
Reason = Annotated[str, Parameter(help="Stands in the ledger, which the account's owner reads.")]


async def grant_cents(
    account_id: UUID, cents: Cents, /, *, memo: str = "operator's grant", data: Data = HERE
) -> None:
    """Give an account money to spend, in cents, and print its balance."""
    async with connected(installation(os.environ, data).dsn) as connection:
        await _require(connection, account_id)
        await grant(
            connection,
            account_id=account_id,
            amount_cents=cents,
            entry_id=uuid4(),
            memo=memo,
            now=datetime.now(UTC),
        )
        spendable, _reserved = await balance(connection, account_id)
    say(f"{account_id} can spend {spendable} cents")


async def credit_account(account_id: UUID, cents: CentsOrNone, /, *, data: Data = HERE) -> None:
    """Let an account owe up to so many cents, instead of what it might before; 0: none."""
    async with connected(installation(os.environ, data).dsn) as connection:
        await _require(connection, account_id)
        try:
            await set_credit(connection, account_id, cents)
        except Overdrawn:
            raise StackError(f"{account_id} owes more than {cents} cents already.") from None
        spendable, _reserved = await balance(connection, account_id)
    say(f"{account_id} may owe {cents} cents, and can spend {spendable}")


async def refund_job(
    job_id: UUID, /, *, cents: Cents | None = None, reason: Reason, data: Data = HERE
) -> None:
    """Give back what a job cost, or a part of it, to where it came from: balance or card."""
    context = Context(now=datetime.now(UTC), new_id=uuid4)
    async with connected(installation(os.environ, data).dsn) as connection:
        match await refund(
            connection, job_id, cents, refund_id=uuid4(), reason=reason, context=context
        ):
            case NothingPaid():
                raise StackError(f"Nothing was paid for a job {job_id}.")
            case RefundTooMuch(refundable_cents=left):
                raise StackError(f"There are {left} cents left to give back of job {job_id}.")
            case RefundBegun(amount_cents=amount, to="balance", refund_id=refund_id):
                say(f"gave {amount} cents back to the balance: refund {refund_id}")
            case RefundBegun(amount_cents=amount, refund_id=refund_id):
                say(f"billing gives {amount} cents back to the card: refund {refund_id}")


async def write_off_job(job_id: UUID, /, *, reason: Reason, data: Data = HERE) -> None:
    """Give up what a job's owner still owes for it, or what its lost dispute has cost: the account
    is not paused for it any more."""
    async with billing_of(os.environ, data, now=datetime.now(UTC)) as billing:
        try:
            answer = await write_off(billing, job_id, reason)
        except (ProviderUnavailable, ProviderRefused) as error:
            raise StackError(f"The card provider gave no answer: {error}") from error
        except (OSError, TimeoutError) as error:
            raise StackError(f"PostgreSQL does not answer ({error}).") from error
    match answer:
        case NothingOverdue():
            raise StackError(f"Nothing is overdue of a job {job_id}, or was lost in a dispute.")
        case NotYet(why=why):
            raise StackError(f"Nothing can be given up of job {job_id} now: {why}.")
        case PaidAfterAll():
            say(f"job {job_id} was paid after all: its owner had approved the charge")
        case Settled(amount_cents=amount, debt="charge"):
            say(f"gave up {amount} cents that were owed for job {job_id}")
        case Settled(amount_cents=amount):
            say(f"gave up {amount} cents that the card's bank took back for job {job_id}")


async def reconcile_provider(*, days: Days = 30, data: Data = HERE) -> None:
    """Compare the ledger with the card provider's books; exit 1 when they differ."""
    found = await differences(os.environ, data, days=days, now=datetime.now(UTC))
    for difference in found:
        say(difference)
    if found:
        raise StackError(f"{len(found)} differences: each line says what to do.")
    say(f"ledger and card provider agree on the last {days} days")


async def _require(connection: Connection, account_id: UUID) -> None:
    if not await account_exists(connection, account_id=account_id):
        raise StackError(f"There is no account {account_id}.")


COMMANDS: dict[str, Callable[..., Coroutine[object, object, None]]] = {
    "grant": grant_cents,
    "credit": credit_account,
    "refund": refund_job,
    "write-off": write_off_job,
    "reconcile": reconcile_provider,
}
