"""Read models follow from the log: rebuilt rows equal the live ones, and damage is repaired."""

from uuid import uuid4

from deploy.rebuild import rebuild_all, verify_log
from libs.contracts.events import decode_job_event
from libs.contracts.scheduler import JobLeased
from libs.eventlog.append import append_in
from libs.eventlog.connection import connect
from libs.eventlog.read import load
from libs.jobstate.state import fold, job_stream, row_of
from services.scheduler.queue import project
from tests.support.jobs import NOON, first_append, next_append, submission
from tests.support.stack import Database

COUNTED_SQL = "SELECT account_id, leased, standard, priority FROM scheduler.turn ORDER BY 1"


async def test_rebuild_changes_nothing_in_health_and_repairs_what_was_damaged(
    fresh_database: Database,
) -> None:
    connection = await connect(fresh_database.admin_dsn)
    for n in range(20):
        append, state = first_append(uuid4(), uuid4(), submission())
        await append_in(connection, append)
        if n % 2:
            head, _ = await load(connection, job_stream(state.id), decode_job_event)
            event = JobLeased(epoch=1, trainer_id="t")
            state = fold(state, event, NOON)
            follow = next_append(head, state, event, job=row_of(state))
            await append_in(connection, follow)
        await project(connection, state)

    healthy = await rebuild_all(fresh_database.admin_dsn)
    assert {done.table: (done.rows, done.changed) for done in healthy} == {
        "log.job": (20, 0),
        "scheduler.queue": (20, 0),
        "artifact.retention": (0, 0),
        "billing.payment": (0, 0),
        "billing.balance": (0, 0),
        "billing.spent": (0, 0),
    }

    await connection.execute("UPDATE log.job SET status = 'completed' WHERE version = 2")
    counted = await connection.fetch(COUNTED_SQL)
    await connection.execute("DELETE FROM scheduler.queue WHERE status = 'waiting'")
    await connection.execute("UPDATE scheduler.turn SET leased = leased + 1, standard = -1")
    repaired = {done.table: done.changed for done in await rebuild_all(fresh_database.admin_dsn)}
    assert (repaired["log.job"], repaired["scheduler.queue"]) == (10, 10)
    assert await connection.fetch(COUNTED_SQL) == counted
    assert all(done.changed == 0 for done in await rebuild_all(fresh_database.admin_dsn))

    report = await verify_log(fresh_database.admin_dsn)
    assert (report.events, report.streams, report.damages) == (30, 20, [])
    await connection.close()
