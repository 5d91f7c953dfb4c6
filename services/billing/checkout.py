"""Pages of the card provider's: to save a card, to top up, to subscribe, to manage it all."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import structlog
from msgspec.structs import replace

from libs.contracts.billing_rpc import AccountState, GetAccount, NoCardProvider
from libs.contracts.provider_rpc import (
    AddressRefused,
    AlreadySubscribed,
    AmountNotTaken,
    CheckoutOrder,
    CheckoutPage,
    KeyTaken,
    PageAnswer,
    ProviderAway,
    SaveCard,
    Subscribe,
    SubscribeAnswer,
    TopUp,
    TopUpAnswer,
)
from services.billing.accounts import get_account
from services.billing.payments import Billing
from services.billing.provider import (
    Checkout,
    Customer,
    PaymentProvider,
    ProviderKeyTaken,
    ProviderRefused,
    ProviderUnavailable,
    ReturnAddressRefused,
    Returning,
)
from services.billing.stripe_amounts import LARGEST, least_of

RETURN_PATH = "/billing/returned"
"""A page of the gateway's, for whoever did not say where to return to."""

PORTAL_LIFE = timedelta(minutes=3)
"""A link to Stripe's portal has to be opened within five minutes."""

PORTAL_PATIENCE = 1.5  # seconds; then the account is shown without the link
PORTAL_PAUSE = timedelta(seconds=30)
"""Not asked again for so long after no answer, so that one slow provider slows no one twice."""

# Made anew with another provider: its cards and subscriptions are not this one's.
NOTE_CUSTOMER_SQL = """
INSERT INTO billing.account AS a (account_id, customer_id, provider) VALUES ($1, $2, $3)
ON CONFLICT (account_id) DO UPDATE SET
    customer_id = excluded.customer_id, provider = excluded.provider, subscription = 'none',
    payment_method_id = NULL, card_brand = NULL, card_last4 = NULL, card_exp_month = NULL,
    card_exp_year = NULL, portal_url = NULL, portal_until = NULL
WHERE a.provider IS DISTINCT FROM excluded.provider
"""
CUSTOMER_SQL = """
SELECT customer_id FROM billing.account WHERE account_id = $1 AND provider = $2
"""
PORTAL_SQL = """
SELECT customer_id, portal_url, portal_until > $3 AS fresh FROM billing.account
WHERE account_id = $1 AND provider = $2 AND customer_id IS NOT NULL
"""
NOTE_PORTAL_SQL = """
UPDATE billing.account SET portal_url = $2, portal_until = $3 WHERE account_id = $1
"""

Opening = Callable[[PaymentProvider, str, Returning, str], Awaitable[Checkout]]

logger = structlog.get_logger()


async def save_card(billing: Billing, request: SaveCard) -> PageAnswer:
    async def opening(
        provider: PaymentProvider, customer_id: str, returning: Returning, key: str
    ) -> Checkout:
        return await provider.set_up_card(customer_id, returning, key=key)

    return await _open(billing, "card", request.order, opening)


async def top_up(billing: Billing, request: TopUp) -> TopUpAnswer:
    currency = billing.prices.currency
    least = least_of(currency)
    if not least <= request.amount_cents <= LARGEST:
        return AmountNotTaken(minimum_cents=least, maximum_cents=LARGEST, currency=currency)

    async def opening(
        provider: PaymentProvider, customer_id: str, returning: Returning, key: str
    ) -> Checkout:
        return await provider.top_up(
            customer_id,
            returning,
            account_id=request.order.account_id,
            amount_cents=request.amount_cents,
            currency=currency,
            key=key,
        )

    return await _open(billing, "top_up", request.order, opening)


async def subscribe(billing: Billing, request: Subscribe) -> SubscribeAnswer:
    """Whoever has a subscription changes it in the portal: a second one would be paid beside it."""
    wanted = GetAccount(account_id=request.order.account_id)
    account = await get_account(billing, wanted)
    if account.subscription != "none":
        return AlreadySubscribed(plan=account.subscription)

    async def opening(
        provider: PaymentProvider, customer_id: str, returning: Returning, key: str
    ) -> Checkout:
        return await provider.subscribe(
            customer_id,
            returning,
            account_id=request.order.account_id,
            plan=request.plan,
            key=key,
        )

    return await _open(billing, "subscribe", request.order, opening)


async def _open(billing: Billing, verb: str, order: CheckoutOrder, opening: Opening) -> PageAnswer:
    provider = billing.provider
    if provider is None:
        return NoCardProvider()
    returned = billing.public_url.rstrip("/") + RETURN_PATH
    returning = Returning(
        success_url=order.success_url or returned, cancel_url=order.cancel_url or returned
    )
    try:
        customer_id = await customer_of(billing, provider, order)
        page = await opening(provider, customer_id, returning, _key(billing, verb, order))
    except ProviderKeyTaken:
        return KeyTaken()
    except ReturnAddressRefused as error:
        return AddressRefused(field=error.field)
    except (ProviderUnavailable, ProviderRefused) as error:
        logger.warning("no checkout page", verb=verb, error=str(error))
        return ProviderAway()
    return CheckoutPage(
        url=page.url,
        session_id=page.session_id,
        expires_at=page.expires_at,
        replayed=page.replayed,
    )


def _key(billing: Billing, verb: str, order: CheckoutOrder) -> str:
    """The account's own, so that nobody's key means another's page; hashed, as it may be long."""
    if order.key is None:
        return f"{verb}:{billing.new_id()}"
    named = f"{verb}:{order.account_id}:{order.key}"
    return f"{verb}:{hashlib.sha256(named.encode()).hexdigest()}"


async def customer_of(billing: Billing, provider: PaymentProvider, order: CheckoutOrder) -> str:
    """The provider's id of this account, which is made known when it is first needed.

    Two at once ask the provider with the same key, and so get the same id.
    """
    known: str | None = await billing.pool.fetchval(CUSTOMER_SQL, order.account_id, provider.name)
    if known is not None:
        return known
    made = await provider.customer(
        Customer(account_id=order.account_id, name=order.name, email=order.email)
    )
    await billing.pool.execute(NOTE_CUSTOMER_SQL, order.account_id, made, provider.name)
    first: str = await billing.pool.fetchval(CUSTOMER_SQL, order.account_id, provider.name)
    return first


async def account_with_portal(billing: Billing, request: GetAccount) -> AccountState:
    """How the account stands, with a fresh link to where its owner manages cards and subscription.

    Without a link when the provider does not answer at once: it must not hold anybody up.
    """
    state = await get_account(billing, request)
    provider = billing.provider
    if provider is None:
        return replace(state, portal_url=None)
    return replace(state, portal_url=await _portal(billing, provider, request.account_id))


async def _portal(billing: Billing, provider: PaymentProvider, account_id: UUID) -> str | None:
    now = billing.now()
    row = await billing.pool.fetchrow(PORTAL_SQL, account_id, provider.name, now)
    if row is None:
        return None
    url: str | None = row["portal_url"]
    if row["fresh"]:
        return url
    try:
        async with asyncio.timeout(PORTAL_PATIENCE):
            url = await provider.portal(row["customer_id"], return_url=billing.public_url)
        until = now + PORTAL_LIFE
    except (TimeoutError, ProviderUnavailable, ProviderRefused) as error:
        logger.warning("no link to the portal", error=repr(error))
        url, until = None, now + PORTAL_PAUSE
    await billing.pool.execute(NOTE_PORTAL_SQL, account_id, url, until)
    return url
