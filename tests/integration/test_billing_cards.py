"""Jobs paid by card on a real PostgreSQL: charged once whatever dies, and nothing is forgotten."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from deploy.rebuild import rebuild_all
from libs.contracts.billing_rpc import (
    GetLedger,
    GetSummary,
    LedgerPlace,
    PaymentRequired,
    Reserved,
    Withheld,
)
from libs.contracts.scheduler import JobCancelled, JobFailed
from services.billing import accounts, charges, handlers, ledger, refunds, statement
from services.billing.decisions import RETRY_AFTER, RefundTooMuch
from services.billing.payments import Owner
from tests.support.card_house import MINUTE, PRICE, House, open_house
from tests.support.jobs import NOON, envelope
from tests.support.scripted_provider import ScriptedProvider
from tests.support.stack import Database
from tests.support.waiting import held_open


@pytest.fixture
async def house(fresh_database: Database) -> AsyncIterator[House]:
    async with open_house(fresh_database) as house:
        yield house


async def test_a_job_is_charged_to_the_card_when_it_has_completed(house: House) -> None:
    job_id = uuid4()
    answer = await house.ask(job_id)
    assert isinstance(answer, Reserved)
    assert (answer.paid_by, answer.balance_after_cents) == ("card", 2_000)
    assert await house.ask(job_id) == answer
    await house.complete(job_id)
    assert await house.owed() == -PRICE

    await charges.work(house.billing)
    assert await house.kinds(job_id) == ["pledged", "billed", "charge_started", "charged"]
    assert (await house.owed(), house.provider.cents_of(job_id)) == (0, PRICE)
    summary = await accounts.get_summary(house.billing, GetSummary(account_id=house.account_id))
    assert (summary.lifetime_spend_cents, summary.jobs_charged) == (PRICE, 1)
    assert summary.balance_cents == 2_000


@pytest.mark.parametrize("changes", [{"surface": "runs"}, {"tokens": 1, "model_params": 1}])
async def test_runs_and_jobs_that_are_too_cheap_for_a_card_are_paid_from_the_balance(
    house: House, changes: dict[str, object]
) -> None:
    answer = await house.ask(uuid4(), **changes)
    assert isinstance(answer, Reserved)
    assert answer.paid_by == "balance"
    assert answer.balance_after_cents == 2_000 - answer.price.price_cents


async def test_a_failed_job_and_a_cheap_part_of_one_cost_nothing(house: House) -> None:
    failed, cancelled, partly = [await house.submit() for _ in range(3)]
    fail = JobFailed(code="internal_error", message="m")
    await handlers.void_payment(house.billing, envelope(failed, house.account_id, fail), fail)
    for job_id, cents in ((cancelled, 49), (partly, 50)):
        event = JobCancelled(tokens_processed=1, charge_cents=cents)
        sent = envelope(job_id, house.account_id, event)
        await handlers.charge_partly(house.billing, sent, event)
    await charges.work(house.billing)
    assert await house.kinds(failed) == ["pledged", "waived"]
    assert await house.kinds(cancelled) == ["pledged", "waived"]
    assert await house.kinds(partly) == ["pledged", "billed", "charge_started", "charged"]
    assert house.provider.cents_of(partly) == 50


async def test_a_pledge_without_a_job_ends_and_is_made_again_when_the_job_comes(
    house: House,
) -> None:
    job_id = await house.submit()
    house.clock.now += timedelta(minutes=11)
    await handlers.void_orphans(house.billing)
    assert await house.kinds(job_id) == ["pledged", "waived"]
    await house.complete(job_id)
    await charges.work(house.billing)
    assert house.provider.cents_of(job_id) == PRICE


async def test_a_lost_answer_is_asked_for_again_under_the_same_key(house: House) -> None:
    house.provider.lose_answers = 3
    job_id = await house.done()
    for _ in range(4):
        await house.later(MINUTE)
    assert len(house.provider.calls) == 4
    assert len({call.key for call in house.provider.calls}) == 1
    assert house.provider.cents_of(job_id) == PRICE
    assert await house.kinds(job_id) == ["pledged", "billed", "charge_started", "charged"]


async def test_a_provider_that_is_away_declines_nothing(house: House) -> None:
    house.provider.unavailable = 5
    job_id = await house.done()
    assert await house.paused() is None
    for _ in range(6):
        await house.later(timedelta(minutes=6))
    assert house.provider.cents_of(job_id) == PRICE


async def test_a_charge_of_which_nothing_was_heard_for_a_day_is_looked_for_first(
    house: House,
) -> None:
    house.provider.lose_answers = 1
    job_id = await house.done()
    house.provider.forgets_keys = True
    await house.later(timedelta(days=2))
    assert len(house.provider.calls) == 1
    assert house.provider.cents_of(job_id) == PRICE
    assert (await house.kinds(job_id))[-1] == "charged"


class Died(BaseException):
    """The process is gone: nothing after this line was done."""


@pytest.mark.parametrize("step", range(1, 17))
async def test_a_worker_that_dies_at_any_commit_or_call_leaves_one_charge(
    house: House, step: int
) -> None:
    """It dies before the ``step``-th of its questions to the database or the provider; or after
    it, when that was the provider."""
    job_id = await house.submit()
    await house.complete(job_id)
    owner, provider = Owner(job_id, house.account_id), house.provider

    class Dying(ScriptedProvider):
        async def charge(self, charge: object) -> object:  # type: ignore[override]
            _count()
            answer = await provider.charge(charge)  # type: ignore[arg-type]
            _count()
            return answer

    left = step

    def _count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Died

    def ticking() -> object:
        _count()
        return house.clock.now

    def counting_id() -> UUID:
        _count()
        return uuid4()

    dying = replace(house.billing, now=ticking, new_id=counting_id, committed=_count)
    with suppress(Died):
        await charges.advance(dying, Dying(now=house.clock.now), owner)
    await charges.work(house.billing)
    assert house.provider.cents_of(job_id) == PRICE
    assert await house.kinds(job_id) == ["pledged", "billed", "charge_started", "charged"]


async def test_sixteen_workers_at_once_charge_each_job_once(house: House) -> None:
    jobs = [await house.submit() for _ in range(20)]
    for job_id in jobs:
        await house.complete(job_id)
    await asyncio.gather(*(charges.work(house.billing) for _ in range(16)))
    owners = [Owner(job_id, house.account_id) for job_id in jobs[:4]]
    await asyncio.gather(
        *(charges.advance(house.billing, house.provider, one) for one in owners * 4)
    )
    assert [house.provider.cents_of(job_id) for job_id in jobs] == [PRICE] * 20
    assert len(house.provider.calls) == 20


async def test_a_declined_charge_pauses_withholds_and_recovers_with_a_new_card(
    house: House,
) -> None:
    await house.save_card("pm_bad", "decline")
    job_id = await house.done()
    assert await house.paused() == "payment_declined"
    assert await house.withheld(job_id) == Withheld(
        reason="payment_declined",
        amount_cents=PRICE,
        decline_code="insufficient_funds",
        retry_at=NOON + RETRY_AFTER[0],
    )
    assert await house.owed() == -PRICE
    for surface in ("jobs", "runs"):
        refused = await house.ask(uuid4(), surface=surface)
        assert refused == PaymentRequired(reason="payment_declined")

    await house.save_card("pm_good")
    await charges.card_changed(house.billing, house.account_id)
    assert await house.paused() == "payment_declined"  # until the card has paid
    await charges.work(house.billing)
    assert (await house.paused(), await house.owed()) == (None, 0)
    assert await house.withheld(job_id) == Withheld()
    assert [call.payment_method_id for call in house.provider.calls] == ["pm_bad", "pm_good"]
    await house.submit()


async def test_a_declined_card_is_tried_on_a_schedule_and_then_no_more(house: House) -> None:
    await house.save_card("pm_bad", "decline")
    job_id = await house.done()
    for wait in RETRY_AFTER:
        await house.later(wait - MINUTE)
        tried = len(house.provider.calls)
        await house.later(MINUTE)
        assert len(house.provider.calls) == tried + 1
    assert (await house.withheld(job_id)).retry_at is None
    await house.later(timedelta(days=365))
    assert len(house.provider.calls) == 1 + len(RETRY_AFTER)
    assert len({call.key for call in house.provider.calls}) == len(house.provider.calls)
    assert (await house.paused(), await house.owed()) == ("payment_declined", -PRICE)

    await house.save_card("pm_good")
    await charges.work(house.billing)
    assert (await house.paused(), await house.owed()) == (None, 0)


async def test_a_retry_that_succeeds_unpauses_by_itself(house: House) -> None:
    await house.save_card("pm_1", "decline")
    await house.done()
    house.provider.behaviour["pm_1"] = "ok"
    await house.later(RETRY_AFTER[0])
    assert (await house.paused(), await house.owed()) == (None, 0)


async def test_an_account_stays_paused_until_the_last_of_its_charges_is_paid(house: House) -> None:
    await house.save_card("pm_bad", "decline")
    jobs = [await house.submit() for _ in range(2)]
    for job_id in jobs:
        await house.complete(job_id)
    await charges.work(house.billing)
    house.provider.behaviour["pm_good"] = "ok"
    await house.save_card("pm_good")
    house.provider.unavailable = 1
    await charges.work(house.billing)
    assert await house.paused() == "payment_declined"
    await house.later(MINUTE)
    assert await house.paused() is None


async def test_a_card_that_is_lost_is_not_tried_again(house: House) -> None:
    await house.save_card("pm_lost", "final")
    job_id = await house.done()
    assert (await house.withheld(job_id)).retry_at is None
    await house.later(timedelta(days=30))
    assert len(house.provider.calls) == 1


async def test_a_job_whose_card_was_removed_waits_for_another(house: House) -> None:
    job_id = await house.submit()
    await house.billing.pool.execute("UPDATE billing.account SET payment_method_id = NULL")
    await house.complete(job_id)
    await charges.work(house.billing)
    assert (await house.withheld(job_id)).decline_code == "no_card"
    await house.save_card("pm_2")
    await charges.work(house.billing)
    assert house.provider.cents_of(job_id) == PRICE


async def test_an_approved_charge_is_found_when_the_provider_tells(house: House) -> None:
    await house.save_card("pm_3ds", "action")
    job_id = await house.done()
    held = await house.withheld(job_id)
    assert (held.reason, held.action_url) == (
        "payment_action_required",
        "https://cards.test/approve",
    )
    await charges.payment_changed(house.billing, job_id, house.account_id)
    assert await house.paused() == "payment_action_required"
    house.provider.approve(f"pi_{job_id}:1")
    for _ in range(3):
        await charges.payment_changed(house.billing, job_id, house.account_id)
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, PRICE)


async def test_an_approval_that_nobody_told_of_is_found_by_the_schedule(house: House) -> None:
    await house.save_card("pm_3ds", "action")
    job_id = await house.done()
    house.provider.approve(f"pi_{job_id}:1")
    await house.later(RETRY_AFTER[0])
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, PRICE)


@pytest.mark.parametrize("approved", [True, False])
async def test_a_new_card_never_pays_what_was_approved_meanwhile(
    house: House, approved: bool
) -> None:
    await house.save_card("pm_3ds", "action")
    job_id = await house.done()
    if approved:
        house.provider.approve(f"pi_{job_id}:1")
    await house.save_card("pm_good")
    await charges.work(house.billing)
    house.provider.approve(f"pi_{job_id}:1")
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, PRICE)


@pytest.mark.parametrize("old_card", ["decline", "final", "action"])
async def test_a_card_saved_while_the_provider_was_away_is_tried_when_the_old_one_has_failed(
    house: House, old_card: str
) -> None:
    """The question with the old card is recorded, and has an outcome before another is asked."""
    await house.save_card("pm_old", old_card)
    job_id = await house.submit()
    await house.complete(job_id)
    house.provider.unavailable = 1
    await charges.work(house.billing)
    await house.save_card("pm_new")
    await house.later(MINUTE)
    assert await house.paused() is not None  # the old card's outcome
    await charges.work(house.billing)
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, PRICE)
    asked = [call.payment_method_id for call in house.provider.calls]
    assert asked == ["pm_old", "pm_old", "pm_new"]
    house.provider.approve(f"pi_{job_id}:1")  # too late: it was given up before
    assert house.provider.cents_of(job_id) == PRICE


async def test_a_card_that_is_being_saved_is_waited_for(house: House) -> None:
    """Else its owner's news finds nothing overdue, and a decline comes after it for ever."""
    job_id = await house.submit()
    await house.billing.pool.execute("UPDATE billing.account SET payment_method_id = NULL")
    await house.complete(job_id)
    async with house.billing.pool.acquire() as saving, held_open(saving):
        await saving.execute("UPDATE billing.account SET payment_method_id = 'pm_2'")
        working = asyncio.create_task(charges.work(house.billing))
        done, _ = await asyncio.wait([working], timeout=0.2)
        assert not done
    await working
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, PRICE)


