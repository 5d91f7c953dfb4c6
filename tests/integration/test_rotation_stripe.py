"""Stripe's API key is rolled with an overlap: what was begun with the former key is finished with
the next one, and whoever was told of the former alone loses nothing."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from msgspec import Struct

from libs.contracts.billing_rpc import Quote, Reserve, Reserved
from libs.contracts.provider_rpc import CheckoutPage, ProviderAway, TopUp
from libs.contracts.scheduler import JobCompleted
from libs.eventlog.record import Context
from services.billing import charges, checkout, handlers, refunds
from services.billing.provider_events import handle_due
from services.billing.reconcile import ON_THE_WAY, reconcile
from tests.integration.stripe_desk import ASKS, Desk, open_desk
from tests.support.jobs import NOON, envelope
from tests.support.sandbox import API_KEY, Sandbox, running_sandbox
from tests.support.stack import Database

NEXT = "sk_test_thenextone"
BOTH = f"{API_KEY},{NEXT}"
DONE = JobCompleted(tokens_processed=1, artifacts_expires_at=NOON)
LATER = timedelta(minutes=20)
"""Longer than what got no answer a few times waits to be asked again."""


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with running_sandbox(tmp_path) as sandbox:
        yield sandbox


@pytest.fixture
async def former(fresh_database: Database, sandbox: Sandbox) -> AsyncIterator[Desk]:
    """Billing that knows the former key."""
    async with open_desk(fresh_database, sandbox) as desk:
        yield desk


@pytest.fixture
async def restarted(fresh_database: Database, sandbox: Sandbox) -> AsyncIterator[Desk]:
    """Billing that was started again, on the same database, with the next one."""
    async with open_desk(fresh_database, sandbox, api_key=NEXT) as desk:
        yield desk


async def taken(sandbox: Sandbox, api_keys: str) -> None:
    """These from now on."""
    assert await sandbox.stop() == 0
    sandbox.api_key = api_keys
    await sandbox.start()


class Job(Struct, frozen=True, kw_only=True):
    """One that was completed and is to be paid by card."""

    id: UUID
    account_id: UUID

    async def status(self, desk: Desk) -> str:
        status: str = await desk.billing.pool.fetchval(
            "SELECT status FROM billing.payment WHERE job_id = $1", self.id
        )
        return status


async def completed(desk: Desk, account_id: UUID) -> Job:
    quote = Quote(
        account_id=account_id,
        surface="jobs",
        job_type="train",
        model_params=1,
        dataset_bytes=1_000,
        tokens=1,
        lora_rank=32,
        priority=False,
    )
    job = Job(id=uuid4(), account_id=account_id)
    reserved = await handlers.reserve(desk.billing, Reserve(job_id=job.id, quote=quote))
    assert isinstance(reserved, Reserved)
    assert reserved.paid_by == "card"
    await handlers.capture_payment(desk.billing, envelope(job.id, account_id, DONE), DONE)
    return job


async def give_back(desk: Desk, job: Job) -> None:
    """As the operator's `refund` does, which asks the provider of nothing itself."""
    async with desk.billing.pool.acquire() as connection:
        begun = await refunds.refund(
            connection,
            job.id,
            None,
            refund_id=uuid4(),
            reason="as agreed",
            context=Context(now=desk.clock.now(), new_id=uuid4),
        )
    assert isinstance(begun, refunds.RefundBegun)


async def refunded(desk: Desk) -> int:
    """How often, in the ledger."""
    count: int = await desk.billing.pool.fetchval(
        "SELECT count(*) FROM billing.entry WHERE kind = 'refund'"
    )
    return count


async def differences(desk: Desk) -> list[str]:
    desk.clock.ahead += ON_THE_WAY + timedelta(minutes=1)
    return await reconcile(desk.billing, desk.provider, desk.clock.now() - timedelta(days=1))


async def test_what_was_begun_with_the_former_key_is_finished_with_the_next_one(
    sandbox: Sandbox, former: Desk, restarted: Desk
) -> None:
    saver, asked, buyer = uuid4(), uuid4(), uuid4()
    await former.saved_card(saver)
    await former.saved_card(asked, ASKS)
    page = await former.top_up_page(buyer, 2_500)
    given_back = await completed(former, saver)
    to_approve = await completed(former, asked)
    await charges.work(former.billing)
    assert await to_approve.status(former) == "action_required"
    await sandbox.fail("drop", when="after", method="POST", path="/v1/payment_intents", calls=9)
    unheard_of = await completed(former, saver)
    await charges.work(former.billing)
    assert await unheard_of.status(former) == "charging"

    await taken(sandbox, BOTH)
    for desk in (former, restarted):
        await desk.pay(await desk.top_up_page(buyer, 500))
    await taken(sandbox, NEXT)

    restarted.clock.ahead = LATER
    await charges.work(restarted.billing)
    await give_back(restarted, given_back)
    await charges.work(restarted.billing)
    await restarted.pay(page)
    (approval,) = await restarted.events("payment_intent.requires_action")
    url = approval["data"]["object"]["next_action"]["redirect_to_url"]["url"]
    await sandbox.press(url, do="approve")
    await restarted.tell(*await restarted.events())

    assert await restarted.balance(buyer) == 3_500
    assert [await job.status(restarted) for job in (unheard_of, to_approve)] == ["charged"] * 2
    assert await refunded(restarted) == 1
    jobs = {str(job.id): 1 for job in (given_back, to_approve, unheard_of)}
    charged = await sandbox.charges_by("job_id")
    assert {job: charged[job] for job in jobs} == jobs, "none twice"
    assert await differences(restarted) == []


async def test_billing_that_knows_a_key_that_was_withdrawn_loses_nothing_until_it_is_told(
    sandbox: Sandbox, former: Desk, restarted: Desk
) -> None:
    saver, buyer = uuid4(), uuid4()
    await former.saved_card(saver)
    given_back = await completed(former, saver)
    await charges.work(former.billing)
    page = await former.top_up_page(buyer, 2_500)
    await former.pay(page)

    await taken(sandbox, NEXT)
    wanted = TopUp(order=former.order(buyer), amount_cents=500)
    assert isinstance(await checkout.top_up(former.billing, wanted), ProviderAway)
    await give_back(former, given_back)
    unpaid = await completed(former, saver)
    await charges.work(former.billing)
    await former.tell(*await restarted.events())  # signed with the other secret, which has stayed
    assert (await unpaid.status(former), await refunded(former)) == ("charging", 0)
    assert await former.balance(buyer) == 2_500, "what an event says itself is entered"

    restarted.clock.ahead = LATER
    await charges.work(restarted.billing)
    assert await handle_due(restarted.cashier) > 0, "what else they said was not forgotten"
    await restarted.tell(*await restarted.events())
    assert await unpaid.status(restarted) == "charged"
    assert await refunded(restarted) == 1
    assert isinstance(await checkout.top_up(restarted.billing, wanted), CheckoutPage)
    assert await differences(restarted) == []
