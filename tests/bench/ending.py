"""What must be true when every job of a load has ended; each fault is a sentence."""

from collections.abc import Sequence

from msgspec import Struct

from deploy.rebuild import rebuild_all, verify_log
from libs.eventlog.connection import Pool
from tests.support.ledger_checks import WRONG_SQL

ONCE = (
    *("payment.reserved.v1", "job.submitted.v1", "job.trained.v1", "artifact.published.v1"),
    *("job.completed.v1", "payment.captured.v1"),
)
"""Each of these happens once to a job, and nothing else but attempts does: each is a lease, perhaps
with a start, and each but the last is reclaimed (on a machine so busy that a heart stops)."""

LIVES_SQL = """
SELECT once, leases, starts, reclaims, count(*) AS jobs, min(job_id::text) AS example FROM (
    SELECT job_id,
        array_agg(type ORDER BY type) FILTER (
            WHERE type NOT IN ('job.leased.v1', 'job.started.v1', 'job.reclaimed.v1')) AS once,
        count(*) FILTER (WHERE type = 'job.leased.v1') AS leases,
        count(*) FILTER (WHERE type = 'job.started.v1') AS starts,
        count(*) FILTER (WHERE type = 'job.reclaimed.v1') AS reclaims
    FROM log.event GROUP BY job_id
) lives GROUP BY once, leases, starts, reclaims
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

# Of what the log says happened to a job, its owner is told: by webhooks, and once in its stream.
UNTOLD_SQL = """
WITH happened AS (
    SELECT event_id, job_id, type FROM log.event
    WHERE type IN ('job.submitted.v1', 'job.started.v1', 'job.completed.v1')
)
SELECT (SELECT count(*) FROM happened h FULL JOIN webhooks.notification n USING (event_id)
        WHERE h.event_id IS NULL OR n.event_id IS NULL) AS "webhooks.notification",
    (SELECT count(*) FROM happened h
     FULL JOIN (SELECT * FROM telemetry.message WHERE kind = 'state') m USING (event_id)
     WHERE h.event_id IS NULL OR m.event_id IS NULL) AS "states in streams",
    (SELECT count(*) FROM (SELECT * FROM happened WHERE type = 'job.completed.v1') h
     FULL JOIN (SELECT * FROM telemetry.message WHERE kind = 'done') m USING (event_id)
     WHERE h.event_id IS NULL OR m.event_id IS NULL) AS "ends of streams"
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
    found, whole = [], 0
    for row in await admin.fetch(LIVES_SQL):
        attempts = row["leases"] == row["reclaims"] + 1 and 1 <= row["starts"] <= row["leases"]
        if row["once"] == sorted(ONCE) and attempts:
            whole += row["jobs"]
        else:
            found.append(f"wrong lives: {dict(row)}")
    if whole != jobs:
        found.append(f"{whole} jobs have had a whole life, of {jobs}")
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
    row = await admin.fetchrow(UNTOLD_SQL)
    assert row is not None
    found = [f"{n} {what} differ from what happened" for what, n in row.items() if n]
    points = await admin.fetchval("SELECT count(*) FROM telemetry.metric")
    if points != (wanted := expected.points * expected.jobs):
        found.append(f"{points} points are stored, of {wanted}")
    return found


async def waits(admin: Pool) -> Waits:
    rows = await admin.fetch(WAITS_SQL)
    return Waits(
        to_lease=[row["to_lease"] for row in rows],
        to_completed=[row["to_completed"] for row in rows],
    )
