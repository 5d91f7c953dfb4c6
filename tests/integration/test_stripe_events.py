"""What Stripe tells: signed, in any order, as often as it likes; and what billing makes of it."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec.structs import replace

from libs.bus.rpc import Unanswered
from libs.contracts.billing_rpc import GetAccount
from libs.contracts.gateway_rpc import KeepPlan
from libs.contracts.provider_rpc import (
    AlreadySubscribed,
    AmountNotTaken,
    CheckoutPage,
    EventRefused,
    EventTaken,
    ProviderAway,
    SaveCard,
    Subscribe,
    TakeEvent,
    TopUp,
)
from services.billing import accounts, checkout
from services.billing.provider_events import handle_due, take_event
from tests.integration.stripe_desk import Desk, open_desk, signature
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.stack import Database

CARD = "5555555555554444"


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with running_sandbox(tmp_path) as sandbox:
        yield sandbox


@pytest.fixture
async def desk(fresh_database: Database, sandbox: Sandbox) -> AsyncIterator[Desk]:
    async with open_desk(fresh_database, sandbox) as desk:
        yield desk


async def card_of(desk: Desk, account_id: UUID) -> str | None:
    last4: str | None = await desk.billing.pool.fetchval(
        "SELECT card_last4 FROM billing.account WHERE account_id = $1", account_id
    )
    return last4


async def subscription_of(desk: Desk, account_id: UUID) -> str:
    state = await accounts.get_account(desk.billing, GetAccount(account_id=account_id))
    return state.subscription


async def subscribed(desk: Desk, account_id: UUID) -> dict[str, Any]:
    """To Plus, on the page; Stripe's subscription."""
    wanted = Subscribe(order=desk.order(account_id), plan="plus")
    page = await checkout.subscribe(desk.billing, wanted)
    assert isinstance(page, CheckoutPage)
    await desk.pay(page)
    (found,) = await desk.sandbox.control("GET", "dump/subscription")
    return dict(found)


async def test_a_card_that_was_saved_on_the_page_is_the_accounts(desk: Desk) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id)
    assert await card_of(desk, account_id) == "4242"
    state = await accounts.get_account(desk.billing, GetAccount(account_id=account_id))
    assert state.has_card
    assert set(desk.cards_changed) == {account_id}


async def test_the_card_that_was_saved_last_is_charged_in_whatever_order_it_is_told(
    desk: Desk,
) -> None:
    account_id = uuid4()
    await desk.pay(await desk.card_page(account_id))
    await desk.sandbox.advance(60)
    await desk.pay(await desk.card_page(account_id), CARD)
    for seed in range(6):
        events = await desk.events()
        random.Random(seed).shuffle(events)
        await desk.billing.pool.execute("UPDATE billing.provider_event SET id = id || random()")
        await desk.tell(*events)
        assert await card_of(desk, account_id) == "4444"


async def test_a_card_that_is_taken_away_is_no_longer_the_accounts(desk: Desk) -> None:
    account_id = uuid4()
    _, method = await desk.saved_card(account_id)
    await desk.sandbox.stripe().v1.payment_methods.detach_async(method)
    await desk.tell(*await desk.events())
    assert await card_of(desk, account_id) is None


async def test_a_top_up_is_credited_once_under_eight_events_at_once(desk: Desk) -> None:
    account_id = uuid4()
    await desk.pay(await desk.top_up_page(account_id, 2_500))
    told = await desk.events("checkout.session.completed", "payment_intent.succeeded")
    assert len(told) == 2
    eight = [event | {"id": f"{event['id']}_{n}"} for event in told for n in range(4)]
    await asyncio.gather(*(desk.tell(event) for event in eight), desk.tell(*told))
    assert await desk.balance(account_id) == 2_500
    assert await desk.billing.pool.fetchval("SELECT count(*) FROM billing.entry") == 1


async def test_an_event_that_comes_again_is_stored_and_handled_once(desk: Desk) -> None:
    account_id = uuid4()
    await desk.pay(await desk.top_up_page(account_id, 600))
    told = await desk.events()
    await desk.tell(*told, *told)
    rows = await desk.billing.pool.fetch("SELECT tries, handled_at FROM billing.provider_event")
    assert len(rows) == len(told)
    assert all(row["tries"] == 1 and row["handled_at"] for row in rows)


