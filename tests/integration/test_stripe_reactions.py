"""Approvals, refunds and disputes at Stripe, and what they do to payments and balances."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from libs.contracts.billing_rpc import GetAccount, Quote, Reserve, Reserved
from libs.contracts.provider_rpc import CheckoutPage, Subscribe
from libs.contracts.scheduler import JobCompleted
from services.billing import accounts, charges, checkout, handlers
from services.billing.provider_events import handle_due
from services.billing.reconcile import ON_THE_WAY, reconcile
from tests.integration.stripe_desk import ASKS, DECLINES, WORKS, Desk, open_desk
from tests.support.jobs import NOON, envelope
from tests.support.sandbox import running_sandbox
from tests.support.stack import Database

DONE = JobCompleted(tokens_processed=1, artifacts_expires_at=NOON)


@pytest.fixture
async def desk(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with (
        running_sandbox(tmp_path) as sandbox,
        open_desk(fresh_database, sandbox) as desk,
    ):
        yield desk


async def job_done(desk: Desk, account_id: UUID) -> tuple[UUID, int]:
    """A job that the saved card has pledged is completed, and charged; its id and price."""
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
    job_id = uuid4()
    reserved = await handlers.reserve(desk.billing, Reserve(job_id=job_id, quote=quote))
    assert isinstance(reserved, Reserved)
    assert reserved.paid_by == "card"
    await handlers.capture_payment(desk.billing, envelope(job_id, account_id, DONE), DONE)
    await charges.work(desk.billing)
    return job_id, reserved.price.price_cents


async def status_of(desk: Desk, job_id: UUID) -> str:
    status: str = await desk.billing.pool.fetchval(
        "SELECT status FROM billing.payment WHERE job_id = $1", job_id
    )
    return status


async def paused(desk: Desk, account_id: UUID) -> str | None:
    state = await accounts.get_account(desk.billing, GetAccount(account_id=account_id))
    return state.paused_reason


async def agree(desk: Desk) -> list[str]:
    """What the reconciler has to say when everything has arrived."""
    desk.clock.ahead += ON_THE_WAY + timedelta(minutes=1)
    return await reconcile(desk.billing, desk.provider, desk.clock.now() - timedelta(days=1))


async def paid_by(desk: Desk) -> str:
    (event,) = await desk.events("payment_intent.succeeded")
    return str(event["data"]["object"]["id"])


async def test_a_jobs_charge_is_entered_once_whoever_tells_of_it(desk: Desk) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id)
    job_id, _ = await job_done(desk, account_id)
    assert await status_of(desk, job_id) == "charged"
    await desk.tell(*await desk.events())
    assert await desk.sandbox.charges_by("job_id") == {str(job_id): 1}
    assert await agree(desk) == []


async def test_a_charge_that_its_owner_approves_is_paid_when_stripe_says_so(desk: Desk) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id, ASKS)
    job_id, _ = await job_done(desk, account_id)
    assert await status_of(desk, job_id) == "action_required"
    (asked,) = await desk.events("payment_intent.requires_action")
    page = asked["data"]["object"]["next_action"]["redirect_to_url"]["url"]
    await desk.sandbox.press(page, do="approve")
    await desk.tell(*await desk.events())
    assert (await status_of(desk, job_id), await paused(desk, account_id)) == ("charged", None)
    assert await agree(desk) == []


async def test_a_declined_account_goes_on_as_soon_as_a_card_that_works_is_saved(
    desk: Desk,
) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id, DECLINES)
    job_id, _ = await job_done(desk, account_id)
    assert await paused(desk, account_id) == "payment_declined"
    await desk.sandbox.advance(5)
    await desk.saved_card(account_id, WORKS)
    await charges.work(desk.billing)
    assert (await status_of(desk, job_id), await paused(desk, account_id)) == ("charged", None)
    assert await desk.sandbox.charges_by("job_id") == {str(job_id): 1}
    assert await agree(desk) == []


async def test_a_charge_that_waits_for_approval_can_not_be_paid_beside_that_of_a_new_card(
    desk: Desk,
) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id, ASKS)
    job_id, _ = await job_done(desk, account_id)
    (asked,) = await desk.events("payment_intent.requires_action")
    page = asked["data"]["object"]["next_action"]["redirect_to_url"]["url"]
    await desk.sandbox.advance(5)
    await desk.saved_card(account_id, WORKS)
    await charges.work(desk.billing)
    await desk.sandbox.press(page, do="approve")
    await desk.tell(*await desk.events())
    assert (await status_of(desk, job_id), await paused(desk, account_id)) == ("charged", None)
    assert await desk.sandbox.charges_by("job_id") == {str(job_id): 1}
    assert await agree(desk) == []


async def test_refunds_and_disputes_of_what_is_not_in_the_ledger_are_left_alone(
    desk: Desk,
) -> None:
    """A subscription's month, which Stripe's own reports tell, and what else the operator sells."""
    wanted = Subscribe(order=desk.order(uuid4()), plan="plus")
    page = await checkout.subscribe(desk.billing, wanted)
    assert isinstance(page, CheckoutPage)
    await desk.pay(page)
    api, month = desk.sandbox.stripe(), await paid_by(desk)
    await api.v1.refunds.create_async({"payment_intent": month, "amount": 30})
    await desk.sandbox.close_dispute((await desk.sandbox.dispute(month))["id"], won=False)
    await desk.tell(*await desk.events())
    waiting = "SELECT type, problem FROM billing.provider_event WHERE handled_at IS NULL"
    assert await desk.billing.pool.fetch(waiting) == []
    assert await desk.billing.pool.fetchval("SELECT count(*) FROM billing.entry") == 0
    assert await agree(desk) == []


async def test_a_jobs_refund_in_stripes_dashboard_is_entered_once(desk: Desk) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id)
    await job_done(desk, account_id)
    api = desk.sandbox.stripe()
    await api.v1.refunds.create_async({"payment_intent": await paid_by(desk), "amount": 30})
    told = await desk.events()
    await desk.tell(*told, *told)
    assert await agree(desk) == []
    assert (
        await desk.billing.pool.fetchval("SELECT count(*) FROM billing.entry WHERE kind = 'refund'")
        == 1
    )


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("won", [True, False])
async def test_a_dispute_pauses_the_account_until_it_is_won_in_whatever_order_it_is_told(
    desk: Desk, *, won: bool, order: int
) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id)
    await job_done(desk, account_id)
    dispute = await desk.sandbox.dispute(await paid_by(desk))
    if order == 1:
        await desk.tell(*await desk.events())
        assert await paused(desk, account_id) == "payment_disputed"
    await desk.sandbox.close_dispute(dispute["id"], won=won)
    await desk.tell(*(await desk.events())[::order])
    assert await paused(desk, account_id) == (None if won else "payment_disputed")
    assert await agree(desk) == []


async def test_a_refunded_top_up_leaves_the_balance(desk: Desk) -> None:
    account_id = uuid4()
    await desk.pay(await desk.top_up_page(account_id, 2_500))
    api = desk.sandbox.stripe()
    await api.v1.refunds.create_async({"payment_intent": await paid_by(desk), "amount": 700})
    told = await desk.events()
    await desk.tell(*told, *told)
    assert await desk.balance(account_id) == 1_800
    assert await agree(desk) == []


async def test_a_refund_that_is_told_before_its_top_up_waits_for_it(desk: Desk) -> None:
    account_id = uuid4()
    await desk.pay(await desk.top_up_page(account_id, 2_500))
    api = desk.sandbox.stripe()
    await api.v1.refunds.create_async({"payment_intent": await paid_by(desk), "amount": 700})
    await desk.tell(*reversed(await desk.events()))
    assert await desk.balance(account_id) == 2_500
    desk.clock.ahead = timedelta(minutes=5)
    assert await handle_due(desk.cashier) == 1
    assert await desk.balance(account_id) == 1_800


async def test_a_refund_of_a_top_up_that_was_spent_waits_for_a_balance(desk: Desk) -> None:
    account_id = uuid4()
    await desk.pay(await desk.top_up_page(account_id, 600))
    await desk.tell(*await desk.events())
    quote = Quote(
        account_id=account_id,
        surface="runs",
        job_type="finetune",
        model_params=1,
        dataset_bytes=1_000,
        tokens=1,
        lora_rank=32,
        priority=False,
    )
    await handlers.reserve(desk.billing, Reserve(job_id=uuid4(), quote=quote))
    left = await desk.balance(account_id)
    api = desk.sandbox.stripe()
    await api.v1.refunds.create_async({"payment_intent": await paid_by(desk)})
    await desk.tell(*await desk.events())
    assert await desk.balance(account_id) == left
    (difference,) = await agree(desk)
    assert "-600 cents, the ledger has no entry" in difference
    await desk.pay(await desk.top_up_page(account_id, 1_000))
    await desk.tell(*await desk.events())
    desk.clock.ahead += timedelta(hours=1)
    await handle_due(desk.cashier)
    assert await desk.balance(account_id) == left + 1_000 - 600


async def test_a_disputed_top_up_leaves_the_balance_and_comes_back_when_it_is_won(
    desk: Desk,
) -> None:
    account_id = uuid4()
    await desk.pay(await desk.top_up_page(account_id, 2_500))
    dispute = await desk.sandbox.dispute(await paid_by(desk))
    await desk.tell(*await desk.events())
    assert await desk.balance(account_id) == 0
    assert await agree(desk) == []
    await desk.sandbox.close_dispute(dispute["id"], won=True)
    told = await desk.events()
    await desk.tell(*told, *told)
    assert await desk.balance(account_id) == 2_500
    assert await agree(desk) == []
