"""Billing on a real PostgreSQL: two-phase payments whose ledger always adds up."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from libs.contracts.billing_rpc import (
    GetBalance,
    InsufficientBalance,
    Quote,
    Reserve,
    Reserved,
    ReservedDifferently,
)
from libs.contracts.scheduler import JobCancelled, JobCompleted, JobFailed
from libs.eventlog.append import append_in
from libs.eventlog.connection import create_pool
from libs.eventlog.record import AlreadyHandled
from services.billing import handlers, ledger
from services.billing.pricing import read_prices
from tests.support.jobs import NOON, Clock, envelope, first_append, submission
from tests.support.stack import Database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def billing(database: Database, clock: Clock) -> AsyncIterator[handlers.Billing]:
    async with create_pool(database.dsn("billing"), size=8) as pool:
        yield handlers.Billing(
            pool=pool,
            prices=read_prices(Path(__file__).parents[2] / "prices.toml"),
            now=lambda: clock.now,
            new_id=uuid4,
            committed=lambda: None,
        )


@pytest.fixture
async def account(billing: handlers.Billing) -> UUID:
    """An account with 1,000 cents."""
    account_id = uuid4()
    async with billing.pool.acquire() as connection:
        await ledger.grant(
            connection,
            account_id=account_id,
            amount_cents=1_000,
            entry_id=uuid4(),
            memo="test",
            now=NOON,
        )
    return account_id


def reservation(account_id: UUID, job_id: UUID, size: int = 1_000_000) -> Reserve:
    """300 cents up to 5 MB, 700 above."""
    return Reserve(
        job_id=job_id,
        quote=Quote(
            account_id=account_id,
            surface="runs",
            job_type="finetune",
            model_params=1,
            dataset_bytes=size,
            tokens=1,
            lora_rank=32,
            priority=False,
        ),
    )


async def amounts(billing: handlers.Billing, account_id: UUID) -> tuple[int, int]:
    """Spendable and reserved; and the ledger's sums, checked to be the same and to add up."""
    answer = await handlers.get_balance(billing, GetBalance(account_id=account_id))
    async with billing.pool.acquire() as connection:
        assert await connection.fetchval("SELECT sum(amount_cents) FROM billing.posting") == 0
        for name, shown in (
            (ledger.available(account_id), answer.balance_cents),
            (ledger.reserved(account_id), answer.reserved_cents),
        ):
            derived = await connection.fetchval(
                "SELECT coalesce(sum(amount_cents), 0) FROM billing.posting"
                " WHERE ledger_account = $1",
                name,
            )
            assert derived == shown
    return answer.balance_cents, answer.reserved_cents


COMPLETED = JobCompleted(tokens_processed=1, artifacts_expires_at=datetime(2026, 4, 1, tzinfo=UTC))
FAILED = JobFailed(code="internal_error", message="m")


async def test_a_reservation_holds_the_price_back(billing: handlers.Billing, account: UUID) -> None:
    reserved = await handlers.reserve(billing, reservation(account, uuid4()))
    assert isinstance(reserved, Reserved)
    assert reserved.balance_after_cents == 700
    assert await amounts(billing, account) == (700, 300)


async def test_reserving_twice_for_one_job_holds_it_once(
    billing: handlers.Billing, account: UUID
) -> None:
    job_id = uuid4()
    answers = await asyncio.gather(
        *(handlers.reserve(billing, reservation(account, job_id)) for _ in range(32))
    )
    assert all(isinstance(answer, Reserved) for answer in answers)
    assert await amounts(billing, account) == (700, 300)


async def test_another_price_under_the_same_job_is_refused(
    billing: handlers.Billing, account: UUID
) -> None:
    job_id = uuid4()
    await handlers.reserve(billing, reservation(account, job_id))
    answer = await handlers.reserve(billing, reservation(account, job_id, size=6_000_000))
    assert answer == ReservedDifferently(amount_cents=300)


async def test_many_reservations_at_once_never_overdraw(
    billing: handlers.Billing, account: UUID
) -> None:
    answers = await asyncio.gather(
        *(handlers.reserve(billing, reservation(account, uuid4())) for _ in range(20))
    )
    assert sum(isinstance(answer, Reserved) for answer in answers) == 3
    assert sum(isinstance(answer, InsufficientBalance) for answer in answers) == 17
    assert await amounts(billing, account) == (100, 900)


async def test_completion_takes_the_price_once(billing: handlers.Billing, account: UUID) -> None:
    job_id = uuid4()
    await handlers.reserve(billing, reservation(account, job_id))
    done = envelope(job_id, account, COMPLETED)
    await handlers.capture_payment(billing, done, COMPLETED)
    with pytest.raises(AlreadyHandled):
        await handlers.capture_payment(billing, done, COMPLETED)
    await handlers.capture_payment(billing, envelope(job_id, account, COMPLETED), COMPLETED)
    assert await amounts(billing, account) == (700, 0)


async def test_completion_before_the_last_step_takes_the_part_that_was_needed(
    billing: handlers.Billing, account: UUID
) -> None:
    job_id, event = uuid4(), msgspec.structs.replace(COMPLETED, charge_cents=120)
    await handlers.reserve(billing, reservation(account, job_id))
    await handlers.capture_payment(billing, envelope(job_id, account, event), event)
    assert await amounts(billing, account) == (880, 0)
    nothing, unpaid = uuid4(), msgspec.structs.replace(COMPLETED, charge_cents=0)
    await handlers.reserve(billing, reservation(account, nothing))
    await handlers.capture_payment(billing, envelope(nothing, account, unpaid), unpaid)
    assert await amounts(billing, account) == (880, 0)


