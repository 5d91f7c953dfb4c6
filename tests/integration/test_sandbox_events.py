"""The sandbox's events: signed, sent until they arrive, and as badly as a test asks for."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from deploy.local.sandbox.events import signature
from tests.support.sandbox import (
    WEBHOOK_SECRET,
    Endpoint,
    Sandbox,
    customer_with,
    endpoint,
    off_session,
    running_sandbox,
)

DELAY = 2.0  # seconds
PAID = ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]


@pytest.fixture
async def hook() -> AsyncIterator[Endpoint]:
    async with endpoint() as receiving:
        yield receiving


@pytest.fixture
async def sandbox(hook: Endpoint, tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with running_sandbox(tmp_path, webhook_url=hook.url) as running:
        yield running


@pytest.fixture
def api(sandbox: Sandbox) -> Any:
    return sandbox.stripe().v1


async def test_a_payments_events_are_signed_and_tell_all(
    sandbox: Sandbox, hook: Endpoint, api: Any
) -> None:
    customer, card = await customer_with(api)
    paid = await api.payment_intents.create_async(
        off_session(customer, card, metadata={"job_id": "j"}), {"idempotency_key": "k"}
    )
    await api.refunds.create_async({"payment_intent": paid.id, "amount": 100})
    second = await api.payment_intents.create_async(off_session(customer, card))
    opened = await sandbox.dispute(second.id)
    await sandbox.close_dispute(opened["id"], won=False)
    await api.payment_methods.detach_async(card)
    await sandbox.quiet()

    assert hook.types() == [
        "customer.created",
        "payment_method.attached",
        *PAID,
        "refund.created",
        "charge.refunded",
        *PAID,
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "payment_method.detached",
    ]
    told = next(event for event in hook.events if event.type == "payment_intent.succeeded")
    assert told.request is not None
    assert told.request.idempotency_key == "k"
    assert told.data.object["metadata"].to_dict() == {"job_id": "j"}
    assert '"_number"' not in str(hook.events), "what is the sandbox's own stays there"
    listed = await api.events.list_async({"types": ["charge.refunded", "customer.created"]})
    assert [event.type for event in listed.data] == ["charge.refunded", "customer.created"]
    assert (await api.events.retrieve_async(told.id)).data.object["id"] == paid.id


async def test_pages_and_subscriptions_have_their_events(
    sandbox: Sandbox, hook: Endpoint, api: Any
) -> None:
    customer = (await api.customers.create_async({})).id
    data = {
        "currency": "usd",
        "unit_amount": 900,
        "recurring": {"interval": "month"},
        "product_data": {"name": "Plus"},
    }
    session = await api.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "customer": customer,
            "success_url": "https://shop.example/",
            "line_items": [{"price_data": data, "quantity": 1}],
        }
    )
    await sandbox.press(session.url, do="pay", card="4242424242424242")
    id = (await api.checkout.sessions.retrieve_async(session.id)).subscription
    await sandbox.quiet()
    assert hook.types()[-5:] == [
        "payment_intent.succeeded",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.created",
        "checkout.session.completed",
    ]

    card = (await api.subscriptions.retrieve_async(id)).default_payment_method
    await sandbox.verdict(card, "insufficient_funds")
    await sandbox.renew(id)
    await api.subscriptions.cancel_async(id)
    await sandbox.quiet()
    assert hook.types()[-6:] == [
        "charge.failed",
        "payment_intent.payment_failed",
        "invoice.payment_failed",
        "customer.subscription.updated",
        "invoice.voided",
        "customer.subscription.deleted",
    ]


async def test_setups_questions_and_forgotten_pages_have_theirs(
    sandbox: Sandbox, hook: Endpoint, api: Any
) -> None:
    customer = (await api.customers.create_async({})).id
    asked = {
        "mode": "setup",
        "customer": customer,
        "currency": "usd",
        "success_url": "https://shop.example/",
    }
    session = await api.checkout.sessions.create_async(asked)
    await sandbox.press(session.url, do="pay", card="4000002760003184")
    forgotten = await api.checkout.sessions.create_async(asked)
    await api.checkout.sessions.expire_async(forgotten.id)
    intent = await api.setup_intents.retrieve_async(session.setup_intent)
    await sandbox.press(intent.next_action.redirect_to_url.url, do="approve")
    [card] = (await api.payment_methods.list_async({"customer": customer})).data
    await api.payment_intents.create_async(
        off_session(customer, card.id, off_session=None, return_url="https://shop.example/")
    )
    await sandbox.quiet()

    assert [kind for kind in hook.types() if not kind.endswith("created")] == [
        "setup_intent.requires_action",
        "checkout.session.expired",
        "payment_method.attached",
        "setup_intent.succeeded",
        "checkout.session.completed",
        "payment_intent.requires_action",
    ]


async def test_an_event_is_sent_again_until_it_is_taken(
    sandbox: Sandbox, hook: Endpoint, api: Any
) -> None:
    hook.refusals = 2

    await api.customers.create_async({})
    await sandbox.quiet()

    assert hook.types() == ["customer.created"]
    await sandbox.control("POST", f"resend/{hook.events[0].id}")
    await sandbox.quiet()
    assert {event.id for event in hook.events} == {hook.events[0].id}
    assert len(hook.events) == 2


async def test_events_can_be_held_back_turned_round_doubled_and_late(
    sandbox: Sandbox, hook: Endpoint, api: Any
) -> None:
    await sandbox.send_events(paused=True)
    customer, card = await customer_with(api)
    await api.payment_intents.create_async(off_session(customer, card))
    await asyncio.sleep(0.2)
    assert hook.events == []

    await sandbox.send_events(order="reversed", copies=2)
    await sandbox.quiet()

    assert hook.types()[:2] == [PAID[2]] * 2
    assert hook.types()[-2:] == ["customer.created"] * 2
    assert len(hook.events) == 10
    await sandbox.send_events(delay_seconds=DELAY)
    began = time.monotonic()
    await api.customers.create_async({})
    await sandbox.quiet()
    assert time.monotonic() - began > DELAY
    assert len(hook.events) == 11


def test_another_secret_signs_nothing() -> None:
    payload = b'{"id": "evt_1", "object": "event"}'
    signed = signature(payload, "whsec_other", 1_700_000_000)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(payload, signed, WEBHOOK_SECRET)
    event = stripe.Webhook.construct_event(payload, signed, "whsec_other", tolerance=10**9)
    assert event.id == "evt_1"


async def test_a_kill_forgets_neither_a_charge_nor_its_events(
    hook: Endpoint, tmp_path: Path
) -> None:
    sandbox = Sandbox(tmp_path, webhook_url=hook.url)
    await sandbox.start()
    try:
        api: Any = sandbox.stripe().v1
        customer, card = await customer_with(api)
        await sandbox.quiet()
        await sandbox.send_events(paused=True)
        asked = off_session(customer, card, metadata={"job_id": "j"})
        paid = await api.payment_intents.create_async(asked, {"idempotency_key": "k"})

        await sandbox.kill()
        await sandbox.start()

        again = await api.payment_intents.create_async(asked, {"idempotency_key": "k"})
        assert again.id == paid.id
        assert await sandbox.charges_by("job_id") == {"j": 1}
        await sandbox.quiet()
        assert hook.types()[-3:] == PAID
    finally:
        await sandbox.kill()
        await sandbox.close()


async def test_killed_at_any_moment_each_charge_is_there_once(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    await sandbox.start()
    try:
        api: Any = sandbox.stripe().v1
        customer, card = await customer_with(api)

        async def pay(job: str) -> None:
            asked = off_session(customer, card, metadata={"job_id": job})
            while True:
                try:
                    await api.payment_intents.create_async(asked, {"idempotency_key": job})
                    return
                except stripe.APIConnectionError:
                    await asyncio.sleep(0.05)

        paying = asyncio.gather(*(pay(f"job {number}") for number in range(40)))
        for _ in range(3):
            await asyncio.sleep(0.05)
            await sandbox.kill()
            await sandbox.start()
        await paying

        assert await sandbox.charges_by("job_id") == {f"job {n}": 1 for n in range(40)}
        assert sandbox.state_file.stat().st_mode & 0o077 == 0
    finally:
        await sandbox.kill()
        await sandbox.close()
