"""What must be true when every job of a load has ended; each fault is a sentence."""

from collections.abc import Sequence

from msgspec import Struct

from deploy.rebuild import rebuild_all, verify_log
from libs.eventlog.connection import Pool
from tests.support.ledger_checks import WRONG_SQL

LIFE = (
    *("payment.reserved.v1", "job.submitted.v1", "job.leased.v1", "job.started.v1"),
    *("job.trained.v1", "artifact.published.v1", "job.completed.v1", "payment.captured.v1"),
)
"""Each of these happens once to a job that nothing goes wrong with, and nothing else does."""

LIVES_SQL = """
SELECT types, count(*) AS jobs, min(job_id::text) AS example FROM (
    SELECT job_id, array_agg(type ORDER BY type) AS types FROM log.event GROUP BY job_id
) lives GROUP BY types
"""

ENTRIES_SQL = """
SELECT kind, entries, count(*) AS jobs FROM (
    SELECT job_id, kind, count(*) AS entries FROM billing.entry WHERE job_id IS NOT NULL
    GROUP BY job_id, kind
) each GROUP BY kind, entries
"""

EMPTY = (
    *("scheduler.queue", "scheduler.lease", "log.outbox", "log.dead_letter"),
    "webhooks.delivery",
)
"""Nothing waits in any of these; no account has an endpoint."""

STORIES_SQL = """
SELECT kind, number, count(*) AS jobs FROM (
    SELECT job_id, kind, count(*) AS number FROM telemetry.message
    WHERE kind IN ('state', 'done') GROUP BY job_id, kind
) each GROUP BY kind, number
"""

WAITS_SQL = """
WITH moments AS (
    SELECT job_id,
        min(recorded_at) FILTER (WHERE type = 'job.submitted.v1') AS submitted,
        min(recorded_at) FILTER (WHERE type = 'job.leased.v1') AS leased,
        min(recorded_at) FILTER (WHERE type = 'job.completed.v1') AS completed
    FROM log.event GROUP BY job_id
)
SELECT extract(epoch FROM leased - submitted)::float8 AS to_lease,
       extract(epoch FROM completed - submitted)::float8 AS to_completed
FROM moments
"""


class Expected(Struct, frozen=True, kw_only=True):
    """``points`` is how many each job has said."""

    jobs: int
    points: int


class Waits(Struct, frozen=True, kw_only=True):
    """Seconds, by the stored events, of every job."""

    to_lease: list[float]
    to_completed: list[float]


async def faults(admin: Pool, admin_dsn: str, expected: Expected) -> list[str]:
    """What is wrong; nothing, in health. Slow: it walks the log, and rebuilds all read models."""
    found = [
        *await _lives(admin, expected.jobs),
        *await _money(admin, expected.jobs),
        *await _told(admin, expected),
    ]
    for table in EMPTY:
        if left := await admin.fetchval(f"SELECT count(*) FROM {table}"):
            found.append(f"{left} rows are left in {table}")
    for done in await rebuild_all(admin_dsn):
        if done.changed:
            found.append(f"rebuild changed {done.changed} rows of {done.table}")
    found += [
        f"{damage.stream}: {damage.reason}" for damage in (await verify_log(admin_dsn)).damages
    ]
    return found


async def _lives(admin: Pool, jobs: int) -> Sequence[str]:
    found = []
    for row in await admin.fetch(LIVES_SQL):
        if row["types"] != sorted(LIFE):
            found.append(f"{row['jobs']} jobs, {row['example']} say, have {row['types']}")
        elif row["jobs"] != jobs:
            found.append(f"{row['jobs']} jobs have had a whole life, of {jobs}")
    rows = await admin.fetch("SELECT status, count(*) AS jobs FROM log.job GROUP BY status")
    states = {row["status"]: row["jobs"] for row in rows}
    if states != {"completed": jobs}:
        found.append(f"the jobs stand at {states}")
    return found


async def _money(admin: Pool, jobs: int) -> Sequence[str]:
    entries = {(row["kind"], row["entries"]): row["jobs"] for row in await admin.fetch(ENTRIES_SQL)}
    found = [f"{row['what']}: {row['at']}" for row in await admin.fetch(WRONG_SQL)]
    if entries != {("reserve", 1): jobs, ("capture", 1): jobs}:
        found.append(f"the ledger's entries of a job, and how many have them: {entries}")
    return found


async def _told(admin: Pool, expected: Expected) -> Sequence[str]:
    found = []
    stories = {(row["kind"], row["number"]): row["jobs"] for row in await admin.fetch(STORIES_SQL)}
    if stories != {("state", 3): expected.jobs, ("done", 1): expected.jobs}:
        found.append(f"streams tell of states, and how many jobs: {stories}")
    for table, number in (
        ("webhooks.notification", 3 * expected.jobs),
        ("telemetry.metric", expected.points * expected.jobs),
    ):
        if (there := await admin.fetchval(f"SELECT count(*) FROM {table}")) != number:
            found.append(f"{table} has {there} rows, of {number}")
    return found


async def waits(admin: Pool) -> Waits:
    rows = await admin.fetch(WAITS_SQL)
    return Waits(
        to_lease=[row["to_lease"] for row in rows],
        to_completed=[row["to_completed"] for row in rows],
    )
