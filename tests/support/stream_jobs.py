"""Jobs whose streams are read: put into the log, measured, and ended, as the services would."""

from datetime import timedelta
from uuid import UUID, uuid4

from msgspec.structs import replace

from libs.contracts.base import Event
from libs.contracts.events import decode_job_event
from libs.contracts.scheduler import JobCompleted, JobLeased, JobStarted
from libs.contracts.training import LogBatch, LogLine, MetricBatch, MetricPoint
from libs.eventlog.append import append_in
from libs.eventlog.connection import Pool
from libs.eventlog.read import load
from libs.jobstate.state import job_stream, row_of, state_of
from tests.support.jobs import NOON, first_append, next_append, submission

STARTED: tuple[Event, ...] = (
    JobLeased(epoch=1, trainer_id="trainer-0"),
    JobStarted(epoch=1, trainer_id="trainer-0", device="cpu", steps_total=9, resumed_from_step=0),
)
COMPLETED = JobCompleted(tokens_processed=102_400, artifacts_expires_at=NOON + timedelta(days=7))


async def submitted_job(admin: Pool, account_id: UUID) -> UUID:
    job_id = uuid4()
    append, _ = first_append(job_id, account_id, submission(surface="jobs"))
    async with admin.acquire() as connection:
        await append_in(connection, append)
    return job_id


async def happened(admin: Pool, account_id: UUID, job_id: UUID, *events: Event) -> None:
    """Append these to the job, one transaction each."""
    async with admin.acquire() as connection:
        for event in events:
            head, stored = await load(connection, job_stream(job_id), decode_job_event)
            state = state_of(list(stored), job_id=job_id, account_id=account_id)
            append = next_append(head, state, event)
            await append_in(connection, append)
            _, stored = await load(connection, job_stream(job_id), decode_job_event)
            row = row_of(state_of(list(stored), job_id=job_id, account_id=account_id))
            await connection.execute(
                "UPDATE log.job SET status = $2, version = $3, state = $4 WHERE id = $1",
                *(row.id, row.status, row.version, row.state),
            )


def points(job_id: UUID, *steps: int, epoch: int = 1, **changes: object) -> MetricBatch:
    whole = MetricPoint(
        ts=NOON,
        step=0,
        cycle=1,
        phase="train",
        loss=2.5,
        lr=1e-4,
        throughput=3_000.0,
        vram_gb=0.0,
        grad_norm=1.25,
    )
    made = tuple(
        replace(whole, step=step, ts=NOON + timedelta(seconds=step), **changes) for step in steps
    )
    return MetricBatch(job_id=job_id, epoch=epoch, points=made)


def lines(job_id: UUID, *numbers: int, text: str = "line") -> LogBatch:
    made = tuple(LogLine(seq=n, ts=NOON, stream="stdout", text=f"{text} {n}") for n in numbers)
    return LogBatch(job_id=job_id, epoch=1, lines=made)
