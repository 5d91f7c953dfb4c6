"""What is looked up for an operator, on a real PostgreSQL: exactly what is open there."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from opentelemetry.metrics import CallbackOptions

from libs.bus import gauges as bus
from libs.bus.service import watched
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, Pool, connect, create_pool
from libs.eventlog.dead_letters import DeadLetters
from libs.observability.instruments import Gauge
from libs.observability.metrics import (
    CONNECTIONS,
    DEAD_LETTERS,
    LEASES,
    LEASES_LAPSED,
    LOOKED_AT,
    MAX_CONNECTIONS,
    MONEY_HELD,
    OUTBOX,
    OUTBOX_AGE,
    PAYMENTS_DUE,
    QUEUE,
    QUEUE_AGE,
    WEBHOOK_ENDPOINTS,
    WEBHOOKS_OVERDUE,
    WEBHOOKS_PENDING,
)
from services.billing import gauges as billing
from services.billing.payments import Billing
from services.billing.pricing import read_prices
from services.scheduler import gauges as scheduler
from services.webhooks import gauges as webhooks
from tests.support.jobs import NOON, first_append, submission
from tests.support.stack import Database
from tests.support.waiting import eventually
from tests.support.webhook_room import ENDPOINT_SQL

MINUTE = timedelta(minutes=1)
PRICES = Path(__file__).parents[2] / "prices.toml"


def shown(gauge: Gauge) -> dict[tuple[str, ...], float]:
    """As a collection would see it: by the values of its attributes."""
    return {
        tuple(str(value) for value in (one.attributes or {}).values()): one.value
        for one in gauge.observe(CallbackOptions())
    }


def noon() -> datetime:
    return NOON


@pytest.fixture
async def sql(database: Database) -> AsyncIterator[Connection]:
    connection = await connect(database.admin_dsn)
    yield connection
    await connection.close()


async def pool_of(database: Database, role: str) -> Pool:
    return await create_pool(database.dsn(role), size=2)


async def test_the_queue_is_counted_by_state_and_type_and_its_oldest_job_by_age(
    database: Database, sql: Connection
) -> None:
    rows = [
        *(("waiting", "finetune", NOON - n * MINUTE) for n in range(3)),
        ("leased", "train", NOON - 9 * MINUTE),
        ("waiting", None, NOON),
    ]
    for status, kind, at in rows:
        job_id = await sql.fetchval(
            "INSERT INTO scheduler.queue VALUES"
            " (gen_random_uuid(), gen_random_uuid(), $1, false, $2, 1, $3) RETURNING job_id",
            *(status, at, kind),
        )
    for seconds in (-1, 5, 6):
        await sql.execute(
            "INSERT INTO scheduler.lease (job_id, epoch, trainer_id, instance_id, expires_at)"
            " VALUES (gen_random_uuid(), 1, 't', $1, $2)",
            *(job_id, NOON + timedelta(seconds=seconds)),
        )

    await scheduler.look(await pool_of(database, "scheduler"), noon)

    assert shown(QUEUE) == {
        ("waiting", "finetune"): 3,
        ("leased", "train"): 1,
        ("waiting", "unknown"): 1,
    }
    assert shown(QUEUE_AGE) == {("finetune",): 120, ("unknown",): 0}
    assert (shown(LEASES), shown(LEASES_LAPSED)) == ({(): 3}, {(): 1})


async def test_money_is_shown_that_is_held_and_not_what_was_taken(
    database: Database, sql: Connection
) -> None:
    for status, amount, due in (
        *(("reserved", 300, None), ("reserved", 200, None), ("pledged", 70, None)),
        *(("captured", 5_000, None), ("billed", 900, NOON - MINUTE)),
    ):
        await sql.execute(
            "INSERT INTO billing.payment"
            " (job_id, account_id, status, amount_cents, reserved_at, due_at)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), $1, $2, $3,"
            " coalesce($4::timestamptz, 'infinity'))",
            *(status, amount, NOON, due),
        )
    pool = await pool_of(database, "billing")

    await billing.look(
        Billing(
            pool=pool, prices=read_prices(PRICES), now=noon, new_id=uuid4, committed=lambda: None
        )
    )

    assert shown(MONEY_HELD) == {("reserved", "USD"): 500, ("pledged", "USD"): 70}
    assert shown(PAYMENTS_DUE) == {(): 60}


async def endpoint(sql: Connection, **columns: object) -> UUID:
    id_ = uuid4()
    await sql.execute(
        ENDPOINT_SQL, *(id_, uuid4(), "https://a.example", None, True, b"", None, None, NOON)
    )
    for name, value in columns.items():
        await sql.execute(f"UPDATE webhooks.endpoint SET {name} = $2 WHERE id = $1", id_, value)
    return id_


async def test_a_delivery_is_overdue_that_waits_for_us_and_not_one_whose_endpoint_fails(
    database: Database, sql: Connection
) -> None:
    healthy = await endpoint(sql)
    failing = await endpoint(sql, failing_since=NOON - MINUTE)
    await endpoint(sql, held_until=NOON + MINUTE)
    await endpoint(sql, enabled=False)
    await endpoint(sql, account_id=None)
    for to, at, status in (
        *((healthy, NOON - 2 * MINUTE, "pending"), (healthy, NOON + MINUTE, "pending")),
        *((failing, NOON - 90 * MINUTE, "pending"), (healthy, None, "delivered")),
    ):
        await sql.execute(
            "INSERT INTO webhooks.delivery (id, endpoint_id, event_id, event_type, status, step,"
            " attempts, next_at, created_at)"
            " VALUES (gen_random_uuid(), $1, gen_random_uuid(), 'job.queued', $3, 0, 0, $2, $4)",
            *(to, at, status, NOON),
        )

    await webhooks.look(await pool_of(database, "webhooks"), noon)

    assert shown(WEBHOOKS_PENDING) == {(): 3}
    assert shown(WEBHOOKS_OVERDUE) == {(): 120}
    assert shown(WEBHOOK_ENDPOINTS) == {
        ("healthy",): 1,
        ("failing",): 1,
        ("held",): 1,
        ("disabled",): 1,
    }


async def test_the_outbox_is_shown_with_the_age_of_its_oldest_event(
    database: Database, sql: Connection
) -> None:
    pool = await pool_of(database, "relay")
    await bus.look_at_postgres(pool)
    assert (shown(OUTBOX), shown(OUTBOX_AGE)) == ({(): 0}, {(): 0})

    for _ in range(2):
        await append_in(sql, first_append(uuid4(), uuid4(), submission())[0])
    await bus.look_at_postgres(pool)

    assert shown(OUTBOX) == {(): 2}
    assert shown(OUTBOX_AGE)[()] > 0
    assert 0 < shown(CONNECTIONS)[()] < shown(MAX_CONNECTIONS)[()]


async def test_of_a_backlog_no_more_is_counted_than_is_said(
    fresh_database: Database,
) -> None:
    sql = await connect(fresh_database.admin_dsn)
    await sql.execute("INSERT INTO log.outbox SELECT generate_series(1, $1)", LOOKED_AT + 1)
    await sql.close()
    await bus.look_at_postgres(await pool_of(fresh_database, "relay"))
    assert shown(OUTBOX) == {(): LOOKED_AT}


async def test_dead_letters_are_shown_of_each_consumer_also_where_there_are_none(
    database: Database,
) -> None:
    letters = DeadLetters(pool=await pool_of(database, "webhooks"))

    async def handle(_: bytes) -> None: ...

    letters.handlers |= {"webhooks-a": handle, "webhooks-b": handle}
    await letters.bury(consumer="webhooks-a", subject="s", payload=b"", error="e", tries=1)
    await letters.count()
    assert shown(DEAD_LETTERS) == {("webhooks-a",): 1, ("webhooks-b",): 0}


async def test_what_can_not_be_looked_up_is_not_shown_as_it_was() -> None:
    LEASES.show((7,))

    async def fail() -> None:
        raise OSError("PostgreSQL is away")

    async def leases() -> dict[tuple[str, ...], float]:
        return shown(LEASES)

    async with watched(True, "queue", fail, LEASES):
        await eventually(leases, lambda seen: seen == {})


async def test_nothing_is_looked_up_for_nobody() -> None:
    looks = []

    async def look() -> None:
        looks.append(1)

    async with watched(False, "queue", look, LEASES):
        pass
    assert looks == []
