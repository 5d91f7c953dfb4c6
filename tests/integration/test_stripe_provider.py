"""The adapter through Stripe's own SDK, against a server that speaks as Stripe does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest
import stripe

from services.billing.provider import (
    ActionRequired,
    BadSignature,
    Charge,
    Charged,
    Customer,
    Declined,
    ProviderKeyTaken,
    ProviderRefused,
    ProviderUnavailable,
    Returning,
)
from services.billing.stripe_pages import read_plans
from services.billing.stripe_provider import API_VERSION, StripeProvider
from tests.integration.stripe_desk import (
    ASKS,
    DECLINES,
    PRICES,
    WORKS,
    Desk,
    open_desk,
    signature,
)
from tests.support.sandbox import WEBHOOK_SECRET, Sandbox, running_sandbox
from tests.support.stack import Database

RETURNING = Returning(success_url="https://a.example/ok", cancel_url="https://a.example/no")


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with running_sandbox(tmp_path) as sandbox:
        yield sandbox


@pytest.fixture
async def desk(fresh_database: Database, sandbox: Sandbox) -> AsyncIterator[Desk]:
    async with open_desk(fresh_database, sandbox) as desk:
        yield desk


async def charge_of(desk: Desk, card: str = WORKS, *, cents: int = 700) -> Charge:
    account_id, job_id = uuid4(), uuid4()
    customer_id, payment_method_id = await desk.saved_card(account_id, card)
    return Charge(
        customer_id=customer_id,
        payment_method_id=payment_method_id,
        account_id=account_id,
        job_id=job_id,
        amount_cents=cents,
        currency="USD",
        description="A fine-tune",
        key=f"{job_id}:1",
    )


def test_the_api_version_is_the_one_that_the_sdk_was_made_for() -> None:
    assert stripe.api_version == API_VERSION


async def test_an_account_is_one_customer_however_often_it_is_made_known(desk: Desk) -> None:
    account_id = uuid4()
    named = [Customer(account_id=account_id, name=f"n{n}", email=None) for n in range(4)]
    made = await asyncio.gather(*(desk.provider.customer(each) for each in named))
    assert len(set(made)) == 1


async def test_a_card_that_works_is_charged_once_for_a_key(desk: Desk) -> None:
    charge = await charge_of(desk)
    first, again = await desk.provider.charge(charge), await desk.provider.charge(charge)
    assert isinstance(first, Charged)
    assert again == first
    assert await desk.sandbox.charges_by("job_id") == {str(charge.job_id): 1}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lost_answer_leads_to_one_charge(desk: Desk, when: str) -> None:
    charge = await charge_of(desk)
    path = "/v1/payment_intents"
    await desk.sandbox.fail("drop", when=when, method="POST", path=path, calls=2)
    assert isinstance(await desk.provider.charge(charge), Charged)
    assert await desk.sandbox.charges_by("job_id") == {str(charge.job_id): 1}


async def test_a_provider_that_stays_away_is_unavailable_and_the_charge_is_made_later(
    desk: Desk,
) -> None:
    charge = await charge_of(desk)
    await desk.sandbox.fail("drop", when="after", path="/v1/payment_intents", calls=9)
    with pytest.raises(ProviderUnavailable):
        await desk.provider.charge(charge)
    await desk.sandbox.heal()
    assert isinstance(await desk.provider.charge(charge), Charged)
    assert await desk.sandbox.charges_by("job_id") == {str(charge.job_id): 1}


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_fault_of_the_providers_means_ask_again(desk: Desk, status: int) -> None:
    charge = await charge_of(desk)
    await desk.sandbox.fail("error", status=status, path="/v1/payment_intents", calls=9)
    with pytest.raises(ProviderUnavailable):
        await desk.provider.charge(charge)


async def test_a_declined_charge_says_why_and_whether_the_card_is_done_for(desk: Desk) -> None:
    charge = await charge_of(desk, DECLINES)
    declined = await desk.provider.charge(charge)
    assert isinstance(declined, Declined)
    assert (declined.code, declined.final) == ("generic_decline", False)
    await desk.sandbox.verdict(charge.payment_method_id, "stolen_card")
    stolen = await desk.provider.charge(msgspec.structs.replace(charge, key="second"))
    assert isinstance(stolen, Declined)
    assert (stolen.code, stolen.final) == ("stolen_card", True)
    assert await desk.sandbox.charges_by("job_id") == {}


async def test_a_card_whose_owner_must_approve_leads_to_the_banks_page(desk: Desk) -> None:
    charge = await charge_of(desk, ASKS)
    asked = await desk.provider.charge(charge)
    assert isinstance(asked, ActionRequired)
    assert asked.url is not None
    assert await desk.provider.charge(charge) == asked
    await desk.sandbox.press(asked.url, do="approve")
    assert await desk.provider.payment(asked.payment_id) == Charged(payment_id=asked.payment_id)
    assert await desk.provider.charge(charge) == Charged(payment_id=asked.payment_id)
    assert await desk.sandbox.charges_by("job_id") == {str(charge.job_id): 1}


async def test_a_charge_that_was_withdrawn_can_not_be_approved_any_more(desk: Desk) -> None:
    asked = await desk.provider.charge(await charge_of(desk, ASKS))
    assert isinstance(asked, ActionRequired)
    assert asked.url is not None
    assert await desk.provider.cancel(asked.payment_id) is None
    assert await desk.provider.cancel(asked.payment_id) is None
    assert (await desk.sandbox.press(asked.url, do="approve")).status_code == 404
    assert await desk.sandbox.movements("charge") == []


async def test_a_charge_that_was_made_is_not_withdrawn(desk: Desk) -> None:
    made = await desk.provider.charge(await charge_of(desk))
    assert isinstance(made, Charged)
    assert await desk.provider.cancel(made.payment_id) == made


async def test_a_card_that_was_taken_away_is_a_decline(desk: Desk) -> None:
    charge = await charge_of(desk)
    await desk.sandbox.stripe().v1.payment_methods.detach_async(charge.payment_method_id)
    declined = await desk.provider.charge(charge)
    assert isinstance(declined, Declined)
    assert (declined.code, declined.final) == ("no_card", True)


@pytest.mark.parametrize("cents", [49, 100_000_000])
async def test_an_amount_that_is_not_taken_is_refused_before_it_is_asked(
    desk: Desk, cents: int
) -> None:
    charge = await charge_of(desk, cents=cents)
    with pytest.raises(ProviderRefused, match="50 to 99999999"):
        await desk.provider.charge(charge)


async def test_a_refund_is_made_once_for_a_key_and_never_beyond_the_charge(desk: Desk) -> None:
    made = await desk.provider.charge(await charge_of(desk))
    assert isinstance(made, Charged)
    first = await desk.provider.refund(made.payment_id, amount_cents=300, key="a")
    assert await desk.provider.refund(made.payment_id, amount_cents=300, key="a") == first
    with pytest.raises(ProviderRefused):
        await desk.provider.refund(made.payment_id, amount_cents=500, key="b")
    assert [moved["amount"] for moved in await desk.sandbox.movements("refund")] == [-300]


async def test_what_moved_is_told_with_its_account_and_job(desk: Desk) -> None:
    charge = await charge_of(desk)
    made = await desk.provider.charge(charge)
    assert isinstance(made, Charged)
    await desk.provider.refund(made.payment_id, amount_cents=300, key="a")
    await desk.pay(await desk.top_up_page(charge.account_id, 2_500))
    other = await desk.sandbox.stripe().v1.payment_intents.create_async(
        {
            "amount": 999,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "return_url": "https://a.example",
        }
    )
    since = desk.clock.now() - timedelta(days=1)
    moved = [movement async for movement in desk.provider.movements(since)]
    assert sorted((m.kind, m.amount_cents) for m in moved) == [
        ("charge", 700),
        ("refund", -300),
        ("top_up", 2_500),
    ]
    assert {m.account_id for m in moved} == {charge.account_id}
    assert {m.job_id for m in moved if m.kind != "top_up"} == {charge.job_id}
    assert other.id not in {m.payment_id for m in moved}


async def test_a_page_is_the_same_again_for_its_key_and_no_other_for_it(desk: Desk) -> None:
    customer_id = await desk.provider.customer(Customer(account_id=uuid4(), name="n", email=None))
    first = await desk.provider.set_up_card(customer_id, RETURNING, key="k")
    again = await desk.provider.set_up_card(customer_id, RETURNING, key="k")
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.session_id, again.expires_at) == (first.session_id, first.expires_at)
    elsewhere = Returning(success_url="https://b.example", cancel_url="https://b.example")
    with pytest.raises(ProviderKeyTaken):
        await desk.provider.set_up_card(customer_id, elsewhere, key="k")


async def test_a_wrong_key_is_refused_without_being_told(sandbox: Sandbox) -> None:
    wrong = "sk_test_" + "wrong" * 8
    provider = StripeProvider(api_key=wrong, webhook_secret="whsec_x", api_base=sandbox.url)
    with pytest.raises(ProviderRefused) as refused:
        await provider.customer(Customer(account_id=uuid4(), name="n", email=None))
    assert wrong not in str(refused.value)
    await provider.close()


async def test_nobody_at_the_address_means_ask_again() -> None:
    provider = StripeProvider(
        api_key="sk_test_x", webhook_secret="whsec_x", api_base="http://127.0.0.1:9"
    )
    with pytest.raises(ProviderUnavailable):
        await provider.customer(Customer(account_id=UUID(int=1), name="n", email=None))
    await provider.close()


EVENT = msgspec.json.encode(
    {"id": "evt_1", "type": "x", "created": 1, "object": "event", "data": {"object": {"id": "a"}}}
)


@pytest.mark.parametrize(
    ("payload", "header"),
    [
        (EVENT, lambda: ""),
        (EVENT, lambda: "t=1,v1=00"),
        (EVENT, lambda: "nonsense"),
        (EVENT, lambda: signature(EVENT, age=301)),
        (EVENT, lambda: signature(EVENT, secret="whsec_other")),
        (EVENT + b" ", lambda: signature(EVENT)),
        (b"[]", lambda: signature(b"[]")),
        (b"no json", lambda: signature(b"no json")),
        (b"\xff", lambda: "t=1,v1=00"),
    ],
)
def test_what_was_not_signed_for_us_now_is_no_event(
    payload: bytes, header: Callable[[], str]
) -> None:
    provider = StripeProvider(api_key="sk_test_x", webhook_secret=WEBHOOK_SECRET)
    with pytest.raises(BadSignature):
        provider.event(payload, header())


def test_a_signed_event_is_taken_as_it_is() -> None:
    provider = StripeProvider(api_key="sk_test_x", webhook_secret=WEBHOOK_SECRET)
    event = provider.event(EVENT, signature(EVENT, age=299))
    assert (event.id, event.type, bytes(event.object)) == ("evt_1", "x", b'{"id":"a"}')


def test_while_the_secret_is_changed_either_signs_and_nothing_else_does() -> None:
    provider = StripeProvider(api_key="sk_test_x", webhook_secret=f" whsec_next,{WEBHOOK_SECRET},")

    by_former = signature(EVENT)
    by_next = signature(EVENT, secret="whsec_next")
    by_both = f"{by_former},{by_next.split(',')[1]}"  # as Stripe signs for a day
    for header in (by_former, by_next, by_both):
        assert provider.event(EVENT, header).id == "evt_1"
    for secret in ("whsec_other", ""):
        with pytest.raises(BadSignature):
            provider.event(EVENT, signature(EVENT, secret=secret))


def test_the_price_list_names_what_the_subscriptions_cost() -> None:
    assert sorted(read_plans(PRICES)) == ["plus", "pro"]
