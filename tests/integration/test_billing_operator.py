"""What an operator does about money: credit, and debts that are given up. By the real commands."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from deploy.local.program import clean_environment
from libs.contracts.billing_rpc import (
    GetLedger,
    GetSummary,
    InsufficientBalance,
    Reserved,
    Withheld,
)
from services.billing import accounts, charges, ledger, refunds, statement, write_offs
from services.billing.decisions import RETRY_AFTER
from services.billing.payments import Owner
from tests.support.card_house import MINUTE, PRICE, House, open_house
from tests.support.stack import Database


@pytest.fixture
async def house(fresh_database: Database) -> AsyncIterator[House]:
    async with open_house(fresh_database) as house:
        yield house


async def operate(
    house: House, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """``tuneyard-server`` as in a container; its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.server", *arguments),
        env=clean_environment()
        | {"TUNEYARD_DATABASE_URL": house.admin_dsn, "TUNEYARD_KEY_PEPPER": "00" * 32}
        | dict(environment or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def give_up(house: House, job_id: UUID) -> tuple[int | None, str]:
    return await operate(house, "write-off", str(job_id), "--reason", "gone")


async def ledger_of(house: House) -> list[tuple[str, str, int]]:
    """Newest first: kind, words, and what is lost of it."""
    page = await statement.get_ledger(
        house.billing, GetLedger(account_id=house.account_id, limit=50)
    )
    return [
        (
            one.kind,
            one.memo,
            sum(p.amount_cents for p in one.postings if p.ledger_account == ledger.WRITTEN_OFF),
        )
        for one in page.entries
    ]


async def test_a_debt_that_no_card_pays_is_given_up_once_and_the_account_goes_on(
    house: House,
) -> None:
    await house.save_card("pm_bad", "decline")
    job_id = await house.done()
    for wait in RETRY_AFTER:
        await house.later(wait)
    assert (await house.paused(), await house.owed()) == ("payment_declined", -PRICE)

    assert await give_up(house, job_id) == (
        0,
        f"gave up 985 cents that were owed for job {job_id}\n",
    )
    assert (await house.paused(), await house.owed()) == (None, 0)
    assert await house.withheld(job_id) == Withheld()
    assert (await ledger_of(house))[0] == (
        *("write_off", f"{PRICE} cents that were owed are asked for no more: gone", -PRICE),
    )
    summary = await accounts.get_summary(house.billing, GetSummary(account_id=house.account_id))
    assert summary.lifetime_spend_cents == 0

    status, said = await give_up(house, job_id)
    assert (status, "Nothing is overdue" in said) == (1, True)
    await house.save_card("pm_good")
    await house.later(timedelta(days=30))
    assert house.provider.cents_of(job_id) == 0
    assert await house.sum_of(ledger.WRITTEN_OFF) == -PRICE


async def test_another_debt_keeps_the_account_paused(house: House) -> None:
    await house.save_card("pm_bad", "decline")
    jobs = [await house.submit() for _ in range(2)]
    for job_id in jobs:
        await house.complete(job_id)
    await charges.work(house.billing)
    assert (await give_up(house, jobs[0]))[0] == 0
    assert (await house.paused(), await house.owed()) == ("payment_declined", -PRICE)


async def test_nothing_is_given_up_that_is_not_owed_or_may_still_be_paid(house: House) -> None:
    paid, running = await house.done(), await house.submit()
    for job_id in (uuid4(), paid, running):
        status, said = await give_up(house, job_id)
        assert (status, "Nothing is overdue" in said) == (1, True)
    await house.complete(running)
    house.provider.unavailable = 1
    await charges.work(house.billing)
    status, said = await give_up(house, running)
    assert (status, "the card is being asked" in said) == (1, True)
    await house.later(MINUTE)
    assert house.provider.cents_of(running) == PRICE


async def test_what_a_lost_dispute_has_cost_is_given_up_and_the_account_goes_on(
    house: House,
) -> None:
    job_id = await house.done()
    owner = Owner(job_id, house.account_id)
    await house.dispute(job_id, "dp_1", 600)
    status, said = await give_up(house, job_id)
    assert (status, "the bank has not decided" in said) == (1, True)
    await refunds.dispute_closed(house.billing, owner, "dp_1", 600, won=False)
    assert await house.paused() == "payment_disputed"

    assert (await give_up(house, job_id))[0] == 0
    assert (await house.paused(), await house.sum_of(ledger.DISPUTES)) == (None, 0)
    words = "600 cents that were taken back by the card's bank are asked for no more: gone"
    assert (await ledger_of(house))[0] == ("write_off", words, -600)
    await house.dispute(job_id, "dp_2", 300)
    assert await house.paused() == "payment_disputed"  # another one is another


async def test_a_charge_that_its_owner_may_approve_is_withdrawn_before_it_is_given_up(
    house: House,
) -> None:
    await house.save_card("pm_3ds", "action")
    job_id = await house.done()
    status, said = await give_up(house, job_id)  # without a provider
    assert (status, "its owner may approve the charge" in said) == (1, True)

    answer = await write_offs.write_off(house.billing, job_id, "gone")
    assert answer == write_offs.Settled(amount_cents=PRICE, debt="charge")
    house.provider.approve(f"pi_{job_id}:1")
    await charges.payment_changed(house.billing, job_id, house.account_id)
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, 0)


async def test_what_was_approved_meanwhile_is_paid_and_not_given_up(house: House) -> None:
    await house.save_card("pm_3ds", "action")
    job_id = await house.done()
    house.provider.approve(f"pi_{job_id}:1")
    assert await write_offs.write_off(house.billing, job_id, "gone") == write_offs.PaidAfterAll()
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, PRICE)
    assert await write_offs.write_off(house.billing, job_id, "gone") == write_offs.NothingOverdue()


async def test_a_death_after_the_withdrawal_leaves_a_charge_that_a_new_card_pays(
    house: House,
) -> None:
    await house.save_card("pm_3ds", "action")
    job_id = await house.done()

    class Died(BaseException):
        pass

    def dies() -> UUID:
        raise Died

    with pytest.raises(Died):
        await write_offs.write_off(replace(house.billing, new_id=dies), job_id, "gone")
    await house.later(RETRY_AFTER[0])
    assert await house.paused() == "payment_declined"
    await house.save_card("pm_good")
    await charges.work(house.billing)
    assert (await house.paused(), house.provider.cents_of(job_id)) == (None, PRICE)


async def test_an_operator_lets_an_account_owe_and_not_less_than_it_does(house: House) -> None:
    made = await operate(house, "account", "create", "Ada")
    ada = UUID(made[1].strip())
    stranger = uuid4()
    assert await operate(house, "credit", str(stranger), "5") == (
        *(1, f"There is no account {stranger}.\n"),
    )
    assert await operate(house, "credit", str(ada), "500") == (
        *(0, f"{ada} may owe 500 cents, and can spend 500\n"),
    )
    run = {"surface": "runs", "account_id": ada}
    assert isinstance(await house.ask(uuid4(), **run), Reserved)  # of 300 cents
    assert isinstance(await house.ask(uuid4(), **run), InsufficientBalance)
    assert await operate(house, "credit", str(ada), "299") == (
        *(1, f"{ada} owes more than 299 cents already.\n"),
    )
    assert await operate(house, "credit", str(ada), "300") == (
        *(0, f"{ada} may owe 300 cents, and can spend 0\n"),
    )
    assert await operate(house, "grant", str(ada), "300") == (0, f"{ada} can spend 300 cents\n")
    assert await operate(house, "credit", str(ada), "0") == (
        *(0, f"{ada} may owe 0 cents, and can spend 0\n"),
    )
