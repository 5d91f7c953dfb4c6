"""What is really deleted, and when: leftovers of ended jobs, and results that have expired.

A look at a job finds out from the log and the object store what is due, so it may happen at any
time, again after a crash at any point, and in several replicas at once; the event comes once.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from msgspec import Struct

from libs.contracts.artifact import ArtifactDeleted
from libs.contracts.billing import PaymentExtensionCharged
from libs.contracts.events import decode_artifact_event, decode_payment_event
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, Pool
from libs.eventlog.read import load
from libs.eventlog.record import Append, Context, Head, VersionConflict, records_after
from libs.jobstate.state import JobState, decode_state
from libs.objectstore import ObjectNotFound, ObjectStore
from services.artifact.model import Deletion, artifact_stream, deletions, folder

CLAIM = timedelta(minutes=10)
"""A look that has not ended by then has died with its process: anybody may look again. It is also
how soon a job is looked at again whose files are due and still needed."""

CLAIM_SQL = """
UPDATE artifact.retention SET look_at = $2
WHERE job_id = (
    SELECT job_id FROM artifact.retention
    WHERE look_at <= $1 AND look_at < 'infinity'
    ORDER BY look_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING job_id
"""

PAID_SQL = """
SELECT data FROM log.event
WHERE stream = 'payment:' || $1::text AND type = 'payment.extension_charged.v1'
"""

FORGET_COUNTS_SQL = "UPDATE artifact.retention SET files = 0, size_bytes = 0 WHERE job_id = $1"

WORKED_ON_SQL = """
SELECT EXISTS (
    SELECT FROM log.job
    WHERE account_id = $1 AND status IN ('queued', 'running')
      AND (starts_with(convert_from(state, 'UTF8')::json #>> '{model,source,location}', $2)
           OR starts_with(convert_from(state, 'UTF8')::json #>> '{model,adapter,location}', $2)
           OR starts_with(convert_from(state, 'UTF8')::json #>> '{start_from,key}', $2)))
"""

BEGUN_WITH_SQL = """
SELECT convert_from(state, 'UTF8')::json #>> '{start_from,key}' AS key FROM log.job
WHERE account_id = $1 AND status IN ('queued', 'running')
"""

logger = structlog.get_logger()


class Keeper(Struct, frozen=True, kw_only=True):
    """What deleting needs; ``now`` is UTC, ``committed`` is called after an append."""

    pool: Pool
    store: ObjectStore
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    committed: Callable[[], None]


class Kept(Struct, frozen=True, kw_only=True):
    """A job, what was deleted of it before, and the head of the stream that says so."""

    job: JobState
    head: Head
    deleted: frozenset[str]
    paid_days: int


async def delete_due(keeper: Keeper) -> int:
    """Look at every job whose time has come; how many there were."""
    looked = 0
    while (job_id := await _claim(keeper)) is not None:
        await _look(keeper, job_id)
        looked += 1
    return looked


async def _claim(keeper: Keeper) -> UUID | None:
    now = keeper.now()
    found: UUID | None = await keeper.pool.fetchval(CLAIM_SQL, now, now + CLAIM)
    return found


async def _look(keeper: Keeper, job_id: UUID) -> None:
    """Delete what is due of one job, and note when to look again."""
    async with keeper.pool.acquire() as connection:
        kept = await _load(connection, job_id)
    for deletion in deletions(kept.job, paid_days=kept.paid_days):
        if deletion.reason in kept.deleted:
            continue
        if keeper.now() < deletion.at:
            await _look_again(keeper, job_id, deletion.at)
            return
        if deletion.reason == "expired" and await _worked_on(keeper, kept.job):
            return
        try:
            await _delete(keeper, kept, deletion)
        except VersionConflict:
            await keeper.pool.execute(FORGET_COUNTS_SQL, job_id)
            logger.info("another replica has deleted the files", job_id=str(job_id))
            return
        async with keeper.pool.acquire() as connection:
            kept = await _load(connection, job_id)
    await _look_again(keeper, job_id, None)


async def _load(connection: Connection, job_id: UUID) -> Kept:
    job = decode_state(await connection.fetchval("SELECT state FROM log.job WHERE id = $1", job_id))
    head, events = await load(connection, artifact_stream(job_id), decode_artifact_event)
    paid = [
        decode_payment_event(row["data"]) for row in await connection.fetch(PAID_SQL, str(job_id))
    ]
    return Kept(
        job=job,
        head=head,
        deleted=frozenset(e.event.reason for e in events if isinstance(e.event, ArtifactDeleted)),
        paid_days=sum(
            event.days
            for event in paid
            if isinstance(event, PaymentExtensionCharged)
            and event.extension_id not in job.extensions
        ),
    )


async def _look_again(keeper: Keeper, job_id: UUID, at: datetime | None) -> None:
    """``at`` None: never, everything is gone."""
    await keeper.pool.execute(
        "UPDATE artifact.retention SET look_at = coalesce($2, 'infinity'::timestamptz)"
        " WHERE job_id = $1",
        job_id,
        at,
    )


async def _worked_on(keeper: Keeper, job: JobState) -> bool:
    """Whether a job that has not ended has this one's model as its base, or begins with one of its
    checkpoints."""
    found: bool = await keeper.pool.fetchval(WORKED_ON_SQL, job.account_id, folder(job.id))
    return found


async def begun_with(pool: Pool, account_id: UUID) -> frozenset[str]:
    """The keys of the checkpoints that the account's unfinished jobs begin with."""
    rows = await pool.fetch(BEGUN_WITH_SQL, account_id)
    return frozenset(row["key"] for row in rows if row["key"] is not None)


async def _delete(keeper: Keeper, kept: Kept, deletion: Deletion) -> None:
    """Raises VersionConflict when another replica was first."""
    job = kept.job
    needed = await begun_with(keeper.pool, job.account_id)
    doomed = await _doomed(keeper.store, job.id, deletion, needed)
    found = await keeper.pool.fetchrow(
        "UPDATE artifact.retention"
        " SET files = greatest(files, $2), size_bytes = greatest(size_bytes, $3)"
        " WHERE job_id = $1 RETURNING files, size_bytes",
        job.id,
        len(doomed),
        sum(doomed.values()),
    )
    assert found is not None
    for key in doomed:
        await keeper.store.delete(key)
    if not found["files"]:
        return
    event = ArtifactDeleted(
        reason=deletion.reason, files=found["files"], size_bytes=found["size_bytes"]
    )
    context = Context(now=keeper.now(), new_id=keeper.new_id, traceparent=job.traceparent)
    records = records_after(kept.head, [event], context, job_id=job.id, account_id=job.account_id)
    async with keeper.pool.acquire() as connection, connection.transaction():
        await append_in(connection, Append(records=records))
        await connection.execute(FORGET_COUNTS_SQL, job.id)
    keeper.committed()
    logger.info("files deleted", job_id=str(job.id), reason=event.reason, files=event.files)


async def _doomed(
    store: ObjectStore, job_id: UUID, deletion: Deletion, needed: frozenset[str]
) -> dict[str, int]:
    """Sizes by key, of what is there."""
    kept = deletion.keep | needed
    doomed = {
        found.key: found.size_bytes
        async for found in store.objects(folder(job_id))
        if found.key not in kept
    }
    if deletion.dataset_key is not None:
        with suppress(ObjectNotFound):
            doomed[deletion.dataset_key] = await store.size(deletion.dataset_key)
    return doomed
