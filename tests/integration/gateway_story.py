"""What the other services would append to a job that the gateway accepted."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from libs.contracts.base import ArtifactFile, Event
from libs.contracts.events import decode_job_event
from libs.contracts.scheduler import Checkpoint, JobCompleted, JobLeased, JobStarted, JobTrained
from libs.eventlog.read import load
from libs.eventlog.record import Append, Context, records_after
from libs.jobstate.state import job_stream, row_of, state_of
from tests.integration.gateway_app import Gateway
from tests.support.jobs import finished_result

ARCHIVE_KEY = "jobs/secret-place/artifacts.tar.gz"


def file(name: str, role: str, key: str) -> ArtifactFile:
    return ArtifactFile(name=name, role=role, key=key, size_bytes=10, sha256="0" * 64)


ARCHIVE = file("artifacts.tar.gz", "archive", ARCHIVE_KEY)


def checkpoint_of(job_id: str, step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        key=f"jobs/{job_id}/1/checkpoint-{step}.tar",
        sha256=f"{step:064d}",
        size_bytes=1_000 + step,
        tokens_processed=100 * step,
    )


async def happened(
    gateway: Gateway, job_id: str, *events: Event, account_id: UUID | None = None
) -> None:
    """Append events to the job of the gateway's account, or of another."""
    job, owner, now = UUID(job_id), account_id or gateway.account_id, datetime.now(UTC)
    head, _ = await load(gateway.admin, job_stream(job), decode_job_event)
    context = Context(now=now, new_id=uuid4)
    records = records_after(head, events, context, job_id=job, account_id=owner)
    await gateway.parts.log.append(Append(records=records))
    _, stored = await load(gateway.admin, job_stream(job), decode_job_event)
    row = row_of(state_of(list(stored), job_id=job, account_id=owner))
    await gateway.admin.execute(
        "UPDATE log.job SET status = $2, version = $3, state = $4 WHERE id = $1",
        row.id,
        row.status,
        row.version,
        row.state,
    )


def completing(*files: ArtifactFile, kept_for: timedelta = timedelta(days=7)) -> tuple[Event, ...]:
    """Everything from the lease to the completion; its files are the archive and ``files``."""
    return (
        JobLeased(epoch=1, trainer_id="trainer-0"),
        JobStarted(
            epoch=1, trainer_id="trainer-0", device="cpu", steps_total=10, resumed_from_step=0
        ),
        JobTrained(epoch=1, result=finished_result(), files=(ARCHIVE, *files)),
        JobCompleted(tokens_processed=102_400, artifacts_expires_at=datetime.now(UTC) + kept_for),
    )
