"""Webhooks as a process of its own, over the real bus: from the log to a customer's server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from faststream.nats import NatsBroker

from libs.bus.broker import make_broker
from libs.bus.relay import relay
from libs.contracts.scheduler import JobCancelled, JobLeased, JobStarted
from tests.support.receiver import always
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually
from tests.support.webhook_room import Room, append_job, webhook_room

LIFE = (
    JobLeased(epoch=1, trainer_id="trainer-0"),  # nothing a customer is told of
    JobStarted(epoch=1, trainer_id="trainer-0", device="cpu", steps_total=9, resumed_from_step=0),
    JobCancelled(tokens_processed=0, charge_cents=0),
)
LEAVES_SECONDS = 12.0  # a request that hangs is given fifteen: it is not waited for
TOLD = {"job.queued", "job.running", "job.cancelled"}


@pytest.fixture
async def room(database: Database) -> AsyncIterator[Room]:
    async with webhook_room(database) as room:
        yield room


@pytest.fixture
def settings(database: Database, nats_server: Nats) -> dict[str, str]:
    return {
        "database_url": database.dsn("webhooks"),
        "nats_url": nats_server.url("webhooks"),
        "allow_loopback": "true",
    }


@asynccontextmanager
async def relaying(database: Database, nats_server: Nats) -> AsyncIterator[None]:
    broker = make_broker(nats_server.url("relay"))
    task = asyncio.create_task(relay(broker, database.dsn("relay")))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await broker.stop()


async def test_what_is_appended_to_the_log_arrives_at_the_endpoint_once(
    operator: NatsBroker,
    nats_server: Nats,
    database: Database,
    room: Room,
    settings: dict[str, str],
) -> None:
    _, endpoint = await room.endpoint("/hook", always())
    async with relaying(database, nats_server), running("webhooks", settings, operator):
        job, _ = await append_job(room.sql, room.account_id, datetime.now(UTC), *LIFE)
        await eventually(lambda: _length(endpoint.accepted), lambda count: count == 3)
        rows = await eventually(
            lambda: room.sql.fetch(
                "SELECT n.event_id, n.event_type FROM webhooks.notification n"
                " JOIN webhooks.delivery d USING (event_id)"
                " WHERE n.job_id = $1 AND d.status = 'delivered'",
                job.id,
            ),
            lambda rows: len(rows) == 3,
        )
    assert {row["event_type"] for row in rows} == TOLD
    assert endpoint.accepted == dict.fromkeys((str(row["event_id"]) for row in rows), 1)
    assert endpoint.forged == 0


async def test_a_killed_service_loses_no_event(
    operator: NatsBroker,
    nats_server: Nats,
    database: Database,
    room: Room,
    settings: dict[str, str],
) -> None:
    _, endpoint = await room.endpoint("/killed", always())
    async with relaying(database, nats_server):
        async with running("webhooks", settings, operator) as process:
            for _ in range(10):
                await append_job(room.sql, room.account_id, datetime.now(UTC))
            await eventually(lambda: _length(endpoint.accepted), bool)
            process.kill()
            await process.wait()
        for _ in range(10):
            await append_job(room.sql, room.account_id, datetime.now(UTC))
        await room.sql.execute(  # what it had claimed lapses by itself, later than a test waits
            "UPDATE webhooks.delivery SET next_at = now() WHERE status = 'pending'"
        )
        async with running("webhooks", settings, operator):
            await eventually(lambda: _length(endpoint.accepted), lambda count: count == 20)
    assert endpoint.forged == 0


@pytest.mark.alone  # here seconds are counted
async def test_a_service_that_is_told_to_stop_leaves_in_time_and_what_hung_comes_again(
    operator: NatsBroker,
    nats_server: Nats,
    database: Database,
    room: Room,
    settings: dict[str, str],
) -> None:
    id_, endpoint = await room.endpoint("/hangs", always(ends="never"))
    async with relaying(database, nats_server):
        async with running("webhooks", settings, operator, leaves_within=LEAVES_SECONDS):
            await append_job(room.sql, room.account_id, datetime.now(UTC))
            await room.until(lambda: endpoint.in_flight == 1)
        [delivery] = await room.deliveries(id_)
        assert (delivery["status"], delivery["attempts"]) == ("pending", 0)
        endpoint.behave = always()
        await room.sql.execute(
            "UPDATE webhooks.delivery SET next_at = now() WHERE endpoint_id = $1", id_
        )
        async with running("webhooks", settings, operator):
            await room.until(lambda: len(endpoint.accepted) == 1)


async def _length(of: object) -> int:
    return len(of)  # type: ignore[arg-type]