async def test_a_refund_goes_back_to_the_card_once_and_never_exceeds_the_charge(
    house: House,
) -> None:
    job_id, refund_id = await house.done(), uuid4()
    house.provider.lose_answers = 1
    for _ in range(3):
        assert isinstance(await house.refund(job_id, 400, refund_id), refunds.RefundBegun)
        await house.later(MINUTE)
    assert house.provider.cents_of(job_id) == PRICE - 400
    assert await house.refund(job_id, PRICE - 399) == RefundTooMuch(refundable_cents=PRICE - 400)
    await house.refund(job_id)
    await house.later(MINUTE)
    assert house.provider.cents_of(job_id) == 0
    assert await house.refund(job_id) == RefundTooMuch(refundable_cents=0)
    summary = await accounts.get_summary(house.billing, GetSummary(account_id=house.account_id))
    assert summary.lifetime_spend_cents == 0


async def test_a_refund_of_a_run_goes_back_to_the_balance(house: House) -> None:
    job_id = await house.submit(surface="runs")
    await house.complete(job_id)
    begun = await house.refund(job_id, 100)
    assert isinstance(begun, refunds.RefundBegun)
    assert begun.to == "balance"
    assert await house.sum_of(ledger.available(house.account_id)) == 2_000 - 300 + 100