@pytest.mark.parametrize("how", [{"age": 301}, {"secret": "whsec_other"}])
async def test_a_replay_of_an_old_event_and_a_forged_one_do_nothing(
    desk: Desk, how: dict[str, Any]
) -> None:
    account_id = uuid4()
    await desk.pay(await desk.top_up_page(account_id, 2_500))
    for event in await desk.events():
        payload = msgspec.json.encode(event)
        refused = await take_event(
            desk.cashier, TakeEvent(payload=payload, signature=signature(payload, **how))
        )
        assert refused == EventRefused()
    assert await desk.balance(account_id) == 0
    assert await desk.billing.pool.fetchval("SELECT count(*) FROM billing.provider_event") == 0


async def test_an_event_of_a_type_that_means_nothing_is_stored_and_done_with(desk: Desk) -> None:
    event = {"id": "evt_x", "type": "radar.early_fraud_warning.created", "created": 1}
    payload = msgspec.json.encode(event | {"data": {"object": {"odd": [1]}}})
    taken = await take_event(desk.cashier, TakeEvent(payload=payload, signature=signature(payload)))
    assert taken == EventTaken()
    assert await desk.billing.pool.fetchval("SELECT handled_at FROM billing.provider_event")


async def test_an_event_that_could_not_be_handled_is_handled_when_the_provider_is_back(
    desk: Desk,
) -> None:
    account_id = uuid4()
    await desk.pay(await desk.card_page(account_id))
    await desk.sandbox.fail("error", status=503, path="/v1/", calls=99)
    await desk.tell(*await desk.events("setup_intent.succeeded"))
    assert await card_of(desk, account_id) is None
    await desk.sandbox.heal()
    assert await handle_due(desk.cashier) == 0
    desk.clock.ahead = timedelta(minutes=5)
    assert await handle_due(desk.cashier) == 1
    assert await card_of(desk, account_id) == "4242"
    assert await handle_due(desk.cashier) == 0


async def test_money_of_what_else_the_operator_sells_is_left_alone(desk: Desk) -> None:
    api = desk.sandbox.stripe()
    stranger = await api.v1.customers.create_async({"name": "a stranger"})
    await api.v1.payment_intents.create_async(
        {
            "amount": 999,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "return_url": "https://a.example",
            "customer": stranger.id,
            "metadata": {"purpose": "top_up", "account_id": str(uuid4())},
        }
    )
    await desk.tell(*await desk.events())
    assert await desk.billing.pool.fetchval("SELECT count(*) FROM billing.entry") == 0
    assert not await desk.billing.pool.fetchval(
        "SELECT count(*) FROM billing.provider_event WHERE handled_at IS NULL"
    )


@pytest.mark.parametrize("said", ["", "t", "t=1,v1=ÿ", "t=1,v1=0,v1=é", "t=" + "9" * 30 + ",v1=0"])
async def test_what_is_no_signature_is_refused_like_a_wrong_one(desk: Desk, said: str) -> None:
    refused = await take_event(desk.cashier, TakeEvent(payload=b"{}", signature=said))
    assert refused == EventRefused()


async def test_a_subscription_counts_while_it_is_paid(desk: Desk) -> None:
    account_id = uuid4()
    made = await subscribed(desk, account_id)
    await desk.tell(*await desk.events())
    assert await subscription_of(desk, account_id) == "plus"
    again = Subscribe(order=desk.order(account_id), plan="pro")
    assert await checkout.subscribe(desk.billing, again) == AlreadySubscribed(plan="plus")
    await desk.sandbox.stripe().v1.subscriptions.cancel_async(made["id"])
    events = await desk.events()
    await desk.tell(*reversed(events))
    assert await subscription_of(desk, account_id) == "none"


async def test_a_renewal_that_is_not_paid_ends_what_the_subscription_gives(desk: Desk) -> None:
    account_id = uuid4()
    made = await subscribed(desk, account_id)
    await desk.tell(*await desk.events())
    await desk.sandbox.verdict(made["default_payment_method"], "insufficient_funds")
    await desk.sandbox.renew(made["id"])
    await desk.tell(*await desk.events())
    assert await subscription_of(desk, account_id) == "none"


