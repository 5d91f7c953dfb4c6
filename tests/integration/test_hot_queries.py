"""What is asked all the time costs the same however much is stored: by the rows that were read."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from libs.bus.relay import DRAIN, TAKE_SQL
from libs.bus.trim import BATCH, KEPT, LATE, TRIM_SQL
from libs.eventlog.connection import Connection, connect
from services.scheduler import queue
from services.scheduler.fairness import AGED, MAX_LEASED_PER_ACCOUNT
from tests.support.jobs import NOON
from tests.support.stack import Database

EVENTS = 20_000
ACCOUNTS = 2_000
JOBS_OF_ONE = 5
MEMORY = 2**34

EVENTS_SQL = """
INSERT INTO log.event (event_id, stream, version, job_id, account_id, type, data, meta, hash)
SELECT gen_random_uuid(), 'job:' || n, 1, gen_random_uuid(), gen_random_uuid(), 'job.leased.v1',
       '{"type":"job.leased.v1"}', '{"occurred_at":"2026-01-01T00:00:00Z"}', ''
FROM generate_series(1, $1::int) AS n
"""
WAITING_SQL = """
INSERT INTO scheduler.queue (job_id, account_id, status, priority, submitted_at, memory_bytes)
SELECT gen_random_uuid(), account.id, 'waiting', n % 10 = 0,
       $3::timestamptz + n * interval '1 ms', 1
FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(1, $1::int) AS n) account,
     generate_series(1, $2::int)
"""


@pytest.fixture
async def admin(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn, command_timeout=240)
    yield connection
    await connection.close()


def scans(plan: dict[str, Any]) -> Iterator[float]:
    """Rows that each scan of a table looked at, also those that were not wanted."""
    if "Relation Name" in plan:
        removed = (value for key, value in plan.items() if key.startswith("Rows Removed"))
        yield (plan["Actual Rows"] + sum(removed)) * plan["Actual Loops"]
    for child in plan.get("Plans", ()):
        yield from scans(child)


async def rows_read(connection: Connection, sql: str, *args: object) -> float:
    said = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *args)
    return sum(scans(json.loads(said)[0]["Plan"]))


async def test_the_relay_reads_what_is_in_the_outbox_of_a_long_log(admin: Connection) -> None:
    await admin.execute(EVENTS_SQL, EVENTS)
    await admin.execute("ANALYZE log.event")
    await admin.execute(
        "INSERT INTO log.outbox SELECT position FROM log.event ORDER BY position DESC LIMIT 3"
    )
    assert len(await admin.fetch(TAKE_SQL, DRAIN)) == 3
    assert await rows_read(admin, TAKE_SQL, DRAIN) == 3 + 3


async def test_trimming_reads_what_is_due_of_a_long_inbox(admin: Connection) -> None:
    await admin.execute(EVENTS_SQL, EVENTS)
    for ago, rows in ((timedelta(0), EVENTS), (KEPT + timedelta(hours=1), 3)):
        await admin.execute(
            "INSERT INTO log.inbox SELECT 'a', gen_random_uuid(), now() - $1::interval"
            " FROM generate_series(1, $2)",
            ago,
            rows,
        )
    await admin.execute("ANALYZE log.inbox")

    read = await rows_read(admin, TRIM_SQL, KEPT, None, LATE, BATCH)

    assert read <= 3 * 3, "found, and deleted; the hold; each looked up among dead letters"
    assert await rows_read(admin, TRIM_SQL, KEPT, None, LATE, BATCH) <= 1, "the hold"
    assert await admin.fetchval("SELECT count(*) FROM log.inbox") == EVENTS


@pytest.mark.parametrize("late", [timedelta(0), 2 * AGED])
async def test_a_lease_does_not_read_the_whole_queue(admin: Connection, late: timedelta) -> None:
    await admin.execute(WAITING_SQL, ACCOUNTS, JOBS_OF_ONE, NOON)
    await admin.execute("ANALYZE scheduler.queue")
    await admin.execute("ANALYZE scheduler.turn")
    limits = (MEMORY, MAX_LEASED_PER_ACCOUNT, queue.LOOKED_AT, NOON + late - AGED)

    found = await queue.candidates(admin, memory_bytes=MEMORY, now=NOON + late)

    assert any(one.priority for one in found)
    assert min(one.submitted_at for one in found if not one.priority) <= NOON + timedelta(seconds=1)
    kinds = 3  # priority, standard, aged; each row is of a turn and of a job
    assert await rows_read(admin, queue.CANDIDATES_SQL, *limits) <= kinds * 2 * queue.LOOKED_AT


async def test_turns_count_what_waits_and_runs_whatever_changes_the_queue(
    admin: Connection,
) -> None:
    account, job = uuid4(), uuid4()

    async def turn() -> tuple[int, ...]:
        row = await admin.fetchrow(
            "SELECT leased, standard, priority FROM scheduler.turn WHERE account_id = $1", account
        )
        assert row is not None
        return tuple(row)

    insert = (
        "INSERT INTO scheduler.queue (job_id, account_id, status, priority, submitted_at,"
        " memory_bytes) VALUES ($1, $2, 'waiting', $3, now(), 1)"
    )
    await admin.execute(insert, job, account, False)
    await admin.execute(insert, uuid4(), account, True)
    assert await turn() == (0, 1, 1)
    await admin.execute("UPDATE scheduler.queue SET status = 'leased' WHERE job_id = $1", job)
    assert await turn() == (1, 0, 1)
    await admin.execute("UPDATE scheduler.queue SET status = 'verifying' WHERE job_id = $1", job)
    assert await turn() == (0, 0, 1)
    await admin.execute("DELETE FROM scheduler.queue")
    assert await turn() == (0, 0, 0)
