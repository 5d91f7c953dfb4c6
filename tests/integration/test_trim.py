"""The inbox forgets a message once nobody can deliver it again, and not before.

Tests age rows and events in PostgreSQL, whose clock is the one that trimming goes by.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client

from deploy.local.program import clean_environment
from libs.bus.broker import make_broker
from libs.bus.relay import drain
from libs.bus.republish import publish_again
from libs.bus.streams import report_subject
from libs.bus.trim import BATCH, KEPT, LATE, STREAM_KEEPS, TRIM_SQL, oldest_report, trim
from libs.contracts.trainer import Stopped
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, connect, create_pool
from libs.eventlog.dead_letters import DeadLetters
from libs.eventlog.inbox import enter
from libs.eventlog.record import AlreadyHandled, Inbox
from tests.support.jobs import NOON, first_append, submission
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, patient

CONSUMER = "webhooks-job-submitted-v1"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DUE = KEPT + HOUR


@pytest.fixture
async def sql(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def relay(nats_server: Nats, operator: NatsBroker) -> AsyncIterator[Client]:
    """Speaks as the relay may, when the streams are there."""
    broker = make_broker(nats_server.url("relay"))
    yield await broker.connect()
    await broker.stop()


async def no_report() -> datetime | None:
    return None


async def trimmed(database: Database) -> int:
    """As the relay does it, with its rights, while no report waits."""
    return await trim(database.dsn("relay"), no_report)


async def handled(sql: Connection, ago: timedelta, event_id: UUID | None = None) -> UUID:
    """A message that had its effect so long ago."""
    event_id = event_id or uuid4()
    await sql.execute(
        "INSERT INTO log.inbox (consumer, event_id, handled_at)"
        " VALUES ($1, $2, now() - $3::interval)",
        CONSUMER,
        event_id,
        ago,
    )
    return event_id


async def known(sql: Connection) -> set[UUID]:
    return {row["event_id"] for row in await sql.fetch("SELECT event_id FROM log.inbox")}


async def appended(sql: Connection, ago: timedelta) -> UUID:
    """An event that was appended so long ago, and is in the outbox; its id."""
    append, _ = first_append(uuid4(), uuid4(), submission(), NOON)
    await append_in(sql, append)
    async with sql.transaction():
        await sql.execute("ALTER TABLE log.event DISABLE TRIGGER append_only")
        await sql.execute(
            "UPDATE log.event SET recorded_at = now() - $2::interval WHERE event_id = $1",
            append.records[0].event_id,
            ago,
        )
        await sql.execute("ALTER TABLE log.event ENABLE TRIGGER append_only")
    return append.records[0].event_id


async def test_what_is_due_goes_in_batches_and_the_rest_stays(
    fresh_database: Database, sql: Connection
) -> None:
    young = {await handled(sql, ago) for ago in (timedelta(0), STREAM_KEEPS, KEPT - HOUR)}
    due = 2 * BATCH + 1
    await sql.execute(
        "INSERT INTO log.inbox SELECT $1, gen_random_uuid(), now() - $2::interval"
        " FROM generate_series(1, $3)",
        CONSUMER,
        DUE,
        due,
    )

    both = await asyncio.gather(trimmed(fresh_database), trimmed(fresh_database))

    assert sum(both) == due, "two at once get in nobody's way"
    assert await known(sql) == young
    assert await trimmed(fresh_database) == 0


async def test_an_append_waits_for_no_trimming(fresh_database: Database, sql: Connection) -> None:
    await handled(sql, DUE)
    async with sql.transaction():
        assert await sql.execute(TRIM_SQL, KEPT, None, LATE, BATCH) == "DELETE 1"
        other = await connect(fresh_database.dsn("webhooks"), command_timeout=2)
        await enter(other, Inbox(consumer=CONSUMER, event_id=uuid4()))
        await other.close()


async def test_what_goes_out_late_is_still_known_until_it_can_not_be_delivered_any_more(
    fresh_database: Database, sql: Connection, relay: Client
) -> None:
    """A machine that is switched on again after a month: the relay had published the event, and
    not yet deleted it from the outbox."""
    event_id = await appended(sql, 30 * DAY)
    await handled(sql, 30 * DAY, event_id)

    assert await trimmed(fresh_database) == 0, "it waits in the outbox"
    as_relay = await connect(fresh_database.dsn("relay"))
    assert await drain(as_relay, patient(relay)) == 1
    await as_relay.close()
    assert await trimmed(fresh_database) == 0, "it is in the stream again"
    with pytest.raises(AlreadyHandled):
        await enter(sql, Inbox(consumer=CONSUMER, event_id=event_id))

    until = await sql.fetchval("SELECT until - now() FROM log.inbox_hold")
    assert until > STREAM_KEEPS
    await sql.execute("UPDATE log.inbox_hold SET until = until - $1::interval", until)
    assert await trimmed(fresh_database) == 1


async def test_an_event_that_goes_out_in_time_holds_nothing_up(
    fresh_database: Database, sql: Connection, relay: Client
) -> None:
    await appended(sql, LATE - HOUR)
    await handled(sql, DUE)
    assert await trimmed(fresh_database) == 1
    await handled(sql, DUE)
    as_relay = await connect(fresh_database.dsn("relay"))
    assert await drain(as_relay, patient(relay)) == 1
    await as_relay.close()
    assert await trimmed(fresh_database) == 1


async def test_nothing_is_published_again_that_was_trimmed(
    fresh_database: Database, sql: Connection
) -> None:
    """Whatever is asked for: of all events that were handled at once, only those that the inbox
    knows go out again, and stay known for as long as they can be delivered."""
    ages = [timedelta(0), STREAM_KEEPS - HOUR, STREAM_KEEPS + HOUR, KEPT - HOUR, DUE, 99 * DAY]
    events = [await handled(sql, ago, await appended(sql, ago)) for ago in ages]
    await sql.execute("DELETE FROM log.outbox")
    assert await trimmed(fresh_database) == 2

    assert await publish_again(sql, since=datetime.now(UTC) - 100 * DAY) == 2

    again = await sql.fetch("SELECT event_id FROM log.outbox JOIN log.event USING (position)")
    assert {row["event_id"] for row in again} == set(events[:2])
    # As long later as the last of them can wait in the outbox, and then in the stream.
    await sql.execute("DELETE FROM log.outbox")
    await sql.execute("UPDATE log.inbox SET handled_at = handled_at - $1::interval", LATE)
    await trimmed(fresh_database)
    assert set(events[:2]) <= await known(sql)


async def test_the_row_of_a_dead_letter_stays_so_that_a_retry_has_no_second_effect(
    fresh_database: Database, sql: Connection
) -> None:
    """The message was buried, and then handled all the same: the acknowledgement was lost."""
    event_id = await handled(sql, 99 * DAY)
    report_id = await handled(sql, 99 * DAY)
    payloads = (
        msgspec.json.encode({"event_id": event_id, "data": {"text": '"event_id":"no"'}}),
        msgspec.json.encode({"kind": "stopped", "report_id": report_id}),
        b"\xff{no JSON",
    )
    done: list[UUID] = []

    async def handle(payload: bytes) -> None:
        said = msgspec.json.decode(payload)
        name = UUID(said.get("event_id") or said["report_id"])
        await enter(sql, Inbox(consumer=CONSUMER, event_id=name))
        done.append(name)

    async with create_pool(fresh_database.dsn("webhooks"), size=2) as pool:
        letters = DeadLetters(pool=pool, handlers={CONSUMER: handle})
        for payload in payloads:
            await letters.bury(consumer=CONSUMER, subject="s", payload=payload, error="", tries=30)
        gone = await handled(sql, 99 * DAY)
        assert await trimmed(fresh_database) == 1
        assert await known(sql) == {event_id, report_id}
        assert gone not in await known(sql)

        await sql.execute("UPDATE log.dead_letter SET attempts_left = 1")
        await letters.retry()

    assert done == [], "its effect it has had"
    assert await sql.fetchval("SELECT count(*) FROM log.dead_letter") == 1, "what can't be read"
    assert await trimmed(fresh_database) == 2


async def test_a_row_stays_while_a_report_as_old_as_it_waits(
    fresh_database: Database, sql: Connection
) -> None:
    """All schedulers were away for long, and the last one died before it acknowledged."""
    older, younger = await handled(sql, KEPT + 5 * DAY), await handled(sql, KEPT + 3 * DAY)

    async def waits() -> datetime | None:
        return datetime.now(UTC) - KEPT - 3 * DAY

    assert await trim(fresh_database.dsn("relay"), waits) == 1
    assert await known(sql) == {younger}
    assert older not in await known(sql)


async def test_the_relay_knows_since_when_the_oldest_report_waits(
    operator: NatsBroker, relay: Client
) -> None:
    jetstream = patient(await operator.connect())
    await jetstream.purge_stream("REPORTS")
    assert await oldest_report(relay) is None
    before = datetime.now(UTC) - timedelta(seconds=1)
    stopped = Stopped(
        report_id=uuid4(), job_id=uuid4(), epoch=1, trainer_id="t", tokens_processed=1
    )
    await jetstream.publish(report_subject(stopped), msgspec.json.encode(stopped))
    first = await oldest_report(relay)
    await jetstream.publish(report_subject(stopped), msgspec.json.encode(stopped))

    assert first is not None
    assert before < first < datetime.now(UTC) + timedelta(seconds=1)
    assert await oldest_report(relay) == first
    await jetstream.purge_stream("REPORTS")


async def test_a_relay_that_leads_trims(
    fresh_database: Database, sql: Connection, nats_server: Nats, operator: NatsBroker
) -> None:
    young = await handled(sql, timedelta(0))
    await handled(sql, DUE)
    settings = {
        "TUNEYARD_DATABASE_URL": fresh_database.dsn("relay"),
        "TUNEYARD_NATS_URL": nats_server.url("relay"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.bus.relay", env=clean_environment() | settings
    )
    try:
        await eventually(lambda: known(sql), lambda rows: rows == {young})
    finally:
        process.kill()
        await process.wait()
