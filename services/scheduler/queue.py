"""The queue's tables: what the log says is waiting, and who holds which lease."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from libs.eventlog.connection import Connection
from libs.jobstate.state import ENDED, JobState
from services.scheduler.fairness import (
    AGED,
    MAX_LEASED_PER_ACCOUNT,
    Candidate,
    memory_needed,
)

LOOKED_AT = 32
"""Candidates of each kind that one look considers, in turn: more than schedulers that look at the
same time may have locked already."""

# Accounts come in turn from an index, each with its oldest waiting job, and no more of them than
# are looked at: the cost depends neither on how many jobs wait nor on how many accounts. The oldest
# standard jobs of all stand beside them: their age may have made them urgent.
CANDIDATES_SQL = """
(SELECT oldest.*, t.leased, t.served_at
 FROM scheduler.turn t CROSS JOIN LATERAL (
     SELECT job_id, account_id, priority, submitted_at, memory_bytes FROM scheduler.queue q
     WHERE q.status = 'waiting' AND q.priority AND q.account_id = t.account_id
     ORDER BY q.submitted_at LIMIT 1) oldest
 WHERE t.priority > 0 AND t.leased < $2 AND oldest.memory_bytes <= $1
 ORDER BY t.leased, t.served_at NULLS FIRST LIMIT $3)
UNION
(SELECT oldest.*, t.leased, t.served_at
 FROM scheduler.turn t CROSS JOIN LATERAL (
     SELECT job_id, account_id, priority, submitted_at, memory_bytes FROM scheduler.queue q
     WHERE q.status = 'waiting' AND NOT q.priority AND q.account_id = t.account_id
     ORDER BY q.submitted_at LIMIT 1) oldest
 WHERE t.standard > 0 AND t.leased < $2 AND oldest.memory_bytes <= $1
 ORDER BY t.leased, t.served_at NULLS FIRST LIMIT $3)
UNION
(SELECT q.job_id, q.account_id, q.priority, q.submitted_at, q.memory_bytes, t.leased, t.served_at
 FROM scheduler.queue q JOIN scheduler.turn t USING (account_id)
 WHERE q.status = 'waiting' AND NOT q.priority AND q.submitted_at <= $4
   AND t.leased < $2 AND q.memory_bytes <= $1
 ORDER BY q.submitted_at LIMIT $3)
"""


class QueueRow(Struct, frozen=True, kw_only=True):
    """The row of a job that has not ended, as its state demands it."""

    job_id: UUID
    account_id: UUID
    status: str
    priority: bool
    submitted_at: datetime
    memory_bytes: int
    job_type: str


class Lease(Struct, frozen=True, kw_only=True):
    job_id: UUID
    epoch: int
    trainer_id: str


class Held(Lease, frozen=True, kw_only=True):
    """``instance_id``: of the trainer's process that was given it. ``newest``: the trainer was
    given none after it."""

    instance_id: UUID
    newest: bool


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
        job_type=state.type,
    )


async def project(connection: Connection, state: JobState) -> None:
    """Bring the queue, and the lease, to what the job's state says."""
    row = queue_row(state)
    if row is None:
        await connection.execute("DELETE FROM scheduler.queue WHERE job_id = $1", state.id)
    else:
        await connection.execute(
            "INSERT INTO scheduler.queue"
            " (job_id, account_id, status, priority, submitted_at, memory_bytes, job_type)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)"
            " ON CONFLICT (job_id) DO UPDATE SET status = excluded.status",
            row.job_id,
            row.account_id,
            row.status,
            row.priority,
            row.submitted_at,
            row.memory_bytes,
            row.job_type,
        )
    if not state.leased:
        await connection.execute("DELETE FROM scheduler.lease WHERE job_id = $1", state.id)


async def candidates(
    connection: Connection, *, memory_bytes: int, now: datetime
) -> list[Candidate]:
    """Jobs that fit the trainer, those of the accounts that are next among them."""
    rows = await connection.fetch(
        CANDIDATES_SQL, memory_bytes, MAX_LEASED_PER_ACCOUNT, LOOKED_AT, now - AGED
    )
    return [Candidate(**row) for row in rows]