async def test_refunds_at_once_give_back_no_more_than_was_taken(house: House) -> None:
    job_id = await house.done()

    async def one() -> None:
        while True:
            try:
                await house.refund(job_id, 300)
            except handlers.VersionConflict:
                continue
            return

    await asyncio.gather(*(one() for _ in range(8)))
    await charges.work(house.billing)
    assert house.provider.cents_of(job_id) == PRICE - 900


async def test_a_refund_that_the_provider_refuses_moves_nothing(house: House) -> None:
    job_id = await house.done()
    house.provider.refuse_refunds = True
    await house.refund(job_id)
    await charges.work(house.billing)
    assert (await house.kinds(job_id))[-2:] == ["refund_started", "refund_failed"]
    house.provider.refuse_refunds = False
    await house.refund(job_id)
    await charges.work(house.billing)
    assert house.provider.cents_of(job_id) == 0


async def test_news_of_our_own_refund_before_its_answer_is_the_same_refund(house: House) -> None:
    job_id, refund_id = await house.done(), uuid4()
    owner = Owner(job_id, house.account_id)
    house.provider.lose_answers = 1
    await house.refund(job_id, 400, refund_id)
    await charges.work(house.billing)
    for _ in range(2):
        await refunds.refund_seen(house.billing, owner, f"re_{refund_id}", 400)
    await house.later(MINUTE)
    assert (await house.kinds(job_id)).count("refunded") == 1
    assert await house.sum_of(ledger.REFUNDS) == -400


