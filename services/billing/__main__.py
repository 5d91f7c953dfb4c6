"""Billing: quotes, reservations, captures, and the ledger behind them."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import structlog
import uvloop
from faststream.nats import NatsBroker

from libs.bus.broker import make_broker
from libs.bus.consume import consume
from libs.bus.rpc import answer, ask
from libs.bus.service import database, every, run_service, watched
from libs.bus.streams import nudge_relay
from libs.contracts import billing_rpc, provider_rpc
from libs.contracts.gateway import JobSubmitted
from libs.contracts.gateway_rpc import KEEP_PLAN
from libs.contracts.scheduler import JobCancelled, JobCompleted, JobFailed
from libs.eventlog.dead_letters import DeadLetters
from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings
from services.billing import (
    accounts,
    charges,
    checkout,
    extensions,
    gauges,
    handlers,
    provider_events,
    statement,
)
from services.billing.payments import Billing
from services.billing.pricing import read_prices
from services.billing.provider_reactions import reactions
from services.billing.reconcile import log_differences
from services.billing.settings import Settings, connect_provider

POOL_SIZE = 12
SWEEP_EVERY = 60.0  # seconds
EVENTS_EVERY = 10.0  # those that could not be handled when they came in
RECONCILE_EVERY = 86_400.0

logger = structlog.get_logger()


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("billing", settings.log_level)
    observed = observe("billing", os.environ)
    broker = make_broker(settings.nats_url, settings.nats_ca)
    async with database(settings.database_url, size=POOL_SIZE) as pool:
        prices = read_prices(settings.prices)
        provider = connect_provider(settings, prices.currency)
        billing = Billing(
            pool=pool,
            prices=prices,
            now=lambda: datetime.now(UTC),
            new_id=uuid4,
            committed=nudge_relay(broker),
            provider=provider,
            public_url=settings.public_url,
        )
        letters = DeadLetters(pool=pool)
        answer(broker, billing_rpc.QUOTE, partial(handlers.quote, billing))
        answer(broker, billing_rpc.RESERVE, partial(handlers.reserve, billing))
        answer(broker, billing_rpc.BALANCE, partial(handlers.get_balance, billing))
        answer(broker, billing_rpc.ACCOUNT, partial(checkout.account_with_portal, billing))
        answer(broker, billing_rpc.SUMMARY, partial(accounts.get_summary, billing))
        answer(broker, billing_rpc.EXTEND_STORAGE, partial(extensions.extend_storage, billing))
        answer(broker, billing_rpc.LEDGER, partial(statement.get_ledger, billing))
        answer(broker, billing_rpc.WITHHELD, partial(statement.get_withheld, billing))
        answer(broker, provider_rpc.SAVE_CARD, partial(checkout.save_card, billing))
        answer(broker, provider_rpc.TOP_UP, partial(checkout.top_up, billing))
        answer(broker, provider_rpc.SUBSCRIBE, partial(checkout.subscribe, billing))
        on = partial(consume, broker, "billing", letters=letters)
        on(JobSubmitted, partial(handlers.restore_payment, billing))
        on(JobCompleted, partial(handlers.capture_payment, billing))
        on(JobFailed, partial(handlers.void_payment, billing))
        on(JobCancelled, partial(handlers.charge_partly, billing))
        async with (
            every(SWEEP_EVERY, partial(handlers.void_orphans, billing)),
            every(charges.WORK_EVERY, partial(charges.work, billing)),
            watched(observed, "money", partial(gauges.look, billing), *gauges.ALL),
            listening(broker, billing),
        ):
            await run_service(
                broker,
                "billing",
                streams=frozenset({"EVENTS"}),
                letters=letters,
                probe_listen=settings.probe_listen,
                observed=observed,
            )


@asynccontextmanager
async def listening(broker: NatsBroker, billing: Billing) -> AsyncIterator[None]:
    """Take the card provider's events, go on with those that wait, and compare its books daily."""
    if billing.provider is None:
        answer(broker, provider_rpc.PROVIDER_EVENT, provider_events.refuse_events)
        yield
        return
    provider = billing.provider
    cashier = provider_events.Cashier(
        billing=billing,
        provider=provider,
        card_changed=partial(charges.card_changed, billing),
        plan_read=partial(ask, broker, KEEP_PLAN),
        reactions=reactions(billing),
    )
    answer(broker, provider_rpc.PROVIDER_EVENT, partial(provider_events.take_event, cashier))
    try:
        async with (
            every(EVENTS_EVERY, partial(provider_events.handle_due, cashier)),
            every(RECONCILE_EVERY, partial(log_differences, billing, provider)),
        ):
            yield
    finally:
        await provider.close()


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except SettingsError as error:
        sys.exit(str(error))
