"""What an operator sees of the queue and of the leases, looked up now and then.

Both tables hold what has not ended, so a look costs by what waits, however long the log is, and no
more than ``LOOKED_AT`` rows of it: every replica looks.
"""

from collections.abc import Callable
from datetime import datetime

from libs.eventlog.connection import Pool
from libs.observability.metrics import LEASES, LEASES_LAPSED, LOOKED_AT, QUEUE, QUEUE_AGE

ALL = (QUEUE, QUEUE_AGE, LEASES, LEASES_LAPSED)

# Null: of a job that a scheduler queued which did not know the column yet.
QUEUE_SQL = f"""
SELECT status, coalesce(job_type, 'unknown') AS job_type, count(*) AS jobs,
    min(submitted_at) AS oldest
FROM (SELECT status, job_type, submitted_at FROM scheduler.queue LIMIT {LOOKED_AT}) q GROUP BY 1, 2
"""
LEASES_SQL = """
SELECT count(*) AS held, count(*) FILTER (WHERE expires_at < $1) AS lapsed FROM scheduler.lease
"""


async def look(pool: Pool, now: Callable[[], datetime]) -> None:
    moment = now()
    queue = await pool.fetch(QUEUE_SQL)
    leases = await pool.fetchrow(LEASES_SQL, moment)
    assert leases is not None
    QUEUE.show(*((row["jobs"], row["status"], row["job_type"]) for row in queue))
    QUEUE_AGE.show(
        *(
            (max((moment - row["oldest"]).total_seconds(), 0.0), row["job_type"])
            for row in queue
            if row["status"] == "waiting"
        )
    )
    LEASES.show((leases["held"],))
    LEASES_LAPSED.show((leases["lapsed"],))
