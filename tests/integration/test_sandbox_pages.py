"""The sandbox's pages, by plain forms: checkout in its three modes, the portal, the dashboard."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe

from tests.support.sandbox import Sandbox, customer_with, off_session, running_sandbox

WORKS, DECLINED, NO_FUNDS = "4242424242424242", "4000000000000002", "4000000000009995"
FAILS_LATER, ASKS = "4000000000000341", "4000002760003184"
SUCCESS = "https://shop.example/done?session={CHECKOUT_SESSION_ID}"
CANCEL = "https://other.example/no"
HALF_AN_HOUR, DAY = 1_800, 86_400


@pytest.fixture(scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with running_sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
def api(sandbox: Sandbox) -> Any:
    return sandbox.stripe().v1


def returning(customer: str, mode: str, **more: Any) -> dict[str, Any]:
    return {
        "mode": mode,
        "customer": customer,
        "success_url": SUCCESS,
        "cancel_url": CANCEL,
        "payment_method_types": ["card"],
        **more,
    }


def top_up(customer: str, cents: int = 2_500) -> dict[str, Any]:
    data = {"currency": "usd", "unit_amount": cents, "product_data": {"name": "<b>Top-up</b>"}}
    return returning(
        customer,
        "payment",
        line_items=[{"quantity": 1, "price_data": data}],
        payment_intent_data={"metadata": {"purpose": "top_up"}},
        metadata={"account_id": "1"},
    )


async def monthly(api: Any, customer: str) -> dict[str, Any]:
    price = await api.prices.create_async(
        {
            "currency": "usd",
            "unit_amount": 1_900,
            "recurring": {"interval": "month"},
            "product_data": {"name": "Plus"},
            "metadata": {"plan": "plus"},
        }
    )
    return returning(
        customer,
        "subscription",
        line_items=[{"quantity": 1, "price": price.id}],
        subscription_data={"metadata": {"account_id": "1"}},
    )


async def new_customer(api: Any) -> str:
    return str((await api.customers.create_async({"name": "Ann", "email": "a@example.org"})).id)


async def test_a_card_is_saved_on_the_page(sandbox: Sandbox, api: Any) -> None:
    customer = await new_customer(api)
    session = await api.checkout.sessions.create_async(
        returning(customer, "setup", setup_intent_data={"metadata": {"purpose": "card"}})
    )
    assert (session.status, session.payment_status) == ("open", "no_payment_required")

    page = await sandbox.page(session.url)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (
        "form-action 'self' https://shop.example https://other.example"
        in page.headers["content-security-policy"]
    )
    assert "4242 4242 4242 4242" in page.text
    answer = await sandbox.press(session.url, do="pay", card=WORKS)

    assert answer.status_code == 303
    assert answer.headers["location"] == f"https://shop.example/done?session={session.id}"
    done = await api.checkout.sessions.retrieve_async(
        session.id, {"expand": ["setup_intent.payment_method"]}
    )
    assert (done.status, done.url) == ("complete", None)
    assert done.setup_intent.metadata.to_dict() == {"purpose": "card"}
    assert done.setup_intent.payment_method.customer == customer
    assert "has been used" in (await sandbox.page(session.url)).text
    paid = await api.payment_intents.create_async(
        off_session(customer, done.setup_intent.payment_method.id)
    )
    assert paid.status == "succeeded"


@pytest.mark.parametrize("number", [DECLINED, NO_FUNDS])
async def test_a_declined_card_can_be_followed_by_another(
    sandbox: Sandbox, api: Any, number: str
) -> None:
    session = await api.checkout.sessions.create_async(top_up(await new_customer(api)))

    declined = await sandbox.press(session.url, do="pay", card=number)
    assert declined.status_code == 402
    assert "Try another card" in declined.text
    assert "<b>Top-up" not in declined.text, "escaped"
    still = await api.checkout.sessions.retrieve_async(session.id)
    assert (still.status, still.payment_status) == ("open", "unpaid")
    answer = await sandbox.press(session.url, do="pay", card=WORKS)

    assert answer.status_code == 303
    done = await api.checkout.sessions.retrieve_async(
        session.id, {"expand": ["payment_intent", "line_items"]}
    )
    assert (done.payment_status, done.amount_total, done.currency) == ("paid", 2_500, "usd")
    assert done.payment_intent.metadata.to_dict() == {"purpose": "top_up"}
    assert [item.amount_total for item in done.line_items.data] == [2_500]
    assert (await sandbox.press(session.url, do="pay", card=WORKS)).status_code != 303
    charges = await api.charges.list_async({"payment_intent": done.payment_intent.id})
    assert [one.paid for one in charges.data] == [True, False]


async def test_a_card_that_fails_later_is_saved_now(sandbox: Sandbox, api: Any) -> None:
    customer = await new_customer(api)
    session = await api.checkout.sessions.create_async(returning(customer, "setup"))

    answer = await sandbox.press(session.url, do="pay", card=FAILS_LATER)

    assert answer.status_code == 303
    [card] = (await api.payment_methods.list_async({"customer": customer})).data
    with pytest.raises(stripe.CardError):
        await api.payment_intents.create_async(off_session(customer, card.id))


@pytest.mark.parametrize("mode", ["setup", "payment"])
async def test_a_bank_that_asks_is_refused_and_then_approved(
    sandbox: Sandbox, api: Any, mode: str
) -> None:
    customer = await new_customer(api)
    asked = returning(customer, "setup") if mode == "setup" else top_up(customer)
    session = await api.checkout.sessions.create_async(asked)

    first = await sandbox.press(session.url, do="pay", card=ASKS)
    question = first.headers["location"]
    assert (await sandbox.page(question)).status_code == 200
    refused = await sandbox.press(question, do="refuse")
    assert "You refused" in refused.text
    assert (await api.checkout.sessions.retrieve_async(session.id)).status == "open"

    second = await sandbox.press(session.url, do="pay", card=ASKS)
    approved = await sandbox.press(second.headers["location"], do="approve")
    assert approved.headers["location"] == SUCCESS.format(CHECKOUT_SESSION_ID=session.id)
    assert (await api.checkout.sessions.retrieve_async(session.id)).status == "complete"


async def test_who_turns_back_comes_to_the_cancel_address(sandbox: Sandbox, api: Any) -> None:
    session = await api.checkout.sessions.create_async(top_up(await new_customer(api)))

    answer = await sandbox.press(session.url, do="cancel")

    assert (answer.status_code, answer.headers["location"]) == (303, CANCEL)
    assert (await api.checkout.sessions.retrieve_async(session.id)).status == "open"


async def test_a_page_can_be_closed_and_closes_by_itself(sandbox: Sandbox, api: Any) -> None:
    customer = await new_customer(api)
    closed = await api.checkout.sessions.create_async(top_up(customer))
    assert (await api.checkout.sessions.expire_async(closed.id)).status == "expired"
    forgotten = await api.checkout.sessions.create_async(top_up(customer))

    await sandbox.advance(DAY + 60)

    assert (await api.checkout.sessions.retrieve_async(forgotten.id)).status == "expired"
    assert (await sandbox.press(forgotten.url, do="pay", card=WORKS)).status_code != 303
    with pytest.raises(stripe.InvalidRequestError, match="open"):
        await api.checkout.sessions.expire_async(closed.id)
    listed = await api.checkout.sessions.list_async({"customer": customer, "status": "expired"})
    assert [one.id for one in listed.data] == [forgotten.id, closed.id]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"success_url": None}, "success_url"),
        ({"success_url": "done"}, "success_url"),
        ({"success_url": "https://[OCH;e?"}, "success_url"),
        ({"mode": "gift"}, "mode"),
        ({"line_items": None}, "line_items"),
        ({"setup_intent_data": {"metadata": {"a": "b"}}}, "setup_intent_data"),
        ({"expires_at": 1}, "expires_at"),
        ({"color": "red"}, "color"),
    ],
)
async def test_a_wrong_page_is_not_made(api: Any, change: dict[str, Any], param: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        await api.checkout.sessions.create_async(top_up(await new_customer(api)) | change)
    assert error.value.param == param


async def test_a_top_up_has_the_limits_of_a_charge(api: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        await api.checkout.sessions.create_async(top_up(await new_customer(api), 49))
    assert error.value.code == "amount_too_small"


async def test_a_subscription_begins_is_renewed_fails_and_recovers(
    sandbox: Sandbox, api: Any
) -> None:
    customer = await new_customer(api)
    session = await api.checkout.sessions.create_async(await monthly(api, customer))
    assert "$19.00 each month" in (await sandbox.page(session.url)).text
    declined = await sandbox.press(session.url, do="pay", card=DECLINED)
    assert declined.status_code == 402
    assert (await api.subscriptions.list_async({"customer": customer})).data[0].status != "active"
    await sandbox.press(session.url, do="pay", card=WORKS)

    done = await api.checkout.sessions.retrieve_async(
        session.id, {"expand": ["subscription", "invoice"]}
    )
    begun = done.subscription
    assert (begun.status, done.invoice.status) == ("active", "paid")
    assert begun.metadata.to_dict() == {"account_id": "1"}
    item = begun["items"].data[0]
    assert item.price.metadata.to_dict() == {"plan": "plus"}
    assert 28 * DAY <= item.current_period_end - item.current_period_start <= 31 * DAY

    assert (await sandbox.renew(begun.id))["status"] == "active"
    await sandbox.verdict(begun.default_payment_method, "insufficient_funds")
    assert (await sandbox.renew(begun.id))["status"] == "past_due"
    late = await api.subscriptions.retrieve_async(begun.id)
    with pytest.raises(stripe.CardError):
        await api.invoices.pay_async(late.latest_invoice)
    await sandbox.verdict(begun.default_payment_method, "works")
    paid = await api.invoices.pay_async(late.latest_invoice)

    assert (paid.status, paid.amount_paid) == ("paid", 1_900)
    assert (await api.subscriptions.retrieve_async(begun.id)).status == "active"
    moved = [m["amount"] for m in await sandbox.movements() if m["customer"] == customer]
    assert moved == [1_900, 1_900, 1_900]


async def test_a_subscription_ends_now_or_with_its_period(sandbox: Sandbox, api: Any) -> None:
    customer = await new_customer(api)
    ended = []
    for _ in range(2):
        session = await api.checkout.sessions.create_async(await monthly(api, customer))
        await sandbox.press(session.url, do="pay", card=WORKS)
        ended.append((await api.checkout.sessions.retrieve_async(session.id)).subscription)

    assert (await api.subscriptions.cancel_async(ended[0])).status == "canceled"
    later = await api.subscriptions.update_async(ended[1], {"cancel_at_period_end": True})
    assert (later.status, later.cancel_at_period_end) == ("active", True)
    assert [
        one.id for one in (await api.subscriptions.list_async({"customer": customer})).data
    ] == [ended[1]]
    assert (await sandbox.renew(ended[1]))["status"] == "canceled"
    everything = await api.subscriptions.list_async({"customer": customer, "status": "all"})
    assert {one.id for one in everything.data} == set(ended)


async def test_prices_are_found_by_their_lookup_key(api: Any) -> None:
    product = await api.products.create_async({"name": "Pro", "id": "prod_pro"})
    made = await api.prices.create_async(
        {
            "currency": "usd",
            "unit_amount": 4_900,
            "recurring": {"interval": "month"},
            "product": product.id,
            "lookup_key": "pro_4900",
        }
    )

    found = await api.prices.list_async({"lookup_keys": ["pro_4900", "other"], "limit": 1})

    assert [one.id for one in found.data] == [made.id]
    assert (await api.prices.retrieve_async(made.id)).unit_amount_decimal == 4_900
    with pytest.raises(stripe.InvalidRequestError, match="lookup key"):
        await api.prices.create_async(
            {
                "currency": "usd",
                "unit_amount": 1,
                "product": product.id,
                "lookup_key": "pro_4900",
            }
        )


async def test_the_portal_adds_prefers_and_removes_cards(sandbox: Sandbox, api: Any) -> None:
    customer, first = await customer_with(api)
    await api.payment_intents.create_async(off_session(customer, first, description="Job <1>"))
    portal = await api.billing_portal.sessions.create_async(
        {"customer": customer, "return_url": "https://shop.example/me"}
    )

    page = await sandbox.page(portal.url)
    assert "4242" in page.text
    assert "Job &lt;1&gt;" in page.text
    assert 'href="https://shop.example/me"' in page.text
    assert (await sandbox.press(portal.url, do="add", card=DECLINED)).status_code == 402
    assert (await sandbox.press(portal.url, do="add", card="5555555555554444")).status_code == 303
    cards = (await api.payment_methods.list_async({"customer": customer})).data
    assert [card.card.brand for card in cards] == ["mastercard", "visa"]
    default = "invoice_settings.default_payment_method"
    owner = await api.customers.retrieve_async(customer, {"expand": [default]})
    assert owner.invoice_settings.default_payment_method.id == cards[0].id

    await sandbox.press(portal.url, do="prefer", id=first)
    await sandbox.press(portal.url, do="remove", id=cards[0].id)

    owner = await api.customers.retrieve_async(customer)
    assert owner.invoice_settings.default_payment_method == first
    assert [c.id for c in (await api.payment_methods.list_async({"customer": customer})).data] == [
        first
    ]
    _, foreign = await customer_with(api)
    assert (await sandbox.press(portal.url, do="remove", id=foreign)).status_code == 402
    await sandbox.advance(3_601)
    assert (await sandbox.page(portal.url)).status_code == 404


async def test_the_portal_ends_a_subscription_and_pays_what_is_open(
    sandbox: Sandbox, api: Any
) -> None:
    customer = await new_customer(api)
    session = await api.checkout.sessions.create_async(await monthly(api, customer))
    await sandbox.press(session.url, do="pay", card=WORKS)
    id = (await api.checkout.sessions.retrieve_async(session.id)).subscription
    begun = await api.subscriptions.retrieve_async(id)
    await sandbox.verdict(begun.default_payment_method, "expired_card")
    assert (await sandbox.renew(id))["status"] == "past_due"
    portal = await api.billing_portal.sessions.create_async({"customer": customer})

    await sandbox.press(portal.url, do="add", card=WORKS)
    assert (await api.subscriptions.retrieve_async(id)).status == "active"
    await sandbox.press(portal.url, do="end", id=id)
    assert (await api.subscriptions.retrieve_async(id)).cancel_at_period_end
    await sandbox.press(portal.url, do="resume", id=id)
    assert not (await api.subscriptions.retrieve_async(id)).cancel_at_period_end


async def test_the_dashboard_shows_what_happened(sandbox: Sandbox, api: Any) -> None:
    customer, card = await customer_with(api)
    paid = await api.payment_intents.create_async(
        off_session(customer, card, 4_321, metadata={"job_id": "<script>"})
    )
    refund = await api.refunds.create_async({"payment_intent": paid.id})

    page = (await sandbox.page("/")).text

    assert "$43.21" in page
    assert paid.id in page
    assert refund.id in page
    assert "job_id=&lt;script&gt;" in page
    assert "payment_intent.succeeded" in page
