"""What a card provider tells, as it comes to a case: how each begins, and how it is told.

The provider sends an event until it was taken, and the sweep goes on with what was not handled.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import httpx
import msgspec
import stripe
from msgspec.structs import replace

from libs.contracts.provider_rpc import CheckoutOrder, CheckoutPage, SaveCard, Subscribe, TakeEvent
from libs.contracts.provider_rpc import TopUp as TopUpOrder
from services.billing import charges, checkout
from services.billing.decisions import SavedCard, decide_charge
from services.billing.payments import change
from services.billing.provider_events import Cashier, handle_due, take_event
from services.billing.provider_reactions import reactions
from services.billing.stripe_provider import StripeProvider
from tests.support.failpoint_rooms import CLAIMED, START, TOP_UP, Case, Room
from tests.support.failpoint_starts import billed, charged
from tests.support.failpoint_steps import granted, work, work_later
from tests.support.sandbox import WEBHOOK_SECRET

WORKS = "4242424242424242"
Start = Callable[[Room], Awaitable[Case]]


def provider_of(room: Room) -> StripeProvider:
    assert isinstance(room.billing.provider, StripeProvider)
    return room.billing.provider


def cashier_of(room: Room) -> Cashier:
    async def card_changed(account_id: Any) -> None:
        await charges.card_changed(room.billing, account_id)

    return Cashier(
        billing=room.billing,
        provider=provider_of(room),
        card_changed=card_changed,
        reactions=reactions(room.billing),
    )


def telling(case: Case, type: str, subject: Any) -> Case:
    """The case's event: of this type, about an object as the provider has it now."""
    event = {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "type": type,
        "created": int(datetime.now(UTC).timestamp()),
        "data": {"object": subject.to_dict()},
    }
    return replace(case, told=msgspec.json.encode(event))


async def tell(room: Room, case: Case) -> None:
    """The provider delivers it, signed now."""
    assert case.told is not None
    then = int(datetime.now(UTC).timestamp())
    header = stripe.WebhookSignature.generate_signature_header(
        case.told.decode(), WEBHOOK_SECRET, then
    )
    await take_event(cashier_of(room), TakeEvent(payload=case.told, signature=header))


async def tell_again(room: Room, case: Case) -> None:
    """It delivers it once more, and the sweep comes round when the dead one's claim has ended."""
    await tell(room, case)
    await handle_due(cashier_of(room.at(CLAIMED)))


async def tell_and_work(room: Room, case: Case) -> None:
    await tell(room, case)
    await work(room, case)


async def tell_again_and_work(room: Room, case: Case) -> None:
    await tell_again(room, case)
    await work_later(room, case)


def _order(case: Case) -> CheckoutOrder:
    return CheckoutOrder(account_id=case.account_id, name="Ada", email="ada@example.org")


async def _visit(page: object, card: str = WORKS) -> str:
    """As a person on the provider's page does; the session's id."""
    assert isinstance(page, CheckoutPage)
    async with httpx.AsyncClient(trust_env=False) as person:
        answer = await person.post(page.url, data={"card": card, "do": "pay"})
    assert answer.status_code == 303, answer.text
    return page.session_id


async def topped_up(room: Room) -> Case:
    case = await granted(room)
    page = await checkout.top_up(room.billing, TopUpOrder(order=_order(case), amount_cents=TOP_UP))
    session = await room.stripe.v1.checkout.sessions.retrieve_async(await _visit(page))
    return telling(case, "checkout.session.completed", session)


async def topped_up_and_given_back(room: Room) -> Case:
    """At the provider, after it was entered here."""
    case = await topped_up(room)
    await tell(room, case)
    assert case.told is not None
    session = msgspec.json.decode(case.told)["data"]["object"]
    refund = await room.stripe.v1.refunds.create_async(
        {"payment_intent": session["payment_intent"], "amount": 100}
    )
    return telling(case, "refund.created", refund)


def subscribed(plan: Literal["plus", "pro"]) -> Start:
    async def prepare(room: Room) -> Case:
        case = await granted(room)
        page = await checkout.subscribe(room.billing, Subscribe(order=_order(case), plan=plan))
        session = await room.stripe.v1.checkout.sessions.retrieve_async(await _visit(page))
        assert isinstance(session.subscription, str)
        made = await room.stripe.v1.subscriptions.retrieve_async(session.subscription)
        return telling(case, "customer.subscription.created", made)

    return prepare


async def declined_then_card_saved(room: Room) -> Case:
    """On the provider's page, which billing has not been told yet."""
    case = await billed("pm_card_chargeCustomerFail")(room)
    await charges.advance(room.billing, provider_of(room), case.owner)
    page = await checkout.save_card(room.billing, SaveCard(order=_order(case)))
    session = await room.stripe.v1.checkout.sessions.retrieve_async(await _visit(page))
    assert isinstance(session.setup_intent, str)
    setup = await room.stripe.v1.setup_intents.retrieve_async(session.setup_intent)
    return telling(case, "setup_intent.succeeded", setup)


async def asked_for_approval(room: Room) -> Case:
    case = await billed("pm_card_authenticationRequired")(room)
    await charges.advance(room.billing, provider_of(room), case.owner)
    return case


async def approved(room: Room) -> Case:
    """By its owner, at the bank's page."""
    case = await asked_for_approval(room)
    url = await room.billing.pool.fetchval(
        "SELECT convert_from(data, 'UTF8')::jsonb ->> 'url' FROM log.event"
        " WHERE job_id = $1 AND type = 'payment.action_required.v1'",
        case.job_id,
    )
    async with httpx.AsyncClient(trust_env=False) as person:
        await person.post(url, data={"do": "approve"})
    (intent,) = await _intents(room, case)
    return telling(case, "payment_intent.succeeded", intent)


async def given_back_there(room: Room) -> Case:
    """A part of a job's charge, in the provider's dashboard."""
    case = await charged(room)
    (intent,) = await _intents(room, case)
    refund = await room.stripe.v1.refunds.create_async({"payment_intent": intent.id, "amount": 100})
    return telling(case, "refund.created", refund)


async def asked_then_new_card(room: Room) -> Case:
    """The question with a bad card is recorded and not asked yet; its owner has saved another."""
    case = await billed("pm_card_chargeCustomerFail")(room)
    row = await room.billing.pool.fetchrow(
        "SELECT customer_id, payment_method_id FROM billing.account WHERE account_id = $1",
        case.account_id,
    )
    assert row is not None
    old = SavedCard(**row)

    def ask(payment: Any) -> list[Any]:
        return [decide_charge(payment, old, case.job_id, START)]

    await change(room.billing, case.owner, ask)
    card = await room.stripe.v1.payment_methods.attach_async(
        "pm_card_visa", {"customer": old.customer_id}
    )
    await room.billing.pool.execute(
        "UPDATE billing.account SET payment_method_id = $2 WHERE account_id = $1",
        *(case.account_id, card.id),
    )
    await charges.card_changed(room.billing, case.account_id)
    return case


async def _intents(room: Room, case: Case) -> list[stripe.PaymentIntent]:
    customer = await room.billing.pool.fetchval(
        "SELECT customer_id FROM billing.account WHERE account_id = $1", case.account_id
    )
    found = await room.stripe.v1.payment_intents.list_async({"customer": customer})
    return found.data
