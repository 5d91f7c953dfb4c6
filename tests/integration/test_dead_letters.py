"""What a service could not handle: kept, shown, handled again by whoever could not, or dropped."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from faststream.nats import NatsBroker
from msgspec import Struct, field

from libs.bus.broker import make_broker
from libs.bus.consume import MAX_DELIVERIES, durable_name, subscribe
from libs.bus.service import every
from libs.bus.streams import event_subject, metrics_subject
from libs.contracts.base import Envelope
from libs.contracts.scheduler import JobReclaimed
from libs.contracts.training import MetricBatch, MetricPoint
from libs.eventlog.connection import Connection, Pool, connect, create_pool
from libs.eventlog.dead_letters import ATTEMPTS, DeadLetters
from libs.eventlog.inbox import enter
from libs.eventlog.record import Inbox
from tests.support.jobs import NOON, envelope
from tests.support.letters import REPORTS, bury_report, leased, operate, starts_of
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, patient

RETRY_EVERY = 0.05  # seconds; a test need not wait for two


@pytest.fixture
async def sql(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn)
    yield connection
    await connection.close()


async def letters_of(sql: Connection, consumer: str) -> list[asyncpg.Record]:
    return await sql.fetch(
        "SELECT * FROM log.dead_letter WHERE consumer = $1 ORDER BY id", consumer
    )


class Room(Struct, kw_only=True):
    """A consumer whose effect is a row of the inbox, and that fails while there is a ``cause``."""

    pool: Pool
    consumer: str
    cause: str | None = None
    calls: list[UUID] = field(default_factory=list)

    async def handle(self, payload: bytes) -> None:
        sent = msgspec.json.decode(payload, type=Envelope)
        self.calls.append(sent.event_id)
        async with self.pool.acquire() as connection, connection.transaction():
            await enter(connection, Inbox(consumer=self.consumer, event_id=sent.event_id))
            if self.cause is not None:
                raise ValueError(self.cause)


async def test_what_fails_every_time_is_kept_and_handled_once_when_the_cause_is_gone(
    operator: NatsBroker, nats_url: str, fresh_database: Database, sql: Connection
) -> None:
    job, tag = uuid4(), uuid4().hex
    sent = envelope(job, uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))
    broker = make_broker(nats_url)
    async with (
        create_pool(fresh_database.dsn("webhooks"), size=2) as pool,
        create_pool(fresh_database.dsn("billing"), size=2) as others_pool,
    ):
        room = Room(pool=pool, consumer=durable_name("webhooks", tag), cause="no room\nat all")
        other = Room(pool=others_pool, consumer=durable_name("billing", tag))
        letters, others = DeadLetters(pool=pool), DeadLetters(pool=others_pool)
        for one, kept in ((room, letters), (other, others)):
            subscribe(
                broker,
                service="operator",
                stream="EVENTS",
                subject=event_subject(sent.type, job),
                durable=one.consumer,
                handle=one.handle,
                letters=kept,
                delays=(0.01,),
            )
        await broker.start()
        jetstream = patient(await operator.connect())
        await jetstream.publish(event_subject(sent.type, job), msgspec.json.encode(sent))
        (letter,) = await eventually(lambda: letters_of(sql, room.consumer), len)
        assert letter["tries"] == MAX_DELIVERIES == len(room.calls)

        async with every(RETRY_EVERY, letters.retry), every(RETRY_EVERY, others.retry):
            listed = await operate(fresh_database, "list")
            again = await operate(fresh_database, "retry", str(letter["id"]))
            (still,) = await letters_of(sql, room.consumer)
            room.cause = None
            handled = await operate(fresh_database, "retry", "--all")
        await broker.stop()

    (line,) = listed.stdout.splitlines()
    parts = (room.consumer, f"events.job.reclaimed.v1 of job {job}", "tries 30", "no room")
    assert [part for part in parts if part not in line] == []
    assert again.returncode == 1
    assert "failed again" in again.stdout
    assert (still["id"], still["tries"], still["attempts_left"]) == (letter["id"], 31, 0)
    assert still["failed_at"] > letter["failed_at"]
    assert (handled.returncode, handled.stdout) == (0, "handled 1 of 1\n")
    assert await letters_of(sql, room.consumer) == []
    effects = await sql.fetch("SELECT consumer FROM log.inbox WHERE event_id = $1", sent.event_id)
    assert sorted(row["consumer"] for row in effects) == sorted([room.consumer, other.consumer])
    assert other.calls == [sent.event_id], "a retry is its consumer's alone"


async def test_a_report_is_handled_again_by_the_scheduler(
    operator: NatsBroker, nats_server: Nats, fresh_database: Database, sql: Connection
) -> None:
    job = await leased(sql)
    settings = {
        "database_url": fresh_database.dsn("scheduler"),
        "nats_url": nats_server.url("scheduler"),
    }
    async with running("scheduler", settings, operator):
        jetstream = patient(await operator.connect())
        await jetstream.publish(f"reports.started.{job.job_id}", b"{no report\x1b]0;")
        (poison,) = await eventually(lambda: letters_of(sql, REPORTS), len)
        letter = str(await bury_report(fresh_database, job))

        shown = await operate(fresh_database, "show", str(poison["id"]))
        tried = await operate(fresh_database, "retry", "--all")
        (left,) = await letters_of(sql, REPORTS)
        dropped = await operate(fresh_database, "drop", str(poison["id"]))
        none = await operate(fresh_database, "retry", letter)

    assert await starts_of(sql, job) == 1
    assert shown.stdout.endswith("\n\n{no report\\x1b]0;\n"), "a terminal obeys no payload"
    assert "DecodeError" in shown.stdout
    assert tried.returncode == 1
    assert tried.stdout.endswith("handled 1 of 2\n")
    assert (left["id"], left["tries"], poison["tries"]) == (poison["id"], 2, 1)
    assert dropped.stdout.startswith(f"dropped {poison['id']}  {REPORTS}")
    assert await letters_of(sql, REPORTS) == []
    assert (none.returncode, none.stdout) == (1, "")
    assert f"There is no dead letter {letter}" in none.stderr


async def test_telemetry_is_handled_again_by_telemetry(
    operator: NatsBroker, nats_server: Nats, fresh_database: Database, sql: Connection
) -> None:
    job = uuid4()
    settings = {
        "database_url": fresh_database.dsn("telemetry"),
        "nats_url": nats_server.url("telemetry"),
    }
    point = MetricPoint(
        ts=NOON,
        step=1,
        cycle=0,
        phase="train",
        loss=2.5,
        lr=1e-4,
        throughput=1.0,
        vram_gb=0.0,
        grad_norm=1.0,
    )
    batch = MetricBatch(job_id=job, epoch=1, points=(point,))
    async with running("telemetry", settings, operator):
        await sql.execute(
            "INSERT INTO log.dead_letter (consumer, subject, payload, error)"
            " VALUES ('telemetry-metrics', $1, $2, 'OSError()')",
            metrics_subject(job),
            msgspec.json.encode(batch),
        )
        handled = await operate(fresh_database, "retry", "--all")
    assert (handled.returncode, handled.stdout) == (0, "handled 1 of 1\n")
    assert await sql.fetchval("SELECT loss FROM telemetry.metric WHERE job_id = $1", job) == 2.5


async def test_no_service_sees_or_removes_what_another_could_not_handle(
    fresh_database: Database, sql: Connection
) -> None:
    job = await leased(sql)
    await bury_report(fresh_database, job)
    for role in ("gateway", "billing", "artifact", "webhooks", "telemetry"):
        service = await connect(fresh_database.dsn(role))
        assert await service.fetch("SELECT * FROM log.dead_letter") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute(
                "INSERT INTO log.dead_letter (consumer, subject, payload, error)"
                " VALUES ('scheduler-reports', 's', '', 'e')"
            )
        await service.close()
    assert len(await letters_of(sql, REPORTS)) == 1


async def test_a_retry_that_nobody_tries_says_whose_it_is(
    fresh_database: Database, sql: Connection
) -> None:
    await bury_report(fresh_database, await leased(sql))
    waiting = await operate(fresh_database, "retry", "--all")
    listed = await operate(fresh_database, "list")
    assert waiting.returncode == 1
    assert f"1 not tried yet: {REPORTS} is busy, or its service does not run" in waiting.stderr
    assert "to be tried again" in listed.stdout
    (letter,) = await letters_of(sql, REPORTS)
    assert letter["attempts_left"] == ATTEMPTS


async def test_two_replicas_never_try_one_letter_at_once(
    fresh_database: Database, sql: Connection
) -> None:
    job = await leased(sql)
    letter = await bury_report(fresh_database, job)
    await sql.execute("UPDATE log.dead_letter SET attempts_left = 3 WHERE id = $1", letter)
    begun, may_end, tries = asyncio.Event(), asyncio.Event(), []

    async def slow(payload: bytes) -> None:
        tries.append(payload)
        begun.set()
        await may_end.wait()

    async with (
        create_pool(fresh_database.dsn("scheduler"), size=2) as one,
        create_pool(fresh_database.dsn("scheduler"), size=2) as two,
    ):
        first = asyncio.create_task(DeadLetters(pool=one, handlers={REPORTS: slow}).retry())
        async with asyncio.timeout(60):
            await begun.wait()
        async with asyncio.timeout(60):
            await DeadLetters(pool=two, handlers={REPORTS: slow}).retry()
        may_end.set()
        await first
    assert tries == [job.payload]
    assert await letters_of(sql, REPORTS) == []


async def test_one_letter_or_all_must_be_named(fresh_database: Database) -> None:
    for arguments in (("retry",), ("drop",), ("retry", "1", "--all")):
        refused = await operate(fresh_database, *arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Name one by its id, or take --all of them." in refused.stderr
