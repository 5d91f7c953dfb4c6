"""Who answers the gateway in tests: real billing and webhooks; the others are scripted."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from faststream.nats import NatsBroker

from libs.bus.broker import make_broker
from libs.bus.rpc import answer, answer_pings, ask
from libs.contracts import (
    artifact_rpc,
    billing_rpc,
    provider_rpc,
    scheduler_rpc,
    telemetry_rpc,
    trainer_rpc,
)
from libs.contracts.gateway_rpc import KEEP_PLAN
from libs.contracts.rpc import Ping, Pong, ping_of
from services.billing import accounts, checkout, extensions, handlers, statement
from services.billing.payments import Billing
from services.billing.pricing import read_prices
from services.billing.provider import PaymentProvider
from services.billing.provider_events import Cashier, refuse_events, take_event
from services.scheduler import retention
from services.scheduler.handlers import Scheduler
from services.webhooks.answering import Answering
from services.webhooks.questions import answer_questions
from tests.support.stack import Nats

PRICES = Path(__file__).parents[2] / "prices.toml"
OTHERS = ("billing", "scheduler", "artifact", "webhooks", "telemetry", "relay")


def _listener(broker: NatsBroker, billing: Billing) -> Any:
    """Who takes the card provider's events."""
    if billing.provider is None:
        return refuse_events
    cashier = Cashier(
        billing=billing, provider=billing.provider, plan_read=partial(ask, broker, KEEP_PLAN)
    )
    return partial(take_event, cashier)


@asynccontextmanager
async def neighbours(
    nats: Nats,
    pool: Any,
    scheduler: Scheduler,
    answering: Answering,
    answers: dict[str, Any],
    now: Callable[[], datetime],
    provider: PaymentProvider | None,
) -> AsyncIterator[None]:
    """Real billing and webhooks, and services that say what ``answers`` holds."""
    broker = make_broker(nats.url("operator"))
    billing = handlers.Billing(
        pool=pool,
        prices=read_prices(PRICES),
        now=now,
        new_id=uuid4,
        committed=lambda: None,
        provider=provider,
    )
    answer(broker, billing_rpc.RESERVE, partial(handlers.reserve, billing))
    answer(broker, billing_rpc.BALANCE, partial(handlers.get_balance, billing))
    answer(broker, billing_rpc.QUOTE, partial(handlers.quote, billing))
    answer(broker, billing_rpc.ACCOUNT, partial(checkout.account_with_portal, billing))
    answer(broker, billing_rpc.SUMMARY, partial(accounts.get_summary, billing))
    answer(broker, provider_rpc.SAVE_CARD, partial(checkout.save_card, billing))
    answer(broker, provider_rpc.TOP_UP, partial(checkout.top_up, billing))
    answer(broker, provider_rpc.SUBSCRIBE, partial(checkout.subscribe, billing))
    answer(broker, provider_rpc.PROVIDER_EVENT, _listener(broker, billing))
    answer(broker, billing_rpc.EXTEND_STORAGE, partial(extensions.extend_storage, billing))
    answer(broker, billing_rpc.LEDGER, partial(statement.get_ledger, billing))
    answer(broker, billing_rpc.WITHHELD, partial(statement.get_withheld, billing))
    answer_questions(broker, answering)
    answer(broker, scheduler_rpc.EXTEND_RETENTION, partial(retention.extend_retention, scheduler))
    for question in (
        telemetry_rpc.METRICS,
        telemetry_rpc.LOGS,
        scheduler_rpc.CANCEL,
        artifact_rpc.DOWNLOADS,
        artifact_rpc.CHECKPOINTS,
        trainer_rpc.PREVIEW,
    ):
        name = question.subject.rsplit(".", 1)[1]

        async def scripted(request: Any, name: str = name) -> Any:
            said = answers[name]
            return said(request) if callable(said) else said

        answer(broker, question, scripted)  # type: ignore[arg-type]

    async def trainer(_: Ping) -> Pong:
        """There is one as soon as it has something to say."""
        assert "preview" in answers
        return Pong(service="trainer")

    answer(broker, ping_of("trainer"), trainer)
    await broker.start()
    for service in OTHERS:
        await answer_pings(broker, service)
    try:
        yield
    finally:
        await broker.stop()
