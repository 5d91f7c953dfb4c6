"""The release before goes on working while the schema changes under it."""

import asyncio
from uuid import uuid4

from libs.eventlog.connection import connect
from libs.eventlog.inbox import enter
from libs.eventlog.migrations import migrate
from libs.eventlog.record import Inbox
from tests.support.stack import Database
from tests.support.waiting import eventually, held_open

INDEX, COLUMN = (
    "libs/eventlog/schema_006_trim_index.sql",
    "services/scheduler/schema_006_newest.sql",
)
AS_BEFORE = f"""
DROP INDEX log.inbox_oldest;
ALTER TABLE scheduler.lease DROP COLUMN newest;
DELETE FROM public.schema_migration WHERE file IN ('{INDEX}', '{COLUMN}');
"""
WAITING_SQL = """
SELECT count(*) FROM pg_locks
WHERE NOT granted AND relation = 'scheduler.lease'::regclass AND database =
    (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def test_no_file_keeps_what_it_has_locked_while_another_waits(
    fresh_database: Database,
) -> None:
    """A scheduler has read a lease, and then appends: a migration that still held the inbox, and
    waited for the lease, would wait for it in a circle."""
    admin = await connect(fresh_database.admin_dsn)
    await admin.execute(AS_BEFORE)
    scheduler = await connect(fresh_database.dsn("scheduler"))
    async with held_open(scheduler):
        await scheduler.fetch("SELECT * FROM scheduler.lease")
        migrating = asyncio.create_task(migrate(fresh_database.admin_dsn, fresh_database.passwords))
        await eventually(lambda: admin.fetchval(WAITING_SQL), lambda waiting: waiting == 1)
        await enter(scheduler, Inbox(consumer="scheduler-reports", event_id=uuid4()))
    assert await migrating == [INDEX, COLUMN]
    await scheduler.close()
    await admin.close()
