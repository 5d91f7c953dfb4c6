"""Stripe as the card provider, through its own SDK; the local stack's sandbox speaks the same.

Whatever Stripe makes for us carries metadata: ``account_id``, ``purpose``, and ``job_id`` where
there is one. By it events and the reconciler know what is ours; the rest of the operator's Stripe
account is left alone.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import stripe
from msgspec import Raw, Struct

from libs.contracts.base import Cents
from services.billing.provider import (
    ActionRequired,
    BadSignature,
    Card,
    Charge,
    Charged,
    Checkout,
    Customer,
    Declined,
    Movement,
    Plan,
    ProviderEvent,
    ProviderRefused,
    Refunded,
    Returning,
)
from services.billing.stripe_amounts import check_amount
from services.billing.stripe_answers import answered, as_card, default_card, plans_of
from services.billing.stripe_charges import cancel_charge, make_charge, payment_now
from services.billing.stripe_http import StripeHTTP
from services.billing.stripe_movements import movements_since
from services.billing.stripe_pages import CARDS_ONLY, PlanPrice, open_page, price_of

API_VERSION = "2026-10-28.endive"
"""The shapes that this module was written for; a newer SDK must not change them unasked."""

API_BASE = "https://api.stripe.com"

TIMEOUT_SECONDS = 20.0
"""A charge waits for the bank, which takes up to about ten; the SDK's own default is 80."""

NETWORK_RETRIES = 2
"""With the same idempotency key; whoever asked tries again later."""

SIGNATURE_SECONDS = 300
"""How old an event may be when it comes in, as Stripe advises. A delivery that it repeats is signed
anew; an older one is somebody else's replay."""

PAID_FOR = frozenset({"active", "trialing"})
"""Of a subscription: whatever else it is, its last invoice was not paid."""

stripe.enable_telemetry = False  # it would tell of the machine and of how long requests took


class _Data(Struct, frozen=True):
    object: Raw


class _Event(Struct, frozen=True):
    id: str
    type: str
    created: int
    data: _Data


_decode_event = msgspec.json.Decoder(_Event)


