"""The queue from the log alone, and what is counted of it. Leases, and when an account was served
last, are not in the log, and are left as they are."""

from collections.abc import AsyncIterator

import msgspec

from libs.eventlog.connection import Connection
from libs.eventlog.rebuild import Rebuilt, replace_rows
from libs.jobstate.rebuild import all_states
from services.scheduler.queue import QueueRow, queue_row

COLUMNS = tuple(field.name for field in msgspec.structs.fields(QueueRow))


# One row after the other, an account with many jobs would have its counts written for each of them.
UNCOUNTED_SQL = "ALTER TABLE scheduler.queue DISABLE TRIGGER counted"
RECOUNT_SQL = """
ALTER TABLE scheduler.queue ENABLE TRIGGER counted;
UPDATE scheduler.turn SET leased = 0, standard = 0, priority = 0;
INSERT INTO scheduler.turn AS t (account_id, leased, standard, priority)
SELECT account_id, count(*) FILTER (WHERE status = 'leased'),
       count(*) FILTER (WHERE status = 'waiting' AND NOT priority),
       count(*) FILTER (WHERE status = 'waiting' AND priority)
FROM scheduler.queue GROUP BY account_id
ON CONFLICT (account_id) DO UPDATE SET
    leased = excluded.leased, standard = excluded.standard, priority = excluded.priority;
"""


async def rebuild_queue(connection: Connection, reader: Connection) -> Rebuilt:
    """Re-derive ``scheduler.queue`` in the caller's transaction."""

    async def rows() -> AsyncIterator[tuple[object, ...]]:
        async for state in all_states(reader):
            if (row := queue_row(state)) is not None:
                yield msgspec.structs.astuple(row)

    await connection.execute(UNCOUNTED_SQL)
    rebuilt = await replace_rows(connection, "scheduler.queue", COLUMNS, rows())
    await connection.execute(RECOUNT_SQL)
    return rebuilt