async def test_the_gateway_is_told_of_a_subscription_also_when_it_was_away_at_first(
    desk: Desk,
) -> None:
    """Until then the event waits; what is told later has a later number."""
    account_id, heard = uuid4(), list[KeepPlan]()
    away = True

    async def gateway(told: KeepPlan) -> None:
        if away:
            raise Unanswered("the gateway is away")
        heard.append(told)

    cashier = replace(desk.cashier, plan_read=gateway)
    desk.cashier = cashier
    made = await subscribed(desk, account_id)
    await desk.tell(*await desk.events("customer.subscription.created"))
    assert (await subscription_of(desk, account_id), heard) == ("plus", [])
    away = False
    desk.clock.ahead = timedelta(minutes=5)
    assert await handle_due(cashier) == 1
    await desk.sandbox.stripe().v1.subscriptions.cancel_async(made["id"])
    await desk.tell(*await desk.events("customer.subscription.deleted"))
    assert [told.subscription for told in heard] == ["plus", "none"]
    assert heard[0].reading < heard[1].reading
    assert {told.account_id for told in heard} == {account_id}


async def test_an_answer_that_was_overtaken_is_not_written(desk: Desk) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id)
    await desk.billing.pool.execute(
        "UPDATE billing.account SET known_read = last_read + 5, card_last4 = 'new!'"
    )
    updated = await desk.events("payment_method.attached")
    await desk.tell(*(event | {"id": f"{event['id']}_later"} for event in updated))
    assert await card_of(desk, account_id) == "new!"


async def test_the_link_to_the_portal_is_made_when_it_is_asked_for_and_kept_for_minutes(
    desk: Desk,
) -> None:
    account_id = uuid4()
    wanted = GetAccount(account_id=account_id)
    assert (await checkout.account_with_portal(desk.billing, wanted)).portal_url is None
    await desk.saved_card(account_id)
    first = (await checkout.account_with_portal(desk.billing, wanted)).portal_url
    assert first is not None
    assert (await desk.sandbox.page(first)).status_code == 200
    assert (await checkout.account_with_portal(desk.billing, wanted)).portal_url == first
    desk.clock.ahead = checkout.PORTAL_LIFE + timedelta(seconds=1)
    later = (await checkout.account_with_portal(desk.billing, wanted)).portal_url
    assert later not in (None, first)


async def test_an_account_is_shown_without_the_link_while_the_provider_is_away(desk: Desk) -> None:
    account_id = uuid4()
    await desk.saved_card(account_id)
    wanted = GetAccount(account_id=account_id)
    await desk.sandbox.fail("slow", seconds=30, path="/v1/billing_portal")
    async with asyncio.timeout(checkout.PORTAL_PATIENCE + 20):
        state = await checkout.account_with_portal(desk.billing, wanted)
    assert (state.has_card, state.portal_url) == (True, None)
    # It would answer now, and is not asked again at once.
    assert (await checkout.account_with_portal(desk.billing, wanted)).portal_url is None


async def test_a_page_of_a_provider_that_is_away_is_asked_for_later(desk: Desk) -> None:
    await desk.sandbox.fail("error", status=503, calls=99)
    wanted = SaveCard(order=desk.order(uuid4(), "k"))
    assert await checkout.save_card(desk.billing, wanted) == ProviderAway()
    await desk.sandbox.heal()
    assert isinstance(await checkout.save_card(desk.billing, wanted), CheckoutPage)


async def test_one_key_is_one_page_for_each_account(desk: Desk) -> None:
    mine, other = uuid4(), uuid4()
    page = await desk.card_page(mine, "k")
    assert not page.replayed
    again = await desk.card_page(mine, "k")
    assert (again.session_id, again.replayed) == (page.session_id, True)
    assert (await desk.card_page(other, "k")).session_id != page.session_id


async def test_pages_asked_for_at_once_are_of_one_customer(desk: Desk) -> None:
    account_id = uuid4()
    await asyncio.gather(*(desk.card_page(account_id) for _ in range(6)))
    assert len(await desk.sandbox.control("GET", "dump/customer")) == 1


@pytest.mark.parametrize("cents", [0, 49, 100_000_000])
async def test_a_top_up_says_what_is_taken(desk: Desk, cents: int) -> None:
    wanted = TopUp(order=desk.order(uuid4()), amount_cents=cents)
    answer = await checkout.top_up(desk.billing, wanted)
    assert answer == AmountNotTaken(minimum_cents=50, maximum_cents=99_999_999, currency="USD")