class StripeProvider:
    """`PaymentProvider`, over one account at Stripe."""

    def __init__(
        self,
        *,
        api_key: str,
        webhook_secret: str,
        api_base: str = API_BASE,
        currency: str = "USD",
        plans: dict[Plan, PlanPrice] | None = None,
        return_url: str = "https://example.com",
        timeout_seconds: float = TIMEOUT_SECONDS,
        network_retries: int = NETWORK_RETRIES,
    ) -> None:
        """``return_url``: where an owner comes back to who had to approve a charge.
        ``webhook_secret`` may name several, with commas between them: any of them signs."""
        http = StripeHTTP(timeout=timeout_seconds)
        self._http = http
        self._api = stripe.StripeClient(
            api_key,
            stripe_version=API_VERSION,
            base_addresses={"api": api_base},
            max_network_retries=network_retries,
            http_client=http,
        )
        # An empty one would let everybody sign.
        self._webhook_secrets = [one for part in webhook_secret.split(",") if (one := part.strip())]
        self._currency = currency.lower()
        self._plans = plans or {}
        self._return_url = return_url
        mode = "live" if "_live_" in api_key else "test"
        self.name = f"{urlsplit(api_base).hostname} {mode}"

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def customer(self, customer: Customer) -> str:
        # Under this key the parameters must never differ, so a name that changes is told later.
        with answered():
            made = await self._api.v1.customers.create_async(
                {"metadata": {"account_id": str(customer.account_id)}},
                {"idempotency_key": f"customer:{customer.account_id}"},
            )
            told: stripe.params.CustomerUpdateParams = {"name": customer.name}
            if customer.email:
                told["email"] = customer.email
            await self._api.v1.customers.update_async(made.id, told)
        return made.id

    async def set_up_card(self, customer_id: str, returning: Returning, *, key: str) -> Checkout:
        return await open_page(
            self._api,
            {
                "mode": "setup",
                "allowed_payment_method_types": CARDS_ONLY,
                "setup_intent_data": {"metadata": {"purpose": "card"}},
                "metadata": {"purpose": "card"},
            },
            customer_id,
            returning,
            key,
        )

    async def top_up(
        self,
        customer_id: str,
        returning: Returning,
        *,
        account_id: UUID,
        amount_cents: Cents,
        currency: str,
        key: str,
    ) -> Checkout:
        check_amount(amount_cents, currency)
        metadata = {"purpose": "top_up", "account_id": str(account_id)}
        return await open_page(
            self._api,
            {
                "mode": "payment",
                "allowed_payment_method_types": CARDS_ONLY,
                "line_items": [
                    {
                        "quantity": 1,
                        "price_data": {
                            "currency": currency.lower(),
                            "unit_amount": amount_cents,
                            "product_data": {"name": "Balance top-up"},
                        },
                    }
                ],
                "payment_intent_data": {"metadata": metadata, "description": "Balance top-up"},
                "metadata": metadata,
            },
            customer_id,
            returning,
            key,
        )

    async def subscribe(
        self, customer_id: str, returning: Returning, *, account_id: UUID, plan: Plan, key: str
    ) -> Checkout:
        metadata = {"purpose": "subscription", "account_id": str(account_id), "plan": plan}
        price = await price_of(self._api, plan, self._plans, self._currency)
        return await open_page(
            self._api,
            {
                "mode": "subscription",
                "allowed_payment_method_types": CARDS_ONLY,
                "line_items": [{"quantity": 1, "price": price}],
                "subscription_data": {"metadata": metadata},
                "metadata": metadata,
            },
            customer_id,
            returning,
            key,
        )

    async def portal(self, customer_id: str, *, return_url: str) -> str:
        with answered():
            session = await self._api.v1.billing_portal.sessions.create_async(
                {"customer": customer_id, "return_url": return_url}
            )
        return session.url

    async def card(self, customer_id: str) -> Card | None:
        with answered():
            customer = await self._api.v1.customers.retrieve_async(
                customer_id, {"expand": ["invoice_settings.default_payment_method"]}
            )
        return as_card(default_card(customer))

    async def adopt_card(self, customer_id: str, payment_method_id: str) -> None:
        with answered():
            customer = await self._api.v1.customers.retrieve_async(
                customer_id, {"expand": ["invoice_settings.default_payment_method"]}
            )
            current = default_card(customer)
            saved = await self._api.v1.payment_methods.retrieve_async(payment_method_id)
            if saved.customer is None or (current and current.created > saved.created):
                return
            await self._api.v1.customers.update_async(
                customer_id, {"invoice_settings": {"default_payment_method": saved.id}}
            )

    async def subscription(self, customer_id: str) -> Plan | None:
        plans: set[str] = set()
        with answered():
            found = await self._api.v1.subscriptions.list_async({"customer": customer_id})
            async for each in found.auto_paging_iter():
                if each.status in PAID_FOR:
                    plans |= plans_of(each)
        return "pro" if "pro" in plans else "plus" if "plus" in plans else None

    async def charge(self, charge: Charge) -> Charged | Declined | ActionRequired:
        return await make_charge(self._api, charge, return_url=self._return_url)

    async def payment(self, payment_id: str) -> Charged | Declined | ActionRequired:
        return await payment_now(self._api, payment_id)

    async def purpose(self, payment_id: str) -> str | None:
        with answered():
            intent = await self._api.v1.payment_intents.retrieve_async(payment_id)
        said: str | None = intent.metadata.to_dict().get("purpose")
        return said

    async def cancel(self, payment_id: str) -> Charged | None:
        return await cancel_charge(self._api, payment_id)

    async def refund(self, payment_id: str, *, amount_cents: Cents, key: str) -> Refunded:
        with answered():
            made = await self._api.v1.refunds.create_async(
                {"payment_intent": payment_id, "amount": amount_cents, "metadata": {"key": key}},
                {"idempotency_key": key},
            )
        if made.status in ("failed", "canceled"):
            raise ProviderRefused(f"refund {made.id} {made.status}: {made.failure_reason}")
        return Refunded(refund_id=made.id, amount_cents=made.amount)

    def event(self, payload: bytes, signature: str) -> ProviderEvent:
        if not signature.isascii():  # the SDK's comparison raises a TypeError then
            raise BadSignature("a signature that is not ASCII")
        try:
            self._check(payload, signature)
            event = _decode_event.decode(payload)
        except (stripe.SignatureVerificationError, ValueError, msgspec.DecodeError) as error:
            raise BadSignature(str(error)) from error
        return ProviderEvent(
            id=event.id,
            type=event.type,
            created_at=datetime.fromtimestamp(event.created, UTC),
            object=event.data.object,
        )

    def _check(self, payload: bytes, signature: str) -> None:
        refused: Exception = ValueError("there is no secret that events are signed with")
        for secret in self._webhook_secrets:
            try:
                stripe.WebhookSignature.verify_header(payload, signature, secret, SIGNATURE_SECONDS)
                return
            except stripe.SignatureVerificationError as error:
                refused = error
        raise refused

    async def movements(self, since: datetime) -> AsyncIterator[Movement]:
        with answered():
            async for movement in movements_since(self._api, since):
                yield movement