async def test_failure_gives_everything_back(billing: handlers.Billing, account: UUID) -> None:
    job_id = uuid4()
    await handlers.reserve(billing, reservation(account, job_id))
    await handlers.void_payment(billing, envelope(job_id, account, FAILED), FAILED)
    assert await amounts(billing, account) == (1_000, 0)


async def test_cancellation_takes_the_part_that_was_done(
    billing: handlers.Billing, account: UUID
) -> None:
    job_id, event = uuid4(), JobCancelled(tokens_processed=5, charge_cents=120)
    await handlers.reserve(billing, reservation(account, job_id))
    await handlers.charge_partly(billing, envelope(job_id, account, event), event)
    assert await amounts(billing, account) == (880, 0)


async def test_a_reservation_without_a_job_is_given_back_after_ten_minutes(
    billing: handlers.Billing, account: UUID, clock: Clock
) -> None:
    orphan, owned = uuid4(), uuid4()
    await handlers.reserve(billing, reservation(account, orphan))
    await handlers.reserve(billing, reservation(account, owned))
    async with billing.pool.acquire() as connection:
        await append_in(connection, first_append(owned, account, submission())[0])

    clock.now = NOON + timedelta(minutes=9)
    await handlers.void_orphans(billing)
    assert await amounts(billing, account) == (400, 600)

    clock.now = NOON + timedelta(minutes=11)
    await handlers.void_orphans(billing)
    assert await amounts(billing, account) == (700, 300)


async def test_a_job_that_comes_after_the_sweep_is_paid_for(
    billing: handlers.Billing, account: UUID, clock: Clock
) -> None:
    job_id, event = uuid4(), submission(price_cents=300)
    await handlers.reserve(billing, reservation(account, job_id))
    clock.now = NOON + timedelta(minutes=11)
    await handlers.void_orphans(billing)
    await handlers.restore_payment(billing, envelope(job_id, account, event), event)
    assert await amounts(billing, account) == (700, 300)


async def test_a_job_that_the_sweep_overlooked_is_paid_for_at_its_end(
    billing: handlers.Billing, account: UUID, clock: Clock
) -> None:
    job_id = uuid4()
    await handlers.reserve(billing, reservation(account, job_id))
    clock.now = NOON + timedelta(minutes=11)
    await handlers.void_orphans(billing)
    await handlers.capture_payment(billing, envelope(job_id, account, COMPLETED), COMPLETED)
    assert await amounts(billing, account) == (700, 0)


async def test_reservations_and_settlements_of_one_account_do_not_wait_for_each_other_for_ever(
    billing: handlers.Billing, account: UUID
) -> None:
    async def one(_: int) -> None:
        job_id = uuid4()
        await handlers.reserve(billing, reservation(account, job_id))
        await handlers.void_payment(billing, envelope(job_id, account, FAILED), FAILED)

    await asyncio.gather(*(one(n) for n in range(64)))
    assert await amounts(billing, account) == (1_000, 0)


async def test_a_submission_that_is_handled_after_the_jobs_end_holds_nothing_back_again(
    billing: handlers.Billing, account: UUID
) -> None:
    job_id, event = uuid4(), submission(price_cents=300)
    await handlers.reserve(billing, reservation(account, job_id))
    await handlers.void_payment(billing, envelope(job_id, account, FAILED), FAILED)

    await handlers.restore_payment(billing, envelope(job_id, account, event), event)
    await handlers.reserve(billing, reservation(account, job_id))
    assert await amounts(billing, account) == (1_000, 0)


@pytest.mark.parametrize(
    ("end", "left"), [(FAILED, 1_000), (JobCancelled(tokens_processed=5, charge_cents=120), 880)]
)
async def test_a_swept_jobs_end_that_overtakes_its_submission_holds_nothing_for_ever(
    billing: handlers.Billing,
    account: UUID,
    clock: Clock,
    end: JobFailed | JobCancelled,
    left: int,
) -> None:
    job_id, event = uuid4(), submission(price_cents=300)
    await handlers.reserve(billing, reservation(account, job_id))
    clock.now = NOON + timedelta(minutes=11)
    await handlers.void_orphans(billing)
    if isinstance(end, JobFailed):
        await handlers.void_payment(billing, envelope(job_id, account, end), end)
    else:
        await handlers.charge_partly(billing, envelope(job_id, account, end), end)
    await handlers.restore_payment(billing, envelope(job_id, account, event), event)
    assert await amounts(billing, account) == (left, 0)


async def test_an_unbalanced_entry_is_refused_by_the_database(billing: handlers.Billing) -> None:
    entry = ledger.Entry(
        id=uuid4(),
        kind="grant",
        account_id=uuid4(),
        job_id=None,
        memo="test",
        created_at=NOON,
        postings={ledger.FUNDING: -5, ledger.REVENUE: 6},
    )
    async with billing.pool.acquire() as connection:
        with pytest.raises(Exception, match="not balanced"):
            async with connection.transaction():
                await ledger.enter(connection, entry)
