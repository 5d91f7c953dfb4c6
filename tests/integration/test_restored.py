"""A database that was taken back in time is made one that services may work on."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from deploy.local.program import StackError
from deploy.rebuild import rebuild_all, verify_log
from deploy.restored import ATTEMPT, EVENT, MESSAGE, ZERO, take_up_again
from libs.bus.republish import publish_again
from libs.contracts.scheduler import Checkpoint, JobCheckpointed, JobLeased
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, connect
from libs.eventlog.record import Head
from libs.jobstate.state import JobState, decode_state, fold, job_stream, row_of
from services.scheduler.queue import claim, project, record_lease
from tests.support.jobs import NOON, first_append, next_append, submission
from tests.support.stack import Database

ACCOUNT = UUID(int=9)
LATER = datetime(2026, 11, 28, tzinfo=UTC)


def checkpointed(step: int) -> JobCheckpointed:
    return JobCheckpointed(
        epoch=1,
        checkpoint=Checkpoint(
            step=step, key=f"jobs/{step}", sha256="0" * 64, size_bytes=1, tokens_processed=step
        ),
    )


async def leased(sql: Connection) -> JobState:
    """A job in the log that a trainer has, with two checkpoints."""
    first, state = first_append(uuid4(), ACCOUNT, submission())
    await append_in(sql, first)
    head = Head(stream=job_stream(state.id), version=1, hash=first.records[0].hash)
    events = [JobLeased(epoch=1, trainer_id="t"), checkpointed(10), checkpointed(20)]
    for event in events:
        state = fold(state, event, NOON)
    await append_in(sql, next_append(head, state, *events, job=row_of(state)))
    await project(sql, state)
    lease = {"instance_id": uuid4(), "now": NOON, "until": NOON + timedelta(days=900)}
    await record_lease(sql, state, **lease)  # type: ignore[arg-type]
    return state


async def read(sql: Connection, job_id: UUID) -> JobState:
    return decode_state(await sql.fetchval("SELECT state FROM log.job WHERE id = $1", job_id))


async def test_jobs_wait_again_with_what_is_there_and_no_number_is_given_twice(
    fresh_database: Database,
) -> None:
    sql = await connect(fresh_database.admin_dsn)
    before = await leased(sql)
    await sql.execute("INSERT INTO telemetry.sequence VALUES ($1, 7)", ACCOUNT)
    await sql.execute("DELETE FROM log.outbox")

    async def is_there(key: str) -> bool:
        return key != "jobs/20"

    done = await take_up_again(fresh_database.admin_dsn, now=lambda: LATER, is_there=is_there)

    assert (done.queued, done.published) == (1, 4)
    state = await read(sql, before.id)
    assert (state.status, state.leased, state.retries) == ("queued", False, 0)
    assert state.checkpoint == checkpointed(10).checkpoint
    assert await sql.fetchval("SELECT count(*) FROM scheduler.lease") == 0
    since = LATER - ZERO
    positions = [r[0] for r in await sql.fetch("SELECT position FROM log.event ORDER BY 1")]
    assert positions[-1] > since // EVENT > positions[-2]
    assert await sql.fetchval("SELECT last FROM telemetry.sequence") == since // MESSAGE
    assert await claim(sql, before.id) == since // ATTEMPT
    assert [done for done in await rebuild_all(fresh_database.admin_dsn) if done.changed] == []
    assert (await verify_log(fresh_database.admin_dsn)).damages == []

    again = await take_up_again(fresh_database.admin_dsn, now=lambda: LATER, is_there=is_there)
    assert (again.queued, again.published) == (0, 0)
    await sql.close()


async def test_only_what_the_stream_would_have_kept_is_published_again(
    fresh_database: Database,
) -> None:
    sql = await connect(fresh_database.admin_dsn)
    await leased(sql)
    await sql.execute("DELETE FROM log.outbox")
    now = await sql.fetchval("SELECT now()")

    assert await publish_again(sql, since=now + timedelta(hours=1)) == 0
    assert await publish_again(sql, since=now - timedelta(hours=1)) == 4
    assert await sql.fetchval("SELECT count(*) FROM log.outbox") == 4
    await sql.close()


async def test_it_is_refused_while_a_service_works_on_it(fresh_database: Database) -> None:
    scheduler = await connect(fresh_database.dsn("scheduler"))
    try:
        with pytest.raises(StackError, match="scheduler is connected"):
            await take_up_again(fresh_database.admin_dsn, now=lambda: LATER)
    finally:
        await scheduler.close()