async def claim(connection: Connection, job_id: UUID) -> int | None:
    """Lock a waiting job's row for this transaction; None when another scheduler has it, otherwise
    the floor under new fencing epochs."""
    floor: int | None = await connection.fetchval(
        "SELECT (SELECT floor FROM scheduler.fence) FROM scheduler.queue"
        " WHERE job_id = $1 AND status = 'waiting' FOR UPDATE SKIP LOCKED",
        job_id,
    )
    return floor


async def hold(connection: Connection, job_id: UUID) -> None:
    """Lock a job's row, if it has one, before anything is appended to the job: who gives leases
    does it in this order too, so that nobody waits in a circle."""
    await connection.execute("SELECT 1 FROM scheduler.queue WHERE job_id = $1 FOR UPDATE", job_id)


async def alone_with(connection: Connection, trainer_id: str) -> None:
    """Until the end of this transaction no other scheduler gives this trainer a lease."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('scheduler:' || $1, 0))", trainer_id
    )


async def record_lease(
    connection: Connection, state: JobState, *, instance_id: UUID, now: datetime, until: datetime
) -> None:
    await connection.execute(
        "UPDATE scheduler.lease SET newest = false WHERE trainer_id = $1 AND newest",
        state.trainer_id,
    )
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
    """Prolong a lease: whether the job is to be cancelled, or None when the lease is gone. A beat
    that was held up shortens none."""
    cancel: bool | None = await connection.fetchval(
        "UPDATE scheduler.lease SET expires_at = greatest(expires_at, $4)"
        " WHERE job_id = $1 AND epoch = $2 AND trainer_id = $3 RETURNING cancel",
        job_id,
        epoch,
        trainer_id,
        until,
    )
    return cancel


async def ask_to_cancel(connection: Connection, job_id: UUID) -> None:
    await connection.execute("UPDATE scheduler.lease SET cancel = true WHERE job_id = $1", job_id)


async def begin_sweep(connection: Connection, now: datetime) -> datetime | None:
    """When any scheduler swept last, before now; others wait until this transaction has ended."""
    swept_at: datetime | None = await connection.fetchval(
        "INSERT INTO scheduler.sweep AS known (swept_at) VALUES ($1) ON CONFLICT (one)"
        " DO UPDATE SET swept_at = greatest(known.swept_at, excluded.swept_at)"
        " RETURNING old.swept_at",
        now,
    )
    return swept_at


async def lapsed_leases(connection: Connection, now: datetime) -> list[Lease]:
    rows = await connection.fetch(
        "SELECT job_id, epoch, trainer_id FROM scheduler.lease WHERE expires_at < $1"
        " ORDER BY expires_at LIMIT 100",
        now,
    )
    return [Lease(**row) for row in rows]


async def has_lapsed(connection: Connection, lease: Lease, now: datetime) -> bool:
    """Whether a lease is over, and is not prolonged before the end of this transaction."""
    await hold(connection, lease.job_id)
    expires_at: datetime | None = await connection.fetchval(
        "SELECT expires_at FROM scheduler.lease WHERE job_id = $1 AND epoch = $2 FOR UPDATE",
        lease.job_id,
        lease.epoch,
    )
    return expires_at is not None and expires_at < now


async def leases_of(connection: Connection, trainer_id: str) -> list[Held]:
    """What a trainer holds, in this process or in one before it."""
    rows = await connection.fetch(
        "SELECT job_id, epoch, trainer_id, instance_id, newest FROM scheduler.lease"
        " WHERE trainer_id = $1",
        trainer_id,
    )
    return [Held(**row) for row in rows]


async def prolong(connection: Connection, lease: Lease, until: datetime) -> None:
    await connection.execute(
        "UPDATE scheduler.lease SET expires_at = $3 WHERE job_id = $1 AND epoch = $2",
        lease.job_id,
        lease.epoch,
        until,
    )


async def prolong_all(connection: Connection, until: datetime) -> None:
    """After an outage nobody could heartbeat: give every lease its full time again."""
    await connection.execute(
        "UPDATE scheduler.lease SET expires_at = $1 WHERE expires_at < $1", until
    )