async def test_a_dispute_pauses_and_is_undone_when_it_is_won(house: House) -> None:
    job_id = await house.done()
    owner = Owner(job_id, house.account_id)
    for _ in range(2):
        await refunds.dispute_opened(house.billing, owner, "dp_1", PRICE, "fraudulent")
    assert await house.paused() == "payment_disputed"
    assert await house.sum_of(ledger.DISPUTES) == -PRICE
    assert await house.withheld(job_id) == Withheld()
    for _ in range(2):
        await refunds.dispute_closed(house.billing, owner, "dp_1", PRICE, won=True)
    await refunds.dispute_opened(house.billing, owner, "dp_1", PRICE, "news that came late")
    assert (await house.paused(), await house.sum_of(ledger.DISPUTES)) == (None, 0)


async def test_a_subscription_includes_priority_in_the_estimate_and_in_the_charge(
    house: House,
) -> None:
    wanted = {"surface": "runs", "priority": True}
    before = await handlers.quote(house.billing, house.quote(**wanted))
    assert before.parts == {"plan": 300, "priority": 200}
    await house.billing.pool.execute("UPDATE billing.account SET subscription = 'plus'")
    estimate = await handlers.quote(house.billing, house.quote(**wanted))
    assert estimate.parts == {"plan": 300, "priority": 0}
    answer = await house.ask(uuid4(), **wanted)
    assert isinstance(answer, Reserved)
    assert answer.price == estimate


