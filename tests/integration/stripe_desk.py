"""Billing's desk for tests: a real database, the sandbox as Stripe, and the adapter between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import stripe
from msgspec import Struct

from libs.contracts.provider_rpc import CheckoutOrder, CheckoutPage, SaveCard, TakeEvent, TopUp
from libs.eventlog.connection import create_pool
from services.billing import charges, checkout, ledger
from services.billing.payments import Billing
from services.billing.pricing import read_prices
from services.billing.provider_events import Cashier, take_event
from services.billing.provider_reactions import reactions
from services.billing.stripe_pages import read_plans
from services.billing.stripe_provider import StripeProvider
from tests.support.sandbox import API_KEY, WEBHOOK_SECRET, Sandbox
from tests.support.stack import Database

PRICES = Path(__file__).parents[2] / "prices.toml"
WORKS, DECLINES, ASKS = "4242424242424242", "4000000000000341", "4000002760003184"


class Clock(Struct):
    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Desk(Struct, kw_only=True):
    billing: Billing
    provider: StripeProvider
    cashier: Cashier
    sandbox: Sandbox
    clock: Clock
    cards_changed: list[UUID]

    def order(self, account_id: UUID, key: str | None = None) -> CheckoutOrder:
        return CheckoutOrder(account_id=account_id, name="Ada", email="ada@example.org", key=key)

    async def card_page(self, account_id: UUID, key: str | None = None) -> CheckoutPage:
        page = await checkout.save_card(self.billing, SaveCard(order=self.order(account_id, key)))
        assert isinstance(page, CheckoutPage)
        return page

    async def top_up_page(self, account_id: UUID, cents: int) -> CheckoutPage:
        wanted = TopUp(order=self.order(account_id), amount_cents=cents)
        page = await checkout.top_up(self.billing, wanted)
        assert isinstance(page, CheckoutPage)
        return page

    async def pay(self, page: CheckoutPage, card: str = WORKS) -> None:
        """As a person on the page does."""
        answer = await self.sandbox.press(page.url, card=card, do="pay")
        assert answer.status_code == 303, answer.text
        onward = answer.headers["Location"]
        if onward.startswith("/approve/"):
            await self.sandbox.press(onward, do="approve")

    async def events(self, *types: str) -> list[dict[str, Any]]:
        """What the provider has to tell, oldest first, of these types or all."""
        told = await self.sandbox.control("GET", "dump/event")
        return [event for event in reversed(told) if not types or event["type"] in types]

    async def tell(self, *events: dict[str, Any]) -> None:
        """Deliver events, signed now."""
        for event in events:
            payload = msgspec.json.encode(event)
            await take_event(self.cashier, TakeEvent(payload=payload, signature=signature(payload)))

    async def balance(self, account_id: UUID) -> int:
        async with self.billing.pool.acquire() as connection:
            spendable, _ = await ledger.balance(connection, account_id)
        return spendable

    async def saved_card(self, account_id: UUID, card: str = WORKS) -> tuple[str, str]:
        """Save one on the page; the provider's customer and payment method."""
        await self.pay(await self.card_page(account_id), card)
        await self.tell(*await self.events())
        row = await self.billing.pool.fetchrow(
            "SELECT customer_id, payment_method_id FROM billing.account WHERE account_id = $1",
            account_id,
        )
        assert row is not None
        return row["customer_id"], row["payment_method_id"]


def signature(payload: bytes, *, age: int = 0, secret: str = WEBHOOK_SECRET) -> str:
    """The header, as it was ``age`` seconds ago."""
    then = int(datetime.now(UTC).timestamp()) - age
    header: str = stripe.WebhookSignature.generate_signature_header(payload.decode(), secret, then)
    return header


@asynccontextmanager
async def open_desk(
    database: Database, sandbox: Sandbox, *, api_key: str = API_KEY
) -> AsyncIterator[Desk]:
    clock, changed = Clock(), []
    provider = StripeProvider(
        api_key=api_key,
        webhook_secret=WEBHOOK_SECRET,
        api_base=sandbox.url,
        plans=read_plans(PRICES),
        return_url="http://tuneyard.example/billing/returned",
    )

    async def changed_card(account_id: UUID) -> None:
        changed.append(account_id)
        await charges.card_changed(billing, account_id)

    async with create_pool(database.dsn("billing"), size=8) as pool:
        billing = Billing(
            pool=pool,
            prices=read_prices(PRICES),
            now=clock.now,
            new_id=uuid4,
            committed=lambda: None,
            provider=provider,
            public_url="http://tuneyard.example",
        )
        yield Desk(
            billing=billing,
            provider=provider,
            cashier=Cashier(
                billing=billing,
                provider=provider,
                card_changed=changed_card,
                reactions=reactions(billing),
            ),
            sandbox=sandbox,
            clock=clock,
            cards_changed=changed,
        )
    await provider.close()
