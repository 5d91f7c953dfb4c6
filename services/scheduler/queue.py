"""The queue's tables: what the log says is waiting, and who holds which lease."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from libs.eventlog.connection import Connection
from libs.jobstate.state import ENDED, JobState
from services.scheduler.fairness import Candidate, memory_needed

CANDIDATES_SQL = """
SELECT w.*, coalesce(l.leased, 0) AS leased, t.served_at
FROM (
    SELECT DISTINCT ON (priority, account_id)
           job_id, account_id, priority, submitted_at, memory_bytes
    FROM scheduler.queue WHERE status = 'waiting'
    ORDER BY priority, account_id, submitted_at
) w
LEFT JOIN (
    SELECT account_id, count(*) AS leased FROM scheduler.queue
    WHERE status = 'leased' GROUP BY account_id
) l USING (account_id)
LEFT JOIN scheduler.turn t USING (account_id)
"""


class QueueRow(Struct, frozen=True, kw_only=True):
    """The row of a job that has not ended, as its state demands it."""

    job_id: UUID
    account_id: UUID
    status: str
    priority: bool
    submitted_at: datetime
    memory_bytes: int


class Lease(Struct, frozen=True, kw_only=True):
    job_id: UUID
    epoch: int
    trainer_id: str


def queue_row(state: JobState) -> QueueRow | None:
    """Pure: the one place that says where in the queue a job stands; None when it has ended."""
    if state.status in ENDED:
        return None
    return QueueRow(
        job_id=state.id,
        account_id=state.account_id,
        status="verifying" if state.trained else "leased" if state.leased else "waiting",
        priority=state.priority,
        submitted_at=state.created_at,
        memory_bytes=memory_needed(state),
    )


async def project(connection: Connection, state: JobState) -> None:
    """Bring the queue, and the lease, to what the job's state says."""
    row = queue_row(state)
    if row is None:
        await connection.execute("DELETE FROM scheduler.queue WHERE job_id = $1", state.id)
    else:
        await connection.execute(
            "INSERT INTO scheduler.queue"
            " (job_id, account_id, status, priority, submitted_at, memory_bytes)"
            " VALUES ($1, $2, $3, $4, $5, $6)"
            " ON CONFLICT (job_id) DO UPDATE SET status = excluded.status",
            row.job_id,
            row.account_id,
            row.status,
            row.priority,
            row.submitted_at,
            row.memory_bytes,
        )
    if not state.leased:
        await connection.execute("DELETE FROM scheduler.lease WHERE job_id = $1", state.id)


async def candidates(connection: Connection) -> list[Candidate]:
    """The oldest waiting job of every account, by priority class."""
    return [Candidate(**row) for row in await connection.fetch(CANDIDATES_SQL)]


async def claim(connection: Connection, job_id: UUID) -> int | None:
    """Lock a waiting job's row for this transaction; None when another scheduler has it, otherwise
    the floor under new fencing epochs."""
    floor: int | None = await connection.fetchval(
        "SELECT (SELECT floor FROM scheduler.fence) FROM scheduler.queue"
        " WHERE job_id = $1 AND status = 'waiting' FOR UPDATE SKIP LOCKED",
        job_id,
    )
    return floor


async def record_lease(
    connection: Connection, state: JobState, *, instance_id: UUID, now: datetime, until: datetime
) -> None:
    await connection.execute(
        "INSERT INTO scheduler.lease (job_id, epoch, trainer_id, instance_id, expires_at)"
        " VALUES ($1, $2, $3, $4, $5)",
        state.id,
        state.epoch,
        state.trainer_id,
        instance_id,
        until,
    )
    await connection.execute(
        "INSERT INTO scheduler.turn (account_id, served_at) VALUES ($1, $2)"
        " ON CONFLICT (account_id) DO UPDATE SET served_at = excluded.served_at",
        state.account_id,
        now,
    )


async def renew_lease(
    connection: Connection, *, job_id: UUID, epoch: int, trainer_id: str, until: datetime
) -> bool | None:
    """Prolong a lease: whether the job is to be cancelled, or None when the lease is gone."""
    cancel: bool | None = await connection.fetchval(
        "UPDATE scheduler.lease SET expires_at = $4"
        " WHERE job_id = $1 AND epoch = $2 AND trainer_id = $3 RETURNING cancel",
        job_id,
        epoch,
        trainer_id,
        until,
    )
    return cancel


async def ask_to_cancel(connection: Connection, job_id: UUID) -> None:
    await connection.execute("UPDATE scheduler.lease SET cancel = true WHERE job_id = $1", job_id)


async def lapsed_leases(connection: Connection, now: datetime) -> list[Lease]:
    rows = await connection.fetch(
        "SELECT job_id, epoch, trainer_id FROM scheduler.lease WHERE expires_at < $1"
        " ORDER BY expires_at LIMIT 100",
        now,
    )
    return [Lease(**row) for row in rows]


async def leases_of(connection: Connection, trainer_id: str, instance_id: UUID) -> list[Lease]:
    """What this very process of a trainer holds."""
    rows = await connection.fetch(
        "SELECT job_id, epoch, trainer_id FROM scheduler.lease"
        " WHERE trainer_id = $1 AND instance_id = $2",
        trainer_id,
        instance_id,
    )
    return [Lease(**row) for row in rows]


async def leases_of_former(
    connection: Connection, trainer_id: str, instance_id: UUID
) -> list[Lease]:
    """What a trainer's earlier process held: that process is gone."""
    rows = await connection.fetch(
        "SELECT job_id, epoch, trainer_id FROM scheduler.lease"
        " WHERE trainer_id = $1 AND instance_id <> $2",
        trainer_id,
        instance_id,
    )
    return [Lease(**row) for row in rows]


async def prolong_all(connection: Connection, until: datetime) -> None:
    """After an outage nobody could heartbeat: give every lease its full time again."""
    await connection.execute(
        "UPDATE scheduler.lease SET expires_at = $1 WHERE expires_at < $1", until
    )