async def test_credit_lets_a_balance_go_below_zero_and_no_further(house: House) -> None:
    async with house.billing.pool.acquire() as connection:
        await accounts.set_credit(connection, house.account_id, 500)
    answers = [await house.ask(uuid4(), surface="runs") for _ in range(10)]
    assert sum(isinstance(answer, Reserved) for answer in answers) == 8
    assert await house.sum_of(ledger.available(house.account_id)) == -400
    async with house.billing.pool.acquire() as connection:
        with pytest.raises(ledger.Overdrawn):
            await accounts.set_credit(connection, house.account_id, 300)


async def test_credit_that_was_taken_away_again_leaves_the_balances_as_the_ledger_has_them(
    house: House,
) -> None:
    """An account that never had money: its row of zeros says the same as none (see `rebuild`)."""
    async with house.billing.pool.acquire() as connection:
        for limit_cents in (500, 0):
            await accounts.set_credit(connection, uuid4(), limit_cents)
    changed = {done.table: done.changed for done in await rebuild_all(house.admin_dsn)}
    assert changed["billing.balance"] == 0


async def test_the_ledger_explains_every_cent(house: House) -> None:
    run, job = await house.submit(surface="runs"), await house.done()
    event = JobCancelled(tokens_processed=1, charge_cents=120)
    await handlers.charge_partly(house.billing, envelope(run, house.account_id, event), event)
    await house.refund(job, 85)
    await charges.work(house.billing)

    entries = []
    place: LedgerPlace | None = None
    while True:
        page = await statement.get_ledger(
            house.billing, GetLedger(account_id=house.account_id, limit=2, after=place)
        )
        entries += page.entries
        if not page.more:
            break
        place = LedgerPlace(id=page.entries[-1].id)
    entries.reverse()
    assert [(e.memo, e.amount_cents, e.balance_after_cents) for e in entries] == [
        ("a gift", 2_000, 2_000),
        ("300 cents held for a job; they are taken when it has completed", -300, 1_700),
        ("985 cents owed for the job, to be charged to the card", 0, 1_700),
        ("985 cents charged to the card for the job", 0, 1_700),
        (
            "120 of the cents held were taken for the job, and 180 cents given back: the job was"
            " cancelled",
            180,
            1_880,
        ),
        ("85 cents given back to the card: as agreed", 0, 1_880),
    ]
    assert all(sum(p.amount_cents for p in e.postings) == 0 for e in entries)
    assert entries[1].postings[0].ledger_account == "available"
    strangers = GetLedger(account_id=uuid4(), limit=2, after=place)
    assert (await statement.get_ledger(house.billing, strangers)).entries == ()


async def test_an_operator_gives_a_part_back_with_one_command(house: House) -> None:
    job_id = await house.done()
    for cents, status, said in (
        ("400", 0, "billing gives 400 cents back to the card"),
        ("986", 1, "There are 585 cents left to give back"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deploy.server", "refund", str(job_id)),
            *("--cents", cents, "--reason", "as agreed"),
            env=os.environ | {"TUNEYARD_DATABASE_URL": house.admin_dsn},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert (process.returncode, said in output.decode()) == (status, True), output.decode()
    await charges.work(house.billing)
    assert house.provider.cents_of(job_id) == PRICE - 400
