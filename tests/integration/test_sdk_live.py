"""The SDK's stream and webhooks against a real gateway with real telemetry."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from faststream.nats import NatsBroker

from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import Gateway
from tests.integration.stream_app import streaming
from tests.support.sdk import ask
from tests.support.stack import Database, Nats
from tests.support.stream_jobs import COMPLETED, STARTED, happened, lines, points, submitted_job
from tests.support.streams import PATIENCE, publish
from tuneyard import AsyncTuneyard
from tuneyard.types import DoneEvent, LogEvent, MetricsEvent, StateEvent, StreamEvent


@pytest.fixture(scope="module")
async def gateway(
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    operator: NatsBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with streaming(database, nats_server, s3, operator, models) as gateway:
        yield gateway


@pytest.fixture
async def account(gateway: Gateway) -> tuple[UUID, str]:
    return await gateway.account(cents=0)


async def next_of(
    events: AsyncIterator[StreamEvent], before: list[StreamEvent]
) -> StreamEvent | None:
    """None at the end."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await anext(events, None)
    except TimeoutError:
        raise AssertionError(f"nothing came behind {before}") from None


async def test_a_job_is_followed_to_its_end_and_once_more_from_its_middle(
    gateway: Gateway, trainer: NatsBroker, account: tuple[UUID, str]
) -> None:
    account_id, key = account
    job = await submitted_job(gateway.admin, account_id)
    whole: list[StreamEvent] = []
    async with AsyncTuneyard(api_key=key, base_url=gateway.url) as client:
        async with aclosing(client.jobs.stream(job_id=str(job))) as events:
            while (event := await next_of(events, whole)) is not None:
                whole.append(event)
                match event:
                    case StateEvent(data=notice) if notice.type == "job.queued":
                        await happened(gateway.admin, account_id, job, *STARTED)
                    case StateEvent(data=notice) if notice.type == "job.running":
                        await publish(trainer, points(job, 1, 2))
                    case MetricsEvent():
                        await publish(trainer, lines(job, 1))
                    case LogEvent():
                        await happened(gateway.admin, account_id, job, COMPLETED)
        ended = await client.jobs.wait(job_id=str(job))

    assert [event.event for event in whole] == [
        *("state", "state", "metrics", "log", "state", "done"),
    ]
    last = whole[-1]
    assert isinstance(last, DoneEvent)
    assert last.data.data == ended
    for at in (1, 3, 5):
        rest = await ask(
            "blocking",
            gateway.url,
            lambda one, at=at: one.jobs.stream(job_id=str(job), last_event_id=whole[at].id),
            api_key=key,
        )
        assert rest == whole[at + 1 :]


async def test_a_webhook_is_made_changed_tested_and_deleted(
    gateway: Gateway, account: tuple[UUID, str]
) -> None:
    _, key = account
    async with AsyncTuneyard(api_key=key, base_url=gateway.url) as client:
        made = await client.webhooks.create(
            url="https://hooks.example.com/x", event_types=["job.failed"], description="mine"
        )
        of_all = await client.webhooks.update(webhook_id=made.id, event_types=None, enabled=False)
        rotated = await client.webhooks.rotate_secret(webhook_id=made.id)
        sent = await client.webhooks.test(webhook_id=made.id)
        told = [each async for each in client.webhooks.deliveries(webhook_id=made.id)]
        again = await client.webhooks.redeliver(webhook_id=made.id, delivery_id=sent.id)
        missed = await client.webhooks.recover(
            webhook_id=made.id, since=datetime(2026, 11, 1, tzinfo=UTC)
        )
        listed = [each.id async for each in client.webhooks.list()]
        shown = await client.webhooks.get(webhook_id=made.id)
        gone = await client.webhooks.delete(webhook_id=made.id)

    assert made.secret.startswith("whsec_")
    assert rotated.secret != made.secret
    assert (of_all.event_types, of_all.description, of_all.enabled) == (None, "mine", False)
    assert [each.id for each in told] == [sent.id] == [again.id]
    assert sent.event_type == "ping"
    assert missed.deliveries == 0
    assert listed == [shown.id]
    assert gone.deleted
